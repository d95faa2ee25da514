/*
 * The inside of a table, for the files that make it up: table.c and table_*.c.
 *
 * Row numbers are handed out in order from 0, those given back first; row i of a slot is row i of
 * both its slabs. A pull loads nothing but values. A push needs the counters and the optimizer
 * state both, which therefore stand side by side: one cache line less to wait for.
 */
#ifndef SERVER_TABLE_SLOT_H
#define SERVER_TABLE_SLOT_H

#include "server/index.h"
#include "server/recast.h"
#include "server/slab.h"
#include "server/table.h"

struct table_slot {
    uint32_t magic;
    uint32_t rows;             /* numbers handed out: stored rows and free ones */
    uint32_t n_free, free_row; /* of them: how many, the first of the chain */
    struct index index;
    struct slab values; /* [width] */
    struct slab sides;  /* counters (row_counters.h), then [optimizer_state_width()] */
    /* Rows for the gradients of pending feasigns, which come to nothing: the kernels need not know.
     * Empty where every feasign is admitted at once. */
    struct slab sink_values, sink_sides;
    struct table *table;
    uint64_t counted; /* bytes, as they stand in the table's sum */
    uint64_t seed;
    struct motion *motion; /* rows are on their way (table_motion.h); NULL: they stand still */
    struct former *former; /* rows before the last change: on their way, or saved; NULL: none */
    uint64_t n_pending, keys_pending, evicted;
    uint64_t expired_rows, expired_pending;
    /* What rows need of the layout's slot: basis and mean are not copied. */
    struct layout_slot spec;
};
#define TABLE_SLOT_MAGIC 0x7ab1e510u

struct table {
    uint32_t magic;
    uint64_t seed;
    uint64_t limit; /* bytes that new rows are taken up to, 0: any number */
    uint64_t bytes; /* allocated by all slots, when each was last counted */
    bool keep;      /* the rows before a change, so that it can be undone */
    const struct table_spill *spill;
    size_t n_moving, move_at; /* slots in motion, and where to look for the next */
    float *read; /* 3 [WALK_BLOCK][read_width]: rows as a change will make them, and of what */
    uint32_t read_width;
    uint32_t read_side[RECAST_SIDE_MAX]; /* and a side */
    struct table_slot **slots;           /* ascending by id; a slot keeps its place in memory */
    size_t n_slots, cap_slots;
};
#define TABLE_MAGIC 0x7ab1e000u

static inline float *slot_values(const struct table_slot *slot, uint32_t row) {
    return slab_row(&slot->values, row);
}

static inline uint32_t *slot_side(const struct table_slot *slot, uint32_t row) {
    return slab_row(&slot->sides, row);
}

/* After the slot's width was set or changed; the next reservation gives them their rows. */
static inline void slot_sinks_init(struct table_slot *slot) {
    slab_init(&slot->sink_values, slot->spec.width);
    slab_init(&slot->sink_sides, recast_side(&slot->spec, slot->spec.width));
}

/* Where a row's counters stand, whether it moves or not. */
uint32_t *row_side(const struct table_slot *slot, uint32_t row);

#define ROW_FREE 0x80000000u

static inline bool row_is_free(const struct table_slot *slot, uint32_t row) {
    return (*row_side(slot, row) & ROW_FREE) != 0;
}

static inline uint64_t slot_stored(const struct table_slot *slot) {
    return slot->rows - slot->n_free;
}

/* ---- table_limit.c --------------------------------------------------------------------------- */

/* Bring the table's sum of bytes up to what the slot has allocated. */
void slot_count_bytes(struct table_slot *slot);
/* Would n new rows take the table beyond its limit? */
bool slot_over_limit(struct table_slot *slot, size_t n);

/* ---- table_rows.c ---------------------------------------------------------------------------- */

/* A pending feasign's entry in the index: INDEX_PENDING | day << 12 | shows. */
static inline uint32_t pending_shows(uint32_t value) {
    return value & RETENTION_ADMIT_MAX;
}

static inline uint32_t pending_day(uint32_t value) {
    return value >> 12 & COUNTERS_DAY_MAX;
}

/* Store a feasign that has no row: its number. It stands in the index as `value` (INDEX_NONE: not
 * at all). INDEX_NONE when its i-th show of the push leaves it pending. Buckets may move. */
uint32_t row_admit(struct table_slot *slot, uint64_t key, uint64_t hash, uint32_t value,
                   const struct table_counts *counts, size_t i);
/* Its number is up for the next row. The key is the caller's to remove. */
void row_free(struct table_slot *slot, uint32_t row);

/* Copy of a layout's slot as a table keeps it; layout_slot_fini() frees it. */
dimfit_err table_spec_copy(const struct layout_slot *spec, struct layout_slot *out) MUST_CHECK;

#endif
