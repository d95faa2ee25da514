/*
 * uniform: the same width for every slot, as near as the budget allows. Levels are filled one after
 * the other, slots in id order within a level; a slot whose unit does not fit stands back and
 * smaller ones go on, so that the budget is used. Ranking by density would not be uniform any more,
 * so the widths are chosen here, not by select().
 */
#include "plugin/units.h"

static int plan(const struct dimfit_strategy_host *host, const struct dimfit_strategy_input *input,
                uint8_t *const *keep) {
    double left = input->budget;
    uint32_t widest = 0;
    /* Every floor comes before any slot's next unit: later levels may not eat what it needs. */
    for (size_t i = 0; i < input->n_slots; i++) {
        const struct dimfit_strategy_slot *const slot = &input->slots[i];
        for (uint32_t k = 0; k < units_floor(input, i); k++) {
            keep[i][k] = 1;
            left -= slot->unit_cost;
        }
        widest = slot->width > widest ? slot->width : widest;
    }
    for (uint32_t k = 0; k < widest; k++) {
        for (size_t i = 0; i < input->n_slots; i++) {
            const struct dimfit_strategy_slot *const slot = &input->slots[i];
            if (k >= slot->width || keep[i][k] || slot->unit_cost > left)
                continue;
            keep[i][k] = 1;
            left -= slot->unit_cost;
        }
    }
    return 0;
}

static const struct dimfit_strategy strategy = {
    .magic = DIMFIT_STRATEGY_MAGIC,
    .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
    .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
    .size = sizeof strategy,
    .name = "uniform",
    .version = "1.0",
    .summary = "the same width for every slot",
    .plan = plan,
};

const struct dimfit_strategy *dimfit_strategy(void) {
    return &strategy;
}
