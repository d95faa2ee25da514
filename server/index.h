/*
 * One slot's index: feasign -> row number, by extendible hashing.
 *
 * Keys stand five to a bucket of one cache line, so that a look-up costs one line in the common
 * case. Buckets come in pages, up to eight pages make a segment, and a directory finds the segment.
 * A segment grows by itself, a page at a time, and splits in two at eight: an insertion never waits
 * for more than one segment's rehash, and the load stays between 60 % and 75 % however many keys
 * there are. While there is one segment, it is the pages that grow. Any 64-bit value is a legal
 * key. A value below INDEX_PENDING is a row number; those from there on are the owner's marks for
 * keys without a row.
 *
 * Keys are removed by a walk, which goes over all of them in slices while others are put. A segment
 * that lost keys gives pages back, down to one; a second walk then moves the pages together, so
 * that the memory behind them goes back to the system.
 *
 * A caller hashes a batch first, which starts the loads of the buckets, and looks keys up after
 * that. Owned by one thread.
 */
#ifndef SERVER_INDEX_H
#define SERVER_INDEX_H

#include "proto/key_hash.h"
#include "server/slab.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum {
    INDEX_KEYS = 5,                      /* a bucket */
    INDEX_PAGES = 8,                     /* a segment */
    INDEX_CHUNK = SLAB_CHUNK_BYTES / 64, /* buckets */
};
#define INDEX_PENDING 0x80000000u
#define INDEX_NONE    UINT32_MAX

/*
 *   0        8                       40           60      61        62    64
 *   +--------+--------+-- ... -------+-- ... -----+-------+---------+-----+
 *   | key 0  | key 1  |   .. key 4   | rows 0..4  | count | passed  |     |
 *   +--------+--------+-- ... -------+-- ... -----+-------+---------+-----+
 *
 * Only the first `count` keys mean something. `passed`: the bucket was full when a key came, which
 * stands in one of the buckets after it; a miss elsewhere ends at once.
 */
struct index_bucket {
    uint64_t keys[INDEX_KEYS];
    uint32_t rows[INDEX_KEYS];
    uint8_t count, passed;
} __attribute__((aligned(64)));

/* A directory entry. Several name the same segment while it is less deep than the directory. */
struct index_place {
    uint32_t n_buckets;          /* of all its pages */
    uint32_t segment;            /* its number */
    uint32_t pages[INDEX_PAGES]; /* page numbers */
};

struct index {
    struct index_place *places; /* [mask + 1] */
    uint32_t mask;
    uint32_t page_bits; /* a page has 1 << page_bits buckets */
    struct slab pages;
    uint32_t slot;    /* seeds the hash */
    uint32_t n_pages; /* up to the last one in use */
    uint32_t n_free;  /* of them; the lowest is handed out first */
    uint32_t free_from;
    uint64_t *free; /* [cap_free] a bit a page; none is set in the words below free_from */
    uint32_t cap_free;
    uint32_t n_segments, cap_segments;
    struct index_segment *segments;
    uint64_t n_keys;
    uint64_t version;          /* counts what moves buckets */
    struct index_spare *spare; /* takes keys when a full segment finds no memory to grow */
    size_t n_spare, cap_spare;
};

/* An empty index holds no memory. */
void index_init(struct index *index, uint32_t slot);
void index_fini(struct index *index);

/* See to it that the next n index_put() cannot fail. NOMEM, nothing lost, otherwise. */
dimfit_err index_reserve(struct index *index, size_t n) MUST_CHECK;

/* Add a key that is not there, within what was reserved. row < INDEX_NONE. Buckets may move. */
void index_put(struct index *index, uint64_t key, uint64_t hash, uint32_t row);

/* The value of a key, to be changed in place; NULL when it is not there. Valid until the next
 * index_put(). */
uint32_t *index_value(struct index *index, uint64_t key, uint64_t hash);

/* A walk, from {0}. It may pause for any time while keys are put. What was there all the time is
 * seen at least once, twice where a segment grew meanwhile; what was put may be missed, and so are
 * keys that wait for memory (index_reserve()). */
struct index_walk {
    uint32_t segment, bucket; /* the next ones */
    uint64_t version;         /* of the segment when its first bucket was taken */
};
/* The next bucket of the segment, NULL when it is through. */
struct index_bucket *index_walk_next(struct index *index, struct index_walk *walk);
/* Remove the i-th key of the bucket that index_walk_next() gave last or, since then, others of the
 * same segment. The last key of the bucket takes its place. */
void index_walk_remove(struct index *index, const struct index_walk *walk,
                       struct index_bucket *bucket, unsigned i);
/* Leave a segment that is through, with as few pages as its keys need. False: it was the last. */
bool index_walk_leave(struct index *index, struct index_walk *walk);

/* One segment's part of moving pages together, *segment counting up from 0, then one chunk's of
 * giving back what is free behind them. False: that was the end. No walk may be under way. */
bool index_compact(struct index *index, uint32_t *segment);

/* ---- saved (index_save.c) ---- */

/* Every bucket in its order, so that a restored index grows, is walked and shrinks as this one. */
struct archive_writer;
struct archive_reader;
void index_save(const struct index *index, struct archive_writer *out);
/* Into an empty index of the slot; what it has after a failure is good for index_fini() alone. Each
 * value is shown to `take`, in the order of a walk; it refuses what can't be. */
void index_restore(struct index *index, struct archive_reader *in,
                   void (*take)(void *self, struct archive_reader *in, uint32_t value), void *self);

/* What is allocated. */
uint64_t index_bytes(const struct index *index);

/* A bucket without keys: the home of all in an empty index. */
extern const struct index_bucket index_nothing;

static inline uint64_t index_hash(const struct index *index, uint64_t key) {
    return key_hash(index->slot, key);
}

/* The top bits of a hash choose the shard, and are alike within one: the directory takes bits 32
 * and up, the bucket the 32 below them. */
static inline const struct index_place *index_place(const struct index *index, uint64_t hash) {
    return &index->places[(uint32_t)(hash >> 32) & index->mask];
}

static inline uint32_t index_number(const struct index_place *place, uint64_t hash) {
    return (uint32_t)(((uint64_t)(uint32_t)hash * place->n_buckets) >> 32);
}

/* slab_row() of the page without a division: a chunk has a power of two of buckets. */
static inline struct index_bucket *index_bucket(const struct index *index,
                                                const struct index_place *place, uint32_t number) {
    const uint32_t page = place->pages[number >> index->page_bits];
    const uint32_t i = (page << index->page_bits) + (number & ((1u << index->page_bits) - 1));
    return (struct index_bucket *)index->pages.chunks[i / INDEX_CHUNK] + i % INDEX_CHUNK;
}

/* The bucket of a key, its load begun. Valid until the next index_put(). */
static inline const struct index_bucket *index_fetch(const struct index *index, uint64_t hash) {
    if (index->n_segments == 0)
        return &index_nothing;
    const struct index_place *const place = index_place(index, hash);
    const struct index_bucket *const home = index_bucket(index, place, index_number(place, hash));
    base_prefetch(home);
    return home;
}

/* Bit i is set when key i of the bucket is the key. Without branches: the position is a coin toss.
 */
static inline unsigned index_match(const struct index_bucket *bucket, uint64_t key) {
#ifdef __AVX512F__
    const unsigned match = _mm512_cmpeq_epi64_mask(_mm512_load_si512(bucket),
                                                   _mm512_set1_epi64((long long)key));
#else
    const unsigned match = (unsigned)(bucket->keys[0] == key) |
                           (unsigned)(bucket->keys[1] == key) << 1 |
                           (unsigned)(bucket->keys[2] == key) << 2 |
                           (unsigned)(bucket->keys[3] == key) << 3 |
                           (unsigned)(bucket->keys[4] == key) << 4;
#endif
    return match & ((1u << bucket->count) - 1);
}

/* The row of a key if it stands in this bucket, else INDEX_NONE. No
 * branches here either. */
static inline uint32_t index_find_in(const struct index_bucket *home, uint64_t key) {
    const unsigned match = index_match(home, key);
    const uint32_t none = match == 0 ? INDEX_NONE : 0;
    return home->rows[__builtin_ctz(match | 1u << (INDEX_KEYS - 1))] | none;
}

/* The bucket after a key's home, its load begun, and that of the one after it unless a page ends
 * there: nearly all that do not stand at home stand in these. Valid as index_fetch() is. */
static inline const struct index_bucket *index_fetch_next(const struct index *index,
                                                          uint64_t hash) {
    if (index->n_segments == 0)
        return &index_nothing;
    const struct index_place *const place = index_place(index, hash);
    const uint32_t number = index_number(place, hash) + 1;
    const struct index_bucket *const next = index_bucket(index, place,
                                                         number < place->n_buckets ? number : 0);
    base_prefetch(next);
    base_prefetch(next + 1);
    return next;
}

/* The row of a key, INDEX_NONE when it is not there. hash is index_hash(). */
uint32_t index_find(const struct index *index, uint64_t key, uint64_t hash);

#endif
