#include "server/table_slot.h"

void table_limit(struct table *table, uint64_t bytes) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    table->limit = bytes;
}

uint64_t table_bytes(const struct table *table) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    return table->bytes;
}

/* A slot in motion counts as what it will have when its rows have moved, so that no push is refused
 * for what a change takes meanwhile. */
static uint64_t bytes_of(const struct table_tier *tier, const struct slab *slab) {
    return tier->motion == NULL ? slab_bytes(slab) : slab_bytes_for(slab->stride, tier->rows);
}

static uint64_t growth_of(const struct table_tier *tier, const struct slab *slab, uint64_t rows) {
    if (tier->motion == NULL)
        return slab_growth(slab, rows);
    return slab_bytes_for(slab->stride, rows) - slab_bytes_for(slab->stride, tier->rows);
}

void slot_count_bytes(struct table_slot *slot) {
    uint64_t bytes = index_bytes(&slot->index);
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++) {
        const struct table_tier *const tier = &slot->tiers[t];
        bytes += bytes_of(tier, &tier->values) + bytes_of(tier, &tier->sides);
    }
    slot->table->bytes += bytes - slot->counted;
    slot->counted = bytes;
}

bool tier_over_limit(struct table_tier *tier, size_t n) {
    const struct table *const table = tier->slot->table;
    if (table->limit == 0 || n <= tier->n_free)
        return false;
    slot_count_bytes(tier->slot);
    const uint64_t rows = tier->rows + (uint64_t)(n - tier->n_free);
    return table->bytes + growth_of(tier, &tier->values, rows) +
               growth_of(tier, &tier->sides, rows) >
           table->limit;
}
