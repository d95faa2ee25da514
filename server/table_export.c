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

static double shows_of(const struct table_slot *slot, uint32_t row) {
    return counters_read(&slot->spec.retention, row_side(slot, row)).shows;
}

/* Those of rows first .. end - 1 that are not free; the sum of their shows. */
static double block_fill(const struct table_slot *slot, uint32_t first, uint32_t end,
                         struct block *block) {
    const size_t w = slot->spec.width;
    double lookups = 0;
    block->n = 0;
    for (uint32_t row = first; row < end; row++) {
        if (row_is_free(slot, row))
            continue;
        const float *const values = slot_values(slot, row);
        const double shows = shows_of(slot, row);
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

static dimfit_err export_moments(const struct table_slot *slot, struct slot_stats *to) {
    const size_t values = (size_t)BLOCK_ROWS * to->width;
    double *const memory = malloc(2 * values * sizeof *memory);
    if (memory == NULL)
        return DIMFIT_ERR_NOMEM;
    struct block block = {memory, memory + values, 0};
    for (uint32_t first = 0; first < slot->rows; first += BLOCK_ROWS) {
        const uint32_t left = slot->rows - first;
        const uint32_t n = left < BLOCK_ROWS ? left : BLOCK_ROWS;
        to->lookups += block_fill(slot, first, first + n, &block);
        block_sum(&block, to);
    }
    mirror(to->second, to->width);
    mirror(to->looked_second, to->width);
    free(memory);
    return DIMFIT_OK;
}

dimfit_err table_export(const struct table *table, bool moments, struct stats *stats) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        if (!slot->spec.search)
            continue;
        struct slot_stats *const to = stats_add_slot(stats, slot->spec.id, slot->spec.width,
                                                     moments);
        if (to == NULL)
            return DIMFIT_ERR_NOMEM;
        to->rows = slot_stored(slot);
        base_assert(!moments || slot->motion == NULL || slot->motion->next == slot->rows);
        if (moments && to->width > 0) {
            const dimfit_err err = export_moments(slot, to);
            if (err != DIMFIT_OK)
                return err;
            continue;
        }
        for (uint32_t row = 0; row < slot->rows; row++)
            to->lookups += row_is_free(slot, row) ? 0 : shows_of(slot, row);
    }
    return DIMFIT_OK;
}
