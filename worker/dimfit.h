/*
 * libdimfit: the worker's side of dimfit, a sparse-embedding parameter server whose embedding
 * widths fit themselves to what they earn.
 *
 * A handle (struct dimfit) is one client of one cluster. Connect it to the coordinator, pull the
 * rows of a batch's feasigns, compute, push the gradients back:
 *
 *     struct dimfit *c;
 *     if (dimfit_connect("tcp://127.0.0.1:7700", NULL, &c) != DIMFIT_OK)
 *         die(dimfit_errmsg(NULL));
 *     struct dimfit_rows rows = {.slot = 3, .keys = keys, .n = n, .values = v, .width = 16};
 *     dimfit_pull(c, DIMFIT_FULL, &rows, 1);
 *     ... rows.values = dL/dv of the mean loss ...
 *     dimfit_push(c, DIMFIT_FULL, &rows, 1, &(struct dimfit_push){.mode = DIMFIT_TRAIN});
 *
 * Two views. DIMFIT_FULL: rows have the model's width for ever, whatever the cluster stores; a
 * search that narrows the rows goes unnoticed. DIMFIT_COMPACT: rows as stored, for models with a
 * transform of their own; dimfit_layout() tells widths, bases and means.
 *
 * Contracts. A handle belongs to one thread at a time; different handles to different threads.
 * After a fork the child connects anew: an inherited handle gives STATE and can only be closed.
 * Arrays passed in are borrowed until the call returns; what a call returns by pointer belongs to
 * the handle unless said otherwise. Every call ends within the handle's time limit. No call aborts
 * the process or leaves a result half-written: results are written on DIMFIT_OK only. A failed call
 * is explained by dimfit_errmsg(). A push that was acknowledged is applied exactly once, whatever
 * was retried.
 *
 * Keys may repeat within a call: they are pulled once, their gradients are summed, and how often
 * each occurred is reported to the shards as lookups.
 */
#ifndef DIMFIT_H
#define DIMFIT_H

#ifdef DIMFIT_BUILDING
#include "proto/dimfit_err.h"
#else
#include <dimfit_err.h>
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DIMFIT_VERSION_MAJOR 0
#define DIMFIT_VERSION_MINOR 1
#define DIMFIT_VERSION_PATCH 0

#if defined(__GNUC__)
#define DIMFIT_API        __attribute__((visibility("default")))
#define DIMFIT_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DIMFIT_API
#define DIMFIT_MUST_CHECK
#endif

/* ---- handle ---------------------------------------------------------------------------------- */

struct dimfit;

struct dimfit_options {
    size_t size;          /* sizeof(struct dimfit_options), so that fields can be added */
    double timeout;       /* seconds any call may take, up to 1e6; 0: 10 */
    uint64_t client;      /* identity for exactly-once; 0: a random one */
    uint64_t incarnation; /* of that identity, growing with restarts; 0: the time in ns */
    int half;             /* pulled rows travel as float16: half the bytes, errors to 2^-11 */
    int pack;             /* LZ4 for requests that a sample says it pays for: sparse gradients */
};

/* Connect and fetch map and layout; waits up to the timeout for the coordinator and all its shards.
 * endpoint as ZeroMQ writes it (tcp://host:port, ipc://path). options may be NULL. On failure *out
 * is untouched and dimfit_errmsg(NULL) explains. UNREACHABLE when nobody answers. */
DIMFIT_API dimfit_err dimfit_connect(const char *endpoint, const struct dimfit_options *options,
                                     struct dimfit **out) DIMFIT_MUST_CHECK;
DIMFIT_API void dimfit_close(struct dimfit **c);

/* Detail of the last failed call on this handle: place and next step. NULL: of this thread's last
 * failed dimfit_connect(). Valid until the next call. */
DIMFIT_API const char *dimfit_errmsg(const struct dimfit *c);
DIMFIT_API const char *dimfit_strerror(dimfit_err err); /* general text of an error number */
DIMFIT_API const char *dimfit_errname(dimfit_err err);  /* "STALE_EPOCH" */
DIMFIT_API const char *dimfit_version(void);

/* ---- layout ---------------------------------------------------------------------------------- */

struct dimfit_slot {
    uint32_t id;
    uint32_t dim, width; /* model width, stored width */
    int search;          /* 0: never changed by a search */
    const char *name;
    const float *basis; /* M[dim][width], orthonormal columns: v = mean + r M^T */
    const float *mean;  /* [dim] */
    /* Popularity tiers, the tail first: a row of tier t has its first tier_widths[t] coordinates,
     * the others are 0. */
    uint32_t n_tiers;            /* 1: it has none */
    const uint32_t *tier_widths; /* non-decreasing, the last one is width */
};

struct dimfit_layout {
    uint64_t epoch;
    size_t n_slots;
    const struct dimfit_slot *slots; /* ascending by id */
};

/* The layout this handle works with. Borrowed until the next call on the handle that talks to the
 * cluster; the next one may move to a new epoch. */
DIMFIT_API const struct dimfit_layout *dimfit_layout(const struct dimfit *c);
DIMFIT_API const struct dimfit_slot *dimfit_slot(const struct dimfit *c, uint32_t slot);

/* Ask the coordinator for map, layout and phase again. */
DIMFIT_API dimfit_err dimfit_refresh(struct dimfit *c) DIMFIT_MUST_CHECK;

/* Make slots known to the cluster: those it has must agree in dim (WIDTH otherwise), new ones are
 * added where its configuration says auto_slots, UNKNOWN_SLOT otherwise. */
struct dimfit_declare {
    uint32_t slot;
    uint32_t dim;          /* 0: the cluster's default */
    const char *name;      /* NULL: "slot<ID>" */
    int search;            /* 0: no search, ever */
    const char *optimizer; /* "sgd", "ftrl", ...; NULL: the cluster's default, and so is all else
                            * about it but lr */
    double lr;             /* 0: the cluster's default */
    const char *init;      /* "zero", "uniform", "normal"; NULL: the cluster's default */
    double init_scale;     /* 0: the cluster's default */
    const uint32_t *tiers; /* [n_tiers] show counts at which popularity tiers above the first one
                            * begin, ascending, at most 7; NULL: the cluster's default */
    uint32_t n_tiers;
};
DIMFIT_API dimfit_err dimfit_declare(struct dimfit *c, const struct dimfit_declare *slots,
                                     size_t n) DIMFIT_MUST_CHECK;

/* ---- rows ------------------------------------------------------------------------------------ */

enum dimfit_view { DIMFIT_FULL = 0, DIMFIT_COMPACT = 1 };
enum dimfit_mode { DIMFIT_TRAIN = 1, DIMFIT_SCORE = 2, DIMFIT_TRAIN_SCORE = 3 };

struct dimfit_rows {
    uint32_t slot;
    size_t n;
    const uint64_t *keys;   /* [n] */
    float *values;          /* [n][width]: filled by a pull; gradients of a push */
    uint32_t width;         /* the slot's dim (full) or current width (compact); WIDTH otherwise */
    const uint32_t *clicks; /* [n] of a push: summed over equal keys as gradients are; NULL: none */
    uint8_t *tiers; /* [n] of a pull: filled with the rows' tiers; NULL: they are not wanted */
};

/* Pull rows of several slots at once. A feasign never trained reads as its initial value. Compact:
 * all rows are of the handle's epoch; STALE_EPOCH when the cluster has moved on, the handle's
 * layout is then the new one already. */
DIMFIT_API dimfit_err dimfit_pull(struct dimfit *c, enum dimfit_view view,
                                  const struct dimfit_rows *rows, size_t n) DIMFIT_MUST_CHECK;

struct dimfit_push {
    enum dimfit_mode mode;
    uint64_t step;    /* scoring: workers that share a batch give the same; 0: a step of its own */
    uint64_t samples; /* the gradients are of the mean loss over so many; 0: 1 */
    uint64_t epoch;   /* compact: of the gradients; 0: of the handle's last compact pull */
    int of_epoch_0;   /* compact: of epoch 0, whatever the last compact pull was of */
    int no_hold;      /* see FROZEN below */
    uint32_t day;     /* when it was shown, in days since 1970-01-01; 0: today (UTC) */
};

/* Push gradients dL/dv (full) or dL/dr (compact). TRAIN applies the optimizer, SCORE adds to the
 * search's scores, TRAIN_SCORE both, scoring with the values before the step. A compact gradient of
 * the epoch before is mapped to the current one.
 *
 * While a search has frozen training, a training push is held and repeated until the freeze ends or
 * the time limit does (FROZEN then, and what some shards have not taken is dropped). With no_hold
 * it returns FROZEN at once: what some shards have not taken stays with the handle, the caller may
 * pull and score meanwhile, and dimfit_flush() delivers the rest.
 *
 * MAYBE: no answer in time, the push may or may not have been applied on some shards; it is not
 * sent again. NOT_FINITE, UNKNOWN_SLOT, WIDTH, INVALID (clicks for a slot that counts none):
 * refused, nothing changed anywhere. */
DIMFIT_API dimfit_err dimfit_push(struct dimfit *c, enum dimfit_view view,
                                  const struct dimfit_rows *rows, size_t n,
                                  const struct dimfit_push *push) DIMFIT_MUST_CHECK;
DIMFIT_API dimfit_err dimfit_flush(struct dimfit *c) DIMFIT_MUST_CHECK;

/* ---- several calls under way -------------------------------------------------------------------
 */

/* A call that was sent and not yet waited for. */
struct dimfit_call;
enum { DIMFIT_CALLS_MAX = 64 };

/* As dimfit_pull() and dimfit_push(), but return once the requests are sent: a trainer computes one
 * batch while the next one's rows are on their way. Arrays (not `rows` itself) stay untouched until
 * dimfit_wait(), which writes the values of a pull, and returns what the call came to; every call
 * must be waited for, in any order, or goes with the handle. Shards take the requests of a handle
 * in the order they were sent, so that a pull sees the pushes before it. The handle's time limit
 * runs from dimfit_wait(): in between nothing happens. LIMIT when DIMFIT_CALLS_MAX are under way;
 * STATE for a second push with no_hold beside one. *out is set on DIMFIT_OK only. */
DIMFIT_API dimfit_err dimfit_pull_async(struct dimfit *c, enum dimfit_view view,
                                        const struct dimfit_rows *rows, size_t n,
                                        struct dimfit_call **out) DIMFIT_MUST_CHECK;
DIMFIT_API dimfit_err dimfit_push_async(struct dimfit *c, enum dimfit_view view,
                                        const struct dimfit_rows *rows, size_t n,
                                        const struct dimfit_push *push,
                                        struct dimfit_call **out) DIMFIT_MUST_CHECK;
/* Wait for one call; *call is NULL after. INVALID when it isn't one of this handle's. */
DIMFIT_API dimfit_err dimfit_wait(struct dimfit *c, struct dimfit_call **call) DIMFIT_MUST_CHECK;

/* ---- dense tables ---------------------------------------------------------------------------- */

/* A dense table is a named vector that workers share, with an optimizer of its own, told apart by
 * an epoch tag: after a layout change the weights start again under the new tag, and the old tag's
 * can still be read until the next commit. */
struct dimfit_dense {
    const char *name; /* 1..100 bytes */
    uint64_t tag;
    const char *optimizer; /* of dimfit_dense_reset(); NULL: "adam" */
    double lr;             /* 0: 0.001 */
    size_t n;
    float *values; /* [n] */
};

/* Create the table with these values unless it exists: the first one wins, *created tells who did.
 * values are not changed. WIDTH when it exists with another n. created may be NULL. */
DIMFIT_API dimfit_err dimfit_dense_reset(struct dimfit *c, const struct dimfit_dense *table,
                                         int *created) DIMFIT_MUST_CHECK;
/* Fill values[n]. NOT_FOUND when there is no such (name, tag). */
DIMFIT_API dimfit_err dimfit_dense_pull(struct dimfit *c,
                                        const struct dimfit_dense *table) DIMFIT_MUST_CHECK;
/* values[n] is the gradient. FROZEN is held as a row push's, without no_hold. */
DIMFIT_API dimfit_err dimfit_dense_push(struct dimfit *c,
                                        const struct dimfit_dense *table) DIMFIT_MUST_CHECK;
/* The same, to be waited for (dimfit_wait()). The name, too, stays until then. */
DIMFIT_API dimfit_err dimfit_dense_pull_async(struct dimfit *c, const struct dimfit_dense *table,
                                              struct dimfit_call **out) DIMFIT_MUST_CHECK;
DIMFIT_API dimfit_err dimfit_dense_push_async(struct dimfit *c, const struct dimfit_dense *table,
                                              struct dimfit_call **out) DIMFIT_MUST_CHECK;

/* ---- working together ------------------------------------------------------------------------ */

/* Wait until n workers have come to the barrier of this name. TIMEOUT when they don't within the
 * handle's time limit or, if larger, `timeout` seconds. */
DIMFIT_API dimfit_err dimfit_barrier(struct dimfit *c, const char *name, uint32_t n,
                                     double timeout) DIMFIT_MUST_CHECK;

struct dimfit_state {
    const char *phase; /* "idle", "scoring", ... "committed": of the newest reply */
    int scoring;       /* a search wants scores */
    int frozen;        /* training is held while it does */
    uint64_t epoch;
};
/* What the newest reply said; talks to nobody. */
DIMFIT_API struct dimfit_state dimfit_state(const struct dimfit *c);

/* While a search scores in freeze mode: report the step just scored whole (0 at first) with its
 * samples, get the next. exhausted: this worker has no further sample batches. *next = 0: scoring
 * is over. */
DIMFIT_API dimfit_err dimfit_score_next(struct dimfit *c, uint64_t done, uint64_t samples,
                                        int exhausted, uint64_t *next) DIMFIT_MUST_CHECK;

/* Score sums of a slot whose rows live outside the cluster: in the training process, or in another
 * parameter server. */
struct dimfit_sums {
    uint32_t slot;
    uint32_t width;  /* of its rows: the slot's width, or WIDTH */
    uint64_t rows;   /* how many it has: what a dimension of it costs */
    const double *g; /* [width]: sum over lookups of v_k * dL/dv_k, v before the step */
};

/* Report what a step's gradients, of the mean loss over `samples`, say of slots whose rows the
 * cluster does not have, so that a search can score and plan them; step as in struct dimfit_push.
 * Rows are counted, not added up: whoever reports a slot says how many there are in all. STATE
 * while a search wants more than the axis basis, which takes the rows themselves. */
DIMFIT_API dimfit_err dimfit_score_sums(struct dimfit *c, const struct dimfit_sums *sums, size_t n,
                                        uint64_t step, uint64_t samples) DIMFIT_MUST_CHECK;

/* ---- trials of layout changes ------------------------------------------------------------------
 */

/* What a search asks workers to evaluate: the model as it would be right after a layout change that
 * nobody makes. Pull the rows of a validation sample once, the same samples on every worker and the
 * first ones of them for a smaller trial; map the rows of the trial's slots by dimfit_trial_rows(),
 * compute, report. Training goes on meanwhile. */
struct dimfit_trial {
    int over;         /* there is no search that could have a trial */
    uint64_t search;  /* its id */
    uint64_t number;  /* 0: there is no trial now */
    uint64_t samples; /* to evaluate on, or as many as there are */
    size_t n_slots;
    const uint32_t *slots; /* whose rows it changes, ascending */
};

struct dimfit_figures {
    double loss, auc;             /* mean log loss of the trial; auc NaN where it has none */
    double whole_loss, whole_auc; /* of the same rows and samples with nothing changed */
    double error;                 /* standard error of loss - whole_loss; 0: not known */
    uint64_t samples;             /* evaluated on */
};

/* Report the trial handed out last (done NULL: it was not evaluated) and get the next. wait: for up
 * to the handle's time limit, until there is one or none can come; otherwise say at once what there
 * is, TIMEOUT or MAYBE when that takes longer than a second. A trial that is not reported is handed
 * to another worker after a while. *next is the handle's, and good until the next call of this
 * function. NOT_FINITE, INVALID for figures that are none. */
DIMFIT_API dimfit_err dimfit_trial_next(struct dimfit *c, const struct dimfit_figures *done,
                                        int wait,
                                        const struct dimfit_trial **next) DIMFIT_MUST_CHECK;

/* Rows of a slot under the trial handed out last: from[n] and to[n], as wide as a pull's of this
 * view, and may be the same; tiers[n] as pulled with them, NULL where the slot has none. Compact:
 * still at the width they were pulled in, so that the model's transform is what it was. Those of
 * other slots are copied. STATE without a trial; STALE_EPOCH when the layout has changed since:
 * what was pulled before is of no more use; INVALID for a slot with tiers and none given, or one
 * that it does not have. */
DIMFIT_API dimfit_err dimfit_trial_rows(struct dimfit *c, enum dimfit_view view, uint32_t slot,
                                        const uint8_t *tiers, const float *from, size_t n,
                                        float *to) DIMFIT_MUST_CHECK;

/* An admin request: command and JSON arguments (NULL: none) as dimfitctl sends them, the reply's
 * JSON to be freed with dimfit_free(). */
DIMFIT_API dimfit_err dimfit_admin(struct dimfit *c, const char *command, const char *args,
                                   char **reply) DIMFIT_MUST_CHECK;
DIMFIT_API void dimfit_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif
