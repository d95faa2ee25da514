/*
 * Expiry: the rows of a slot that have not been seen for long, or too seldom, go in slices. In a
 * slot of several tiers (proto/tiers.h) the same pass takes rows from tier to tier.
 *
 * A row goes up to the last tier whose show count it has reached, decayed until today, and down as
 * long as it has fewer than half of what its tier begins at: what is near a threshold stays. All
 * rows do while those before a layout change are kept to undo it (table_forget()).
 *
 * Between two slices anything may happen to the slot: pulls, pushes, a layout change, whose rows
 * have all to be moved before the next slice. Each row is looked at once, some twice where the
 * index grew meanwhile; a feasign that comes back after its row went starts anew from its initial
 * value. What goes depends on the sequence of pushes and slices alone. The last slices move the
 * index together, so that its memory goes back to the system.
 */
#ifndef SERVER_TABLE_EXPIRE_H
#define SERVER_TABLE_EXPIRE_H

#include "server/index.h"
#include "server/table.h"

enum {
    EXPIRY_BUCKETS = 64,                       /* of the index, a slice: some 20 us */
    EXPIRY_ROWS = EXPIRY_BUCKETS * INDEX_KEYS, /* rows that may go in one */
};

struct expiry_rule {
    uint32_t today;
    uint32_t days; /* a row goes when today - its day > days; 0: never for its age, nor where its
                      day is not known */
    float shows;   /* or when its shows, decayed until today, are fewer */
    bool retier;   /* rows go to the tier they belong to, within what was reserved; rows before a
                      change, if the slot has some, are given up */
    bool dry;      /* count, and leave everything as it is */
};

/* Whether rows may go to another tier: there is one, and no rows before a change are kept. */
bool table_may_retier(const struct table_slot *slot);
/* See to it that one slice can take rows from tier to tier. */
dimfit_err table_reserve_retier(struct table_slot *slot) MUST_CHECK;

/* How far a slot's expiry is; from {0}. */
struct expiry_walk {
    struct index_walk at;
    uint32_t segment;
    bool begun, looked; /* looked: at all keys; pages are being moved */
};

struct expired_row {
    uint64_t feasign;
    struct row_counters counters; /* as of its day */
};

struct expiry_slice {
    uint64_t keys, pending;     /* looked at; pending feasigns that went */
    uint64_t promoted, demoted; /* to another tier */
    size_t n_rows;              /* rows that went */
    struct expired_row rows[EXPIRY_ROWS];
};

/* One slice, *out telling what it did. False: that was the last one. */
bool table_expire(struct table_slot *slot, const struct expiry_rule *rule, struct expiry_walk *walk,
                  struct expiry_slice *out);

#endif
