/*
 * Rows of one fixed width, in chunks: a row keeps its number for life and its place until the slab
 * grows.
 *
 * A cell is 4 bytes, a float or a count. The first chunk doubles until it is full size, so that
 * thousands of small slots are cheap; then chunks of 2 MiB follow, on huge pages where the system
 * has them. Rows are not initialised; those of a multiple of 64 bytes are aligned to it. A stride
 * of 0 is legal and costs nothing: such rows have an address and no content. Owned by one thread.
 */
#ifndef SERVER_SLAB_H
#define SERVER_SLAB_H

#include "proto/base.h"
#include "server/stock.h"

enum { SLAB_CHUNK_BYTES = STOCK_CHUNK };

struct slab {
    float **chunks;
    uint64_t reciprocal; /* of chunk_rows: a row's chunk without a division */
    uint32_t stride;     /* cells a row */
    uint32_t chunk_rows; /* rows of a full chunk */
    uint32_t first_rows; /* rows of the first one so far */
    uint32_t n_chunks, cap_chunks;
};

void slab_init(struct slab *slab, size_t stride);
void slab_fini(struct slab *slab);

/* Make room for `rows` rows in all. NOMEM, what was there unchanged. May move rows. */
dimfit_err slab_reserve(struct slab *slab, uint64_t rows) MUST_CHECK;

/* Give back a whole chunk behind the first `rows` rows, if there is one; a first chunk stays. True:
 * there are more. */
bool slab_truncate(struct slab *slab, uint64_t rows);

/* What is allocated, what so many rows in all would take beside it, and what so many rows of so
 * many cells would take. */
uint64_t slab_bytes(const struct slab *slab);
uint64_t slab_growth(const struct slab *slab, uint64_t rows);
uint64_t slab_bytes_for(size_t stride, uint64_t rows);

/*
 * The same rows at another width: a new slab is filled from an old one, row by row in order, and
 * takes over the chunks of the old whose rows are done with. So a change needs few new pages, which
 * the system would zero first, and never both slabs whole. All that can fail is in begin; the old
 * slab stays as it is until the first row beyond what begin allocated is reached.
 */
struct slab_refill {
    struct slab *old;
    struct slab new;
    uint32_t taken; /* chunks of the old slab, from its first */
};

/* NOMEM, nothing changed. `rows` are those of the old slab. */
dimfit_err slab_refill_begin(struct slab_refill *refill, struct slab *old, size_t stride,
                             uint64_t rows) MUST_CHECK;
void slab_refill_drop(struct slab_refill *refill); /* instead of filling */

/* Rows before `row` are filled, their old cells are not needed any more: see to it that `row`, the
 * next one, has a place. */
void slab_refill_reach(struct slab_refill *refill, uint32_t row);

/* All rows are filled: *old becomes the new slab, chunks left over go back to the system. */
void slab_refill_end(struct slab_refill *refill);

/* What begin allocates. */
uint64_t slab_refill_bytes(const struct slab *old, size_t stride, uint64_t rows);

/* Rows from this one on that stand one after another, as far as there are any. */
static inline uint32_t slab_run(const struct slab *slab, uint32_t row) {
    return slab->chunk_rows - row % slab->chunk_rows;
}

/* Row 0 has an address, to prefetch, even in an empty slab. Exact for any 32-bit row: Lemire, Kaser
 * & Kurz 2019, "Faster remainder by direct computation". */
static inline void *slab_row(const struct slab *slab, uint32_t row) {
    const uint32_t chunk = (uint32_t)(((unsigned __int128)slab->reciprocal * row) >> 64);
    return slab->chunks[chunk] + (size_t)(row - chunk * slab->chunk_rows) * slab->stride;
}

/* Start loading a row, given its place. */
static inline void slab_prefetch(const struct slab *slab, const void *row) {
    size_t i = 0;
    do {
        base_prefetch((const char *)row + i);
        __asm__ volatile(""); /* GCC drops a loop of nothing but prefetches */
        i += 64;
    } while (i < slab->stride * sizeof(float));
}

#endif
