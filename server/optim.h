/*
 * The row kernels: optimizer step and score sums of some rows.
 *
 * These loops are the specification of the arithmetic; a faster variant must agree with them to
 * rounding. Rows stand anywhere, their gradients one after another, n floats each, any n >= 0;
 * pointers may be unaligned for grads only. A row may come more than once; it is worked on in
 * order. Products of a score are exact in float64, and so are the sums but for 2^-53 an addition.
 */
#ifndef SERVER_OPTIM_H
#define SERVER_OPTIM_H

#include "proto/layout.h"

/* Apply one gradient to each row. states[i] has optimizer_state_width() floats, zero for a new row.
 *   sgd              r -= lr g
 *   adagrad          s += g^2; r -= lr g / (sqrt(s) + eps)              (Duchi et al. 2011)
 *   rowwise_adagrad  s += sum g^2; r -= lr g / (sqrt(s) + eps)          (one sum, not mean, a row)
 *   adam             state: t, m[w], v[w]; bias-corrected               (Kingma & Ba 2015) */
void optim_step(const struct optimizer *optimizer, float *const *values, float *const *states,
                const float *grads, size_t rows, size_t n);

/* g[k] += scale * sum of r[k] * grad[k]; row[k] += scale * sum of |r[k] * grad[k]|. scale >= 0. */
void optim_score(float *const *values, const float *grads, size_t rows, size_t n, double scale,
                 double *g, double *row);

#endif
