/*
 * Tiers in planning: one basis a slot, a prefix of it a tier (design 2.7).
 */
#include "server/plan_internal.h"

#include <math.h>
#include <stdlib.h>

static bool has_tiers(const struct layout *layout) {
    for (size_t i = 0; i < layout->n_slots; i++) {
        if (layout->slots[i].search && layout->slots[i].n_tiers > 1)
            return true;
    }
    return false;
}

dimfit_err plan_widen(struct plan_work *work) {
    if (work->depth > 0 || !has_tiers(work->layout))
        return DIMFIT_OK;
    if (stats_widen(work->stats, work->layout, &work->widened) != DIMFIT_OK)
        return plan_nomem(work);
    work->stats = work->widened;
    return DIMFIT_OK;
}

/* The tiers of the slot whose first one is i. */
static dimfit_err sum_slot(struct plan_work *work, size_t i) {
    const struct plan_slot *const s = &work->plan->slots[i];
    struct plan_fitted *const f = &work->fitted[i];
    if (s->n_tiers == 1) {
        f->whole = f->stats;
        return DIMFIT_OK;
    }
    const dimfit_err err = stats_whole_slot(work->stats, s->slot, &f->sum);
    if (err != DIMFIT_OK)
        return err == DIMFIT_ERR_NOMEM ? plan_nomem(work)
                                       : err_set(work->detail, DIMFIT_ERR_WIDTH,
                                                 "slot %u: the statistics of its tiers are not as "
                                                 "wide as the layout says",
                                                 s->slot);
    for (uint32_t t = 0; t < s->n_tiers && f->sum->n_slots > 0; t++)
        f[t].whole = &f->sum->slots[0];
    return DIMFIT_OK;
}

dimfit_err plan_sum_tiers(struct plan_work *work) {
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < work->plan->n_slots && err == DIMFIT_OK;
         i += work->plan->slots[i].n_tiers)
        err = sum_slot(work, i);
    return err;
}

/* ---- the order of units in the axis basis -----------------------------------------------------
 */

struct place {
    double score, norm;
    uint16_t coordinate;
};

static int best_first(const void *a, const void *b) {
    const struct place *const x = a, *const y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->norm != y->norm)
        return x->norm > y->norm ? -1 : 1;
    return x->coordinate - y->coordinate;
}

static void permute(const uint16_t *order, size_t w, double *values) {
    double was[LAYOUT_DIM_MAX];
    if (values == NULL)
        return;
    memcpy(was, values, w * sizeof *was);
    for (size_t k = 0; k < w; k++)
        values[k] = was[order[k]];
}

static void rank_units(const struct plan_slot *s, const struct plan_fitted *f,
                       struct place *places) {
    for (uint32_t k = 0; k < s->units; k++) {
        places[k] = (struct place){.coordinate = (uint16_t)k};
        for (uint32_t t = 0; t < s->n_tiers; t++) {
            places[k].score += s[t].s[k];
            places[k].norm += f[t].norm != NULL ? f[t].norm[k] * f[t].norm[k] : 0;
        }
    }
    qsort(places, s->units, sizeof *places, best_first);
}

dimfit_err plan_order_units(struct plan_work *work) {
    struct plan *const plan = work->plan;
    struct place places[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < plan->n_slots; i += plan->slots[i].n_tiers) {
        struct plan_slot *const s = &plan->slots[i];
        struct plan_fitted *const f = &work->fitted[i];
        if (s->n_tiers == 1 || plan_is_fitted(f))
            continue;
        uint16_t *const order = calloc((size_t)s->units + 1, sizeof *order);
        if (order == NULL)
            return plan_nomem(work);
        rank_units(s, f, places);
        for (uint32_t k = 0; k < s->units; k++)
            order[k] = places[k].coordinate;
        for (uint32_t t = 0; t < s->n_tiers; t++) {
            f[t].order = order;
            permute(order, s->units, s[t].g);
            permute(order, s->units, s[t].s);
            permute(order, s->units, f[t].norm);
        }
    }
    return DIMFIT_OK;
}

/* ---- prefixes -------------------------------------------------------------------------------- */

static uint32_t count(const uint8_t *keep, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t k = 0; k < n; k++)
        kept += keep[k];
    return kept;
}

/* On the axes a coordinate that the tier's rows do not have is zero in all of them. */
static bool lacks(const struct plan_slot *s, const struct plan_fitted *f, uint32_t unit) {
    return f->order != NULL && unit < s->units && f->order[unit] >= s->before;
}

void plan_take_prefixes(const struct plan_work *work) {
    const struct plan_request *const request = &work->plan->request;
    for (size_t i = work->plan->n_slots; i-- > 0;) {
        const struct plan_slot *const s = &work->plan->slots[i];
        const struct plan_fitted *const f = &work->fitted[i];
        if (s->n_tiers == 1)
            continue;
        const bool last = s->tier + 1 == s->n_tiers;
        const uint32_t least = request->min_dim < s->before ? request->min_dim : s->before;
        uint32_t kept = count(s->keep, s->units + s->room);
        if (!last) {
            const uint32_t above = count(s[1].keep, s[1].units + s[1].room);
            kept = kept < above ? kept : above;
        }
        while (!request->grow && kept > least && lacks(s, f, kept - 1))
            kept--;
        memset(s->keep, 0, s->units + s->room);
        memset(s->keep, 1, kept);
    }
}

bool plan_tier_loses(const struct plan_slot *s, const struct plan_fitted *f) {
    for (uint32_t k = 0; k < s->units; k++) {
        if (!s->keep[k] && !lacks(s, f, k))
            return true;
    }
    return false;
}
