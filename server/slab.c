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
        return; /* a refill took it */
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

/* Full chunks that a refill must have from the start. When it comes to chunk i, the rows before it
 * are done with, and so are the old chunks they fill. */
static uint32_t fresh_chunks(const struct slab *old, size_t stride, uint64_t rows) {
    const uint32_t full = full_rows(stride), n = chunks_for(rows, full);
    if (old->stride == 0 || !is_full_size(old))
        return n;
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t done = (uint32_t)((uint64_t)i * full / old->chunk_rows);
        if (done < i + 1 && i + 1 - done > fresh)
            fresh = i + 1 - done;
    }
    return fresh;
}

static bool has_full_chunks(size_t stride, uint64_t rows) {
    const uint32_t full = full_rows(stride);
    return stride > 0 && rows > 0 && first_rows_for(full, 0, rows) == full;
}

uint64_t slab_refill_bytes(const struct slab *old, size_t stride, uint64_t rows) {
    if (!has_full_chunks(stride, rows))
        return slab_bytes_for(stride, rows);
    return (uint64_t)fresh_chunks(old, stride, rows) * CHUNK_BYTES +
           cap_for(0, chunks_for(rows, full_rows(stride))) * sizeof(float *);
}

dimfit_err slab_refill_begin(struct slab_refill *refill, struct slab *old, size_t stride,
                             uint64_t rows) {
    *refill = (struct slab_refill){.old = old};
    slab_init(&refill->new, stride);
    struct slab *const new = &refill->new;
    dimfit_err err = DIMFIT_OK;
    uint64_t whole = rows;
    if (has_full_chunks(stride, rows)) {
        err = chunks_reserve(new, chunks_for(rows, new->chunk_rows));
        whole = (uint64_t)fresh_chunks(old, stride, rows) * new->chunk_rows;
    }
    if (err == DIMFIT_OK)
        err = slab_reserve(new, whole < rows ? whole : rows);
    if (err != DIMFIT_OK)
        slab_fini(new);
    return err;
}

void slab_refill_drop(struct slab_refill *refill) {
    slab_fini(&refill->new);
}

void slab_refill_reach(struct slab_refill *refill, uint32_t row) {
    struct slab *const old = refill->old, *const new = &refill->new;
    if (new->stride == 0 || row / new->chunk_rows < new->n_chunks)
        return;
    base_assert(is_full_size(old) && (refill->taken + 1) * (uint64_t)old->chunk_rows <= row &&
                new->n_chunks < new->cap_chunks);
    new->chunks[new->n_chunks++] = old->chunks[refill->taken];
    old->chunks[refill->taken++] = NULL;
}

void slab_refill_end(struct slab_refill *refill) {
    slab_fini(refill->old);
    *refill->old = refill->new;
}
