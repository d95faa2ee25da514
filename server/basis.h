/*
 * A fitted basis: the directions of a slot's rows, and what they are worth (design 2.4).
 *
 * A basis of width w has w units. Unit k reads a row as x = (r - mean) e_k and gives it back as
 * x d_k, with e_k and d_k the columns of `encode` E and `decode` D^T, D E = I: all units together
 * are the row, and any choice of units is the projection P = E_S D_S. `rotated` has E = D^T, an
 * orthogonal matrix. Rows are never stored as r E, whose scale would wreck the optimizer:
 * basis_change() says how they are.
 *
 * Pure functions over float64 matrices, row-major; LAPACK does the decompositions.
 */
#ifndef SERVER_BASIS_H
#define SERVER_BASIS_H

#include "server/stats.h"

struct basis_fit {
    size_t width;
    double *mean;            /* [w] count-weighted mean row */
    double *eigenvalue;      /* [w] descending */
    double *encode, *decode; /* [w][w] units as columns; the same array when orthogonal */
};

/* No directions: mean 0, eigenvalues 0, the identity. NOMEM. */
dimfit_err basis_init(struct basis_fit *basis, size_t width) MUST_CHECK;
void basis_fini(struct basis_fit *basis);

/* mean[w] and A[w][w] = E over lookups of (r - mean)^T (r - mean); *any: rows vary at all, beyond
 * the rounding of the sums. Rows that were never looked up weigh the same. The statistics have
 * their moments. NOT_FINITE, naming the slot, when they are not finite numbers. */
dimfit_err basis_moments(const struct slot_stats *stats, double *mean, double *A, bool *any,
                         struct err_detail *detail) MUST_CHECK;

/* The `rotated` basis: the eigenvectors of A = E over lookups of (r - mean)^T (r - mean), by
 * descending eigenvalue; each column's largest component is positive (the first of equals), so that
 * equal statistics give an equal basis. Rows that were never looked up weigh the same. Where there
 * are no directions to find (fewer than two rows, or all of them equal) it is the identity. The
 * statistics have their moments. NOT_FINITE, naming the slot, when they are not finite numbers;
 * NOMEM. `basis` was just made, of the statistics' width. */
dimfit_err basis_rotated(const struct slot_stats *stats, struct basis_fit *basis,
                         struct err_detail *detail) MUST_CHECK;

/* The `kfac` basis: with H = E over lookups of g^T g, g = dL/dr of one sample, and 1e-3 of its
 * largest eigenvalue added to its diagonal, and Q the eigenvectors of H^1/2 A H^1/2, E = H^1/2 Q
 * and D = Q^T H^-1/2. tr(H (I - P)^T A (I - P)), twice the second-order loss a lookup, is the sum
 * of the dropped units' eigenvalues, and no other projection of the rank has less than the leading
 * units. Where H is zero or no lookup told of it, the directions are those of `rotated`, worth
 * nothing: all eigenvalues 0. Errors as above. */
dimfit_err basis_kfac(const struct slot_stats *stats, struct basis_fit *basis,
                      struct err_detail *detail) MUST_CHECK;

/* Keeping every unit leaves the rows as they are. */
bool basis_is_identity(const struct basis_fit *basis);

/* How rows go on when the n units marked in keep[w] stay: r' = (r - mean) T and gradients by N, T
 * and N [w][n], N orthonormal, T N^T = E_S D_S. From the QR decomposition D_S^T = N R, diagonal of
 * R positive, T = E_S R^T; with all units T = N. NOMEM. */
dimfit_err basis_change(const struct basis_fit *basis, const uint8_t *keep, size_t n, double *T,
                        double *N, struct err_detail *detail) MUST_CHECK;

/* Out of r^T dL/dr and dL/dr summed over a step: the score of every unit of the basis, g[k] =
 * dL/dalpha_k = (D (C - mean^T b)^T E)_kk, and 0 where that is rounding. */
void basis_score(const struct step_slot *step, const struct basis_fit *basis, double *g);

/* What of each unit's eigenvalue is of some rows, part of those that the basis was fitted to: their
 * part of the mean over all lookups (rows where there are none) of ((r - mean) e_k)^2. */
void basis_share(const struct slot_stats *part, const struct slot_stats *whole,
                 const struct basis_fit *basis, double *share);

/* l2 norm over the slot's rows of what every unit gives back: norm[k] = sqrt of the sum of ((r -
 * mean) e_k)^2, times |d_k|. */
void basis_norm(const struct slot_stats *stats, const struct basis_fit *basis, double *norm);

#endif
