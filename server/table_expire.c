#include "server/table_expire.h"

#include "server/table_slot.h"

static bool is_old(const struct expiry_rule *rule, uint32_t day) {
    return rule->days > 0 && day > 0 && rule->today > day && rule->today - day > rule->days;
}

/* Whether a stored row goes; it is in *out then. */
static bool row_goes(const struct table_slot *slot, const struct expiry_rule *rule, uint32_t row,
                     struct row_counters *out) {
    const struct retention *const retention = &slot->spec.retention;
    *out = counters_read(retention, slot_side(slot, row));
    return is_old(rule, out->day) || counters_on(retention, *out, rule->today).shows < rule->shows;
}

static bool pending_goes(const struct expiry_rule *rule, uint32_t value) {
    return is_old(rule, pending_day(value)) || (float)pending_shows(value) < rule->shows;
}

/* One key of a bucket. True: it is to leave the index. */
static bool expire_key(struct table_slot *slot, const struct expiry_rule *rule, uint64_t key,
                       uint32_t value, struct expiry_slice *out) {
    out->keys++;
    if (value >= INDEX_PENDING) {
        const bool goes = pending_goes(rule, value);
        out->pending += goes;
        slot->expired_pending += goes;
        slot->n_pending -= goes && !rule->dry;
        return goes;
    }
    struct expired_row *const row = &out->rows[out->n_rows];
    if (!row_goes(slot, rule, value, &row->counters))
        return false;
    row->feasign = key;
    out->n_rows++;
    slot->expired_rows++;
    if (!rule->dry) {
        row_free(slot, value);
        slot->evicted++;
    }
    return true;
}

static void prefetch_sides(const struct table_slot *slot, const struct index_bucket *bucket) {
    for (unsigned k = 0; k < bucket->count; k++) {
        if (bucket->rows[k] < INDEX_PENDING)
            __builtin_prefetch(slot_side(slot, bucket->rows[k]));
    }
}

static void begin(struct table_slot *slot, struct expiry_walk *walk) {
    walk->begun = true;
    slot->expired_rows = slot->expired_pending = 0;
}

bool table_expire(struct table_slot *slot, const struct expiry_rule *rule, struct expiry_walk *walk,
                  struct expiry_slice *out) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    base_assert(slot->motion == NULL);
    out->keys = out->pending = out->n_rows = 0;
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
            if (expire_key(slot, rule, buckets[i]->keys[k], buckets[i]->rows[k], out) && !rule->dry)
                index_walk_remove(&slot->index, &walk->at, buckets[i], k);
        }
    }
    if (n == EXPIRY_BUCKETS)
        return true;
    walk->looked = !index_walk_leave(&slot->index, &walk->at);
    return !(walk->looked && rule->dry);
}
