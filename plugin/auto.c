/*
 * auto: plans of several strategies and bases are tried, and the one of least loss is taken (design
 * 2.6). In a fitted basis the loss right after a change foretells the loss after retraining well,
 * so that a handful of forward passes decides; and no single way of spreading widths over slots is
 * best everywhere.
 *
 * Candidates are listed simplest first. The first whose loss is within one standard error of the
 * least one wins: what is no better than noise is not preferred to what is simpler.
 */
#include "plugin/dimfit_strategy.h"

#include <math.h>

static const struct dimfit_candidate candidates[] = {
#define CANDIDATE(...)                                                                             \
    { .size = sizeof(struct dimfit_candidate), __VA_ARGS__ }
    CANDIDATE(.strategy = "uniform", .basis = "rotated"),
    CANDIDATE(.strategy = "uniform", .basis = "kfac"),
    CANDIDATE(.strategy = "frequency", .basis = "rotated", .options = "rule=power"),
    CANDIDATE(.strategy = "magnitude", .basis = "rotated"),
    CANDIDATE(.strategy = "sseds", .basis = "rotated"),
    CANDIDATE(.strategy = "sseds", .basis = "kfac"),
    CANDIDATE(.strategy = "measured", .basis = "rotated"),
    CANDIDATE(.strategy = "measured", .basis = "kfac"),
    CANDIDATE(.strategy = "uniform", .basis = "axis"),
    CANDIDATE(.strategy = "magnitude", .basis = "axis"),
    CANDIDATE(.strategy = "sseds", .basis = "axis"),
#undef CANDIDATE
};

enum { CANDIDATES = sizeof candidates / sizeof *candidates };

/* The first one within a standard error of the best. */
static size_t winner(const struct dimfit_trial_result *results, const int *answers, size_t best) {
    const double added = results[best].loss - results[best].whole_loss + results[best].error;
    for (size_t i = 0; i < best; i++) {
        if (answers[i] == DIMFIT_TRIAL_KNOWN && results[i].loss - results[i].whole_loss <= added)
            return i;
    }
    return best;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    struct dimfit_trial_result results[CANDIDATES];
    int answers[CANDIDATES], waits = 0;
    size_t best = CANDIDATES;
    for (size_t i = 0; i < CANDIDATES; i++) {
        answers[i] = host->candidate(host->self, &candidates[i], &results[i]);
        if (answers[i] == DIMFIT_TRIAL_FAILED)
            return DIMFIT_PLAN_FAILED;
        waits |= answers[i] == DIMFIT_TRIAL_ASKED;
        if (answers[i] != DIMFIT_TRIAL_KNOWN)
            continue;
        const double added = results[i].loss - results[i].whole_loss;
        if (best == CANDIDATES || added < results[best].loss - results[best].whole_loss)
            best = i;
    }
    if (waits)
        return DIMFIT_PLAN_WAITS;
    if (best == CANDIDATES)
        return host->fail(host->self, "none of its candidates can be planned; start a search by "
                                      "the strategy `uniform` to see why");
    return host->choose(host->self, winner(results, answers, best));
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "auto",
    .version = "1.0",
    .summary = "tries the plans of several strategies and bases and takes the one of least loss",
    .needs = DIMFIT_NEEDS_SCORES | DIMFIT_NEEDS_NORMS | DIMFIT_NEEDS_TRIALS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
