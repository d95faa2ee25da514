/*
 * What the parts of planning share: a plan in the making.
 */
#ifndef SERVER_PLAN_INTERNAL_H
#define SERVER_PLAN_INTERNAL_H

#include "server/basis.h"
#include "server/plan.h"

/* What planning knows of a slot beside the plan itself. */
struct plan_fitted {
    const struct slot_stats *stats; /* NULL for a slot newer than the statistics: no rows */
    struct basis_fit basis;         /* zeroed in the axis basis */
    double *norm;                   /* NULL unless the strategy needs it */
    double *expected; /* [before + room] what units are worth in a search with growth; else NULL */
    double *spectrum; /* the same of eigenvalues, where the strategy needs them */
    double *
        squares; /* sum over steps of g squared; NULL unless the estimator is of the second order */
};

static inline bool plan_is_fitted(const struct plan_fitted *f) {
    return f->basis.encode != NULL;
}

struct plan_work {
    struct plan *plan;
    struct plan_fitted *fitted; /* [plan->n_slots] */
    const struct layout *layout;
    const struct stats *stats;
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

/* STATE unless the slot's statistics have their moments; it has some rows. */
dimfit_err plan_check_moments(const struct plan_work *work,
                              const struct plan_fitted *fitted) MUST_CHECK;

/* Does the strategy need this (DIMFIT_NEEDS_*)? */
bool plan_needs(const struct plan_work *work, uint32_t what);

/* Fill in g and s of every slot by the request's estimator. Errors as of plan_make(). */
dimfit_err plan_score(struct plan_work *work) MUST_CHECK;
/* Past the choice: what was negative is worth nothing, and shares add up to 1. */
void plan_take_shares(struct plan *plan);

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
