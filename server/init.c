#include "server/init.h"

#include "proto/kernel.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Loops over lanes are to become vectors; a product and a sum must not become one instruction,
 * which rounds once where others round twice, so that every machine draws the same bits. */
#pragma GCC optimize("O3", "fp-contract=off")

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* dimensions drawn at a time */
_Static_assert(LAYOUT_DIM_MAX % LANES == 0, "an array of the widest slot takes whole blocks");

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
    float sum = 0.118274080f;
    sum = sum * y - 0.189019650f;
    sum = sum * y + 0.206046870f;
    sum = sum * y - 0.248813410f;
    sum = sum * y + 0.333032980f;
    sum = sum * y - 0.500019650f;
    sum = sum * y + 1.000003250f;
    return sum * y + (float)exponent * 0.693147181f;
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
    float above = 1.51499188e-5f;
    above = above * w + 2.20258387e-3f;
    above = above * w + 2.18647539e-2f;
    above = above * w + 1.45191724e-1f;
    above = above * w + 6.22293504e-1f;
    above = above * w + 1.25331538f;
    float below = 2.04862643e-4f;
    below = below * w + 6.38921891e-3f;
    below = below * w + 4.12379600e-2f;
    below = below * w + 2.34749253e-1f;
    below = below * w + 1;
    float z = x * above / below;
    uint32_t signed_bits;
    memcpy(&signed_bits, &z, sizeof z);
    signed_bits |= bits & UINT32_C(0x80000000);
    memcpy(&z, &signed_bits, sizeof z);
    return z;
}

KERNEL static void draw_uniform(uint64_t hash, float scale, uint32_t n, float *v) {
    for (uint32_t first = 0; first < n; first += LANES, v += LANES) {
        for (uint32_t k = 0; k < LANES; k++)
            v[k] = scale * uniform(draw_bits(hash, first + k));
    }
}

KERNEL static void draw_normal(uint64_t hash, float scale, uint32_t n, float *v) {
    for (uint32_t first = 0; first < n; first += LANES, v += LANES) {
        for (uint32_t k = 0; k < LANES; k++)
            v[k] = scale * normal(draw_bits(hash, first + k));
    }
}

/* Whole blocks of LANES: `v` has room for them. */
static void draw(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *v) {
    const uint64_t hash = row_hash(slot->id, seed, feasign);
    switch (slot->init) {
    case INIT_ZERO:
        memset(v, 0, slot->dim * sizeof *v);
        break;
    case INIT_UNIFORM:
        draw_uniform(hash, slot->init_scale, slot->dim, v);
        break;
    case INIT_NORMAL:
        draw_normal(hash, slot->init_scale, slot->dim, v);
        break;
    }
}

void init_value(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *v) {
    float drawn[LAYOUT_DIM_MAX];
    draw(slot, seed, feasign, drawn);
    memcpy(v, drawn, slot->dim * sizeof *v);
}

KERNEL static void map_value(const struct layout_slot *slot, const float *v, double *sum) {
    const size_t w = slot->width;
    memcpy(sum, slot->init_shift, w * sizeof *sum);
    for (uint32_t i = 0; i < slot->dim; i++) {
        const double *const row = slot->init_map + i * w;
        for (size_t k = 0; k < w; k++)
            sum[k] += v[i] * row[k];
    }
}

void init_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r) {
    float v[LAYOUT_DIM_MAX];
    const size_t w = slot->width;
    if (w == 0)
        return;
    draw(slot, seed, feasign, v);
    if (slot->axes != NULL) {
        for (size_t k = 0; k < w; k++)
            r[k] = v[slot->axes[k]];
        return;
    }
    double sum[LAYOUT_DIM_MAX];
    map_value(slot, v, sum);
    for (size_t k = 0; k < w; k++)
        r[k] = (float)sum[k];
}
