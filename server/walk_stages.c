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

INLINE void find_rows(const struct walk *walk, struct walk_block *block) {
    const struct index *const index = &walk->slot->index;
    const struct slab values = walk->slot->values, sides = walk->slot->sides;
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
        const uint32_t is_far = found / INDEX_PENDING, row = found & (is_far - 1);
        block->far[n_far] = (uint8_t)i;
        n_far += is_far;
        block->values[i] = slab_row(&values, row);
        slab_prefetch(&values, block->values[i]);
        if (with_sides) {
            block->sides[i] = slab_row(&sides, row);
            slab_prefetch(&sides, block->sides[i]);
        }
    }
    block->n_far = n_far;
    for (size_t j = 0; j < n_far; j++) {
        const size_t i = block->far[j];
        block->values[i] = NULL;
        block->buckets[i] = index_fetch_next(index, block->hashes[i]);
    }
}

static void fetch_row(const struct walk *walk, struct walk_block *block, size_t i, uint32_t row) {
    block->values[i] = slot_values(walk->slot, row);
    slab_prefetch(&walk->slot->values, block->values[i]);
    if (walk->grow == NULL)
        return;
    block->sides[i] = slot_side(walk->slot, row);
    slab_prefetch(&walk->slot->sides, block->sides[i]);
}

static void find_far(struct walk *walk, struct walk_block *block) {
    for (size_t j = 0; j < block->n_far; j++) {
        const size_t i = block->far[j];
        const uint64_t key = walk_key(walk, block->first + i);
        uint32_t row = INDEX_NONE;
        if (block->version == walk->slot->index.version)
            row = index_find_in(block->buckets[i], key);
        if (row >= INDEX_PENDING)
            row = index_find(&walk->slot->index, key, block->hashes[i]);
        if (row >= INDEX_PENDING && walk->grow != NULL)
            row = row_admit(walk->grow, key, block->hashes[i], row, walk->counts, block->first + i);
        if (row < INDEX_PENDING)
            fetch_row(walk, block, i, row);
        else if (walk->grow != NULL)
            walk_use_sink(walk, block, i);
    }
}

static void step(struct walk *walk) {
    const size_t at = walk->step++;
    find_rows(walk, &walk->blocks[(at + 2) % WALK_STAGES]);
    fetch_homes(walk, &walk->blocks[(at + 3) % WALK_STAGES]);
    find_far(walk, &walk->blocks[(at + 1) % WALK_STAGES]);
}

const struct walk_kernels VARIANT_NAME(walk, VARIANT) = {VARIANT_TEXT(VARIANT), step};
