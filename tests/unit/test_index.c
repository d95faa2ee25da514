#include "server/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* The library's aligned allocations come through here, so that a test may have them fail. */
static bool refuse_memory;

void *aligned_alloc(size_t alignment, size_t size) {
    void *memory;
    if (refuse_memory || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    return memory;
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint32_t find(const struct index *index, uint64_t key) {
    const uint64_t hash = index_hash(index, key);
    const uint32_t row = index_find(index, key, hash);
    const uint32_t home = index_find_in(index_fetch(index, hash), key);
    assert_true(home == INDEX_NONE || home == row);
    return row;
}

static void put(struct index *index, uint64_t key, uint32_t row) {
    assert_int_equal(index_reserve(index, 1), DIMFIT_OK);
    index_put(index, key, index_hash(index, key), row);
}

static void an_empty_index_finds_nothing_and_holds_no_memory(void **state) {
    struct index index;
    index_init(&index, 3);
    assert_int_equal(find(&index, 0), INDEX_NONE);
    assert_int_equal(index_bytes(&index), 0);
    index_fini(&index);
}

static void zero_and_all_ones_are_keys_like_others(void **state) {
    struct index index;
    index_init(&index, 3);
    put(&index, 17, 0);
    assert_int_equal(find(&index, 0), INDEX_NONE);
    assert_int_equal(find(&index, UINT64_MAX), INDEX_NONE);
    put(&index, 0, 1);
    put(&index, UINT64_MAX, 2);
    for (uint32_t i = 3; i < 5000; i++)
        put(&index, mix(i), i);
    assert_int_equal(find(&index, 17), 0);
    assert_int_equal(find(&index, 0), 1);
    assert_int_equal(find(&index, UINT64_MAX), 2);
    index_fini(&index);
    assert_int_equal(find(&index, 0), INDEX_NONE);
}

/* Key i stands at row i + 1 of the shadow once it was put, 0 before. */
static void random_keys_agree_with_a_shadow_map(void **state) {
    enum { KEYS = 300000 };
    uint32_t *const shadow = calloc(KEYS, sizeof *shadow);
    struct index index;
    uint32_t rows = 0;
    index_init(&index, 9);
    for (uint64_t step = 0; step < 3 * KEYS; step++) {
        const uint64_t i = mix(step) % KEYS;
        const uint32_t row = find(&index, mix(i));
        assert_int_equal(row, shadow[i] == 0 ? INDEX_NONE : shadow[i] - 1);
        if (row == INDEX_NONE) {
            put(&index, mix(i), rows);
            shadow[i] = ++rows;
        }
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        assert_int_equal(find(&index, mix(i)), shadow[i] == 0 ? INDEX_NONE : shadow[i] - 1);
        assert_int_equal(find(&index, mix(i + KEYS)), INDEX_NONE);
    }
    index_fini(&index);
    free(shadow);
}

/* Keys of one shard: their hashes agree in the top bits. */
static void keys_of_one_virtual_bucket_spread_over_the_directory(void **state) {
    enum { KEYS = 20000 };
    struct index index;
    index_init(&index, 1);
    uint32_t rows = 0;
    for (uint64_t key = 0; rows < KEYS; key++) {
        if (key_bucket(index_hash(&index, key)) == 5)
            put(&index, key, rows++);
    }
    assert_true(index_bytes(&index) < 40 * KEYS);
    uint32_t row = 0;
    for (uint64_t key = 0; row < KEYS; key++) {
        if (key_bucket(index_hash(&index, key)) == 5)
            assert_int_equal(find(&index, key), row++);
    }
    index_fini(&index);
}

static void a_large_index_takes_at_most_24_bytes_a_key_and_a_chunk(void **state) {
    struct index index;
    index_init(&index, 2);
    for (uint32_t i = 0; i < 700000; i++) {
        put(&index, i, i);
        if (i >= 250000 && i % 1000 == 0)
            assert_true(index_bytes(&index) <= 24 * (uint64_t)i + (2 << 20));
    }
    index_fini(&index);
}

/* Keys that want the same directory entry as far as 11 bits go: a split hardly relieves their
 * segment. */
static void colliding_keys_stay_findable(void **state) {
    enum { KEYS = 6000, SAME_BITS = 0x7ff };
    struct index index;
    index_init(&index, 4);
    uint32_t rows = 0;
    for (uint64_t key = 0; rows < KEYS; key++) {
        if ((index_hash(&index, key) >> 32 & SAME_BITS) == 0)
            put(&index, key, rows++);
    }
    uint32_t row = 0;
    for (uint64_t key = 0; row < KEYS; key++) {
        if ((index_hash(&index, key) >> 32 & SAME_BITS) == 0)
            assert_int_equal(find(&index, key), row++);
    }
    index_fini(&index);
}

static void reserved_keys_are_kept_when_no_memory_is_left_to_grow(void **state) {
    enum { KEYS = 10000, MORE = 20000 };
    struct index index;
    index_init(&index, 8);
    for (uint32_t i = 0; i < KEYS; i++)
        put(&index, mix(i), i);
    assert_int_equal(index_reserve(&index, MORE), DIMFIT_OK);
    refuse_memory = true;
    for (uint32_t i = KEYS; i < KEYS + MORE; i++) {
        assert_int_equal(find(&index, mix(i)), INDEX_NONE);
        index_put(&index, mix(i), index_hash(&index, mix(i)), i);
    }
    assert_int_equal(index_reserve(&index, 1), DIMFIT_ERR_NOMEM);
    for (uint32_t i = 0; i < KEYS + MORE; i += 7)
        assert_int_equal(find(&index, mix(i)), i);
    refuse_memory = false;
    assert_int_equal(index_reserve(&index, 1), DIMFIT_OK);
    assert_int_equal(index.n_spare, 0);
    for (uint32_t i = 0; i < KEYS + MORE; i++)
        assert_int_equal(find(&index, mix(i)), i);
    index_fini(&index);
}

static void a_value_can_be_changed_in_place(void **state) {
    struct index index;
    index_init(&index, 8);
    assert_null(index_value(&index, 1, index_hash(&index, 1)));
    for (uint32_t i = 0; i < 20000; i++)
        put(&index, mix(i), INDEX_PENDING | i);
    assert_null(index_value(&index, 1, index_hash(&index, 1)));
    for (uint32_t i = 0; i < 20000; i += 3)
        *index_value(&index, mix(i), index_hash(&index, mix(i))) = i;
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(find(&index, mix(i)), i % 3 == 0 ? i : INDEX_PENDING | i);
    index_fini(&index);
}

/* Key mix(i) has row i. */
struct scene {
    struct index index;
    bool *there, *before, *seen; /* now, when the walk began, by the walk */
    uint64_t random;
};

enum { SCENE_KEYS = 60000 };

static uint64_t draw(struct scene *s) {
    return mix(s->random += 0x9e3779b97f4a7c15);
}

static void put_some(struct scene *s, size_t n) {
    for (size_t k = 0; k < n; k++) {
        const uint32_t i = (uint32_t)(draw(s) % SCENE_KEYS);
        assert_int_equal(find(&s->index, mix(i)), s->there[i] ? i : INDEX_NONE);
        if (!s->there[i])
            put(&s->index, mix(i), i);
        s->there[i] = true;
    }
}

/* Every key has this chance in 256 to go. */
static void walk_some(struct scene *s, struct index_bucket *bucket, const struct index_walk *walk,
                      unsigned chance) {
    for (unsigned k = bucket->count; k-- > 0;) {
        const uint32_t i = bucket->rows[k];
        assert_true(s->there[i] && bucket->keys[k] == mix(i));
        s->seen[i] = true;
        if (draw(s) % 256 >= chance)
            continue;
        index_walk_remove(&s->index, walk, bucket, k);
        s->there[i] = false;
    }
}

static void check(struct scene *s) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < SCENE_KEYS; i++) {
        assert_int_equal(find(&s->index, mix(i)), s->there[i] ? i : INDEX_NONE);
        n += s->there[i];
    }
    assert_int_equal(s->index.n_keys, n);
}

static void walk_all(struct scene *s, unsigned chance, size_t puts) {
    struct index_walk walk = {0};
    memcpy(s->before, s->there, SCENE_KEYS * sizeof *s->before);
    memset(s->seen, 0, SCENE_KEYS * sizeof *s->seen);
    do {
        struct index_bucket *bucket;
        while ((bucket = index_walk_next(&s->index, &walk)) != NULL) {
            walk_some(s, bucket, &walk, chance);
            if (draw(s) % 32 == 0)
                put_some(s, puts);
        }
    } while (index_walk_leave(&s->index, &walk));
    for (uint32_t i = 0; i < SCENE_KEYS; i++)
        assert_true(s->seen[i] || !s->before[i]);
    uint32_t segment = 0;
    while (index_compact(&s->index, &segment)) {
        if (draw(s) % 8 == 0)
            put_some(s, puts);
    }
}

static void walks_that_remove_while_keys_come_agree_with_a_shadow_map(void **state) {
    static const unsigned chances[] = {0, 20, 128, 200, 250, 256, 64, 255};
    struct scene s = {.random = 5};
    s.there = calloc(SCENE_KEYS, sizeof *s.there);
    s.before = calloc(SCENE_KEYS, sizeof *s.before);
    s.seen = calloc(SCENE_KEYS, sizeof *s.seen);
    index_init(&s.index, 6);
    for (size_t round = 0; round < 3 * ARRAY_LEN(chances); round++) {
        put_some(&s, round % 3 == 0 ? 10 : 20000);
        walk_all(&s, chances[round % ARRAY_LEN(chances)], round % 2 == 0 ? 0 : 300);
        check(&s);
    }
    index_fini(&s.index);
    free(s.there);
    free(s.before);
    free(s.seen);
}

/* Remove all keys but those whose row is a multiple of `keep` (0: all). */
static void remove_all_but(struct index *index, uint32_t keep) {
    struct index_walk walk = {0};
    do {
        struct index_bucket *bucket;
        while ((bucket = index_walk_next(index, &walk)) != NULL) {
            for (unsigned k = bucket->count; k-- > 0;) {
                if (keep == 0 || bucket->rows[k] % keep != 0)
                    index_walk_remove(index, &walk, bucket, k);
            }
        }
    } while (index_walk_leave(index, &walk));
    uint32_t segment = 0;
    while (index_compact(index, &segment))
        continue;
}

static void an_index_that_lost_keys_gives_memory_back(void **state) {
    enum { KEYS = 700000 };
    struct index index;
    index_init(&index, 2);
    for (uint32_t i = 0; i < KEYS; i++)
        put(&index, mix(i), i);
    const uint64_t full = index_bytes(&index);
    remove_all_but(&index, 2);
    assert_true(index_bytes(&index) <= full / 2 + (3 << 20));
    remove_all_but(&index, 16);
    assert_true(index_bytes(&index) <= full / 6 + (3 << 20));
    for (uint32_t i = 0; i < KEYS; i++)
        assert_int_equal(find(&index, mix(i)), i % 16 == 0 ? i : INDEX_NONE);
    remove_all_but(&index, 0);
    assert_int_equal(index_bytes(&index), 0);
    put(&index, mix(3), 3);
    assert_int_equal(find(&index, mix(3)), 3);
    index_fini(&index);
}

static void a_segment_shrinks_without_memory_and_keeps_its_keys(void **state) {
    enum { KEYS = 30000 };
    struct index index;
    index_init(&index, 2);
    for (uint32_t i = 0; i < KEYS; i++)
        put(&index, mix(i), i);
    refuse_memory = true;
    remove_all_but(&index, 5);
    refuse_memory = false;
    for (uint32_t i = 0; i < KEYS; i++)
        assert_int_equal(find(&index, mix(i)), i % 5 == 0 ? i : INDEX_NONE);
    index_fini(&index);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_index_finds_nothing_and_holds_no_memory),
        cmocka_unit_test(zero_and_all_ones_are_keys_like_others),
        cmocka_unit_test(random_keys_agree_with_a_shadow_map),
        cmocka_unit_test(keys_of_one_virtual_bucket_spread_over_the_directory),
        cmocka_unit_test(a_large_index_takes_at_most_24_bytes_a_key_and_a_chunk),
        cmocka_unit_test(colliding_keys_stay_findable),
        cmocka_unit_test(reserved_keys_are_kept_when_no_memory_is_left_to_grow),
        cmocka_unit_test(a_value_can_be_changed_in_place),
        cmocka_unit_test(walks_that_remove_while_keys_come_agree_with_a_shadow_map),
        cmocka_unit_test(an_index_that_lost_keys_gives_memory_back),
        cmocka_unit_test(a_segment_shrinks_without_memory_and_keeps_its_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
