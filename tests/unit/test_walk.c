#include "server/walk.h"

#include "server/init.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    SLOT = 7,
    WIDTH = 3,
    STORED = 6000,
    ASKED = 9000, /* that many different keys: STORED ones and others */
    KEYS_MAX = 5000,
};

/* A table of one slot, and keys one byte past their alignment. */
struct scene {
    struct layout *layout;
    struct table *table;
    struct table_slot *slot;
    uint8_t keys[KEYS_MAX * sizeof(uint64_t) + 1];
};

static struct scene *setup(uint32_t admit) {
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    const struct layout_slot spec = {
        .id = SLOT,
        .dim = WIDTH,
        .width = WIDTH,
        .name = "slot",
        .optimizer = {OPTIMIZER_ADAGRAD, 0.05f, 1e-8f, 0, 0},
        .init = INIT_NORMAL,
        .init_scale = 0.1f,
        .retention = {.admit = admit},
    };
    assert_int_equal(layout_new(1, 99, &s->layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(s->layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(table_new(99, &s->table), DIMFIT_OK);
    assert_int_equal(table_add_slot(s->table, layout_find(s->layout, SLOT)), DIMFIT_OK);
    s->slot = table_find(s->table, SLOT);
    return s;
}

static void teardown(struct scene *s) {
    table_destroy(&s->table);
    layout_destroy(&s->layout);
    free(s);
}

/* Zero, which is what empty places hold, and UINT64_MAX are among them. Its own inverse. */
static uint64_t key_of(uint64_t i) {
    return i % 2 == 0 ? i : 0 - i;
}

static const uint8_t *keys_of(const struct scene *s) {
    return s->keys + 1;
}

/* n keys of the first `range`, in an order of their own for each seed; some come more than once. */
static void draw_keys(struct scene *s, size_t n, uint64_t range, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = key_of(key_hash((uint32_t)seed, i) % range);
        memcpy(s->keys + 1 + i * sizeof key, &key, sizeof key);
    }
}

static uint32_t entry_of(const struct table_slot *slot, uint64_t key) {
    return index_find(&slot->index, key, index_hash(&slot->index, key));
}

/* Show each of the first n keys `times` times. */
static void show(struct scene *s, uint64_t n, int times) {
    static const float grads[KEYS_MAX * WIDTH];
    for (uint64_t first = 0; first < n; first += KEYS_MAX) {
        const size_t some = n - first < KEYS_MAX ? n - first : KEYS_MAX;
        for (size_t i = 0; i < some; i++) {
            const uint64_t key = key_of(first + i);
            memcpy(s->keys + 1 + i * sizeof key, &key, sizeof key);
        }
        for (int t = 0; t < times; t++)
            table_push(s->slot, keys_of(s), (const uint8_t *)grads, NULL, some, true, NULL);
    }
}

static const size_t lengths[] = {0, 1, 63, 64, 65, 128, 191, 193, 1000, KEYS_MAX};

/* The first `stored` keys have rows, and a block has their places. */
static void assert_block_found(const struct walk *walk, const struct walk_block *block,
                               uint64_t stored) {
    const struct table_slot *const slot = walk->slot;
    for (size_t i = 0; i < block->n; i++) {
        const uint64_t key = walk_key(walk, block->first + i);
        if (key_of(key) < stored)
            assert_ptr_equal(block->values[i], tier_values(&slot->tiers[0], entry_of(slot, key)));
        else
            assert_null(block->values[i]);
    }
}

/* Returns how many keys were not found at home. */
static size_t look_up(struct scene *s, const struct walk_kernels *kernels, size_t n,
                      uint64_t stored) {
    struct walk walk;
    const struct walk_block *block;
    size_t next = 0, far = 0;
    walk_init(&walk, kernels, s->slot, NULL, NULL, keys_of(s), n);
    while ((block = walk_next(&walk)) != NULL) {
        assert_int_equal(block->first, next);
        assert_block_found(&walk, block, stored);
        far += block->n_far;
        next += block->n;
    }
    assert_int_equal(next, n);
    return far;
}

static void every_variant_finds_what_the_index_has(void **state) {
    size_t n_variants;
    const struct walk_kernels *const *const variants = walk_variants(&n_variants);
    struct scene *const s = setup(1);
    for (size_t v = 0; v < n_variants; v++) {
        draw_keys(s, KEYS_MAX, ASKED, 1);
        look_up(s, variants[v], KEYS_MAX, 0); /* in an empty table */
    }
    show(s, STORED, 1);
    for (size_t v = 0; v < n_variants; v++) {
        for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
            draw_keys(s, lengths[i], ASKED, i);
            look_up(s, variants[v], lengths[i], STORED);
        }
        draw_keys(s, KEYS_MAX, STORED, 9);
        assert_in_range(look_up(s, variants[v], KEYS_MAX, STORED), KEYS_MAX / 100, KEYS_MAX / 4);
    }
    teardown(s);
}

static void no_variant_takes_a_pending_feasign_for_a_row(void **state) {
    size_t n_variants;
    const struct walk_kernels *const *const variants = walk_variants(&n_variants);
    struct scene *const s = setup(3);
    show(s, STORED, 2);
    assert_int_equal(tier_stored(&s->slot->tiers[0]), 0);
    show(s, STORED / 2, 1);
    assert_int_equal(tier_stored(&s->slot->tiers[0]), STORED / 2);
    for (size_t v = 0; v < n_variants; v++) {
        draw_keys(s, KEYS_MAX, ASKED, v);
        assert_in_range(look_up(s, variants[v], KEYS_MAX, STORED / 2), KEYS_MAX / 2, KEYS_MAX);
    }
    teardown(s);
}

static void assert_sink(const struct walk *walk, const struct walk_block *block, size_t i) {
    const struct table_slot *const slot = walk->slot;
    float initial[WIDTH];
    init_row(&slot->spec, slot->seed, walk_key(walk, block->first + i), initial);
    assert_memory_equal(block->values[i], initial, sizeof initial);
    for (size_t k = 0; k < slot->sink_sides.stride; k++)
        assert_int_equal(block->sides[i][k], 0);
    for (size_t j = 0; j < i; j++)
        assert_ptr_not_equal(block->values[i], block->values[j]);
}

/* A block's rows are its keys', or else those of a sink. */
static void assert_block_stored(const struct walk *walk, const struct walk_block *block) {
    const struct table_slot *const slot = walk->slot;
    for (size_t i = 0; i < block->n; i++) {
        const uint64_t key = walk_key(walk, block->first + i);
        const uint32_t row = entry_of(slot, key);
        assert_int_not_equal(row, INDEX_NONE);
        if (row < INDEX_PENDING && block->values[i] == tier_values(&slot->tiers[0], row))
            assert_ptr_equal(block->sides[i], tier_side(&slot->tiers[0], row));
        else /* it may have got its row from a later look-up of the walk */
            assert_sink(walk, block, i);
    }
}

static void store(struct scene *s, const struct walk_kernels *kernels, size_t n) {
    static const struct table_counts plain = {0};
    struct walk walk;
    const struct walk_block *block;
    size_t next = 0;
    assert_int_equal(table_reserve(s->slot, n), DIMFIT_OK);
    walk_init(&walk, kernels, s->slot, s->slot, &plain, keys_of(s), n);
    while ((block = walk_next(&walk)) != NULL) {
        assert_int_equal(block->first, next);
        assert_block_stored(&walk, block);
        next += block->n;
    }
    assert_int_equal(next, n);
}

/* Walks from an empty table on, whose index grows meanwhile, and what is in it afterwards. */
static void grow(struct scene *s, const struct walk_kernels *kernels, uint32_t *entries) {
    uint64_t version = 0;
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        draw_keys(s, lengths[i], ASKED, i);
        version = s->slot->index.version;
        store(s, kernels, lengths[i]);
    }
    assert_true(s->slot->index.version > version + 2);
    for (size_t i = 0; i < ASKED; i++)
        entries[i] = entry_of(s->slot, key_of(i));
}

static void every_variant_stores_the_same_rows_while_the_index_grows(void **state) {
    static uint32_t want[ASKED], got[ASKED];
    size_t n_variants;
    const struct walk_kernels *const *const variants = walk_variants(&n_variants);
    for (uint32_t admit = 1; admit <= 2; admit++) {
        for (size_t v = 0; v < n_variants; v++) {
            struct scene *const s = setup(admit);
            grow(s, variants[v], v == 0 ? want : got);
            assert_true(tier_stored(&s->slot->tiers[0]) > 1000);
            assert_int_equal(tier_stored(&s->slot->tiers[0]) + s->slot->n_pending,
                             s->slot->index.n_keys);
            assert_int_equal(s->slot->n_pending > 0, admit > 1);
            if (v > 0)
                assert_memory_equal(want, got, sizeof want);
            teardown(s);
        }
    }
}

static void the_widest_variant_is_the_one_in_use(void **state) {
    size_t n;
    const struct walk_kernels *const *const variants = walk_variants(&n);
    assert_string_equal(variants[0]->name, "baseline");
    assert_ptr_equal(walk_kernels(), variants[n - 1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_finds_what_the_index_has),
        cmocka_unit_test(no_variant_takes_a_pending_feasign_for_a_row),
        cmocka_unit_test(every_variant_stores_the_same_rows_while_the_index_grows),
        cmocka_unit_test(the_widest_variant_is_the_one_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
