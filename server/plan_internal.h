/*
 * What the parts of planning share: a plan in the making.
 */
#ifndef SERVER_PLAN_INTERNAL_H
#define SERVER_PLAN_INTERNAL_H

#include "server/plan.h"

/* What planning knows of a slot beside the plan itself. */
struct plan_fitted {
    const struct slot_stats *stats; /* NULL for a slot newer than the statistics: no rows */
    double *mean, *N;               /* NULL in the axis basis */
    double *norm;                   /* NULL unless the strategy needs it */
};

struct plan_work {
    struct plan *plan;
    struct plan_fitted *fitted; /* [plan->n_slots] */
    const struct layout *layout;
    const struct stats *stats;
    const struct dimfit_strategy *strategy; /* NULL: only scores are wanted */
    struct err_detail *detail;
};

/* NOMEM with its text. */
dimfit_err plan_nomem(const struct plan_work *work);

/* Does the strategy need this (DIMFIT_NEEDS_*)? */
bool plan_needs(const struct plan_work *work, uint32_t what);

/* Let the strategy decide, check its answer whatever it did, and fill in keep and costs. The slots,
 * their scores and norms are there. Errors as of plan_make(). */
dimfit_err plan_choose(struct plan_work *work) MUST_CHECK;

#endif
