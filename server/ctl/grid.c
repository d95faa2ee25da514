#include "server/ctl/grid.h"

#include "proto/base.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct grid {
    size_t n_columns, n_cells, cap;
    char **cells;
    bool failed;
    char columns[];
};

struct grid *grid_new(const char *columns) {
    const size_t n = strlen(columns);
    struct grid *const grid = calloc(1, sizeof *grid + n + 1);
    if (grid == NULL)
        return NULL;
    grid->n_columns = n;
    memcpy(grid->columns, columns, n + 1);
    return grid;
}

void grid_destroy(struct grid **grid) {
    if (*grid == NULL)
        return;
    for (size_t i = 0; i < (*grid)->n_cells; i++)
        free((*grid)->cells[i]);
    free((*grid)->cells);
    free(*grid);
    *grid = NULL;
}

static bool is_control(const char *p) {
    return (unsigned char)*p < 0x20 || *p == 0x7f;
}

void grid_cell(struct grid *grid, const char *text) {
    if (grid == NULL || grid->failed)
        return;
    if (grid->n_cells == grid->cap) {
        const size_t cap = grid->cap == 0 ? 64 : 2 * grid->cap;
        char **const cells = realloc(grid->cells, cap * sizeof *cells);
        grid->failed = cells == NULL;
        if (cells == NULL)
            return;
        grid->cells = cells;
        grid->cap = cap;
    }
    char *const copy = strdup(text);
    grid->failed = copy == NULL;
    if (copy == NULL)
        return;
    for (char *p = copy; *p != '\0'; p++) {
        if (is_control(p))
            *p = '?';
    }
    grid->cells[grid->n_cells++] = copy;
}

/* Characters, not bytes: continuation bytes take no place. */
static size_t width(const char *text) {
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void pad(size_t n, FILE *out) {
    while (n-- > 0)
        fputc(' ', out);
}

static void print_row(const struct grid *grid, char *const *cells, const size_t *widths,
                      FILE *out) {
    for (size_t c = 0; c < grid->n_columns; c++) {
        const size_t blank = widths[c] - width(cells[c]);
        const bool right = grid->columns[c] == 'r', last = c + 1 == grid->n_columns;
        pad((c > 0 ? 2 : 0) + (right ? blank : 0), out);
        fputs(cells[c], out);
        if (!right && !last)
            pad(blank, out);
    }
    fputc('\n', out);
}

int grid_print(const struct grid *grid, FILE *out) {
    if (grid == NULL || grid->failed)
        return -1;
    base_assert(grid->n_cells % grid->n_columns == 0);
    size_t *const widths = calloc(grid->n_columns, sizeof *widths);
    if (widths == NULL)
        return -1;
    for (size_t i = 0; i < grid->n_cells; i++) {
        size_t *const w = &widths[i % grid->n_columns];
        const size_t this = width(grid->cells[i]);
        *w = this > *w ? this : *w;
    }
    for (size_t i = 0; i < grid->n_cells; i += grid->n_columns)
        print_row(grid, grid->cells + i, widths, out);
    free(widths);
    return 0;
}

void print_clean(const char *text, FILE *out) {
    for (; *text != '\0'; text++)
        fputc(is_control(text) ? '?' : *text, out);
}
