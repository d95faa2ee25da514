#include "server/walk.h"

#include "server/init.h"
#include "server/variants.h"

#define DECLARE(name) extern const struct walk_kernels walk_##name;
#define ENTRY(name)   &walk_##name,
VARIANTS(DECLARE)
static const struct walk_kernels *const variants[] = {VARIANTS(ENTRY)};

const struct walk_kernels *walk_kernels(void) {
    return variants[variants_run() - 1];
}

const struct walk_kernels *const *walk_variants(size_t *n) {
    *n = variants_run();
    return variants;
}

void walk_init(struct walk *walk, const struct walk_kernels *kernels, const struct table_slot *slot,
               struct table_slot *grow, const struct table_counts *counts, const uint8_t *keys,
               size_t n) {
    if (slot->n_moving > 0)
        kernels = &walk_motion;
    walk->step = slot->spec.n_tiers > 1 ? kernels->step_tiers : kernels->step;
    walk->slot = slot;
    walk->grow = grow;
    walk->counts = counts;
    walk->keys = keys;
    walk->n = n;
    walk->fetched = walk->steps = 0;
    for (size_t i = 0; i < WALK_STAGES; i++) {
        struct walk_block *const block = &walk->blocks[i];
        block->version = block->first = block->n = block->n_far = 0;
    }
    for (size_t i = 0; i < WALK_STAGES - 1; i++) /* until the first block has passed all but one */
        walk->step(walk);
}

const struct walk_block *walk_next(struct walk *walk) {
    walk->step(walk);
    const struct walk_block *const block = &walk->blocks[(walk->steps - 1) % WALK_STAGES];
    return block->n > 0 ? block : NULL;
}

void walk_use_sink(const struct walk *walk, struct walk_block *block, size_t i) {
    const struct table_slot *const slot = walk->grow;
    const uint32_t row = (uint32_t)((block->first + i) % WALK_SINKS);
    block->values[i] = slab_row(&slot->sink_values, row);
    block->sides[i] = slab_row(&slot->sink_sides, row);
    block->tiers[i] = 0;
    init_new_row(&slot->spec, slot->seed, walk_key(walk, block->first + i), block->values[i]);
    memset(block->sides[i], 0, slot->sink_sides.stride * sizeof(float));
}
