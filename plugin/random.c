/*
 * random: every unit draws its priority from (seed, slot, tier, unit), so that the same seed keeps
 * the same units whatever other slots there are. The baseline that a score has to beat.
 */
#include "plugin/dimfit_strategy.h"

#include <stdlib.h>

/* splitmix64's output function (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    size_t units = 0;
    for (size_t i = 0; i < input->n_slots; i++)
        units += input->slots[i].width;
    const double **const priority = malloc((input->n_slots + 1) * sizeof *priority);
    double *const draws = malloc((units + 1) * sizeof *draws);
    int result;
    if (priority == NULL || draws == NULL) {
        result = host->fail(host->self, "out of memory");
        goto done;
    }
    double *draw = draws;
    for (size_t i = 0; i < input->n_slots; i++) {
        const uint64_t slot_seed = mix(mix(input->seed) ^ input->slots[i].id ^
                                       (uint64_t)input->tiers[i].tier << 32);
        priority[i] = draw;
        for (uint32_t k = 0; k < input->slots[i].width; k++)
            *draw++ = (double)(mix(slot_seed + k) >> 11) * 0x1p-53;
    }
    result = host->select(host->self, priority, keep);

done:
    free(priority);
    free(draws);
    return result;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "random",
    .version = "1.0",
    .summary = "a seeded draw, unit by unit",
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
