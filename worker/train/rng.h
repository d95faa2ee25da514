/*
 * Seeded random numbers (splitmix64, Steele et al. 2014), the same on every machine. A generator is
 * made of a seed and a purpose, so that one use drawing more numbers never shifts another.
 */
#ifndef TRAIN_RNG_H
#define TRAIN_RNG_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r) {
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline struct rng rng_of(uint64_t seed, uint64_t purpose) {
    struct rng r = {seed};
    r.state = rng_next(&r) ^ purpose * UINT64_C(0xd6e8feb86659fd93);
    rng_next(&r);
    return r;
}

/* In [0, 1), 53 bits. */
static inline double rng_unit(struct rng *r) {
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* In [0, n), n > 0; the bias is below n / 2^64. */
static inline uint64_t rng_below(struct rng *r, uint64_t n) {
    return (uint64_t)(((unsigned __int128)rng_next(r) * n) >> 64);
}

/* Standard normal (Box and Muller). */
static inline double rng_normal(struct rng *r) {
    const double u = 1.0 - rng_unit(r), v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586477 * v);
}

static inline void rng_shuffle(struct rng *r, uint32_t *items, size_t n) {
    for (size_t i = n; i > 1; i--) {
        const size_t j = rng_below(r, i);
        const uint32_t t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}

#endif
