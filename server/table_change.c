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
    dimfit_err err = DIMFIT_OK;
    for (uint32_t t = 0; t < slot->spec.n_tiers && err == DIMFIT_OK; t++) {
        const struct former *const saved = slot->tiers[t].former;
        if (saved == NULL || !saved->kept || saved->epoch != change->undoes)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "the change to epoch %llu can't be undone: slot %u has no rows saved "
                           "from before it",
                           (unsigned long long)change->undoes, slot->spec.id);
        if (saved->spill != NULL)
            err = table->spill->check(table->spill->self, saved->spill, detail);
    }
    return err;
}

/* Whether tiers of the slot, the change and the layout are the same. */
static bool tiers_fit(const struct table_slot *slot, const struct change *change,
                      const struct change_slot *part, const struct layout_slot *after) {
    const struct layout_slot *const now = &slot->spec;
    if (now->n_tiers != part->n_tiers || now->n_tiers != after->n_tiers)
        return false;
    for (uint32_t t = 0; t < now->n_tiers; t++) {
        if (now->tier_shows[t] != after->tier_shows[t] || part->tier_from[t] > part->from ||
            part->tier_to[t] > part->to ||
            now->tier_widths[t] != change_tier_before(change, part, t) ||
            after->tier_widths[t] != change_tier_after(change, part, t))
            return false;
    }
    return true;
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
    if (!tiers_fit(slot, change, part, spec))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "change to epoch %llu: slot %u has other tiers in the table, the change or "
                       "the layout",
                       (unsigned long long)change->to_epoch, part->id);
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

/* Of a tier at a width: all that a change moves. */
static uint64_t tier_bytes_for(const struct table_tier *tier, uint32_t width, uint64_t rows) {
    const struct layout_slot *const spec = &tier->slot->spec;
    const size_t side = recast_side(spec, width);
    const bool sides = recast_side(spec, 0) != recast_side(spec, 1);
    return slab_bytes_for(width, rows) + (sides ? slab_bytes_for(side, rows) : 0);
}

static uint64_t tier_bytes_now(const struct table_tier *tier) {
    const struct layout_slot *const spec = &tier->slot->spec;
    const bool sides = recast_side(spec, 0) != recast_side(spec, 1);
    return slab_bytes(&tier->values) + (sides ? slab_bytes(&tier->sides) : 0);
}

/* Rows ahead of the sweep, which the pace keeps to a share of all, and where they are. */
static uint64_t ahead_bytes(const struct table_tier *tier, uint32_t width) {
    enum { INDEX_ENTRY = 24 };
    const uint64_t rows = tier->rows / (MOTION_PACE + 1) + 1;
    return tier_bytes_for(tier, width, rows) + rows * INDEX_ENTRY + tier->rows / 8;
}

/* A chunk of each new slab is begun before an old one is done with, two where rows get wider. */
static int64_t begun_bytes(int64_t after, int64_t before) {
    const int64_t chunks = (after > before ? 4 : 2) * (int64_t)SLAB_CHUNK_BYTES;
    return (after < chunks ? after : chunks) + (after > before ? after - before : 0);
}

/* Rows of a tier that undoing reads back from where they were spilled. */
static uint64_t spilled_bytes(const struct table_tier *tier) {
    const struct former *const saved = tier->former;
    return saved != NULL && saved->spill != NULL
               ? slab_bytes(&saved->values) + slab_bytes(&saved->sides)
               : 0;
}

/* balance: of the tiers before; beside: whatever the order. */
struct peak {
    int64_t balance, most;
    uint64_t beside;
};

/* stays: old memory does; back: the change undoes one. */
static void add_to_peak(struct peak *peak, const struct table_tier *tier, uint32_t width,
                        bool stays, bool back) {
    const int64_t after = (int64_t)tier_bytes_for(tier, width, tier->rows);
    const int64_t before = stays ? 0 : (int64_t)tier_bytes_now(tier);
    const int64_t high = peak->balance + begun_bytes(after, before);
    peak->beside += ahead_bytes(tier, width) + (back ? spilled_bytes(tier) : 0);
    peak->most = high > peak->most ? high : peak->most;
    peak->balance += after - before;
}

uint64_t table_change_peak(const struct table *table, const struct change *change) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const bool back = change->undoes != 0, keeps = table->keep && !back;
    const bool stays = keeps && table->spill == NULL;
    struct peak peak = {.beside = keeps && table->spill != NULL ? table->spill->queue : 0};
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        const struct change_slot *const part = change_find(change, slot->spec.id);
        const uint32_t n = part == NULL || part->n_tiers != slot->spec.n_tiers ? 0 : part->n_tiers;
        for (uint32_t t = 0; t < n; t++)
            add_to_peak(&peak, &slot->tiers[t], change_tier_after(change, part, t), stays, back);
    }
    return (uint64_t)peak.most + peak.beside;
}

/* ---- the change -------------------------------------------------------------------------------
 */

struct start {
    struct table_slot *slot;
    struct motion *motions[LAYOUT_TIERS_MAX];
    struct layout_slot spec;
};

static void drop_starts(struct start *starts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (size_t t = 0; t < LAYOUT_TIERS_MAX; t++) {
            if (starts[i].motions[t] != NULL)
                former_destroy(&starts[i].motions[t]->from, NULL);
            motion_destroy(&starts[i].motions[t]);
        }
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
        for (uint32_t t = 0; err == DIMFIT_OK && t < spec->n_tiers; t++)
            err = motion_new(&starts[i].slot->tiers[t], change, part, spec,
                             table->keep && change->undoes == 0, &starts[i].motions[t]);
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

static uint64_t lay_out_slot(const struct table_slot *slot, uint64_t end) {
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++) {
        struct former *const from = slot->tiers[t].former;
        end = lay_out(&from->values, &from->values_at, end);
        end = lay_out(&from->sides, &from->sides_at, end);
    }
    return end;
}

/* One file for all slots. Without it nothing is kept: old memory goes on to the new rows. */
static void open_spill(struct table *table, uint64_t epoch, const struct start *starts, size_t n) {
    const struct table_spill *const io = table->spill;
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++)
        end = lay_out_slot(starts[i].slot, end);
    if (end == 0)
        return; /* no rows: nothing to spill */
    struct spill *const spill = io->open(io->self, epoch, end);
    size_t opened = 0;
    for (size_t i = 0; i < n; i++) {
        for (uint32_t t = 0; t < starts[i].slot->spec.n_tiers; t++) {
            struct former *const from = starts[i].slot->tiers[t].former;
            from->kept = spill != NULL;
            from->spill = spill;
            if (opened++ > 0 && spill != NULL)
                io->open_more(io->self, spill);
        }
    }
}

void slot_forget(struct table_slot *slot) {
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        former_destroy(&slot->tiers[t].former, slot->table->spill);
}

/* Nobody can undo an older change any more. */
static void forget_older(struct table *table, const struct change *change) {
    for (size_t i = 0; i < table->n_slots; i++) {
        if (change->undoes == 0 || change_find(change, table->slots[i]->spec.id) == NULL)
            slot_forget(table->slots[i]);
    }
}

/* From now on the slot is of the layout after. */
static void begin(struct start *start, uint64_t epoch) {
    struct table_slot *const slot = start->slot;
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        motion_begin(&slot->tiers[t], start->motions[t], epoch);
    slot->table->n_moving += slot->spec.n_tiers;
    layout_slot_fini(&slot->spec);
    slot->spec = start->spec;
    slab_fini(&slot->sink_values);
    slab_fini(&slot->sink_sides);
    slot_sinks_init(slot);
    slot_count_bytes(slot);
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
    for (size_t i = 0; i < n; i++)
        begin(&starts[i], change->to_epoch);
    if (table->keep && change->undoes == 0 && table->spill != NULL && n > 0)
        open_spill(table, change->to_epoch, starts, n);
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
        if (slot->tiers[0].former != NULL && slot->tiers[0].former->epoch == epoch)
            slot_forget(slot);
    }
    return DIMFIT_OK;
}
