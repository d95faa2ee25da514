/* A cluster map that decodes names a shard that is there for every key, and encodes to the same. */
#include "proto/cluster_map.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct reader in = reader_of(bytes, len);
    struct cluster_map *map = NULL;
    struct err_detail detail;
    if (cluster_map_decode(&in, &map, &detail) != DIMFIT_OK)
        return false;
    for (uint64_t key = 0; key < 64; key++)
        REQUIRE(cluster_map_shard(map, key_hash(1, key)) < map->n_shards);
    struct buf buf;
    buf_init(&buf);
    cluster_map_encode(map, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len - in.left));
    buf_fini(&buf);
    cluster_map_destroy(&map);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct buf buf;
    buf_init(&buf);
    for (size_t shards = 1; shards <= 3; shards += 2) {
        struct cluster_map *map = NULL;
        REQUIRE(cluster_map_new(shards, &map) == DIMFIT_OK);
        map->version = 7;
        for (size_t i = 0; i < shards; i++)
            snprintf(map->endpoints[i], sizeof map->endpoints[i], "tcp://10.0.0.1:770%zu", i);
        cluster_map_encode(map, &buf);
        fuzz_put_buf(sink, &buf);
        cluster_map_destroy(&map);
    }
    buf_fini(&buf);
}
