#include "worker/client_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct fixture {
    struct keys keys;
    struct cluster_map *map;
};

static int set_up(void **state) {
    struct fixture *const f = calloc(1, sizeof *f);
    if (f == NULL || cluster_map_new(3, &f->map) != DIMFIT_OK)
        return -1;
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *const f = *state;
    keys_fini(&f->keys);
    cluster_map_destroy(&f->map);
    free(f);
    return 0;
}

/* What keys_split() promises, checked the slow way. */
static void assert_split(const struct fixture *f, uint32_t slot, const uint64_t *given, size_t n) {
    const struct keys *const k = &f->keys;
    uint64_t total = 0, sums = 0;
    assert_int_equal(k->n_shards, f->map->n_shards);
    assert_int_equal(k->start[0], 0);
    assert_int_equal(k->start[k->n_shards], k->n);
    for (size_t s = 0; s < k->n_shards; s++) {
        for (size_t u = k->start[s]; u < k->start[s + 1]; u++) {
            const struct key_use *const use = &k->use[u];
            assert_int_equal(given[use->first], k->key[u]);
            assert_true(u == k->start[s] || use->first > use[-1].first);
            assert_int_equal(cluster_map_shard(f->map, key_hash(slot, k->key[u])), s);
            assert_true(use->count == 1 ? use->sum == KEY_NO_SUM : use->sum < k->n_sums);
            sums += use->count > 1;
            total += use->count;
        }
    }
    assert_int_equal(total, n);
    assert_int_equal(sums, k->n_sums);
    assert_int_equal(k->n_repeats, n - k->n);
    for (size_t i = 0; i < k->n_repeats; i++) {
        const struct key_repeat *const repeat = &k->repeats[i];
        assert_int_equal(given[repeat->at], k->key[repeat->of]);
        assert_true(repeat->at > k->use[repeat->of].first);
        assert_true(i == 0 || repeat->at > repeat[-1].at);
    }
}

static uint32_t count_of(const struct fixture *f, uint64_t key) {
    for (size_t u = 0; u < f->keys.n; u++) {
        if (f->keys.key[u] == key)
            return f->keys.use[u].count;
    }
    return 0;
}

static void repeats_are_counted_and_remembered(void **state) {
    struct fixture *const f = *state;
    static const uint64_t given[] = {7, 0, 7, UINT64_MAX, 0, 7};
    assert_int_equal(keys_split(&f->keys, 1, given, ARRAY_LEN(given), f->map), DIMFIT_OK);
    assert_int_equal(f->keys.n, 3);
    assert_split(f, 1, given, ARRAY_LEN(given));
    assert_int_equal(count_of(f, 0), 2);
    assert_int_equal(count_of(f, 7), 3);
    assert_int_equal(count_of(f, UINT64_MAX), 1);
}

static void no_keys_give_none(void **state) {
    struct fixture *const f = *state;
    assert_int_equal(keys_split(&f->keys, 1, NULL, 0, f->map), DIMFIT_OK);
    assert_int_equal(f->keys.n, 0);
}

static void many_keys_of_any_pattern_are_told_apart(void **state) {
    struct fixture *const f = *state;
    enum { N = 20000 };
    uint64_t *const given = malloc(N * sizeof *given);
    uint64_t x = 88172645463325252u;
    for (uint32_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            given[i] = round == 0 ? i << 32 : round == 1 ? x % 3000 : x;
        }
        assert_int_equal(keys_split(&f->keys, round, given, N, f->map), DIMFIT_OK);
        assert_split(f, round, given, N);
        assert_true(round == 1 ? f->keys.n <= 3000 : f->keys.n == N);
    }
    free(given);
}

static void what_a_call_before_left_is_forgotten(void **state) {
    struct fixture *const f = *state;
    static const uint64_t first[] = {1, 2, 3, 3}, second[] = {3, 4};
    assert_int_equal(keys_split(&f->keys, 1, first, 4, f->map), DIMFIT_OK);
    assert_int_equal(keys_split(&f->keys, 1, second, 2, f->map), DIMFIT_OK);
    assert_int_equal(f->keys.n, 2);
    assert_int_equal(count_of(f, 3), 1);
    assert_split(f, 1, second, 2);
}

static void a_stamp_that_wraps_around_meets_no_older_key(void **state) {
    struct fixture *const f = *state;
    static const uint64_t given[] = {1, 2};
    assert_int_equal(keys_split(&f->keys, 1, given, 2, f->map), DIMFIT_OK);
    f->keys.stamp = UINT32_MAX;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(keys_split(&f->keys, 1, given, 2, f->map), DIMFIT_OK);
        assert_int_equal(f->keys.n, 2);
        assert_split(f, 1, given, 2);
    }
}

static void one_shard_takes_all_keys_in_the_order_given(void **state) {
    struct fixture *const f = *state;
    static const uint64_t given[] = {9, 4, 9, 1, 4, 8};
    cluster_map_destroy(&f->map);
    assert_int_equal(cluster_map_new(1, &f->map), DIMFIT_OK);
    assert_int_equal(keys_split(&f->keys, 1, given, ARRAY_LEN(given), f->map), DIMFIT_OK);
    assert_split(f, 1, given, ARRAY_LEN(given));
    static const uint64_t distinct[] = {9, 4, 1, 8};
    assert_memory_equal(f->keys.key, distinct, sizeof distinct);
}

static void the_slot_takes_part_in_choosing_the_shard(void **state) {
    struct fixture *const f = *state;
    uint64_t given[64], first[64];
    for (size_t i = 0; i < 64; i++)
        given[i] = i;
    assert_int_equal(keys_split(&f->keys, 1, given, 64, f->map), DIMFIT_OK);
    memcpy(first, f->keys.key, sizeof first);
    assert_int_equal(keys_split(&f->keys, 2, given, 64, f->map), DIMFIT_OK);
    assert_memory_not_equal(first, f->keys.key, sizeof first);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(repeats_are_counted_and_remembered),
        TEST(no_keys_give_none),
        TEST(many_keys_of_any_pattern_are_told_apart),
        TEST(what_a_call_before_left_is_forgotten),
        TEST(a_stamp_that_wraps_around_meets_no_older_key),
        TEST(one_shard_takes_all_keys_in_the_order_given),
        TEST(the_slot_takes_part_in_choosing_the_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
