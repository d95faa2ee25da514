/*
 * A slot's units in the order in which a narrower width would keep them: as they come in a fitted
 * basis or where it has tiers, by their norm otherwise.
 */
#ifndef PLUGIN_ORDER_H
#define PLUGIN_ORDER_H

#include "plugin/dimfit_strategy.h"

#include <stdlib.h>
#include <string.h>

struct order {
    uint32_t **unit; /* [n_slots][have]: unit[i][0] is kept to the last */
    uint32_t *values;
};

static inline int order_compare(const void *a, const void *b, void *arg) {
    const double *const norm = arg;
    const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (norm[i] != norm[j])
        return norm[i] > norm[j] ? -1 : 1;
    return i < j ? -1 : i > j;
}

/* The units that a slot has: trials tell nothing of those that would be new. */
static inline uint32_t order_have(const struct dimfit_strategy_slot *slot) {
    return slot->width - slot->room;
}

/* False out of memory; order_fini() either way. */
static inline int order_init(struct order *order, const struct dimfit_strategy_input *input) {
    size_t n = 0;
    for (size_t i = 0; i < input->n_slots; i++)
        n += input->slots[i].width;
    order->unit = calloc(input->n_slots + 1, sizeof *order->unit);
    order->values = calloc(n + 1, sizeof *order->values);
    if (order->unit == NULL || order->values == NULL)
        return 0;
    uint32_t *at = order->values;
    for (size_t i = 0; i < input->n_slots; at += input->slots[i++].width) {
        order->unit[i] = at;
        for (uint32_t k = 0; k < order_have(&input->slots[i]); k++)
            at[k] = k;
        if (!input->ordered && input->tiers[i].n_tiers == 1)
            qsort_r(at, order_have(&input->slots[i]), sizeof *at, order_compare,
                    (void *)input->slots[i].norm);
    }
    return 1;
}

static inline void order_fini(struct order *order) {
    free(order->unit);
    free(order->values);
}

/* keep the first `width` units of slot i, and no others. */
static inline void order_keep(const struct order *order, size_t i, uint32_t slot_width,
                              uint32_t width, uint8_t *keep) {
    memset(keep, 0, slot_width);
    for (uint32_t k = 0; k < width; k++)
        keep[order->unit[i][k]] = 1;
}

#endif
