/*
 * What the parts of planning share: a plan in the making.
 */
#ifndef SERVER_PLAN_INTERNAL_H
#define SERVER_PLAN_INTERNAL_H

#include "server/basis.h"
#include "server/plan.h"

/* What planning knows of a tier beside the plan itself. */
struct plan_fitted {
    const struct slot_stats *stats; /* as wide as the slot; NULL for one newer than the statistics:
                                     * no rows */
    const struct slot_stats *whole; /* of all tiers of the slot together; NULL as above */
    struct basis_fit *basis;        /* the slot's, its tiers' alike; NULL in the axis basis */
    uint16_t *order;   /* [units] the coordinate that each unit is, in the axis basis of a slot with
                        * tiers, its tiers' alike; NULL: in the order they are stored in */
    struct stats *sum; /* holds `whole`; it, basis and order belong to the slot's first tier */
    double *norm;      /* NULL unless the strategy needs it */
    double *expected;  /* [units + room] what units are worth in a search with growth; else NULL */
    double *spectrum;  /* the same of eigenvalues, where the strategy needs them */
    double *
        squares; /* sum over steps of g squared; NULL unless the estimator is of the second order */
};

static inline bool plan_is_fitted(const struct plan_fitted *f) {
    return f->basis != NULL;
}

struct plan_work {
    struct plan *plan;
    struct plan_fitted *fitted; /* [plan->n_slots] */
    const struct layout *layout;
    const struct stats *stats;              /* as wide as the slots (stats_widen()) */
    struct stats *widened;                  /* holds them where there are tiers; those of a plan
                                             * within a plan are the outer's */
    const struct dimfit_strategy *strategy; /* NULL: only scores are wanted */
    const struct strategies *strategies;
    struct trials *trials; /* NULL: there can be none */
    bool waits;            /* the strategy waits for trials */
    unsigned depth;        /* of plans within a plan */
    struct plan *chosen;   /* in place of the plan, as the strategy decided */
    struct err_detail *detail;
};

/* NOMEM with its text. */
dimfit_err plan_nomem(const struct plan_work *work);

/* STATE unless the statistics have their moments; they are of some rows. */
dimfit_err plan_check_moments(const struct plan_work *work,
                              const struct slot_stats *stats) MUST_CHECK;

/* Does the strategy need this (DIMFIT_NEEDS_*)? */
bool plan_needs(const struct plan_work *work, uint32_t what);

/* Fill in g and s of every slot by the request's estimator. Errors as of plan_make(). */
dimfit_err plan_score(struct plan_work *work) MUST_CHECK;
/* Past the choice: what was negative is worth nothing, and shares add up to 1. */
void plan_take_shares(struct plan *plan);

/* ---- tiers (plan_tiers.c) ----------------------------------------------------------------------
 */

/* Statistics as wide as the slots, and of each slot whatever the tier. NOMEM. */
dimfit_err plan_widen(struct plan_work *work) MUST_CHECK;
dimfit_err plan_sum_tiers(struct plan_work *work) MUST_CHECK;

/* In the axis basis of slots with tiers: put the units in the order in which their prefixes keep
 * most, by descending score of all tiers together, or norm where nothing was scored. NOMEM. */
dimfit_err plan_order_units(struct plan_work *work) MUST_CHECK;

/* Make keep[] of slots with tiers what their rows can be stored at: as many of each tier's first
 * units as it kept, and no more than the next more popular tier has. Without growth a tier does not
 * end, above its floor, in coordinates that it lacks. */
void plan_take_prefixes(const struct plan_work *work);

/* Of what its rows have, does the tier lose something? */
bool plan_tier_loses(const struct plan_slot *s, const struct plan_fitted *f);

/* Let the strategy decide, check its answer whatever it did, and fill in keep and costs. The slots,
 * their scores and norms are there. Errors as of plan_make(). */
dimfit_err plan_choose(struct plan_work *work) MUST_CHECK;

/* The change that makes the plan's keep[] so, directions added still empty. losses: only of slots
 * that lose something. */
dimfit_err plan_build_change(struct plan_work *work, bool losses, struct change **out) MUST_CHECK;

/* A plan within a plan: as plan_try(), one level deeper. */
dimfit_err plan_within(const struct plan_work *outer, const struct plan_request *request,
                       struct plan **out, struct err_detail *detail) MUST_CHECK;

/* The host's services of the same name (plugin/dimfit_strategy.h): *answer is one of
 * dimfit_trial_answer; errors are of the search. */
dimfit_err plan_trial(struct plan_work *work, uint8_t *const *keep, uint64_t samples,
                      struct dimfit_trial_result *out, int *answer) MUST_CHECK;
dimfit_err plan_candidate(struct plan_work *work, const struct dimfit_candidate *candidate,
                          struct dimfit_trial_result *out, int *answer) MUST_CHECK;
dimfit_err plan_take(struct plan_work *work, size_t i) MUST_CHECK;

#endif
