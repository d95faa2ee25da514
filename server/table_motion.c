#include "server/table_motion.h"

#include "server/init.h"
#include "server/walk.h"

#include <stdlib.h>

static uint64_t *bits_new(uint32_t n) {
    return calloc((size_t)n / 64 + 1, sizeof(uint64_t));
}

/* ---- former rows ----------------------------------------------------------------------------- */

/* What is saved elsewhere is not the slab's to free. */
static void forget_spilled(struct slab *slab, uint32_t handed) {
    for (uint32_t i = 0; i < handed; i++)
        (void)slab_take(slab, i);
}

void former_destroy(struct former **former, const struct table_spill *io) {
    struct former *const f = *former;
    if (f == NULL)
        return;
    if (f->spill != NULL) {
        forget_spilled(&f->values, f->values_handed);
        forget_spilled(&f->sides, f->sides_handed);
        io->close(io->self, f->spill);
    }
    slab_fini(&f->values);
    slab_fini(&f->sides);
    layout_slot_fini(&f->spec);
    free(f->reused);
    free(f);
    *former = NULL;
}

static dimfit_err former_new(const struct table_tier *tier, bool keep, struct former **out) {
    struct former *f = calloc(1, sizeof *f);
    if (f == NULL)
        return DIMFIT_ERR_NOMEM;
    f->rows = tier->rows;
    f->kept = keep;
    f->reused = bits_new(tier->rows);
    dimfit_err err = f->reused != NULL ? DIMFIT_OK : DIMFIT_ERR_NOMEM;
    if (err == DIMFIT_OK && keep)
        err = table_spec_copy(&tier->slot->spec, &f->spec);
    if (err != DIMFIT_OK) {
        former_destroy(&f, NULL);
        return err;
    }
    *out = f;
    return DIMFIT_OK;
}

/* ---- the beginning --------------------------------------------------------------------------- */

void motion_destroy(struct motion **motion) {
    struct motion *const m = *motion;
    if (m == NULL)
        return;
    recast_fini(&m->recast);
    index_fini(&m->places);
    slab_fini(&m->values);
    slab_fini(&m->sides);
    free(m->ahead);
    free(m);
    *motion = NULL;
}

dimfit_err motion_new(const struct table_tier *tier, const struct change *change,
                      const struct change_slot *part, const struct layout_slot *after, bool keep,
                      struct motion **out) {
    struct motion *m = calloc(1, sizeof *m);
    if (m == NULL)
        return DIMFIT_ERR_NOMEM;
    dimfit_err err = recast_init(&m->recast, change, part, tier->number, &tier->slot->spec, after,
                                 tier->slot->seed);
    if (err == DIMFIT_OK)
        err = former_new(tier, keep, &m->from);
    if (err == DIMFIT_OK) {
        const struct recast *const r = &m->recast;
        m->saved = r->back ? tier->former : NULL;
        m->born_found = m->saved == NULL ||
                        (tier->rows == m->saved->rows && m->saved->n_reused == 0);
        m->ahead = bits_new(tier->rows);
        index_init(&m->places, tier->slot->spec.id);
        slab_init(&m->values, r->after);
        slab_init(&m->sides, r->sides_move ? r->side_after : 0);
        if (m->ahead == NULL)
            err = DIMFIT_ERR_NOMEM;
    }
    if (err != DIMFIT_OK) {
        former_destroy(&m->from, NULL);
        motion_destroy(&m);
        return err;
    }
    *out = m;
    return DIMFIT_OK;
}

void motion_begin(struct table_tier *tier, struct motion *motion, uint64_t epoch) {
    const struct recast *const r = &motion->recast;
    base_assert(tier->motion == NULL);
    if (motion->saved == NULL)
        former_destroy(&tier->former, tier->slot->table->spill);
    motion->from->epoch = epoch;
    motion->from->values = tier->values;
    slab_init(&tier->values, r->after);
    if (r->sides_move) {
        motion->from->sides = tier->sides;
        slab_init(&tier->sides, r->side_after);
    } else {
        slab_init(&motion->from->sides, 0);
    }
    tier->former = motion->from;
    tier->motion = motion;
    tier->slot->n_moving++;
}

dimfit_err motion_reserve_read(struct table *table, uint32_t width) {
    if (table->read != NULL && width <= table->read_width)
        return DIMFIT_OK;
    /* Rows without width have an address, too. */
    float *const read = realloc(table->read, (3 * (size_t)WALK_BLOCK * width + 1) * sizeof *read);
    if (read == NULL)
        return DIMFIT_ERR_NOMEM;
    table->read = read;
    table->read_width = width;
    return DIMFIT_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

dimfit_err motion_reserve(struct table_tier *tier, uint64_t n) {
    struct motion *const m = tier->motion;
    dimfit_err err = slab_reserve(&m->values, m->n_places + n);
    if (err == DIMFIT_OK)
        err = slab_reserve(&m->sides, m->n_places + n);
    if (err == DIMFIT_OK)
        err = index_reserve(&m->places, n);
    return err;
}

static uint32_t place_of(const struct motion *m, uint32_t row) {
    const uint32_t place = index_find(&m->places, row, index_hash(&m->places, row));
    base_assert(place < m->n_places);
    return place;
}

/* The row that a change is undone with: saved, or the initial one of a row stored since. */
static const float *saved_values(const struct table_tier *tier, uint32_t row, uint64_t feasign,
                                 float *initial) {
    const struct former *const saved = tier->motion->saved;
    if (saved == NULL)
        return NULL;
    if (!former_is_born(saved, row))
        return slab_row(&saved->values, row);
    init_new_row(&saved->spec, tier->slot->seed, feasign, initial);
    return initial;
}

static void read_values(const struct table_tier *tier, uint32_t row, uint64_t feasign, float *to) {
    const struct motion *const m = tier->motion;
    float initial[LAYOUT_DIM_MAX];
    const struct move_run run = {slab_row(&m->from->values, row), to, m->from->values.stride,
                                 m->recast.after, 1};
    recast_values(&m->recast, &run, saved_values(tier, row, feasign, initial));
}

static void read_side(const struct table_tier *tier, uint32_t row, uint32_t *to) {
    static const float zeros[RECAST_SIDE_MAX];
    const struct motion *const m = tier->motion;
    const struct move_run run = {slab_row(&m->from->sides, row), (float *)to, m->from->sides.stride,
                                 m->recast.side_after, 1};
    const float *saved = NULL;
    if (m->saved != NULL)
        saved = former_is_born(m->saved, row) ? zeros : slab_row(&m->saved->sides, row);
    recast_sides(&m->recast, &run, saved);
}

float *motion_values(const struct table_tier *tier, uint32_t row, uint64_t feasign, float *read) {
    const struct motion *const m = tier->motion;
    if (motion_is_home(m, row))
        return tier_values(tier, row);
    if (motion_is_ahead(m, row))
        return slab_row(&m->values, place_of(m, row));
    read_values(tier, row, feasign, read);
    return read;
}

uint32_t *motion_side(const struct table_tier *tier, uint32_t row) {
    const struct motion *const m = tier->motion;
    if (!m->recast.sides_move || motion_is_home(m, row))
        return tier_side(tier, row);
    if (motion_is_ahead(m, row))
        return slab_row(&m->sides, place_of(m, row));
    return slab_row(&m->from->sides, row);
}

const uint32_t *motion_read_side(const struct table_tier *tier, uint32_t row, uint64_t feasign) {
    const struct motion *const m = tier->motion;
    if (!m->recast.sides_move || motion_is_home(m, row) || motion_is_ahead(m, row))
        return motion_side(tier, row);
    read_side(tier, row, tier->slot->table->read_side);
    return tier->slot->table->read_side;
}

static uint32_t place_new(struct motion *m, uint32_t row) {
    const uint32_t place = m->n_places++;
    index_put(&m->places, row, index_hash(&m->places, row), place);
    if (row < m->from->rows)
        bit_set(m->ahead, row);
    return place;
}

float *motion_place_ahead(struct table_tier *tier, uint32_t row) {
    struct motion *const m = tier->motion;
    base_assert(!motion_is_home(m, row) && !motion_is_ahead(m, row));
    if (m->recast.sides_move)
        read_side(tier, row, slab_row(&m->sides, m->n_places));
    return slab_row(&m->values, place_new(m, row));
}

void motion_put_ahead(struct table_tier *tier, uint32_t row, uint64_t feasign) {
    read_values(tier, row, feasign, motion_place_ahead(tier, row));
}

/* Gathered first: the kernels take many rows at a time for little more than one. */
void motion_read(const struct table_tier *tier, const uint32_t *rows, const uint64_t *feasigns,
                 size_t n, float *to) {
    const struct motion *const m = tier->motion;
    const struct table *const table = tier->slot->table;
    const size_t before = m->recast.before, after = m->recast.after;
    const size_t room = (size_t)WALK_BLOCK * table->read_width;
    float *const now = table->read + room, *const was = now + room;
    for (size_t i = 0; i < n; i++) {
        memcpy(now + i * before, slab_row(&m->from->values, rows[i]), before * sizeof *now);
        float *const room_of = was + i * after;
        const float *const saved = saved_values(tier, rows[i], feasigns[i], room_of);
        if (saved != NULL && saved != room_of)
            memcpy(room_of, saved, after * sizeof *room_of);
    }
    const struct move_run run = {now, to, before, after, n};
    recast_values(&m->recast, &run, m->saved != NULL ? was : NULL);
}

void motion_put_new(struct table_tier *tier, uint32_t row) {
    struct motion *const m = tier->motion;
    if (!motion_is_home(m, row))
        (void)place_new(m, row);
}
