/*
 * The row kernels, compiled once an instruction set with its flags: VARIANT names what comes out.
 *
 * Columns are worked on 16 at a time, all rows of the call in each, so that their sums stay in
 * registers: adding to memory row by row, each addition would wait for the one before to be stored.
 * What a row has as a whole (its learning rate) is found before, unless the 16 are all it has.
 * Loops over parts of a block have constant bounds and nothing but vectors inside, which is what
 * makes the compiler keep arrays of vectors in registers.
 */
#include "server/optim_variants.h"

#include <math.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#pragma GCC optimize("O3") /* the build's -O2 leaves loops of unknown length rolled */

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { LANES = 16, TILE = 8 };
#elif defined(__AVX2__)
enum { LANES = 8, TILE = 4 };
#else
enum { LANES = 4, TILE = 4 };
#endif

enum {
    BLOCK = 16 / LANES, /* of lanes, worked on together: the partial sums of squares */
    NOTHING = -1,       /* the optimizer of a score */
};

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t bits __attribute__((vector_size(LANES * sizeof(float))));
typedef float lanes8 __attribute__((vector_size(32)));
typedef float lanes4 __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(LANES / 2 * sizeof(double))));
typedef int64_t double_bits __attribute__((vector_size(LANES / 2 * sizeof(double))));

/* Of the scores of LANES columns. */
struct sums {
    doubles g[2], row[2];
};

/* `blocks` times n columns, both constants but for the last ones of a row, where blocks is 1. */
struct range {
    size_t first, blocks, n;
};

/* What the columns of a row share: its learning rate, or Adam's corrections. */
struct shared {
    float first[OPTIM_ROWS], second[OPTIM_ROWS];
};

/* ---- the instruction set --------------------------------------------------------------------- */

#if defined(__AVX2__) && !defined(__AVX512F__)
/* All bits set in the first n of 8 or 4 lanes. */
INLINE __m256i first8(size_t n) {
    return (__m256i)((bits){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)n);
}

INLINE __m256i first4(size_t n) {
    return (__m256i)((double_bits){0, 1, 2, 3} < (int64_t)n);
}
#endif

/* The first n <= LANES floats, 0 in the other lanes. */
INLINE lanes load(const void *floats, size_t n) {
    lanes x = {0};
    if (n == LANES) {
        memcpy(&x, floats, sizeof x);
        return x;
    }
#if defined(__AVX512F__)
    return (lanes)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), floats);
#elif defined(__AVX2__)
    return (lanes)_mm256_maskload_ps(floats, first8(n));
#else
    for (size_t k = 0; k < n; k++)
        x[k] = load_f32((const char *)floats + k * sizeof(float));
    return x;
#endif
}

INLINE void store(float *to, lanes x, size_t n) {
    if (n == LANES) {
        memcpy(to, &x, sizeof x);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)x);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(to, first8(n), (__m256)x);
#else
    for (size_t k = 0; k < n; k++)
        to[k] = x[k];
#endif
}

/* to[n] += scale * sum, n <= LANES / 2. */
INLINE void add_scaled(double *to, doubles sum, double scale, size_t n) {
    doubles x = {0};
    if (n == LANES / 2) {
        memcpy(&x, to, sizeof x);
        x += scale * sum;
        memcpy(to, &x, sizeof x);
        return;
    }
#if defined(__AVX512F__)
    const __mmask8 first = (__mmask8)((1u << n) - 1);
    x = (doubles)_mm512_maskz_loadu_pd(first, to) + scale * sum;
    _mm512_mask_storeu_pd(to, first, (__m512d)x);
#elif defined(__AVX2__)
    x = (doubles)_mm256_maskload_pd(to, first4(n)) + scale * sum;
    _mm256_maskstore_pd(to, first4(n), (__m256d)x);
#else
    if (n > 0)
        to[0] += scale * sum[0];
#endif
}

INLINE lanes root(lanes x) {
#if defined(__AVX512F__)
    return (lanes)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (lanes)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (lanes)_mm_sqrt_ps((__m128)x);
#else
    return (lanes){sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
#endif
}

/* The floats of x, which stand at `at` if there are LANES: loading them again costs less than
 * taking a register apart. */
INLINE void widen_lanes(const void *at, lanes x, size_t n, doubles *out) {
#if defined(__AVX512F__)
    const __m512d whole = (__m512d)x;
    const float *const from = at;
    const __m256 low = n == LANES ? _mm256_loadu_ps(from) : _mm512_castps512_ps256((__m512)x);
    const __m256 high = n == LANES ? _mm256_loadu_ps(from + 8)
                                   : _mm256_castpd_ps(_mm512_extractf64x4_pd(whole, 1));
    out[0] = (doubles)_mm512_cvtps_pd(low);
    out[1] = (doubles)_mm512_cvtps_pd(high);
#elif defined(__AVX2__)
    const float *const from = at;
    out[0] = (doubles)_mm256_cvtps_pd(n == LANES ? _mm_loadu_ps(from)
                                                 : _mm256_castps256_ps128((__m256)x));
    out[1] = (doubles)_mm256_cvtps_pd(n == LANES ? _mm_loadu_ps(from + 4)
                                                 : _mm256_extractf128_ps((__m256)x, 1));
#elif defined(__SSE2__)
    out[0] = (doubles)_mm_cvtps_pd((__m128)x);
    out[1] = (doubles)_mm_cvtps_pd(_mm_movehl_ps((__m128)x, (__m128)x));
#else
    out[0] = (doubles){x[0], x[1]};
    out[1] = (doubles){x[2], x[3]};
#endif
}

INLINE doubles load_doubles(const double *from) {
    doubles x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* sum + x y. Where the product is exact, as here, one rounding is what two are. */
INLINE doubles add_product(doubles sum, doubles x, doubles y) {
#if defined(__AVX512F__)
    return (doubles)_mm512_fmadd_pd((__m512d)x, (__m512d)y, (__m512d)sum);
#elif defined(__AVX2__)
    return (doubles)_mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)sum);
#else
    return sum + x * y;
#endif
}

/* ---- a row as a whole ------------------------------------------------------------------------ */

/* Lanes added up in halves until there are four. */
INLINE lanes4 fold_to_4(lanes x) {
#if defined(__AVX512F__)
    const lanes8 eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
    const lanes8 eight = x;
#else
    return x;
#endif
#if defined(__AVX2__)
    return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
           __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#endif
}

/* The partial sums, folded in halves. */
INLINE float fold(const lanes *sums, size_t n) {
    lanes sum = sums[0];
    if (n == 4)
        sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    else if (n == 2)
        sum = sums[0] + sums[1];
    const lanes4 four = fold_to_4(sum);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE float sum_squares(const char *grads, size_t n) {
    lanes sums[BLOCK] = {{0}};
    for (; n >= BLOCK * LANES; n -= BLOCK * LANES) {
        for (size_t k = 0; k < BLOCK; k++, grads += sizeof(lanes)) {
            const lanes g = load(grads, LANES);
            sums[k] += g * g;
        }
    }
    for (size_t k = 0; k < BLOCK; k++, grads += sizeof(lanes)) {
        const size_t part = n < LANES ? n : LANES;
        const lanes g = load(grads, part);
        sums[k] += g * g;
        n -= part;
    }
    return fold(sums, BLOCK);
}

/* What a row's gradient is multiplied by, after so many more squares. */
INLINE float rate(const struct optimizer *o, float *state, float squares) {
    *state += squares;
    const float divisor = sqrtf(*state) + o->eps;
    return divisor > 0 ? o->lr / divisor : 0;
}

INLINE void share_rates(const struct optimizer *o, const struct optim_rows *rows,
                        struct shared *shared) {
    const char *grads = rows->grads;
    for (size_t i = 0; i < rows->rows; i++, grads += rows->n * sizeof(float))
        shared->first[i] = rate(o, rows->states[i], sum_squares(grads, rows->n));
}

INLINE void share_corrections(const struct optimizer *o, const struct optim_rows *rows,
                              struct shared *shared) {
    for (size_t i = 0; i < rows->rows; i++) {
        float *const t = rows->states[i];
        *t += 1;
        shared->first[i] = (float)(1 / (1 - pow(o->beta1, *t)));
        shared->second[i] = (float)(1 / (1 - pow(o->beta2, *t)));
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/* x / d, and 0 for a first gradient of 0 where eps is 0 as well. */
INLINE lanes over(lanes x, lanes d) {
    return (lanes)((bits)(x / d) & (d > 0));
}

INLINE void add_products(struct sums *sums, const float *values, lanes r, const void *grads,
                         lanes g, size_t n) {
    doubles wide_r[2], wide_g[2];
    widen_lanes(values, r, n, wide_r);
    widen_lanes(grads, g, n, wide_g);
    for (size_t k = 0; k < 2; k++) {
        /* |r g| = r' g, r' being r with the sign of g. */
        const double_bits sign = (double_bits){0} + INT64_MIN;
#if defined(__AVX512F__)
        const doubles positive = (doubles)_mm512_ternarylogic_epi64(
            (__m512i)sign, (__m512i)wide_g[k], (__m512i)wide_r[k], 0xCA);
#else
        const doubles positive = (doubles)(((double_bits)wide_r[k] & ~sign) |
                                           ((double_bits)wide_g[k] & sign));
#endif
        sums->g[k] = add_product(sums->g[k], wide_r[k], wide_g[k]);
        sums->row[k] = add_product(sums->row[k], positive, wide_g[k]);
    }
}

/* to[n] += scale * sums, n <= LANES. */
INLINE void add_lanes(double *to, const doubles *sums, double scale, size_t n) {
    const size_t low = n < LANES / 2 ? n : LANES / 2;
    add_scaled(to, sums[0], scale, low);
    add_scaled(to + low, sums[1], scale, n - low);
}

INLINE lanes adagrad(const struct optimizer *o, lanes r, float *s, lanes g, size_t n) {
    const lanes sum = load(s, n) + g * g;
    store(s, sum, n);
    return r - over(o->lr * g, root(sum) + o->eps);
}

INLINE lanes adam(const struct optimizer *o, lanes r, float *m_at, float *v_at, float unbias_m,
                  float unbias_v, lanes g, size_t n) {
    const lanes m = o->beta1 * load(m_at, n) + (1 - o->beta1) * g;
    const lanes v = o->beta2 * load(v_at, n) + (1 - o->beta2) * g * g;
    store(m_at, m, n);
    store(v_at, v, n);
    return r - over(o->lr * (m * unbias_m), root(v * unbias_v) + o->eps);
}

INLINE lanes choose(bits condition, lanes yes, lanes no) {
    return (lanes)((condition & (bits)yes) | (~condition & (bits)no));
}

INLINE lanes ftrl(const struct optimizer *o, lanes r, float *z_at, float *n_at, lanes g, size_t n) {
    const bits sign = (bits){0} + INT32_MIN;
    const lanes l1 = o->l1 - (lanes){0};
    const lanes squares = load(n_at, n), more = squares + g * g;
    const lanes before = root(squares), after = root(more);
    const float inverse = 1 / o->lr;
    const lanes own = (lanes)((bits)l1 | (~(bits)r & sign)) - r * (o->beta * inverse + o->l2);
    lanes z = choose(squares == 0, (lanes)((bits)own & (r != 0)), load(z_at, n));
    z += g - r * ((after - before) * inverse);
    store(z_at, z, n);
    store(n_at, more, n);
    const lanes size = (lanes)((bits)z & ~sign), signed_l1 = (lanes)((bits)l1 | ((bits)z & sign));
    const lanes moved = (signed_l1 - z) / ((o->beta + after) * inverse + o->l2);
    return choose(more > 0, (lanes)((bits)moved & ~(size <= l1)), r);
}

/* One row's step in some columns. shared NULL: these are all it has. */
INLINE void step(int kind, const struct optimizer *o, const struct optim_rows *rows, size_t i,
                 const struct shared *shared, const lanes *g, lanes *r, struct range at) {
    float *const state = rows->states[i] + (kind == OPTIMIZER_ROWWISE_ADAGRAD ? 0 : at.first);
    lanes squares[BLOCK];
    for (size_t k = 0; k < at.blocks; k++)
        squares[k] = g[k] * g[k];
    const float row_rate = kind != OPTIMIZER_ROWWISE_ADAGRAD ? 0
                           : shared != NULL                  ? shared->first[i]
                                            : rate(o, state, fold(squares, at.blocks));
    for (size_t k = 0; k < at.blocks; k++) {
        float *const own = state + k * LANES;
        if (kind == OPTIMIZER_SGD)
            r[k] -= o->lr * g[k];
        else if (kind == OPTIMIZER_ADAGRAD)
            r[k] = adagrad(o, r[k], own, g[k], at.n);
        else if (kind == OPTIMIZER_ROWWISE_ADAGRAD)
            r[k] -= row_rate * g[k];
        else if (kind == OPTIMIZER_ADAM)
            r[k] = adam(o, r[k], own + 1, own + 1 + rows->n, shared->first[i], shared->second[i],
                        g[k], at.n);
        else if (kind == OPTIMIZER_FTRL)
            r[k] = ftrl(o, r[k], own, own + rows->n, g[k], at.n);
    }
}

INLINE void columns(int kind, const struct optimizer *o, const struct optim_rows *rows,
                    const struct shared *shared, const struct optim_sums *to, struct range at) {
    struct sums sums[BLOCK] = {0};
    const char *grads = (const char *)rows->grads + at.first * sizeof(float);
    for (size_t i = 0; i < rows->rows; i++, grads += rows->n * sizeof(float)) {
        float *const values = rows->values[i] + at.first;
        lanes g[BLOCK], r[BLOCK];
        for (size_t k = 0; k < at.blocks; k++) {
            g[k] = load(grads + k * sizeof(lanes), at.n);
            r[k] = load(values + k * LANES, at.n);
        }
        for (size_t k = 0; k < at.blocks; k++) {
            if (to != NULL)
                add_products(&sums[k], values + k * LANES, r[k], grads + k * sizeof(lanes), g[k],
                             at.n);
        }
        if (kind == NOTHING)
            continue;
        step(kind, o, rows, i, shared, g, r, at);
        for (size_t k = 0; k < at.blocks; k++)
            store(values + k * LANES, r[k], at.n);
    }
    for (size_t k = 0; k < at.blocks && to != NULL; k++) {
        add_lanes(to->g + at.first + k * LANES, sums[k].g, to->scale, at.n);
        add_lanes(to->row + at.first + k * LANES, sums[k].row, to->scale, at.n);
    }
}

INLINE void all_columns(int kind, const struct optimizer *o, const struct optim_rows *rows,
                        const struct shared *shared, const struct optim_sums *sums) {
    size_t at = 0;
    for (; at + BLOCK * LANES <= rows->n; at += BLOCK * LANES)
        columns(kind, o, rows, shared, sums, (struct range){at, BLOCK, LANES});
    for (; at + LANES <= rows->n; at += LANES)
        columns(kind, o, rows, shared, sums, (struct range){at, 1, LANES});
    if (at < rows->n)
        columns(kind, o, rows, shared, sums, (struct range){at, 1, rows->n - at});
}

/* Copies of the arguments: the compiler cannot know that rows do not overlap them. */
INLINE void work(int kind, const struct optimizer *optimizer, const struct optim_rows *their_rows,
                 const struct optim_sums *sums) {
    const struct optimizer o = kind == NOTHING ? (struct optimizer){0} : *optimizer;
    const struct optim_rows rows = *their_rows;
    struct shared shared = {{0}, {0}};
    base_assert(rows.rows <= OPTIM_ROWS);
    if (kind == OPTIMIZER_ADAM) {
        share_corrections(&o, &rows, &shared);
        all_columns(kind, &o, &rows, &shared, sums);
    } else if (kind == OPTIMIZER_ROWWISE_ADAGRAD && rows.n > LANES && rows.n != BLOCK * LANES) {
        share_rates(&o, &rows, &shared);
        all_columns(kind, &o, &rows, &shared, sums);
    } else {
        all_columns(kind, &o, &rows, NULL, sums);
    }
}

static void train(const struct optimizer *o, const struct optim_rows *rows,
                  const struct optim_sums *sums) {
    switch (o->kind) {
#define TRAIN(num, name, text)                                                                     \
    case OPTIMIZER_##name:                                                                         \
        if (sums != NULL)                                                                          \
            work(OPTIMIZER_##name, o, rows, sums);                                                 \
        else                                                                                       \
            work(OPTIMIZER_##name, o, rows, NULL);                                                 \
        break;
        OPTIMIZER_MAP(TRAIN)
#undef TRAIN
    }
}

static void score(const struct optim_rows *rows, const struct optim_sums *sums) {
    work(NOTHING, NULL, rows, sums);
}

/* ---- moments --------------------------------------------------------------------------------- */

static void widen(const void *floats, size_t n, double *out) {
    const char *from = floats;
    for (; n >= LANES; n -= LANES, from += sizeof(lanes), out += LANES) {
        doubles x[2];
        widen_lanes(from, load(from, LANES), LANES, x);
        memcpy(out, &x[0], sizeof x[0]);
        memcpy(out + LANES / 2, &x[1], sizeof x[1]);
    }
    for (size_t k = 0; k < n; k++)
        out[k] = load_f32(from + k * sizeof(float));
}

/* TILE rows of C, LANES of its columns. */
INLINE void tile(const struct optim_moments *m, size_t top, size_t left) {
    doubles sum[TILE][2] = {{{0}}};
    const double *values = m->values + top, *grads = m->grads + left;
    for (size_t i = 0; i < m->rows; i++, values += m->stride, grads += m->stride) {
        const doubles low = load_doubles(grads), high = load_doubles(grads + LANES / 2);
        for (size_t k = 0; k < TILE; k++) {
            const doubles r = values[k] - (doubles){0}; /* in each lane */
            sum[k][0] = add_product(sum[k][0], r, low);
            sum[k][1] = add_product(sum[k][1], r, high);
        }
    }
    /* A copy: what variable numbers index has no place in registers, and the sums need one. */
    doubles out[TILE][2];
    for (size_t k = 0; k < TILE; k++) {
        out[k][0] = sum[k][0];
        out[k][1] = sum[k][1];
    }
    const size_t n = m->n - left < LANES ? m->n - left : LANES;
    for (size_t k = 0; k < TILE && top + k < m->n; k++)
        add_lanes(m->C + (top + k) * m->n + left, out[k], m->scale, n);
}

static void moments(const struct optim_moments *m) {
    for (size_t left = 0; left < m->n; left += LANES) {
        doubles b[2] = {{0}, {0}};
        for (size_t i = 0; i < m->rows; i++) {
            const double *const grads = m->grads + i * m->stride + left;
            b[0] += load_doubles(grads);
            b[1] += load_doubles(grads + LANES / 2);
        }
        add_lanes(m->b + left, b, m->scale, m->n - left < LANES ? m->n - left : LANES);
        for (size_t top = 0; top < m->n; top += TILE)
            tile(m, top, left);
    }
}

const struct optim_kernels VARIANT_NAME(optim, VARIANT) = {VARIANT_TEXT(VARIANT), train, score,
                                                           widen, moments};
