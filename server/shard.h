/*
 * A shard's core: request in, reply out, nothing else.
 *
 * State: one table, dense tables, score sums, sessions, the layout in force and, between the two
 * steps of a change, the one prepared. A shard has no sockets, clock or threads; its host
 * (shard_host.h, or a test) feeds it whole messages, one at a time, and sends what it answers.
 * Every request gets exactly one reply, except those that are no dimfit message at all.
 *
 *     worker   --> shard_request()  PULL PUSH DENSE_*
 *     coordinator --> shard_command()  ADD_SLOTS SCORE_* GATHER PREPARE COMMIT DISCARD SHRINK
 * FORGET
 *
 * Order of checks on a push (design 4): number, epoch, freeze, content. A push refused for its
 * epoch or a freeze is not recorded and keeps its number.
 *
 * After a commit rows move, and a shrink goes on, in slices between messages, shard_work() by
 * shard_work(); a shrink waits while rows move. The shard's state is a function of the messages and
 * of a shrink's slices it was given, in their order; slices of moving leave no trace in it.
 *
 * So a log of them is the shard (server/wal.h, shard_log.c). A record is written once everything
 * that can fail was seen to and before anything is changed: a push that the log could not take is
 * refused with LOG, keeps its number, and nothing of it is there, while pulls go on. What may still
 * fail, for want of memory, comes behind the record, which is then taken back. A push that was
 * refused is recorded as that: its header with the answer. What the process decides that is not in
 * the messages is in the records: the options that count, the keys that found no room.
 */
#ifndef SERVER_SHARD_H
#define SERVER_SHARD_H

#include "proto/wire.h"
#include "server/figures.h"
#include "server/table_expire.h"

struct shard;

/* What a shard needs from outside. */
struct shard_io {
    void *self;
    /* Memory for the reply body of len > 0 bytes, which the host owns and sends with the reply (or
     * drops when the reply has none). At most one is asked for a request. NULL out of memory. */
    uint8_t *(*body)(void *self, size_t len);
    /* Fill in what is known of the process. May be NULL. */
    void (*process)(void *self, struct process_figures *out);
    /* How long requests took, which a shard can't tell. May be NULL. */
    void (*service)(void *self, struct service_figures *out);
    /* Memory was given back: return it to the system now. May be NULL. */
    void (*purge)(void *self);
    /* Rows that a shrink evicted, for whoever wants to know; must not block. May be NULL. */
    void (*evicted)(void *self, uint32_t slot, const struct expired_row *rows, size_t n);
    /* Where rows before a change are saved to (options.keep). NULL: they stay in memory. */
    const struct table_spill *spill;
    /* Append a record to the log: once it returns DIMFIT_OK, shard_replay() will be given it, in
     * its place, whatever becomes of the process. LOG, nothing written. NULL: there is no log. */
    dimfit_err (*log)(void *self, const struct wire_header *header, const void *body, size_t len,
                      struct err_detail *detail);
    /* Take the last record back, nothing having been answered since. NULL with log. */
    void (*unlog)(void *self);
};

struct shard_options {
    uint64_t score_memory; /* bytes of score sums at most */
    uint32_t score_sample; /* one row in so many goes into C and b (score.h) */
    uint64_t max_memory;   /* of the process; a change that needs more is refused; 0: no limit */
    uint64_t row_memory;   /* the shard's part of it, for slabs and indices; 0: no limit */
    bool skip_new;         /* beyond it: pass over keys without a row rather than refuse the push */
    bool keep;             /* save the rows before a change, so that it can be undone */
};

struct shard_reply {
    struct wire_header header;
    size_t len; /* of the body asked for through the io; 0: no body */
    bool later; /* of a command: nothing is to be sent now, shard_due() has it later */
};

/* layout is copied: the epoch, seed and slots to begin with. */
dimfit_err shard_new(const struct layout *layout, const struct shard_options *options,
                     const struct shard_io *io, struct shard **out) MUST_CHECK;
void shard_destroy(struct shard **shard);

/* A worker's message. */
void shard_request(struct shard *shard, const struct wire_header *request, const uint8_t *body,
                   size_t len, struct shard_reply *reply);
/* A coordinator's message. */
void shard_command(struct shard *shard, const struct wire_header *command, const uint8_t *body,
                   size_t len, struct shard_reply *reply);
/* A message that was none: count it. */
void shard_malformed(struct shard *shard);

/* An answer that became due by shard_work(), for the coordinator: to be asked for after each slice
 * until there is none. Gathering sums over the rows is answered so. The same request again, while
 * it waits, is answered once; others that ask meanwhile wait for the same sums. A commit begins
 * them anew, in the new layout; DISCARD does not concern them. */
bool shard_due(struct shard *shard, struct shard_reply *reply);

/* One slice of what is to be done between messages, well under 200 us. True: more is left. */
bool shard_work(struct shard *shard);
/* Whether shard_work() has anything to do. */
bool shard_has_work(const struct shard *shard);

/* ---- log (shard_log.c) ---- */

/* Of a new shard, before it is given anything: the first record, which shard_replay_begin() makes
 * it from. */
dimfit_err shard_log_begin(struct shard *shard, struct err_detail *detail) MUST_CHECK;

/* The shard that LOG_BEGIN was written of. options as of shard_new(), of the process that replays.
 */
dimfit_err shard_replay_begin(const struct wire_header *header, const uint8_t *body, size_t len,
                              const struct shard_options *options, const struct shard_io *io,
                              struct shard **out, struct err_detail *detail) MUST_CHECK;
/* One record more, to that shard or to one restored from a snapshot that ends before it. BUSY: rows
 * have to be moved first, by shard_work(), which in a replay does nothing else. DATA: it does not
 * follow on what was replayed. Nothing is answered, evicted rows are told to nobody. */
dimfit_err shard_replay(struct shard *shard, const struct wire_header *header, const uint8_t *body,
                        size_t len, struct err_detail *detail) MUST_CHECK;
/* The end of a replay, or of a restore: from here on the limits hold, and options that count and
 * differ from those before are recorded. */
dimfit_err shard_replayed(struct shard *shard, const struct shard_options *options,
                          struct err_detail *detail) MUST_CHECK;
/* Write the options in force down again: replay may begin behind this record. */
dimfit_err shard_log_options(struct shard *shard, struct err_detail *detail) MUST_CHECK;

uint64_t shard_epoch(const struct shard *shard);
size_t shard_slots(const struct shard *shard);            /* of its layout */
uint64_t shard_prepared_epoch(const struct shard *shard); /* 0: nothing prepared */
uint64_t
shard_search(const struct shard *shard); /* the search that last started scoring, 0: none */
/* What a shard tells the coordinator once a second. */
struct wire_header shard_heartbeat(const struct shard *shard);

#endif
