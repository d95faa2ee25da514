#include "server/init.h"
#include "server/table_motion.h"

uint32_t *row_side(const struct table_slot *slot, uint32_t row) {
    return slot->motion == NULL ? slot_side(slot, row) : motion_side(slot, row);
}

static uint32_t row_take(struct table_slot *slot) {
    if (slot->n_free == 0)
        return slot->rows++;
    const uint32_t row = slot->free_row;
    slot->free_row = *row_side(slot, row) & ~ROW_FREE;
    slot->n_free--;
    if (slot->former != NULL)
        former_note_reused(slot->former, row);
    return row;
}

static uint32_t row_new(struct table_slot *slot, uint64_t key) {
    const uint32_t row = row_take(slot);
    float *values;
    if (slot->motion == NULL) {
        values = slot_values(slot, row);
    } else {
        motion_put_new(slot, row);
        values = motion_values(slot, row, key, NULL);
    }
    init_row(&slot->spec, slot->seed, key, values);
    memset(row_side(slot, row), 0, slot->sides.stride * sizeof(float));
    return row;
}

void row_free(struct table_slot *slot, uint32_t row) {
    base_assert(slot->motion == NULL);
    *slot_side(slot, row) = ROW_FREE | (slot->n_free > 0 ? slot->free_row : 0);
    slot->free_row = row;
    slot->n_free++;
}

static uint32_t count_pending(struct table_slot *slot, uint32_t shows, uint32_t day) {
    slot->keys_pending++;
    return INDEX_PENDING | day << 12 | shows;
}

/* The first show. */
static uint32_t admit_new(struct table_slot *slot, uint64_t key, uint64_t hash,
                          const struct table_counts *counts, size_t i) {
    const uint32_t shows = counts_lookups(counts, i), admit = slot->spec.retention.admit;
    if (admit <= 1 || shows >= admit) {
        const uint32_t row = row_new(slot, key);
        index_put(&slot->index, key, hash, row);
        return row;
    }
    slot->n_pending++;
    index_put(&slot->index, key, hash, count_pending(slot, shows, counts->day));
    return INDEX_NONE;
}

uint32_t row_admit(struct table_slot *slot, uint64_t key, uint64_t hash, uint32_t value,
                   const struct table_counts *counts, size_t i) {
    if (value == INDEX_NONE)
        return admit_new(slot, key, hash, counts, i);
    const struct row_counters before = {.shows = (float)pending_shows(value),
                                        .day = pending_day(value)};
    const uint64_t shows = (uint64_t)pending_shows(value) + counts_lookups(counts, i);
    uint32_t *const entry = index_value(&slot->index, key, hash);
    if (shows < slot->spec.retention.admit) {
        *entry = count_pending(slot, (uint32_t)shows,
                               counts->day > before.day ? counts->day : before.day);
        return INDEX_NONE;
    }
    *entry = row_new(slot, key);
    slot->n_pending--;
    counters_write(&slot->spec.retention, before, row_side(slot, *entry));
    return *entry;
}
