#include "server/plan_internal.h"

#include "server/plan_grow.h"

#include <math.h>
#include <stdlib.h>

void plan_destroy(struct plan **plan) {
    if (*plan == NULL)
        return;
    for (size_t i = 0; i < (*plan)->n_slots; i++) {
        struct plan_slot *const s = &(*plan)->slots[i];
        free(s->g);
        free(s->s);
        free(s->eigenvalue);
        free(s->keep);
        free(s->priority);
    }
    free((*plan)->slots);
    free((*plan)->candidates);
    change_destroy(&(*plan)->change);
    free(*plan);
    *plan = NULL;
}

static void work_fini(struct plan_work *work) {
    for (size_t i = 0; work->fitted != NULL && i < work->plan->n_slots; i++) {
        struct plan_fitted *const f = &work->fitted[i];
        if (work->plan->slots[i].tier == 0 && f->basis != NULL) {
            basis_fini(f->basis);
            free(f->basis);
        }
        if (work->plan->slots[i].tier == 0)
            free(f->order);
        stats_destroy(&f->sum);
        free(f->norm);
        free(f->expected);
        free(f->spectrum);
        free(f->squares);
    }
    free(work->fitted);
    stats_destroy(&work->widened);
}

dimfit_err plan_nomem(const struct plan_work *work) {
    return err_set(work->detail, DIMFIT_ERR_NOMEM, "no memory to plan");
}

bool plan_needs(const struct plan_work *work, uint32_t what) {
    return work->strategy != NULL && (work->strategy->needs & what) != 0;
}

static double *new_values(size_t n) {
    return calloc(n > 0 ? n : 1, sizeof(double));
}

/* ---- slots and their bases ------------------------------------------------------------------- */

static dimfit_err list_tier(struct plan_work *work, const struct layout_slot *slot, uint32_t tier) {
    const struct slot_stats *const stats = stats_find(work->stats, slot->id, tier);
    if (stats != NULL && stats->width != slot->width)
        return err_set(work->detail, DIMFIT_ERR_WIDTH,
                       "slot %u: its statistics are %u wide, the layout says %u", slot->id,
                       stats->width, slot->tier_widths[tier]);
    work->fitted[work->plan->n_slots].stats = stats;
    struct plan_slot *const s = &work->plan->slots[work->plan->n_slots++];
    *s = (struct plan_slot){
        .slot = slot->id,
        .tier = tier,
        .n_tiers = slot->n_tiers,
        .before = slot->tier_widths[tier],
        .after = slot->tier_widths[tier],
        .units = slot->width,
        .rows = stats != NULL ? stats->rows : 0,
        .g = new_values(slot->width),
        .s = new_values(slot->width),
        .keep = calloc((size_t)slot->dim + 1, sizeof *s->keep),
    };
    return s->g == NULL || s->s == NULL || s->keep == NULL ? plan_nomem(work) : DIMFIT_OK;
}

/* One entry for each tier of the slots that a search looks at, in the layout's order. */
static dimfit_err list_slots(struct plan_work *work) {
    const struct layout *const layout = work->layout;
    size_t n = 0;
    for (size_t i = 0; i < layout->n_slots; i++)
        n += layout->slots[i].n_tiers;
    work->plan->slots = calloc(n + 1, sizeof *work->plan->slots);
    work->fitted = calloc(n + 1, sizeof *work->fitted);
    if (work->plan->slots == NULL || work->fitted == NULL)
        return plan_nomem(work);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < layout->n_slots && err == DIMFIT_OK; i++) {
        const struct layout_slot *const slot = &layout->slots[i];
        for (uint32_t t = 0; slot->search && t < slot->n_tiers && err == DIMFIT_OK; t++)
            err = list_tier(work, slot, t);
    }
    return err == DIMFIT_OK ? plan_sum_tiers(work) : err;
}

/* A slot without rows has no moments to fit, and none are missed. */
static bool has_rows(const struct slot_stats *stats) {
    return stats != NULL && stats->rows > 0 && stats->width > 0;
}

/* It has a basis of its own, and not its axes. */
dimfit_err plan_check_moments(const struct plan_work *work, const struct slot_stats *stats) {
    if (stats->sum != NULL)
        return DIMFIT_OK;
    return err_set(work->detail, DIMFIT_ERR_STATE,
                   "slot %u: the sums over its rows were not gathered on every shard", stats->slot);
}

/* The slot's, held by its first tier f. */
static dimfit_err make_basis(struct plan_work *work, struct plan_fitted *f,
                             const struct plan_slot *s) {
    struct basis_fit *const basis = calloc(1, sizeof *basis);
    if (basis == NULL || basis_init(basis, s->units) != DIMFIT_OK) {
        free(basis);
        return plan_nomem(work);
    }
    for (uint32_t t = 0; t < s->n_tiers; t++)
        f[t].basis = basis;
    if (!has_rows(f->whole))
        return DIMFIT_OK;
    const dimfit_err err = plan_check_moments(work, f->whole);
    if (err != DIMFIT_OK)
        return err;
    return work->plan->request.basis == BASIS_KFAC ? basis_kfac(f->whole, basis, work->detail)
                                                   : basis_rotated(f->whole, basis, work->detail);
}

static void take_eigenvalues(const struct plan_work *work, const struct plan_fitted *f,
                             const struct plan_slot *s) {
    /* A lookup's loss becomes a sample's, so that slots compare. */
    const double samples = (double)work->plan->samples;
    const bool kfac = work->plan->request.basis == BASIS_KFAC;
    const double scale = kfac && samples > 0 ? f->whole->curved / samples : 1;
    if (s->n_tiers > 1)
        basis_share(f->stats, f->whole, f->basis, s->eigenvalue);
    for (size_t k = 0; k < s->units; k++)
        s->eigenvalue[k] = (s->n_tiers > 1 ? s->eigenvalue[k] : f->basis->eigenvalue[k]) * scale;
}

static dimfit_err fit_basis(struct plan_work *work, struct plan_fitted *f, struct plan_slot *s) {
    const dimfit_err err = s->tier == 0 ? make_basis(work, f, s) : DIMFIT_OK;
    if (err != DIMFIT_OK)
        return err;
    s->eigenvalue = new_values(layout_find(work->layout, s->slot)->dim);
    if (s->eigenvalue == NULL)
        return plan_nomem(work);
    if (has_rows(f->stats))
        take_eigenvalues(work, f, s);
    return DIMFIT_OK;
}

/* The kfac basis is made of what workers bring while they score. */
static dimfit_err check_curvature(const struct plan_work *work) {
    if (work->plan->request.basis != BASIS_KFAC || work->strategy == NULL)
        return DIMFIT_OK;
    for (size_t i = 0; i < work->plan->n_slots; i++) {
        const struct slot_stats *const stats = work->fitted[i].stats;
        if (stats != NULL && stats->curvature != NULL && stats->curved > 0)
            return DIMFIT_OK;
    }
    return err_set(work->detail, DIMFIT_ERR_STATE,
                   "no scored push brought the second moments of its gradients, which the kfac "
                   "basis is made of; workers send them in a search started with --basis kfac");
}

static dimfit_err measure_norms(struct plan_work *work, struct plan_fitted *f,
                                const struct plan_slot *s) {
    const size_t w = s->units;
    f->norm = new_values(layout_find(work->layout, s->slot)->dim);
    if (f->norm == NULL)
        return plan_nomem(work);
    if (!has_rows(f->stats))
        return DIMFIT_OK;
    const dimfit_err err = plan_check_moments(work, f->stats);
    if (err != DIMFIT_OK)
        return err;
    if (plan_is_fitted(f))
        basis_norm(f->stats, f->basis, f->norm);
    for (size_t k = 0; k < w; k++) {
        if (!plan_is_fitted(f))
            f->norm[k] = sqrt(f->stats->second[k * w + k]);
        if (!isfinite(f->norm[k]))
            return err_set(work->detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u: the norm of unit %zu is not finite", s->slot, k);
    }
    return DIMFIT_OK;
}

static dimfit_err fit_slots(struct plan_work *work) {
    dimfit_err err = check_curvature(work);
    for (size_t i = 0; i < work->plan->n_slots && err == DIMFIT_OK; i++) {
        if (work->plan->request.basis != BASIS_AXIS)
            err = fit_basis(work, &work->fitted[i], &work->plan->slots[i]);
        if (err == DIMFIT_OK && plan_needs(work, DIMFIT_NEEDS_NORMS))
            err = measure_norms(work, &work->fitted[i], &work->plan->slots[i]);
    }
    return err;
}

/* ---- the change ------------------------------------------------------------------------------ */

static void summarise(struct plan *plan) {
    plan_take_shares(plan);
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        s->after = 0;
        for (uint32_t k = 0; k < s->units; k++) {
            s->after += s->keep[k];
            plan->kept_score += s->keep[k] ? s->s[k] : 0;
        }
        for (uint32_t k = 0; k < s->room; k++)
            s->added += s->keep[s->units + k];
        s->after += s->added;
        plan->params_before += s->rows * s->before;
        plan->params_after += s->rows * s->after;
    }
}

static uint32_t kept_of(const struct plan_slot *s) {
    return s->after - s->added;
}

/* Of a slot with these tiers. */
static bool loses(const struct plan_slot *s, const struct plan_fitted *f) {
    for (uint32_t t = 0; t < s->n_tiers; t++) {
        if (plan_tier_loses(&s[t], &f[t]))
            return true;
    }
    return false;
}

/* A slot that keeps its width in the basis that it has stays as it is. */
static bool changes(const struct plan_slot *s, const struct plan_fitted *f) {
    for (uint32_t t = 0; t < s->n_tiers; t++) {
        if (s[t].after != s[t].before || s[t].added > 0)
            return true;
    }
    return loses(s, f) || (plan_is_fitted(f) && !basis_is_identity(f->basis));
}

static bool concerns(const struct plan_slot *s, const struct plan_fitted *f, bool losses) {
    return losses ? loses(s, f) : changes(s, f);
}

/* The mean is restored where directions go. Where none does nothing is lost that would need it, and
 * leaving it in the rows keeps them exact. `s` is the slot's last tier. */
static dimfit_err fill_dense(const struct plan_work *work, const struct plan_slot *s,
                             const struct plan_fitted *f, bool lost, struct change_slot *out) {
    if (lost) {
        memcpy(out->shift, f->basis->mean, s->units * sizeof *out->shift);
    } else {
        free(out->shift);
        out->shift = NULL;
    }
    return basis_change(f->basis, s->keep, kept_of(s), out->T, out->N, work->detail);
}

static dimfit_err fill_keep(const struct plan_slot *s, const struct plan_fitted *f,
                            struct change_slot *out) {
    size_t to = 0;
    for (uint32_t k = 0; k < s->units; k++) {
        if (s->keep[k])
            out->keep[to++] = f->order != NULL ? f->order[k] : (uint16_t)k;
    }
    return DIMFIT_OK;
}

/* Of the slot whose first tier is s. */
static dimfit_err fill_slot(struct plan_work *work, const struct plan_slot *s,
                            const struct plan_fitted *f, struct change_slot *out) {
    const struct plan_slot *const last = &s[s->n_tiers - 1];
    uint32_t from[LAYOUT_TIERS_MAX], to[LAYOUT_TIERS_MAX];
    const dimfit_err err = change_slot_alloc_added(
        out, s->slot, layout_find(work->layout, s->slot)->dim, s->units, last->after, last->added,
        plan_is_fitted(f));
    if (err != DIMFIT_OK)
        return plan_nomem(work);
    for (uint32_t t = 0; t < s->n_tiers; t++) {
        from[t] = s[t].before;
        to[t] = s[t].after;
    }
    change_slot_tiers(out, s->n_tiers, from, to);
    return plan_is_fitted(f) ? fill_dense(work, last, f, loses(s, f), out)
                             : fill_keep(last, f, out);
}

dimfit_err plan_build_change(struct plan_work *work, bool losses, struct change **out) {
    struct plan *const plan = work->plan;
    const uint64_t epoch = work->layout->epoch;
    size_t n = 0;
    for (size_t i = 0; i < plan->n_slots; i += plan->slots[i].n_tiers)
        n += concerns(&plan->slots[i], &work->fitted[i], losses);
    struct change *change = NULL;
    if (change_new(epoch, epoch + 1, n, &change) != DIMFIT_OK)
        return plan_nomem(work);
    struct change_slot *to = change->slots;
    for (size_t i = 0; i < plan->n_slots; i += plan->slots[i].n_tiers) {
        if (!concerns(&plan->slots[i], &work->fitted[i], losses))
            continue;
        const dimfit_err err = fill_slot(work, &plan->slots[i], &work->fitted[i], to++);
        if (err != DIMFIT_OK) {
            change_destroy(&change);
            return err;
        }
    }
    *out = change;
    return DIMFIT_OK;
}

/* ---- in order -------------------------------------------------------------------------------- */

static dimfit_err begin(struct plan_work *work, const struct plan_request *request) {
    if (work->stats->epoch != work->layout->epoch)
        return err_set(work->detail, DIMFIT_ERR_STALE_EPOCH,
                       "the statistics are of epoch %llu, the layout of %llu",
                       (unsigned long long)work->stats->epoch,
                       (unsigned long long)work->layout->epoch);
    work->plan = calloc(1, sizeof *work->plan);
    if (work->plan == NULL)
        return plan_nomem(work);
    work->plan->request = *request;
    work->plan->epoch = work->layout->epoch;
    work->plan->samples = stats_samples(work->stats);
    const dimfit_err err = plan_widen(work);
    return err == DIMFIT_OK ? list_slots(work) : err;
}

static dimfit_err end(struct plan_work *work, dimfit_err err, struct plan **out) {
    if (work->plan != NULL)
        work_fini(work);
    if (err == DIMFIT_OK && work->chosen == NULL) {
        *out = work->plan;
        return err;
    }
    if (err == DIMFIT_OK) {
        struct plan *const plan = work->plan;
        work->chosen->candidates = plan->candidates;
        work->chosen->n_candidates = plan->n_candidates;
        work->chosen->chosen = plan->chosen;
        plan->candidates = NULL;
        *out = work->chosen;
        work->chosen = NULL;
    }
    plan_destroy(&work->plan);
    plan_destroy(&work->chosen);
    return err;
}

static dimfit_err run(struct plan_work *work, const struct plan_request *request,
                      struct plan **out) {
    struct err_detail *const detail = work->detail;
    dimfit_err err = plan_request_check(request, detail);
    if (err == DIMFIT_OK)
        err = plan_basis_check(work->layout, request, detail);
    if (err != DIMFIT_OK)
        return err;
    work->strategy = strategies_find(work->strategies, request->strategy);
    if (work->strategy == NULL)
        return err_set(detail, DIMFIT_ERR_NOT_FOUND,
                       "there is no strategy '%s'; `dimfitctl strategies` lists them",
                       request->strategy);
    if (plan_needs(work, DIMFIT_NEEDS_TRIALS) && work->trials == NULL)
        return err_set(detail, DIMFIT_ERR_STATE,
                       "strategy '%s' decides by trials, and nobody evaluates any here",
                       request->strategy);
    if (plan_needs(work, DIMFIT_NEEDS_SPECTRUM) && request->basis == BASIS_AXIS)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "strategy '%s' decides by the eigenvalues of a fitted basis; use --basis "
                       "rotated or kfac",
                       request->strategy);
    err = begin(work, request);
    if (err == DIMFIT_OK)
        err = fit_slots(work);
    if (err == DIMFIT_OK)
        err = plan_score(work);
    if (err == DIMFIT_OK)
        err = plan_order_units(work);
    if (err == DIMFIT_OK && request->grow)
        err = grow_offer(work);
    if (err == DIMFIT_OK)
        err = plan_choose(work);
    if (err == DIMFIT_OK && work->waits) {
        work_fini(work);
        plan_destroy(&work->plan);
        *out = NULL;
        return DIMFIT_OK;
    }
    if (err == DIMFIT_OK && work->chosen == NULL) {
        summarise(work->plan);
        err = plan_build_change(work, false, &work->plan->change);
        if (err == DIMFIT_OK)
            err = grow_fill(work);
    }
    return end(work, err, out);
}

dimfit_err plan_try(const struct layout *layout, const struct stats *stats,
                    const struct plan_request *request, const struct strategies *strategies,
                    struct trials *trials, struct plan **out, struct err_detail *detail) {
    struct plan_work work = {
        .layout = layout,
        .stats = stats,
        .strategies = strategies,
        .trials = trials,
        .detail = detail,
    };
    return run(&work, request, out);
}

dimfit_err plan_within(const struct plan_work *outer, const struct plan_request *request,
                       struct plan **out, struct err_detail *detail) {
    struct plan_work work = {
        .layout = outer->layout,
        .stats = outer->stats,
        .strategies = outer->strategies,
        .trials = outer->trials,
        .depth = outer->depth + 1,
        .detail = detail,
    };
    return run(&work, request, out);
}

dimfit_err plan_make(const struct layout *layout, const struct stats *stats,
                     const struct plan_request *request, const struct strategies *strategies,
                     struct plan **out, struct err_detail *detail) {
    return plan_try(layout, stats, request, strategies, NULL, out, detail);
}

dimfit_err plan_scores(const struct layout *layout, const struct stats *stats,
                       enum estimator estimator, struct plan **out, struct err_detail *detail) {
    struct plan_request request;
    plan_request_init(&request);
    request.basis = BASIS_AXIS;
    request.estimator = estimator;
    struct plan_work work = {.layout = layout, .stats = stats, .detail = detail};
    dimfit_err err = begin(&work, &request);
    if (err == DIMFIT_OK)
        err = plan_score(&work);
    for (size_t i = 0; err == DIMFIT_OK && i < work.plan->n_slots; i++)
        memset(work.plan->slots[i].keep, 1, work.plan->slots[i].before);
    if (err == DIMFIT_OK)
        summarise(work.plan);
    return end(&work, err, out);
}
