/*
 * The load that dimfit-bench puts on a running dimfitd, and how long it takes.
 *
 * A target is one dimfitd, with Redis beside it where a measurement asks for that. A stream is what
 * one client sends: batches of keys drawn from the rows of a slot, with what repeats come of it. A
 * measurement gives a call (pull, push, MGET, ...) batch after batch of a stream for some seconds.
 * Whatever fails ends the program. One thread uses a target; another one opens its own.
 */
#ifndef TESTS_BENCH_LOAD_H
#define TESTS_BENCH_LOAD_H

#include "tests/bench/bench.h"
#include "tests/bench/redis.h"
#include "tests/bench/redis_bare.h"
#include "worker/dimfit.h"

struct target {
    const char *endpoint; /* of the coordinator */
    const char *daemon;   /* its process number; NULL: no CPU is measured */
    const char *port;     /* Redis's; NULL: there is none */
    bool half;            /* pull rows as float16 */
    struct dimfit *c;
    struct redis *redis;
    struct redis_bare *bare;
    bool has_model;
};

/* What the command line says. */
struct run {
    int rounds;
    double seconds; /* of a measurement in a round */
    size_t n_targets;
    struct target *targets;
};

enum {
    BENCH_DRAWN = 64 * BENCH_BATCH,
    IN_FLIGHT = 4, /* of the calls that return before they are answered */
};

struct flight {
    struct dimfit_call *call; /* NULL: none is under way */
    float *values;            /* [batch][width], what it pulls */
};

struct stream {
    uint32_t slot, width;
    size_t rows;            /* of the slot: keys are of its first so many */
    size_t batch;           /* keys of a request */
    size_t n;               /* different batches */
    uint64_t *keys;         /* [n][batch] */
    float *values;          /* [batch][width], what was pulled */
    float *grads;           /* [batch][width] */
    struct flight *flights; /* [IN_FLIGHT] */
};

/* ---- targets --------------------------------------------------------------------------------- */

void target_open(struct target *target);
void target_close(struct target *target);
void target_must(const struct target *target, dimfit_err err); /* or end with its text */

enum {
    SLOT_MODEL = 1, /* BENCH_ROWS rows of BENCH_WIDTH floats, in dimfitd and in Redis */
    SLOT_MEMORY,    /* and what single measurements bring along */
    SLOT_BIG,
    SLOT_GROWING,
    SLOT_WIDE, /* and up */
};

/* SLOT_MODEL, unless it is there. */
void model_fill(struct target *target);

/* Declare a slot (row-wise AdaGrad) and push its rows first .. end - 1 for training. */
void slot_declare(const struct target *target, uint32_t slot, uint32_t width);
void slot_fill(const struct target *target, uint32_t slot, uint32_t width, uint64_t first,
               uint64_t end);
/* The first `rows` keys, with values of this width, into Redis. */
void redis_fill(const struct target *target, uint32_t width, uint64_t rows);

/* A number of the daemon's statistics ("stats", totals). */
double target_total(const struct target *target, const char *name);

/* ---- streams --------------------------------------------------------------------------------- */

/* Fields up to n are given; keys are drawn from this seed. */
void stream_init(struct stream *stream, uint64_t seed);
/* Over SLOT_MODEL, BENCH_DRAWN keys in batches of this size. */
struct stream stream_of_model(size_t batch);
void stream_fini(struct stream *stream);

typedef void call(const struct target *target, const struct stream *stream, size_t i);

call call_pull, call_push, call_push_score; /* one request in flight */
call call_pull_4, call_push_score_4;        /* IN_FLIGHT requests: the oldest is waited for first */
call call_mget, call_mset;                  /* Redis through hiredis */
call call_bare_mget, call_bare_mset; /* Redis through redis_bare.h; batch and width of BENCH_ */

/* ---- measuring ------------------------------------------------------------------------------- */

struct rate {
    double keys_a_second;
    double server_ns, client_ns; /* CPU a key; the server's is dimfitd's whatever is called */
};

/* What is measured: a call, on a target, with a stream. */
struct side {
    const struct target *target;
    const struct stream *stream;
    call *one;
};

struct rate measure(const struct side *side, double seconds);

/* A series of keys a second, by turns with those of another side; printed under this name. */
void compare(const char *name, const struct side *ours, const char *against,
             const struct side *theirs, int rounds, double seconds);

#endif
