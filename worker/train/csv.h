/*
 * Comma-separated values with a header line.
 *
 * One column is the label; every other one is a slot, numbered from 1 in the header's order. Fields
 * may stand in double quotes, a quote inside doubled; a quoted field ends on its line. A column is
 * numeric where all its non-empty values are numbers and at least one is not an integer,
 * categorical otherwise, unless told. A value's feasign hashes its text; a numeric one's hashes the
 * number of its quantile bucket, which csv_bucket() fills in once all rows are read. An empty cell
 * is a feasign of its own.
 */
#ifndef TRAIN_CSV_H
#define TRAIN_CSV_H

#include "worker/train/sample.h"

struct csv_spec {
    const char *label;                               /* NULL: "label" */
    const char *const *numeric, *const *categorical; /* column names */
    size_t n_numeric, n_categorical;
};

struct csv;

struct csv *csv_new(const struct csv_spec *spec); /* borrows spec's strings for its life */
void csv_destroy(struct csv **csv);

/* The header of a file: the first one sets the columns, later ones must be the same. DATA or
 * INVALID (an option names no column) with the reason. */
dimfit_err csv_header(struct csv *csv, char *line, size_t len, struct err_detail *why) MUST_CHECK;

/* One line; the sample has one item a column, slots ascending. */
dimfit_err csv_line(struct csv *csv, char *line, size_t len, struct sample *out,
                    struct err_detail *why) MUST_CHECK;

size_t csv_columns(const struct csv *csv); /* feature columns, slots 1 .. n */
const char *csv_column_name(const struct csv *csv, size_t column);

/* Give numeric columns their feasigns: keys[rows][columns] are those of the lines read without
 * error, in order; cuts come from rows with train[row] set. Returns the number of numeric columns.
 */
size_t csv_bucket(struct csv *csv, size_t buckets, const uint8_t *train, uint64_t *keys);

#endif
