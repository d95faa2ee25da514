/*
 * From the sums of steps to the score of every unit, in the plan's basis (design 2.2).
 */
#include "server/plan_internal.h"

#include <math.h>
#include <stdlib.h>

static bool is_before(const struct plan_slot *s, uint32_t slot, uint32_t tier) {
    return s->slot != slot ? s->slot < slot : s->tier < tier;
}

static bool tier_index(const struct plan *plan, uint32_t slot, uint32_t tier, size_t *out) {
    size_t low = 0, high = plan->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (is_before(&plan->slots[mid], slot, tier))
            low = mid + 1;
        else
            high = mid;
    }
    *out = low;
    return low < plan->n_slots && plan->slots[low].slot == slot && plan->slots[low].tier == tier;
}

/* A step's age is how many whole steps came after it: ids ascend with time, on any shards. */
static double weight_of(const struct plan_request *request, size_t age) {
    if (request->window > 0 && age >= request->window)
        return 0;
    return request->half_life > 0 ? exp2(-(double)age / request->half_life) : 1;
}

static bool is_whole(const struct stats *stats, const struct step_stats *step) {
    return step->n_slots > 0 && !stats_step_evicted(stats, step->step);
}

static double add_step(enum estimator estimator, double so_far, double weight, double g) {
    switch (estimator) {
    case ESTIMATOR_SINGLE:
    case ESTIMATOR_CURVATURE:
    case ESTIMATOR_TAYLOR:
    case ESTIMATOR_GUARDED:
        return so_far + weight * g;
    case ESTIMATOR_STEP:
        return so_far + weight * fabs(g);
    case ESTIMATOR_FISHER:
        return so_far + weight * g * g;
    case ESTIMATOR_ROW:
        break;
    }
    return so_far;
}

static dimfit_err add_part(struct plan_work *work, const struct step_slot *part, double weight) {
    double turned[LAYOUT_DIM_MAX];
    size_t at;
    if (!tier_index(work->plan, part->slot, part->tier, &at))
        return DIMFIT_OK; /* outside the search */
    struct plan_slot *const s = &work->plan->slots[at];
    const struct plan_fitted *const f = &work->fitted[at];
    if (part->width != s->units)
        return err_set(work->detail, DIMFIT_ERR_WIDTH,
                       "slot %u: its scores are %u wide, the layout says %u", s->slot, part->width,
                       s->units);
    const double *g = part->g;
    if (plan_is_fitted(f)) {
        basis_score(part, f->basis, turned);
        g = turned;
    }
    for (size_t k = 0; k < s->units; k++) {
        s->g[k] = add_step(work->plan->request.estimator, s->g[k], weight, g[k]);
        if (f->squares != NULL)
            f->squares[k] += weight * g[k] * g[k];
    }
    return DIMFIT_OK;
}

static bool moments_kept(const struct stats *stats) {
    for (size_t t = 0; t < stats->n_steps; t++) {
        const struct step_stats *const step = &stats->steps[t];
        for (size_t i = 0; i < step->n_slots && !stats_step_evicted(stats, step->step); i++) {
            if (step->slots[i].C == NULL)
                return false;
        }
    }
    return true;
}

static bool second_order(enum estimator estimator) {
    return estimator == ESTIMATOR_CURVATURE || estimator == ESTIMATOR_TAYLOR ||
           estimator == ESTIMATOR_GUARDED;
}

static dimfit_err open_squares(struct plan_work *work) {
    for (size_t i = 0; i < work->plan->n_slots; i++) {
        if ((work->fitted[i].squares = calloc(work->plan->slots[i].units + 1, sizeof(double))) ==
            NULL)
            return plan_nomem(work);
    }
    return DIMFIT_OK;
}

/* What the loss, summed over the scored samples, would gain by dropping a unit, to the second
 * order: -G + F / 2 with G = sum of the steps' g and F the empirical Fisher information of the
 * mask, the sum over samples of their own g squared, for which the spread of the steps stands,
 * since samples are independent. F is the variance of G as well: what of G is within a standard
 * error is no more than noise, and `guarded` takes it for 0. Weights w of the steps add up to
 * `weight` and count as (sum w)^2 / sum w^2 steps of one weight. */
static double loss_change(enum estimator estimator, double sum, double squares, double weight,
                          double steps) {
    const double fisher = fmax(squares - sum * sum / weight, 0) * steps / (steps - 1);
    double slope = 0;
    if (estimator == ESTIMATOR_TAYLOR)
        slope = sum;
    else if (estimator == ESTIMATOR_GUARDED)
        slope = copysign(fmax(fabs(sum) - sqrt(fisher), 0), sum);
    return fisher / 2 - slope;
}

static dimfit_err take_loss_changes(struct plan_work *work, double weight, double steps) {
    struct plan *const plan = work->plan;
    if (steps < 2)
        return err_set(work->detail, DIMFIT_ERR_STATE,
                       "estimator %s needs the spread of two scored steps at least, and there is "
                       "%.2g; score in smaller steps",
                       estimator_name(plan->request.estimator), steps);
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        for (size_t k = 0; k < s->units; k++)
            s->g[k] = loss_change(plan->request.estimator, s->g[k], work->fitted[i].squares[k],
                                  weight, steps);
    }
    return DIMFIT_OK;
}

static dimfit_err add_steps(struct plan_work *work, bool *scored) {
    const struct stats *const stats = work->stats;
    const bool squares = second_order(work->plan->request.estimator);
    dimfit_err err = squares ? open_squares(work) : DIMFIT_OK;
    size_t age = 0;
    double weights = 0, squared = 0;
    if (err != DIMFIT_OK)
        return err;
    if (work->plan->request.basis != BASIS_AXIS && !moments_kept(stats)) {
        if (plan_needs(work, DIMFIT_NEEDS_SCORES))
            return err_set(work->detail, DIMFIT_ERR_STATE,
                           "steps were scored for the axis basis only; start a search in the basis "
                           "that it is to be planned in");
        return DIMFIT_OK;
    }
    for (size_t t = stats->n_steps; t-- > 0 && err == DIMFIT_OK;) {
        const struct step_stats *const step = &stats->steps[t];
        if (!is_whole(stats, step))
            continue;
        const double weight = weight_of(&work->plan->request, age++);
        weights += weight;
        squared += weight * weight;
        for (size_t i = 0; i < step->n_slots && weight > 0 && err == DIMFIT_OK; i++) {
            *scored = true;
            err = add_part(work, &step->slots[i], weight);
        }
    }
    return err == DIMFIT_OK && squares && *scored
               ? take_loss_changes(work, weights, weights * weights / squared)
               : err;
}

static void take_row_scores(struct plan_work *work, bool *scored) {
    for (size_t i = 0; i < work->plan->n_slots; i++) {
        struct plan_slot *const s = &work->plan->slots[i];
        const struct slot_stats *const stats = work->fitted[i].stats;
        if (stats == NULL || stats->row_score == NULL)
            continue;
        *scored = true;
        memcpy(s->g, stats->row_score, s->units * sizeof *s->g);
    }
}

/* s_ik = |g_ik| / sum over all units of |g|; zeros where nothing was scored. A loss change keeps
 * its sign: a unit that harms comes after one that does nothing. */
static dimfit_err normalise(struct plan_work *work) {
    struct plan *const plan = work->plan;
    double total = 0;
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        for (size_t k = 0; k < s->units; k++) {
            if (plan->request.estimator == ESTIMATOR_FISHER)
                s->g[k] = sqrt(s->g[k]);
            total += fabs(s->g[k]);
            if (!isfinite(s->g[k]) || !isfinite(total))
                return err_set(work->detail, DIMFIT_ERR_NOT_FINITE,
                               "slot %u: the score of unit %zu is not finite; has its training "
                               "diverged?",
                               s->slot, k);
        }
    }
    for (size_t i = 0; total > 0 && i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        for (size_t k = 0; k < s->units; k++)
            s->s[k] = (second_order(plan->request.estimator) ? s->g[k] : fabs(s->g[k])) / total;
    }
    return DIMFIT_OK;
}

dimfit_err plan_score(struct plan_work *work) {
    bool scored = false;
    dimfit_err err = DIMFIT_OK;
    if (work->plan->request.estimator == ESTIMATOR_ROW)
        take_row_scores(work, &scored);
    else
        err = add_steps(work, &scored);
    if (err != DIMFIT_OK)
        return err;
    if (!scored && plan_needs(work, DIMFIT_NEEDS_SCORES))
        return err_set(work->detail, DIMFIT_ERR_STATE,
                       "strategy '%s' decides by scores and nothing was scored; workers must push "
                       "with the score flag between search start and plan",
                       work->strategy->name);
    return normalise(work);
}

/* Past the choice a harmful unit is worth nothing, as shares that add up to 1 can have it; g says
 * by how much it harms. */
void plan_take_shares(struct plan *plan) {
    if (!second_order(plan->request.estimator))
        return;
    double total = 0;
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        for (size_t k = 0; k < s->units; k++) {
            s->s[k] = s->s[k] > 0 ? s->s[k] : 0;
            total += s->s[k];
        }
    }
    for (size_t i = 0; total > 0 && i < plan->n_slots; i++) {
        for (size_t k = 0; k < plan->slots[i].units; k++)
            plan->slots[i].s[k] /= total;
    }
}
