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

/* A chunk may leave its slab for another, or for whoever saves its rows: bytes of the i-th chunk,
 * and that chunk itself, which is the caller's from then on, for slab_give() if it is full or
 * slab_chunk_free(). Its rows have no place any more. */
size_t slab_chunk_bytes(const struct slab *slab, uint32_t i);
float *slab_take(struct slab *slab, uint32_t i);
/* Rows of the i-th chunk, which was taken, stand at `chunk` from now on. It is not the slab's: it
 * is to be taken again before slab_fini(). */
void slab_lend(struct slab *slab, uint32_t i, float *chunk);
/* A full chunk becomes the slab's next one, if it has full chunks and may want this one for `rows`
 * rows in all. */
bool slab_give(struct slab *slab, float *chunk, uint64_t rows);
void slab_chunk_free(float *chunk, size_t bytes);

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
