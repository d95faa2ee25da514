/*
 * Which feasigns of a slot get a row, what the row counts, and when it goes again.
 *
 * A slot's setting, part of its layout (proto/layout.h): fixed when the slot is added. Nothing here
 * costs a row anything while it is off: a row carries a click counter only with `clicks`, a
 * last-seen day only with `last_seen`. Days are days since 1970-01-01, UTC. Plain values, no state.
 */
#ifndef PROTO_RETENTION_H
#define PROTO_RETENTION_H

#include "proto/buf.h"

enum {
    RETENTION_ADMIT_MAX = 4095,
    RETENTION_DAYS_MAX = 36500,
};

struct retention {
    uint32_t admit;       /* a feasign gets its row at this show; 1: at its first */
    uint32_t expire_days; /* rows unseen for more days than this go at a shrink; 0: never */
    float expire_shows;   /* rows with fewer (decayed) shows go at a shrink; 0: never */
    float decay;          /* factor a day on shows and clicks, 0 < decay <= 1; 1: none */
    bool clicks;          /* count clicks */
    bool last_seen;       /* keep the last-seen day; expire_days > 0 and decay < 1 need it */
};

/* Fill in what a specification left zero (admit 1, decay 1), and last_seen where it is needed. */
void retention_complete(struct retention *retention);

/* Refuse what is out of range or contradicts itself; bad is what the caller calls a refusal, the
 * detail names slot and field. */
dimfit_err retention_check(const struct retention *retention, uint32_t slot, dimfit_err bad,
                           struct err_detail *detail) MUST_CHECK;

/* The first field in which two differ, NULL when they are the same. */
const char *retention_difference(const struct retention *a, const struct retention *b);

void retention_encode(const struct retention *retention, struct buf *out);
/* Fails the reader when the bytes are none; what they say is still to be checked. */
void retention_decode(struct reader *in, struct retention *out);

#endif
