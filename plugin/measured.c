/*
 * measured: per slot the loss at widths 0/1/2/4/8/..., all other slots whole, then the budget is
 * spent where it saves most loss per parameter (design 2.6).
 *
 * A slot's losses over its width are replaced by their lower convex hull, so that each further unit
 * saves no more than the one before, and taking units by what they save per parameter is the best
 * that any choice of widths can do for the sum of the slots' losses. Widths between two measured
 * ones lie on the line between them. A sum it is: what two slots lose together is not measured.
 *
 * A tier can't be narrowed without those less popular, so what it loses at a width is what the slot
 * does less what it does where those below it alone have this width.
 */
#include "plugin/order.h"
#include "plugin/units.h"

#include <math.h>

enum { WIDTHS_MAX = 16 }; /* 0, 1, 2, 4, ... 2^13, the whole width */

struct curve {
    uint32_t width[WIDTHS_MAX]; /* ascending, the last one is whole */
    double loss[WIDTHS_MAX];    /* above the whole model's */
    int n;
};

static void set_widths(struct curve *curve, uint32_t whole) {
    curve->n = 0;
    curve->width[curve->n++] = 0;
    for (uint32_t w = 1; w < whole; w *= 2)
        curve->width[curve->n++] = w;
    if (whole > 0)
        curve->width[curve->n++] = whole;
    curve->loss[curve->n - 1] = 0;
}

/* A dimfit_plan_answer. keep[] has all units before and after. */
static int measure(const struct dimfit_strategy_host *host,
                   const struct dimfit_strategy_input *input, const struct order *order, size_t i,
                   uint8_t *const *keep, struct curve *curve) {
    const uint32_t whole = order_have(&input->slots[i]);
    int waits = 0;
    for (int j = 0; j + 1 < curve->n; j++) {
        struct dimfit_trial_result result;
        order_keep(order, i, whole, curve->width[j], keep[i]);
        const int answer = host->trial(host->self, keep, 0, &result);
        memset(keep[i], 1, whole);
        if (answer == DIMFIT_TRIAL_FAILED)
            return DIMFIT_PLAN_FAILED;
        waits |= answer == DIMFIT_TRIAL_ASKED;
        if (answer == DIMFIT_TRIAL_KNOWN)
            curve->loss[j] = result.loss - result.whole_loss;
    }
    return waits ? DIMFIT_PLAN_WAITS : DIMFIT_PLAN_DONE;
}

/* Loss saved a unit of width between two points. */
static double slope(const struct curve *curve, int from, int to) {
    return (curve->loss[from] - curve->loss[to]) / (curve->width[to] - curve->width[from]);
}

/* Drop points above the hull: slopes then fall from each to the next. */
static void take_hull(struct curve *curve) {
    int n = 0;
    for (int j = 0; j < curve->n; j++) {
        while (n >= 2) {
            curve->width[n] = curve->width[j];
            curve->loss[n] = curve->loss[j];
            if (slope(curve, n - 2, n - 1) > slope(curve, n - 1, n))
                break;
            n--;
        }
        curve->width[n] = curve->width[j];
        curve->loss[n] = curve->loss[j];
        n++;
    }
    curve->n = n;
}

/* What each unit saves per parameter. Units of a slot that costs nothing come first. */
static void rank(const struct curve *curve, const struct order *order, size_t i, double unit_cost,
                 double *priority) {
    for (int j = 0; j + 1 < curve->n; j++) {
        const double saved = slope(curve, j, j + 1);
        for (uint32_t k = curve->width[j]; k < curve->width[j + 1]; k++)
            priority[order->unit[i][k]] = unit_cost > 0 ? saved / unit_cost : INFINITY;
    }
}

/* What the tier of this curve loses by itself; `below` has the losses of those below it, at the
 * same widths, and gets its own. */
static void take_own(struct curve *curve, double *below) {
    for (int j = 0; j < curve->n; j++) {
        const double all = curve->loss[j];
        curve->loss[j] -= below[j];
        below[j] = all;
    }
}

static int plan_slots(const struct dimfit_strategy_host *host,
                      const struct dimfit_strategy_input *input, const struct order *order,
                      struct units *units, uint8_t *const *keep) {
    double below[WIDTHS_MAX];
    int waits = 0;
    units_refuse_room(units, input);
    for (size_t i = 0; i < input->n_slots; i++)
        memset(keep[i], 1, input->slots[i].width);
    for (size_t i = 0; i < input->n_slots; i++) {
        struct curve curve;
        if (input->tiers[i].tier == 0)
            memset(below, 0, sizeof below);
        set_widths(&curve, order_have(&input->slots[i]));
        const int answer = measure(host, input, order, i, keep, &curve);
        if (answer == DIMFIT_PLAN_FAILED)
            return answer;
        waits |= answer == DIMFIT_PLAN_WAITS;
        if (answer == DIMFIT_PLAN_DONE) {
            take_own(&curve, below);
            take_hull(&curve);
            rank(&curve, order, i, input->slots[i].unit_cost, units->priority[i]);
        }
    }
    return waits ? DIMFIT_PLAN_WAITS : units_select(units, host, keep);
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    struct order order;
    struct units units;
    const int whole = order_init(&order, input) & units_init(&units, input);
    const int answer = whole ? plan_slots(host, input, &order, &units, keep)
                             : host->fail(host->self, "out of memory");
    units_fini(&units);
    order_fini(&order);
    return answer;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "measured",
    .version = "1.0",
    .summary = "each slot's loss at narrower widths, measured; most loss saved per parameter first",
    .needs = DIMFIT_NEEDS_NORMS | DIMFIT_NEEDS_TRIALS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
