#include "server/move.h"
#include "server/table_slot.h"

enum {
    BLOCK_ROWS = 256, /* whose cells all move before the next: they are in the cache */
};

/* Cells of a slab that move in one way: the first `cells` as they are, or else as many as the slot
 * is wide, by the change's selection or through a matrix. */
struct part {
    size_t from, to; /* first cell */
    size_t cells;
    const struct move_matrix *matrix;
};

/* A slot's rows on their way from the old width to the new. */
struct move {
    const struct change_slot *change;
    struct table_slot *slot;
    struct slab_refill values, sides;
    struct move_matrix T, N, squares; /* N o N; without a selection only */
};

static void move_part(const struct move *move, const struct part *part, struct move_run run) {
    const struct change_slot *const change = move->change;
    run.from += part->from;
    run.to += part->to;
    if (part->cells > 0)
        move_cells(&run, part->cells);
    else if (change->keep != NULL)
        move_kept(&run, change->keep, change->to);
    else
        move_dense(&run, part->matrix);
}

static void move_slab(const struct move *move, struct slab_refill *slab, const struct part *parts,
                      size_t n_parts) {
    const uint32_t rows = move->slot->rows;
    for (uint32_t first = 0, n; first < rows; first += n) {
        slab_refill_reach(slab, first);
        const uint32_t old_run = slab_run(slab->old, first), new_run = slab_run(&slab->new, first);
        n = old_run < new_run ? old_run : new_run;
        if (n > BLOCK_ROWS)
            n = BLOCK_ROWS;
        if (n > rows - first)
            n = rows - first;
        const struct move_run run = {slab_row(slab->old, first), slab_row(&slab->new, first),
                                     slab->old->stride, slab->new.stride, n};
        for (size_t i = 0; i < n_parts; i++)
            move_part(move, &parts[i], run);
    }
    slab_refill_end(slab);
}

/* Whether optimizer state comes by the dimension; otherwise a row's side stays where it is. */
static bool sides_move(const struct layout_slot *spec) {
    return side_stride(spec, 0) != side_stride(spec, 1);
}

/* Values by T, first moments by N, second moments by N o N (design 2.5). */
static void move_rows(struct move *move) {
    const struct change_slot *const change = move->change;
    const struct part values = {.matrix = &move->T};
    const size_t state = counters_cells(&move->slot->spec.retention);
    const size_t moments = state + 1; /* of Adam: behind the step count */
    const struct part adagrad[] = {
        {.cells = state},
        {state, state, 0, &move->squares},
    };
    const struct part adam[] = {
        {.cells = moments},
        {moments, moments, 0, &move->N},
        {moments + change->from, moments + change->to, 0, &move->squares},
    };
    const struct part ftrl[] = {
        {.cells = state},
        {state, state, 0, &move->N},
        {state + change->from, state + change->to, 0, &move->N},
    };
    move_slab(move, &move->values, &values, 1);
    switch (move->slot->spec.optimizer.kind) {
    case OPTIMIZER_SGD:
    case OPTIMIZER_ROWWISE_ADAGRAD:
        break;
    case OPTIMIZER_ADAGRAD:
        move_slab(move, &move->sides, adagrad, ARRAY_LEN(adagrad));
        break;
    case OPTIMIZER_ADAM:
        move_slab(move, &move->sides, adam, ARRAY_LEN(adam));
        break;
    case OPTIMIZER_FTRL: /* z, then n: selected only (change.c) */
        move_slab(move, &move->sides, ftrl, ARRAY_LEN(ftrl));
        break;
    }
}

static dimfit_err move_prepare(struct move *move) {
    const struct change_slot *const change = move->change;
    const struct layout_slot *const spec = &move->slot->spec;
    const size_t from = change->from, to = change->to;
    dimfit_err err = slab_refill_begin(&move->values, &move->slot->values, to, move->slot->rows);
    if (err == DIMFIT_OK && sides_move(spec))
        err = slab_refill_begin(&move->sides, &move->slot->sides, side_stride(spec, to),
                                move->slot->rows);
    if (err != DIMFIT_OK || change->keep != NULL || to == 0)
        return err;
    err = move_matrix_init(&move->T, change->T, change->shift, false, from, to);
    if (err == DIMFIT_OK)
        err = move_matrix_init(&move->N, change->N, NULL, false, from, to);
    if (err == DIMFIT_OK)
        err = move_matrix_init(&move->squares, change->N, NULL, true, from, to);
    return err;
}

/* Everything that can fail comes first: from then on old rows give way to new ones. */
static dimfit_err change_slot(struct table_slot *slot, const struct change_slot *change,
                              const struct layout_slot *spec, uint64_t epoch) {
    struct move move = {.change = change, .slot = slot};
    struct layout_slot copy;
    dimfit_err err = table_spec_copy(spec, &copy);
    if (err != DIMFIT_OK)
        return err;
    err = move_prepare(&move);
    if (err != DIMFIT_OK) {
        slab_refill_drop(&move.values);
        slab_refill_drop(&move.sides);
        layout_slot_fini(&copy);
        goto done;
    }
    move_rows(&move);
    slab_fini(&slot->sink_values);
    slab_fini(&slot->sink_sides);
    layout_slot_fini(&slot->spec);
    slot->spec = copy;
    slot_sinks_init(slot);
    slot->epoch = epoch;

done:
    move_matrix_fini(&move.T);
    move_matrix_fini(&move.N);
    move_matrix_fini(&move.squares);
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

/* What a slot's change allocates before it moves a row. */
static uint64_t fresh_bytes(const struct table_slot *slot, uint32_t width) {
    const size_t sides = side_stride(&slot->spec, width);
    uint64_t bytes = slab_refill_bytes(&slot->values, width, slot->rows);
    if (sides_move(&slot->spec))
        bytes += slab_refill_bytes(&slot->sides, sides, slot->rows);
    return bytes;
}

/* New less old. */
static int64_t slot_balance(const struct table_slot *slot, uint32_t width) {
    const size_t sides = side_stride(&slot->spec, width);
    int64_t bytes = (int64_t)slab_bytes_for(width, slot->rows) - (int64_t)slab_bytes(&slot->values);
    if (sides_move(&slot->spec))
        bytes += (int64_t)slab_bytes_for(sides, slot->rows) - (int64_t)slab_bytes(&slot->sides);
    return bytes;
}

uint64_t table_change_peak(const struct table *table, const struct change *change) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    uint64_t peak = 0;
    int64_t balance = 0; /* of the slots done */
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        const struct change_slot *const part = change_find(change, slot->spec.id);
        if (part == NULL || is_done(slot, change))
            continue;
        const int64_t high = balance + (int64_t)fresh_bytes(slot, part->to);
        if (high > 0 && (uint64_t)high > peak)
            peak = (uint64_t)high;
        balance += slot_balance(slot, part->to);
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
        slot_count_bytes(slot);
        if (err != DIMFIT_OK)
            return err_set(detail, err, "no memory to move slot %u (%u rows) to width %u", part->id,
                           slot->rows, part->to);
    }
    return DIMFIT_OK;
}
