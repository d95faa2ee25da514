#include "server/table_motion.h"

#include <stdlib.h>

enum { PAGE = 4096 };

/* ---- what is asked ----------------------------------------------------------------------------
 */

static bool is_whole(const struct change_slot *change) {
    const uint32_t kept = change->to - change->added;
    if (change->keep == NULL)
        return change->T != NULL && change->N != NULL;
    for (uint32_t k = 0; k < kept; k++) {
        if (change->keep[k] >= change->from)
            return false;
    }
    return true;
}

static dimfit_err check_saved(const struct table *table, const struct table_slot *slot,
                              const struct change *change, struct err_detail *detail) {
    const struct former *const saved = slot->former;
    if (saved == NULL || !saved->kept || saved->epoch != change->undoes)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "the change to epoch %llu can't be undone: slot %u has no rows saved from "
                       "before it",
                       (unsigned long long)change->undoes, slot->spec.id);
    return saved->spill == NULL ? DIMFIT_OK
                                : table->spill->check(table->spill->self, saved->spill, detail);
}

static dimfit_err check_slot(struct table *table, const struct change *change,
                             const struct change_slot *part, const struct layout *layout,
                             struct err_detail *detail) {
    const struct table_slot *const slot = table_find(table, part->id);
    const struct layout_slot *const spec = layout_find(layout, part->id);
    const uint32_t from = change_width_before(change, part), to = change_width_after(change, part);
    if (slot == NULL || spec == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID, "change to epoch %llu: slot %u is not in the %s",
                       (unsigned long long)change->to_epoch, part->id,
                       slot == NULL ? "table" : "layout");
    if (slot->spec.width != from || spec->width != to || part->added > part->to ||
        part->to - part->added > part->from || spec->dim != slot->spec.dim ||
        spec->optimizer.kind != slot->spec.optimizer.kind)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "change to epoch %llu: slot %u goes from width %u to %u, but is stored at "
                       "%u and the layout says %u",
                       (unsigned long long)change->to_epoch, part->id, from, to, slot->spec.width,
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
    return change->undoes != 0 ? check_saved(table, slot, change, detail) : DIMFIT_OK;
}

dimfit_err table_change_check(struct table *table, const struct change *change,
                              const struct layout *layout, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    if (table->n_moving > 0)
        return err_set(detail, DIMFIT_ERR_BUSY,
                       "%llu rows of the change before are still to be moved; try again",
                       (unsigned long long)table_figures(table).moving_rows);
    if (layout->epoch != change->to_epoch || change->to_epoch == 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "a change to epoch %llu does not lead to a layout of epoch %llu",
                       (unsigned long long)change->to_epoch, (unsigned long long)layout->epoch);
    for (size_t i = 0; i < change->n_slots; i++) {
        const dimfit_err err = check_slot(table, change, &change->slots[i], layout, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

/* ---- what it takes ----------------------------------------------------------------------------
 */

/* Of a slot at a width: all that a change moves. */
static uint64_t slot_bytes_for(const struct table_slot *slot, uint32_t width, uint64_t rows) {
    const struct layout_slot *const spec = &slot->spec;
    const size_t side = recast_side(spec, width);
    const bool sides = recast_side(spec, 0) != recast_side(spec, 1);
    return slab_bytes_for(width, rows) + (sides ? slab_bytes_for(side, rows) : 0);
}

static uint64_t slot_bytes_now(const struct table_slot *slot) {
    const struct layout_slot *const spec = &slot->spec;
    const bool sides = recast_side(spec, 0) != recast_side(spec, 1);
    return slab_bytes(&slot->values) + (sides ? slab_bytes(&slot->sides) : 0);
}

/* Rows ahead of the sweep, which the pace keeps to a share of all, and where they are. */
static uint64_t ahead_bytes(const struct table_slot *slot, uint32_t width) {
    enum { INDEX_ENTRY = 24 };
    const uint64_t rows = slot->rows / (MOTION_PACE + 1) + 1;
    return slot_bytes_for(slot, width, rows) + rows * INDEX_ENTRY + slot->rows / 8;
}

/* A chunk of each new slab is begun before an old one is done with, two where rows get wider. */
static int64_t begun_bytes(int64_t after, int64_t before) {
    const int64_t chunks = (after > before ? 4 : 2) * (int64_t)SLAB_CHUNK_BYTES;
    return (after < chunks ? after : chunks) + (after > before ? after - before : 0);
}

/* Rows of a slot that undoing reads back from where they were spilled. */
static uint64_t spilled_bytes(const struct table_slot *slot) {
    const struct former *const saved = slot->former;
    return saved != NULL && saved->spill != NULL
               ? slab_bytes(&saved->values) + slab_bytes(&saved->sides)
               : 0;
}

uint64_t table_change_peak(const struct table *table, const struct change *change) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const bool back = change->undoes != 0, keeps = table->keep && !back;
    const bool stays = keeps && table->spill == NULL;
    uint64_t beside = keeps && table->spill != NULL ? table->spill->queue : 0;
    int64_t balance = 0, peak = 0; /* balance: of the slots before */
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        const struct change_slot *const part = change_find(change, slot->spec.id);
        if (part == NULL)
            continue;
        const uint32_t width = change_width_after(change, part);
        const int64_t after = (int64_t)slot_bytes_for(slot, width, slot->rows);
        const int64_t before = stays ? 0 : (int64_t)slot_bytes_now(slot);
        const int64_t high = balance + begun_bytes(after, before);
        beside += ahead_bytes(slot, width) + (back ? spilled_bytes(slot) : 0);
        peak = high > peak ? high : peak;
        balance += after - before;
    }
    return (uint64_t)peak + beside;
}

/* ---- the change -------------------------------------------------------------------------------
 */

struct start {
    struct table_slot *slot;
    struct motion *motion;
    struct layout_slot spec;
};

static void drop_starts(struct start *starts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (starts[i].motion != NULL)
            former_destroy(&starts[i].motion->from, NULL);
        motion_destroy(&starts[i].motion);
        layout_slot_fini(&starts[i].spec);
    }
    free(starts);
}

static dimfit_err make_starts(struct table *table, const struct change *change,
                              const struct layout *layout, struct start **out) {
    const size_t n = change->n_slots;
    struct start *const starts = calloc(n + 1, sizeof *starts);
    dimfit_err err = starts != NULL ? DIMFIT_OK : DIMFIT_ERR_NOMEM;
    for (size_t i = 0; err == DIMFIT_OK && i < n; i++) {
        const struct change_slot *const part = &change->slots[i];
        const struct layout_slot *const spec = layout_find(layout, part->id);
        starts[i].slot = table_find(table, part->id);
        const uint32_t before = starts[i].slot->spec.width;
        err = motion_reserve_read(table, before > spec->width ? before : spec->width);
        if (err == DIMFIT_OK)
            err = table_spec_copy(spec, &starts[i].spec);
        if (err == DIMFIT_OK)
            err = motion_new(starts[i].slot, change, part, spec, table->keep && change->undoes == 0,
                             &starts[i].motion);
    }
    if (err != DIMFIT_OK && starts != NULL)
        drop_starts(starts, n);
    else
        *out = starts;
    return err;
}

static uint64_t whole_pages(uint64_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* Where the chunks of a slab stand in the file, one behind the other. */
static uint64_t lay_out(const struct slab *slab, uint64_t *at, uint64_t end) {
    *at = end;
    if (slab->n_chunks > 1)
        return end + (uint64_t)slab->n_chunks * SLAB_CHUNK_BYTES;
    return slab->n_chunks == 1 ? end + whole_pages(slab_chunk_bytes(slab, 0)) : end;
}

/* One file for all slots. Without it nothing is kept: old memory goes on to the new rows. */
static void open_spill(struct table *table, uint64_t epoch, struct start *starts, size_t n) {
    const struct table_spill *const io = table->spill;
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        struct former *const from = starts[i].motion->from;
        end = lay_out(&from->values, &from->values_at, end);
        end = lay_out(&from->sides, &from->sides_at, end);
    }
    if (end == 0)
        return; /* no rows: nothing to spill */
    struct spill *const spill = io->open(io->self, epoch, end);
    for (size_t i = 0; i < n; i++) {
        struct former *const from = starts[i].motion->from;
        from->kept = spill != NULL;
        from->spill = spill;
        if (i > 0 && spill != NULL)
            io->open_more(io->self, spill);
    }
}

/* Nobody can undo an older change any more. */
static void forget_older(struct table *table, const struct change *change) {
    for (size_t i = 0; i < table->n_slots; i++) {
        struct table_slot *const slot = table->slots[i];
        if (change->undoes == 0 || change_find(change, slot->spec.id) == NULL)
            former_destroy(&slot->former, table->spill);
    }
}

dimfit_err table_change(struct table *table, const struct change *change,
                        const struct layout *layout, struct err_detail *detail) {
    dimfit_err err = table_change_check(table, change, layout, detail);
    if (err != DIMFIT_OK)
        return err;
    const size_t n = change->n_slots;
    struct start *starts = NULL;
    err = make_starts(table, change, layout, &starts);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory to begin the change to epoch %llu of %zu slots",
                       (unsigned long long)change->to_epoch, n);
    forget_older(table, change);
    for (size_t i = 0; i < n; i++) {
        motion_begin(starts[i].slot, starts[i].motion, &starts[i].spec, change->to_epoch);
        slot_count_bytes(starts[i].slot);
    }
    if (table->keep && change->undoes == 0 && table->spill != NULL && n > 0)
        open_spill(table, change->to_epoch, starts, n);
    table->n_moving = n;
    free(starts);
    return DIMFIT_OK;
}

void table_keep(struct table *table, bool keep, const struct table_spill *io) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    table->keep = keep;
    table->spill = io;
}

dimfit_err table_forget(struct table *table, uint64_t epoch) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    if (table->n_moving > 0)
        return DIMFIT_ERR_BUSY;
    for (size_t i = 0; i < table->n_slots; i++) {
        struct table_slot *const slot = table->slots[i];
        if (slot->former != NULL && slot->former->epoch == epoch)
            former_destroy(&slot->former, table->spill);
    }
    return DIMFIT_OK;
}
