#include "server/init.h"

#include "proto/key_hash.h"

#include <math.h>

/*
 * Dimensions come in pairs. Pair p of a feasign is one hash,
 *
 *     h = XXH3_64(seed u64 | feasign u64 | slot u32 | p u32)      (24 bytes, little-endian)
 *
 * whose halves give two uniform numbers, each of their top 24 bits. `normal` takes them through Box
 * and Muller (1958). In float64, rounded once: variants of a libm differ in the last bit of a
 * result, which then hardly ever shows.
 */
static uint64_t pair_hash(uint32_t slot, uint64_t seed, uint64_t feasign, uint32_t pair) {
    const struct {
        uint64_t seed, feasign;
        uint32_t slot, pair;
    } key = {seed, feasign, slot, pair};
    return XXH3_64bits(&key, sizeof key);
}

static void uniform_pair(uint64_t hash, double scale, double out[2]) {
    const double step = 0x1p-24;
    out[0] = scale * (2 * step * (double)(hash >> 40) - 1);
    out[1] = scale * (2 * step * (double)((uint32_t)hash >> 8) - 1);
}

static void normal_pair(uint64_t hash, double scale, double out[2]) {
    const double two_pi = 6.283185307179586477;
    /* In (0, 1]: a logarithm of 0 must not come up. */
    const double u = 0x1p-24 * (double)((hash >> 40) + 1);
    const double angle = two_pi * 0x1p-24 * (double)((uint32_t)hash >> 8);
    const double radius = scale * sqrt(-2 * log(u));
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

void init_value(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *v) {
    if (slot->init == INIT_ZERO) {
        memset(v, 0, slot->dim * sizeof *v);
        return;
    }
    for (uint32_t k = 0; k < slot->dim; k += 2) {
        const uint64_t hash = pair_hash(slot->id, seed, feasign, k / 2);
        double pair[2];
        if (slot->init == INIT_UNIFORM)
            uniform_pair(hash, slot->init_scale, pair);
        else
            normal_pair(hash, slot->init_scale, pair);
        v[k] = (float)pair[0];
        if (k + 1 < slot->dim)
            v[k + 1] = (float)pair[1];
    }
}

void init_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r) {
    float v[LAYOUT_DIM_MAX];
    const size_t w = slot->width;
    if (w == 0)
        return;
    init_value(slot, seed, feasign, v);
    if (slot->axes != NULL) {
        for (size_t k = 0; k < w; k++)
            r[k] = v[slot->axes[k]];
        return;
    }
    double sum[LAYOUT_DIM_MAX];
    memcpy(sum, slot->init_shift, w * sizeof *sum);
    for (uint32_t i = 0; i < slot->dim; i++) {
        for (size_t k = 0; k < w; k++)
            sum[k] += v[i] * slot->init_map[i * w + k];
    }
    for (size_t k = 0; k < w; k++)
        r[k] = (float)sum[k];
}
