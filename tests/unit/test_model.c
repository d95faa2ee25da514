/* The models in double precision, held against central differences of the loss. */
#define TRAIN_REAL_DOUBLE
#include "worker/train/batch.c"
#include "worker/train/carry.c"
#include "worker/train/mlp.c"
#include "worker/train/model.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/key_hash.h"
#include "worker/train/metrics.h"

#include <math.h>

enum { DIM = 4, SAMPLES = 6, SLOTS = 3 };

/* Values are multiples of STEP below 1, so that a float holds value +- STEP exactly. */
#define STEP      0x1p-14
#define TOLERANCE 1e-6

struct bench {
    struct dataset data;
    struct batch batch;
    struct model *model;
    bool compact;
    const struct calibration *calibration; /* NULL: none */
    real *x, *dx, *count, *linear, *dlogit;
    real *weights[MODEL_GROUPS], *dweights[MODEL_GROUPS];
};

static float grid(struct rng *rng) {
    return (float)(rint(rng_normal(rng) * 0.3 / STEP) * STEP);
}

static struct dataset_slot slots[SLOTS] = {{3, "a"}, {7, "b"}, {9, "c"}};
static float labels[SAMPLES] = {1, 0, 0, 1, 1, 0};
static uint32_t samples[SAMPLES] = {0, 1, 2, 3, 4, 5};

static struct dataset single_valued(void) {
    static uint64_t keys[SAMPLES * SLOTS] = {1, 10, 20, 2, 10, 21, 1, 11, 20,
                                             3, 12, 22, 2, 11, 21, 1, 10, 22};
    return (struct dataset){.n_slots = SLOTS,
                            .slots = slots,
                            .rows = SAMPLES,
                            .occurrences = SAMPLES * SLOTS,
                            .labels = labels,
                            .keys = keys};
}

/* Slots that occur twice, once or not at all, with weights. */
static struct dataset multi_valued(void) {
    static uint64_t keys[] = {1, 2, 10, 20, 1, 1, 20, 11, 12, 10, 3, 21, 22, 23};
    static uint32_t slot[] = {0, 0, 1, 2, 0, 0, 2, 1, 1, 1, 0, 2, 2, 2};
    static float weight[] = {1, 0.5f, 1, 2, 1, 1, -1, 1, 1, 1, 0.25f, 1, 1, 1};
    static uint64_t start[SAMPLES + 1] = {0, 4, 7, 10, 11, 14, 14};
    return (struct dataset){.n_slots = SLOTS,
                            .slots = slots,
                            .rows = SAMPLES,
                            .occurrences = 14,
                            .labels = labels,
                            .keys = keys,
                            .slot = slot,
                            .weight = weight,
                            .start = start};
}

static size_t value_count(const struct bench *b) {
    return b->batch.at[SLOTS] + b->batch.occurrences;
}

static void bench_init(struct bench *b, struct dataset data, enum model_kind kind,
                       const uint32_t *widths) {
    static const uint32_t full[SLOTS] = {DIM, DIM, DIM};
    struct rng rng = rng_of(11, (uint64_t)kind + 1);
    struct model_shape shape = {.kind = kind,
                                .n_slots = SLOTS,
                                .dim = DIM,
                                .widths = widths,
                                .n_hidden = 2,
                                .hidden = {5, 3}};
    *b = (struct bench){.data = data, .compact = widths != NULL};
    batch_init(&b->batch, &b->data);
    batch_fill(&b->batch, samples, SAMPLES, widths != NULL ? widths : full);
    for (size_t i = 0; i < value_count(b); i++)
        b->batch.values[i] = grid(&rng);
    b->model = model_new(&shape, SAMPLES);
    const size_t input = model_input_width(b->model);
    b->x = mem_alloc(SAMPLES * input, sizeof(real));
    b->dx = mem_alloc(SAMPLES * input, sizeof(real));
    b->count = mem_alloc(SAMPLES * SLOTS, sizeof(real));
    b->linear = mem_alloc(SAMPLES, sizeof(real));
    b->dlogit = mem_alloc(SAMPLES, sizeof(real));
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        const size_t n = model_group_size(b->model, g);
        b->weights[g] = mem_alloc(n, sizeof(real));
        b->dweights[g] = mem_alloc(n, sizeof(real));
        for (size_t i = 0; i < n; i++)
            b->weights[g][i] = (double)grid(&rng);
    }
}

static void bench_fini(struct bench *b) {
    batch_fini(&b->batch);
    model_destroy(&b->model);
    free(b->x);
    free(b->dx);
    free(b->count);
    free(b->linear);
    free(b->dlogit);
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        free(b->weights[g]);
        free(b->dweights[g]);
    }
}

static struct model_batch input_of(const struct bench *b) {
    const bool counted = b->compact && b->data.slot != NULL;
    return (struct model_batch){.n = SAMPLES,
                                .x = b->x,
                                .count = counted ? b->count : NULL,
                                .linear = b->linear,
                                .label = b->batch.labels,
                                .calibration = b->calibration};
}

static double loss(struct bench *b) {
    batch_pool(&b->batch, b->x, b->count, b->linear);
    const struct model_batch input = input_of(b);
    const real *const logits = model_forward(b->model, &input, b->weights);
    const struct calibration c = b->calibration != NULL ? *b->calibration
                                                        : (struct calibration){1, 0};
    double sum = 0;
    for (size_t i = 0; i < SAMPLES; i++)
        sum += metrics_logloss_one(c.scale * logits[i] + c.shift, (double)labels[i]);
    return sum / SAMPLES;
}

static void assert_close(double analytic, double numeric, const char *what, size_t i) {
    if (fabs(analytic - numeric) > TOLERANCE * (1 + fabs(numeric)))
        fail_msg("%s[%zu]: gradient %.9g, central difference %.9g", what, i, analytic, numeric);
}

static void check_weights(struct bench *b, enum model_group group) {
    static const char *const names[] = {"bias", "first", "rest", "proj"};
    size_t n = model_group_size(b->model, group);
    if (group == MODEL_PROJ && n > 0) {
        /* The means are not trained: their gradient is zero by contract. */
        for (size_t i = n - SLOTS * DIM; i < n; i++)
            assert_true(b->dweights[group][i] == 0);
        n -= SLOTS * DIM;
    }
    for (size_t i = 0; i < n; i++) {
        real *const w = &b->weights[group][i], was = *w;
        *w = was + STEP;
        const double up = loss(b);
        *w = was - STEP;
        const double down = loss(b);
        *w = was;
        assert_close(b->dweights[group][i], (up - down) / (2 * STEP), names[group], i);
    }
}

static void check_calibrated(enum model_kind kind, struct dataset data, const uint32_t *widths,
                             const struct calibration *calibration) {
    struct bench b;
    bench_init(&b, data, kind, widths);
    b.calibration = calibration;
    loss(&b);
    const struct model_batch input = input_of(&b);
    model_backward(b.model, &input, b.weights, b.dweights, b.dx, b.dlogit);
    const size_t n = value_count(&b);
    float *const values = mem_alloc(n, sizeof *values), *const grads = mem_alloc(n, sizeof *grads);
    memcpy(values, b.batch.values, n * sizeof *values);
    batch_unpool(&b.batch, b.dx, b.dlogit);
    memcpy(grads, b.batch.values, n * sizeof *grads);
    memcpy(b.batch.values, values, n * sizeof *values);
    for (size_t i = 0; i < n; i++) {
        b.batch.values[i] = values[i] + (float)STEP;
        const double up = loss(&b);
        b.batch.values[i] = values[i] - (float)STEP;
        const double down = loss(&b);
        b.batch.values[i] = values[i];
        assert_close((double)grads[i], (up - down) / (2 * STEP), "value", i);
    }
    for (enum model_group g = 0; g < MODEL_GROUPS; g++)
        check_weights(&b, g);
    free(values);
    free(grads);
    bench_fini(&b);
}

static void check_gradients(enum model_kind kind, struct dataset data, const uint32_t *widths) {
    const struct calibration meek = {0.6, -0.3};
    check_calibrated(kind, data, widths, NULL);
    check_calibrated(kind, data, widths, &meek);
}

static const uint32_t narrow[SLOTS] = {2, 4, 1}, vanished[SLOTS] = {3, 0, 2};

static void gradients_of_a_factorization_machine_are_right(void **state) {
    check_gradients(MODEL_FM, single_valued(), NULL);
}

static void gradients_of_wide_and_deep_are_right(void **state) {
    check_gradients(MODEL_WDL, single_valued(), NULL);
}

static void gradients_of_deepfm_are_right(void **state) {
    check_gradients(MODEL_DEEPFM, single_valued(), NULL);
}

static void gradients_of_weighted_sets_are_right(void **state) {
    check_gradients(MODEL_FM, multi_valued(), NULL);
    check_gradients(MODEL_WDL, multi_valued(), NULL);
    check_gradients(MODEL_DEEPFM, multi_valued(), NULL);
}

static void gradients_in_the_compact_view_are_right(void **state) {
    check_gradients(MODEL_FM, single_valued(), narrow);
    check_gradients(MODEL_WDL, single_valued(), narrow);
    check_gradients(MODEL_DEEPFM, single_valued(), narrow);
    check_gradients(MODEL_DEEPFM, multi_valued(), narrow);
}

static void gradients_with_a_slot_of_width_zero_are_right(void **state) {
    check_gradients(MODEL_DEEPFM, single_valued(), vanished);
    check_gradients(MODEL_DEEPFM, multi_valued(), vanished);
}

static void a_batch_asks_for_first_order_rows_by_slot_and_feasign(void **state) {
    struct dataset data = multi_valued();
    static const uint32_t widths[SLOTS] = {DIM, DIM, DIM};
    struct batch batch;
    batch_init(&batch, &data);
    batch_fill(&batch, samples, SAMPLES, widths);
    assert_int_equal(batch.n_rows, SLOTS + 1);
    const struct dimfit_rows *const linear = &batch.rows[SLOTS];
    assert_int_equal(linear->slot, SAMPLE_SLOT_LINEAR);
    assert_int_equal(linear->n, 14);
    size_t at = 0;
    for (size_t s = 0; s < SLOTS; s++) {
        assert_int_equal(batch.rows[s].slot, slots[s].id);
        for (size_t i = 0; i < batch.rows[s].n; i++)
            assert_true(linear->keys[at++] == key_hash(slots[s].id, batch.rows[s].keys[i]));
    }
    batch_fini(&batch);
}

static void slots_without_feasigns_are_not_asked_for(void **state) {
    struct dataset data = multi_valued();
    static const uint32_t widths[SLOTS] = {DIM, DIM, DIM};
    static uint32_t third[] = {3, 5};
    struct batch batch;
    batch_init(&batch, &data);
    batch_fill(&batch, third, 2, widths);
    assert_int_equal(batch.n_rows, 2);
    assert_int_equal(batch.rows[0].slot, 3);
    assert_int_equal(batch.rows[0].n, 1);
    batch_fini(&batch);
}

/* Columns cut out of a random rotation. */
static void orthonormal(struct rng *rng, size_t dim, size_t width, float *basis) {
    double columns[DIM][DIM];
    for (size_t k = 0; k < width; k++) {
        double norm = 0;
        for (size_t i = 0; i < dim; i++)
            columns[k][i] = rng_normal(rng);
        for (size_t j = 0; j < k; j++) {
            double dot = 0;
            for (size_t i = 0; i < dim; i++)
                dot += columns[k][i] * columns[j][i];
            for (size_t i = 0; i < dim; i++)
                columns[k][i] -= dot * columns[j][i];
        }
        for (size_t i = 0; i < dim; i++)
            norm += columns[k][i] * columns[k][i];
        for (size_t i = 0; i < dim; i++)
            basis[i * width + k] = (float)(columns[k][i] /= sqrt(norm));
    }
}

static void transforms_start_as_the_decoding(void **state) {
    struct rng rng = rng_of(1, 1);
    float basis[DIM * 2], mean[DIM] = {1, 2, 3, 4};
    real W[2 * DIM], mu[DIM];
    orthonormal(&rng, DIM, 2, basis);
    const struct carry_slot slot = {DIM, 2, basis, mean};
    carry_start(&slot, W, mu);
    for (size_t k = 0; k < 2; k++) {
        for (size_t j = 0; j < DIM; j++)
            assert_true(W[k * DIM + j] == (double)basis[j * 2 + k]);
    }
    for (size_t j = 0; j < DIM; j++)
        assert_true(mu[j] == (double)mean[j]);
}

/* Out of each other by a turn, a direction dropped, and one added. */
static void a_direction_that_is_added_passes_as_it_is(void **state) {
    enum { OLD = 2, NEW = 2 };
    struct rng rng = rng_of(3, 1);
    float all[DIM * 3], old_basis[DIM * OLD], new_basis[DIM * NEW], old_mean[DIM], new_mean[DIM];
    real W[OLD * DIM], mu[DIM], W_new[NEW * DIM], mu_new[DIM];
    orthonormal(&rng, DIM, 3, all);
    for (size_t i = 0; i < DIM; i++) {
        const float *const a = &all[i * 3];
        old_basis[i * OLD] = 0.6f * a[0] + 0.8f * a[1];
        old_basis[i * OLD + 1] = 0.8f * a[0] - 0.6f * a[1];
        new_basis[i * NEW] = a[0];
        new_basis[i * NEW + 1] = a[2];
        old_mean[i] = grid(&rng);
        new_mean[i] = old_mean[i] - 0.5f * a[2]; /* as where a change is undone */
        mu[i] = (double)grid(&rng);
    }
    for (size_t i = 0; i < OLD * DIM; i++)
        W[i] = (double)grid(&rng);
    const struct carry_slot from = {DIM, OLD, old_basis, old_mean};
    const struct carry_slot to = {DIM, NEW, new_basis, new_mean};
    carry_over(&from, &to, W, mu, W_new, mu_new);
    for (size_t j = 0; j < DIM; j++) {
        /* a_0 = 0.6 m_0 + 0.8 m_1 */
        assert_true(fabs(W_new[j] - (0.6 * W[j] + 0.8 * W[DIM + j])) < 1e-5);
        assert_true(fabs(W_new[DIM + j] - (double)all[j * 3 + 2]) < 1e-6);
        assert_true(fabs(mu_new[j] - (mu[j] - 0.5 * (double)all[j * 3 + 2])) < 1e-6);
    }
}

/* A row r of the old layout that the new one can hold becomes (m - m' + r M^T) M'. */
static void transforms_keep_the_function_through_a_layout_change(void **state) {
    enum { OLD = 3 };
    struct rng rng = rng_of(2, 1);
    float old_basis[DIM * OLD], new_basis[DIM * DIM], old_mean[DIM], new_mean[DIM];
    real W[OLD * DIM], mu[DIM], W_new[DIM * DIM], mu_new[DIM];
    orthonormal(&rng, DIM, OLD, old_basis);
    orthonormal(&rng, DIM, DIM, new_basis);
    for (size_t j = 0; j < DIM; j++) {
        old_mean[j] = grid(&rng);
        mu[j] = (double)grid(&rng);
        /* Means differ within the old basis only, as those of a layout change do. */
        new_mean[j] = old_mean[j] + 0.5f * old_basis[j * OLD] - 0.25f * old_basis[j * OLD + 2];
    }
    for (size_t i = 0; i < OLD * DIM; i++)
        W[i] = (double)grid(&rng);
    const struct carry_slot from = {DIM, OLD, old_basis, old_mean};
    const struct carry_slot to = {DIM, DIM, new_basis, new_mean};
    carry_over(&from, &to, W, mu, W_new, mu_new);
    for (int row = 0; row < 10; row++) {
        double r[OLD], v[DIM], r_new[DIM];
        for (size_t k = 0; k < OLD; k++)
            r[k] = rng_normal(&rng);
        for (size_t i = 0; i < DIM; i++) {
            v[i] = (double)old_mean[i] - (double)new_mean[i];
            for (size_t k = 0; k < OLD; k++)
                v[i] += r[k] * (double)old_basis[i * OLD + k];
        }
        for (size_t k = 0; k < DIM; k++) {
            r_new[k] = 0;
            for (size_t i = 0; i < DIM; i++)
                r_new[k] += v[i] * (double)new_basis[i * DIM + k];
        }
        for (size_t j = 0; j < DIM; j++) {
            double before = mu[j], after = mu_new[j];
            for (size_t k = 0; k < OLD; k++)
                before += r[k] * W[k * DIM + j];
            for (size_t k = 0; k < DIM; k++)
                after += r_new[k] * W_new[k * DIM + j];
            assert_true(fabs(before - after) < 1e-5);
        }
    }
}

static void initial_layers_have_he_variance_and_no_bias(void **state) {
    const struct model_shape shape = {
        .kind = MODEL_WDL, .n_slots = 10, .dim = 16, .n_hidden = 1, .hidden = {64}};
    struct model *model = model_new(&shape, 1);
    const size_t n = model_group_size(model, MODEL_FIRST);
    assert_int_equal(n, (160 + 1) * 64);
    real *const first = mem_alloc(n, sizeof *first), *const again = mem_alloc(n, sizeof *again);
    struct rng a = rng_of(1, 1), b = rng_of(1, 1);
    model_init_group(model, MODEL_FIRST, &a, first);
    model_init_group(model, MODEL_FIRST, &b, again);
    assert_memory_equal(first, again, n * sizeof *first);
    double squares = 0;
    for (size_t i = 0; i < 160 * 64; i++)
        squares += first[i] * first[i];
    assert_true(fabs(squares / (160 * 64) / (2.0 / 160) - 1) < 0.05);
    for (size_t i = 160 * 64; i < n; i++)
        assert_true(first[i] == 0);
    free(first);
    free(again);
    model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_a_factorization_machine_are_right),
        cmocka_unit_test(gradients_of_wide_and_deep_are_right),
        cmocka_unit_test(gradients_of_deepfm_are_right),
        cmocka_unit_test(gradients_of_weighted_sets_are_right),
        cmocka_unit_test(gradients_in_the_compact_view_are_right),
        cmocka_unit_test(gradients_with_a_slot_of_width_zero_are_right),
        cmocka_unit_test(a_batch_asks_for_first_order_rows_by_slot_and_feasign),
        cmocka_unit_test(slots_without_feasigns_are_not_asked_for),
        cmocka_unit_test(transforms_start_as_the_decoding),
        cmocka_unit_test(transforms_keep_the_function_through_a_layout_change),
        cmocka_unit_test(a_direction_that_is_added_passes_as_it_is),
        cmocka_unit_test(initial_layers_have_he_variance_and_no_bias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
