/*
 * spectrum: keep the units of the largest eigenvalues of the basis: in `kfac` those that are
 * expected to cost most loss, in `rotated` those that rows vary along most. With density ranking,
 * per parameter.
 */
#include "plugin/units.h"

static const double *eigen_of(const struct dimfit_strategy_slot *slot) {
    return slot->eigen;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    return units_rank(host, input, eigen_of, keep);
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "spectrum",
    .version = "1.0",
    .summary = "largest eigenvalue of the basis first: loss (kfac) or variance (rotated)",
    .needs = DIMFIT_NEEDS_SPECTRUM,
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
