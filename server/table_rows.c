#include "server/init.h"
#include "server/table_motion.h"

uint32_t *row_side(const struct table_tier *tier, uint32_t row) {
    return tier->motion == NULL ? tier_side(tier, row) : motion_side(tier, row);
}

static uint32_t row_take(struct table_tier *tier) {
    if (tier->n_free == 0)
        return tier->rows++;
    const uint32_t row = tier->free_row;
    tier->free_row = *row_side(tier, row) & ~ROW_FREE;
    tier->n_free--;
    if (tier->former != NULL)
        former_note_reused(tier->former, row);
    return row;
}

static uint32_t row_new(struct table_slot *slot, uint64_t key) {
    struct table_tier *const tier = &slot->tiers[0];
    const uint32_t row = row_take(tier);
    float *values;
    if (tier->motion == NULL) {
        values = tier_values(tier, row);
    } else {
        motion_put_new(tier, row);
        values = motion_values(tier, row, key, NULL);
    }
    init_new_row(&slot->spec, slot->seed, key, values);
    memset(row_side(tier, row), 0, tier->sides.stride * sizeof(float));
    return row;
}

void row_free(struct table_tier *tier, uint32_t row) {
    base_assert(tier->motion == NULL);
    *tier_side(tier, row) = ROW_FREE | (tier->n_free > 0 ? tier->free_row : 0);
    tier->free_row = row;
    tier->n_free++;
}

uint32_t row_retier(struct table_tier *from, uint32_t row, struct table_tier *to) {
    base_assert(from->former == NULL && to->former == NULL && to->motion == NULL);
    const uint32_t place = row_take(to);
    const struct layout_slot *const spec = &from->slot->spec;
    const uint32_t w = tier_width(from), v = tier_width(to), n = w < v ? w : v;
    float *const values = tier_values(to, place);
    memcpy(values, tier_values(from, row), n * sizeof *values);
    memset(values + n, 0, (v - n) * sizeof *values);
    recast_cut_side(spec, tier_side(from, row), w, tier_side(to, place), v);
    row_free(from, row);
    return tier_value(to, place);
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
    counters_write(&slot->spec.retention, before, row_side(&slot->tiers[0], *entry));
    return *entry;
}
