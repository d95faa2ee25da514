/*
 * Exactly once: which numbered requests of each client a shard has applied, and what it answered.
 *
 * A client numbers its recorded requests from 1, per shard. The next number is applied and its
 * result recorded; a number seen before is answered with the recorded result; a later one is a gap.
 * A higher incarnation of a client starts again at 1 and fences the lower ones. Results are kept
 * for the last SESSION_WINDOW numbers of a client, older repeats count as done. The least recently
 * used client is forgotten when SESSION_CLIENTS_MAX is reached; a use is a request recorded. What
 * is kept depends on what was recorded alone, so that a shard's log has it all. Owned by the
 * shard's thread.
 */
#ifndef SERVER_SESSION_H
#define SERVER_SESSION_H

#include "proto/base.h"

enum {
    SESSION_WINDOW = 64,
    SESSION_CLIENTS_MAX = 65536,
};

enum session_verdict {
    SESSION_NEXT,   /* apply it, then session_record() */
    SESSION_REPEAT, /* answer with what was recorded */
    SESSION_GAP,    /* expected tells the number to go on from */
    SESSION_FENCED, /* a later incarnation is there */
};

struct session_answer {
    uint64_t expected;
    dimfit_err status;        /* of a repeat */
    struct err_detail detail; /* of a repeat: the client's newest refusal, if it was this number */
};

struct sessions;

dimfit_err sessions_new(struct sessions **out) MUST_CHECK;
void sessions_destroy(struct sessions **sessions);
size_t sessions_count(const struct sessions *sessions);

/* NOMEM for a new client that finds no room; *verdict is written on success. Nothing of a client
 * changes by it: an incarnation is there from its first recorded request. */
dimfit_err session_check(struct sessions *sessions, uint64_t client, uint64_t incarnation,
                         uint64_t seq, enum session_verdict *verdict,
                         struct session_answer *answer) MUST_CHECK;

/* Record the result of the number that session_check() called next, nothing checked since. */
void session_record(struct sessions *sessions, uint64_t client, uint64_t incarnation, uint64_t seq,
                    dimfit_err status, const struct err_detail *detail);

/* Saved and restored; the latter into empty ones, which after a failure are good for
 * sessions_destroy() alone. */
struct archive_writer;
struct archive_reader;
void sessions_save(const struct sessions *sessions, struct archive_writer *out);
void sessions_restore(struct sessions *sessions, struct archive_reader *in);

#endif
