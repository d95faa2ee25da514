/*
 * The stages of a walk, compiled once an instruction set with its flags: VARIANT names what comes
 * out.
 *
 * A stage is a loop without branches that depend on the keys: a mispredicted one costs as much as a
 * row.
 */
#include "server/variants.h"
#include "server/walk.h"

#define INLINE static inline __attribute__((always_inline))

/* What a loop needs is copied to its locals: for all the compiler knows, what it writes may be what
 * it reads. */
INLINE void fetch_homes(struct walk *walk, struct walk_block *block) {
    const struct index index = walk->slot->index;
    const size_t first = walk->fetched, left = walk->n - first,
                 n = left < WALK_BLOCK ? left : WALK_BLOCK;
    const uint8_t *const keys = walk->keys + first * sizeof(uint64_t);
    for (size_t i = 0; i < n; i++) {
        const uint64_t hash = index_hash(&index, load_u64(keys + i * sizeof(uint64_t)));
        block->hashes[i] = hash;
        block->buckets[i] = index_fetch(&index, hash);
    }
    block->first = first;
    block->n = n;
    block->version = index.version;
    walk->fetched += n;
}

/* Where the rows of one tier stand, or those of the tier that a value of the index names. */
struct places {
    const struct table_slot *slot;
    struct slab values, sides; /* of the first tier */
};

INLINE void take_row(const struct places *places, struct walk_block *block, size_t i,
                     uint32_t value, bool with_sides, bool tiered) {
    const struct slab *values = &places->values, *sides = &places->sides;
    uint32_t row = value;
    if (tiered) {
        const uint32_t number = value >> TIERED_ROW_BITS;
        const struct table_tier *const tier = &places->slot->tiers[number];
        block->tiers[i] = (uint8_t)number;
        row = value & ((1u << TIERED_ROW_BITS) - 1);
        values = &tier->values;
        sides = &tier->sides;
    }
    block->values[i] = slab_row(values, row);
    slab_prefetch(values, block->values[i]);
    if (with_sides) {
        block->sides[i] = slab_row(sides, row);
        slab_prefetch(sides, block->sides[i]);
    }
}

INLINE void find_rows(const struct walk *walk, struct walk_block *block, bool tiered) {
    const struct index *const index = &walk->slot->index;
    const struct places places = {walk->slot, walk->slot->tiers[0].values,
                                  walk->slot->tiers[0].sides};
    const uint8_t *const keys = walk->keys + block->first * sizeof(uint64_t);
    const bool with_sides = walk->grow != NULL;
    const size_t n = block->n;
    size_t n_far = 0;
    for (size_t i = 0; block->version != index->version && i < n; i++)
        block->buckets[i] = index_fetch(index, block->hashes[i]);
    block->version = index->version;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = load_u64(keys + i * sizeof(uint64_t));
        const uint32_t found = index_find_in(block->buckets[i], key);
        const uint32_t is_far = found / INDEX_PENDING, value = found & (is_far - 1);
        block->far[n_far] = (uint8_t)i;
        n_far += is_far;
        take_row(&places, block, i, value, with_sides, tiered);
    }
    block->n_far = n_far;
    for (size_t j = 0; j < n_far; j++) {
        const size_t i = block->far[j];
        block->values[i] = NULL;
        block->buckets[i] = index_fetch_next(index, block->hashes[i]);
    }
}

static void fetch_row(const struct walk *walk, struct walk_block *block, size_t i, uint32_t value) {
    const struct table_tier *const tier = slot_tier(walk->slot, value);
    const uint32_t row = slot_row(walk->slot, value);
    block->tiers[i] = (uint8_t)tier->number;
    block->values[i] = tier_values(tier, row);
    slab_prefetch(&tier->values, block->values[i]);
    if (walk->grow == NULL)
        return;
    block->sides[i] = tier_side(tier, row);
    slab_prefetch(&tier->sides, block->sides[i]);
}

static void find_far(struct walk *walk, struct walk_block *block) {
    for (size_t j = 0; j < block->n_far; j++) {
        const size_t i = block->far[j];
        const uint64_t key = walk_key(walk, block->first + i);
        uint32_t value = INDEX_NONE;
        if (block->version == walk->slot->index.version)
            value = index_find_in(block->buckets[i], key);
        if (value >= INDEX_PENDING)
            value = index_find(&walk->slot->index, key, block->hashes[i]);
        if (value >= INDEX_PENDING && walk->grow != NULL)
            value = row_admit(walk->grow, key, block->hashes[i], value, walk->counts,
                              block->first + i);
        if (value < INDEX_PENDING)
            fetch_row(walk, block, i, value);
        else if (walk->grow != NULL)
            walk_use_sink(walk, block, i);
    }
}

INLINE void step_stages(struct walk *walk, bool tiered) {
    const size_t at = walk->steps++;
    find_rows(walk, &walk->blocks[(at + 2) % WALK_STAGES], tiered);
    fetch_homes(walk, &walk->blocks[(at + 3) % WALK_STAGES]);
    find_far(walk, &walk->blocks[(at + 1) % WALK_STAGES]);
}

static void step(struct walk *walk) {
    step_stages(walk, false);
}

static void step_tiers(struct walk *walk) {
    step_stages(walk, true);
}

const struct walk_kernels VARIANT_NAME(walk, VARIANT) = {VARIANT_TEXT(VARIANT), step, step_tiers};
