/*
 * The keys of one call on their way to rows, for the files that make a table up.
 *
 * Keys go a block at a time, each block through four stages, one block apart: the home buckets are
 * fetched; the keys are looked for there; those that were not there are looked for on, and stored
 * if need be; the rows are used. What each stage needs the one before has begun to load. Room for
 * new rows is made beforehand, so that rows keep their place meanwhile.
 *
 * The stages are compiled once an instruction set (variants.h) and called once a block.
 */
#ifndef SERVER_WALK_H
#define SERVER_WALK_H

#include "server/table_slot.h"

enum {
    WALK_BLOCK = 64, /* keys that a stage takes at a time */
    WALK_STAGES = 4,
    WALK_SINKS = 2 * WALK_BLOCK, /* of one block while the next has some too */
};

struct walk_block {
    size_t first, n;  /* its keys */
    size_t n_far;     /* of them, not found at home */
    uint64_t version; /* of the index that the buckets are of */
    uint64_t hashes[WALK_BLOCK];
    const struct index_bucket *buckets[WALK_BLOCK]; /* the home of a key, then the next one */
    float *values[WALK_BLOCK];   /* NULL: not stored; in a walk that stores rows, of a sink then */
    uint32_t *sides[WALK_BLOCK]; /* in a walk that stores rows */
    uint8_t tiers[WALK_BLOCK];   /* of rows, where the slot has more than one: 0 without a row */
    uint8_t far[WALK_BLOCK];     /* [n_far] places in the block */
};

struct walk {
    void (*step)(struct walk *walk);
    const struct table_slot *slot;
    struct table_slot *grow; /* takes the keys that are not there; NULL: they are not stored */
    const struct table_counts *counts; /* with grow: what admits them */
    const uint8_t *keys;
    size_t n, fetched; /* keys */
    size_t steps;      /* blocks used */
    struct walk_block blocks[WALK_STAGES];
};

struct walk_kernels {
    const char *name;
    /* Each stage once. The rows of blocks[(steps - 1) % WALK_STAGES] may be used then. */
    void (*step)(struct walk *walk);
    void (*step_tiers)(struct walk *walk); /* of a slot of several tiers */
};

/* Of a slot in motion (table_motion.h), whatever others are asked for. Rows behind are read into
 * memory of the motion's, or put ahead in a walk that stores rows. */
extern const struct walk_kernels walk_motion;

/* The machine's best, and all that it runs, narrowest first. */
const struct walk_kernels *walk_kernels(void);
const struct walk_kernels *const *walk_variants(size_t *n);

/* grow: the slot again if keys that are not there are stored, admitted by counts; NULL otherwise.
 */
void walk_init(struct walk *walk, const struct walk_kernels *kernels, const struct table_slot *slot,
               struct table_slot *grow, const struct table_counts *counts, const uint8_t *keys,
               size_t n);
/* The next block of rows, NULL at the end. Valid until the next call. */
const struct walk_block *walk_next(struct walk *walk);

/* A gradient that is not applied finds an initial row all the same; each key of a block has one of
 * its own. */
void walk_use_sink(const struct walk *walk, struct walk_block *block, size_t i);

static inline uint64_t walk_key(const struct walk *walk, size_t i) {
    return load_u64(walk->keys + i * sizeof(uint64_t));
}

#endif
