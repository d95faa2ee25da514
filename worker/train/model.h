/*
 * The click models: factorization machine, Wide & Deep, DeepFM (Rendle 2010, Cheng et al. 2016, Guo
 * et al. 2017), as functions of one batch.
 *
 * With v_s the embedding of slot s (the weighted sum over its feasigns, zero when it has none):
 *
 *     fm      bias + first order + 1/2 (|sum_s v_s|^2 - sum_s |v_s|^2)
 *     wdl     bias + first order + MLP(v_1 .. v_S)
 *     deepfm  fm + MLP(v_1 .. v_S)
 *
 * In the compact view slots come as stored rows, and v_s = count_s mu_s + r_s W_s with a W_s (width
 * x dim) that is trained and a mu_s that is not. Gradients are of the mean log loss of the batch. A
 * model knows no cluster; weights are handed in. It holds the activations of its last forward pass
 * and belongs to one thread.
 */
#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H

#include "worker/train/metrics.h"
#include "worker/train/mlp.h"

#include <stdint.h>

enum model_kind { MODEL_FM, MODEL_WDL, MODEL_DEEPFM };

/* The dense weights, in the vectors they are shared in. */
enum model_group {
    MODEL_BIAS,  /* one number */
    MODEL_FIRST, /* first dense layer */
    MODEL_REST,  /* the other dense layers */
    MODEL_PROJ,  /* compact: every slot's W_s [width][dim], then every slot's mu_s [dim] */
    MODEL_GROUPS
};

struct model_shape {
    enum model_kind kind;
    size_t n_slots, dim;
    const uint32_t *widths; /* [n_slots] stored widths; NULL: the full view */
    size_t n_hidden, hidden[MLP_HIDDEN_MAX];
};

struct model;

struct model *model_new(const struct model_shape *shape, size_t max_batch);
void model_destroy(struct model **m);

size_t model_group_size(const struct model *m, enum model_group group); /* 0: not in this model */
size_t model_input_width(const struct model *m);              /* numbers a sample has in x */
size_t model_slot_offset(const struct model *m, size_t slot); /* of a slot's numbers in x */

/* Initial weights of FIRST or REST. */
void model_init_group(const struct model *m, enum model_group group, struct rng *rng, real *out);

struct model_batch {
    size_t n;
    const real *x;      /* [n][input width] slots' sums of rows */
    const real *count;  /* [n][n_slots] slots' sums of weights; NULL: 1 each (compact only) */
    const real *linear; /* [n] sum of first-order weights */
    const float *label; /* [n]; backward only */
    const struct calibration *calibration; /* backward: the loss is of logits as calibrated;
                                            * NULL: as they are */
};

/* Log odds of each sample; valid until the next pass. */
const real *model_forward(struct model *m, const struct model_batch *batch,
                          real *const weights[MODEL_GROUPS]);

/* After model_forward() of the same batch: gradients of the weights and of the batch (all
 * overwritten): dx[n][input width] and dlogit[n], which is also the first-order weights'. mu's
 * gradient is zero. */
void model_backward(struct model *m, const struct model_batch *batch,
                    real *const weights[MODEL_GROUPS], real *const dweights[MODEL_GROUPS], real *dx,
                    real *dlogit);

#endif
