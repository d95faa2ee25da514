/*
 * The walk over a slot in motion: the same blocks, with rows where they are now.
 *
 * Each block is filled in one step, the last of those that its keys take otherwise.
 */
#include "server/table_motion.h"
#include "server/walk.h"

static void find_rows(struct walk *walk, struct walk_block *block, uint32_t *rows) {
    const struct index *const index = &walk->slot->index;
    for (size_t i = 0; i < block->n; i++) {
        block->hashes[i] = index_hash(index, walk_key(walk, block->first + i));
        (void)index_fetch(index, block->hashes[i]);
    }
    for (size_t i = 0; i < block->n; i++) {
        const uint64_t key = walk_key(walk, block->first + i);
        rows[i] = index_find(index, key, block->hashes[i]);
        if (rows[i] >= INDEX_PENDING && walk->grow != NULL)
            rows[i] = row_admit(walk->grow, key, block->hashes[i], rows[i], walk->counts,
                                block->first + i);
    }
}

static void fetch_rows(const struct walk *walk, const struct walk_block *block,
                       const uint32_t *rows) {
    const struct table_slot *const slot = walk->slot;
    const struct motion *const m = slot->motion;
    for (size_t i = 0; i < block->n; i++) {
        const uint32_t row = rows[i];
        if (row >= INDEX_PENDING)
            continue;
        if (motion_is_home(m, row))
            slab_prefetch(&slot->values, slot_values(slot, row));
        else if (motion_is_ahead(m, row))
            (void)index_fetch(&m->places, index_hash(&m->places, row));
        else
            slab_prefetch(&m->from->values, slab_row(&m->from->values, row));
        if (walk->grow != NULL && !m->recast.sides_move)
            slab_prefetch(&slot->sides, slot_side(slot, row));
    }
}

/* Rows that are read through the change, all of a block at once. */
struct behind {
    size_t n;
    uint8_t at[WALK_BLOCK]; /* places in the block */
    uint32_t rows[WALK_BLOCK];
    uint64_t keys[WALK_BLOCK];
};

static void note_behind(struct walk *walk, struct walk_block *block, size_t i, uint32_t row,
                        struct behind *behind) {
    behind->at[behind->n] = (uint8_t)i;
    behind->rows[behind->n] = row;
    behind->keys[behind->n++] = walk_key(walk, block->first + i);
    if (walk->grow != NULL)
        block->values[i] = motion_place_ahead(walk->grow, row);
}

static void read_behind(struct walk *walk, struct walk_block *block, const struct behind *behind) {
    const struct table_slot *const slot = walk->slot;
    const size_t width = slot->motion->recast.after;
    motion_read(slot, behind->rows, behind->keys, behind->n);
    for (size_t j = 0; j < behind->n; j++) {
        float *const read = slot->table->read + j * width,
                     **const to = &block->values[behind->at[j]];
        if (walk->grow != NULL)
            memcpy(*to, read, width * sizeof *read);
        else
            *to = read;
    }
}

static void place_rows(struct walk *walk, struct walk_block *block, const uint32_t *rows) {
    const struct table_slot *const slot = walk->slot;
    const struct motion *const m = slot->motion;
    struct behind behind = {.n = 0};
    for (size_t i = 0; i < block->n; i++) {
        const uint32_t row = rows[i];
        block->values[i] = NULL;
        if (row >= INDEX_PENDING) {
            if (walk->grow != NULL)
                walk_use_sink(walk, block, i);
            continue;
        }
        if (motion_is_home(m, row) || motion_is_ahead(m, row))
            block->values[i] = motion_values(slot, row, 0, NULL);
        else
            note_behind(walk, block, i, row, &behind);
        if (walk->grow != NULL)
            block->sides[i] = motion_side(slot, row);
    }
    if (behind.n > 0)
        read_behind(walk, block, &behind);
}

static void step(struct walk *walk) {
    const size_t at = walk->step++;
    if (at + 1 < WALK_STAGES)
        return;
    struct walk_block *const block = &walk->blocks[at % WALK_STAGES];
    uint32_t rows[WALK_BLOCK];
    const size_t left = walk->n - walk->fetched;
    block->first = walk->fetched;
    block->n = left < WALK_BLOCK ? left : WALK_BLOCK;
    walk->fetched += block->n;
    find_rows(walk, block, rows);
    fetch_rows(walk, block, rows);
    place_rows(walk, block, rows);
}

const struct walk_kernels walk_motion = {"motion", step};
