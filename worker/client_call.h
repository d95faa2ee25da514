/*
 * A call under way: client_pull.c, client_push.c and client_dense.c fill it in, client_call.c keeps
 * it.
 *
 * Values and keys are the caller's arrays until the call is waited for. Their distinct keys, split
 * by shard, stand in slots[i].keys. Gradients of keys that were given more than once are summed in
 * an array of their own; all others are taken from where the caller has them. A call that is done
 * goes to the handle's spare ones with all its memory, so that a training loop allocates nothing.
 */
#ifndef WORKER_CLIENT_CALL_H
#define WORKER_CLIENT_CALL_H

#include "worker/client_internal.h"

enum { CALL_MAGIC = 0x43414c4c };

/* One slot's share of a call. */
struct call_slot {
    struct keys keys;
    const uint32_t *counts; /* push of held rows: how often each was looked up; else NULL */
    float *sums;            /* push: gradients of the keys given more than once */
    size_t cap_sums;        /* floats */
    uint32_t *clicks;       /* push: of each distinct key, where the caller gives any */
    size_t cap_clicks;
    double *curvature; /* push: [width][width], and scratch; client_curvature.h */
    size_t cap_curvature;
    uint32_t curved; /* lookups behind it, 0: it was not formed */
};

/* A request to a dense table instead. */
struct call_dense {
    enum wire_kind kind;
    struct dimfit_dense table;
    struct optimizer optimizer; /* of a reset */
    int created;
};

struct dimfit_call {
    uint32_t magic;
    struct dimfit_call *next; /* under way, or spare */
    enum dimfit_view view;
    uint64_t epoch; /* compact: of the arrays */
    size_t n, cap;
    struct dimfit_rows *rows; /* [n] */
    struct call_slot *slots;  /* [n] */
    struct section *sections; /* [n] scratch of make() */
    bool summed;              /* a push, its sums made */
    struct dimfit_push push;
    struct call_dense dense;
    const struct sums *sums; /* [n_sums] of a report of score sums */
    size_t n_sums;
    struct exchange exchange;
    size_t cap_parts;
    /* What to do with the answers once all are there. NULL: nothing. */
    void (*finish)(struct dimfit *c, struct dimfit_call *call);
};

/* The row of distinct key u of the i-th slot: where to put it, or its summed gradient. */
static inline float *call_row(const struct dimfit_call *call, size_t i, size_t u) {
    const struct call_slot *const slot = &call->slots[i];
    const struct key_use *const use = &slot->keys.use[u];
    const size_t width = call->rows[i].width;
    if (call->summed && use->sum != KEY_NO_SUM)
        return slot->sums + use->sum * width;
    return call->rows[i].values + use->first * width;
}

/* How often it was looked up. */
static inline uint32_t call_count(const struct dimfit_call *call, size_t i, size_t u) {
    const struct call_slot *const slot = &call->slots[i];
    return slot->counts != NULL ? slot->counts[u] : slot->keys.use[u].count;
}

/* The distinct keys of a slot that live on a shard: from `at` to `end`. */
struct span {
    size_t at, end;
};

static inline struct span call_span(const struct dimfit_call *call, size_t i, size_t shard) {
    const struct keys *const keys = &call->slots[i].keys;
    return (struct span){keys->start[shard], keys->start[shard + 1]};
}

/* How many rows from key span.at on stand side by side in memory: they are copied as one. */
size_t call_run(const struct dimfit_call *call, size_t i, struct span span);

/* Rows look the same on the wire as in the caller's arrays. */
static inline bool call_is_same(const struct dimfit_call *call, const struct view_slot *slot) {
    return call->view == DIMFIT_COMPACT || slot->kind == VIEW_SAME;
}

/* A fresh call over a copy of rows[n] (their arrays stay the caller's): LIMIT when the handle has
 * too many under way or it can't fit a message, INVALID for a view that is none. */
dimfit_err call_new(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                    size_t n, struct dimfit_call **out) MUST_CHECK;
/* Done with it. */
void call_end(struct dimfit *c, struct dimfit_call *call);

/* WIDTH unless the rows are as wide as the view wants them; slots must be known. */
dimfit_err call_check_width(struct dimfit *c, enum dimfit_view view,
                            const struct dimfit_rows *rows) MUST_CHECK;

/* Find the distinct keys of every slot, declaring those the layout lacks. */
dimfit_err call_split(struct dimfit *c, struct dimfit_call *call) MUST_CHECK;

/* The map of a slot in a layout; NULL when it is not there. */
const struct view_slot *call_map(const struct view *view, uint32_t slot);

/* List in call->sections what a part asks for, one section for each slot that has rows on its
 * shard. UNKNOWN_SLOT when its layout lacks one. */
struct part_size {
    size_t sections;
    uint64_t rows, values, curvature;
};
dimfit_err call_sections(const struct dimfit_call *call, struct part *part,
                         struct part_size *out) MUST_CHECK;

/* Begin a part's body of this kind; *keys_end is behind head and keys. */
dimfit_err call_body(struct dimfit_call *call, struct part *part, const struct part_size *size,
                     bool push, uint32_t flags, uint8_t **keys_end) MUST_CHECK;

/* The arrays are of another epoch than the part's layout. */
dimfit_err call_stale(const struct dimfit_call *call, struct part *part);

/* Send it to the shards that its keys live on. */
dimfit_err call_start(struct dimfit *c, struct dimfit_call *call) MUST_CHECK;
/* Send it to one shard. */
dimfit_err call_start_one(struct dimfit *c, struct dimfit_call *call, size_t shard) MUST_CHECK;
/* Wait for a started call, and be done with it. FROZEN: what was not to wait is held. */
dimfit_err call_wait(struct dimfit *c, struct dimfit_call *call) MUST_CHECK;

/* A scoring step of its own. */
uint64_t push_own_step(struct dimfit *c);
/* Start a push whose arrays were checked: split, sum, send. */
dimfit_err push_start(struct dimfit *c, struct dimfit_call *call, bool hold) MUST_CHECK;

/* Keep with the handle, which holds nothing, what frozen shards have not taken of a push. */
dimfit_err held_keep(struct dimfit *c, const struct dimfit_call *call) MUST_CHECK;
/* Deliver what is held; FROZEN when the freeze goes on, at once or, waiting, at the deadline. */
dimfit_err held_flush(struct dimfit *c, bool wait) MUST_CHECK;

void calls_destroy(struct dimfit *c);

#endif
