/*
 * What the files of the coordinator core share. Only coordinator*.c and search*.c include this.
 */
#ifndef SERVER_COORDINATOR_INTERNAL_H
#define SERVER_COORDINATOR_INTERNAL_H

#include "server/coordinator.h"
#include "server/figures.h"
#include "server/hello.h"
#include "server/kept_plan.h"
#include "server/shrink_rules.h"

#include <jansson.h>

enum {
    COORDINATOR_MAGIC = 0x434f4f52,
    SILENT_AFTER_MS = 5000, /* shards send a heartbeat every second */
    PAUSE_MS = 1000,        /* ticks come several times a second */
    OPS_MAX = 256,          /* under way, when another is asked for from outside */
    WHO_MAX = 96,
};

/* A request that is answered later. */
struct asker {
    struct route route;
    enum wire_kind kind;
    uint64_t request;
};

struct member {
    bool registered;
    struct route route;
    uint64_t identity; /* of the shard's life; a new one is a new shard */
    uint64_t pid, epoch, samples;
    bool full;       /* it leaves scores out for want of memory */
    uint64_t moving; /* rows that the last commit has yet to move there */
    int64_t seen_ms;
};

struct coordinator;
struct op;
/* op->err tells how it ended; what it gathered may be taken out of it. */
typedef void op_done(struct coordinator *coordinator, struct op *op);

/* One command to every shard. */
struct op {
    struct op *next;
    uint64_t id; /* the commands' request number */
    struct wire_header command;
    int64_t began_ms, deadline_ms;
    bool answered[CLUSTER_SHARDS_MAX];
    size_t missing;
    struct stats *stats;           /* GATHER of statistics: merged as they come */
    struct shard_figures *figures; /* GATHER of figures: [shards] */
    struct asker asker;            /* of the request behind it, if any */
    char argument[32];             /* of that request: the estimator of `scores` */
    op_done *done;
    dimfit_err err;
    struct err_detail detail;
};

struct barrier {
    struct barrier *next;
    char name[WIRE_NAME_MAX + 1];
    size_t n, cap, wanted;
    bool open; /* everyone came: repeats of the same requests are let through */
    int64_t open_ms;
    struct barrier_member {
        struct asker asker;
        uint64_t client;
        int64_t deadline_ms;
    } * members;
};

/* What `search start` asks for. */
struct search_request {
    struct plan_request plan;
    bool freeze, plan_only;
    uint64_t samples;   /* 0: all there are (freeze mode only) */
    int64_t timeout_ms; /* without progress */
};

enum { SCORERS_MAX = 4096 };

struct scorer {
    uint64_t client;
    uint64_t step;      /* being scored, 0 for none */
    bool waits;         /* asked before every shard scored: */
    struct asker asker; /* answered when they do */
};

/* A worker that waits for a trial. */
struct trial_asker {
    struct asker asker;
    uint64_t worker;
    int64_t since_ms;
};

/* Between the turns of a strategy that tries what it decides (search_trial.c). */
struct trying {
    struct plan_job *job; /* its trials are handed out; NULL: none are */
    bool planning;        /* a job is at the planner, */
    int64_t planner_ms;   /* since when */
    size_t next;          /* trials before this one were handed out */
    size_t kept;          /* known from an interrupted search */
    size_t asked;         /* in all, when the job is done */
    bool begun;           /* there were trials, from started_ms on */
    bool dirty;           /* there are results that were not kept yet */
    int64_t started_ms, progress_ms, keep_ms;
    size_t n_waiting;
    struct trial_asker waiting[64];
};

struct search {
    uint64_t id; /* 0: none yet */
    enum wire_phase phase;
    bool freeze, plan_only;
    bool scoring;            /* every shard scores: what is pushed from now on counts */
    bool moments, curvature; /* what fitted bases are made of, kept and brought while scoring */
    uint64_t awaited;        /* the operation whose end the search goes on from */
    struct plan_request request;
    uint64_t samples, wanted, steps; /* scored so far, asked for; steps scored whole */
    uint64_t next_step;              /* the last one handed out */
    bool exhausted;                  /* a worker came to the end of the sample set */
    size_t n_scorers;
    struct scorer *scorers; /* [SCORERS_MAX] while scoring */
    int64_t timeout_ms, progress_ms, phase_ms;
    double seconds_scoring, seconds_planning, seconds_apply;
    struct trying trying;
    char who[WHO_MAX]; /* gave the command that it follows */
    dimfit_err err;
    struct err_detail detail;
    size_t n_plan_askers;
    struct asker plan_askers[8];
};

/* A change on its way into force, while the search is preparing. */
struct apply {
    uint64_t plan;        /* whose change it is, or whose it takes back */
    bool undoes, dry_run; /* takes the last commit back; asks the shards and changes nothing */
    enum wire_phase back; /* where a dry run goes back to */
    struct asker asker;   /* of a dry run, and who that is: */
    char who[WHO_MAX];
    struct change *change; /* NULL once it can be undone */
    struct layout *layout; /* that it makes; NULL past the commit point */
    uint64_t awaited;      /* the operation whose end it goes on from */
    int64_t repeat_ms;     /* when shards are asked again, 0: they are being asked */
};

/* What the last commit can be undone by. */
struct undo {
    uint64_t search;       /* whose plan it was, 0: nothing was committed */
    bool undone;           /* it was rolled back */
    struct change *change; /* NULL: there is no way back */
    struct layout *before; /* NULL with change */
};
void undo_fini(struct undo *undo);

enum shrink_state {
    SHRINK_NONE,
    SHRINK_STARTING, /* rows are counted, then every shard is told */
    SHRINK_RUNNING,  /* every shard was told; looked at until all have done it */
    SHRINK_DONE,
    SHRINK_FAILED,
};

/* The shrink that runs, or the last one. */
struct shrink {
    uint64_t number; /* 0 while it is not known yet: larger than any a shard knows */
    enum shrink_state state;
    bool daily; /* by the clock, not by an admin */
    struct shrink_rules rules;
    struct shrink_count {
        uint64_t before, evicted, after; /* rows; after as it stands, dry run or not */
        uint64_t pending;                /* feasigns forgotten that waited for a row */
        uint64_t promoted, demoted;      /* rows to another tier */
    } * counts;                          /* [rules.n] */
    bool asked;
    struct asker asker; /* told when every shard was */
    bool polling;       /* an operation that looks at the shards is under way */
    int64_t started_ms, poll_ms, progress_ms;
    double seconds;
    uint64_t seen, total;     /* feasigns looked at, to look at */
    uint64_t evicted;         /* known of so far, while it runs */
    struct err_detail detail; /* of a failure */
};

struct coordinator {
    uint32_t magic;
    struct coordinator_options options;
    struct coordinator_io io;
    struct layout *layout;
    uint64_t cluster; /* its number: rows that a shard keeps are this cluster's or another's */
    struct cluster_map *map;
    struct member *members; /* [options.shards] */
    bool *kept; /* [options.shards] shards that keep their rows on their disks, and come back so */
    struct op *ops;
    struct barrier *barriers;
    struct search search;
    struct apply apply;
    struct undo undo;
    struct kept_plans plans;
    char who[WHO_MAX]; /* asks for what is being done */
    struct shrink shrink;
    int64_t shrink_due_s; /* wall clock, of the next daily one */
    uint64_t next_op, next_search;
    size_t adding;                /* operations under way that add slots */
    bool uneven;                  /* a shard may lack slots of the layout */
    bool committing;              /* an operation under way switches shards to the layout's epoch */
    int64_t repeat_ms;            /* when the one or the other may be tried again */
    int64_t started_ms, awake_ms; /* awake: the last time we did anything */
    bool stopping;
};

/* coordinator.c */
struct asker asker_of(const struct route *from, const struct wire_header *header);
void coordinator_answer(struct coordinator *c, const struct asker *to, dimfit_err status,
                        const struct err_detail *detail, const void *body, size_t len);
void coordinator_reply(struct coordinator *c, const struct asker *to, struct wire_header *reply,
                       const void *body, size_t len);
/* All shards have joined. */
bool coordinator_complete(const struct coordinator *c, struct err_detail *detail);
/* ... and been heard of lately: work that needs every shard may begin. */
bool coordinator_answering(const struct coordinator *c, struct err_detail *detail);
bool coordinator_frozen(const struct coordinator *c);

/* coordinator_state.c */
/* Durable when it returns DIMFIT_OK. */
dimfit_err coordinator_save(struct coordinator *c, const struct layout *layout,
                            const struct undo *undo, struct err_detail *detail) MUST_CHECK;
/* Into a new coordinator: layout, undo, next_search. */
dimfit_err coordinator_load(struct coordinator *c, const void *bytes, size_t len,
                            struct err_detail *detail) MUST_CHECK;

/* coordinator_audit.c */
/* Who asks, for people: "127.0.0.1 client 00000000000017f3". */
void audit_set_who(struct coordinator *c, const struct route *from,
                   const struct wire_header *header);
/* A command was asked for, with what came of it. */
void audit_command(struct coordinator *c, const char *command, const json_t *args, dimfit_err err,
                   const struct err_detail *detail);
/* The search came to another phase, or a dry run to its end. */
void audit_phase(struct coordinator *c);
void audit_dry_run(struct coordinator *c, dimfit_err err, const struct err_detail *detail);

/* coordinator_op.c */
dimfit_err op_start(struct coordinator *c, const struct wire_header *command, const void *body,
                    size_t len, op_done *done, struct op **out) MUST_CHECK;
void op_reply(struct coordinator *c, size_t shard, const struct wire_header *header,
              const uint8_t *body, size_t len);
void op_tick(struct coordinator *c, int64_t now);
size_t op_count(const struct coordinator *c);
void op_list_destroy(struct coordinator *c);

/* coordinator_members.c */
void members_register(struct coordinator *c, const struct route *from,
                      const struct wire_header *header, const uint8_t *body, size_t len);
void members_heartbeat(struct coordinator *c, const struct route *from,
                       const struct wire_header *header);
bool members_find(const struct coordinator *c, const struct route *from, size_t *number);
void members_connect(struct coordinator *c, const struct route *from,
                     const struct wire_header *header);
void members_declare(struct coordinator *c, const struct route *from,
                     const struct wire_header *header, const uint8_t *body, size_t len);

/* coordinator_catch_up.c */
/* Tell every shard to switch to the epoch in force, until it has. */
void catch_up_commit(struct coordinator *c);
void catch_up_tick(struct coordinator *c, int64_t now);

/* coordinator_barrier.c */
void barrier_arrive(struct coordinator *c, const struct route *from,
                    const struct wire_header *header);
void barrier_tick(struct coordinator *c, int64_t now);
void barrier_list_destroy(struct coordinator *c);

/* coordinator_admin.c */
void admin_request(struct coordinator *c, const struct route *from,
                   const struct wire_header *header, const uint8_t *body, size_t len);
void admin_answer(struct coordinator *c, const struct asker *to, json_t *json); /* takes json */

/* search.c */
dimfit_err search_start(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) MUST_CHECK;
dimfit_err search_plan(struct coordinator *c, const struct asker *asker, const json_t *args,
                       struct err_detail *detail) MUST_CHECK;
dimfit_err search_abort(struct coordinator *c, struct err_detail *detail) MUST_CHECK;
void search_fini(struct coordinator *c);
/* Every shard answers and is of the epoch in force: a search may begin, a change be applied. */
dimfit_err search_level(const struct coordinator *c, struct err_detail *detail) MUST_CHECK;
void search_enter(struct coordinator *c, enum wire_phase phase);
double search_seconds_in_phase(const struct coordinator *c);
/* Tell every shard; nothing waits for the answers. */
void search_broadcast(struct coordinator *c, enum wire_kind kind, uint64_t tag);
/* Workers are asked to bring the curvature of their slots. */
bool search_wants_curvature(const struct search *s);
/* End the search where it stands: nothing has changed, whoever waits is told why. */
void search_fail(struct coordinator *c, dimfit_err err, const struct err_detail *detail);
/* Its plan was made to be compared with another, and was. */
void search_compared(struct coordinator *c);
/* Scoring, if any, is over: gather the statistics and plan. */
void search_begin_planning(struct coordinator *c);

/* search_apply.c */
dimfit_err search_apply(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) MUST_CHECK;
dimfit_err search_rollback(struct coordinator *c, const struct asker *asker, const json_t *args,
                           struct err_detail *detail) MUST_CHECK;
/* asker: of a dry run, answered when the shards have; NULL otherwise. */
dimfit_err apply_plan(struct coordinator *c, const struct kept_plan *plan, bool dry_run,
                      const struct asker *asker, struct err_detail *detail) MUST_CHECK;
void apply_end_dry_run(struct coordinator *c, dimfit_err err, const struct err_detail *detail);
/* It is in force, though not on every shard yet. */
bool apply_past_commit(const struct coordinator *c);
/* Rows of the change before still move somewhere: the shards are asked again. */
bool apply_waits(const struct coordinator *c);
void apply_tick(struct coordinator *c, int64_t now);
void apply_fini(struct coordinator *c);
/* Every shard is of the epoch in force. */
void search_committed(struct coordinator *c);
/* A shard has not switched yet: shown as the search's error until it has. */
void search_commit_delayed(struct coordinator *c, dimfit_err err, const struct err_detail *detail);

/* search_plans.c */
/* Takes change and report. */
dimfit_err plans_keep(struct coordinator *c, uint64_t id, struct change **change, json_t *report,
                      struct err_detail *detail) MUST_CHECK;
void plans_forget(struct coordinator *c, uint64_t id);
/* What c->undo says of its plan is noted there. */
void plans_committed(struct coordinator *c);
/* NOT_FOUND */
dimfit_err plans_find(const struct coordinator *c, uint64_t id, struct kept_plan **out,
                      struct err_detail *detail) MUST_CHECK;
/* Where none is named: that of the search at hand, or, since a restart there was none, the newest;
 * NULL: there is none. */
struct kept_plan *plans_default(const struct coordinator *c);
/* STATE: it was applied; STALE_EPOCH: it is of another layout. */
dimfit_err plans_check_ready(const struct coordinator *c, const struct kept_plan *plan,
                             struct err_detail *detail) MUST_CHECK;
json_t *plans_json(const struct coordinator *c);
json_t *plans_show(const struct coordinator *c, const struct kept_plan *plan);
dimfit_err search_discard(struct coordinator *c, const struct asker *asker, const json_t *args,
                          struct err_detail *detail) MUST_CHECK;

/* search_request.c */
/* INVALID naming the option. timeout_ms: where none is given. */
dimfit_err search_request_parse(const json_t *args, int64_t timeout_ms, struct search_request *out,
                                struct err_detail *detail) MUST_CHECK;

/* coordinator_shrink.c */
/* The asker is answered when every shard has begun, or with what went wrong. */
dimfit_err shrink_start(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) MUST_CHECK;
json_t *shrink_status_json(const struct coordinator *c);
/* Find the time of the first daily one. */
void shrink_init(struct coordinator *c);
void shrink_fini(struct coordinator *c);
void shrink_tick(struct coordinator *c, int64_t now);

/* search_scoring.c */
/* Answer the workers that asked too early, or too late. */
void search_answer_scorers(struct coordinator *c);
void search_score_next(struct coordinator *c, const struct route *from,
                       const struct wire_header *header);
void search_tick(struct coordinator *c, int64_t now);

/* search_trial.c */
/* Hand a job to the planner, for a limited time. */
void search_trial_plan(struct coordinator *c, struct plan_job *job);
/* The planner waits for trials: have them done, then hand the job back to it. Takes the job. */
void search_try(struct coordinator *c, struct plan_job **job);
/* Add the trials that an interrupted search of the same question has kept. */
void search_trial_resume(struct coordinator *c, struct plan_job *job);
/* The search has its plan: no later one is to go on from its trials. */
void search_trial_forget(struct coordinator *c);
void search_trial_next(struct coordinator *c, const struct route *from,
                       const struct wire_header *header, const uint8_t *body, size_t len);
/* Give the workers that wait what there is, or tell them that there will be none. */
void search_trial_answer(struct coordinator *c);
void search_trial_tick(struct coordinator *c, int64_t now);
void search_trial_fini(struct coordinator *c);
json_t *search_trial_json(const struct coordinator *c);
json_t *search_candidates_json(const struct plan *plan);

/* search_report.c */
json_t *search_status_json(const struct coordinator *c);
/* A plan just made, as it is kept and shown: slot by slot, and the request it came from. */
json_t *search_plan_report(const struct coordinator *c, const struct plan *plan);

#endif
