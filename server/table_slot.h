/*
 * The inside of a table, for the files that make it up: table.c, table_export.c and table_change.c.
 *
 * Row numbers are handed out in order from 0; row i of a slot is row i of both its slabs. A pull
 * loads nothing but values. A push needs the show count and the optimizer state both, which
 * therefore stand side by side: one cache line less to wait for.
 */
#ifndef SERVER_TABLE_SLOT_H
#define SERVER_TABLE_SLOT_H

#include "server/index.h"
#include "server/slab.h"
#include "server/table.h"

struct table_slot {
    uint32_t magic;
    uint32_t rows; /* stored */
    struct index index;
    struct slab values; /* [width] */
    struct slab sides;  /* u32 show count, saturating; [optimizer_state_width()] */
    uint64_t seed;
    uint64_t epoch; /* of the last change that moved its rows, 0 before any */
    /* What rows need of the layout's slot: basis and mean are not copied. */
    struct layout_slot spec;
};
#define TABLE_SLOT_MAGIC 0x7ab1e510u

struct table {
    uint32_t magic;
    uint64_t seed;
    struct table_slot **slots; /* ascending by id; a slot keeps its place in memory */
    size_t n_slots, cap_slots;
};
#define TABLE_MAGIC 0x7ab1e000u

static inline float *slot_values(const struct table_slot *slot, uint32_t row) {
    return slab_row(&slot->values, row);
}

static inline uint32_t *slot_shows(const struct table_slot *slot, uint32_t row) {
    return slab_row(&slot->sides, row);
}

static inline float *slot_state(const struct table_slot *slot, uint32_t row) {
    return (float *)slab_row(&slot->sides, row) + 1;
}

/* Cells of a row's side. */
static inline size_t side_stride(const struct layout_slot *spec, size_t width) {
    return 1 + optimizer_state_width(spec->optimizer.kind, width);
}

/* Copy of a layout's slot as a table keeps it; layout_slot_fini() frees it. */
dimfit_err table_spec_copy(const struct layout_slot *spec, struct layout_slot *out) MUST_CHECK;

#endif
