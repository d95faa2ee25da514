#include "server/init.h"

#include "proto/kernel.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Loops over lanes are to become vectors; a product and a sum must not become one instruction,
 * which rounds once where others round twice, so that every machine draws the same bits. */
#pragma GCC optimize("O3", "fp-contract=off")

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* dimensions drawn at a time */

/*
 * A feasign is one hash,
 *
 *     h = XXH3_64(seed u64 | feasign u64 | slot u32 | 0 u32)      (24 bytes, little-endian)
 *
 * and dimension k 32 bits of it: the bijection `triple32` (Wellons 2018, "Prospecting for hash
 * functions") of a counter that starts at the low half, with the high half added on the way.
 */
static uint64_t row_hash(uint32_t slot, uint64_t seed, uint64_t feasign) {
    const struct {
        uint64_t seed, feasign;
        uint32_t slot, zero;
    } key = {seed, feasign, slot, 0};
    return XXH3_64bits(&key, sizeof key);
}

INLINE uint32_t draw_bits(uint64_t hash, uint32_t k) {
    uint32_t x = (uint32_t)hash + k * UINT32_C(0x9e3779b9);
    x ^= x >> 17;
    x *= UINT32_C(0xed5ad4bb);
    x ^= x >> 11;
    x += (uint32_t)(hash >> 32);
    x *= UINT32_C(0xac4c1b51);
    x ^= x >> 15;
    x *= UINT32_C(0x31848bab);
    return x ^ x >> 14;
}

/* In [-1, 1), a multiple of 2^-23. */
INLINE float uniform(uint32_t bits) {
    return (float)((int32_t)(bits >> 8) - (1 << 23)) * 0x1p-23f;
}

/* ln t for t in (0, 1], to 3e-7: the exponent, and a polynomial (least maximum, found by
 * reweighted least squares) for the mantissa in [sqrt 1/2, sqrt 2). */
INLINE float log_of(float t) {
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    const int32_t exponent = (int32_t)(bits - UINT32_C(0x3f3504f3)) >> 23;
    bits -= (uint32_t)exponent << 23;
    float y;
    memcpy(&y, &bits, sizeof y);
    y -= 1;
    const float y2 = y * y;
    const float low = (1.000003250f - 0.500019650f * y) + y2 * (0.333032980f - 0.248813410f * y);
    const float high = (0.206046870f - 0.189019650f * y) + y2 * 0.118274080f;
    return (low + y2 * y2 * high) * y + (float)exponent * 0.693147181f;
}

/*
 * Standard normal: the inverse of the distribution function. The top bit is the sign, the others
 * the tail p = P(|Z| > z) / 2 in steps of 2^-32, at least 2^-33 (6.3 standard deviations). With
 * x = 1 - 2 p and w = -ln(4 p (1 - p)) = -ln(1 - x^2) (Giles 2011, "Approximating the erfinv
 * function"), z / x is smooth in w; a rational function of degrees 5 and 4, fitted like the
 * polynomial above, has it to 1.5e-6. Nothing but + - * / and no branch: many lanes at once, and
 * the same bits everywhere.
 */
INLINE float normal(uint32_t bits) {
    const float p = ((float)(int32_t)(bits & INT32_MAX) + 0.5f) * 0x1p-32f;
    const float x = 1 - 2 * p, w = -log_of(4 * p * (1 - p));
    const float w2 = w * w, w4 = w2 * w2;
    const float above = (1.25331538f + 6.22293504e-1f * w) +
                        w2 * (1.45191724e-1f + 2.18647539e-2f * w) +
                        w4 * (2.20258387e-3f + 1.51499188e-5f * w);
    const float below = (1 + 2.34749253e-1f * w) + w2 * (4.12379600e-2f + 6.38921891e-3f * w) +
                        w4 * 2.04862643e-4f;
    float z = x * above / below;
    uint32_t signed_bits;
    memcpy(&signed_bits, &z, sizeof z);
    signed_bits |= bits & UINT32_C(0x80000000);
    memcpy(&z, &signed_bits, sizeof z);
    return z;
}

/* Dimensions dims[n] of a feasign, whole blocks in place. */
#define DRAW(name, number)                                                                         \
    INLINE void name##_block(uint64_t hash, float scale, const uint16_t *dims, float *v) {         \
        for (uint32_t k = 0; k < LANES; k++)                                                       \
            v[k] = scale * number(draw_bits(hash, dims[k]));                                       \
    }                                                                                              \
    KERNEL static void name(uint64_t hash, float scale, const uint16_t *dims, size_t n,            \
                            float *v) {                                                            \
        for (; n >= LANES; n -= LANES, dims += LANES, v += LANES)                                  \
            name##_block(hash, scale, dims, v);                                                    \
        if (n > 0) {                                                                               \
            uint16_t rest[LANES] = {0};                                                            \
            float drawn[LANES];                                                                    \
            memcpy(rest, dims, n * sizeof *dims);                                                  \
            name##_block(hash, scale, rest, drawn);                                                \
            memcpy(v, drawn, n * sizeof *v);                                                       \
        }                                                                                          \
    }

DRAW(draw_uniform, uniform)
DRAW(draw_normal, normal)

static void draw(const struct layout_slot *slot, uint64_t seed, uint64_t feasign,
                 const uint16_t *dims, size_t n, float *v) {
    const uint64_t hash = row_hash(slot->id, seed, feasign);
    switch (slot->init) {
    case INIT_ZERO:
        memset(v, 0, n * sizeof *v);
        break;
    case INIT_UNIFORM:
        draw_uniform(hash, slot->init_scale, dims, n, v);
        break;
    case INIT_NORMAL:
        draw_normal(hash, slot->init_scale, dims, n, v);
        break;
    }
}

void init_value(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *v) {
    uint16_t all[LAYOUT_DIM_MAX];
    for (uint32_t k = 0; k < slot->dim; k++)
        all[k] = (uint16_t)k;
    draw(slot, seed, feasign, all, slot->dim, v);
}

KERNEL static void map_value(const struct layout_slot *slot, const float *v, size_t n,
                             double *sum) {
    const size_t w = slot->width;
    memcpy(sum, slot->init_shift, n * sizeof *sum);
    for (uint32_t i = 0; i < slot->dim; i++) {
        const double *const row = slot->init_map + i * w;
        for (size_t k = 0; k < n; k++)
            sum[k] += v[i] * row[k];
    }
}

static void init_cells(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, size_t n,
                       float *r) {
    if (n == 0)
        return;
    if (slot->axes != NULL) {
        draw(slot, seed, feasign, slot->axes, n, r);
        return;
    }
    float v[LAYOUT_DIM_MAX];
    double sum[LAYOUT_DIM_MAX];
    init_value(slot, seed, feasign, v);
    map_value(slot, v, n, sum);
    for (size_t k = 0; k < n; k++)
        r[k] = (float)sum[k];
}

void init_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r) {
    init_cells(slot, seed, feasign, slot->width, r);
}

void init_new_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r) {
    init_cells(slot, seed, feasign, slot->tier_widths[0], r);
}
