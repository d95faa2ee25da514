#include "proto/finite.h"
#include "server/init.h"
#include "server/table_motion.h"
#include "server/walk.h"

#include <stdlib.h>

dimfit_err table_new(uint64_t seed, struct table **out) {
    struct table *const table = calloc(1, sizeof *table);
    if (table == NULL)
        return DIMFIT_ERR_NOMEM;
    table->magic = TABLE_MAGIC;
    table->seed = seed;
    *out = table;
    return DIMFIT_OK;
}

static void tier_fini(struct table_tier *tier) {
    const struct table_spill *const spill = tier->slot->table->spill;
    if (tier->motion != NULL)
        former_destroy(&tier->motion->saved, spill);
    motion_destroy(&tier->motion);
    former_destroy(&tier->former, spill);
    slab_fini(&tier->values);
    slab_fini(&tier->sides);
}

static void slot_free(struct table_slot *slot) {
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        tier_fini(&slot->tiers[t]);
    index_fini(&slot->index);
    slab_fini(&slot->sink_values);
    slab_fini(&slot->sink_sides);
    layout_slot_fini(&slot->spec);
    slot->magic = 0;
    free(slot);
}

void table_destroy(struct table **table) {
    struct table *const t = *table;
    if (t == NULL)
        return;
    CHECK_OBJ_NOTNULL(t, TABLE_MAGIC);
    for (size_t i = 0; i < t->n_slots; i++)
        slot_free(t->slots[i]);
    free(t->slots);
    free(t->read);
    t->magic = 0;
    free(t);
    *table = NULL;
}

static size_t slot_position(const struct table *table, uint32_t id) {
    size_t low = 0, high = table->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (table->slots[mid]->spec.id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct table_slot *table_find(struct table *table, uint32_t slot) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const size_t i = slot_position(table, slot);
    return i < table->n_slots && table->slots[i]->spec.id == slot ? table->slots[i] : NULL;
}

uint32_t table_slot_width(const struct table_slot *slot) {
    return slot->spec.width;
}

static bool copy_array(const void *from, size_t bytes, void *out) {
    if (from == NULL)
        return true;
    void *const copy = malloc(bytes ? bytes : 1);
    if (copy == NULL)
        return false;
    memcpy(copy, from, bytes);
    memcpy(out, &copy, sizeof copy);
    return true;
}

dimfit_err table_spec_copy(const struct layout_slot *spec, struct layout_slot *out) {
    const size_t w = spec->width, d = spec->dim;
    struct layout_slot copy = *spec;
    copy.axes = NULL;
    copy.basis = copy.mean = copy.init_map = copy.init_shift = NULL;
    if (!copy_array(spec->axes, w * sizeof *spec->axes, &copy.axes) ||
        !copy_array(spec->init_map, d * w * sizeof *spec->init_map, &copy.init_map) ||
        !copy_array(spec->init_shift, w * sizeof *spec->init_shift, &copy.init_shift)) {
        layout_slot_fini(&copy);
        return DIMFIT_ERR_NOMEM;
    }
    *out = copy;
    return DIMFIT_OK;
}

static dimfit_err slots_reserve(struct table *table) {
    if (table->n_slots < table->cap_slots)
        return DIMFIT_OK;
    const size_t cap = table->cap_slots ? 2 * table->cap_slots : 16;
    struct table_slot **const slots = realloc(table->slots, cap * sizeof(struct table_slot *));
    if (slots == NULL)
        return DIMFIT_ERR_NOMEM;
    table->slots = slots;
    table->cap_slots = cap;
    return DIMFIT_OK;
}

dimfit_err table_add_slot(struct table *table, const struct layout_slot *spec) {
    if (table_find(table, spec->id) != NULL)
        return DIMFIT_ERR_EXISTS;
    dimfit_err err = slots_reserve(table);
    if (err != DIMFIT_OK)
        return err;
    struct table_slot *const slot = calloc(1, sizeof *slot + spec->n_tiers * sizeof *slot->tiers);
    if (slot == NULL)
        return DIMFIT_ERR_NOMEM;
    err = table_spec_copy(spec, &slot->spec);
    if (err != DIMFIT_OK) {
        free(slot);
        return err;
    }
    slot->magic = TABLE_SLOT_MAGIC;
    slot->table = table;
    slot->seed = table->seed;
    slot->row_bits = spec->n_tiers > 1 ? TIERED_ROW_BITS : ROW_BITS;
    index_init(&slot->index, spec->id);
    for (uint32_t t = 0; t < spec->n_tiers; t++) {
        struct table_tier *const tier = &slot->tiers[t];
        tier->slot = slot;
        tier->number = t;
        slab_init(&tier->values, spec->tier_widths[t]);
        slab_init(&tier->sides, recast_side(spec, spec->tier_widths[t]));
    }
    slot_sinks_init(slot);
    const size_t at = slot_position(table, spec->id);
    memmove(&table->slots[at + 1], &table->slots[at],
            (table->n_slots - at) * sizeof(struct table_slot *));
    table->slots[at] = slot;
    table->n_slots++;
    return DIMFIT_OK;
}

/* Rows are short: a call of memcpy() costs as much as the copy. */
static inline void row_copy(float *to, const float *from, size_t w) {
    for (; w >= 16; w -= 16, to += 16, from += 16)
        memcpy(to, from, 16 * sizeof *to);
    for (; w >= 4; w -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (; w > 0; w--)
        *to++ = *from++;
}

static inline __attribute__((always_inline)) void
pull_rows(const struct table_slot *slot, const uint8_t *keys, size_t n, size_t w, float *values) {
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, keys, n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++, values += w) {
            if (block->values[i] != NULL)
                row_copy(values, block->values[i], w);
            else
                init_row(&slot->spec, slot->seed, walk_key(&walk, block->first + i), values);
        }
    }
}

/* Rows padded to the slot's width, and where asked for the tier of each. */
static void pull_tiers(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values,
                       uint8_t *tiers) {
    const uint32_t *const widths = slot->spec.tier_widths;
    const size_t w = slot->spec.width;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, keys, n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++, values += w) {
            const size_t v = widths[block->tiers[i]];
            if (block->values[i] != NULL)
                row_copy(values, block->values[i], v);
            else
                init_new_row(&slot->spec, slot->seed, walk_key(&walk, block->first + i), values);
            memset(values + v, 0, (w - v) * sizeof *values);
        }
        for (size_t i = 0; tiers != NULL && i < block->n; i++)
            *tiers++ = block->tiers[i];
    }
}

/* Once more for the usual width, whose copy is then a few moves. */
static void pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values) {
    if (slot->spec.width == 16)
        pull_rows(slot, keys, n, 16, values);
    else
        pull_rows(slot, keys, n, slot->spec.width, values);
}

void table_pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    if (slot->spec.width == 0)
        return;
    if (slot->spec.n_tiers > 1)
        pull_tiers(slot, keys, n, values, NULL);
    else
        pull(slot, keys, n, values);
}

void table_pull_tiers(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values,
                      uint8_t *tiers) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    if (slot->spec.n_tiers > 1) {
        pull_tiers(slot, keys, n, values, tiers);
        return;
    }
    table_pull(slot, keys, n, values);
    memset(tiers, 0, n);
}

dimfit_err table_check_grads(const struct table_slot *slot, const uint8_t *keys,
                             const uint8_t *grads, size_t n, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const size_t w = slot->spec.width;
    if (floats_finite(grads, n * w))
        return DIMFIT_OK;
    for (size_t i = 0; i < n * w; i++) {
        if (!floats_finite(grads + i * sizeof(float), 1))
            return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u (%s), feasign %llu: gradient of coordinate %zu is %g",
                           slot->spec.id, slot->spec.name,
                           (unsigned long long)load_u64(keys + i / w * 8), i % w,
                           (double)load_f32(grads + i * sizeof(float)));
    }
    base_assert(!"a gradient is not finite and none is found");
}

/* Any of n keys may have its row in any tier. */
static dimfit_err reserve_ahead(struct table_slot *slot, size_t n) {
    dimfit_err err = DIMFIT_OK;
    for (uint32_t t = 0; t < slot->spec.n_tiers && err == DIMFIT_OK; t++) {
        if (slot->tiers[t].motion != NULL)
            err = motion_reserve(&slot->tiers[t], n);
    }
    return err;
}

dimfit_err table_reserve(struct table_slot *slot, size_t n) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    struct table_tier *const tier = &slot->tiers[0]; /* of new rows */
    const uint64_t rows = tier->rows + (uint64_t)(n > tier->n_free ? n - tier->n_free : 0);
    const uint64_t sinks = slot->spec.retention.admit > 1 ? WALK_SINKS : 0;
    if (tier_over_limit(tier, n))
        return DIMFIT_ERR_LIMIT;
    if (n >= INDEX_PENDING || rows > UINT64_C(1) << slot->row_bits)
        return DIMFIT_ERR_NOMEM;
    dimfit_err err = reserve_ahead(slot, n);
    if (err == DIMFIT_OK && tier->motion == NULL)
        err = slab_reserve(&tier->values, rows);
    if (err == DIMFIT_OK && (tier->motion == NULL || !tier->motion->recast.sides_move))
        err = slab_reserve(&tier->sides, rows);
    if (err == DIMFIT_OK)
        err = slab_reserve(&slot->sink_values, sinks);
    if (err == DIMFIT_OK)
        err = slab_reserve(&slot->sink_sides, sinks);
    if (err == DIMFIT_OK)
        err = index_reserve(&slot->index, n);
    return err;
}

size_t table_missing(const struct table_slot *slot, const uint8_t *keys, size_t n, bool *missing) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    size_t count = 0;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, keys, n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++) {
            const bool absent = block->values[i] == NULL;
            count += absent;
            if (missing != NULL)
                missing[block->first + i] = absent;
        }
    }
    return count;
}

bool table_row(const struct table_slot *slot, uint64_t feasign, struct table_row *out) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const uint32_t value = index_find(&slot->index, feasign, index_hash(&slot->index, feasign));
    if (value >= INDEX_PENDING)
        return false;
    const struct retention *const retention = &slot->spec.retention;
    const struct table_tier *const tier = slot_tier(slot, value);
    const uint32_t row = slot_row(slot, value);
    const struct motion *const m = tier->motion;
    const uint32_t *const side = m == NULL ? tier_side(tier, row)
                                           : motion_read_side(tier, row, feasign);
    const struct row_counters counters = counters_read(retention, side);
    *out = (struct table_row){
        .tier = tier->number,
        .width = tier_width(tier),
        .values = m == NULL ? tier_values(tier, row)
                            : motion_values(tier, row, feasign, slot->table->read),
        .state = (const float *)side + counters_cells(retention),
        .shows = counters.shows,
        .clicks = counters.clicks,
        .day = counters.day,
    };
    return true;
}
