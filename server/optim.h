/*
 * The row kernels: optimizer step and score sums of some rows.
 *
 * optim_reference.c is the specification, plain loops in the order of the sums. The variants of
 * optim_rows.c, one an instruction set, give the same bits as it does: optimizer steps are float32
 * without contraction, sums over rows are float64, and a product of a score, exact in float64, is
 * added in the order of the rows. The machine's best variant is the one in use.
 *
 * Rows stand anywhere, n floats each, any n >= 0; a row may come more than once and is worked on in
 * order. What is not finite in rows or gradients goes through the arithmetic as IEEE 754 has it;
 * gradients are checked before they come here. Pure; any thread.
 */
#ifndef SERVER_OPTIM_H
#define SERVER_OPTIM_H

#include "proto/layout.h"

enum {
    OPTIM_ROWS = 16,   /* of one call, at most */
    OPTIM_STRIDE = 16, /* of struct optim_moments */
};

struct optim_rows {
    float *const *values; /* [rows] */
    float *const *states; /* [rows], optimizer_state_width() floats, zero for a new row */
    const void *grads;    /* [rows][n] floats, unaligned */
    size_t rows, n;
};

/* Where their scores go, [n] each: g[k] += scale * sum of r[k] * grad[k], row[k] += scale * sum of
 * |r[k] * grad[k]|. scale >= 0. */
struct optim_sums {
    double scale;
    double *g, *row;
};

/* Rows and gradients as float64, for C[n][n] += scale * sum of r^T grad, b[n] += scale * sum of
 * grad. Both are stored `stride` apart, a multiple of OPTIM_STRIDE, and are 0 from n on. */
struct optim_moments {
    const double *values, *grads; /* [rows][stride] */
    size_t rows, n, stride;
    double scale;
    double *C, *b;
};

struct optim_kernels {
    const char *name;
    /* Apply one gradient to each row, with sums (or NULL) of the values before its step.
     *   sgd              r -= lr g
     *   adagrad          s += g^2; r -= lr g / (sqrt(s) + eps)          (Duchi et al. 2011)
     *   rowwise_adagrad  s += sum g^2; r -= lr g / (sqrt(s) + eps)      (one sum, not mean, a row)
     *   adam             state: t, m[w], v[w]; bias-corrected           (Kingma & Ba 2015)
     *   ftrl             state: z[w], n[w]; FTRL-proximal, alpha = lr   (McMahan et al. 2013)
     *       while n = 0: z = -r (beta / lr + l2) - sign(r) l1, of which r is the solution, so
     *       that a row starts from its initial value;
     *       z += g - r (sqrt(n + g^2) - sqrt(n)) / lr; n += g^2; then, where n > 0,
     *       r = |z| <= l1 ? 0 : (sign(z) l1 - z) / ((beta + sqrt(n)) / lr + l2) */
    void (*train)(const struct optimizer *optimizer, const struct optim_rows *rows,
                  const struct optim_sums *sums);
    /* The sums alone; states are not looked at. */
    void (*score)(const struct optim_rows *rows, const struct optim_sums *sums);
    /* n floats, unaligned, as the float64 that moments take. */
    void (*widen)(const void *floats, size_t n, double *out);
    void (*moments)(const struct optim_moments *moments);
};

/* The machine's best, and all that it runs, the reference first. */
const struct optim_kernels *optim_kernels(void);
const struct optim_kernels *const *optim_variants(size_t *n);

#endif
