/*
 * Requests to shards: send, wait, repeat, give up; several exchanges under way at once.
 *
 * An exchange is one call's request to each shard it concerns, a part each. exchange_start() sends
 * them and returns; exchange_finish() runs everything that is under way on the handle until this
 * exchange is done or the call's deadline has come. In between nothing happens: a handle has no
 * thread of its own.
 *
 * Recorded requests to a shard are numbered and taken in order (design 4). A request that is
 * refused without being recorded (stale epoch, freeze) keeps its number; those sent after it find a
 * gap and are sent again behind it.
 *
 *               +-------- refused: stale epoch ---------+
 *               v                                       |
 *     start -> WAITING --- refused: frozen, ahead --> BACKOFF
 *               |  ^ \------------- gap ------------> QUEUED, until the number before it is sent
 *               |  +------- sent again ----------------+
 *               v
 *     DONE, HELD (frozen, and not to wait for that), FAILED
 */
#ifndef WORKER_CLIENT_EXCHANGE_H
#define WORKER_CLIENT_EXCHANGE_H

#include "proto/base.h"
#include "proto/cluster_map.h"
#include "proto/wire.h"
#include "worker/dimfit.h"

#include <zmq.h>

struct exchange;
struct view;

enum part_state {
    PART_WAITING, /* sent, no answer yet */
    PART_BACKOFF, /* to be made and sent again at due_ms */
    PART_QUEUED,  /* to be made and sent again right behind the number before it */
    PART_DONE,
    PART_HELD, /* refused by a freeze, kept for later */
    PART_FAILED,
};

/* One shard's share of a call. */
struct part {
    size_t shard;
    struct exchange *of;
    struct part *next; /* on its link, in the order they were started */
    enum part_state state;
    uint64_t number;             /* of a recorded request; 0: none */
    uint64_t settled;            /* numbers that had been settled when it was sent */
    uint64_t place;              /* of its last copy in all that was sent on the link */
    bool sent;                   /* a copy may be on its way or applied */
    bool repeated;               /* more than one copy may be */
    int64_t due_ms;              /* when to send (again) */
    int64_t wait_ms, backoff_ms; /* of the last wait for an answer, for a refusal to pass */
    struct view *view;           /* the layout its message was made with */
    struct wire_header header;
    zmq_msg_t body, answer;
    dimfit_err err;
    struct err_detail detail;
};

/* The connection to one shard, and what is under way on it. */
struct link {
    void *socket;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    uint64_t incarnation; /* of the numbering; grows when a number's fate stays unknown */
    uint64_t number;      /* the last that was given out */
    uint64_t places;      /* messages sent */
    bool heard;           /* it has answered before */
    struct part *first;   /* in the order they were started */
};

struct exchange {
    const char *what; /* "pull", "push", ...: for error texts */
    bool recorded;    /* numbered: applied once */
    bool hold;        /* wait out a freeze; false: PART_HELD */
    size_t n_parts;
    struct part *parts; /* several may be of one shard */
    /* Make part's header (kind and its own fields) and body under the handle's layout now. */
    dimfit_err (*make)(struct dimfit *c, struct exchange *x, struct part *part);
    /* Check an answer of status OK, its body in part->answer: PROTOCOL when its length is not what
     * it must be. The caller's memory is written once all parts are done. */
    dimfit_err (*take)(struct dimfit *c, struct exchange *x, struct part *part,
                       const struct wire_header *header);
    void *self;
};

/* Make and send every part. Parts are the caller's, zeroed but for `shard`; they and what make()
 * reads stay until exchange_finish() or exchange_drop(). TIMEOUT, nothing sent, when the call's
 * deadline has passed already. */
dimfit_err exchange_start(struct dimfit *c, struct exchange *x) MUST_CHECK;

/* Run to the call's deadline; nothing of the exchange is under way after that. The first failed
 * part's error; FROZEN when parts were held and none failed. */
dimfit_err exchange_finish(struct dimfit *c, struct exchange *x) MUST_CHECK;

/* Forget what is under way without waiting: before the handle is closed. */
void exchange_drop(struct dimfit *c, struct exchange *x);

/* Free what the parts hold; the array is the caller's. */
void exchange_fini(struct exchange *x);

#endif
