/*
 * auto: plans of several strategies and bases are tried, and the one of least loss is taken (design
 * 2.6). In a fitted basis the loss right after a change foretells the loss after retraining well,
 * so that a handful of forward passes decides; and no single way of spreading widths over slots is
 * best everywhere.
 *
 * The least loss wins, by however little: what there is to win is mostly less than the noise of one
 * trial, and of equals the first, which is the simplest, is as good. It says something only where
 * the samples of the trials are not those that were scored (docs/method.md).
 *
 * Where the search names a basis, the candidates are the same ways of choosing, all in that one.
 */
#include "plugin/dimfit_strategy.h"

#include <string.h>

static const struct dimfit_candidate candidates[] = {
#define CANDIDATE(...)                                                                             \
    { .size = sizeof(struct dimfit_candidate), __VA_ARGS__ }
    CANDIDATE(.strategy = "uniform", .basis = "rotated"),
    CANDIDATE(.strategy = "frequency", .basis = "rotated", .options = "rule=power"),
    CANDIDATE(.strategy = "sseds", .basis = "rotated", .estimator = "guarded", .rank = "density"),
    CANDIDATE(.strategy = "sseds", .basis = "rotated", .estimator = "taylor", .rank = "density"),
    CANDIDATE(.strategy = "sseds", .basis = "rotated", .estimator = "step", .rank = "score"),
    CANDIDATE(.strategy = "measured", .basis = "rotated"),
    CANDIDATE(.strategy = "sseds", .basis = "kfac", .estimator = "guarded", .rank = "density"),
    CANDIDATE(.strategy = "uniform", .basis = "kfac"),
    CANDIDATE(.strategy = "magnitude", .basis = "rotated"),
    CANDIDATE(.strategy = "uniform", .basis = "axis"),
    CANDIDATE(.strategy = "sseds", .basis = "axis", .estimator = "step", .rank = "score"),
#undef CANDIDATE
};

enum { CANDIDATES = sizeof candidates / sizeof *candidates };

static int same_text(const char *a, const char *b) {
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* But for the basis. */
static int same_way(const struct dimfit_candidate *a, const struct dimfit_candidate *b) {
    return same_text(a->strategy, b->strategy) && same_text(a->estimator, b->estimator) &&
           same_text(a->rank, b->rank) && same_text(a->options, b->options);
}

/* All candidates, or each way of choosing once, in the basis that the search names. */
static size_t list(const char *basis, struct dimfit_candidate *out) {
    size_t n = 0;
    for (size_t i = 0; i < CANDIDATES; i++) {
        size_t twin = basis != NULL ? 0 : n;
        while (twin < n && !same_way(&out[twin], &candidates[i]))
            twin++;
        if (twin < n)
            continue;
        out[n] = candidates[i];
        if (basis != NULL)
            out[n].basis = basis;
        n++;
    }
    return n;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    struct dimfit_candidate tried[CANDIDATES];
    struct dimfit_trial_result results[CANDIDATES];
    const size_t n = list(input->basis, tried);
    int waits = 0;
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        const int answer = host->candidate(host->self, &tried[i], &results[i]);
        if (answer == DIMFIT_TRIAL_FAILED)
            return DIMFIT_PLAN_FAILED;
        waits |= answer == DIMFIT_TRIAL_ASKED;
        if (answer != DIMFIT_TRIAL_KNOWN)
            continue;
        const double added = results[i].loss - results[i].whole_loss;
        if (best == n || added < results[best].loss - results[best].whole_loss)
            best = i;
    }
    if (waits)
        return DIMFIT_PLAN_WAITS;
    if (best == n)
        return host->fail(host->self, "none of its candidates can be planned; start a search by "
                                      "the strategy `uniform` to see why");
    return host->choose(host->self, best);
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "auto",
    .version = "1.1",
    .summary = "tries the plans of several strategies and bases and takes the one of least loss",
    .needs = DIMFIT_NEEDS_SCORES | DIMFIT_NEEDS_NORMS | DIMFIT_NEEDS_TRIALS | DIMFIT_NEEDS_BASES,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
