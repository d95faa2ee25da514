/*
 * A tier's rows on their way to a new layout, and the rows as they were before it. Only table*.c
 * and walk*.c include this.
 *
 * A commit puts all tiers of a slot in motion at once: tier->values and, where a change moves
 * optimizer state, tier->sides are new and empty, the old ones stand in tier->former. From then on
 * a row is
 *
 *     home      number < next: it has its place in the new slabs;
 *     ahead     it was written before the sweep came to it, or is new: it has a place, in the order
 *               of those writes, in slabs of the motion's own, which `places` knows;
 *     behind    neither: it stands as it was, and is read through the change.
 *
 * The sweep brings rows home in the order of their numbers. Old rows are not written to, and their
 * chunks are done with when it has passed them: then their memory goes on to the new slabs, or the
 * rows are saved. Writes that get far ahead of the sweep take it along, so that no more than one
 * row in MOTION_PACE + 1 is ever ahead.
 *
 * Undoing a change takes the rows saved before it. A row stored since has the initial row of that
 * layout in their place, for which its feasign is needed: such rows are found through the index and
 * put ahead before the sweep begins. They are all of the first tier: rows don't go to another one
 * as long as those before a change are there.
 */
#ifndef SERVER_TABLE_MOTION_H
#define SERVER_TABLE_MOTION_H

#include "server/recast.h"
#include "server/table_slot.h"

enum { MOTION_PACE = 4 };

/* The rows of a tier before a change. */
struct former {
    uint64_t epoch; /* that the change led to */
    uint32_t rows;
    bool kept;                            /* so that it can be undone */
    struct slab values, sides;            /* sides: where the change moves them */
    uint32_t values_handed, sides_handed; /* chunks that have been freed or saved */
    struct spill *spill;                  /* where they are saved to; NULL: they stay in memory */
    uint64_t values_at, sides_at;         /* from here on */
    uint64_t *reused;                     /* [rows] bits: numbers of evicted rows taken since */
    uint32_t n_reused;
    struct layout_slot spec; /* the layout then, of initial rows; with `kept` only */
};

struct motion {
    struct recast recast;
    struct former *from;  /* the rows on their way */
    struct former *saved; /* those before the change that is undone; NULL: none is */
    uint32_t next;        /* of the sweep */
    bool born_found;      /* rows stored since the undone change are ahead */
    struct index_walk born;
    uint64_t *ahead; /* [from->rows] bits */
    uint32_t n_places;
    struct index places; /* row number -> place */
    struct slab values, sides;
};

static inline bool bit_is_set(const uint64_t *bits, uint32_t i) {
    return (bits[i / 64] >> i % 64 & 1) != 0;
}

static inline void bit_set(uint64_t *bits, uint32_t i) {
    bits[i / 64] |= UINT64_C(1) << i % 64;
}

static inline bool motion_is_home(const struct motion *motion, uint32_t row) {
    return row < motion->next;
}

static inline bool motion_is_ahead(const struct motion *motion, uint32_t row) {
    return row >= motion->from->rows || bit_is_set(motion->ahead, row);
}

/* ---- table_motion.c -------------------------------------------------------------------------- */

/* What a tier needs to be put in motion; NOMEM, nothing changed. Its saved rows are looked at, not
 * taken. `keep`: the rows before are saved. */
dimfit_err motion_new(const struct table_tier *tier, const struct change *change,
                      const struct change_slot *part, const struct layout_slot *after, bool keep,
                      struct motion **out) MUST_CHECK;
void motion_destroy(struct motion **motion);
/* From now on the tier has its width in the layout after, which is the caller's to give the slot.
 * Nothing fails. */
void motion_begin(struct table_tier *tier, struct motion *motion, uint64_t epoch);

/* Room for table->read, of rows of this width, before or after. */
dimfit_err motion_reserve_read(struct table *table, uint32_t width) MUST_CHECK;

/* See to it that n rows can be put ahead. */
dimfit_err motion_reserve(struct table_tier *tier, uint64_t n) MUST_CHECK;

/* The values of a row: where they stand, or in *read as the change makes them. The feasign of a row
 * behind is needed where a change is undone. */
float *motion_values(const struct table_tier *tier, uint32_t row, uint64_t feasign, float *read);
/* The side of a row, wherever it stands; of a row behind its counters alone mean something. */
uint32_t *motion_side(const struct table_tier *tier, uint32_t row);
/* Rows behind, n <= WALK_BLOCK, as the change makes them: side by side from `to` on, which is in
 * the first third of table->read. */
void motion_read(const struct table_tier *tier, const uint32_t *rows, const uint64_t *feasigns,
                 size_t n, float *to);
/* Put a row that is behind ahead. Within what was reserved. */
void motion_put_ahead(struct table_tier *tier, uint32_t row, uint64_t feasign);
/* The same, but for its values, which are to be filled in here: those of motion_read(). */
float *motion_place_ahead(struct table_tier *tier, uint32_t row);
/* A place for a row that is new: its values and side are to be filled in. */
void motion_put_new(struct table_tier *tier, uint32_t row);
/* The whole side of a row, optimizer state and all, for whoever looks a row up. */
const uint32_t *motion_read_side(const struct table_tier *tier, uint32_t row, uint64_t feasign);

/* Whether it was stored since the change that left `former`. */
static inline bool former_is_born(const struct former *former, uint32_t row) {
    return row >= former->rows || (former->n_reused > 0 && bit_is_set(former->reused, row));
}
static inline void former_note_reused(struct former *former, uint32_t row) {
    if (row < former->rows && !bit_is_set(former->reused, row)) {
        bit_set(former->reused, row);
        former->n_reused++;
    }
}
void former_destroy(struct former **former, const struct table_spill *io);

/* ---- table_move.c ---------------------------------------------------------------------------- */

/* After a push: bring as many rows home as the pace asks for. */
void motion_keep_pace(struct table_slot *slot);
/* Allocated for rows ahead and for undoing, and for former rows. */
uint64_t motion_bytes(const struct motion *motion);
uint64_t former_bytes(const struct former *former);

#endif
