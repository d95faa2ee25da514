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
        basis_fini(&work->fitted[i].basis);
        free(work->fitted[i].norm);
        free(work->fitted[i].expected);
        free(work->fitted[i].spectrum);
        free(work->fitted[i].squares);
    }
    free(work->fitted);
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

static dimfit_err list_slot(struct plan_work *work, const struct layout_slot *slot) {
    const struct slot_stats *const stats = stats_find(work->stats, slot->id);
    if (stats != NULL && stats->width != slot->width)
        return err_set(work->detail, DIMFIT_ERR_WIDTH,
                       "slot %u: its statistics are %u wide, the layout says %u", slot->id,
                       stats->width, slot->width);
    work->fitted[work->plan->n_slots].stats = stats;
    struct plan_slot *const s = &work->plan->slots[work->plan->n_slots++];
    *s = (struct plan_slot){
        .slot = slot->id,
        .before = slot->width,
        .after = slot->width,
        .rows = stats != NULL ? stats->rows : 0,
        .g = new_values(slot->width),
        .s = new_values(slot->width),
        .keep = calloc((size_t)slot->dim + 1, sizeof *s->keep),
    };
    return s->g == NULL || s->s == NULL || s->keep == NULL ? plan_nomem(work) : DIMFIT_OK;
}

/* One entry for each slot that a search looks at, in the layout's order. */
static dimfit_err list_slots(struct plan_work *work) {
    const struct layout *const layout = work->layout;
    work->plan->slots = calloc(layout->n_slots + 1, sizeof *work->plan->slots);
    work->fitted = calloc(layout->n_slots + 1, sizeof *work->fitted);
    if (work->plan->slots == NULL || work->fitted == NULL)
        return plan_nomem(work);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < layout->n_slots && err == DIMFIT_OK; i++) {
        if (layout->slots[i].search)
            err = list_slot(work, &layout->slots[i]);
    }
    return err;
}

/* A slot without rows has no moments to fit, and none are missed. */
static bool has_rows(const struct plan_fitted *f, const struct plan_slot *s) {
    return f->stats != NULL && s->rows > 0 && s->before > 0;
}

/* It has a basis of its own, and not its axes. */
dimfit_err plan_check_moments(const struct plan_work *work, const struct plan_fitted *f) {
    if (f->stats->sum != NULL)
        return DIMFIT_OK;
    return err_set(work->detail, DIMFIT_ERR_STATE,
                   "slot %u: the sums over its rows were not gathered on every shard",
                   f->stats->slot);
}

static dimfit_err fit_basis(struct plan_work *work, struct plan_fitted *f, struct plan_slot *s) {
    const size_t w = s->before;
    s->eigenvalue = new_values(layout_find(work->layout, s->slot)->dim);
    if (s->eigenvalue == NULL || basis_init(&f->basis, w) != DIMFIT_OK)
        return plan_nomem(work);
    if (!has_rows(f, s))
        return DIMFIT_OK;
    dimfit_err err = plan_check_moments(work, f);
    if (err != DIMFIT_OK)
        return err;
    const bool kfac = work->plan->request.basis == BASIS_KFAC;
    err = kfac ? basis_kfac(f->stats, &f->basis, work->detail)
               : basis_rotated(f->stats, &f->basis, work->detail);
    /* A lookup's loss becomes a sample's, so that slots compare. */
    const double samples = (double)work->plan->samples;
    const double scale = kfac && samples > 0 ? f->stats->curved / samples : 1;
    for (size_t k = 0; k < w; k++)
        s->eigenvalue[k] = f->basis.eigenvalue[k] * scale;
    return err;
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
    const size_t w = s->before;
    f->norm = new_values(layout_find(work->layout, s->slot)->dim);
    if (f->norm == NULL)
        return plan_nomem(work);
    if (!has_rows(f, s))
        return DIMFIT_OK;
    const dimfit_err err = plan_check_moments(work, f);
    if (err != DIMFIT_OK)
        return err;
    if (plan_is_fitted(f))
        basis_norm(f->stats, &f->basis, f->norm);
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
        for (uint32_t k = 0; k < s->before; k++) {
            s->after += s->keep[k];
            plan->kept_score += s->keep[k] ? s->s[k] : 0;
        }
        for (uint32_t k = 0; k < s->room; k++)
            s->added += s->keep[s->before + k];
        s->after += s->added;
        plan->params_before += s->rows * s->before;
        plan->params_after += s->rows * s->after;
    }
}

static uint32_t kept_of(const struct plan_slot *s) {
    return s->after - s->added;
}

/* A slot that keeps its width in the basis that it has stays as it is. */
static bool changes(const struct plan_slot *s, const struct plan_fitted *f) {
    if (kept_of(s) < s->before || s->added > 0)
        return true;
    return plan_is_fitted(f) && !basis_is_identity(&f->basis);
}

static bool concerns(const struct plan_slot *s, const struct plan_fitted *f, bool losses) {
    return losses ? kept_of(s) < s->before : changes(s, f);
}

/* The mean is restored where directions go. Where none does nothing is lost that would need it, and
 * leaving it in the rows keeps them exact. */
static dimfit_err fill_dense(const struct plan_work *work, const struct plan_slot *s,
                             const struct plan_fitted *f, struct change_slot *out) {
    if (kept_of(s) < s->before) {
        memcpy(out->shift, f->basis.mean, s->before * sizeof *out->shift);
    } else {
        free(out->shift);
        out->shift = NULL;
    }
    return basis_change(&f->basis, s->keep, kept_of(s), out->T, out->N, work->detail);
}

static dimfit_err fill_keep(const struct plan_slot *s, struct change_slot *out) {
    size_t to = 0;
    for (uint32_t k = 0; k < s->before; k++) {
        if (s->keep[k])
            out->keep[to++] = (uint16_t)k;
    }
    return DIMFIT_OK;
}

dimfit_err plan_build_change(struct plan_work *work, bool losses, struct change **out) {
    struct plan *const plan = work->plan;
    const uint64_t epoch = work->layout->epoch;
    size_t n = 0;
    for (size_t i = 0; i < plan->n_slots; i++)
        n += concerns(&plan->slots[i], &work->fitted[i], losses);
    struct change *change = NULL;
    if (change_new(epoch, epoch + 1, n, &change) != DIMFIT_OK)
        return plan_nomem(work);
    struct change_slot *to = change->slots;
    for (size_t i = 0; i < plan->n_slots; i++) {
        const struct plan_slot *const s = &plan->slots[i];
        const struct plan_fitted *const f = &work->fitted[i];
        if (!concerns(s, f, losses))
            continue;
        dimfit_err err = change_slot_alloc_added(to, s->slot,
                                                 layout_find(work->layout, s->slot)->dim, s->before,
                                                 s->after, s->added, plan_is_fitted(f));
        if (err != DIMFIT_OK)
            plan_nomem(work);
        else
            err = plan_is_fitted(f) ? fill_dense(work, s, f, to) : fill_keep(s, to);
        if (err != DIMFIT_OK) {
            change_destroy(&change);
            return err;
        }
        to++;
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
    return list_slots(work);
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
