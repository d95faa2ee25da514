/*
 * sseds: keep the units whose removal the gradients say would cost most (Single-Shot Embedding
 * Dimension Search, arXiv 2204.03281; design 2.1).
 */
#include "plugin/dimfit_strategy.h"

#include <stdlib.h>

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    const double **const priority = malloc((input->n_slots + 1) * sizeof *priority);
    if (priority == NULL)
        return host->fail(host->self, "out of memory");
    for (size_t i = 0; i < input->n_slots; i++)
        priority[i] = input->slots[i].score;
    const int result = host->select(host->self, priority, keep);
    free(priority);
    return result;
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
