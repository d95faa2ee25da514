#include "server/index_internal.h"

#include <stdlib.h>

enum {
    LIMIT_KEYS = 15, /* in four buckets: at 75 % one key in ten is past its home */
    LIMIT_BUCKETS = 4,
    SPLIT_START = 5,          /* pages of each half, of twice the pages half as large as well */
    DIRECTORY_FREE = 1 << 16, /* entries that need no reason; beyond them */
    DIRECTORY_SPREAD = 16,    /* so many a segment: keys made to collide must not inflate it */
    FREE_BITS = 64,           /* a word of the map of free pages */
};

const struct index_bucket index_nothing;

void index_pages_init(struct index *index, uint32_t page_bits) {
    slab_init(&index->pages, (sizeof(struct index_bucket) / sizeof(float)) << page_bits);
    index->page_bits = page_bits;
    index->n_pages = index->n_free = index->free_from = index->cap_free = 0;
    index->free = NULL;
}

static void pages_fini(struct index *index) {
    slab_fini(&index->pages);
    free(index->free);
}

void index_init(struct index *index, uint32_t slot) {
    *index = (struct index){.slot = slot};
    index_pages_init(index, 0);
}

void index_fini(struct index *index) {
    pages_fini(index);
    free(index->places);
    free(index->segments);
    free(index->spare);
    index_init(index, index->slot);
}

uint64_t index_bytes(const struct index *index) {
    const uint64_t entries = index->places != NULL ? (uint64_t)index->mask + 1 : 0;
    return slab_bytes(&index->pages) + entries * sizeof *index->places +
           index->cap_segments * sizeof *index->segments + index->cap_free * sizeof *index->free +
           index->cap_spare * sizeof *index->spare;
}

static void page_free(struct index *index, uint32_t page) {
    const uint32_t word = page / FREE_BITS;
    index->free[word] |= (uint64_t)1 << page % FREE_BITS;
    index->n_free++;
    if (word < index->free_from)
        index->free_from = word;
}

static bool page_add(struct index *index) {
    if (slab_reserve(&index->pages, (uint64_t)index->n_pages + 1) != DIMFIT_OK)
        return false;
    if (index->n_pages == index->cap_free * FREE_BITS) {
        const uint32_t cap = index->cap_free ? 2 * index->cap_free : 1;
        uint64_t *const grown = realloc(index->free, cap * sizeof *grown);
        if (grown == NULL)
            return false;
        memset(grown + index->cap_free, 0, (cap - index->cap_free) * sizeof *grown);
        index->free = grown;
        index->cap_free = cap;
    }
    page_free(index, index->n_pages++);
    return true;
}

/* The lowest free one, as it is. */
static bool page_take(struct index *index, uint32_t *out) {
    if (index->n_free == 0 && !page_add(index))
        return false;
    uint32_t word = index->free_from;
    while (index->free[word] == 0)
        word++;
    const uint32_t bit = (uint32_t)__builtin_ctzll(index->free[word]);
    index->free[word] &= index->free[word] - 1;
    index->free_from = word;
    index->n_free--;
    *out = word * FREE_BITS + bit;
    return true;
}

static size_t page_bytes(const struct index *index) {
    return sizeof(struct index_bucket) << index->page_bits;
}

static bool page_new(struct index *index, uint32_t *out) {
    if (!page_take(index, out))
        return false;
    memset(slab_row(&index->pages, *out), 0, page_bytes(index));
    return true;
}

uint32_t index_place_pages(const struct index *index, const struct index_place *place) {
    return place->n_buckets >> index->page_bits;
}

static void place_drop(struct index *index, struct index_place *place, uint32_t n_pages) {
    while (index_place_pages(index, place) > n_pages) {
        place->n_buckets -= 1u << index->page_bits;
        page_free(index, place->pages[index_place_pages(index, place)]);
    }
}

bool index_place_extend(struct index *index, struct index_place *place, uint32_t n_pages) {
    const uint32_t before = index_place_pages(index, place);
    while (index_place_pages(index, place) < n_pages) {
        if (!page_new(index, &place->pages[index_place_pages(index, place)])) {
            place_drop(index, place, before);
            return false;
        }
        place->n_buckets += 1u << index->page_bits;
    }
    return true;
}

static uint32_t next_number(uint32_t n_buckets, uint32_t number) {
    return number + 1 < n_buckets ? number + 1 : 0;
}

/* The buckets of a segment, its pages found. */
struct buckets {
    struct index_bucket *pages[INDEX_PAGES];
    uint32_t n, page_bits;
};

static struct buckets buckets_of(const struct index *index, const struct index_place *place) {
    struct buckets buckets = {.n = place->n_buckets, .page_bits = index->page_bits};
    for (uint32_t i = 0; i < index_place_pages(index, place); i++)
        buckets.pages[i] = slab_row(&index->pages, place->pages[i]);
    return buckets;
}

static inline struct index_bucket *bucket_at(const struct buckets *buckets, uint32_t number) {
    return buckets->pages[number >> buckets->page_bits] +
           (number & ((1u << buckets->page_bits) - 1));
}

/* False when the bucket is full, which it remembers. */
static inline bool bucket_put(struct index_bucket *bucket, uint64_t key, uint32_t row) {
    if (bucket->count == INDEX_KEYS) {
        bucket->passed = 1;
        return false;
    }
    bucket->keys[bucket->count] = key;
    bucket->rows[bucket->count] = row;
    bucket->count++;
    return true;
}

/* There must be room in the segment. */
static void place_put(const struct index *index, const struct index_place *place, uint64_t key,
                      uint64_t hash, uint32_t row) {
    uint32_t number = index_number(place, hash);
    while (!bucket_put(index_bucket(index, place, number), key, row))
        number = next_number(place->n_buckets, number);
}

static inline void buckets_put(const struct buckets *buckets, uint64_t key, uint64_t hash,
                               uint32_t row) {
    uint32_t number = (uint32_t)(((uint64_t)(uint32_t)hash * buckets->n) >> 32);
    while (!bucket_put(bucket_at(buckets, number), key, row))
        number = next_number(buckets->n, number);
}

/* A segment's content on its way to other pages, or to the same ones in another order: what grows
 * needs no second set of pages meanwhile. */
struct content {
    uint32_t n;
    struct index_bucket buckets[INDEX_PAGES << INDEX_PAGE_BITS_MAX];
};

static void content_take(const struct index *index, const struct index_place *place,
                         struct content *content) {
    content->n = place->n_buckets;
    for (uint32_t i = 0; i < index_place_pages(index, place); i++)
        memcpy(content->buckets + ((size_t)i << index->page_bits),
               slab_row(&index->pages, place->pages[i]), page_bytes(index));
}

/* Put every key into lo, or into hi when the given bit of its directory hash is set. */
static void content_put(const struct content *content, const struct index *index,
                        const struct index_place *lo, const struct index_place *hi, uint32_t bit) {
    const struct buckets halves[2] = {buckets_of(index, lo), buckets_of(index, hi)};
    for (uint32_t b = 0; b < content->n; b++) {
        const struct index_bucket *const bucket = &content->buckets[b];
        for (unsigned i = 0; i < bucket->count; i++) {
            const uint64_t hash = index_hash(index, bucket->keys[i]);
            const bool high = ((uint32_t)(hash >> 32) & bit) != 0;
            buckets_put(&halves[high], bucket->keys[i], hash, bucket->rows[i]);
        }
    }
}

static uint32_t count_high(const struct content *content, const struct index *index, uint32_t bit) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < content->n; b++) {
        const struct index_bucket *const bucket = &content->buckets[b];
        for (unsigned i = 0; i < bucket->count; i++)
            n += ((uint32_t)(index_hash(index, bucket->keys[i]) >> 32) & bit) != 0;
    }
    return n;
}

static void place_clear(const struct index *index, const struct index_place *place) {
    for (uint32_t i = 0; i < index_place_pages(index, place); i++)
        memset(slab_row(&index->pages, place->pages[i]), 0, page_bytes(index));
}

void index_point(struct index *index, uint32_t entry, uint32_t depth, struct index_place place) {
    const uint64_t step = (uint64_t)1 << depth;
    for (uint64_t i = entry & (step - 1); i <= index->mask; i += step)
        index->places[i] = place;
    index->segments[place.segment].version = ++index->version;
}

static bool segment_rebuild(struct index *index, uint32_t entry, uint32_t n_pages) {
    const struct index_place old = index->places[entry];
    struct index_place place = old;
    struct content content;
    if (!index_place_extend(index, &place, n_pages))
        return false;
    content_take(index, &old, &content);
    place_drop(index, &place, n_pages);
    place_clear(index, &place);
    content_put(&content, index, &place, &place, 0);
    index_point(index, entry, index->segments[place.segment].depth, place);
    return true;
}

/* Only while there is one segment: its pages are as many again as half a split would have. */
static bool pages_double(struct index *index) {
    struct index new = *index;
    struct index_place place = {0};
    struct content content;
    index_pages_init(&new, index->page_bits + 1);
    if (!index_place_extend(&new, &place, SPLIT_START)) {
        pages_fini(&new);
        return false;
    }
    content_take(index, &index->places[0], &content);
    content_put(&content, &new, &place, &place, 0);
    pages_fini(index);
    *index = new;
    index_point(index, 0, 0, place);
    return true;
}

static bool directory_double(struct index *index) {
    const size_t n = (size_t)index->mask + 1;
    struct index_place *const places = realloc(index->places, 2 * n * sizeof *places);
    if (places == NULL)
        return false;
    memcpy(places + n, places, n * sizeof *places);
    index->places = places;
    index->mask = (uint32_t)(2 * n - 1);
    return true;
}

bool index_segments_reserve(struct index *index) {
    if (index->n_segments < index->cap_segments)
        return true;
    const uint32_t cap = index->cap_segments ? 2 * index->cap_segments : 1;
    struct index_segment *const segments = realloc(index->segments, cap * sizeof *segments);
    if (segments == NULL)
        return false;
    index->segments = segments;
    index->cap_segments = cap;
    return true;
}

static bool may_deepen(const struct index *index, uint32_t depth) {
    const uint64_t entries = (uint64_t)index->mask + 1;
    if (entries > (uint64_t)1 << depth)
        return true;
    return 2 * entries <= DIRECTORY_FREE ||
           (depth < INDEX_DIRECTORY_BITS_MAX &&
            2 * entries <= (uint64_t)DIRECTORY_SPREAD * index->n_segments);
}

/* Pages for so many keys, n at least; a half that the bit hardly relieves takes all. */
static uint32_t pages_for(const struct index *index, uint32_t count, uint32_t n) {
    while (n < INDEX_PAGES && (n << index->page_bits) * LIMIT_KEYS / LIMIT_BUCKETS <= count)
        n++;
    return n;
}

static bool segment_split(struct index *index, uint32_t entry) {
    const struct index_place old = index->places[entry];
    const uint32_t depth = index->segments[old.segment].depth;
    const uint32_t bit = (uint32_t)1 << depth;
    if (!index_segments_reserve(index))
        return false;
    if (index->mask < bit && !directory_double(index))
        return false;
    struct content content;
    content_take(index, &old, &content);
    const uint32_t n_high = count_high(&content, index, bit);
    const uint32_t n_low = index->segments[old.segment].count - n_high;
    struct index_place low = old, high = {.segment = index->n_segments};
    if (!index_place_extend(index, &high, pages_for(index, n_high, SPLIT_START)))
        return false;
    place_drop(index, &low, pages_for(index, n_low, SPLIT_START));
    place_clear(index, &low);
    content_put(&content, index, &low, &high, bit);
    const uint32_t first = index->segments[old.segment].entry;
    index->segments[low.segment] = (struct index_segment){n_low, depth + 1, first, 0};
    index->segments[high.segment] = (struct index_segment){n_high, depth + 1, first | bit, 0};
    index->n_segments++;
    index_point(index, first, depth + 1, low);
    index_point(index, first | bit, depth + 1, high);
    return true;
}

/* Try to make the segment of a hash larger. No memory is no error while keys still fit. */
static void segment_grow(struct index *index, uint64_t hash) {
    const uint32_t entry = (uint32_t)(hash >> 32) & index->mask;
    const struct index_place *const place = &index->places[entry];
    if (index_place_pages(index, place) < INDEX_PAGES)
        (void)segment_rebuild(index, entry, index_place_pages(index, place) + 1);
    else if (index->n_segments == 1 && index->page_bits < INDEX_PAGE_BITS_MAX)
        (void)pages_double(index);
    else if (may_deepen(index, index->segments[place->segment].depth))
        (void)segment_split(index, entry);
}

static bool first_segment(struct index *index) {
    struct index_place *const places = calloc(1, sizeof *places);
    if (places == NULL || !index_segments_reserve(index) || !index_place_extend(index, places, 1)) {
        free(places);
        return false;
    }
    index->segments[0] = (struct index_segment){0};
    index->n_segments = 1;
    index->places = places;
    return true;
}

/* False when the key's segment is full and cannot grow. */
static bool put(struct index *index, uint64_t key, uint64_t hash, uint32_t row) {
    const struct index_place *place = index_place(index, hash);
    if (index->segments[place->segment].count >= place->n_buckets * LIMIT_KEYS / LIMIT_BUCKETS) {
        segment_grow(index, hash);
        place = index_place(index,
                            hash); /* the directory may have grown where the segment did not */
    }
    if (index->segments[place->segment].count == place->n_buckets * INDEX_KEYS)
        return false;
    place_put(index, place, key, hash, row);
    index->segments[place->segment].count++;
    index->n_keys++;
    return true;
}

void index_put(struct index *index, uint64_t key, uint64_t hash, uint32_t row) {
    base_assert(index->n_segments > 0);
    if (!put(index, key, hash, row)) {
        base_assert(index->n_spare < index->cap_spare);
        index->spare[index->n_spare++] = (struct index_spare){key, row};
    }
}

dimfit_err index_reserve(struct index *index, size_t n) {
    if (n == 0)
        return DIMFIT_OK;
    if (index->n_segments == 0 && !first_segment(index))
        return DIMFIT_ERR_NOMEM;
    while (index->n_spare > 0) {
        const struct index_spare last = index->spare[index->n_spare - 1];
        if (!put(index, last.key, index_hash(index, last.key), last.row))
            return DIMFIT_ERR_NOMEM;
        index->n_spare--;
    }
    if (n > index->cap_spare) {
        size_t bytes;
        if (!size_mul(n, sizeof *index->spare, &bytes))
            return DIMFIT_ERR_NOMEM;
        struct index_spare *const spare = realloc(index->spare, bytes);
        if (spare == NULL)
            return DIMFIT_ERR_NOMEM;
        index->spare = spare;
        index->cap_spare = n;
    }
    return DIMFIT_OK;
}

static const uint32_t *find(const struct index *index, uint64_t key, uint64_t hash) {
    if (index->n_segments == 0)
        return NULL;
    const struct index_place *const place = index_place(index, hash);
    uint32_t number = index_number(place, hash);
    for (uint32_t i = 0; i < place->n_buckets; i++) {
        const struct index_bucket *const bucket = index_bucket(index, place, number);
        const unsigned match = index_match(bucket, key);
        if (match != 0)
            return &bucket->rows[__builtin_ctz(match)];
        if (!bucket->passed)
            break;
        number = next_number(place->n_buckets, number);
    }
    for (size_t i = 0; i < index->n_spare; i++) {
        if (index->spare[i].key == key)
            return &index->spare[i].row;
    }
    return NULL;
}

uint32_t index_find(const struct index *index, uint64_t key, uint64_t hash) {
    const uint32_t *const row = find(index, key, hash);
    return row != NULL ? *row : INDEX_NONE;
}

uint32_t *index_value(struct index *index, uint64_t key, uint64_t hash) {
    return (uint32_t *)find(index, key, hash);
}

/* ---- walks ----------------------------------------------------------------------------------- */

struct index_bucket *index_walk_next(struct index *index, struct index_walk *walk) {
    if (walk->segment >= index->n_segments)
        return NULL;
    const struct index_segment *const segment = &index->segments[walk->segment];
    if (walk->version != segment->version) {
        walk->version = segment->version;
        walk->bucket = 0;
    }
    const struct index_place *const place = &index->places[segment->entry];
    return walk->bucket < place->n_buckets ? index_bucket(index, place, walk->bucket++) : NULL;
}

/* The key's bucket may have passed others on; that stays, as does the order of the search. */
void index_walk_remove(struct index *index, const struct index_walk *walk,
                       struct index_bucket *bucket, unsigned i) {
    base_assert(i < bucket->count);
    bucket->count--;
    bucket->keys[i] = bucket->keys[bucket->count];
    bucket->rows[i] = bucket->rows[bucket->count];
    index->segments[walk->segment].count--;
    index->n_keys--;
}

bool index_walk_leave(struct index *index, struct index_walk *walk) {
    if (walk->segment < index->n_segments) {
        const struct index_segment *const segment = &index->segments[walk->segment];
        const uint32_t n = pages_for(index, segment->count, 1);
        /* Without memory for the smaller one the larger one stays. */
        if (n < index_place_pages(index, &index->places[segment->entry]))
            (void)segment_rebuild(index, segment->entry, n);
        walk->segment++;
        walk->bucket = 0;
        walk->version = 0;
    }
    return walk->segment < index->n_segments;
}

/* Pages are as many as are in use once all numbers below that are: any above has a free one to move
 * to. */
static void segment_compact(struct index *index, uint32_t number) {
    const struct index_segment *const segment = &index->segments[number];
    const uint32_t n_used = index->n_pages - index->n_free;
    struct index_place place = index->places[segment->entry];
    bool moved = false;
    for (uint32_t i = 0; i < index_place_pages(index, &place); i++) {
        const uint32_t from = place.pages[i];
        uint32_t to;
        if (from < n_used || !page_take(index, &to))
            continue;
        memcpy(slab_row(&index->pages, to), slab_row(&index->pages, from), page_bytes(index));
        place.pages[i] = to;
        page_free(index, from);
        moved = true;
    }
    if (moved)
        index_point(index, segment->entry, segment->depth, place);
}

/* Those at the end that are in no segment. */
static void drop_last_pages(struct index *index) {
    while (index->n_pages > 0) {
        const uint32_t word = (index->n_pages - 1) / FREE_BITS, last = index->n_pages % FREE_BITS;
        const uint64_t all = last == 0 ? UINT64_MAX : ((uint64_t)1 << last) - 1;
        const uint64_t used = all & ~index->free[word];
        const uint32_t keep = used == 0 ? 0 : FREE_BITS - (uint32_t)__builtin_clzll(used);
        const uint32_t n_pages = word * FREE_BITS + keep;
        index->n_free -= index->n_pages - n_pages;
        index->n_pages = n_pages;
        index->free[word] &= keep == FREE_BITS ? UINT64_MAX : ((uint64_t)1 << keep) - 1;
        if (used != 0)
            return;
    }
}

/* Nothing is left: back to the beginning, but for the memory of the pages. */
static void forget_segments(struct index *index) {
    free(index->places);
    free(index->segments);
    index->places = NULL;
    index->segments = NULL;
    index->mask = index->n_segments = index->cap_segments = 0;
    index->n_pages = index->n_free = index->free_from = 0;
    if (index->cap_free > 0)
        memset(index->free, 0, index->cap_free * sizeof *index->free);
}

bool index_compact(struct index *index, uint32_t *segment) {
    if (*segment < index->n_segments) {
        segment_compact(index, (*segment)++);
        return true;
    }
    if (index->n_keys == 0 && index->n_spare == 0)
        forget_segments(index);
    drop_last_pages(index);
    if (slab_truncate(&index->pages, index->n_pages))
        return true;
    if (index->n_segments == 0)
        index_fini(index);
    return false;
}
