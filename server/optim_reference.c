/* The specification of the row kernels: one number after another. Not contracted, like the
 * variants. */
#include "server/optim_variants.h"

#include <math.h>

enum { LANES = 16 };

static float float_at(const void *floats, size_t k) {
    return load_f32((const uint8_t *)floats + k * sizeof(float));
}

/* In 16 partial sums, folded in halves. */
static float sum_squares(const void *grads, size_t n) {
    float sum[LANES] = {0};
    for (size_t k = 0; k < n; k++)
        sum[k % LANES] += float_at(grads, k) * float_at(grads, k);
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t k = 0; k < half; k++)
            sum[k] += sum[k + half];
    }
    return sum[0];
}

/* x / d, and 0 for a first gradient of 0 where eps is 0 as well. */
static float over(float x, float d) {
    return d > 0 ? x / d : 0;
}

static void adam(const struct optimizer *o, float *r, float *state, const void *grads, size_t n) {
    float *const t = state, *const m = state + 1, *const v = m + n;
    *t += 1;
    const float unbias_m = (float)(1 / (1 - pow(o->beta1, *t)));
    const float unbias_v = (float)(1 / (1 - pow(o->beta2, *t)));
    for (size_t k = 0; k < n; k++) {
        const float g = float_at(grads, k);
        m[k] = o->beta1 * m[k] + (1 - o->beta1) * g;
        v[k] = o->beta2 * v[k] + (1 - o->beta2) * g * g;
        r[k] -= over(o->lr * (m[k] * unbias_m), sqrtf(v[k] * unbias_v) + o->eps);
    }
}

static void ftrl(const struct optimizer *o, float *r, float *state, const void *grads, size_t n) {
    float *const z = state, *const squares = state + n;
    const float inverse = 1 / o->lr;
    for (size_t k = 0; k < n; k++) {
        const float g = float_at(grads, k), before = sqrtf(squares[k]);
        if (squares[k] == 0)
            z[k] = r[k] == 0 ? 0 : copysignf(o->l1, -r[k]) - r[k] * (o->beta * inverse + o->l2);
        squares[k] += g * g;
        const float after = sqrtf(squares[k]);
        z[k] += g - r[k] * ((after - before) * inverse);
        const float moved = (copysignf(o->l1, z[k]) - z[k]) / ((o->beta + after) * inverse + o->l2);
        if (squares[k] > 0)
            r[k] = fabsf(z[k]) <= o->l1 ? 0 : moved;
    }
}

static void step(const struct optimizer *o, float *r, float *state, const void *grads, size_t n) {
    switch (o->kind) {
    case OPTIMIZER_SGD:
        for (size_t k = 0; k < n; k++)
            r[k] -= o->lr * float_at(grads, k);
        break;
    case OPTIMIZER_ADAGRAD:
        for (size_t k = 0; k < n; k++) {
            const float g = float_at(grads, k);
            state[k] += g * g;
            r[k] -= over(o->lr * g, sqrtf(state[k]) + o->eps);
        }
        break;
    case OPTIMIZER_ROWWISE_ADAGRAD:
        *state += sum_squares(grads, n);
        for (size_t k = 0; k < n; k++)
            r[k] -= over(o->lr, sqrtf(*state) + o->eps) * float_at(grads, k);
        break;
    case OPTIMIZER_ADAM:
        adam(o, r, state, grads, n);
        break;
    case OPTIMIZER_FTRL:
        ftrl(o, r, state, grads, n);
        break;
    }
}

static void add_products(const float *r, const void *grads, size_t n, double *g, double *row) {
    for (size_t k = 0; k < n; k++) {
        const double product = (double)r[k] * float_at(grads, k);
        g[k] += product;
        row[k] += fabs(product);
    }
}

/* Row by row: the values before a row's step are those after the steps of the rows before it. */
static void work(const struct optimizer *o, const struct optim_rows *rows,
                 const struct optim_sums *sums) {
    double g[LAYOUT_DIM_MAX] = {0}, row[LAYOUT_DIM_MAX] = {0};
    const size_t n = rows->n;
    base_assert(rows->rows <= OPTIM_ROWS && (sums == NULL || n <= LAYOUT_DIM_MAX));
    for (size_t i = 0; i < rows->rows; i++) {
        const void *const grads = (const uint8_t *)rows->grads + i * n * sizeof(float);
        if (sums != NULL)
            add_products(rows->values[i], grads, n, g, row);
        if (o != NULL)
            step(o, rows->values[i], rows->states[i], grads, n);
    }
    for (size_t k = 0; sums != NULL && k < n; k++) {
        sums->g[k] += sums->scale * g[k];
        sums->row[k] += sums->scale * row[k];
    }
}

static void train(const struct optimizer *o, const struct optim_rows *rows,
                  const struct optim_sums *sums) {
    work(o, rows, sums);
}

static void score(const struct optim_rows *rows, const struct optim_sums *sums) {
    work(NULL, rows, sums);
}

static void widen(const void *floats, size_t n, double *out) {
    for (size_t k = 0; k < n; k++)
        out[k] = float_at(floats, k);
}

static void moments(const struct optim_moments *m) {
    for (size_t j = 0; j < m->n; j++) {
        double sum = 0;
        for (size_t i = 0; i < m->rows; i++)
            sum += m->grads[i * m->stride + j];
        m->b[j] += m->scale * sum;
        for (size_t k = 0; k < m->n; k++) {
            sum = 0;
            for (size_t i = 0; i < m->rows; i++)
                sum += m->values[i * m->stride + k] * m->grads[i * m->stride + j];
            m->C[k * m->n + j] += m->scale * sum;
        }
    }
}

const struct optim_kernels optim_reference = {"reference", train, score, widen, moments};
