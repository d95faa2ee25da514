/*
 * What a shrink was asked for, and what that means for each slot. Pure: an admin's JSON and a
 * layout in, rules for the shards out (proto/shrink.h).
 *
 *     {"slots": ["user", "3"], "unseen_days": 30, "shows": 2, "day": 20781, "dry_run": true,
 *      "retier": false}
 *
 * All of it may be left out. Without a threshold every slot goes by its configured ones; with one
 * or both, all slots, or the named ones, go by what was given. Age needs the last-seen day: a named
 * slot that keeps none is refused, any other is listed as ageless and goes by shows, if those
 * count. Slots with tiers take part in any case: the same pass takes rows to their tiers, and with
 * `retier` that is all it does.
 */
#ifndef SERVER_SHRINK_RULES_H
#define SERVER_SHRINK_RULES_H

#include "proto/layout.h"
#include "proto/shrink.h"

#include <jansson.h>

enum { SHRINK_NAMES_MAX = 1024 };

struct shrink_rules {
    uint32_t day; /* which age counts from: days since 1970-01-01, UTC */
    bool dry_run, retier;
    uint32_t expire_days; /* given for all; both 0: as configured */
    float expire_shows;
    size_t n;
    struct shrink_rule *rules; /* ascending by slot, at least one */
    size_t n_ageless;
    uint32_t *ageless; /* slots that age was meant for but that keep no last-seen day */
};

/* INVALID for an argument that is none, a named slot that can't be shrunk like this, or when no
 * rule comes out of it; UNKNOWN_SLOT for a name that no slot has. The detail says what to give
 * instead. */
dimfit_err shrink_rules_make(const struct layout *layout, const json_t *args, uint32_t today,
                             struct shrink_rules *out, struct err_detail *detail) MUST_CHECK;
void shrink_rules_fini(struct shrink_rules *rules);

/* "rows unseen for more than 30 days or with fewer than 2 shows", "rows by their slot's settings":
 * into out[cap], returned. */
char *shrink_rules_text(const struct shrink_rules *rules, char *out, size_t cap);

#endif
