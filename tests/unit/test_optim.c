#include "server/optim.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    WIDTH_MAX = 70,
    STEPS = 20,
};

/* Rows, state and gradients of one width; gradients stand one byte past a float's place. */
struct fixture {
    float values[WIDTH_MAX], state[2 * WIDTH_MAX + 1];
    double want[WIDTH_MAX], want_state[2 * WIDTH_MAX + 1];
    uint8_t wire[WIDTH_MAX * sizeof(float) + 1];
};

static float grad_at(const struct fixture *f, size_t k) {
    return load_f32(f->wire + 1 + k * sizeof(float));
}

static void setup(struct fixture *f, size_t n) {
    *f = (struct fixture){0};
    for (size_t k = 0; k < n; k++)
        f->want[k] = f->values[k] = (float)cos((double)k);
}

static void next_grads(struct fixture *f, size_t n, int step) {
    for (size_t k = 0; k < n; k++) {
        const float g = (float)(sin((double)(k * 7 + (size_t)step * 3)) * (step % 5));
        memcpy(f->wire + 1 + k * sizeof g, &g, sizeof g);
    }
}

/* The formulas of the header, element by element in float64. */
static void reference(struct fixture *f, const struct optimizer *o, size_t n) {
    double *const s = f->want_state;
    double squares = 0;
    for (size_t k = 0; k < n; k++)
        squares += (double)grad_at(f, k) * grad_at(f, k);
    if (o->kind == OPTIMIZER_ROWWISE_ADAGRAD || o->kind == OPTIMIZER_ADAM)
        s[0] += o->kind == OPTIMIZER_ADAM ? 1 : squares;
    for (size_t k = 0; k < n; k++) {
        const double g = grad_at(f, k);
        double step = 0;
        if (o->kind == OPTIMIZER_SGD) {
            step = g;
        } else if (o->kind == OPTIMIZER_ADAGRAD) {
            s[k] += g * g;
            step = g / (sqrt(s[k]) + o->eps);
        } else if (o->kind == OPTIMIZER_ROWWISE_ADAGRAD) {
            step = g / (sqrt(s[0]) + o->eps);
        } else {
            double *const m = &s[1 + k], *const v = &s[1 + n + k];
            *m = o->beta1 * *m + (1 - (double)o->beta1) * g;
            *v = o->beta2 * *v + (1 - (double)o->beta2) * g * g;
            step = *m / (1 - pow(o->beta1, s[0])) / (sqrt(*v / (1 - pow(o->beta2, s[0]))) + o->eps);
        }
        f->want[k] -= o->lr * step;
    }
}

/* One row through the kernels. */
static void step(struct fixture *f, const struct optimizer *o, size_t n) {
    float *const values = f->values, *const states = f->state;
    optim_step(o, &values, &states, (const float *)(const void *)(f->wire + 1), 1, n);
}

static void follows_the_reference(enum optimizer_kind kind) {
    const struct optimizer optimizer = {kind, 0.05f, 1e-8f, 0.9f, 0.999f};
    for (size_t n = 0; n <= WIDTH_MAX; n++) {
        struct fixture f;
        setup(&f, n);
        for (int t = 0; t < STEPS; t++) {
            next_grads(&f, n, t + 1);
            step(&f, &optimizer, n);
            reference(&f, &optimizer, n);
        }
        for (size_t k = 0; k < n; k++)
            assert_true(fabs(f.values[k] - f.want[k]) < 2e-5);
        for (size_t k = 0; k < 2 * n + 1; k++)
            assert_true(fabs(f.state[k] - f.want_state[k]) <= 1e-5 * fabs(f.want_state[k]) + 1e-6);
    }
}

static void sgd_follows_its_formula(void **state) {
    follows_the_reference(OPTIMIZER_SGD);
}

static void adagrad_follows_its_formula(void **state) {
    follows_the_reference(OPTIMIZER_ADAGRAD);
}

static void rowwise_adagrad_sums_squares_over_the_row(void **state) {
    follows_the_reference(OPTIMIZER_ROWWISE_ADAGRAD);
}

static void adam_corrects_its_bias(void **state) {
    follows_the_reference(OPTIMIZER_ADAM);
}

static void a_zero_gradient_moves_no_fresh_row_even_without_eps(void **state) {
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_ADAM; kind++) {
        const struct optimizer optimizer = {(enum optimizer_kind)kind, 0.05f, 0, 0.9f, 0.999f};
        struct fixture f;
        setup(&f, 5);
        step(&f, &optimizer, 5);
        for (size_t k = 0; k < 5; k++)
            assert_true(f.values[k] == (float)cos((double)k));
    }
}

static void scores_are_exact_products_in_float64(void **state) {
    for (size_t n = 0; n <= WIDTH_MAX; n++) {
        struct fixture f;
        double g[WIDTH_MAX + 1] = {0}, row[WIDTH_MAX + 1] = {0};
        double want_g[WIDTH_MAX] = {0}, want_row[WIDTH_MAX] = {0};
        setup(&f, n);
        float *const values = f.values;
        for (int t = 1; t < STEPS; t++) {
            next_grads(&f, n, t);
            optim_score(&values, (const float *)(const void *)(f.wire + 1), 1, n, 512, g, row);
            for (size_t k = 0; k < n; k++) {
                const double part = 512.0 * ((double)f.values[k] * grad_at(&f, k));
                want_g[k] += part;
                want_row[k] += fabs(part);
            }
        }
        for (size_t k = 0; k < n; k++) {
            assert_true(fabs(g[k] - want_g[k]) <= 1e-14 * want_row[k]);
            assert_true(fabs(row[k] - want_row[k]) <= 1e-14 * want_row[k]);
        }
        assert_true(g[n] == 0 && row[n] == 0);
    }
}

/* Rows in one call do what they do one by one; one that comes twice is worked on in order. */
static void rows_of_a_call_are_worked_on_in_order(void **state) {
    enum { ROWS = 5, N = 19 };
    static const size_t row_of[ROWS] = {0, 1, 0, 2, 1};
    const struct optimizer o = {OPTIMIZER_ROWWISE_ADAGRAD, 0.05f, 1e-8f, 0, 0};
    float together[3][N], alone[3][N], sums[3] = {0}, sums_alone[3] = {0}, grads[ROWS * N];
    float *values[ROWS], *states[ROWS];
    double g[N] = {0}, row[N] = {0}, want_g[N] = {0}, want_row[N] = {0};
    for (size_t k = 0; k < 3 * N; k++)
        together[k / N][k % N] = alone[k / N][k % N] = (float)cos((double)k);
    for (size_t k = 0; k < ROWS * N; k++)
        grads[k] = (float)sin((double)(7 * k));
    for (size_t i = 0; i < ROWS; i++) {
        values[i] = together[row_of[i]];
        states[i] = &sums[row_of[i]];
    }
    optim_score(values, grads, ROWS, N, 3, g, row);
    for (size_t i = 0; i < ROWS; i++)
        optim_score(&values[i], grads + i * N, 1, N, 3, want_g, want_row);
    optim_step(&o, values, states, grads, ROWS, N);
    for (size_t i = 0; i < ROWS; i++) {
        float *const one = alone[row_of[i]], *const its = &sums_alone[row_of[i]];
        optim_step(&o, &one, &its, grads + i * N, 1, N);
    }
    assert_memory_equal(together, alone, sizeof alone);
    assert_memory_equal(sums, sums_alone, sizeof sums);
    for (size_t k = 0; k < N; k++) {
        assert_true(fabs(g[k] - want_g[k]) <= 1e-14 * want_row[k]);
        assert_true(fabs(row[k] - want_row[k]) <= 1e-14 * want_row[k]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_follows_its_formula),
        cmocka_unit_test(adagrad_follows_its_formula),
        cmocka_unit_test(rowwise_adagrad_sums_squares_over_the_row),
        cmocka_unit_test(adam_corrects_its_bias),
        cmocka_unit_test(a_zero_gradient_moves_no_fresh_row_even_without_eps),
        cmocka_unit_test(rows_of_a_call_are_worked_on_in_order),
        cmocka_unit_test(scores_are_exact_products_in_float64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
