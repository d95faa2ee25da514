/*
 * Statistics of tiers as planning wants them: as wide as their slot, and taken together.
 */
#include "server/stats.h"

#include <stdlib.h>

/* A [w][w] matrix in the corner of a [to][to] one, of zeros. */
static void put_corner(const double *from, size_t w, size_t to, double *out) {
    for (size_t i = 0; i < w; i++)
        memcpy(out + i * to, from + i * w, w * sizeof *out);
}

static void put_front(const double *from, size_t w, double *out) {
    memcpy(out, from, w * sizeof *out);
}

/* The width that an entry is to have: what does not fit the layout stays as it is, for whoever
 * reads it to refuse. */
static uint32_t wide(const struct layout *layout, uint32_t slot, uint32_t tier, uint32_t width) {
    const struct layout_slot *const s = layout_find(layout, slot);
    return s != NULL && tier < s->n_tiers && width == s->tier_widths[tier] ? s->width : width;
}

static dimfit_err copy_slot(const struct slot_stats *from, uint32_t width, struct stats *out) {
    const size_t w = from->width, to = width;
    struct slot_stats *const s = stats_add_slot(out, from->slot, from->tier, width,
                                                from->sum != NULL);
    if (s == NULL)
        return DIMFIT_ERR_NOMEM;
    s->rows = from->rows;
    s->lookups = from->lookups;
    s->curved = from->curved;
    if (from->sum != NULL) {
        put_front(from->sum, w, s->sum);
        put_corner(from->second, w, to, s->second);
        put_front(from->looked_sum, w, s->looked_sum);
        put_corner(from->looked_second, w, to, s->looked_second);
    }
    if (from->row_score != NULL) {
        if (!stats_add_row_score(s))
            return DIMFIT_ERR_NOMEM;
        put_front(from->row_score, w, s->row_score);
    }
    if (from->curvature != NULL) {
        if (!stats_add_curvature(s))
            return DIMFIT_ERR_NOMEM;
        put_corner(from->curvature, w, to, s->curvature);
    }
    return DIMFIT_OK;
}

static dimfit_err copy_step(const struct step_stats *from, const struct layout *layout,
                            struct stats *out) {
    struct step_stats *const step = stats_add_step(out, from->step);
    if (step == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t i = 0; i < from->n_slots; i++) {
        const struct step_slot *const s = &from->slots[i];
        const uint32_t to = wide(layout, s->slot, s->tier, s->width);
        struct step_slot *const copy = step_add_slot(step, s->slot, s->tier, to, s->C != NULL);
        if (copy == NULL)
            return DIMFIT_ERR_NOMEM;
        put_front(s->g, s->width, copy->g);
        if (s->C != NULL) {
            put_corner(s->C, s->width, to, copy->C);
            put_front(s->b, s->width, copy->b);
        }
    }
    for (size_t i = 0; i < from->n_workers; i++) {
        const dimfit_err err = step_add_worker(step, from->workers[i].worker,
                                               from->workers[i].samples);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

dimfit_err stats_widen(const struct stats *stats, const struct layout *layout, struct stats **out) {
    struct stats *copy = NULL;
    dimfit_err err = stats_new(stats->epoch, &copy);
    for (size_t i = 0; i < stats->n_slots && err == DIMFIT_OK; i++) {
        const struct slot_stats *const s = &stats->slots[i];
        err = copy_slot(s, wide(layout, s->slot, s->tier, s->width), copy);
    }
    for (size_t i = 0; i < stats->n_steps && err == DIMFIT_OK; i++)
        err = copy_step(&stats->steps[i], layout, copy);
    for (size_t i = 0; i < stats->n_evicted && err == DIMFIT_OK; i++)
        err = stats_add_evicted(copy, stats->evicted[i]);
    if (err == DIMFIT_OK) {
        stats_order_evicted(copy);
        *out = copy;
        return err;
    }
    stats_destroy(&copy);
    return err;
}

dimfit_err stats_whole_slot(const struct stats *stats, uint32_t slot, struct stats **out) {
    struct stats *whole = NULL;
    dimfit_err err = stats_new(stats->epoch, &whole);
    for (size_t i = 0; i < stats->n_slots && err == DIMFIT_OK; i++) {
        if (stats->slots[i].slot != slot)
            continue;
        struct slot_stats entry = stats->slots[i];
        entry.tier = 0;
        const struct stats part = {
            .epoch = stats->epoch, .n_slots = 1, .slots = &entry, .evicted_ascending = true};
        err = stats_merge(whole, &part, NULL);
    }
    if (err == DIMFIT_OK)
        *out = whole;
    else
        stats_destroy(&whole);
    return err;
}
