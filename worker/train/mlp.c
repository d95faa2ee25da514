#include "worker/train/mlp.h"
#include "proto/base.h"
#include "worker/train/mem.h"

#include <stdlib.h>

static size_t layer_size(const struct mlp *mlp, size_t layer) {
    return (mlp->width[layer] + 1) * mlp->width[layer + 1];
}

void mlp_init(struct mlp *mlp, size_t input, const size_t *hidden, size_t n_hidden, size_t cap) {
    base_assert(n_hidden >= 1 && n_hidden <= MLP_HIDDEN_MAX);
    *mlp = (struct mlp){.n_layers = n_hidden + 1, .cap = cap};
    mlp->width[0] = input;
    for (size_t i = 0; i < n_hidden; i++)
        mlp->width[i + 1] = hidden[i];
    mlp->width[n_hidden + 1] = 1;
    size_t largest = 1;
    for (size_t i = 0; i < mlp->n_layers; i++) {
        const size_t out = mlp->width[i + 1];
        mlp->out[i] = mem_alloc(cap * out, sizeof(real));
        largest = out > largest ? out : largest;
        if (i > 0)
            mlp->n_rest += layer_size(mlp, i);
    }
    mlp->n_first = layer_size(mlp, 0);
    for (size_t i = 0; i < 2; i++)
        mlp->grad[i] = mem_alloc(cap * largest, sizeof(real));
}

void mlp_fini(struct mlp *mlp) {
    for (size_t i = 0; i < mlp->n_layers; i++)
        free(mlp->out[i]);
    free(mlp->grad[0]);
    free(mlp->grad[1]);
    *mlp = (struct mlp){0};
}

static void init_layer(struct rng *rng, size_t in, size_t out, real *weights) {
    const double scale = sqrt(2.0 / (double)in);
    for (size_t i = 0; i < in * out; i++)
        weights[i] = (real)(scale * rng_normal(rng));
    memset(weights + in * out, 0, out * sizeof *weights);
}

void mlp_init_first(const struct mlp *mlp, struct rng *rng, real *first) {
    init_layer(rng, mlp->width[0], mlp->width[1], first);
}

void mlp_init_rest(const struct mlp *mlp, struct rng *rng, real *rest) {
    for (size_t i = 1; i < mlp->n_layers; i++) {
        init_layer(rng, mlp->width[i], mlp->width[i + 1], rest);
        rest += layer_size(mlp, i);
    }
}

static void forward_layer(struct mlp *mlp, size_t layer, const real *x, size_t n, const real *w) {
    const int in = (int)mlp->width[layer], out = (int)mlp->width[layer + 1];
    const real *const bias = w + (size_t)in * (size_t)out;
    real *const y = mlp->out[layer];
    for (size_t b = 0; b < n; b++)
        memcpy(y + b * (size_t)out, bias, (size_t)out * sizeof *y);
    real_gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, out, in, 1, x, in, w, out, 1, y,
              out);
    if (layer + 1 == mlp->n_layers)
        return;
    for (size_t i = 0; i < n * (size_t)out; i++)
        y[i] = y[i] > 0 ? y[i] : 0;
}

const real *mlp_forward(struct mlp *mlp, const real *x, size_t n, const real *first,
                        const real *rest) {
    base_assert(n <= mlp->cap);
    forward_layer(mlp, 0, x, n, first);
    for (size_t i = 1; i < mlp->n_layers; i++) {
        forward_layer(mlp, i, mlp->out[i - 1], n, rest);
        rest += layer_size(mlp, i);
    }
    return mlp->out[mlp->n_layers - 1];
}

static void backward_weights(const struct mlp *mlp, size_t layer, const real *x, size_t n,
                             const real *dy, real *dw) {
    const int in = (int)mlp->width[layer], out = (int)mlp->width[layer + 1];
    real *const dbias = dw + (size_t)in * (size_t)out;
    real_gemm(CblasRowMajor, CblasTrans, CblasNoTrans, in, out, (int)n, 1, x, in, dy, out, 0, dw,
              out);
    memset(dbias, 0, (size_t)out * sizeof *dbias);
    for (size_t b = 0; b < n; b++) {
        for (int j = 0; j < out; j++)
            dbias[j] += dy[b * (size_t)out + (size_t)j];
    }
}

void mlp_backward(struct mlp *mlp, const real *x, size_t n, const real *first, const real *rest,
                  const real *doutput, real *dfirst, real *drest, real *dx) {
    const real *dy = doutput;
    size_t at = mlp->n_rest;
    for (size_t i = mlp->n_layers - 1; i > 0; i--) {
        const int in = (int)mlp->width[i], out = (int)mlp->width[i + 1];
        const real *const input = mlp->out[i - 1];
        real *const dinput = mlp->grad[i % 2];
        at -= layer_size(mlp, i);
        backward_weights(mlp, i, input, n, dy, drest + at);
        real_gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, in, out, 1, dy, out, rest + at,
                  out, 0, dinput, in);
        for (size_t k = 0; k < n * (size_t)in; k++)
            dinput[k] = input[k] > 0 ? dinput[k] : 0;
        dy = dinput;
    }
    const int in = (int)mlp->width[0], out = (int)mlp->width[1];
    backward_weights(mlp, 0, x, n, dy, dfirst);
    real_gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, in, out, 1, dy, out, first, out, 1,
              dx, in);
}
