#include "server/optim.h"

#include <math.h>

/* The build's -O2 does not vectorise loops of unknown length; here is nothing else. */
#pragma GCC optimize("O3")

/* One clone an instruction set, chosen when the program starts. Not under the sanitizers: a
 * resolver runs before their runtime is there. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__) &&             \
    !defined(__SANITIZE_THREAD__)
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KERNEL
#endif

#define INLINE static inline __attribute__((always_inline))

/* Gradients stand where the wire put them. */
typedef float wire_float __attribute__((aligned(1)));

/* Sums of squares run in 16 partial sums, folded in halves: the same order whatever the instruction
 * set. */
typedef float lanes16 __attribute__((vector_size(64)));
typedef float lanes8 __attribute__((vector_size(32)));
typedef float lanes4 __attribute__((vector_size(16)));

enum {
    LANES = 16,
};

INLINE float sum_squares(const wire_float *g, size_t n) {
    lanes16 sum = {0}, part;
    for (; n >= LANES; n -= LANES, g += LANES) {
        memcpy(&part, g, sizeof part);
        sum += part * part;
    }
    if (n > 0) {
        part = (lanes16){0};
        memcpy(&part, g, n * sizeof *g);
        sum += part * part;
    }
    const lanes8 eight = __builtin_shufflevector(sum, sum, 0, 1, 2, 3, 4, 5, 6, 7) +
                         __builtin_shufflevector(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15);
    const lanes4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                        __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* x / d, and 0 for a first gradient of 0 where eps is 0 as well. */
INLINE float over(float x, float d) {
    return d > 0 ? x / d : 0;
}

KERNEL static void sgd(const struct optimizer *o, float *restrict r, const wire_float *restrict g,
                       size_t n) {
    const float lr = o->lr;
    for (size_t k = 0; k < n; k++)
        r[k] -= lr * g[k];
}

KERNEL static void adagrad(const struct optimizer *o, float *restrict r, float *restrict s,
                           const wire_float *restrict g, size_t n) {
    const float lr = o->lr, eps = o->eps;
    for (size_t k = 0; k < n; k++) {
        s[k] += g[k] * g[k];
        r[k] -= over(lr * g[k], sqrtf(s[k]) + eps);
    }
}

KERNEL static void rowwise_adagrad(const struct optimizer *o, float *restrict r, float *s,
                                   const wire_float *restrict g, size_t n) {
    *s += sum_squares(g, n);
    const float rate = over(o->lr, sqrtf(*s) + o->eps);
    for (size_t k = 0; k < n; k++)
        r[k] -= rate * g[k];
}

KERNEL static void adam(const struct optimizer *o, float *restrict r, float *t, float *restrict m,
                        float *restrict v, const wire_float *restrict g, size_t n) {
    const float b1 = o->beta1, b2 = o->beta2, lr = o->lr, eps = o->eps;
    *t += 1;
    const float unbias_m = (float)(1 / (1 - pow(b1, *t)));
    const float unbias_v = (float)(1 / (1 - pow(b2, *t)));
    for (size_t k = 0; k < n; k++) {
        m[k] = b1 * m[k] + (1 - b1) * g[k];
        v[k] = b2 * v[k] + (1 - b2) * g[k] * g[k];
        r[k] -= over(lr * (m[k] * unbias_m), sqrtf(v[k] * unbias_v) + eps);
    }
}

void optim_step(const struct optimizer *optimizer, float *values, float *state, const float *grads,
                size_t n) {
    const wire_float *const g = (const wire_float *)grads;
    switch (optimizer->kind) {
    case OPTIMIZER_SGD:
        sgd(optimizer, values, g, n);
        break;
    case OPTIMIZER_ADAGRAD:
        adagrad(optimizer, values, state, g, n);
        break;
    case OPTIMIZER_ROWWISE_ADAGRAD:
        rowwise_adagrad(optimizer, values, state, g, n);
        break;
    case OPTIMIZER_ADAM:
        adam(optimizer, values, state, state + 1, state + 1 + n, g, n);
        break;
    }
}

KERNEL static void score(const float *restrict r, const wire_float *restrict grad, size_t n,
                         double scale, double *restrict g, double *restrict row) {
    for (size_t k = 0; k < n; k++) {
        const double part = scale * ((double)r[k] * (double)grad[k]);
        g[k] += part;
        row[k] += fabs(part);
    }
}

void optim_score(const float *values, const float *grads, size_t n, double scale, double *g,
                 double *row) {
    score(values, (const wire_float *)grads, n, scale, g, row);
}
