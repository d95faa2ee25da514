/*
 * A pull or push under way, as client_rows.c works on it and client_held.c repeats it.
 *
 * The call's arrays are the caller's; their distinct keys, split by shard, stand in c->keys[i].
 * Gradients of keys that were given more than once are summed in an array of their own; all others
 * are taken from where the caller has them.
 */
#ifndef WORKER_CLIENT_ROWS_H
#define WORKER_CLIENT_ROWS_H

#include "worker/client_internal.h"

struct rows_call {
    enum dimfit_view view;
    uint64_t epoch; /* compact: of the arrays */
    size_t n;
    const struct dimfit_rows *rows;
    const uint32_t *const *counts; /* push of held rows: how often each was looked up; else NULL */
    float **sums;                  /* push: [n] gradients of the keys given more than once */
    struct section *sections;      /* [n] scratch of make() */
    struct dimfit_push push;
};

/* The row of distinct key u of the i-th slot: where to put it, or its summed gradient. */
static inline float *rows_at(const struct dimfit *c, const struct rows_call *call, size_t i,
                             size_t u) {
    const struct key_use *const use = &c->keys[i].use[u];
    const size_t width = call->rows[i].width;
    if (call->sums != NULL && use->sum != KEY_NO_SUM)
        return call->sums[i] + use->sum * width;
    return call->rows[i].values + use->first * width;
}

/* How often it was looked up. */
static inline uint32_t rows_count(const struct dimfit *c, const struct rows_call *call, size_t i,
                                  size_t u) {
    return call->counts != NULL ? call->counts[i][u] : c->keys[i].use[u].count;
}

/* Push a call whose arrays were checked: widths are those it was made with. Without hold, FROZEN
 * leaves in *held what the frozen shards have not taken. */
dimfit_err rows_push(struct dimfit *c, struct rows_call *call, bool hold,
                     struct held **held) MUST_CHECK;

/* Keep what frozen shards have not taken of a push. */
dimfit_err held_keep(struct dimfit *c, const struct rows_call *call, const struct exchange *x,
                     struct held **out) MUST_CHECK;
/* Deliver what is held; FROZEN when the freeze goes on, at once or, waiting, at the deadline. */
dimfit_err held_flush(struct dimfit *c, bool wait) MUST_CHECK;

#endif
