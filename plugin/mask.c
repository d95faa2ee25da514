/*
 * mask: the old practice. Every unit (or whole slot) is masked in turn, the model evaluated without
 * it, and what costs most is kept (design 2.6). The yardstick of strategies that only estimate this
 * cost: it takes a trial a unit.
 *
 * unit=dim (default) or slot: what is masked. by=loss (default) or auc: how its cost is told.
 *
 * A tier keeps its first units, and none that a more popular one lacks. So the cost of its units
 * from one on is that of masking those in all tiers down from it, less that of masking them in the
 * tiers below; and a unit's is that of the units from it on, less that of those behind it.
 */
#include "plugin/units.h"

#include <math.h>
#include <string.h>

struct options {
    int slots, auc;
};

/* 1 when the option has the second of its two words, 0 for the first or none given. */
static int read_choice(const struct dimfit_strategy_host *host, const char *key, const char *first,
                       const char *second) {
    char word[8];
    const int found = host->option(host->self, key, word, sizeof word);
    if (found == 1 || (found == 0 && strcmp(word, first) == 0))
        return 0;
    return found == 0 && strcmp(word, second) == 0 ? 1 : -1;
}

static int read_options(const struct dimfit_strategy_host *host, struct options *out) {
    out->slots = read_choice(host, "unit", "dim", "slot");
    out->auc = read_choice(host, "by", "loss", "auc");
    if (out->slots < 0)
        return host->fail(host->self, "its option `unit` is `dim` or `slot`");
    if (out->auc < 0)
        return host->fail(host->self, "its option `by` is `loss` or `auc`");
    return 0;
}

/* What masking costs. A sample of one class has no AUC to lose. */
static double cost_of(const struct options *options, const struct dimfit_trial_result *result) {
    const double drop = options->auc ? result->whole_auc - result->auc
                                     : result->loss - result->whole_loss;
    return isnan(drop) ? 0 : drop;
}

/* Mask units [from, to) of slot i, in keep[], which has all of them otherwise. */
static int try_without(const struct dimfit_strategy_host *host, uint8_t *const *keep, size_t i,
                       uint32_t from, uint32_t to, struct dimfit_trial_result *result) {
    memset(keep[i] + from, 0, to - from);
    const int answer = host->trial(host->self, keep, 0, result);
    memset(keep[i] + from, 1, to - from);
    return answer;
}

/* below[k]: what masking units from k on costs in the tiers below; gets what it costs with this
 * one. */
static void take_own(const struct options *options, double *priority, double *below,
                     uint32_t width) {
    for (uint32_t k = 0; k < width; k++) {
        const double all = priority[k];
        priority[k] -= below[k];
        below[k] = all;
    }
    for (uint32_t k = 0; k + 1 < width && !options->slots; k++)
        priority[k] -= priority[k + 1];
}

/* Everything is asked for in one go. DIMFIT_PLAN_DONE when all of it is known. */
static int measure(const struct dimfit_strategy_host *host,
                   const struct dimfit_strategy_input *input, const struct options *options,
                   uint8_t *const *keep, double **priority, double *below) {
    int waits = 0;
    for (size_t i = 0; i < input->n_slots; i++) {
        const uint32_t width = input->slots[i].width - input->slots[i].room;
        const uint32_t step = options->slots ? width : 1;
        const int tiers = input->tiers[i].n_tiers > 1;
        for (uint32_t k = 0; k < width; k += step) {
            struct dimfit_trial_result result;
            const int answer = try_without(host, keep, i, k, tiers ? width : k + step, &result);
            if (answer == DIMFIT_TRIAL_FAILED)
                return DIMFIT_PLAN_FAILED;
            waits |= answer == DIMFIT_TRIAL_ASKED;
            for (uint32_t j = k; answer == DIMFIT_TRIAL_KNOWN && j < k + step; j++)
                priority[i][j] = cost_of(options, &result);
        }
        if (input->tiers[i].tier == 0)
            memset(below, 0, width * sizeof *below);
        if (tiers)
            take_own(options, priority[i], below, width);
    }
    return waits ? DIMFIT_PLAN_WAITS : DIMFIT_PLAN_DONE;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    struct options options;
    struct units units;
    uint32_t widest = 0;
    if (read_options(host, &options) != 0)
        return DIMFIT_PLAN_FAILED;
    for (size_t i = 0; i < input->n_slots; i++)
        widest = input->slots[i].width > widest ? input->slots[i].width : widest;
    double *const below = calloc((size_t)widest + 1, sizeof *below);
    if (!units_init(&units, input) || below == NULL) {
        free(below);
        units_fini(&units);
        return host->fail(host->self, "out of memory");
    }
    for (size_t i = 0; i < input->n_slots; i++)
        memset(keep[i], 1, input->slots[i].width);
    units_refuse_room(&units, input);
    int answer = measure(host, input, &options, keep, units.priority, below);
    if (answer == DIMFIT_PLAN_DONE)
        answer = units_select(&units, host, keep);
    free(below);
    units_fini(&units);
    return answer;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "mask",
    .version = "1.0",
    .summary = "what costs most when masked, one after another (unit=dim|slot, by=loss|auc)",
    .needs = DIMFIT_NEEDS_TRIALS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
