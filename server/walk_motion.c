/*
 * The walk over a slot in motion: the same blocks, with rows where they are now.
 *
 * Each block is filled in one step, the last of those that its keys take otherwise.
 */
#include "server/table_motion.h"
#include "server/walk.h"

static void find_rows(struct walk *walk, struct walk_block *block, uint32_t *found) {
    const struct index *const index = &walk->slot->index;
    for (size_t i = 0; i < block->n; i++) {
        block->hashes[i] = index_hash(index, walk_key(walk, block->first + i));
        (void)index_fetch(index, block->hashes[i]);
    }
    for (size_t i = 0; i < block->n; i++) {
        const uint64_t key = walk_key(walk, block->first + i);
        found[i] = index_find(index, key, block->hashes[i]);
        if (found[i] >= INDEX_PENDING && walk->grow != NULL)
            found[i] = row_admit(walk->grow, key, block->hashes[i], found[i], walk->counts,
                                 block->first + i);
    }
}

static void fetch_row(const struct table_tier *tier, uint32_t row, bool with_side) {
    const struct motion *const m = tier->motion;
    if (m == NULL || motion_is_home(m, row))
        slab_prefetch(&tier->values, tier_values(tier, row));
    else if (motion_is_ahead(m, row))
        (void)index_fetch(&m->places, index_hash(&m->places, row));
    else
        slab_prefetch(&m->from->values, slab_row(&m->from->values, row));
    if (with_side && (m == NULL || !m->recast.sides_move))
        slab_prefetch(&tier->sides, tier_side(tier, row));
}

static void fetch_rows(const struct walk *walk, const struct walk_block *block,
                       const uint32_t *found) {
    const struct table_slot *const slot = walk->slot;
    for (size_t i = 0; i < block->n; i++) {
        if (found[i] < INDEX_PENDING)
            fetch_row(slot_tier(slot, found[i]), slot_row(slot, found[i]), walk->grow != NULL);
    }
}

/* Rows of a tier that are read through the change, all of a block at once. */
struct behind {
    size_t n;
    uint8_t at[WALK_BLOCK]; /* places in the block */
    uint32_t rows[WALK_BLOCK];
    uint64_t keys[WALK_BLOCK];
};

static void note_behind(struct walk *walk, struct walk_block *block, size_t i,
                        struct table_tier *tier, uint32_t row, struct behind *behind) {
    behind->at[behind->n] = (uint8_t)i;
    behind->rows[behind->n] = row;
    behind->keys[behind->n++] = walk_key(walk, block->first + i);
    if (walk->grow != NULL)
        block->values[i] = motion_place_ahead(tier, row);
}

/* Behind them, where the next tier's go. */
static float *read_behind(struct walk *walk, struct walk_block *block,
                          const struct table_tier *tier, const struct behind *behind, float *read) {
    const size_t width = tier->motion->recast.after;
    motion_read(tier, behind->rows, behind->keys, behind->n, read);
    for (size_t j = 0; j < behind->n; j++, read += width) {
        float **const to = &block->values[behind->at[j]];
        if (walk->grow != NULL)
            memcpy(*to, read, width * sizeof *read);
        else
            *to = read;
    }
    return read;
}

static void place_row(struct walk *walk, struct walk_block *block, size_t i, uint32_t value,
                      struct behind *behind) {
    struct table_tier *const tier = slot_tier(walk->slot, value);
    const uint32_t row = slot_row(walk->slot, value);
    const struct motion *const m = tier->motion;
    block->tiers[i] = (uint8_t)tier->number;
    if (m == NULL)
        block->values[i] = tier_values(tier, row);
    else if (motion_is_home(m, row) || motion_is_ahead(m, row))
        block->values[i] = motion_values(tier, row, 0, NULL);
    else
        note_behind(walk, block, i, tier, row, &behind[tier->number]);
    if (walk->grow != NULL)
        block->sides[i] = row_side(tier, row);
}

static void place_rows(struct walk *walk, struct walk_block *block, const uint32_t *found) {
    const struct table_slot *const slot = walk->slot;
    struct behind behind[LAYOUT_TIERS_MAX];
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++)
        behind[t].n = 0;
    for (size_t i = 0; i < block->n; i++) {
        block->values[i] = NULL;
        block->tiers[i] = 0;
        if (found[i] < INDEX_PENDING)
            place_row(walk, block, i, found[i], behind);
        else if (walk->grow != NULL)
            walk_use_sink(walk, block, i);
    }
    float *read = slot->table->read;
    for (uint32_t t = 0; t < slot->spec.n_tiers; t++) {
        if (behind[t].n > 0)
            read = read_behind(walk, block, &slot->tiers[t], &behind[t], read);
    }
}

static void step(struct walk *walk) {
    const size_t at = walk->steps++;
    if (at + 1 < WALK_STAGES)
        return;
    struct walk_block *const block = &walk->blocks[at % WALK_STAGES];
    uint32_t found[WALK_BLOCK];
    const size_t left = walk->n - walk->fetched;
    block->first = walk->fetched;
    block->n = left < WALK_BLOCK ? left : WALK_BLOCK;
    walk->fetched += block->n;
    find_rows(walk, block, found);
    fetch_rows(walk, block, found);
    place_rows(walk, block, found);
}

const struct walk_kernels walk_motion = {"motion", step, step};
