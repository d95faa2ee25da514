/*
 * The coordinator's core: membership, the layout in force, the search life cycle, the admin plane.
 *
 * Event in, effects out through one vtable: a message arrived, time passed, a plan is made. No
 * sockets, no clock, no threads, no files of its own, so that a whole cluster runs in one unit
 * test. Work on all shards (gather statistics, prepare, commit) is an operation: a command to each,
 * replies counted in, one continuation (coordinator_op.c).
 */
#ifndef SERVER_COORDINATOR_H
#define SERVER_COORDINATOR_H

#include "proto/cluster_map.h"
#include "proto/wire.h"
#include "server/plan.h"

struct coordinator;

/* Who asked: a ROUTER identity, and the address it came from where that is known. */
struct route {
    uint8_t len;
    uint8_t id[255];
    char peer[48];
};

/* A plan to be made away from the coordinator's thread: inputs owned by the job, then its result.
 */
struct plan_job {
    uint64_t search; /* which search asked */
    struct layout *layout;
    struct stats *stats;
    struct plan_request request;
    const struct strategies *strategies;
    struct trials trials;
    struct plan *plan; /* the result, on DIMFIT_OK; NULL: it waits for trials */
    dimfit_err err;
    struct err_detail detail;
};
void plan_job_run(struct plan_job *job);
void plan_job_destroy(struct plan_job **job);

struct coordinator_io {
    void *self;
    /* Send a message; header and body are borrowed. Never blocks; a peer that can't be reached
     * loses it. */
    void (*send)(void *self, const struct route *to, const struct wire_header *header,
                 const void *body, size_t len);
    int64_t (*now_ms)(void *self); /* monotonic */
    int64_t (*wall_s)(void *self); /* seconds since 1970-01-01, UTC */
    /* Make the state durable: when it returns DIMFIT_OK, coordinator_new() will be given it after
     * any crash. May be NULL, with save_plan: nothing is kept. */
    dimfit_err (*save)(void *self, const void *bytes, size_t len, struct err_detail *detail);
    /* The same of a plan, given to coordinator_restore_plan() after any crash; bytes NULL: it is
     * gone. */
    dimfit_err (*save_plan)(void *self, uint64_t id, const void *bytes, size_t len,
                            struct err_detail *detail);
    /* Append a line to the audit log, some time soon. May be NULL: there is none. */
    void (*audit)(void *self, const char *line);
    /* Keep the trials of a search that runs (len 0: forget them), and give them back to one that
     * is started in its place. Both may be NULL: none are kept. kept_trials is NOT_FOUND when there
     * are none. */
    dimfit_err (*keep_trials)(void *self, const void *bytes, size_t len, struct err_detail *detail);
    dimfit_err (*kept_trials)(void *self, struct buf *out, struct err_detail *detail);
    /* Run plan_job_run() somewhere, then hand the job back to coordinator_planned(). */
    void (*plan)(void *self, struct plan_job *job);
    /* The cluster is told to stop; the host leaves its loop once what was sent is out. */
    void (*stop)(void *self);
};

struct coordinator_options {
    size_t shards;               /* how many make the cluster */
    uint64_t seed;               /* of initial values */
    uint64_t cluster;            /* the number a new cluster gets, drawn; never 0 */
    bool auto_slots;             /* workers may declare slots that the configuration doesn't list */
    struct layout_slot defaults; /* of declared slots; width 0: as dim */
    size_t n_slots;
    const struct layout_slot *slots; /* configured ones, borrowed during coordinator_new() */
    int64_t scoring_timeout_ms;      /* a freeze without progress for so long is an error */
    int64_t step_timeout_ms;         /* for every shard to answer one step of an operation */
    int32_t shrink_at; /* when rows expire each day: minutes after midnight UTC; -1: never */
    const struct strategies *strategies;
};

/* state[len]: what save() was last given, NULL for a new cluster. A state that is torn or of
 * another version is refused. Configured slots that the state lacks are added; ones that differ are
 * CONFIG. */
dimfit_err coordinator_new(const struct coordinator_options *options,
                           const struct coordinator_io *io, const void *state, size_t len,
                           struct coordinator **out, struct err_detail *detail) MUST_CHECK;
void coordinator_destroy(struct coordinator **coordinator);
/* To a new one, each of the plans that save_plan() was given: VERSION or IO, and it is left out. */
dimfit_err coordinator_restore_plan(struct coordinator *coordinator, const void *bytes, size_t len,
                                    struct err_detail *detail) MUST_CHECK;

void coordinator_receive(struct coordinator *coordinator, const struct route *from,
                         const struct wire_header *header, const uint8_t *body, size_t len);
/* Call a few times a second: time limits. */
void coordinator_tick(struct coordinator *coordinator);
/* Takes the job. */
void coordinator_planned(struct coordinator *coordinator, struct plan_job **job);
/* Tell every shard to stop (an orderly shutdown). */
void coordinator_stop(struct coordinator *coordinator);

#endif
