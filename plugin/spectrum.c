/*
 * spectrum: keep the units of the largest eigenvalues of the basis: in `kfac` those that are
 * expected to cost most loss, in `rotated` those that rows vary along most. With density ranking,
 * per parameter.
 */
#include "plugin/dimfit_strategy.h"

#include <stdlib.h>

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    const double **const priority = malloc((input->n_slots + 1) * sizeof *priority);
    if (priority == NULL)
        return host->fail(host->self, "out of memory");
    for (size_t i = 0; i < input->n_slots; i++)
        priority[i] = input->slots[i].eigen;
    const int result = host->select(host->self, priority, keep);
    free(priority);
    return result;
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
