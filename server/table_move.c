/* The sweep: rows come home in slices, and old memory goes where it is wanted. */
#include "server/table_motion.h"

#include <stdlib.h>

enum {
    BLOCK_ROWS = 256,  /* moved together: their cells are in the cache */
    BORN_BUCKETS = 64, /* of the index, looked at in one step */
    STEP_COST = 2000,  /* of a step that moves no rows, about */
};

/* Rows before this number have been there all the time: they move by their old cells alone. */
static uint32_t plain_end(const struct motion *m) {
    const uint32_t rows = m->from->rows;
    return m->saved != NULL && m->saved->rows < rows ? m->saved->rows : rows;
}

/* ---- rows home ------------------------------------------------------------------------------- */

static void bring_home(struct table_tier *tier, uint32_t row) {
    const struct motion *const m = tier->motion;
    const float *const values = motion_values(tier, row, 0, NULL);
    memcpy(tier_values(tier, row), values, tier->values.stride * sizeof(float));
    if (m->recast.sides_move)
        memcpy(tier_side(tier, row), motion_side(tier, row), tier->sides.stride * sizeof(float));
}

/* Rows that stand side by side, whether they are ahead or not; those that are come after. */
static void sweep_plain(struct table_tier *tier, uint32_t first, uint32_t n) {
    struct motion *const m = tier->motion;
    const struct former *const from = m->from, *const saved = m->saved;
    const struct move_run values = {slab_row(&from->values, first), tier_values(tier, first),
                                    from->values.stride, tier->values.stride, n};
    recast_values(&m->recast, &values, saved != NULL ? slab_row(&saved->values, first) : NULL);
    if (m->recast.sides_move) {
        const struct move_run sides = {slab_row(&from->sides, first),
                                       (float *)tier_side(tier, first), from->sides.stride,
                                       tier->sides.stride, n};
        recast_sides(&m->recast, &sides, saved != NULL ? slab_row(&saved->sides, first) : NULL);
    }
    for (uint32_t row = first; row < first + n; row++) {
        if (bit_is_set(m->ahead, row))
            bring_home(tier, row);
    }
}

/* Rows stored since the undone change, or since this one: ahead, or else free, whose place in the
 * chain of free rows is all that they have. */
static void sweep_born(struct table_tier *tier, uint32_t first, uint32_t n) {
    struct motion *const m = tier->motion;
    for (uint32_t row = first; row < first + n; row++) {
        if (motion_is_ahead(m, row)) {
            bring_home(tier, row);
            continue;
        }
        memset(tier_values(tier, row), 0, tier->values.stride * sizeof(float));
        if (m->recast.sides_move) {
            memset(tier_side(tier, row), 0, tier->sides.stride * sizeof(float));
            *tier_side(tier, row) = *motion_side(tier, row);
        }
    }
}

static void at_most(uint32_t *n, uint32_t limit) {
    if (*n > limit)
        *n = limit;
}

/* A whole chunk, or as much of the first as rows need. */
static dimfit_err reserve_home(struct slab *slab, uint32_t first, uint32_t rows) {
    const uint64_t end = ((uint64_t)first / slab->chunk_rows + 1) * slab->chunk_rows;
    return slab_reserve(slab, end < rows ? end : rows);
}

/* How many rows came home: 0 when there is no memory. */
static uint32_t sweep(struct table_tier *tier, uint32_t limit) {
    struct motion *const m = tier->motion;
    const uint32_t first = m->next, plain = plain_end(m);
    const bool sides = m->recast.sides_move;
    if (reserve_home(&tier->values, first, tier->rows) != DIMFIT_OK ||
        (sides && reserve_home(&tier->sides, first, tier->rows) != DIMFIT_OK))
        return 0;
    uint32_t n = (first < plain ? plain : tier->rows) - first;
    at_most(&n, limit < BLOCK_ROWS ? limit : BLOCK_ROWS);
    at_most(&n, slab_run(&tier->values, first));
    at_most(&n, slab_run(&m->from->values, first));
    if (sides) {
        at_most(&n, slab_run(&tier->sides, first));
        at_most(&n, slab_run(&m->from->sides, first));
    }
    if (first < plain)
        sweep_plain(tier, first, n);
    else
        sweep_born(tier, first, n);
    m->next += n;
    return n;
}

static void keep_pace(struct table_tier *tier) {
    const struct motion *const m = tier->motion;
    while (m->born_found && m->next < tier->rows && (uint64_t)m->n_places * MOTION_PACE > m->next) {
        if (sweep(tier, BLOCK_ROWS) == 0)
            return; /* the next slice tries again */
    }
}

void motion_keep_pace(struct table_slot *slot) {
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++) {
        if (slot->tiers[t].motion != NULL)
            keep_pace(&slot->tiers[t]);
    }
}

/* ---- rows stored since the undone change ----------------------------------------------------- */

/* Some buckets' worth. False: no memory. */
static bool find_born(struct table_tier *tier) {
    struct table_slot *const slot = tier->slot;
    struct motion *const m = tier->motion;
    base_assert(tier->number == 0);
    /* Keys that found no room in the index would not be seen. */
    if (slot->index.n_spare > 0 && index_reserve(&slot->index, 1) != DIMFIT_OK)
        return false;
    if (motion_reserve(tier, (uint64_t)BORN_BUCKETS * INDEX_KEYS) != DIMFIT_OK)
        return false;
    const struct index_bucket *bucket = NULL;
    for (size_t n = 0; n < BORN_BUCKETS; n++) {
        bucket = index_walk_next(&slot->index, &m->born);
        if (bucket == NULL)
            break;
        for (unsigned k = 0; k < bucket->count; k++) {
            const uint32_t value = bucket->rows[k], row = slot_row(slot, value);
            if (value < INDEX_PENDING && slot_tier(slot, value) == tier &&
                former_is_born(m->saved, row) && !motion_is_ahead(m, row))
                motion_put_ahead(tier, row, bucket->keys[k]);
        }
    }
    if (bucket == NULL)
        m->born_found = !index_walk_leave(&slot->index, &m->born);
    return true;
}

/* ---- old memory ------------------------------------------------------------------------------ */

/* One chunk of former rows that are done with. False: it can't be saved now. */
static bool hand_on(struct table_tier *tier, struct former *former, struct slab *slab, uint32_t i,
                    uint64_t at, struct slab *to) {
    const struct table_spill *const io = tier->slot->table->spill;
    const size_t bytes = slab_chunk_bytes(slab, i);
    if (former->kept && former->spill == NULL)
        return true;
    if (former->kept) {
        const uint64_t offset = at + (uint64_t)i * SLAB_CHUNK_BYTES;
        float *const chunk = slab_take(slab, i);
        const void *const place = io->write(io->self, former->spill, chunk, bytes, offset);
        slab_lend(slab, i, place != NULL ? (float *)place : chunk);
        return place != NULL;
    }
    float *const chunk = slab_take(slab, i);
    if (bytes != SLAB_CHUNK_BYTES || !slab_give(to, chunk, tier->rows))
        slab_chunk_free(chunk, bytes);
    return true;
}

static bool hand_on_passed(struct table_tier *tier, struct former *former, struct slab *slab,
                           uint32_t *handed, uint64_t at, struct slab *to) {
    const uint32_t next = tier->motion->next;
    for (; *handed < slab->n_chunks; ++*handed) {
        const uint64_t end = ((uint64_t)*handed + 1) * slab->chunk_rows;
        if (next < former->rows && next < end)
            return true;
        if (!hand_on(tier, former, slab, *handed, at, to))
            return false;
    }
    return true;
}

static bool hand_on_all(struct table_tier *tier) {
    const struct motion *const m = tier->motion;
    struct former *const from = m->from, *const saved = m->saved;
    bool done = hand_on_passed(tier, from, &from->values, &from->values_handed, from->values_at,
                               &tier->values) &&
                hand_on_passed(tier, from, &from->sides, &from->sides_handed, from->sides_at,
                               &tier->sides);
    if (saved != NULL && saved->spill == NULL)
        done = hand_on_passed(tier, saved, &saved->values, &saved->values_handed, 0,
                              &tier->values) &&
               hand_on_passed(tier, saved, &saved->sides, &saved->sides_handed, 0, &tier->sides) &&
               done;
    return done;
}

/* ---- slices ---------------------------------------------------------------------------------- */

static void finish(struct table_tier *tier) {
    struct motion *m = tier->motion;
    former_destroy(&m->saved, tier->slot->table->spill);
    if (!tier->former->kept)
        former_destroy(&tier->former, tier->slot->table->spill);
    motion_destroy(&tier->motion);
    tier->slot->n_moving--;
    tier->slot->table->n_moving--;
    slot_count_bytes(tier->slot);
}

/* What it cost, 0 when it could do nothing. */
static size_t step(struct table_tier *tier, size_t budget) {
    struct motion *const m = tier->motion;
    if (!m->born_found)
        return find_born(tier) ? 4 * STEP_COST : 0;
    if (!hand_on_all(tier))
        return 0;
    if (m->next < tier->rows) {
        const size_t cost = recast_cost(&m->recast), rows = budget / cost + 1;
        return sweep(tier, rows < BLOCK_ROWS ? (uint32_t)rows : BLOCK_ROWS) * cost;
    }
    /* A chunk at a time: giving one back takes the system a while. */
    if (!slab_truncate(&m->values, 0) && !slab_truncate(&m->sides, 0))
        finish(tier);
    return STEP_COST;
}

/* The slot's, and of it the tier's that come first. */
static struct table_tier *moving_tier(struct table *table) {
    for (;; table->move_at++) {
        if (table->move_at >= table->n_slots)
            table->move_at = 0;
        struct table_slot *const slot = table->slots[table->move_at];
        for (uint32_t t = 0; slot->n_moving > 0 && t < slot->spec.n_tiers; t++) {
            if (slot->tiers[t].motion != NULL)
                return &slot->tiers[t];
        }
    }
}

bool table_move(struct table *table, size_t budget) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    size_t spent = 0;
    while (table->n_moving > 0 && spent < budget) {
        const size_t cost = step(moving_tier(table), budget - spent);
        if (cost == 0)
            break;
        spent += cost;
    }
    return table->n_moving > 0;
}

bool table_in_motion(const struct table *table) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    return table->n_moving > 0;
}

/* Chunks that have not gone elsewhere. */
static uint64_t here(const struct slab *slab, uint32_t handed, bool gone) {
    uint64_t bytes = slab_bytes(slab);
    for (uint32_t i = 0; gone && i < handed; i++)
        bytes -= slab_chunk_bytes(slab, i);
    return bytes;
}

uint64_t former_bytes(const struct former *former) {
    const bool gone = !former->kept || former->spill != NULL;
    return here(&former->values, former->values_handed, gone) +
           here(&former->sides, former->sides_handed, gone);
}

uint64_t motion_bytes(const struct motion *motion) {
    return slab_bytes(&motion->values) + slab_bytes(&motion->sides) + index_bytes(&motion->places) +
           (motion->saved != NULL ? former_bytes(motion->saved) : 0);
}
