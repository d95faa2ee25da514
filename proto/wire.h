/*
 * The message header: what every dimfit process says to another, as a plain struct.
 *
 * A message is a header frame and, where a kind has bulk data, one body frame. This module is the
 * only one that sees protobuf-c. Decoding allocates from a fixed arena on the stack and refuses
 * headers over WIRE_HEADER_MAX bytes, so that hostile bytes cost nothing. Thread-safe, no state.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include "proto/base.h"

enum {
    WIRE_VERSION = 1,
    WIRE_HEADER_MAX = 1024,
    WIRE_NAME_MAX = 127,
};

/* Largest body a shard, a coordinator or a client takes (ZMQ_MAXMSGSIZE). */
#define WIRE_BODY_MAX ((int64_t)1 << 30)

/* Numbers are reserved, never reused. First column: who asks whom. */
#define WIRE_KIND_MAP(X)                                                                           \
    /* worker -> shard */                                                                          \
    X(1, PULL) /* body: sections of keys; mode: PULL_*; reply: f32 values, section by section */   \
    X(2, PUSH) /* body: sections of keys, gradients, lookups, clicks; mode: PUSH_*; day;           \
                  recorded */                                                                      \
    X(3, DENSE_RESET) /* name, tag; body: struct optimizer + f32; reply mode 1 created, 0 there */ \
    X(4, DENSE_PULL)  /* name, tag; reply: f32 */                                                  \
    X(5, DENSE_PUSH)  /* name, tag; body: f32 gradient; recorded */                                \
    X(85, SCORE_SUMS) /* step, samples; body: score sums of rows that live elsewhere               \
                         (proto/sums.h); recorded */                                               \
    /* worker -> coordinator */                                                                    \
    X(16, CONNECT)    /* reply: cluster map + layout */                                            \
    X(17, DECLARE)    /* body: count + declarations; reply as CONNECT */                           \
    X(18, BARRIER)    /* name, tag: how many; the reply comes when all are there */                \
    X(19, SCORE_NEXT) /* tag: search id, step + samples: the one done, 0 none, mode: SCORE_*;      \
                         reply: step to score and mode SCORE_*, or SCORE_OVER */                   \
    X(20, ADMIN)      /* name: command; body: JSON arguments; reply: JSON */                       \
    X(21, TRIAL_NEXT) /* tag: search id, step + samples + body (proto/trial.h): the trial done, 0  \
                         none, mode: TRIAL_WAIT; reply: tag, step + samples + body (a change): the \
                         trial to do, or mode TRIAL_LATER, TRIAL_OVER */                           \
    /* shard -> coordinator */                                                                     \
    X(32, REGISTER)  /* body: struct hello; reply tag: shard number, body: layout */               \
    X(33, HEARTBEAT) /* tag: search, samples and mode: SCORE_WANT_*, SCORE_FULL; moving: rows that \
                        the last commit has yet to move; reply: none to a shard that is known */   \
    /* coordinator -> shard */                                                                     \
    X(48, ADD_SLOTS)   /* body: count + layout slots; reply: status */                             \
    X(49, SCORE_START) /* tag: search id, mode: SCORE_WANT_*, step: how many steps to keep, the    \
                          last ones, 0: all; clears the sums */                                    \
    X(50, SCORE_STOP)  /* tag: search id; leaves the sums */                                       \
    X(51, GATHER)      /* mode: GATHER_*; reply: encoded struct stats, later where it takes sums   \
                          over the rows */                                                         \
    X(52, PREPARE)     /* tag: new epoch; body: change + layout; moves nothing */                  \
    X(53, COMMIT)      /* tag: new epoch; switches */                                              \
    X(54, DISCARD)     /* tag: new epoch; forgets what was prepared */                             \
    X(55, STOP)        /* shut down */                                                             \
    X(56, SHRINK)      /* tag: its number, step: the day, mode: SHRINK_DRY_RUN; body: rules        \
                          (proto/shrink.h); reply: status at once, the work goes on in slices; the \
                          number again: nothing more. How far it is stands in the figures */       \
    X(57, FORGET) /* tag: the epoch in force; drops the rows saved to undo it with; BUSY while     \
                     they are still being moved */                                                 \
    /* in a shard's log alone (shard_log.c), beside what others send */                            \
    X(60, LOG_BEGIN)   /* body: options + layout: the state before the first record */             \
    X(61, LOG_OPTIONS) /* body: options in force from here on */                                   \
    X(62, LOG_SLICE)   /* tag: the shrink that one more slice was made of; mode: SLICE_RETIER */

enum wire_kind {
#define WIRE_KIND_ENUM(num, name) WIRE_##name = (num),
    WIRE_KIND_MAP(WIRE_KIND_ENUM)
#undef WIRE_KIND_ENUM
};

/* Where a search stands; every reply carries it. */
#define WIRE_PHASE_MAP(X)                                                                          \
    X(0, IDLE, "idle")                                                                             \
    X(1, SCORING, "scoring")                                                                       \
    X(2, PLANNING, "planning")                                                                     \
    X(3, PLANNED, "planned")                                                                       \
    X(4, PREPARING, "preparing")                                                                   \
    X(5, COMMITTED, "committed")                                                                   \
    X(6, ABORTED, "aborted")                                                                       \
    X(7, ROLLED_BACK, "rolled back")                                                               \
    X(8, COMPARED, "compared")

enum wire_phase {
#define WIRE_PHASE_ENUM(num, name, text) PHASE_##name = (num),
    WIRE_PHASE_MAP(WIRE_PHASE_ENUM)
#undef WIRE_PHASE_ENUM
};

enum wire_mode {
    PUSH_TRAIN = 1 << 0, /* apply the optimizer */
    PUSH_SCORE = 1 << 1, /* add to the score sums */

    PULL_HALF = 1 << 0,  /* the reply is float16 */
    PULL_TIERS = 1 << 1, /* behind the values, a byte a row: its tier */

    SCORE_EXHAUSTED = 1 << 0, /* asker: I have no further samples */
    SCORE_OVER = 1 << 1,      /* reply: scoring has ended */

    TRIAL_WAIT = 1 << 0,  /* asker: answer when there is a trial, within a second or so */
    TRIAL_OVER = 1 << 1,  /* reply: there is no search that could have any */
    TRIAL_LATER = 1 << 2, /* reply: none now */

    SCORE_WANT_MOMENTS = 1 << 0,   /* keep r^T dL/dr per step and slot, not just its diagonal */
    SCORE_WANT_FREEZE = 1 << 1,    /* refuse training while scoring */
    SCORE_WANT_LIVE = 1 << 2,      /* ordinary training pushes are scored */
    SCORE_FULL = 1 << 3,           /* HEARTBEAT: the memory for score sums is used up */
    SCORE_WANT_CURVATURE = 1 << 4, /* workers shall bring the curvature of each slot (section.h) */

    GATHER_SCORES = 1 << 0,
    GATHER_MOMENTS = 1 << 1, /* sums over the stored rows: r, r^T r, plain and count-weighted */
    GATHER_FIGURES = 1 << 2, /* instead: encoded struct shard_figures */
    GATHER_LOOKUPS = 1 << 3, /* sums of the stored rows' show counts */

    SHRINK_DRY_RUN = 1 << 0, /* count what would go, change nothing */
    SLICE_RETIER = 1 << 0,   /* rows went to the tier they belong to */
};

struct wire_header {
    enum wire_kind kind;
    bool reply, frozen;
    bool curvature; /* of a reply: scored pushes shall bring their slots' curvature (section.h) */
    enum wire_phase phase;
    dimfit_err status;
    uint32_t mode, timeout_ms;
    uint32_t day; /* of a push: days since 1970-01-01 (UTC), 0 unknown */
    uint64_t request, client, incarnation, seq, epoch, step, samples, tag, plain, moving;
    char name[WIRE_NAME_MAX + 1];
    struct err_detail detail;
};

const char *wire_kind_name(enum wire_kind kind); /* "PULL"; "?" for a number we don't know */
const char *wire_phase_name(enum wire_phase phase);

/* Encode into out[WIRE_HEADER_MAX]; always fits (a long detail is cut). Returns the length. */
size_t wire_encode(const struct wire_header *header, uint8_t *out);

/* PROTOCOL for anything malformed or out of range, VERSION for another wire version; *out is
 * written on success only. An unknown kind decodes: the receiver answers UNSUPPORTED. */
dimfit_err wire_decode(const void *bytes, size_t len, struct wire_header *out,
                       struct err_detail *detail) MUST_CHECK;

#endif
