/*
 * The inside of a table, for the files that make it up: table.c and table_*.c.
 *
 * A slot has the rows of each of its tiers (proto/tiers.h) in slabs of their width; most have one
 * tier. Row numbers are a tier's: handed out in order from 0, those given back first; row i of a
 * tier is row i of both its slabs. What the index has of a row is
 *
 *     [0] [3 bits: tier] [28 bits: row]      or, with one tier,      [0] [31 bits: row]
 *
 * A pull loads nothing but values. A push needs the counters and the optimizer state both, which
 * therefore stand side by side: one cache line less to wait for.
 */
#ifndef SERVER_TABLE_SLOT_H
#define SERVER_TABLE_SLOT_H

#include "server/index.h"
#include "server/recast.h"
#include "server/slab.h"
#include "server/table.h"

struct table_tier {
    struct table_slot *slot;
    uint32_t number;
    uint32_t rows;             /* numbers handed out: stored rows and free ones */
    uint32_t n_free, free_row; /* of them: how many, the first of the chain */
    struct slab values;        /* [spec.tier_widths[number]] */
    struct slab sides;         /* counters (row_counters.h), then [optimizer_state_width()] */
    struct motion *motion;     /* rows are on their way (table_motion.h); NULL: they stand still */
    struct former *former;     /* rows before the last change: on their way, or saved; NULL: none */
};

enum { TIERED_ROW_BITS = 28, ROW_BITS = 31 };

struct table_slot {
    uint32_t magic;
    uint32_t row_bits; /* of a value in the index, below its tier's */
    uint32_t n_moving; /* tiers in motion */
    struct index index;
    /* Rows for the gradients of pending feasigns, which come to nothing: the kernels need not know.
     * Empty where every feasign is admitted at once. */
    struct slab sink_values, sink_sides;
    struct table *table;
    uint64_t counted; /* bytes, as they stand in the table's sum */
    uint64_t seed;
    uint64_t n_pending, keys_pending, evicted;
    uint64_t expired_rows, expired_pending, promoted, demoted; /* by the last shrink */
    /* What rows need of the layout's slot: basis and mean are not copied. */
    struct layout_slot spec;
    struct table_tier tiers[]; /* [spec.n_tiers] */
};
#define TABLE_SLOT_MAGIC 0x7ab1e510u

struct table {
    uint32_t magic;
    uint64_t seed;
    uint64_t limit; /* bytes that new rows are taken up to, 0: any number */
    uint64_t bytes; /* allocated by all slots, when each was last counted */
    bool keep;      /* the rows before a change, so that it can be undone */
    const struct table_spill *spill;
    size_t n_moving, move_at; /* tiers in motion, and which slot to look at for the next */
    float *read; /* 3 [WALK_BLOCK][read_width]: rows as a change will make them, and of what */
    uint32_t read_width;
    uint32_t read_side[RECAST_SIDE_MAX]; /* and a side */
    struct table_slot **slots;           /* ascending by id; a slot keeps its place in memory */
    size_t n_slots, cap_slots;
};
#define TABLE_MAGIC 0x7ab1e000u

/* Of a value in the index that is a row's: its tier and number, and that value. */
static inline struct table_tier *slot_tier(const struct table_slot *slot, uint32_t value) {
    return (struct table_tier *)&slot->tiers[value >> slot->row_bits];
}

static inline uint32_t slot_row(const struct table_slot *slot, uint32_t value) {
    return value & ((1u << slot->row_bits) - 1);
}

static inline uint32_t tier_value(const struct table_tier *tier, uint32_t row) {
    return tier->number << tier->slot->row_bits | row;
}

static inline float *tier_values(const struct table_tier *tier, uint32_t row) {
    return slab_row(&tier->values, row);
}

static inline uint32_t *tier_side(const struct table_tier *tier, uint32_t row) {
    return slab_row(&tier->sides, row);
}

static inline uint32_t tier_width(const struct table_tier *tier) {
    return tier->slot->spec.tier_widths[tier->number];
}

/* After the slot's widths were set or changed; the next reservation gives them their rows. */
static inline void slot_sinks_init(struct table_slot *slot) {
    slab_init(&slot->sink_values, slot->spec.tier_widths[0]);
    slab_init(&slot->sink_sides, recast_side(&slot->spec, slot->spec.tier_widths[0]));
}

/* Where a row's counters stand, whether it moves or not. */
uint32_t *row_side(const struct table_tier *tier, uint32_t row);

#define ROW_FREE 0x80000000u

static inline bool row_is_free(const struct table_tier *tier, uint32_t row) {
    return (*row_side(tier, row) & ROW_FREE) != 0;
}

static inline uint64_t tier_stored(const struct table_tier *tier) {
    return tier->rows - tier->n_free;
}

/* ---- table_limit.c --------------------------------------------------------------------------- */

/* Bring the table's sum of bytes up to what the slot has allocated. */
void slot_count_bytes(struct table_slot *slot);
/* Would n more rows of the tier take the table beyond its limit? */
bool tier_over_limit(struct table_tier *tier, size_t n);

/* ---- table_change.c -------------------------------------------------------------------------- */

/* The rows before the last change, if there are some; none are in motion. */
void slot_forget(struct table_slot *slot);

/* ---- table_rows.c ---------------------------------------------------------------------------- */

/* A pending feasign's entry in the index: INDEX_PENDING | day << 12 | shows. */
static inline uint32_t pending_shows(uint32_t value) {
    return value & RETENTION_ADMIT_MAX;
}

static inline uint32_t pending_day(uint32_t value) {
    return value >> 12 & COUNTERS_DAY_MAX;
}

/* Store a feasign that has no row, in the first tier: its number. It stands in the index as `value`
 * (INDEX_NONE: not at all). INDEX_NONE when its i-th show of the push leaves it pending. Buckets
 * may move. */
uint32_t row_admit(struct table_slot *slot, uint64_t key, uint64_t hash, uint32_t value,
                   const struct table_counts *counts, size_t i);
/* Its number is up for the next row. The key is the caller's to remove. */
void row_free(struct table_tier *tier, uint32_t row);
/* Move a row to another tier, which has room for it: its value in the index from now on. Values and
 * optimizer state are padded with zeros, or cut. */
uint32_t row_retier(struct table_tier *from, uint32_t row, struct table_tier *to);

/* Copy of a layout's slot as a table keeps it; layout_slot_fini() frees it. */
dimfit_err table_spec_copy(const struct layout_slot *spec, struct layout_slot *out) MUST_CHECK;

#endif
