#include "server/budget.h"

#include "proto/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t budget_limit(double kappa, uint64_t whole) {
    const double limit = kappa * (double)whole;
    if (kappa == 1)
        return whole;
    if (limit >= 0x1p64)
        return kappa < 1 ? whole : UINT64_MAX;
    return kappa < 1 && (uint64_t)limit > whole ? whole : (uint64_t)limit;
}

static uint32_t there(const struct budget *budget, size_t slot) {
    return budget->widths[slot] - (budget->room != NULL ? budget->room[slot] : 0);
}

uint32_t budget_floor(const struct budget *budget, size_t slot) {
    const uint32_t width = there(budget, slot);
    return budget->min_dim < width ? budget->min_dim : width;
}

/* The smallest kappa that pays for the floors, in digits that a user can type back: rounded up
 * until what is printed is enough. */
static void smallest_kappa(const struct budget *budget, char *text, size_t cap) {
    double kappa = (double)budget->floors / (double)budget->whole;
    for (;;) {
        snprintf(text, cap, "%.6g", kappa);
        if (budget_limit(strtod(text, NULL), budget->whole) >= budget->floors)
            return;
        kappa *= 1 + 1e-6;
    }
}

dimfit_err budget_open(struct budget *budget, struct err_detail *detail) {
    uint64_t all = 0;
    budget->whole = budget->floors = 0;
    for (size_t i = 0; i < budget->n_slots; i++) {
        uint64_t cost;
        if (__builtin_mul_overflow(budget->unit_cost[i], (uint64_t)budget->widths[i], &cost) ||
            __builtin_add_overflow(all, cost, &all))
            return err_set(detail, DIMFIT_ERR_LIMIT,
                           "the cost of all units does not fit a 64-bit number");
        budget->whole += there(budget, i) * budget->unit_cost[i];
        budget->floors += budget_floor(budget, i) * budget->unit_cost[i];
    }
    budget->limit = budget_limit(budget->kappa, budget->whole);
    if (budget->floors <= budget->limit)
        return DIMFIT_OK;
    char kappa[32];
    smallest_kappa(budget, kappa, sizeof kappa);
    return err_set(detail, DIMFIT_ERR_BUDGET,
                   "%u dimension(s) of each slot alone cost %llu, --kappa %g allows %llu of %llu; "
                   "the smallest feasible --kappa is %s, or --min-dim 0 lets slots go entirely",
                   budget->min_dim, (unsigned long long)budget->floors, budget->kappa,
                   (unsigned long long)budget->limit, (unsigned long long)budget->whole, kappa);
}

struct unit {
    uint64_t key; /* ascending where the priority descends */
    uint32_t slot, k;
};

static const uint64_t SIGN = UINT64_C(1) << 63;

/* Doubles in descending order as integers in ascending order. */
static uint64_t descending(double priority) {
    const double v = priority + 0.0; /* -0 is 0 */
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits & SIGN) != 0 ? bits : ~(bits | SIGN);
}

/* Least significant digit first: stable, so that units listed by (slot, unit) keep that order among
 * equals. Returns where the result is. */
static struct unit *sort(struct unit *units, struct unit *spare, size_t n) {
    enum { BYTES = 8, VALUES = 256 };
    size_t counts[BYTES][VALUES] = {{0}};
    for (size_t i = 0; i < n; i++) {
        for (int byte = 0; byte < BYTES; byte++)
            counts[byte][units[i].key >> (8 * byte) & 0xff]++;
    }
    for (int byte = 0; byte < BYTES && n > 0; byte++) {
        if (counts[byte][units[0].key >> (8 * byte) & 0xff] == n)
            continue;
        size_t at = 0;
        for (int v = 0; v < VALUES; v++) {
            const size_t count = counts[byte][v];
            counts[byte][v] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++)
            spare[counts[byte][units[i].key >> (8 * byte) & 0xff]++] = units[i];
        struct unit *const sorted = spare;
        spare = units;
        units = sorted;
    }
    return units;
}

/* By density a unit that costs nothing is infinitely dense. */
static double rank_of(const struct budget *budget, size_t slot, double priority) {
    if (!budget->by_density || isinf(priority))
        return priority;
    const uint64_t cost = budget->unit_cost[slot];
    return cost == 0 ? INFINITY : priority / (double)cost;
}

static bool is_capped(const struct budget *budget, size_t slot) {
    return budget->capped != NULL && budget->capped[slot];
}

/* Non-increasing over the units: pools of adjacent ones that would rise have their mean. */
static void pool(double *rank, size_t n) {
    double mean[LAYOUT_DIM_MAX];
    size_t size[LAYOUT_DIM_MAX], pools = 0;
    for (size_t k = 0; k < n; k++) {
        mean[pools] = rank[k];
        size[pools++] = 1;
        while (pools > 1 && mean[pools - 1] > mean[pools - 2]) {
            const double a = mean[pools - 2], b = mean[pools - 1];
            const double m = (double)size[pools - 2], l = (double)size[pools - 1];
            /* What is never to be taken keeps what follows it from being taken. */
            mean[pools - 2] = isinf(a) ? a : (m * a + l * b) / (m + l);
            size[pools - 2] += size[pools - 1];
            pools--;
        }
    }
    for (size_t p = 0, k = 0; p < pools; k += size[p++]) {
        for (size_t j = 0; j < size[p]; j++)
            rank[k + j] = mean[p];
    }
}

/* The units of entries first .. last, tiers of one slot. */
static size_t list_tiers(const struct budget *budget, const double *const *priority, size_t first,
                         size_t last, struct unit *units) {
    double rank[LAYOUT_TIERS_MAX][LAYOUT_DIM_MAX];
    size_t at = 0;
    for (size_t i = last + 1; i-- > first;) {
        double *const own = rank[i - first], *const above = rank[i - first + 1];
        for (uint32_t k = 0; k < budget->widths[i]; k++)
            own[k] = rank_of(budget, i, priority[i][k]);
        pool(own, budget->widths[i]);
        for (uint32_t k = 0; i < last && k < budget->widths[i]; k++)
            own[k] = fmin(own[k], above[k]);
    }
    for (uint32_t k = 0; k < budget->widths[last]; k++) {
        for (size_t i = last + 1; i-- > first;) {
            if (k < budget->widths[i])
                units[at++] = (struct unit){descending(rank[i - first][k]), (uint32_t)i, k};
        }
    }
    return at;
}

static dimfit_err list_units(const struct budget *budget, const double *const *priority,
                             struct unit *units) {
    size_t at = 0;
    for (size_t i = 0; i < budget->n_slots; i++) {
        for (uint32_t k = 0; k < budget->widths[i]; k++) {
            if (isnan(priority[i][k]))
                return DIMFIT_ERR_INVALID;
        }
    }
    for (size_t i = 0; i < budget->n_slots; i++) {
        const size_t first = i;
        while (is_capped(budget, i))
            i++;
        if (i > first) {
            at += list_tiers(budget, priority, first, i, units + at);
            continue;
        }
        for (uint32_t k = 0; k < budget->widths[i]; k++)
            units[at++] = (struct unit){
                descending(rank_of(budget, i, priority[i][k])),
                (uint32_t)i,
                k,
            };
    }
    return DIMFIT_OK;
}

static void take(const struct budget *budget, const struct unit *units, size_t n, uint32_t *owed,
                 uint8_t *const *keep) {
    const uint64_t never = descending(-INFINITY);
    uint64_t left = budget->limit - budget->floors;
    for (size_t i = 0; i < budget->n_slots; i++) {
        owed[i] = budget_floor(budget, i);
        memset(keep[i], 0, budget->widths[i]);
    }
    for (size_t u = 0; u < n; u++) {
        const size_t slot = units[u].slot;
        const uint64_t cost = budget->unit_cost[slot];
        /* The first units of a slot that come by are its best, and paid for. */
        if (owed[slot] > 0) {
            owed[slot]--;
        } else {
            if (cost > left || units[u].key == never ||
                (is_capped(budget, slot) && !keep[slot + 1][units[u].k]))
                continue;
            left -= cost;
        }
        keep[slot][units[u].k] = 1;
    }
}

dimfit_err budget_select(const struct budget *budget, const double *const *priority,
                         uint8_t *const *keep) {
    size_t n = 0;
    base_assert(budget->floors <= budget->limit);
    for (size_t i = 0; i < budget->n_slots; i++)
        n += budget->widths[i];
    struct unit *const units = malloc((n + 1) * sizeof *units);
    struct unit *const spare = malloc((n + 1) * sizeof *spare);
    uint32_t *const owed = malloc((budget->n_slots + 1) * sizeof *owed);
    dimfit_err err = units == NULL || spare == NULL || owed == NULL ? DIMFIT_ERR_NOMEM : DIMFIT_OK;
    if (err == DIMFIT_OK)
        err = list_units(budget, priority, units);
    if (err == DIMFIT_OK)
        take(budget, sort(units, spare, n), n, owed, keep);
    free(units);
    free(spare);
    free(owed);
    return err;
}

uint64_t budget_cost(const struct budget *budget, uint8_t *const *keep) {
    uint64_t cost = 0;
    for (size_t i = 0; i < budget->n_slots; i++) {
        for (uint32_t k = 0; k < budget->widths[i]; k++)
            cost += keep[i][k] ? budget->unit_cost[i] : 0;
    }
    return cost;
}
