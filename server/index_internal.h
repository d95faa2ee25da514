/*
 * What the files of a slot's index share (index.h).
 */
#ifndef SERVER_INDEX_INTERNAL_H
#define SERVER_INDEX_INTERNAL_H

#include "server/index.h"

enum {
    INDEX_PAGE_BITS_MAX = 7,       /* 8 KiB; a segment is 64 KiB then, and a rehash short */
    INDEX_DIRECTORY_BITS_MAX = 22, /* bits 32 .. 53 of the hash: those above are alike in a shard */
};

struct index_segment {
    uint32_t count;
    uint32_t depth;   /* hash bits that all its keys share, */
    uint32_t entry;   /* and they: its first directory entry */
    uint64_t version; /* of the index when its buckets moved last */
};

struct index_spare {
    uint64_t key;
    uint32_t row;
};

void index_pages_init(struct index *index, uint32_t page_bits);
uint32_t index_place_pages(const struct index *index, const struct index_place *place);
/* More empty pages, to n_pages in all. False: as it was. */
bool index_place_extend(struct index *index, struct index_place *place, uint32_t n_pages);
bool index_segments_reserve(struct index *index);
/* Let all directory entries of a segment, those that agree with `entry` in `depth` bits, be
 * `place`. */
void index_point(struct index *index, uint32_t entry, uint32_t depth, struct index_place place);

#endif
