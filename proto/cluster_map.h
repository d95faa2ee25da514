/*
 * Which shard keeps a virtual bucket, and where each shard listens.
 *
 * Workers get the map on CONNECT and ask for it again when a shard is silent. A feasign's bucket is
 * key_bucket(key_hash(slot, feasign)). A value type: made once, then read only.
 */
#ifndef PROTO_CLUSTER_MAP_H
#define PROTO_CLUSTER_MAP_H

#include "proto/buf.h"
#include "proto/key_hash.h"

enum {
    CLUSTER_SHARDS_MAX = 512,
    CLUSTER_ENDPOINT_MAX = 127,
};

struct cluster_map {
    uint64_t version; /* grows with every change */
    size_t n_shards;
    char (*endpoints)[CLUSTER_ENDPOINT_MAX + 1]; /* [n_shards] */
    uint16_t bucket_shard[KEY_BUCKETS];
};

/* An even map over n shards, endpoints empty. */
dimfit_err cluster_map_new(size_t n_shards, struct cluster_map **out) MUST_CHECK;
void cluster_map_destroy(struct cluster_map **map);

static inline uint32_t cluster_map_shard(const struct cluster_map *map, uint64_t hash) {
    return map->bucket_shard[key_bucket(hash)];
}

void cluster_map_encode(const struct cluster_map *map, struct buf *out);
dimfit_err cluster_map_decode(struct reader *in, struct cluster_map **out,
                              struct err_detail *detail) MUST_CHECK;

#endif
