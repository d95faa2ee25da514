/*
 * sseds: keep the units whose removal the gradients say would cost most (Single-Shot Embedding
 * Dimension Search, arXiv 2204.03281; design 2.1).
 */
#include "plugin/units.h"

static const double *score_of(const struct dimfit_strategy_slot *slot) {
    return slot->score;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    return units_rank(host, input, score_of, keep);
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "sseds",
    .version = "1.0",
    .summary = "highest gradient scores first, in one shot",
    .needs = DIMFIT_NEEDS_SCORES,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
