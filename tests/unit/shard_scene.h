/*
 * A shard with slots of every kind of state, and random messages to it: pushes, scores, dense
 * tables, searches, changes of layout, shrinks. One shard, or two that are told the same and have
 * to answer the same. What tests of a shard that is saved, or made again, start from.
 */
#ifndef TESTS_SHARD_SCENE_H
#define TESTS_SHARD_SCENE_H

#include "server/shard_store.h"

enum {
    SLOTS = 4,
    DIM = 6,
    KEYS = 3000, /* of each slot */
    BATCH = 200,
    CLIENTS = 3,
};

struct fixture;
/* One shard's outside. */
struct outside {
    struct fixture *f;
    size_t which;
};

struct fixture {
    struct shard *shards[2];
    size_t n;
    struct shard_store *store; /* the first one's log; NULL: it has none */
    uint64_t random, seq[CLIENTS], shrinks, step;
    uint32_t day;
    struct layout *layout, *before;
    struct change *last;
    uint8_t *answers[2];
    struct shard_reply replies[2];
    struct buf evicted[2];
    struct outside outsides[2];
};

extern const struct shard_options scene_options;

uint64_t draw(struct fixture *f, uint64_t end); /* below it */

struct fixture *setup(uint64_t seed);
void teardown(struct fixture *f);
/* What a shard has outside; the first one's logs while there is a store. */
struct shard_io io_of(struct fixture *f, size_t which);

/* ---- messages, to all shards; their answers are compared ---- */

dimfit_err ask(struct fixture *f, const struct wire_header *header, const void *body, size_t len);
void work(struct fixture *f); /* until there is none */
/* again: of a number that was used. */
void send_push(struct fixture *f, uint32_t mode, bool again);
void send_pull(struct fixture *f);
void send_dense(struct fixture *f);
/* Sums over all rows, and the score sums: whatever lies elsewhere in them shows here. */
void send_gather(struct fixture *f);
/* interleave: between its slices come pushes, so that which rows have gone by then depends on how
 * the index lies. */
void send_shrink(struct fixture *f, bool interleave);
void send_scoring(struct fixture *f, bool start);
/* Some of these, drawn. */
void live_a_little(struct fixture *f, int messages);

/* ---- changes ---- */

struct change *narrowing(struct fixture *f, uint32_t slot); /* it loses an axis */
struct layout *layout_after(const struct fixture *f, const struct change *change);
dimfit_err prepare(struct fixture *f, const struct change *change, const struct layout *next);
dimfit_err commit(struct fixture *f, const struct layout *next);
/* The scene follows a commit. Takes both. */
void switched(struct fixture *f, struct change *change, struct layout *next);
/* All of it, and rows moved to the end. Takes the change. */
void change_to(struct fixture *f, struct change *change);
void roll_back(struct fixture *f);

/* What a shard made again by its log can't know: how often it was asked for what changed nothing.
 */
void forget_what_is_not_logged(struct fixture *f);
/* All that both shards will ever say is the same if they are. Their rows stand still. */
void assert_same_state(const struct fixture *f);

#endif
