/*
 * magnitude: keep the units of the largest l2 norm over their slot's rows. Asks nothing of the
 * workers; a baseline to respect.
 */
#include "plugin/units.h"

static const double *norm_of(const struct dimfit_strategy_slot *slot) {
    return slot->norm;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    return units_rank(host, input, norm_of, keep);
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "magnitude",
    .version = "1.0",
    .summary = "largest norm over the slot's rows first",
    .needs = DIMFIT_NEEDS_NORMS,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
