/*
 * What the files of the shard core share: its state, and one handler a request kind. Only shard*.c
 * includes this.
 *
 * A handler fills in the reply's body and returns the status; on anything but DIMFIT_OK the shard
 * is unchanged and reply->header.detail says why.
 */
#ifndef SERVER_SHARD_INTERNAL_H
#define SERVER_SHARD_INTERNAL_H

#include "proto/section.h"
#include "proto/shrink.h"
#include "server/dense.h"
#include "server/session.h"
#include "server/shard.h"

enum { SHARD_MAGIC = 0x53484152 };

/* The shrink under way, or the figures of the last one. */
struct shrink {
    struct shrink_figures figures;
    struct shrink_rule *rules; /* [figures.slots], NULL when none is under way */
    uint32_t today;
    struct expiry_walk walk; /* in the slot of rule figures.slots_done */
};

enum { GATHERS_MAX = 8 };

/* Statistics that are added up in slices, for all who asked for them meanwhile. */
struct gather {
    size_t n;
    uint64_t requests[GATHERS_MAX];
    uint32_t mode; /* what any of them asked for */
    struct export_walk walk;
    struct stats *stats; /* NULL before the first slice */
    bool done;           /* answers are due */
    dimfit_err err;
};

/* Slots whose rows live outside the cluster, ascending, and how many workers say there are. */
struct elsewhere {
    size_t n, cap;
    struct {
        uint32_t slot;
        uint64_t rows;
    } * slots;
};

void elsewhere_encode(const struct elsewhere *elsewhere, struct buf *out);
/* Into a zeroed one; a count that is none, or slots that do not ascend, fail the reader. */
dimfit_err elsewhere_decode(struct reader *in, struct elsewhere *out) MUST_CHECK;

struct shard {
    uint32_t magic;
    struct shard_io io;
    uint64_t max_memory, row_memory;
    bool skip_new, keep;
    uint32_t score_sample;
    bool replaying;        /* records are not written, limits on rows do not hold */
    bool logged;           /* the request that is being handled is in the log */
    struct layout *layout; /* in force; table slots follow it */
    struct layout *before; /* before the last change, NULL: that can't be undone */
    struct table *table;
    struct score *score;
    struct dense *dense;
    struct sessions *sessions;

    enum wire_phase phase;
    uint64_t search; /* the one that last started scoring */
    bool frozen;     /* training pushes are turned away */
    bool live;       /* training pushes are scored */
    bool curvature;  /* scored pushes are asked for their curvature */
    bool full;       /* score sums were left out for want of memory since scoring started */

    uint64_t prepared_epoch; /* 0: none */
    struct change *prepared_change;
    struct layout *prepared_layout;

    struct elsewhere elsewhere;
    struct shrink shrink;
    struct gather gather;

    struct section_list sections; /* reused by every request */
    struct shard_counters counters;
};

struct shard_message {
    const struct wire_header *header;
    const uint8_t *body;
    size_t len;
    const uint8_t *sent; /* the body as it came, packed where header->plain says so */
    size_t sent_len;
};

typedef dimfit_err shard_handler(struct shard *shard, const struct shard_message *in,
                                 struct shard_reply *reply);

shard_handler shard_pull, shard_push, shard_sums;
shard_handler shard_dense_reset, shard_dense_pull, shard_dense_push;
shard_handler shard_add_slots, shard_score_start, shard_score_stop, shard_gather;
shard_handler shard_prepare, shard_commit, shard_discard, shard_shrink, shard_forget;

/* A shard of options and io alone, good for shard_destroy(), and what it has of a layout, once that
 * is there: table, sums, dense tables, sessions. */
dimfit_err shard_begin(const struct shard_options *options, const struct shard_io *io,
                       struct shard **out) MUST_CHECK;
dimfit_err shard_fill(struct shard *shard, uint64_t score_memory) MUST_CHECK;

/* Into the log, unless it comes from there. LOG with a detail. */
dimfit_err shard_log(struct shard *shard, const struct wire_header *header, const void *body,
                     size_t len, struct err_detail *detail) MUST_CHECK;
dimfit_err shard_log_message(struct shard *shard, const struct shard_message *in,
                             struct err_detail *detail) MUST_CHECK;
/* The last record, of what then could not be done. */
void shard_unlog(struct shard *shard);
/* A request through its checks and its handler (shard.c). */
dimfit_err shard_handle(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) MUST_CHECK;
/* NULL: there is none. */
shard_handler *shard_command_handler(enum wire_kind kind);

/* A shrink under way, and a slice of it; one that can't be recorded is not made. */
bool shard_shrinks(const struct shard *shard);
void shard_work_shrink(struct shard *shard);
dimfit_err shard_replay_slice(struct shard *shard, const struct wire_header *header,
                              struct err_detail *detail) MUST_CHECK;

/* Slices of a gather, what begins it anew (another layout, more to sum up), and its answers, one by
 * one: the reply's request, body and detail, and its status. */
bool shard_gathers(const struct shard *shard);
void shard_work_gather(struct shard *shard);
void shard_gather_anew(struct shard *shard);
bool shard_gather_answer(struct shard *shard, struct shard_reply *reply, dimfit_err *status);

/* Count rows that live elsewhere among the slots' rows. */
void shard_add_elsewhere(const struct shard *shard, struct stats *stats);

/* Ask the io for the reply's body; NOMEM with a detail when there is none. */
dimfit_err shard_body(struct shard *shard, size_t len, struct shard_reply *reply,
                      uint8_t **out) MUST_CHECK;
/* Copy a finished buffer into the reply's body. */
dimfit_err shard_body_from(struct shard *shard, const struct buf *buf,
                           struct shard_reply *reply) MUST_CHECK;

/* Resolve the slots of the parsed sections into slots[sections.n]: UNKNOWN_SLOT or WIDTH (a push
 * whose rows are not of the stored width), naming the slot. */
dimfit_err shard_resolve(struct shard *shard, bool push, struct table_slot **slots,
                         struct err_detail *detail) MUST_CHECK;

#endif
