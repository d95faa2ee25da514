#include "server/slab.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
    CHUNK_BYTES = SLAB_CHUNK_BYTES,
    FIRST_ROWS = 4,
};

/* All rows of a slab without width are here; row 0 of an empty one seems to be. */
static float nothing[1];
static float *nowhere[1] = {nothing};

static uint32_t full_rows(size_t stride) {
    return stride == 0 ? UINT32_MAX : (uint32_t)(CHUNK_BYTES / (stride * sizeof(float)));
}

void slab_init(struct slab *slab, size_t stride) {
    base_assert(stride * sizeof(float) <= CHUNK_BYTES / 2);
    const uint32_t rows = full_rows(stride);
    *slab = (struct slab){
        .chunks = nowhere,
        .reciprocal = UINT64_MAX / rows + 1,
        .stride = (uint32_t)stride,
        .chunk_rows = rows,
    };
}

static bool is_full_size(const struct slab *slab) {
    return slab->first_rows == slab->chunk_rows;
}

static float *chunk_new(void) {
    float *const chunk = stock_take();
    return chunk != NULL ? chunk : stock_chunk();
}

/* Aligned, so that a row of 64 bytes is one cache line. */
static float *small_new(size_t cells) {
    return aligned_alloc(64, (cells * sizeof(float) + 63) / 64 * 64);
}

/* The pages go back now, not when the allocator comes to think of it: a shrunk model is to be seen
 * in the resident size. */
static void chunk_free(float *chunk) {
    if (chunk == NULL)
        return; /* it was taken */
    (void)madvise(chunk, CHUNK_BYTES, MADV_DONTNEED);
    free(chunk);
}

void slab_fini(struct slab *slab) {
    if (slab->stride > 0) {
        for (uint32_t i = 0; i < slab->n_chunks; i++) {
            if (is_full_size(slab))
                chunk_free(slab->chunks[i]);
            else
                free(slab->chunks[i]);
        }
        if (slab->cap_chunks > 0)
            free(slab->chunks);
    }
    slab_init(slab, slab->stride);
}

static uint32_t cap_for(uint32_t cap, uint64_t n) {
    uint32_t grown = cap ? cap : 1;
    while (grown < n)
        grown *= 2;
    return grown;
}

static dimfit_err chunks_reserve(struct slab *slab, uint32_t n) {
    if (n <= slab->cap_chunks)
        return DIMFIT_OK;
    const uint32_t cap = cap_for(slab->cap_chunks, n);
    float **const chunks = realloc(slab->cap_chunks > 0 ? slab->chunks : NULL,
                                   cap * sizeof *chunks);
    if (chunks == NULL)
        return DIMFIT_ERR_NOMEM;
    slab->chunks = chunks;
    slab->cap_chunks = cap;
    return DIMFIT_OK;
}

static size_t first_bytes(const struct slab *slab) {
    return is_full_size(slab) ? CHUNK_BYTES
                              : (size_t)slab->first_rows * slab->stride * sizeof(float);
}

static uint32_t first_rows_for(uint32_t chunk_rows, uint32_t from, uint64_t rows) {
    uint64_t n = from ? from : FIRST_ROWS;
    while (n < rows && n < chunk_rows)
        n *= 2;
    return n < chunk_rows ? (uint32_t)n : chunk_rows;
}

static dimfit_err first_grow(struct slab *slab, uint64_t rows) {
    const uint32_t n = first_rows_for(slab->chunk_rows, slab->first_rows, rows);
    if (n == slab->first_rows)
        return DIMFIT_OK;
    const dimfit_err err = chunks_reserve(slab, 1);
    if (err != DIMFIT_OK)
        return err;
    float *const old = slab->n_chunks ? slab->chunks[0] : NULL;
    float *const chunk = n < slab->chunk_rows ? small_new((size_t)n * slab->stride) : chunk_new();
    if (chunk == NULL)
        return DIMFIT_ERR_NOMEM;
    if (old != NULL)
        memcpy(chunk, old, first_bytes(slab));
    free(old);
    slab->chunks[0] = chunk;
    slab->n_chunks = 1;
    slab->first_rows = n;
    return DIMFIT_OK;
}

static uint32_t chunks_for(uint64_t rows, uint32_t chunk_rows) {
    return (uint32_t)((rows + chunk_rows - 1) / chunk_rows);
}

dimfit_err slab_reserve(struct slab *slab, uint64_t rows) {
    if (slab->stride == 0 || rows == 0)
        return DIMFIT_OK;
    if (rows >= UINT32_MAX)
        return DIMFIT_ERR_NOMEM;
    dimfit_err err = first_grow(slab, rows);
    if (err != DIMFIT_OK)
        return err;
    const uint32_t n = chunks_for(rows, slab->chunk_rows);
    err = chunks_reserve(slab, n);
    if (err != DIMFIT_OK)
        return err;
    while (slab->n_chunks < n) {
        float *const chunk = chunk_new();
        if (chunk == NULL)
            return DIMFIT_ERR_NOMEM;
        slab->chunks[slab->n_chunks++] = chunk;
    }
    return DIMFIT_OK;
}

static bool has_idle_chunk(const struct slab *slab, uint64_t rows) {
    return slab->n_chunks > 1 && (uint64_t)(slab->n_chunks - 1) * slab->chunk_rows >= rows;
}

bool slab_truncate(struct slab *slab, uint64_t rows) {
    if (!has_idle_chunk(slab, rows))
        return false;
    chunk_free(slab->chunks[--slab->n_chunks]);
    return has_idle_chunk(slab, rows);
}

uint64_t slab_bytes(const struct slab *slab) {
    if (slab->n_chunks == 0)
        return 0;
    return first_bytes(slab) + (uint64_t)(slab->n_chunks - 1) * CHUNK_BYTES +
           slab->cap_chunks * sizeof *slab->chunks;
}

uint64_t slab_growth(const struct slab *slab, uint64_t rows) {
    const uint64_t have = slab->n_chunks <= 1 ? slab->first_rows
                                              : (uint64_t)slab->n_chunks * slab->chunk_rows;
    if (rows <= have)
        return 0;
    const uint64_t now = slab_bytes(slab), then = slab_bytes_for(slab->stride, rows);
    return then > now ? then - now : 0;
}

uint64_t slab_bytes_for(size_t stride, uint64_t rows) {
    if (stride == 0 || rows == 0)
        return 0;
    const uint32_t full = full_rows(stride);
    const uint32_t first = first_rows_for(full, 0, rows);
    if (first < full)
        return (uint64_t)first * stride * sizeof(float) + sizeof(float *);
    const uint32_t n = chunks_for(rows, full);
    return (uint64_t)n * CHUNK_BYTES + cap_for(0, n) * sizeof(float *);
}

size_t slab_chunk_bytes(const struct slab *slab, uint32_t i) {
    return i == 0 ? first_bytes(slab) : CHUNK_BYTES;
}

float *slab_take(struct slab *slab, uint32_t i) {
    base_assert(i < slab->n_chunks);
    float *const chunk = slab->chunks[i];
    slab->chunks[i] = NULL;
    return chunk;
}

void slab_lend(struct slab *slab, uint32_t i, float *chunk) {
    base_assert(i < slab->n_chunks && slab->chunks[i] == NULL);
    slab->chunks[i] = chunk;
}

bool slab_give(struct slab *slab, float *chunk, uint64_t rows) {
    if (slab->stride == 0 || !is_full_size(slab) ||
        slab->n_chunks >= chunks_for(rows, slab->chunk_rows) ||
        chunks_reserve(slab, slab->n_chunks + 1) != DIMFIT_OK)
        return false;
    slab->chunks[slab->n_chunks++] = chunk;
    return true;
}

void slab_chunk_free(float *chunk, size_t bytes) {
    if (bytes == CHUNK_BYTES)
        chunk_free(chunk);
    else
        free(chunk);
}
