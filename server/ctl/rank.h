/*
 * How alike two rankings of the same items are. Pure.
 */
#ifndef SERVER_CTL_RANK_H
#define SERVER_CTL_RANK_H

#include <stdbool.h>
#include <stddef.h>

/* Spearman's rho (ties share their mean rank) and Kendall's tau-b of a[n] and b[n], which are no
 * NaN. NaN where one of them ranks nothing (n < 2, all equal). False out of memory. O(n log n). */
bool rank_spearman(const double *a, const double *b, size_t n, double *out);
bool rank_kendall(const double *a, const double *b, size_t n, double *out);

#endif
