/*
 * What the files of a shard's score sums share (score.h).
 */
#ifndef SERVER_SCORE_INTERNAL_H
#define SERVER_SCORE_INTERNAL_H

#include "server/score.h"

enum {
    SCORE_EVICTED_MAX = 65536, /* ids remembered; older steps are long out of flight */
    SCORE_SUMS_ALIGN = 64, /* bytes; sums that straddle cache lines double a scored row's time */
};

/* Tiers of a slot, and slots, ascend as their keys do. */
static inline uint64_t score_key(uint32_t slot, uint32_t tier) {
    return (uint64_t)slot << 32 | tier;
}

/* One tier's sums in a step, g[w], then C[w][w] and b[w] when moments are kept. */
struct score_sum {
    uint64_t key; /* score_key() */
    uint32_t width;
    double *sums;
};

/* The memory of the parts that one push added to a step. */
struct score_block {
    struct score_block *next;
    double sums[] __attribute__((aligned(SCORE_SUMS_ALIGN)));
};

struct score_step {
    uint64_t id;
    struct score_step *chain;         /* of its hash head */
    struct score_step *older, *newer; /* in order of creation, which is the order of eviction */
    struct score_sum *parts;          /* ascending by key */
    size_t n_parts, cap_parts;
    struct step_samples *workers;
    size_t n_workers, cap_workers;
    struct score_block *blocks;
    uint64_t bytes;
};

struct score_rows {
    uint64_t key; /* score_key() */
    uint32_t width;
    double *row;       /* [w] */
    double *curvature; /* upper triangle, row by row; NULL when not kept */
    uint64_t lookups;  /* behind it */
    bool fresh;        /* made by the score_open() under way */
};

struct score {
    uint64_t max_bytes, bytes;
    bool moments, curvature, searching;
    struct score_step **heads; /* [n_heads], a power of two, by id */
    size_t n_heads, n_steps;
    struct score_step *oldest, *newest;
    struct score_rows *rows; /* ascending by key */
    size_t n_rows, cap_rows;
    uint64_t window;   /* steps to keep while searching; 0: all */
    uint64_t samples;  /* scored; inside a search of steps that were dropped, too */
    uint64_t *evicted; /* a ring once EVICTED_MAX are there */
    size_t n_evicted, cap_evicted, next_evicted;
};

/* NULL where there are none. */
struct score_rows *score_rows_find(const struct score *score, uint64_t key);

/* NULL where there is none. */
struct score_step *score_step_find(const struct score *score, uint64_t id);
/* As the newest one. */
void score_step_link(struct score *score, struct score_step *step);
/* Zeroed and aligned. */
void *score_sums_new(size_t bytes);
/* Grow an array to room for n items; *cap and *items are changed only on success. */
dimfit_err score_reserve(void **items, size_t *cap, size_t n, size_t size) MUST_CHECK;

#endif
