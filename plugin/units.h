/*
 * One priority a unit, in one allocation: what strategies hand to the host's select().
 */
#ifndef PLUGIN_UNITS_H
#define PLUGIN_UNITS_H

#include "plugin/dimfit_strategy.h"

#include <math.h>
#include <stdlib.h>

struct units {
    double **priority; /* [n_slots][width] */
    double *values;
};

/* False out of memory; units_fini() either way. */
static inline int units_init(struct units *units, const struct dimfit_strategy_input *input) {
    size_t n = 0;
    for (size_t i = 0; i < input->n_slots; i++)
        n += input->slots[i].width;
    units->priority = calloc(input->n_slots + 1, sizeof *units->priority);
    units->values = calloc(n + 1, sizeof *units->values);
    if (units->priority == NULL || units->values == NULL)
        return 0;
    double *at = units->values;
    for (size_t i = 0; i < input->n_slots; at += input->slots[i++].width)
        units->priority[i] = at;
    return 1;
}

static inline int units_select(const struct units *units, const struct dimfit_strategy_host *host,
                               uint8_t *const *keep) {
    return host->select(host->self, (const double *const *)units->priority, keep);
}

/* The floor of entry i: of a tier no more than its rows have. */
static inline uint32_t units_floor(const struct dimfit_strategy_input *input, size_t i) {
    return input->min_dim < input->tiers[i].have ? input->min_dim : input->tiers[i].have;
}

/* New units are taken for floors only, by who knows nothing of them. */
static inline void units_refuse_room(const struct units *units,
                                     const struct dimfit_strategy_input *input) {
    for (size_t i = 0; i < input->n_slots; i++) {
        const struct dimfit_strategy_slot *const slot = &input->slots[i];
        for (uint32_t k = slot->width - slot->room; k < slot->width; k++)
            units->priority[i][k] = -INFINITY;
    }
}

static inline void units_fini(struct units *units) {
    free(units->priority);
    free(units->values);
}

/* Select by numbers that the host has of every unit. */
static inline int units_rank(const struct dimfit_strategy_host *host,
                             const struct dimfit_strategy_input *input,
                             const double *(*of)(const struct dimfit_strategy_slot *slot),
                             uint8_t *const *keep) {
    const double **const priority = malloc((input->n_slots + 1) * sizeof *priority);
    if (priority == NULL)
        return host->fail(host->self, "out of memory");
    for (size_t i = 0; i < input->n_slots; i++)
        priority[i] = of(&input->slots[i]);
    const int result = host->select(host->self, priority, keep);
    free(priority);
    return result;
}

#endif
