/*
 * A multilayer perceptron with ReLU between its layers and one linear output.
 *
 * Layer 0 and the rest keep their weights in two vectors, since a layout change starts the first
 * dense layer anew and leaves the others alone. A layer's part of a vector is W[in][out], row by
 * row, then b[out]. Holds the activations of the last forward pass; belongs to one thread.
 */
#ifndef TRAIN_MLP_H
#define TRAIN_MLP_H

#include "worker/train/real.h"
#include "worker/train/rng.h"

enum { MLP_HIDDEN_MAX = 8 };

struct mlp {
    size_t n_layers;                  /* with the output */
    size_t width[MLP_HIDDEN_MAX + 2]; /* [n_layers + 1]: input, hidden ..., 1 */
    size_t n_first, n_rest;           /* lengths of the two vectors */
    size_t cap;                       /* samples a pass may have */
    real *out[MLP_HIDDEN_MAX + 1];    /* [layer][cap][width]: what each layer puts out */
    real *grad[2];                    /* [cap][largest width] */
};

void mlp_init(struct mlp *mlp, size_t input, const size_t *hidden, size_t n_hidden, size_t cap);
void mlp_fini(struct mlp *mlp);

/* Weights to start from: normal of variance 2 / in (He et al. 2015), biases zero. */
void mlp_init_first(const struct mlp *mlp, struct rng *rng, real *first);
void mlp_init_rest(const struct mlp *mlp, struct rng *rng, real *rest);

/* The outputs of n <= cap samples x[n][input]; valid until the next pass. */
const real *mlp_forward(struct mlp *mlp, const real *x, size_t n, const real *first,
                        const real *rest);

/* After mlp_forward() of the same x: gradients of the weights (overwritten) and of x (added to dx),
 * from those of the outputs. */
void mlp_backward(struct mlp *mlp, const real *x, size_t n, const real *first, const real *rest,
                  const real *doutput, real *dfirst, real *drest, real *dx);

#endif
