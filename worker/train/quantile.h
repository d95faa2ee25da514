/*
 * Quantile buckets of a numeric column: cut points such that about equally many of the values they
 * were made of fall between two of them. Equal values are never parted, so there may be fewer
 * buckets than asked for.
 */
#ifndef TRAIN_QUANTILE_H
#define TRAIN_QUANTILE_H

#include <stddef.h>

/* Sorts values[n] (no NaN) in place and writes at most buckets - 1 ascending, distinct cuts;
 * returns how many. */
size_t quantile_cuts(double *values, size_t n, size_t buckets, double *cuts);

/* How many cuts are <= x: 0 .. n. */
size_t quantile_bucket(const double *cuts, size_t n, double x);

#endif
