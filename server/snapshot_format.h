/*
 * The bytes of a snapshot (snapshot.h), for those who write and read them.
 *
 *     offset 0   u64 magic, u32 version, u32 shard, u32 shards, u32 zero, u64 cluster, u64 epoch,
 *                u64 position, u64 checksum of the 48 bytes before it
 *     then       blocks: u32 plain, u32 stored, stored bytes, u64 checksum of all these, seeded by
 *                the block's number from 1. stored < plain: packed by LZ4 (proto/pack.h)
 *     at last    u32 zero, u32 zero, u64 blocks, u64 plain bytes, u64 rows, u64 checksum over all,
 *                u64 checksum of all these
 *
 * The checksum over all is a chain: of the header's, then of each block's with that of the chain so
 * far. Checksums are XXH3's.
 */
#ifndef SERVER_SNAPSHOT_FORMAT_H
#define SERVER_SNAPSHOT_FORMAT_H

#include "proto/pack.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SNAPSHOT_MAGIC UINT64_C(0x31746f6873706e73) /* "snpshot1" */

enum {
    SNAPSHOT_VERSION = 1,
    SNAPSHOT_BLOCK = 1 << 20,
    SNAPSHOT_HEADER = 56,
    SNAPSHOT_BLOCK_HEAD = 8,
    SNAPSHOT_SUM = 8,
    SNAPSHOT_TRAILER = 48,
};

static inline uint64_t snapshot_sum(const void *bytes, size_t len, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, len, seed);
}

static inline uint64_t snapshot_chain(uint64_t chain, uint64_t sum) {
    return snapshot_sum(&sum, sizeof sum, chain);
}

#endif
