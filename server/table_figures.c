#include "server/figures.h"
#include "server/table_motion.h"

/* On their way, and one more while their old memory is. */
static uint64_t moving_rows(const struct table_tier *tier) {
    if (tier->motion == NULL)
        return 0;
    return tier->rows > tier->motion->next ? tier->rows - tier->motion->next : 1;
}

static uint64_t saved_bytes(const struct former *former) {
    if (former == NULL || !former->kept)
        return 0;
    return former->rows * (uint64_t)(former->values.stride + former->sides.stride) * sizeof(float);
}

static void add_tier(struct table_figures *sum, const struct table_tier *tier) {
    const uint64_t rows = tier_stored(tier), cells = counters_cells(&tier->slot->spec.retention);
    sum->rows += rows;
    sum->value_bytes += rows * tier->values.stride * sizeof(float);
    sum->state_bytes += rows * (tier->sides.stride - cells) * sizeof(float);
    sum->counter_bytes += rows * cells * sizeof(float);
    sum->slab_bytes += slab_bytes(&tier->values) + slab_bytes(&tier->sides) +
                       (tier->motion != NULL ? motion_bytes(tier->motion) : 0) +
                       (tier->former != NULL ? former_bytes(tier->former) : 0);
    sum->moving_rows += moving_rows(tier);
    sum->saved_bytes += saved_bytes(tier->former);
}

struct table_figures table_slot_figures(const struct table_slot *slot) {
    struct table_figures sum = {
        .index_bytes = index_bytes(&slot->index),
        .slab_bytes = slab_bytes(&slot->sink_values) + slab_bytes(&slot->sink_sides),
        .keys_pending = slot->keys_pending,
        .pending = slot->n_pending,
        .evicted = slot->evicted,
        .expired_rows = slot->expired_rows,
        .expired_pending = slot->expired_pending,
        .promoted = slot->promoted,
        .demoted = slot->demoted,
    };
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        add_tier(&sum, &slot->tiers[t]);
    return sum;
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
