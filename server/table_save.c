/*
 * A table's rows, saved and restored: the index with its buckets as they are, the slabs in the
 * order of row numbers, free rows and their chain among them. So everything that adds rows up, and
 * every row number given out later, is the same.
 */
#include "server/archive.h"
#include "server/table_motion.h"

#include <stdlib.h>

enum {
    MARK_SLOT = 0x544f4c53,   /* "SLOT" */
    MARK_FORMER = 0x4d524f46, /* "FORM" */
};

dimfit_err table_save_check(const struct table *table, bool undo, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    if (table->n_moving > 0)
        return err_set(detail, DIMFIT_ERR_BUSY, "%llu rows are still to be moved",
                       (unsigned long long)table_figures(table).moving_rows);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; undo && i < table->n_slots; i++) {
        const struct table_slot *const slot = table->slots[i];
        for (uint32_t t = 0; t < slot->spec.n_tiers && err == DIMFIT_OK; t++) {
            const struct former *const former = slot->tiers[t].former;
            if (former != NULL && former->spill != NULL)
                err = table->spill->check(table->spill->self, former->spill, detail);
        }
    }
    return err;
}

/* ---- slabs ----------------------------------------------------------------------------------- */

static void save_slab(const struct slab *slab, uint32_t rows, struct archive_writer *out) {
    const size_t row_bytes = slab->stride * sizeof(float);
    for (uint32_t row = 0, n; row_bytes > 0 && row < rows; row += n) {
        const uint32_t run = slab_run(slab, row);
        n = rows - row < run ? rows - row : run;
        archive_put(out, slab_row(slab, row), n * row_bytes);
    }
}

/* Room as the bytes come: a number of rows alone is not believed. */
static void restore_slab(struct slab *slab, uint32_t rows, struct archive_reader *in) {
    const size_t row_bytes = slab->stride * sizeof(float);
    for (uint32_t row = 0, n; row_bytes > 0 && row < rows && in->err == DIMFIT_OK; row += n) {
        const uint32_t piece = (uint32_t)(65536 / row_bytes + 1), run = slab_run(slab, row);
        n = rows - row < run ? rows - row : run;
        n = n < piece ? n : piece;
        if (slab_reserve(slab, (uint64_t)row + n) != DIMFIT_OK)
            archive_no_memory(in);
        else
            archive_get(in, slab_row(slab, row), n * row_bytes);
    }
}

/* ---- rows before the last change ------------------------------------------------------------- */

static void save_former(const struct former *former, struct archive_writer *out) {
    archive_put_u64(out, former->epoch);
    archive_put_u32(out, former->rows);
    archive_put_u8(out, former->sides.stride > 0);
    archive_put(out, former->reused, ((size_t)former->rows / 64 + 1) * sizeof *former->reused);
    save_slab(&former->values, former->rows, out);
    save_slab(&former->sides, former->rows, out);
}

static void restore_reused(struct former *former, struct archive_reader *in) {
    const size_t words = (size_t)former->rows / 64 + 1;
    former->reused = calloc(words, sizeof *former->reused);
    if (former->reused == NULL) {
        archive_no_memory(in);
        return;
    }
    archive_get(in, former->reused, words * sizeof *former->reused);
    for (size_t i = 0; i < words; i++)
        former->n_reused += (uint32_t)__builtin_popcountll(former->reused[i]);
    if (former->reused[words - 1] >> former->rows % 64 != 0)
        archive_refuse(in, "rows before a change that there are not");
}

/* They stay in memory, wherever they were. */
static void restore_former(struct table_tier *tier, const struct layout_slot *before,
                           struct archive_reader *in) {
    const uint32_t id = before->id, width = before->tier_widths[tier->number];
    struct former *const former = calloc(1, sizeof *former);
    tier->former = former;
    if (former == NULL || table_spec_copy(before, &former->spec) != DIMFIT_OK) {
        archive_no_memory(in);
        return;
    }
    former->kept = true;
    former->epoch = archive_get_u64(in);
    former->rows = archive_get_u32(in);
    const bool sides = archive_get_u8(in) != 0;
    if (former->rows > tier->rows)
        archive_refuse(in, "slot %u had %u rows before a change, and %u now", id, former->rows,
                       tier->rows);
    if (sides != (recast_side(before, 0) != recast_side(before, 1)))
        archive_refuse(in, "slot %u: no change moves its optimizer state so", id);
    slab_init(&former->values, width);
    slab_init(&former->sides, sides ? recast_side(before, width) : 0);
    if (in->err == DIMFIT_OK)
        restore_reused(former, in);
    restore_slab(&former->values, former->rows, in);
    restore_slab(&former->sides, former->rows, in);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void save_tier(const struct table_tier *tier, bool undo, struct archive_writer *out) {
    save_slab(&tier->values, tier->rows, out);
    save_slab(&tier->sides, tier->rows, out);
    const bool former = undo && tier->former != NULL;
    archive_put_mark(out, MARK_FORMER);
    archive_put_u8(out, former);
    if (former)
        save_former(tier->former, out);
}

static void save_slot(const struct table_slot *slot, bool undo, struct archive_writer *out) {
    archive_put_mark(out, MARK_SLOT);
    archive_put_u32(out, slot->spec.id);
    archive_put_u32(out, slot->spec.n_tiers);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++) {
        const struct table_tier *const tier = &slot->tiers[t];
        archive_put_u32(out, tier_width(tier));
        archive_put_u32(out, tier->rows);
        archive_put_u32(out, tier->n_free);
        archive_put_u32(out, tier->n_free > 0 ? tier->free_row : 0);
    }
    archive_put_u64(out, slot->keys_pending);
    archive_put_u64(out, slot->evicted);
    archive_put_u64(out, slot->expired_rows);
    archive_put_u64(out, slot->expired_pending);
    archive_put_u64(out, slot->promoted);
    archive_put_u64(out, slot->demoted);
    index_save(&slot->index, out);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        save_tier(&slot->tiers[t], undo, out);
}

void table_save(const struct table *table, bool undo, struct archive_writer *out) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    base_assert(table->n_moving == 0);
    archive_put_u64(out, table->n_slots);
    for (size_t i = 0; i < table->n_slots; i++)
        save_slot(table->slots[i], undo, out);
}

/* What the index says of a tier's rows, each of which belongs to one feasign or to the free ones.
 */
struct taken {
    struct table_tier *tier;
    uint64_t *rows; /* bits */
    uint32_t cap;   /* of them, a multiple of 64 */
    uint32_t n;
};

static bool taken_reserve(struct taken *taken, uint32_t row) {
    if (row < taken->cap)
        return true;
    uint64_t cap = taken->cap ? taken->cap : 4096;
    while (cap <= row)
        cap *= 2;
    uint64_t *const rows = realloc(taken->rows, cap / 8);
    if (rows == NULL)
        return false;
    memset((char *)rows + taken->cap / 8, 0, (cap - taken->cap) / 8);
    taken->rows = rows;
    taken->cap = (uint32_t)cap;
    return true;
}

static void take_row(struct taken *taken, uint32_t row, struct archive_reader *in) {
    const uint32_t id = taken->tier->slot->spec.id;
    if (row >= taken->tier->rows) {
        archive_refuse(in, "row %u of slot %u, which has %u", row, id, taken->tier->rows);
    } else if (!taken_reserve(taken, row)) {
        archive_no_memory(in);
    } else if (bit_is_set(taken->rows, row)) {
        archive_refuse(in, "row %u of slot %u is there twice", row, id);
    } else {
        bit_set(taken->rows, row);
        taken->n++;
    }
}

static void take_value(void *self, struct archive_reader *in, uint32_t value) {
    struct taken *const taken = self; /* [n_tiers] */
    struct table_slot *const slot = taken->tier->slot;
    const uint32_t tier = value >> slot->row_bits;
    if (value < INDEX_PENDING && tier < slot->spec.n_tiers) {
        take_row(&taken[tier], slot_row(slot, value), in);
    } else if (value < INDEX_PENDING) {
        archive_refuse(in, "a row of tier %u of slot %u, which has %u", tier, slot->spec.id,
                       slot->spec.n_tiers);
    } else if (value == INDEX_NONE || pending_shows(value) >= slot->spec.retention.admit) {
        archive_refuse(in, "a feasign of slot %u waits for a row in vain", slot->spec.id);
    } else {
        slot->n_pending++;
    }
}

/* The chain has all rows that no feasign has, and those alone are marked. */
static void check_free(struct taken *taken, struct archive_reader *in) {
    const struct table_tier *const tier = taken->tier;
    const uint32_t id = tier->slot->spec.id;
    uint32_t marked = 0, row = tier->free_row;
    for (uint32_t i = 0; i < tier->rows; i++)
        marked += row_is_free(tier, i);
    if (taken->n != tier->rows - tier->n_free || marked != tier->n_free)
        archive_refuse(in, "slot %u has %u rows, %u of them free, and feasigns for %u", id,
                       tier->rows, tier->n_free, taken->n);
    for (uint32_t i = 0; i < tier->n_free && in->err == DIMFIT_OK; i++) {
        take_row(taken, row, in);
        if (in->err == DIMFIT_OK && !row_is_free(tier, row))
            archive_refuse(in, "row %u of slot %u is not free", row, id);
        if (in->err == DIMFIT_OK)
            row = *row_side(tier, row) & ~ROW_FREE;
    }
}

static void restore_tier(struct taken *taken, const struct layout_slot *before,
                         struct archive_reader *in) {
    struct table_tier *const tier = taken->tier;
    restore_slab(&tier->values, tier->rows, in);
    restore_slab(&tier->sides, tier->rows, in);
    if (in->err == DIMFIT_OK)
        check_free(taken, in);
    archive_get_mark(in, MARK_FORMER, "end of a slot");
    const bool former = archive_get_u8(in) != 0;
    if (former && (before == NULL || before->n_tiers != tier->slot->spec.n_tiers))
        archive_refuse(in, "slot %u has rows of a layout that is not there", tier->slot->spec.id);
    if (former && in->err == DIMFIT_OK)
        restore_former(tier, before, in);
}

static void restore_rows(struct table_slot *slot, const struct layout_slot *before,
                         struct archive_reader *in) {
    struct taken taken[LAYOUT_TIERS_MAX] = {{0}};
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        taken[t].tier = &slot->tiers[t];
    index_restore(&slot->index, in, take_value, taken);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        restore_tier(&taken[t], before, in);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        free(taken[t].rows);
}

static void restore_numbers(struct table_tier *tier, struct archive_reader *in) {
    const uint32_t id = tier->slot->spec.id, width = archive_get_u32(in);
    if (width != tier_width(tier))
        archive_refuse(in, "rows of slot %u, %u wide, where ones of width %u are next", id, width,
                       tier_width(tier));
    tier->rows = archive_get_u32(in);
    tier->n_free = archive_get_u32(in);
    tier->free_row = archive_get_u32(in);
    if (tier->rows > 1u << tier->slot->row_bits || tier->n_free > tier->rows)
        archive_refuse(in, "slot %u has %u rows, %u of them free", id, tier->rows, tier->n_free);
}

static void restore_slot(struct table_slot *slot, const struct layout *before,
                         struct archive_reader *in) {
    archive_get_mark(in, MARK_SLOT, "next slot");
    const uint32_t id = archive_get_u32(in), n_tiers = archive_get_u32(in);
    if (id != slot->spec.id || n_tiers != slot->spec.n_tiers)
        archive_refuse(in, "rows of slot %u in %u tiers, where slot %u of %u is next", id, n_tiers,
                       slot->spec.id, slot->spec.n_tiers);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        restore_numbers(&slot->tiers[t], in);
    slot->keys_pending = archive_get_u64(in);
    slot->evicted = archive_get_u64(in);
    slot->expired_rows = archive_get_u64(in);
    slot->expired_pending = archive_get_u64(in);
    slot->promoted = archive_get_u64(in);
    slot->demoted = archive_get_u64(in);
    if (in->err == DIMFIT_OK)
        restore_rows(slot, before != NULL ? layout_find(before, id) : NULL, in);
    slot_count_bytes(slot);
}

void table_restore(struct table *table, const struct layout *before, struct archive_reader *in) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const uint64_t n = archive_get_u64(in);
    if (n != table->n_slots)
        archive_refuse(in, "rows of %llu slots, %zu are in the layout", (unsigned long long)n,
                       table->n_slots);
    for (size_t i = 0; i < table->n_slots && in->err == DIMFIT_OK; i++)
        restore_slot(table->slots[i], before, in);
}
