#include "proto/cluster_map.h"

#include <stdlib.h>

dimfit_err cluster_map_new(size_t n_shards, struct cluster_map **out) {
    base_assert(n_shards > 0 && n_shards <= CLUSTER_SHARDS_MAX);
    struct cluster_map *map = calloc(1, sizeof *map);
    if (map == NULL)
        return DIMFIT_ERR_NOMEM;
    map->n_shards = n_shards;
    map->endpoints = calloc(n_shards, sizeof *map->endpoints);
    if (map->endpoints == NULL) {
        cluster_map_destroy(&map);
        return DIMFIT_ERR_NOMEM;
    }
    for (size_t b = 0; b < KEY_BUCKETS; b++)
        map->bucket_shard[b] = (uint16_t)(b * n_shards / KEY_BUCKETS);
    *out = map;
    return DIMFIT_OK;
}

void cluster_map_destroy(struct cluster_map **map) {
    if (*map == NULL)
        return;
    free((*map)->endpoints);
    free(*map);
    *map = NULL;
}

void cluster_map_encode(const struct cluster_map *map, struct buf *out) {
    buf_put_u64(out, map->version);
    buf_put_u16(out, (uint16_t)map->n_shards);
    for (size_t i = 0; i < map->n_shards; i++)
        buf_put_str(out, map->endpoints[i]);
    buf_put(out, map->bucket_shard, sizeof map->bucket_shard);
}

dimfit_err cluster_map_decode(struct reader *in, struct cluster_map **out,
                              struct err_detail *detail) {
    const uint64_t version = reader_u64(in);
    const size_t n_shards = reader_u16(in);
    if (in->failed || n_shards == 0 || n_shards > CLUSTER_SHARDS_MAX)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "a cluster map of %zu shards", n_shards);
    struct cluster_map *map;
    dimfit_err err = cluster_map_new(n_shards, &map);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for the cluster map");
    map->version = version;
    for (size_t i = 0; i < n_shards; i++)
        reader_str(in, map->endpoints[i], sizeof map->endpoints[i]);
    reader_copy(in, map->bucket_shard, sizeof map->bucket_shard);
    for (size_t b = 0; b < KEY_BUCKETS; b++)
        in->failed |= map->bucket_shard[b] >= n_shards;
    if (in->failed) {
        cluster_map_destroy(&map);
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "malformed cluster map");
    }
    *out = map;
    return DIMFIT_OK;
}
