/*
 * What a shrink evicts: the body of a SHRINK message, one rule a slot.
 *
 * A row of a rule's slot goes when it was unseen for more than expire_days days (0: age does not
 * matter), or when it has fewer than expire_shows shows after decay (0: shows do not matter). Slots
 * without a rule keep their rows. Every rule has a threshold.
 */
#ifndef PROTO_SHRINK_H
#define PROTO_SHRINK_H

#include "proto/buf.h"

struct shrink_rule {
    uint32_t slot;
    uint32_t expire_days;
    float expire_shows;
};

/* Rules ascending by slot, 1 to LAYOUT_SLOTS_MAX of them. */
void shrink_encode(const struct shrink_rule *rules, size_t n, struct buf *out);

/* Bytes are not trusted: PROTOCOL unless they are exactly such rules, the thresholds in range.
 * *rules is the caller's to free(). */
dimfit_err shrink_decode(const void *bytes, size_t len, struct shrink_rule **rules, size_t *n,
                         struct err_detail *detail) MUST_CHECK;

#endif
