#include "server/archive.h"
#include "server/index_internal.h"

#include <stdlib.h>

enum { MARK = 0x5844494e }; /* "NIDX" */

/* page bits, directory bits, segments; each: depth, entry, pages, buckets; spare keys */
void index_save(const struct index *index, struct archive_writer *out) {
    archive_put_mark(out, MARK);
    archive_put_u8(out, (uint8_t)index->page_bits);
    archive_put_u32(out, index->mask);
    archive_put_u32(out, index->n_segments);
    for (uint32_t s = 0; s < index->n_segments; s++) {
        const struct index_segment *const segment = &index->segments[s];
        const struct index_place *const place = &index->places[segment->entry];
        archive_put_u8(out, (uint8_t)segment->depth);
        archive_put_u32(out, segment->entry);
        archive_put_u8(out, (uint8_t)index_place_pages(index, place));
        for (uint32_t i = 0; i < place->n_buckets; i++) {
            const struct index_bucket *const bucket = index_bucket(index, place, i);
            archive_put_u8(out, bucket->count);
            archive_put_u8(out, bucket->passed);
            archive_put(out, bucket->keys, bucket->count * sizeof *bucket->keys);
            archive_put(out, bucket->rows, bucket->count * sizeof *bucket->rows);
        }
    }
    archive_put_u64(out, index->n_spare);
    for (size_t i = 0; i < index->n_spare; i++) {
        archive_put_u64(out, index->spare[i].key);
        archive_put_u32(out, index->spare[i].row);
    }
}

/* ---- and back -------------------------------------------------------------------------------- */

struct restoring {
    struct index *index;
    struct archive_reader *in;
    void (*take)(void *self, struct archive_reader *in, uint32_t value);
    void *self;
};

static void restore_bucket(const struct restoring *r, struct index_bucket *bucket) {
    bucket->count = archive_get_u8(r->in);
    bucket->passed = archive_get_u8(r->in);
    if (bucket->count > INDEX_KEYS || bucket->passed > 1) {
        archive_refuse(r->in, "a bucket of %u keys", bucket->count);
        bucket->count = 0;
    }
    archive_get(r->in, bucket->keys, bucket->count * sizeof *bucket->keys);
    archive_get(r->in, bucket->rows, bucket->count * sizeof *bucket->rows);
    for (unsigned i = 0; i < bucket->count; i++)
        r->take(r->self, r->in, bucket->rows[i]);
}

/* Every key is found where it stands, so none stands there twice either. */
static void check_bucket(const struct restoring *r, const struct index_segment *segment,
                         const struct index_bucket *bucket) {
    const uint32_t mask = (1u << segment->depth) - 1;
    for (unsigned i = 0; i < bucket->count; i++) {
        const uint64_t key = bucket->keys[i], hash = index_hash(r->index, key);
        if (((uint32_t)(hash >> 32) & mask) != segment->entry ||
            index_value(r->index, key, hash) != &bucket->rows[i])
            archive_refuse(r->in, "feasign %llu stands where it is not looked for",
                           (unsigned long long)key);
    }
}

static void restore_segment(const struct restoring *r, uint32_t number) {
    struct index *const index = r->index;
    struct index_segment segment = {.depth = archive_get_u8(r->in)};
    segment.entry = archive_get_u32(r->in);
    const uint32_t n_pages = archive_get_u8(r->in);
    if (segment.depth > INDEX_DIRECTORY_BITS_MAX || 1u << segment.depth > index->mask + 1 ||
        segment.entry >> segment.depth != 0 || n_pages == 0 || n_pages > INDEX_PAGES)
        archive_refuse(r->in, "segment %u of the index is none", number);
    const uint64_t step = r->in->err == DIMFIT_OK ? (uint64_t)1 << segment.depth : 1;
    for (uint64_t i = segment.entry; r->in->err == DIMFIT_OK && i <= index->mask; i += step) {
        if (index->places[i].n_buckets != 0)
            archive_refuse(r->in, "segment %u of the index has another one's keys", number);
    }
    struct index_place place = {.segment = number};
    if (r->in->err == DIMFIT_OK &&
        (!index_segments_reserve(index) || !index_place_extend(index, &place, n_pages)))
        archive_no_memory(r->in);
    if (r->in->err != DIMFIT_OK)
        return;
    index->n_segments++;
    index->segments[number] = segment;
    index_point(index, segment.entry, segment.depth, place);
    for (uint32_t i = 0; i < place.n_buckets && r->in->err == DIMFIT_OK; i++) {
        struct index_bucket *const bucket = index_bucket(index, &place, i);
        restore_bucket(r, bucket);
        index->segments[number].count += bucket->count;
    }
    index->n_keys += index->segments[number].count;
    for (uint32_t i = 0; i < place.n_buckets && r->in->err == DIMFIT_OK; i++)
        check_bucket(r, &segment, index_bucket(index, &place, i));
}

static void restore_spare(const struct restoring *r) {
    struct index *const index = r->index;
    const uint64_t n = archive_get_u64(r->in);
    for (uint64_t i = 0; i < n && r->in->err == DIMFIT_OK; i++) {
        if (index->n_spare == index->cap_spare) {
            const size_t cap = index->cap_spare ? 2 * index->cap_spare : 16;
            struct index_spare *const spare = realloc(index->spare, cap * sizeof *spare);
            if (spare == NULL) {
                archive_no_memory(r->in);
                return;
            }
            index->spare = spare;
            index->cap_spare = cap;
        }
        const struct index_spare spare = {archive_get_u64(r->in), archive_get_u32(r->in)};
        if (index->n_segments == 0 ||
            index_value(index, spare.key, index_hash(index, spare.key)) != NULL)
            archive_refuse(r->in, "feasign %llu is there twice", (unsigned long long)spare.key);
        r->take(r->self, r->in, spare.row);
        if (r->in->err == DIMFIT_OK)
            index->spare[index->n_spare++] = spare;
    }
}

void index_restore(struct index *index, struct archive_reader *in,
                   void (*take)(void *self, struct archive_reader *in, uint32_t value),
                   void *self) {
    const struct restoring r = {index, in, take, self};
    base_assert(index->n_segments == 0 && index->places == NULL);
    archive_get_mark(in, MARK, "index");
    const uint32_t page_bits = archive_get_u8(in), mask = archive_get_u32(in);
    const uint32_t n_segments = archive_get_u32(in);
    if (page_bits > INDEX_PAGE_BITS_MAX || mask >> INDEX_DIRECTORY_BITS_MAX != 0 ||
        (mask & (mask + 1)) != 0 || n_segments > mask + 1 || (n_segments == 0 && mask != 0))
        archive_refuse(in, "an index of %u segments in a directory of %u", n_segments, mask + 1);
    if (in->err != DIMFIT_OK)
        return;
    index_pages_init(index, page_bits);
    if (n_segments > 0) {
        index->places = calloc((size_t)mask + 1, sizeof *index->places);
        if (index->places == NULL) {
            archive_no_memory(in);
            return;
        }
        index->mask = mask;
    }
    for (uint32_t s = 0; s < n_segments && in->err == DIMFIT_OK; s++)
        restore_segment(&r, s);
    for (uint64_t i = 0; i <= mask && n_segments > 0 && in->err == DIMFIT_OK; i++) {
        if (index->places[i].n_buckets == 0)
            archive_refuse(in, "part of the index is missing");
    }
    if (in->err == DIMFIT_OK)
        restore_spare(&r);
}
