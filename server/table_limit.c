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
static uint64_t bytes_of(const struct table_slot *slot, const struct slab *slab) {
    return slot->motion == NULL ? slab_bytes(slab) : slab_bytes_for(slab->stride, slot->rows);
}

static uint64_t growth_of(const struct table_slot *slot, const struct slab *slab, uint64_t rows) {
    if (slot->motion == NULL)
        return slab_growth(slab, rows);
    return slab_bytes_for(slab->stride, rows) - slab_bytes_for(slab->stride, slot->rows);
}

void slot_count_bytes(struct table_slot *slot) {
    const uint64_t bytes = bytes_of(slot, &slot->values) + bytes_of(slot, &slot->sides) +
                           index_bytes(&slot->index);
    slot->table->bytes += bytes - slot->counted;
    slot->counted = bytes;
}

bool slot_over_limit(struct table_slot *slot, size_t n) {
    const struct table *const table = slot->table;
    if (table->limit == 0 || n <= slot->n_free)
        return false;
    slot_count_bytes(slot);
    const uint64_t rows = slot->rows + (uint64_t)(n - slot->n_free);
    return table->bytes + growth_of(slot, &slot->values, rows) +
               growth_of(slot, &slot->sides, rows) >
           table->limit;
}
