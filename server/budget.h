/*
 * The budgeted choice: which units to keep, given an order and what each costs (design 2.3).
 *
 * Floors first, then units in descending priority, ties by (slot, unit); a unit that does not fit
 * is skipped and smaller ones are still tried. Costs are whole numbers and are added up exactly.
 * Pure.
 *
 * The tiers of a slot are entries of their own, one behind the other, the most popular last. Of
 * each, units are taken in order, and none that the tier above was not given. So a unit's rank is
 * the mean over a run of units where a later one would rank higher (they come together or not at
 * all: the mean of the best such run, which is the least concave majorant of their sum), and at
 * most that of the same unit of the tier above; ties by (slot, unit, more popular tier first).
 */
#ifndef SERVER_BUDGET_H
#define SERVER_BUDGET_H

#include "proto/base.h"

struct budget {
    double kappa;
    uint64_t whole;   /* all units that are there together */
    uint64_t limit;   /* the kept units may cost this much */
    uint64_t floors;  /* what the floors cost */
    uint32_t min_dim; /* floor: so many units of each slot, as far as it has them */
    bool by_density;  /* order by priority per cost */
    size_t n_slots;
    const uint32_t *widths;    /* [n_slots] units of a slot */
    const uint32_t *room;      /* [n_slots] of them, those not there yet; NULL: all are there */
    const uint64_t *unit_cost; /* [n_slots] of each of a slot's units */
    const bool *capped;        /* [n_slots] the next entry is the slot's next more popular tier, and
                                * no narrower; NULL: none is */
};

/* The largest whole number that is at most kappa * whole in float64, as far as 64 bits go. */
uint64_t budget_limit(double kappa, uint64_t whole);

/* Work out whole, limit and floors from the other fields. LIMIT when the costs do not fit 64 bits;
 * BUDGET when the floors cost more than the limit, naming the smallest feasible kappa. */
dimfit_err budget_open(struct budget *budget, struct err_detail *detail) MUST_CHECK;

/* How many of a tier's units are its floor: none that is not there yet. */
uint32_t budget_floor(const struct budget *budget, size_t slot);

/* Set keep[i][k] to 0 or 1. Units of priority -INFINITY are taken for the floors only. INVALID when
 * a priority is NaN, NOMEM; keep is written on success only. */
dimfit_err budget_select(const struct budget *budget, const double *const *priority,
                         uint8_t *const *keep) MUST_CHECK;

/* What keep costs, whoever made it. */
uint64_t budget_cost(const struct budget *budget, uint8_t *const *keep);

#endif
