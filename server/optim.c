#include "server/optim.h"

#include "proto/kernel.h"

#include <math.h>

#pragma GCC optimize("O3") /* see kernel.h */

#define INLINE static inline __attribute__((always_inline))

/* Gradients stand where the wire put them. */
typedef float wire_float __attribute__((aligned(1)));

/* Sums of squares run in 16 partial sums, folded in halves: the same order whatever the instruction
 * set. */
typedef float lanes16 __attribute__((vector_size(64)));
typedef float lanes8 __attribute__((vector_size(32)));
typedef float lanes4 __attribute__((vector_size(16)));

typedef double doubles4 __attribute__((vector_size(32)));
typedef int64_t bits4 __attribute__((vector_size(32)));

enum {
    LANES = 16,
    FOURS = LANES / 4,
};

/* The arguments of optim_score(). */
struct scoring {
    float *const *values;
    const wire_float *grads;
    size_t rows, width;
    double scale, *g, *row;
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

INLINE void sgd(const struct optimizer *o, float *restrict r, float *s,
                const wire_float *restrict g, size_t n) {
    const float lr = o->lr;
    for (size_t k = 0; k < n; k++)
        r[k] -= lr * g[k];
}

INLINE void adagrad(const struct optimizer *o, float *restrict r, float *restrict s,
                    const wire_float *restrict g, size_t n) {
    const float lr = o->lr, eps = o->eps;
    for (size_t k = 0; k < n; k++) {
        s[k] += g[k] * g[k];
        r[k] -= over(lr * g[k], sqrtf(s[k]) + eps);
    }
}

INLINE void rowwise_adagrad(const struct optimizer *o, float *restrict r, float *s,
                            const wire_float *restrict g, size_t n) {
    *s += sum_squares(g, n);
    const float rate = over(o->lr, sqrtf(*s) + o->eps);
    for (size_t k = 0; k < n; k++)
        r[k] -= rate * g[k];
}

INLINE void adam(const struct optimizer *o, float *restrict r, float *restrict s,
                 const wire_float *restrict g, size_t n) {
    float *const t = s, *const m = s + 1, *const v = m + n;
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

/* The loop over rows stands inside the clones: choosing one costs as much as a row. */
#define STEP_ROWS(step)                                                                            \
    KERNEL static void step##_rows(const struct optimizer *o, float *const *values,                \
                                   float *const *states, const wire_float *grads, size_t rows,     \
                                   size_t n) {                                                     \
        for (size_t i = 0; i < rows; i++)                                                          \
            step(o, values[i], states[i], grads + i * n, n);                                       \
    }

STEP_ROWS(sgd)
STEP_ROWS(adagrad)
STEP_ROWS(rowwise_adagrad)
STEP_ROWS(adam)

void optim_step(const struct optimizer *optimizer, float *const *values, float *const *states,
                const float *grads, size_t rows, size_t n) {
    const wire_float *const g = (const wire_float *)grads;
    switch (optimizer->kind) {
    case OPTIMIZER_SGD:
        sgd_rows(optimizer, values, states, g, rows, n);
        break;
    case OPTIMIZER_ADAGRAD:
        adagrad_rows(optimizer, values, states, g, rows, n);
        break;
    case OPTIMIZER_ROWWISE_ADAGRAD:
        rowwise_adagrad_rows(optimizer, values, states, g, rows, n);
        break;
    case OPTIMIZER_ADAM:
        adam_rows(optimizer, values, states, g, rows, n);
        break;
    }
}

/* Converted number by number, which compiles to one instruction; GCC 12 makes seven of
 * __builtin_convertvector(). */
INLINE void load4(const void *floats, size_t n, doubles4 *out) {
    lanes4 x = {0};
    memcpy(&x, floats, n * sizeof(float));
    *out = (doubles4){x[0], x[1], x[2], x[3]};
}

INLINE void add4(double *to, const doubles4 *sums, double scale, size_t n) {
    doubles4 x = {0};
    memcpy(&x, to, n * sizeof *to);
    x += scale * *sums;
    memcpy(to, &x, n * sizeof *to);
}

/* `fours` times n <= 4 columns of all rows, both constants. Their sums stay in registers: adding to
 * memory row by row, each addition would wait for the one before to be stored. */
INLINE void score_columns(const struct scoring *s, size_t at, size_t fours, size_t n) {
    const bits4 all_but_sign = (bits4){0} + INT64_MAX;
    const wire_float *grads = s->grads + at;
    doubles4 g[FOURS] = {{0}}, row[FOURS] = {{0}}, r = {0}, dr = {0};
    for (size_t i = 0; i < s->rows; i++, grads += s->width) {
        for (size_t k = 0; k < fours; k++) {
            load4(s->values[i] + at + 4 * k, n, &r);
            load4(grads + 4 * k, n, &dr);
            const doubles4 part = r * dr;
            g[k] += part;
            row[k] += (doubles4)((bits4)part & all_but_sign);
        }
    }
    for (size_t k = 0; k < fours; k++) {
        add4(s->g + at + 4 * k, &g[k], s->scale, n);
        add4(s->row + at + 4 * k, &row[k], s->scale, n);
    }
}

KERNEL static void score(const struct scoring *s) {
    size_t at = 0;
    for (; at + 4 * FOURS <= s->width; at += 4 * FOURS)
        score_columns(s, at, FOURS, 4);
    for (; at + 4 <= s->width; at += 4)
        score_columns(s, at, 1, 4);
    switch (s->width - at) {
    case 1:
        score_columns(s, at, 1, 1);
        break;
    case 2:
        score_columns(s, at, 1, 2);
        break;
    case 3:
        score_columns(s, at, 1, 3);
        break;
    }
}

void optim_score(float *const *values, const float *grads, size_t rows, size_t n, double scale,
                 double *g, double *row) {
    score(&(struct scoring){values, (const wire_float *)grads, rows, n, scale, g, row});
}
