#include "server/figures.h"
#include "server/table_motion.h"

/* On their way, and one more while their old memory is. */
static uint64_t moving_rows(const struct table_slot *slot) {
    if (slot->motion == NULL)
        return 0;
    return slot->rows > slot->motion->next ? slot->rows - slot->motion->next : 1;
}

static uint64_t saved_bytes(const struct former *former) {
    if (former == NULL || !former->kept)
        return 0;
    return former->rows * (uint64_t)(former->values.stride + former->sides.stride) * sizeof(float);
}

struct table_figures table_slot_figures(const struct table_slot *slot) {
    const uint64_t rows = slot_stored(slot), cells = counters_cells(&slot->spec.retention);
    return (struct table_figures){
        .rows = rows,
        .value_bytes = rows * slot->values.stride * sizeof(float),
        .state_bytes = rows * (slot->sides.stride - cells) * sizeof(float),
        .counter_bytes = rows * cells * sizeof(float),
        .index_bytes = index_bytes(&slot->index),
        .slab_bytes = slab_bytes(&slot->values) + slab_bytes(&slot->sides) +
                      slab_bytes(&slot->sink_values) + slab_bytes(&slot->sink_sides) +
                      (slot->motion != NULL ? motion_bytes(slot->motion) : 0) +
                      (slot->former != NULL ? former_bytes(slot->former) : 0),
        .moving_rows = moving_rows(slot),
        .saved_bytes = saved_bytes(slot->former),
        .keys_pending = slot->keys_pending,
        .pending = slot->n_pending,
        .evicted = slot->evicted,
        .expired_rows = slot->expired_rows,
        .expired_pending = slot->expired_pending,
    };
}

struct table_figures table_figures(const struct table *table) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    struct table_figures sum = {0};
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct table_figures one = table_slot_figures(table->slots[i]);
        table_figures_add(&sum, &one);
    }
    return sum;
}
