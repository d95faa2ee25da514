/*
 * What the files of the client library share. Only worker/client*.[ch] include this.
 *
 *     client.c           handle, errors, layout, state
 *     client_control.c   talking to the coordinator
 *     client_keys.c      distinct keys of a call, split by shard
 *     client_view.c      rows and gradients through a slot's basis
 *     client_exchange.c  numbered requests to shards: send, wait, repeat, give up
 *     client_call.c      pulls and pushes under way: their keys and messages
 *     client_pull.c      pull
 *     client_push.c      push
 *     client_curvature.c second moments of a push's gradients, for the kfac basis
 *     client_held.c      pushes that a freeze turned away
 *     client_dense.c     dense tables
 *     client_sums.c      score sums of rows that live elsewhere
 *     client_trial.c     trials of layout changes
 */
#ifndef WORKER_CLIENT_INTERNAL_H
#define WORKER_CLIENT_INTERNAL_H

#include "proto/cluster_map.h"
#include "proto/layout.h"
#include "proto/rpc.h"
#include "proto/section.h"
#include "worker/client_exchange.h"
#include "worker/dimfit.h"

#include <sys/types.h>

enum { CLIENT_MAGIC = 0x434c4e54 };

/* ---- view ------------------------------------------------------------------------------------ */

enum view_kind { VIEW_SAME, VIEW_AXES, VIEW_DENSE };

/* A slot as rows go through it: v = mean + r M^T, dL/dr = dL/dv M. */
struct view_slot {
    enum view_kind kind; /* SAME: identity; AXES: a choice of axes; DENSE: any basis */
    uint32_t dim, width;
    uint32_t n_tiers;
    const uint16_t *axes; /* [width], AXES */
    const float *M;       /* [dim][width] */
    const float *Mt;      /* [width][dim], DENSE */
    const float *mean;    /* [dim] */
};

/* One epoch's layout, ready to use. Counted: requests under way keep the one they were made with.
 */
struct view {
    size_t users;
    struct layout *source;
    struct dimfit_layout shown;
    struct dimfit_slot *slots; /* [n], as shown */
    struct view_slot *maps;    /* [n] */
    float *floats;             /* all matrices and means */
};

dimfit_err view_new(struct layout *source,
                    struct view **out) MUST_CHECK; /* takes source on success */
struct view *view_hold(struct view *view);
void view_drop(struct view **view);
/* Index of a slot, or SIZE_MAX. */
size_t view_find(const struct view *view, uint32_t slot);

void view_rows(const struct view_slot *slot, const float *r, float *v);    /* one row */
void view_grads(const struct view_slot *slot, const float *dv, float *dr); /* one gradient */
/* A compact gradient from one layout to another: g M_old^T M_new, through model width. */
void view_carry(const struct view_slot *from, const struct view_slot *to, const float *g,
                float *scratch, float *out);

/* ---- keys ------------------------------------------------------------------------------------ */

/* What became of a distinct key in the array given. */
struct key_use {
    uint32_t first; /* where it stands first */
    uint32_t count; /* how often */
    uint32_t sum;   /* its number among the keys that stand there more than once; KEY_NO_SUM */
};
#define KEY_NO_SUM UINT32_MAX

/* A further occurrence: given[at] is distinct key `of`. */
struct key_repeat {
    uint32_t at, of;
};

/* The distinct keys of one slot's array: shard by shard, and within a shard in order of first
 * occurrence. Memory is reused. */
struct keys {
    size_t n, cap;
    uint64_t *key;       /* [n] */
    struct key_use *use; /* [n] */
    size_t n_shards, cap_shards;
    uint32_t *start; /* [n_shards + 1] shard s has the keys from start[s] to start[s + 1] */
    size_t n_sums;   /* keys that were given more than once */
    size_t n_repeats;
    struct key_repeat *repeats; /* [n_repeats] */
    /* While splitting. */
    uint64_t *spare_key;
    struct key_use *spare_use;
    uint16_t *shard; /* [n] in order of first occurrence */
    uint32_t *place; /* [n] from that order to this one */
    uint64_t *seen;  /* open addressing: stamp << 32 | distinct number */
    size_t seen_cap; /* power of two */
    uint32_t stamp;
};

void keys_fini(struct keys *keys);
dimfit_err keys_split(struct keys *keys, uint32_t slot, const uint64_t *given, size_t n,
                      const struct cluster_map *map) MUST_CHECK;

/* ---- handle ---------------------------------------------------------------------------------- */

/* Distinct keys of a slot with their summed gradients: what a push works on. */
struct grads {
    uint32_t slot;
    size_t n;
    uint32_t width; /* of a gradient: dim (full) or the stored width of `epoch` (compact) */
    uint64_t *key;
    uint32_t *count;
    uint32_t *clicks; /* NULL: none were given */
    float *values;
};

/* A push that a freeze turned away in part. */
struct held {
    size_t n;
    struct grads *slots;
    enum dimfit_view view;
    struct dimfit_push push;
};

struct dimfit {
    uint32_t magic;
    pid_t pid; /* whose handle it is: sockets do not survive a fork */
    uint64_t client, incarnation;
    int64_t timeout_ms;
    bool half, pack;     /* options */
    int64_t deadline_ms; /* of the call under way */
    struct rpc *coordinator;
    void *context;
    struct cluster_map *map;
    size_t n_links;
    struct link *links;
    struct view *view, *before; /* in force, and of the epoch before it (or NULL) */
    uint64_t next_request, last_step_us;
    enum wire_phase phase;
    bool frozen, curvature;            /* scored pushes shall bring their curvature */
    uint64_t epoch;                    /* the newest heard of */
    uint64_t search;                   /* that the last scoring step was of */
    uint64_t compact_epoch;            /* of the last compact pull */
    struct dimfit_call *calls, *spare; /* under way, and done with: their memory is used again */
    size_t n_calls;                    /* under way */
    struct held *held;                 /* NULL: nothing is */
    struct trial *trial;               /* the last one handed out; NULL: none is */
    struct err_detail detail;
};

/* Where dimfit_connect() leaves its reason: there is no handle to ask. One a thread. */
struct err_detail *client_connect_detail(void);
int64_t client_now_ms(void);
void client_sleep_ms(int64_t ms);
/* Note what a reply says of the cluster's state. */
void client_heard(struct dimfit *c, const struct wire_header *header);
/* Take a layout on (takes it); nothing happens for one that is not newer. */
dimfit_err client_take_layout(struct dimfit *c, struct layout *layout) MUST_CHECK;
/* Take a map on (takes it): links to shards that moved are made anew. */
dimfit_err client_take_map(struct dimfit *c, struct cluster_map *map) MUST_CHECK;
/* Every public call begins with this: clears the detail and sets the deadline. STATE in a process
 * that inherited the handle by a fork. */
dimfit_err client_begin(struct dimfit *c) MUST_CHECK;
/* Ask the coordinator where the shards are now. Nothing changes when it does not answer in time. */
void client_find_shards(struct dimfit *c, int64_t timeout_ms);
/* Ask the coordinator, within the call's time limit. */
dimfit_err client_ask(struct dimfit *c, struct wire_header *request, const void *body, size_t len,
                      struct rpc_reply *reply) MUST_CHECK;
/* dimfit_declare() within the call under way. */
dimfit_err client_declare(struct dimfit *c, const struct dimfit_declare *slots,
                          size_t n) MUST_CHECK;
/* The slot's number in the layout, declared with the cluster's defaults if need be. */
dimfit_err client_slot(struct dimfit *c, uint32_t slot, size_t *out) MUST_CHECK;

void held_destroy(struct held **held);

struct trial;
void trial_destroy(struct trial **trial);

#endif
