/*
 * One hash of (slot, feasign) for everything: which virtual bucket, and so which shard, a feasign
 * belongs to (top bits), and where in its slot's index it stands (low bits).
 */
#ifndef PROTO_KEY_HASH_H
#define PROTO_KEY_HASH_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdint.h>

enum {
    KEY_BUCKET_BITS = 10,
    KEY_BUCKETS = 1 << KEY_BUCKET_BITS, /* virtual buckets of a cluster, fixed for its life */
};

/* Flat: of a hash for any length, called, half the time goes into finding out that it is 8 bytes.
 */
__attribute__((flatten)) static inline uint64_t key_hash(uint32_t slot, uint64_t feasign) {
    return XXH3_64bits_withSeed(&feasign, sizeof feasign, slot);
}

static inline uint32_t key_bucket(uint64_t hash) {
    return (uint32_t)(hash >> (64 - KEY_BUCKET_BITS));
}

#endif
