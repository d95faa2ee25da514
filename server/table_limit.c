#include "server/table_slot.h"

void table_limit(struct table *table, uint64_t bytes) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    table->limit = bytes;
}

uint64_t table_bytes(const struct table *table) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    return table->bytes;
}

void slot_count_bytes(struct table_slot *slot) {
    const uint64_t bytes = slab_bytes(&slot->values) + slab_bytes(&slot->sides) +
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
    return table->bytes + slab_growth(&slot->values, rows) + slab_growth(&slot->sides, rows) >
           table->limit;
}
