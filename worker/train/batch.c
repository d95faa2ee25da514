#include "worker/train/batch.h"
#include "proto/kernel.h"
#include "proto/key_hash.h"
#include "worker/train/mem.h"

#include <stdlib.h>

#pragma GCC optimize("O3") /* see kernel.h */

void batch_init(struct batch *batch, const struct dataset *data) {
    const size_t S = data->n_slots;
    *batch = (struct batch){.data = data};
    batch->rows = mem_alloc(S + 1, sizeof *batch->rows);
    batch->widths = mem_alloc(S, sizeof *batch->widths);
    batch->offset = mem_alloc(S + 1, sizeof *batch->offset);
    batch->first = mem_alloc(S + 1, sizeof *batch->first);
    batch->at = mem_alloc(S + 1, sizeof *batch->at);
}

void batch_fini(struct batch *batch) {
    free(batch->rows);
    free(batch->labels);
    free(batch->widths);
    free(batch->offset);
    free(batch->first);
    free(batch->at);
    free(batch->keys);
    free(batch->linear_keys);
    free(batch->sample);
    free(batch->weight);
    free(batch->values);
    *batch = (struct batch){0};
}

static void reserve(struct batch *batch, size_t samples, size_t occurrences, size_t values) {
    if (samples > batch->cap_samples) {
        batch->cap_samples = samples;
        batch->labels = mem_resize(batch->labels, samples, sizeof *batch->labels);
    }
    if (occurrences > batch->cap_occurrences) {
        const size_t n = batch->cap_occurrences = occurrences + occurrences / 4;
        batch->keys = mem_resize(batch->keys, n, sizeof *batch->keys);
        batch->linear_keys = mem_resize(batch->linear_keys, n, sizeof *batch->linear_keys);
        batch->sample = mem_resize(batch->sample, n, sizeof *batch->sample);
        batch->weight = mem_resize(batch->weight, n, sizeof *batch->weight);
    }
    if (values > batch->cap_values) {
        batch->cap_values = values + values / 4;
        batch->values = mem_resize(batch->values, batch->cap_values, sizeof *batch->values);
    }
}

/* Set first[] and at[] from how often each slot occurs. */
static void lay_out(struct batch *batch, const uint32_t *samples, size_t n) {
    const struct dataset *const data = batch->data;
    const size_t S = data->n_slots;
    size_t *const first = batch->first;
    memset(first, 0, (S + 1) * sizeof *first);
    if (data->slot == NULL) {
        for (size_t s = 0; s < S; s++)
            first[s + 1] = n;
    } else {
        for (size_t b = 0; b < n; b++) {
            const uint64_t end = dataset_start(data, (uint64_t)samples[b] + 1);
            for (uint64_t o = dataset_start(data, samples[b]); o < end; o++)
                first[data->slot[o] + 1]++;
        }
    }
    batch->at[0] = batch->offset[0] = 0;
    for (size_t s = 0; s < S; s++) {
        batch->at[s + 1] = batch->at[s] + first[s + 1] * batch->widths[s];
        batch->offset[s + 1] = batch->offset[s] + batch->widths[s];
        first[s + 1] += first[s];
    }
    batch->occurrences = first[S];
}

/* Sort the samples' occurrences by slot; first[] is advanced and set back. */
static void gather(struct batch *batch, const uint32_t *samples, size_t n) {
    const struct dataset *const data = batch->data;
    const size_t S = data->n_slots;
    size_t *const next = batch->first;
    for (size_t b = 0; b < n; b++) {
        const uint64_t begin = dataset_start(data, samples[b]);
        const uint64_t end = dataset_start(data, (uint64_t)samples[b] + 1);
        batch->labels[b] = data->labels[samples[b]];
        for (uint64_t o = begin; o < end; o++) {
            const size_t s = data->slot != NULL ? data->slot[o] : (size_t)(o - begin);
            const size_t to = next[s]++;
            batch->keys[to] = data->keys[o];
            batch->linear_keys[to] = key_hash(data->slots[s].id, data->keys[o]);
            batch->sample[to] = (uint32_t)b;
            if (data->weight != NULL)
                batch->weight[to] = data->weight[o];
        }
    }
    memmove(next + 1, next, S * sizeof *next);
    next[0] = 0;
}

void batch_fill(struct batch *batch, const uint32_t *samples, size_t n, const uint32_t *widths) {
    const size_t S = batch->data->n_slots;
    batch->n = n;
    memcpy(batch->widths, widths, S * sizeof *widths);
    lay_out(batch, samples, n);
    reserve(batch, n, batch->occurrences, batch->at[S] + batch->occurrences);
    gather(batch, samples, n);
    batch->n_rows = 0;
    for (size_t s = 0; s < S; s++) {
        const size_t begin = batch->first[s], rows = batch->first[s + 1] - begin;
        if (rows > 0 && widths[s] > 0)
            batch->rows[batch->n_rows++] = (struct dimfit_rows){.slot = batch->data->slots[s].id,
                                                                .n = rows,
                                                                .keys = batch->keys + begin,
                                                                .values = batch->values +
                                                                          batch->at[s],
                                                                .width = widths[s]};
    }
    batch->rows[batch->n_rows++] = (struct dimfit_rows){.slot = SAMPLE_SLOT_LINEAR,
                                                        .n = batch->occurrences,
                                                        .keys = batch->linear_keys,
                                                        .values = batch->values + batch->at[S],
                                                        .width = 1};
}

static float weight_of(const struct batch *batch, size_t occurrence) {
    return batch->data->weight != NULL ? batch->weight[occurrence] : 1;
}

/* One slot's rows on their way to their samples' inputs, and gradients back. */
KERNEL static void pool_slot(const struct batch *batch, size_t s, size_t input, real *x,
                             real *linear) {
    const size_t S = batch->data->n_slots, width = batch->widths[s];
    const float *const first_order = batch->values + batch->at[S];
    const float *restrict from = batch->values + batch->at[s];
    for (size_t o = batch->first[s]; o < batch->first[s + 1]; o++, from += width) {
        const size_t b = batch->sample[o];
        const real weight = weight_of(batch, o);
        real *restrict const to = x + b * input + batch->offset[s];
        for (size_t k = 0; k < width; k++)
            to[k] += weight * from[k];
        linear[b] += weight * first_order[o];
    }
}

KERNEL static void unpool_slot(const struct batch *batch, size_t s, size_t input, const real *dx,
                               const real *dlinear) {
    const size_t S = batch->data->n_slots, width = batch->widths[s];
    float *const first_order = batch->values + batch->at[S];
    float *restrict to = batch->values + batch->at[s];
    for (size_t o = batch->first[s]; o < batch->first[s + 1]; o++, to += width) {
        const size_t b = batch->sample[o];
        const real weight = weight_of(batch, o);
        const real *restrict const from = dx + b * input + batch->offset[s];
        for (size_t k = 0; k < width; k++)
            to[k] = (float)(weight * from[k]);
        first_order[o] = (float)(weight * dlinear[b]);
    }
}

static void count_slot(const struct batch *batch, size_t s, real *count) {
    for (size_t o = batch->first[s]; o < batch->first[s + 1]; o++)
        count[batch->sample[o] * batch->data->n_slots + s] += weight_of(batch, o);
}

void batch_pool(const struct batch *batch, real *x, real *count, real *linear) {
    const size_t S = batch->data->n_slots, input = batch->offset[S];
    memset(x, 0, batch->n * input * sizeof *x);
    memset(linear, 0, batch->n * sizeof *linear);
    if (count != NULL)
        memset(count, 0, batch->n * S * sizeof *count);
    for (size_t s = 0; s < S; s++) {
        pool_slot(batch, s, input, x, linear);
        if (count != NULL)
            count_slot(batch, s, count);
    }
}

KERNEL static void pool_rows(const struct batch *batch, size_t s, const float *restrict from,
                             size_t input, real *x) {
    const size_t width = batch->widths[s];
    for (size_t o = batch->first[s]; o < batch->first[s + 1]; o++, from += width) {
        const real weight = weight_of(batch, o);
        real *restrict const to = x + batch->sample[o] * input + batch->offset[s];
        for (size_t k = 0; k < width; k++)
            to[k] += weight * from[k];
    }
}

void batch_pool_slot(const struct batch *batch, size_t s, const float *rows, real *x) {
    const size_t input = batch->offset[batch->data->n_slots];
    for (size_t b = 0; b < batch->n; b++)
        memset(x + b * input + batch->offset[s], 0, batch->widths[s] * sizeof *x);
    pool_rows(batch, s, rows, input, x);
}

void batch_unpool(struct batch *batch, const real *dx, const real *dlinear) {
    const size_t S = batch->data->n_slots, input = batch->offset[S];
    for (size_t s = 0; s < S; s++)
        unpool_slot(batch, s, input, dx, dlinear);
}
