/*
 * Some samples of a data set as the cluster wants them, slot by slot, and as the models want them,
 * sample by sample.
 *
 * batch_fill() gathers the samples' feasigns into one array of rows for each slot that occurs, plus
 * the first-order slot "linear", whose key is a hash of (slot, feasign). batch.rows is what is
 * pulled and, with gradients in the place of values, pushed. Belongs to one thread.
 */
#ifndef TRAIN_BATCH_H
#define TRAIN_BATCH_H

#include "worker/dimfit.h"
#include "worker/train/dataset.h"
#include "worker/train/real.h"

struct batch {
    const struct dataset *data; /* borrowed */
    size_t n;                   /* samples */
    size_t occurrences;
    size_t n_rows;            /* entries of rows in use; the last is the first-order slot */
    struct dimfit_rows *rows; /* [n_slots + 1] */
    float *labels;            /* [n] */

    uint32_t *widths; /* [n_slots] of a row */
    size_t *offset;   /* [n_slots + 1] of a slot in a sample's numbers */
    size_t *first;    /* [n_slots + 1] first occurrence of a slot */
    size_t *at;       /* [n_slots + 1] where its values start */
    uint64_t *keys, *linear_keys;
    uint32_t *sample; /* [occurrences] which sample of the batch it belongs to */
    float *weight;    /* [occurrences] where the data has weights */
    float *values;    /* slot by slot, then the first-order ones */
    size_t cap_samples, cap_occurrences, cap_values;
};

void batch_init(struct batch *batch, const struct dataset *data);
void batch_fini(struct batch *batch);

/* Gather samples by row number; widths[n_slots] are those of the view they will be pulled in. */
void batch_fill(struct batch *batch, const uint32_t *samples, size_t n, const uint32_t *widths);

/* x[n][sum widths]: per slot the weighted sum of its rows' values; count[n][n_slots]: of its
 * weights (NULL: not wanted); linear[n]: of first-order values. */
void batch_pool(const struct batch *batch, real *x, real *count, real *linear);

/* One slot's share of x again, from other rows in the place of those pulled. */
void batch_pool_slot(const struct batch *batch, size_t s, const float *rows, real *x);

/* Replace the values by gradients: those of a sample's slot, weighted, for each of its rows. */
void batch_unpool(struct batch *batch, const real *dx, const real *dlinear);

#endif
