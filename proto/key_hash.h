/*
 * One hash of (slot, feasign) for everything: which virtual bucket, and so which shard, a feasign
 * belongs to (top bits), and where in its slot's index it stands (low bits).
 */
#ifndef PROTO_KEY_HASH_H
#define PROTO_KEY_HASH_H

#include <stdint.h>

enum {
    KEY_BUCKET_BITS = 10,
    KEY_BUCKETS = 1 << KEY_BUCKET_BITS, /* virtual buckets of a cluster, fixed for its life */
};

/*
 * Two wide multiplications, the halves of each product folded into one another; the slot comes
 * between, so that slots differ in more than a shift. It need not resist an enemy, but spread every
 * dull set of feasigns: counted ones, multiples of a power of two, a tag in the top bits. The
 * constants are digits of pi and of the golden ratio, the multiplier odd.
 */
static inline uint64_t key_hash(uint32_t slot, uint64_t feasign) {
    const uint64_t by_slot = (slot + UINT64_C(0x13198a2e03707344)) * UINT64_C(0x452821e638d01377);
    const unsigned __int128 spread = (unsigned __int128)(feasign ^ UINT64_C(0x243f6a8885a308d3)) *
                                     UINT64_C(0x9e3779b97f4a7c15);
    const unsigned __int128 mixed = (unsigned __int128)((uint64_t)spread ^ by_slot) *
                                    ((uint64_t)(spread >> 64) ^ UINT64_C(0xa4093822299f31d0));
    return (uint64_t)mixed ^ (uint64_t)(mixed >> 64);
}

static inline uint32_t key_bucket(uint64_t hash) {
    return (uint32_t)(hash >> (64 - KEY_BUCKET_BITS));
}

#endif
