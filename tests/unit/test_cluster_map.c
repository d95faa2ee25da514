#include "proto/cluster_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct cluster_map *map_of(size_t n) {
    struct cluster_map *map;
    assert_int_equal(cluster_map_new(n, &map), DIMFIT_OK);
    map->version = 7;
    for (size_t i = 0; i < n; i++)
        snprintf(map->endpoints[i], sizeof map->endpoints[i], "tcp://127.0.0.1:%zu", 7000 + i);
    return map;
}

static dimfit_err decode(const struct buf *buf, size_t len, struct cluster_map **out) {
    struct reader r = reader_of(buf->data, len);
    return cluster_map_decode(&r, out, NULL);
}

static void a_new_map_is_even(void **state) {
    static const size_t sizes[] = {1, 2, 3, 7, CLUSTER_SHARDS_MAX};
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        const size_t n = sizes[s];
        struct cluster_map *map = map_of(n);
        size_t *const buckets = calloc(n, sizeof *buckets);
        for (size_t b = 0; b < KEY_BUCKETS; b++)
            buckets[map->bucket_shard[b]]++;
        for (size_t i = 0; i < n; i++)
            assert_true(buckets[i] >= KEY_BUCKETS / n && buckets[i] <= KEY_BUCKETS / n + 1);
        free(buckets);
        cluster_map_destroy(&map);
        assert_null(map);
    }
}

static void top_bits_choose_the_shard(void **state) {
    struct cluster_map *map = map_of(4);
    assert_int_equal(cluster_map_shard(map, 0), 0);
    assert_int_equal(cluster_map_shard(map, UINT64_MAX), 3);
    assert_int_equal(cluster_map_shard(map, (uint64_t)1 << 62), 1);
    assert_int_equal(cluster_map_shard(map, ((uint64_t)1 << 62) - 1), 0);
    cluster_map_destroy(&map);
}

static void a_map_survives_the_wire(void **state) {
    struct cluster_map *map = map_of(3), *copy;
    map->bucket_shard[5] = 2;
    struct buf buf;
    buf_init(&buf);
    cluster_map_encode(map, &buf);
    assert_int_equal(decode(&buf, buf.len, &copy), DIMFIT_OK);
    assert_int_equal(copy->version, 7);
    assert_int_equal(copy->n_shards, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(copy->endpoints[i], map->endpoints[i]);
    assert_memory_equal(copy->bucket_shard, map->bucket_shard, sizeof map->bucket_shard);
    cluster_map_destroy(&copy);
    cluster_map_destroy(&map);
    buf_fini(&buf);
}

static void a_map_cut_short_is_refused(void **state) {
    struct cluster_map *map = map_of(2), *copy = NULL;
    struct buf buf;
    buf_init(&buf);
    cluster_map_encode(map, &buf);
    for (size_t len = 0; len < buf.len; len++)
        assert_int_equal(decode(&buf, len, &copy), DIMFIT_ERR_PROTOCOL);
    assert_null(copy);
    cluster_map_destroy(&map);
    buf_fini(&buf);
}

static void a_bucket_of_no_shard_is_refused(void **state) {
    struct cluster_map *map = map_of(2), *copy = NULL;
    map->bucket_shard[KEY_BUCKETS - 1] = 2;
    struct buf buf;
    buf_init(&buf);
    cluster_map_encode(map, &buf);
    assert_int_equal(decode(&buf, buf.len, &copy), DIMFIT_ERR_PROTOCOL);
    cluster_map_destroy(&map);
    buf_fini(&buf);
}

static void shard_counts_out_of_range_are_refused(void **state) {
    static const uint16_t bad[] = {0, CLUSTER_SHARDS_MAX + 1, UINT16_MAX};
    struct cluster_map *copy = NULL;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf buf;
        buf_init(&buf);
        buf_put_u64(&buf, 1);
        buf_put_u16(&buf, bad[i]);
        struct reader r = reader_of(buf.data, buf.len);
        struct err_detail detail;
        assert_int_equal(cluster_map_decode(&r, &copy, &detail), DIMFIT_ERR_PROTOCOL);
        assert_non_null(strstr(detail.text, "shards"));
        buf_fini(&buf);
    }
}

static void an_endpoint_too_long_is_refused(void **state) {
    char endpoint[CLUSTER_ENDPOINT_MAX + 2];
    memset(endpoint, 'x', sizeof endpoint - 1);
    endpoint[sizeof endpoint - 1] = 0;
    static const uint16_t buckets[KEY_BUCKETS];
    struct buf buf;
    buf_init(&buf);
    buf_put_u64(&buf, 1);
    buf_put_u16(&buf, 1);
    buf_put_str(&buf, endpoint);
    buf_put(&buf, buckets, sizeof buckets);
    struct cluster_map *copy = NULL;
    assert_int_equal(decode(&buf, buf.len, &copy), DIMFIT_ERR_PROTOCOL);
    buf_fini(&buf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_map_is_even),
        cmocka_unit_test(top_bits_choose_the_shard),
        cmocka_unit_test(a_map_survives_the_wire),
        cmocka_unit_test(a_map_cut_short_is_refused),
        cmocka_unit_test(a_bucket_of_no_shard_is_refused),
        cmocka_unit_test(shard_counts_out_of_range_are_refused),
        cmocka_unit_test(an_endpoint_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
