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
    for (size_t i = 0; undo && i < table->n_slots && err == DIMFIT_OK; i++) {
        const struct former *const former = table->slots[i]->former;
        if (former != NULL && former->spill != NULL)
            err = table->spill->check(table->spill->self, former->spill, detail);
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
static void restore_former(struct table_slot *slot, const struct layout_slot *before,
                           struct archive_reader *in) {
    struct former *const former = calloc(1, sizeof *former);
    slot->former = former;
    if (former == NULL || table_spec_copy(before, &former->spec) != DIMFIT_OK) {
        archive_no_memory(in);
        return;
    }
    former->kept = true;
    former->epoch = archive_get_u64(in);
    former->rows = archive_get_u32(in);
    const bool sides = archive_get_u8(in) != 0;
    if (former->rows > slot->rows)
        archive_refuse(in, "slot %u had %u rows before a change, and %u now", slot->spec.id,
                       former->rows, slot->rows);
    if (sides != (recast_side(before, 0) != recast_side(before, 1)))
        archive_refuse(in, "slot %u: no change moves its optimizer state so", slot->spec.id);
    slab_init(&former->values, before->width);
    slab_init(&former->sides, sides ? recast_side(before, before->width) : 0);
    if (in->err == DIMFIT_OK)
        restore_reused(former, in);
    restore_slab(&former->values, former->rows, in);
    restore_slab(&former->sides, former->rows, in);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void save_slot(const struct table_slot *slot, bool undo, struct archive_writer *out) {
    archive_put_mark(out, MARK_SLOT);
    archive_put_u32(out, slot->spec.id);
    archive_put_u32(out, slot->spec.width);
    archive_put_u32(out, slot->rows);
    archive_put_u32(out, slot->n_free);
    archive_put_u32(out, slot->n_free > 0 ? slot->free_row : 0);
    archive_put_u64(out, slot->keys_pending);
    archive_put_u64(out, slot->evicted);
    archive_put_u64(out, slot->expired_rows);
    archive_put_u64(out, slot->expired_pending);
    index_save(&slot->index, out);
    save_slab(&slot->values, slot->rows, out);
    save_slab(&slot->sides, slot->rows, out);
    const bool former = undo && slot->former != NULL;
    archive_put_mark(out, MARK_FORMER);
    archive_put_u8(out, former);
    if (former)
        save_former(slot->former, out);
}

void table_save(const struct table *table, bool undo, struct archive_writer *out) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    base_assert(table->n_moving == 0);
    archive_put_u64(out, table->n_slots);
    for (size_t i = 0; i < table->n_slots; i++)
        save_slot(table->slots[i], undo, out);
}

/* What the index says of rows, each of which belongs to one feasign or to the free ones. */
struct taken {
    struct table_slot *slot;
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
    if (row >= taken->slot->rows) {
        archive_refuse(in, "row %u of slot %u, which has %u", row, taken->slot->spec.id,
                       taken->slot->rows);
    } else if (!taken_reserve(taken, row)) {
        archive_no_memory(in);
    } else if (bit_is_set(taken->rows, row)) {
        archive_refuse(in, "row %u of slot %u is there twice", row, taken->slot->spec.id);
    } else {
        bit_set(taken->rows, row);
        taken->n++;
    }
}

static void take_value(void *self, struct archive_reader *in, uint32_t value) {
    struct taken *const taken = self;
    struct table_slot *const slot = taken->slot;
    if (value < INDEX_PENDING) {
        take_row(taken, value, in);
    } else if (value == INDEX_NONE || pending_shows(value) >= slot->spec.retention.admit) {
        archive_refuse(in, "a feasign of slot %u waits for a row in vain", slot->spec.id);
    } else {
        slot->n_pending++;
    }
}

/* The chain has all rows that no feasign has, and those alone are marked. */
static void check_free(struct taken *taken, struct archive_reader *in) {
    const struct table_slot *const slot = taken->slot;
    uint32_t marked = 0, row = slot->free_row;
    for (uint32_t i = 0; i < slot->rows; i++)
        marked += row_is_free(slot, i);
    if (taken->n != slot->rows - slot->n_free || marked != slot->n_free)
        archive_refuse(in, "slot %u has %u rows, %u of them free, and feasigns for %u",
                       slot->spec.id, slot->rows, slot->n_free, taken->n);
    for (uint32_t i = 0; i < slot->n_free && in->err == DIMFIT_OK; i++) {
        take_row(taken, row, in);
        if (in->err == DIMFIT_OK && !row_is_free(slot, row))
            archive_refuse(in, "row %u of slot %u is not free", row, slot->spec.id);
        if (in->err == DIMFIT_OK)
            row = *row_side(slot, row) & ~ROW_FREE;
    }
}

static void restore_rows(struct table_slot *slot, struct archive_reader *in) {
    struct taken taken = {.slot = slot};
    index_restore(&slot->index, in, take_value, &taken);
    restore_slab(&slot->values, slot->rows, in);
    restore_slab(&slot->sides, slot->rows, in);
    if (in->err == DIMFIT_OK)
        check_free(&taken, in);
    free(taken.rows);
}

static void restore_slot(struct table_slot *slot, const struct layout *before,
                         struct archive_reader *in) {
    archive_get_mark(in, MARK_SLOT, "next slot");
    const uint32_t id = archive_get_u32(in), width = archive_get_u32(in);
    if (id != slot->spec.id || width != slot->spec.width)
        archive_refuse(in, "rows of slot %u, %u wide, where slot %u of width %u is next", id, width,
                       slot->spec.id, slot->spec.width);
    slot->rows = archive_get_u32(in);
    slot->n_free = archive_get_u32(in);
    slot->free_row = archive_get_u32(in);
    slot->keys_pending = archive_get_u64(in);
    slot->evicted = archive_get_u64(in);
    slot->expired_rows = archive_get_u64(in);
    slot->expired_pending = archive_get_u64(in);
    if (slot->rows >= INDEX_PENDING || slot->n_free > slot->rows)
        archive_refuse(in, "slot %u has %u rows, %u of them free", id, slot->rows, slot->n_free);
    if (in->err == DIMFIT_OK)
        restore_rows(slot, in);
    archive_get_mark(in, MARK_FORMER, "end of a slot");
    const bool former = archive_get_u8(in) != 0;
    const struct layout_slot *const spec = before != NULL ? layout_find(before, id) : NULL;
    if (former && spec == NULL)
        archive_refuse(in, "slot %u has rows of a layout that is not there", id);
    if (former && in->err == DIMFIT_OK)
        restore_former(slot, spec, in);
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
