/*
 * The row kernels: optimizer step and score sums of one row, in one pass.
 *
 * These loops are the specification of the arithmetic; a faster variant must agree with them to
 * rounding. Lengths are any n >= 0; pointers may be unaligned for grads only. Score sums take the
 * values before the step, in float64: |error| <= 2^-52 a product relative to its size.
 */
#ifndef SERVER_OPTIM_H
#define SERVER_OPTIM_H

#include "proto/layout.h"

/* Apply one gradient to one row. state has optimizer_state_width() floats, zero for a new row.
 *   sgd              r -= lr g
 *   adagrad          s += g^2; r -= lr g / (sqrt(s) + eps)              (Duchi et al. 2011)
 *   rowwise_adagrad  s += sum g^2; r -= lr g / (sqrt(s) + eps)          (one sum, not mean, a row)
 *   adam             state: t, m[w], v[w]; bias-corrected               (Kingma & Ba 2015) */
void optim_step(const struct optimizer *optimizer, float *values, float *state, const float *grads,
                size_t n);

/* g[k] += scale * r[k] * grad[k]; row[k] += |scale * r[k] * grad[k]| */
void optim_score(const float *values, const float *grads, size_t n, double scale, double *g,
                 double *row);

#endif
