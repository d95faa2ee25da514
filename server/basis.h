/*
 * A fitted basis: the directions of a slot's rows, by how much their lookups use them (design 2.4).
 *
 * Pure functions over float64 matrices; LAPACK does the decomposition. Matrices are row-major; N
 * has the units as columns.
 */
#ifndef SERVER_BASIS_H
#define SERVER_BASIS_H

#include "server/stats.h"

/* The `rotated` basis of one slot of width w: mean[w] is the count-weighted mean row, N[w][w] has
 * the eigenvectors of A = E over lookups of (r - mean)^T (r - mean) as columns, by descending
 * eigenvalue[w]; each column's largest component is positive (the first of equals), so that equal
 * statistics give an equal basis. Rows that were never looked up weigh the same. Where there are no
 * directions to find (fewer than two rows, or all of them equal) N is the identity. The statistics
 * have their moments. NOT_FINITE, naming the slot, when they are not finite numbers; NOMEM. */
dimfit_err basis_rotated(const struct slot_stats *stats, double *mean, double *N,
                         double *eigenvalue, struct err_detail *detail) MUST_CHECK;

/* N = I. */
void basis_identity(double *N, size_t w);

/* Out of r^T dL/dr and dL/dr summed over a step: the score of every unit of the basis, g[k] =
 * (N^T (C - mean^T b)^T N)_kk, and 0 where that is rounding. */
void basis_score(const struct step_slot *step, const double *mean, const double *N, double *g);

/* l2 norm over the slot's rows of every unit: norm[k] = sqrt of the sum of ((r - mean) N)_k^2. */
void basis_norm(const struct slot_stats *stats, const double *mean, const double *N, double *norm);

#endif
