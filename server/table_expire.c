#include "server/table_expire.h"

#include "server/table_slot.h"

static bool is_old(const struct expiry_rule *rule, uint32_t day) {
    return rule->days > 0 && day > 0 && rule->today > day && rule->today - day > rule->days;
}

/* The tier that a row of so many shows belongs to, with what is near a threshold as it is. */
static uint32_t tier_for(const struct layout_slot *spec, uint32_t tier, float shows) {
    while (tier + 1 < spec->n_tiers && shows >= (float)spec->tier_shows[tier + 1])
        tier++;
    while (tier > 0 && shows < (float)spec->tier_shows[tier] / 2)
        tier--;
    return tier;
}

bool table_may_retier(const struct table_slot *slot) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    bool kept = false;
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        kept = kept || slot->tiers[t].former != NULL;
    return slot->spec.n_tiers > 1 && !kept;
}

/* These are not new rows, so that the table's limit does not count. */
dimfit_err table_reserve_retier(struct table_slot *slot) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    dimfit_err err = DIMFIT_OK;
    for (uint32_t t = 0; t < slot->spec.n_tiers && err == DIMFIT_OK; t++) {
        struct table_tier *const tier = &slot->tiers[t];
        const uint64_t rows = tier->rows + (uint64_t)EXPIRY_ROWS;
        if (tier->n_free >= EXPIRY_ROWS)
            continue;
        err = slab_reserve(&tier->values, rows);
        if (err == DIMFIT_OK)
            err = slab_reserve(&tier->sides, rows);
    }
    slot_count_bytes(slot);
    return err;
}

static bool has_number(const struct table_tier *tier) {
    return tier->n_free > 0 || tier->rows < 1u << tier->slot->row_bits;
}

/* The row's value in the index from now on. */
static uint32_t retier(struct table_slot *slot, const struct expiry_rule *rule, uint32_t value,
                       float shows, struct expiry_slice *out) {
    struct table_tier *const from = slot_tier(slot, value);
    struct table_tier *const to = &slot->tiers[tier_for(&slot->spec, from->number, shows)];
    if (from == to || !has_number(to))
        return value;
    const bool up = to->number > from->number;
    out->promoted += up;
    out->demoted += !up;
    slot->promoted += up;
    slot->demoted += !up;
    return rule->dry ? value : row_retier(from, slot_row(slot, value), to);
}

static bool pending_goes(const struct expiry_rule *rule, uint32_t value) {
    return is_old(rule, pending_day(value)) || (float)pending_shows(value) < rule->shows;
}

static bool expire_pending(struct table_slot *slot, const struct expiry_rule *rule, uint32_t value,
                           struct expiry_slice *out) {
    const bool goes = pending_goes(rule, value);
    out->pending += goes;
    slot->expired_pending += goes;
    slot->n_pending -= goes && !rule->dry;
    return goes;
}

/* One key of a bucket and its value. True: it is to leave the index. */
static bool expire_key(struct table_slot *slot, const struct expiry_rule *rule, uint64_t key,
                       uint32_t *value, struct expiry_slice *out) {
    const struct retention *const retention = &slot->spec.retention;
    out->keys++;
    if (*value >= INDEX_PENDING)
        return expire_pending(slot, rule, *value, out);
    struct table_tier *const tier = slot_tier(slot, *value);
    const uint32_t number = slot_row(slot, *value);
    struct expired_row *const row = &out->rows[out->n_rows];
    row->counters = counters_read(retention, tier_side(tier, number));
    const float shows = counters_on(retention, row->counters, rule->today).shows;
    if (!is_old(rule, row->counters.day) && !(shows < rule->shows)) {
        if (rule->retier)
            *value = retier(slot, rule, *value, shows, out);
        return false;
    }
    row->feasign = key;
    out->n_rows++;
    slot->expired_rows++;
    if (!rule->dry) {
        row_free(tier, number);
        slot->evicted++;
    }
    return true;
}

static void prefetch_sides(const struct table_slot *slot, const struct index_bucket *bucket) {
    for (unsigned k = 0; k < bucket->count; k++) {
        const uint32_t value = bucket->rows[k];
        if (value < INDEX_PENDING)
            __builtin_prefetch(tier_side(slot_tier(slot, value), slot_row(slot, value)));
    }
}

static void begin(struct table_slot *slot, struct expiry_walk *walk) {
    walk->begun = true;
    slot->expired_rows = slot->expired_pending = slot->promoted = slot->demoted = 0;
}

bool table_expire(struct table_slot *slot, const struct expiry_rule *rule, struct expiry_walk *walk,
                  struct expiry_slice *out) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    base_assert(slot->n_moving == 0);
    if (rule->retier && !rule->dry)
        slot_forget(slot);
    out->keys = out->pending = out->promoted = out->demoted = 0;
    out->n_rows = 0;
    if (!walk->begun)
        begin(slot, walk);
    if (walk->looked) {
        const bool more = index_compact(&slot->index, &walk->segment);
        slot_count_bytes(slot);
        return more;
    }
    struct index_bucket *buckets[EXPIRY_BUCKETS];
    size_t n = 0;
    while (n < EXPIRY_BUCKETS && (buckets[n] = index_walk_next(&slot->index, &walk->at)) != NULL)
        prefetch_sides(slot, buckets[n++]);
    for (size_t i = 0; i < n; i++) {
        for (unsigned k = buckets[i]->count; k-- > 0;) {
            if (expire_key(slot, rule, buckets[i]->keys[k], &buckets[i]->rows[k], out) &&
                !rule->dry)
                index_walk_remove(&slot->index, &walk->at, buckets[i], k);
        }
    }
    if (n == EXPIRY_BUCKETS)
        return true;
    walk->looked = !index_walk_leave(&slot->index, &walk->at);
    return !(walk->looked && rule->dry);
}
