#include "server/index.h"

#include <stdlib.h>

enum {
    LIMIT_KEYS = 15, /* in four buckets: at 75 % one key in twelve is past its home */
    LIMIT_BUCKETS = 4,
    PAGE_BITS_MAX = 7,        /* 8 KiB; a segment is 64 KiB then, and a rehash short */
    SPLIT_START = 5,          /* pages of each half, of twice the pages half as large as well */
    DIRECTORY_BITS_MAX = 22,  /* bits 32 .. 53 of the hash: those above are alike within a shard */
    DIRECTORY_FREE = 1 << 16, /* entries that need no reason; beyond them */
    DIRECTORY_SPREAD = 16,    /* so many a segment: keys made to collide must not inflate it */
};

struct index_segment {
    uint32_t count;
    uint32_t depth; /* hash bits that all its keys share */
};

struct index_spare {
    uint64_t key;
    uint32_t row;
};

static void pages_init(struct index *index, uint32_t page_bits) {
    slab_init(&index->pages, (sizeof(struct index_bucket) / sizeof(float)) << page_bits);
    index->page_bits = page_bits;
    index->n_pages = 0;
    index->free_page = INDEX_NONE;
}

void index_init(struct index *index, uint32_t slot) {
    *index = (struct index){.slot = slot};
    pages_init(index, 0);
}

void index_fini(struct index *index) {
    slab_fini(&index->pages);
    free(index->places);
    free(index->segments);
    free(index->spare);
    index_init(index, index->slot);
}

uint64_t index_bytes(const struct index *index) {
    const uint64_t entries = index->places != NULL ? (uint64_t)index->mask + 1 : 0;
    return slab_bytes(&index->pages) + entries * sizeof *index->places +
           index->cap_segments * sizeof *index->segments + index->cap_spare * sizeof *index->spare;
}

static void page_free(struct index *index, uint32_t page) {
    memcpy(slab_row(&index->pages, page), &index->free_page, sizeof page);
    index->free_page = page;
}

static bool page_new(struct index *index, uint32_t *out) {
    uint32_t page = index->free_page;
    if (page == INDEX_NONE) {
        if (slab_reserve(&index->pages, (uint64_t)index->n_pages + 1) != DIMFIT_OK)
            return false;
        page = index->n_pages++;
    } else {
        memcpy(&index->free_page, slab_row(&index->pages, page), sizeof page);
    }
    memset(slab_row(&index->pages, page), 0, sizeof(struct index_bucket) << index->page_bits);
    *out = page;
    return true;
}

static uint32_t place_pages(const struct index *index, const struct index_place *place) {
    return place->n_buckets >> index->page_bits;
}

static void place_free(struct index *index, const struct index_place *place) {
    for (uint32_t i = 0; i < place_pages(index, place); i++)
        page_free(index, place->pages[i]);
}

static bool place_new(struct index *index, uint32_t n_pages, uint32_t segment,
                      struct index_place *out) {
    struct index_place place = {.segment = segment};
    for (uint32_t i = 0; i < n_pages; i++) {
        if (!page_new(index, &place.pages[i])) {
            place_free(index, &place);
            return false;
        }
        place.n_buckets += 1u << index->page_bits;
    }
    *out = place;
    return true;
}

static uint32_t next_number(const struct index_place *place, uint32_t number) {
    return number + 1 < place->n_buckets ? number + 1 : 0;
}

/* There must be room in the segment. */
static void place_put(const struct index *index, const struct index_place *place, uint64_t key,
                      uint64_t hash, uint32_t row) {
    uint32_t number = index_number(place, hash);
    struct index_bucket *bucket = index_bucket(index, place, number);
    while (bucket->count == INDEX_KEYS) {
        bucket->passed = 1;
        number = next_number(place, number);
        bucket = index_bucket(index, place, number);
    }
    bucket->keys[bucket->count] = key;
    bucket->rows[bucket->count] = row;
    bucket->count++;
}

/* Put every key of `from`, a segment of index `old`, into lo, or into hi when the given bit of its
 * directory hash is set. */
static void rehash(const struct index *old, const struct index_place *from,
                   const struct index *index, const struct index_place *lo,
                   const struct index_place *hi, uint32_t bit) {
    for (uint32_t b = 0; b < from->n_buckets; b++) {
        const struct index_bucket *const bucket = index_bucket(old, from, b);
        for (unsigned i = 0; i < bucket->count; i++) {
            const uint64_t hash = index_hash(index, bucket->keys[i]);
            const bool high = ((uint32_t)(hash >> 32) & bit) != 0;
            place_put(index, high ? hi : lo, bucket->keys[i], hash, bucket->rows[i]);
        }
    }
}

static uint32_t count_high(const struct index *index, const struct index_place *from,
                           uint32_t bit) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < from->n_buckets; b++) {
        const struct index_bucket *const bucket = index_bucket(index, from, b);
        for (unsigned i = 0; i < bucket->count; i++)
            n += ((uint32_t)(index_hash(index, bucket->keys[i]) >> 32) & bit) != 0;
    }
    return n;
}

/* Let all directory entries of a segment, those that agree with `entry` in `depth` bits, be
 * `place`. */
static void point(struct index *index, uint32_t entry, uint32_t depth, struct index_place place) {
    const uint64_t step = (uint64_t)1 << depth;
    for (uint64_t i = entry & (step - 1); i <= index->mask; i += step)
        index->places[i] = place;
}

static bool segment_add_page(struct index *index, uint32_t entry) {
    const struct index_place old = index->places[entry];
    struct index_place new;
    if (!place_new(index, place_pages(index, &old) + 1, old.segment, &new))
        return false;
    rehash(index, &old, index, &new, &new, 0);
    point(index, entry, index->segments[old.segment].depth, new);
    place_free(index, &old);
    return true;
}

/* Only while there is one segment: its pages are as many again as half a split would have. */
static bool pages_double(struct index *index) {
    struct index new = *index;
    struct index_place place;
    pages_init(&new, index->page_bits + 1);
    if (!place_new(&new, SPLIT_START, 0, &place)) {
        slab_fini(&new.pages);
        return false;
    }
    rehash(index, &index->places[0], &new, &place, &place, 0);
    slab_fini(&index->pages);
    *index = new;
    index->places[0] = place;
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

static bool segments_reserve(struct index *index) {
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
           (depth < DIRECTORY_BITS_MAX &&
            2 * entries <= (uint64_t)DIRECTORY_SPREAD * index->n_segments);
}

/* Pages that so many keys start with; a half that the bit hardly relieves takes all. */
static uint32_t split_pages(const struct index *index, uint32_t count) {
    uint32_t n = SPLIT_START;
    while (n < INDEX_PAGES && (n << index->page_bits) * LIMIT_KEYS / LIMIT_BUCKETS <= count)
        n++;
    return n;
}

static bool segment_split(struct index *index, uint32_t entry) {
    const struct index_place old = index->places[entry];
    const uint32_t depth = index->segments[old.segment].depth;
    const uint32_t bit = (uint32_t)1 << depth;
    if (!segments_reserve(index))
        return false;
    if (index->mask < bit && !directory_double(index))
        return false;
    const uint32_t n_high = count_high(index, &old, bit);
    const uint32_t n_low = index->segments[old.segment].count - n_high;
    struct index_place low, high;
    if (!place_new(index, split_pages(index, n_low), old.segment, &low))
        return false;
    if (!place_new(index, split_pages(index, n_high), index->n_segments, &high)) {
        place_free(index, &low);
        return false;
    }
    rehash(index, &old, index, &low, &high, bit);
    index->segments[low.segment] = (struct index_segment){n_low, depth + 1};
    index->segments[high.segment] = (struct index_segment){n_high, depth + 1};
    index->n_segments++;
    point(index, entry & ~bit, depth + 1, low);
    point(index, entry | bit, depth + 1, high);
    place_free(index, &old);
    return true;
}

/* Try to make the segment of a hash larger. No memory is no error while keys still fit. */
static bool segment_grow(struct index *index, uint64_t hash) {
    const uint32_t entry = (uint32_t)(hash >> 32) & index->mask;
    const struct index_place *const place = &index->places[entry];
    if (place_pages(index, place) < INDEX_PAGES)
        return segment_add_page(index, entry);
    if (index->n_segments == 1 && index->page_bits < PAGE_BITS_MAX)
        return pages_double(index);
    return may_deepen(index, index->segments[place->segment].depth) && segment_split(index, entry);
}

static bool first_segment(struct index *index) {
    struct index_place *const places = malloc(sizeof *places);
    if (places == NULL || !segments_reserve(index) || !place_new(index, 1, 0, places)) {
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
    if (index->segments[place->segment].count >= place->n_buckets * LIMIT_KEYS / LIMIT_BUCKETS &&
        segment_grow(index, hash))
        place = index_place(index, hash);
    if (index->segments[place->segment].count == place->n_buckets * INDEX_KEYS)
        return false;
    place_put(index, place, key, hash, row);
    index->segments[place->segment].count++;
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

void index_fetch_far(const struct index *index, uint64_t hash) {
    if (index->n_segments == 0)
        return;
    const struct index_place *const place = index_place(index, hash);
    const uint32_t home = index_number(place, hash);
    if (index_bucket(index, place, home)->passed)
        __builtin_prefetch(index_bucket(index, place, next_number(place, home)));
}

uint32_t index_find(const struct index *index, uint64_t key, uint64_t hash) {
    if (index->n_segments == 0)
        return INDEX_NONE;
    const struct index_place *const place = index_place(index, hash);
    uint32_t number = index_number(place, hash);
    for (uint32_t i = 0; i < place->n_buckets; i++) {
        const struct index_bucket *const bucket = index_bucket(index, place, number);
        const uint32_t row = index_find_home(bucket, key);
        if (row != INDEX_NONE)
            return row;
        if (!bucket->passed)
            break;
        number = next_number(place, number);
    }
    for (size_t i = 0; i < index->n_spare; i++) {
        if (index->spare[i].key == key)
            return index->spare[i].row;
    }
    return INDEX_NONE;
}
