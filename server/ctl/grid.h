/*
 * A table of text for a terminal: columns as wide as their widest cell, numbers to the right, two
 * blanks between. Cells are collected row by row and printed at the end; control characters in them
 * are replaced, since names come from users. Width counts UTF-8 characters, not bytes.
 */
#ifndef SERVER_CTL_GRID_H
#define SERVER_CTL_GRID_H

#include <stddef.h>
#include <stdio.h>

struct grid;

/* One letter a column: 'l' left, 'r' right. Then a heading a column follows, as cells. An
 * allocation failure is remembered and reported by grid_print(). NULL out of memory; every verb
 * takes that. */
struct grid *grid_new(const char *columns);
void grid_destroy(struct grid **grid);

void grid_cell(struct grid *grid, const char *text); /* copied */

/* Print all rows, the last of which must be full. -1 when memory had run out, nothing printed. */
int grid_print(const struct grid *grid, FILE *out);

/* One cell's text with control characters replaced, for lines that are no table. */
void print_clean(const char *text, FILE *out);

#endif
