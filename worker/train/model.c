#include "worker/train/model.h"
#include "proto/base.h"
#include "worker/train/mem.h"

#include <stdlib.h>

struct model {
    struct model_shape shape;
    size_t max_batch;
    size_t input;   /* numbers a sample has in the batch's x */
    size_t *offset; /* [n_slots + 1] of a slot's numbers in x */
    uint32_t *widths;
    struct mlp mlp; /* with hidden layers only */
    real *v, *dv;   /* [max_batch][n_slots * dim] embeddings; compact only, x and dx otherwise */
    real *sum;      /* [max_batch][dim] sum over slots */
    real *logit;    /* [max_batch] */
};

static bool has_fm(const struct model *m) {
    return m->shape.kind != MODEL_WDL;
}

static bool has_mlp(const struct model *m) {
    return m->shape.kind != MODEL_FM;
}

struct model *model_new(const struct model_shape *shape, size_t max_batch) {
    struct model *const m = mem_alloc(1, sizeof *m);
    m->shape = *shape;
    m->max_batch = max_batch;
    m->offset = mem_alloc(shape->n_slots + 1, sizeof *m->offset);
    if (shape->widths != NULL) {
        m->widths = mem_alloc(shape->n_slots, sizeof *m->widths);
        memcpy(m->widths, shape->widths, shape->n_slots * sizeof *m->widths);
    }
    m->shape.widths = m->widths;
    for (size_t s = 0; s < shape->n_slots; s++)
        m->offset[s + 1] = m->offset[s] + (m->widths != NULL ? m->widths[s] : shape->dim);
    m->input = m->offset[shape->n_slots];
    const size_t all = shape->n_slots * shape->dim;
    if (m->widths != NULL) {
        m->v = mem_alloc(max_batch * all, sizeof(real));
        m->dv = mem_alloc(max_batch * all, sizeof(real));
    }
    m->sum = mem_alloc(max_batch * shape->dim, sizeof(real));
    m->logit = mem_alloc(max_batch, sizeof(real));
    if (has_mlp(m))
        mlp_init(&m->mlp, all, shape->hidden, shape->n_hidden, max_batch);
    return m;
}

void model_destroy(struct model **mp) {
    struct model *const m = *mp;
    if (m == NULL)
        return;
    mlp_fini(&m->mlp);
    free(m->offset);
    free(m->widths);
    free(m->v);
    free(m->dv);
    free(m->sum);
    free(m->logit);
    free(m);
    *mp = NULL;
}

size_t model_group_size(const struct model *m, enum model_group group) {
    switch (group) {
    case MODEL_BIAS:
        return 1;
    case MODEL_FIRST:
        return m->mlp.n_first;
    case MODEL_REST:
        return m->mlp.n_rest;
    case MODEL_PROJ:
        return m->widths != NULL ? (m->input + m->shape.n_slots) * m->shape.dim : 0;
    case MODEL_GROUPS:
        break;
    }
    return 0;
}

size_t model_input_width(const struct model *m) {
    return m->input;
}

size_t model_slot_offset(const struct model *m, size_t slot) {
    return m->offset[slot];
}

void model_init_group(const struct model *m, enum model_group group, struct rng *rng, real *out) {
    base_assert(has_mlp(m) && (group == MODEL_FIRST || group == MODEL_REST));
    if (group == MODEL_FIRST)
        mlp_init_first(&m->mlp, rng, out);
    else
        mlp_init_rest(&m->mlp, rng, out);
}

/* v_s = count_s mu_s + r_s W_s */
static const real *decode(struct model *m, const struct model_batch *batch, const real *proj) {
    const size_t S = m->shape.n_slots, D = m->shape.dim;
    if (m->widths == NULL)
        return batch->x;
    const real *const mu = proj + m->input * D;
    for (size_t b = 0; b < batch->n; b++) {
        for (size_t s = 0; s < S; s++) {
            const real count = batch->count != NULL ? batch->count[b * S + s] : 1;
            for (size_t k = 0; k < D; k++)
                m->v[(b * S + s) * D + k] = count * mu[s * D + k];
        }
    }
    for (size_t s = 0; s < S; s++) {
        if (m->widths[s] > 0)
            real_gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)batch->n, (int)D,
                      (int)m->widths[s], 1, batch->x + m->offset[s], (int)m->input,
                      proj + m->offset[s] * D, (int)D, 1, m->v + s * D, (int)(S * D));
    }
    return m->v;
}

/* dL/dr_s = dL/dv_s W_s^T, dL/dW_s = sum over samples of r_s^T dL/dv_s */
static void decode_backward(const struct model *m, const struct model_batch *batch,
                            const real *proj, const real *dv, real *dproj, real *dx) {
    const size_t S = m->shape.n_slots, D = m->shape.dim;
    memset(dproj + m->input * D, 0, S * D * sizeof *dproj);
    for (size_t s = 0; s < S; s++) {
        const int w = (int)m->widths[s];
        if (w == 0)
            continue;
        real_gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)batch->n, w, (int)D, 1, dv + s * D,
                  (int)(S * D), proj + m->offset[s] * D, (int)D, 0, dx + m->offset[s],
                  (int)m->input);
        real_gemm(CblasRowMajor, CblasTrans, CblasNoTrans, w, (int)D, (int)batch->n, 1,
                  batch->x + m->offset[s], (int)m->input, dv + s * D, (int)(S * D), 0,
                  dproj + m->offset[s] * D, (int)D);
    }
}

/* 1/2 (|sum v|^2 - sum |v|^2) of one sample; leaves the sum for the backward pass. */
static real fm_forward(const real *v, size_t S, size_t D, real *sum) {
    real squares = 0, square = 0;
    memset(sum, 0, D * sizeof *sum);
    for (size_t s = 0; s < S; s++) {
        real part = 0;
        for (size_t k = 0; k < D; k++) {
            sum[k] += v[s * D + k];
            part += v[s * D + k] * v[s * D + k];
        }
        squares += part;
    }
    for (size_t k = 0; k < D; k++)
        square += sum[k] * sum[k];
    return (square - squares) / 2;
}

const real *model_forward(struct model *m, const struct model_batch *batch,
                          real *const weights[MODEL_GROUPS]) {
    const size_t S = m->shape.n_slots, D = m->shape.dim;
    base_assert(batch->n <= m->max_batch);
    const real *const v = decode(m, batch, weights[MODEL_PROJ]);
    for (size_t b = 0; b < batch->n; b++) {
        m->logit[b] = weights[MODEL_BIAS][0] + batch->linear[b];
        if (has_fm(m))
            m->logit[b] += fm_forward(v + b * S * D, S, D, m->sum + b * D);
    }
    if (has_mlp(m)) {
        const real *const deep = mlp_forward(&m->mlp, v, batch->n, weights[MODEL_FIRST],
                                             weights[MODEL_REST]);
        for (size_t b = 0; b < batch->n; b++)
            m->logit[b] += deep[b];
    }
    return m->logit;
}

/* d/dv_s = dlogit (sum v - v_s); overwrites, zero without a factorization machine. */
static void fm_backward(const struct model *m, size_t n, const real *v, const real *dlogit,
                        real *dv) {
    const size_t S = m->shape.n_slots, D = m->shape.dim;
    if (!has_fm(m)) {
        memset(dv, 0, n * S * D * sizeof *dv);
        return;
    }
    for (size_t b = 0; b < n; b++) {
        const real *const sum = m->sum + b * D;
        for (size_t s = 0; s < S; s++) {
            const size_t at = (b * S + s) * D;
            for (size_t k = 0; k < D; k++)
                dv[at + k] = dlogit[b] * (sum[k] - v[at + k]);
        }
    }
}

void model_backward(struct model *m, const struct model_batch *batch,
                    real *const weights[MODEL_GROUPS], real *const dweights[MODEL_GROUPS], real *dx,
                    real *dlogit) {
    const bool compact = m->widths != NULL;
    const real *const v = compact ? m->v : batch->x;
    real *const dv = compact ? m->dv : dx;
    const struct calibration c = batch->calibration != NULL ? *batch->calibration
                                                            : (struct calibration){1, 0};
    real dbias = 0;
    for (size_t b = 0; b < batch->n; b++) {
        const double p = 1 / (1 + exp(-(c.scale * (double)m->logit[b] + c.shift)));
        dlogit[b] = (real)(c.scale * (p - (double)batch->label[b]) / (double)batch->n);
        dbias += dlogit[b];
    }
    dweights[MODEL_BIAS][0] = dbias;
    fm_backward(m, batch->n, v, dlogit, dv);
    if (has_mlp(m))
        mlp_backward(&m->mlp, v, batch->n, weights[MODEL_FIRST], weights[MODEL_REST], dlogit,
                     dweights[MODEL_FIRST], dweights[MODEL_REST], dv);
    if (compact)
        decode_backward(m, batch, weights[MODEL_PROJ], dv, dweights[MODEL_PROJ], dx);
}
