#include "server/table_motion.h"

#include <cblas.h>
#include <stdlib.h>

enum {
    BLOCK_ROWS = 256,
};

/* Rows in float64, and each times its show count. */
struct block {
    double *plain, *looked; /* [BLOCK_ROWS][width] */
    uint32_t n;
};

static double shows_of(const struct table_tier *tier, uint32_t row) {
    return counters_read(&tier->slot->spec.retention, row_side(tier, row)).shows;
}

/* Those of rows first .. end - 1 that are not free; the sum of their shows. */
static double block_fill(const struct table_tier *tier, uint32_t first, uint32_t end,
                         struct block *block) {
    const size_t w = tier_width(tier);
    double lookups = 0;
    block->n = 0;
    for (uint32_t row = first; row < end; row++) {
        if (row_is_free(tier, row))
            continue;
        const float *const values = tier_values(tier, row);
        const double shows = shows_of(tier, row);
        const size_t at = block->n++ * w;
        lookups += shows;
        for (size_t k = 0; k < w; k++) {
            block->plain[at + k] = values[k];
            block->looked[at + k] = shows * values[k];
        }
    }
    return lookups;
}

static void block_sum(const struct block *block, struct slot_stats *to) {
    const size_t w = to->width, n = block->n;
    for (size_t i = 0; i < n; i++) {
        cblas_daxpy((int)w, 1, block->plain + i * w, 1, to->sum, 1);
        cblas_daxpy((int)w, 1, block->looked + i * w, 1, to->looked_sum, 1);
    }
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)w, (int)n, 1, block->plain, (int)w, 1,
                to->second, (int)w);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)w, (int)w, (int)n, 1, block->plain,
                (int)w, block->looked, (int)w, 1, to->looked_second, (int)w);
}

static void mirror(double *matrix, size_t w) {
    for (size_t i = 0; i < w; i++) {
        for (size_t k = 0; k < i; k++)
            matrix[i * w + k] = matrix[k * w + i];
    }
}

/* Rows of a slice: a row costs its share of two products of matrices, and some fixed work. */
static uint32_t slice_rows(enum table_sums sums, size_t w) {
    const size_t work = 300000;
    const size_t row = sums == TABLE_MOMENTS ? w * w + 64 : 16;
    return row < work ? (uint32_t)(work / row) : 1;
}

static dimfit_err add_moments(const struct table_tier *tier, uint32_t first, uint32_t end,
                              struct slot_stats *to) {
    const size_t values = (size_t)BLOCK_ROWS * to->width;
    double *const memory = malloc((2 * values + 1) * sizeof *memory);
    if (memory == NULL)
        return DIMFIT_ERR_NOMEM;
    struct block block = {memory, memory + values, 0};
    for (; first < end; first += BLOCK_ROWS) {
        const uint32_t n = end - first < BLOCK_ROWS ? end - first : BLOCK_ROWS;
        to->lookups += block_fill(tier, first, first + n, &block);
        to->rows += block.n;
        if (to->width > 0)
            block_sum(&block, to);
    }
    free(memory);
    return DIMFIT_OK;
}

static void add_lookups(const struct table_tier *tier, uint32_t first, uint32_t end,
                        struct slot_stats *to) {
    for (uint32_t row = first; row < end; row++) {
        if (row_is_free(tier, row))
            continue;
        to->lookups += shows_of(tier, row);
        to->rows++;
    }
}

/* The tier that the walk is in, or the next one of a slot that a search looks at; NULL at the end.
 */
static const struct table_tier *walk_tier(const struct table *table,
                                          const struct export_walk *walk) {
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        if (slot->spec.search && slot->spec.id >= walk->slot)
            return &slot->tiers[slot->spec.id == walk->slot ? walk->tier : 0];
    }
    return NULL;
}

/* False behind the last slot that there can be. */
static bool leave_tier(struct export_walk *walk, const struct table_tier *tier) {
    const struct layout_slot *const spec = &tier->slot->spec;
    *walk = tier->number + 1 < spec->n_tiers
                ? (struct export_walk){.slot = spec->id, .tier = tier->number + 1}
                : (struct export_walk){.slot = spec->id + 1};
    return walk->slot > 0 || walk->tier > 0;
}

dimfit_err table_export_slice(const struct table *table, enum table_sums sums,
                              struct export_walk *walk, struct stats *stats, bool *more) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const struct table_tier *const tier = walk_tier(table, walk);
    *more = tier != NULL;
    if (tier == NULL)
        return DIMFIT_OK;
    const uint32_t id = tier->slot->spec.id;
    if (!walk->inside &&
        stats_add_slot(stats, id, tier->number, tier_width(tier), sums == TABLE_MOMENTS) == NULL)
        return DIMFIT_ERR_NOMEM;
    walk->slot = id;
    walk->tier = tier->number;
    walk->inside = true;
    struct slot_stats *const to = &stats->slots[stats->n_slots - 1];
    base_assert(to->slot == id && to->tier == tier->number && to->width == tier_width(tier));
    base_assert(sums != TABLE_MOMENTS || tier->motion == NULL || tier->motion->next == tier->rows);
    if (sums == TABLE_ROWS) {
        to->rows = tier_stored(tier);
        *more = leave_tier(walk, tier);
        return DIMFIT_OK;
    }
    const uint32_t left = tier->rows - walk->row, most = slice_rows(sums, to->width);
    const uint32_t end = walk->row + (left < most ? left : most);
    dimfit_err err = DIMFIT_OK;
    if (sums == TABLE_MOMENTS)
        err = add_moments(tier, walk->row, end, to);
    else
        add_lookups(tier, walk->row, end, to);
    walk->row = end;
    if (err != DIMFIT_OK || end < tier->rows)
        return err;
    if (sums == TABLE_MOMENTS) {
        mirror(to->second, to->width);
        mirror(to->looked_second, to->width);
    }
    *more = leave_tier(walk, tier);
    return DIMFIT_OK;
}

dimfit_err table_export(const struct table *table, enum table_sums sums, struct stats *stats) {
    struct export_walk walk = {0};
    dimfit_err err = DIMFIT_OK;
    for (bool more = true; more && err == DIMFIT_OK;)
        err = table_export_slice(table, sums, &walk, stats, &more);
    return err;
}
