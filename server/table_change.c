#include "server/table_slot.h"

#include <cblas.h>
#include <stdlib.h>

enum {
    BLOCK_ROWS = 256,
};

/* A slot's rows on their way from the slabs of the old width to those of the new. */
struct move {
    const struct change_slot *change;
    struct table_slot *slot;
    struct slab values, sides; /* the new ones */
    double *from, *to;         /* [BLOCK_ROWS][from], [BLOCK_ROWS][to]: dense only */
    double *squares;           /* N o N */
};

/* Columns `offset` on of a slab, as wide as the slot's values. */
struct column {
    const struct slab *slab;
    size_t offset;
};

static void block_load(const struct move *move, struct column column, uint32_t first, uint32_t n,
                       const double *shift) {
    const size_t w = move->change->from;
    for (uint32_t i = 0; i < n; i++) {
        const float *const row = (const float *)slab_row(column.slab, first + i) + column.offset;
        for (size_t k = 0; k < w; k++)
            move->from[i * w + k] = (double)row[k] - (shift != NULL ? shift[k] : 0);
    }
}

static void block_store(const struct move *move, struct column column, uint32_t first, uint32_t n) {
    const size_t w = move->change->to;
    for (uint32_t i = 0; i < n; i++) {
        float *const row = (float *)slab_row(column.slab, first + i) + column.offset;
        for (size_t k = 0; k < w; k++)
            row[k] = (float)move->to[i * w + k];
    }
}

/* new = (old - shift) matrix, in float64, rounded once. */
static void move_dense(const struct move *move, struct column from, struct column to,
                       const double *matrix, const double *shift) {
    const int old_width = (int)move->change->from, new_width = (int)move->change->to;
    for (uint32_t first = 0; first < move->slot->rows; first += BLOCK_ROWS) {
        const uint32_t left = move->slot->rows - first;
        const uint32_t n = left < BLOCK_ROWS ? left : BLOCK_ROWS;
        block_load(move, from, first, n, shift);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, new_width, old_width, 1,
                    move->from, old_width, matrix, new_width, 0, move->to, new_width);
        block_store(move, to, first, n);
    }
}

static void move_kept(const struct move *move, struct column from, struct column to) {
    const struct change_slot *const change = move->change;
    for (uint32_t r = 0; r < move->slot->rows; r++) {
        const float *const old = (const float *)slab_row(from.slab, r) + from.offset;
        float *const moved = (float *)slab_row(to.slab, r) + to.offset;
        for (uint32_t k = 0; k < change->to; k++)
            moved[k] = old[change->keep[k]];
    }
}

/* The first cells of a row's side, which no basis touches: a free row stays one. */
static void move_cells(const struct move *move, size_t n) {
    for (uint32_t r = 0; r < move->slot->rows; r++)
        memcpy(slab_row(&move->sides, r), slab_row(&move->slot->sides, r), n * sizeof(float));
}

static void move_column(const struct move *move, struct column from, struct column to,
                        const double *matrix, const double *shift) {
    if (move->change->to == 0)
        return;
    if (move->change->keep != NULL)
        move_kept(move, from, to);
    else
        move_dense(move, from, to, matrix, shift);
}

/* Values by T, first moments by N, second moments by N o N (design 2.5). */
static void move_rows(const struct move *move) {
    const struct change_slot *const change = move->change;
    const struct table_slot *const slot = move->slot;
    const struct slab *const from = &slot->sides, *const to = &move->sides;
    const size_t state = counters_cells(&slot->spec.retention);
    const struct column first_from = {from, state}, first_to = {to, state};
    move_column(move, (struct column){&slot->values, 0}, (struct column){&move->values, 0},
                change->T, change->shift);
    switch (slot->spec.optimizer.kind) {
    case OPTIMIZER_SGD:
        move_cells(move, state);
        break;
    case OPTIMIZER_ADAGRAD:
        move_cells(move, state);
        move_column(move, first_from, first_to, move->squares, NULL);
        break;
    case OPTIMIZER_ROWWISE_ADAGRAD:
        move_cells(move, state + 1);
        break;
    case OPTIMIZER_ADAM:
        move_cells(move, state + 1); /* the step count; then m, then v */
        move_column(move, (struct column){from, state + 1}, (struct column){to, state + 1},
                    change->N, NULL);
        move_column(move, (struct column){from, state + 1 + (size_t)change->from},
                    (struct column){to, state + 1 + (size_t)change->to}, move->squares, NULL);
        break;
    }
}

static dimfit_err move_prepare(struct move *move) {
    const struct change_slot *const change = move->change;
    const size_t from = change->from, to = change->to;
    slab_init(&move->values, to);
    slab_init(&move->sides, side_stride(&move->slot->spec, to));
    dimfit_err err = slab_reserve(&move->values, move->slot->rows);
    if (err == DIMFIT_OK)
        err = slab_reserve(&move->sides, move->slot->rows);
    if (err != DIMFIT_OK || change->keep != NULL || to == 0)
        return err;
    move->from = malloc((BLOCK_ROWS * (from + to) + from * to) * sizeof(double));
    if (move->from == NULL)
        return DIMFIT_ERR_NOMEM;
    move->to = move->from + BLOCK_ROWS * from;
    move->squares = move->to + BLOCK_ROWS * to;
    for (size_t i = 0; i < from * to; i++)
        move->squares[i] = change->N[i] * change->N[i];
    return DIMFIT_OK;
}

/* Everything that can fail comes first; the old slabs go when the new ones are whole. */
static dimfit_err change_slot(struct table_slot *slot, const struct change_slot *change,
                              const struct layout_slot *spec, uint64_t epoch) {
    struct move move = {.change = change, .slot = slot};
    struct layout_slot copy;
    dimfit_err err = table_spec_copy(spec, &copy);
    if (err != DIMFIT_OK)
        return err;
    err = move_prepare(&move);
    if (err != DIMFIT_OK) {
        slab_fini(&move.values);
        slab_fini(&move.sides);
        layout_slot_fini(&copy);
        goto done;
    }
    move_rows(&move);
    slab_fini(&slot->values);
    slab_fini(&slot->sides);
    slot->values = move.values;
    slot->sides = move.sides;
    slab_fini(&slot->sink_values);
    slab_fini(&slot->sink_sides);
    layout_slot_fini(&slot->spec);
    slot->spec = copy;
    slot_sinks_init(slot);
    slot->epoch = epoch;

done:
    free(move.from);
    return err;
}

static bool is_whole(const struct change_slot *change) {
    if (change->to == 0)
        return true;
    if (change->keep == NULL)
        return change->T != NULL && change->N != NULL;
    for (uint32_t k = 0; k < change->to; k++) {
        if (change->keep[k] >= change->from)
            return false;
    }
    return true;
}

/* The part of a failed change that was done before it is repeated. */
static bool is_done(const struct table_slot *slot, const struct change *change) {
    return slot->epoch == change->to_epoch;
}

static dimfit_err check_slot(struct table *table, const struct change *change,
                             const struct change_slot *part, const struct layout *layout,
                             struct err_detail *detail) {
    const struct table_slot *const slot = table_find(table, part->id);
    const struct layout_slot *const spec = layout_find(layout, part->id);
    if (slot == NULL || spec == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID, "change to epoch %llu: slot %u is not in the %s",
                       (unsigned long long)change->to_epoch, part->id,
                       slot == NULL ? "table" : "layout");
    const uint32_t width = slot->spec.width;
    if (width != (is_done(slot, change) ? part->to : part->from) || spec->width != part->to ||
        part->to > part->from || spec->dim != slot->spec.dim ||
        spec->optimizer.kind != slot->spec.optimizer.kind)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "change to epoch %llu: slot %u goes from width %u to %u, but is stored at "
                       "%u and the layout says %u",
                       (unsigned long long)change->to_epoch, part->id, part->from, part->to, width,
                       spec->width);
    const char *const kept = retention_difference(&spec->retention, &slot->spec.retention);
    if (kept != NULL)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "change to epoch %llu: slot %u would have another %s",
                       (unsigned long long)change->to_epoch, part->id, kept);
    if (!is_whole(part))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "change to epoch %llu: slot %u lacks its matrices or keeps a coordinate "
                       "it does not have",
                       (unsigned long long)change->to_epoch, part->id);
    return DIMFIT_OK;
}

uint64_t table_change_peak(const struct table *table, const struct change *change) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    uint64_t peak = 0;
    int64_t balance = 0; /* of the slots done, new less old */
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        const struct change_slot *const part = change_find(change, slot->spec.id);
        if (part == NULL || is_done(slot, change))
            continue;
        const uint64_t bytes = slab_bytes_for(part->to, slot->rows) +
                               slab_bytes_for(side_stride(&slot->spec, part->to), slot->rows);
        const int64_t high = balance + (int64_t)bytes;
        if (high > 0 && (uint64_t)high > peak)
            peak = (uint64_t)high;
        balance = high - (int64_t)(slab_bytes(&slot->values) + slab_bytes(&slot->sides));
    }
    return peak;
}

dimfit_err table_change(struct table *table, const struct change *change,
                        const struct layout *layout, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    if (layout->epoch != change->to_epoch || change->to_epoch == 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "a change to epoch %llu does not lead to a layout of epoch %llu",
                       (unsigned long long)change->to_epoch, (unsigned long long)layout->epoch);
    for (size_t i = 0; i < change->n_slots; i++) {
        const dimfit_err err = check_slot(table, change, &change->slots[i], layout, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    for (size_t i = 0; i < change->n_slots; i++) {
        const struct change_slot *const part = &change->slots[i];
        struct table_slot *const slot = table_find(table, part->id);
        if (is_done(slot, change))
            continue;
        const dimfit_err err = change_slot(slot, part, layout_find(layout, part->id),
                                           change->to_epoch);
        if (err != DIMFIT_OK)
            return err_set(detail, err, "no memory to move slot %u (%u rows) to width %u", part->id,
                           slot->rows, part->to);
    }
    return DIMFIT_OK;
}
