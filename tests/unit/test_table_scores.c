#include "tests/unit/table_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void scores_do_not_depend_on_how_keys_are_split_into_calls(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct fixture *const one = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    enum { KEYS = 500 };
    double g[DIM] = {0}, row[DIM] = {0}, g_one[DIM] = {0}, row_one[DIM] = {0};
    const struct score_sums sums = {.scale = 3, .g = g, .row = row};
    const struct score_sums sums_one = {.scale = 3, .g = g_one, .row = row_one};
    for (int times = 0; times < 2; times++) {
        fill(f, KEYS, KEYS, 5);
        for (size_t i = 0; i < KEYS; i++)
            set_key(f, i, mix(i));
        push(f, f->slot, KEYS, &sums);
        for (size_t i = 0; i < KEYS; i++) {
            memcpy(keys_of(one), keys_of(f) + i * 8, 8);
            memcpy(grads_of(one), grads_of(f) + i * DIM * 4, DIM * 4);
            push(one, one->slot, 1, &sums_one);
        }
    }
    for (size_t k = 0; k < DIM; k++) {
        assert_true(fabs(g[k] - g_one[k]) <= 1e-13 * row_one[k]);
        assert_true(fabs(row[k] - row_one[k]) <= 1e-13 * row_one[k]);
    }
    teardown(f);
    teardown(one);
}

/* g, row, C and b the plain way. */
struct naive {
    double g[DIM], row[DIM], C[DIM][DIM], b[DIM];
};

static void naive_add(struct naive *to, const float *r, struct fixture *f, size_t i, double scale) {
    for (size_t k = 0; k < DIM; k++) {
        const double grad = grad_at(f, i * DIM + k);
        to->g[k] += scale * r[k] * grad;
        to->row[k] += fabs(scale * r[k] * grad);
        to->b[k] += scale * grad;
        for (size_t j = 0; j < DIM; j++)
            to->C[j][k] += scale * r[j] * grad;
    }
}

static void assert_close(const double *a, const double *b, size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++)
        assert_true(fabs(a[i] - b[i]) <= tolerance);
}

static void scores_agree_with_plain_sums(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive got = {0}, want = {0};
    const struct score_sums sums = {512, got.g, got.row, got.C[0], got.b, 1, 1};
    float *const values = malloc(1001 * DIM * sizeof *values);
    train(f, f->slot);
    for (uint64_t step = 0; step < 3; step++) {
        fill(f, 1001, UINT64_MAX, 100 + step);
        for (size_t i = 0; i < 700; i++)
            set_key(f, i, mix(i * 3 + step));
        table_pull(f->slot, keys_of(f), 1001, values);
        for (size_t i = 0; i < 1001; i++)
            naive_add(&want, values + i * DIM, f, i, 512);
        if (step == 1)
            table_push(f->slot, keys_of(f), grads_of(f), NULL, 1001, false, &sums);
        else
            push(f, f->slot, 1001, &sums);
    }
    assert_close(got.g, want.g, DIM, 1e-9);
    assert_close(got.row, want.row, DIM, 1e-9);
    assert_close(got.b, want.b, DIM, 1e-9);
    assert_close(got.C[0], want.C[0], DIM * DIM, 1e-9);
    for (size_t k = 0; k < DIM; k++)
        assert_true(fabs(got.C[k][k] - got.g[k]) <= 1e-9);
    free(values);
    teardown(f);
}

/* A slot whose rows, and all sums of whose products, are small multiples of a half: exact in any
 * order. */
static struct table_slot *add_exact_slot(struct fixture *f) {
    struct layout_slot spec = spec_of(SLOT + 1, OPTIMIZER_SGD);
    spec.init = INIT_ZERO;
    spec.optimizer.lr = 0.5f;
    assert_int_equal(layout_add_slot(f->layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, SLOT + 1)), DIMFIT_OK);
    return table_find(f->table, SLOT + 1);
}

static void fill_exact(struct fixture *f, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        set_key(f, i, mix(i));
    for (size_t i = 0; i < n * DIM; i++)
        set_grad(f, i, (float)round(4 * noise(i + seed * 7000003)));
}

static void every_row_is_taken_where_a_sample_is_of_one_in_one(void **state) {
    enum { KEYS = 3000 };
    struct fixture *const f = setup(OPTIMIZER_SGD);
    struct table_slot *const slot = add_exact_slot(f);
    struct naive got = {0}, want = {0};
    const struct score_sums sums = {2, got.g, got.row, got.C[0], got.b, 77, 1};
    float *const values = malloc(KEYS * DIM * sizeof *values);
    for (uint64_t t = 0; t < 3; t++) {
        fill_exact(f, KEYS, t);
        table_pull(slot, keys_of(f), KEYS, values);
        for (size_t i = 0; i < KEYS; i++)
            naive_add(&want, values + i * DIM, f, i, 2);
        push(f, slot, KEYS, &sums);
    }
    assert_memory_equal(&got, &want, sizeof want);
    assert_true(want.C[0][0] != 0);
    free(values);
    teardown(f);
}

/* Two shards' worth of keys in calls of any size, backwards, are the sample that one call takes. */
static void a_sample_is_a_matter_of_feasign_and_step_alone(void **state) {
    enum { KEYS = 2000 };
    struct fixture *const f = setup(OPTIMIZER_SGD);
    struct table_slot *const slot = add_exact_slot(f);
    struct naive whole = {0}, parts = {0}, other = {0};
    const struct score_sums at_once = {2, whole.g, whole.row, whole.C[0], whole.b, 5, 4};
    const struct score_sums in_parts = {2, parts.g, parts.row, parts.C[0], parts.b, 5, 4};
    const struct score_sums other_step = {2, other.g, other.row, other.C[0], other.b, 6, 4};
    fill_exact(f, KEYS, 1);
    push(f, slot, KEYS, NULL);
    table_push(slot, keys_of(f), grads_of(f), NULL, KEYS, false, &at_once);
    table_push(slot, keys_of(f), grads_of(f), NULL, KEYS, false, &other_step);
    for (size_t shard = 0; shard < 2; shard++) {
        for (size_t i = KEYS; i-- > 0;) {
            if (mix(i) % 2 == shard)
                table_push(slot, keys_of(f) + i * 8, grads_of(f) + i * DIM * 4, NULL, 1, false,
                           &in_parts);
        }
    }
    assert_memory_equal(&whole, &parts, sizeof whole);
    assert_memory_equal(other.g, whole.g, sizeof whole.g);
    assert_memory_not_equal(other.C, whole.C, sizeof whole.C);
    teardown(f);
}

/* Over many steps the mean of sampled sums comes as near to the whole ones as their spread lets it:
 * the variance of a sum of x_i, each there with probability 1/N and weighed N, is (N - 1) sum
 * x_i^2.
 */
static void sampled_sums_are_expected_to_be_the_whole_ones(void **state) {
    enum { KEYS = 1000, TIMES = 400, SAMPLE = 8 };
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive want = {0}, got = {0}, squares = {0};
    float *const values = malloc(KEYS * DIM * sizeof *values);
    train(f, f->slot);
    fill(f, KEYS, UINT64_MAX, 3);
    table_pull(f->slot, keys_of(f), KEYS, values);
    for (size_t i = 0; i < KEYS; i++) {
        naive_add(&want, values + i * DIM, f, i, 1);
        for (size_t j = 0; j < DIM; j++) {
            for (size_t k = 0; k < DIM; k++)
                squares.C[j][k] += pow((double)values[i * DIM + j] * grad_at(f, i * DIM + k), 2);
            squares.b[j] += pow(grad_at(f, i * DIM + j), 2);
        }
    }
    for (uint64_t step = 1; step <= TIMES; step++) {
        const struct score_sums sums = {1, got.g, got.row, got.C[0], got.b, step, SAMPLE};
        table_push(f->slot, keys_of(f), grads_of(f), NULL, KEYS, false, &sums);
    }
    for (size_t i = 0; i < DIM * DIM; i++) {
        const size_t j = i / DIM, k = i % DIM;
        const double spread = sqrt((SAMPLE - 1.0) * squares.C[j][k] / TIMES);
        assert_true(fabs(got.C[j][k] / TIMES - want.C[j][k]) < 4.5 * spread);
    }
    for (size_t k = 0; k < DIM; k++) {
        const double spread = sqrt((SAMPLE - 1.0) * squares.b[k] / TIMES);
        assert_true(fabs(got.b[k] / TIMES - want.b[k]) < 4.5 * spread);
        assert_true(fabs(got.g[k] / TIMES - want.g[k]) <= 1e-12 * want.row[k]);
    }
    free(values);
    teardown(f);
}

static void a_score_only_push_stores_and_counts_nothing(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    struct fixture *const same = setup(OPTIMIZER_ADAM);
    struct naive sums = {0};
    train(f, f->slot);
    train(same, same->slot);
    const struct score_sums to = {.scale = 1, .g = sums.g, .row = sums.row};
    fill(f, 3000, 10000, 77);
    table_push(f->slot, keys_of(f), grads_of(f), NULL, 3000, false, &to);
    assert_true(sums.row[0] > 0);
    assert_same_rows(f->slot, same->slot, 10000, 2 * DIM + 1);
    assert_int_equal(table_figures(f->table).rows, table_figures(same->table).rows);
    teardown(f);
    teardown(same);
}

static void export_sums_rows_and_second_moments(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive plain = {0}, looked = {0};
    double lookups = 0;
    uint64_t rows = 0;
    train(f, f->slot);
    for (uint64_t i = 0; i < 5000; i++) {
        struct table_row row;
        if (!table_row(f->slot, mix(i), &row))
            continue;
        rows++;
        lookups += row.shows;
        for (size_t k = 0; k < DIM; k++) {
            plain.b[k] += row.values[k];
            looked.b[k] += (double)row.shows * row.values[k];
            for (size_t j = 0; j < DIM; j++) {
                plain.C[j][k] += (double)row.values[j] * row.values[k];
                looked.C[j][k] += row.shows * (double)row.values[j] * row.values[k];
            }
        }
    }
    struct layout_slot linear = spec_of(3, OPTIMIZER_SGD);
    linear.search = false;
    assert_int_equal(layout_add_slot(f->layout, &linear, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, 3)), DIMFIT_OK);
    for (int moments = 0; moments < 2; moments++) {
        struct stats *stats = NULL;
        assert_int_equal(stats_new(1, &stats), DIMFIT_OK);
        assert_int_equal(
            table_export(f->table, moments == 1 ? TABLE_MOMENTS : TABLE_LOOKUPS, stats), DIMFIT_OK);
        assert_int_equal(stats->n_slots, 1);
        const struct slot_stats *const s = &stats->slots[0];
        assert_int_equal(s->slot, SLOT);
        assert_int_equal(s->width, DIM);
        assert_int_equal(s->rows, rows);
        assert_true(s->lookups == lookups);
        assert_int_equal(s->sum != NULL, moments);
        if (moments == 1) {
            assert_close(s->sum, plain.b, DIM, 1e-9);
            assert_close(s->second, plain.C[0], DIM * DIM, 1e-9);
            assert_close(s->looked_sum, looked.b, DIM, 1e-9);
            assert_close(s->looked_second, looked.C[0], DIM * DIM, 1e-9);
        }
        stats_destroy(&stats);
    }
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_do_not_depend_on_how_keys_are_split_into_calls),
        cmocka_unit_test(scores_agree_with_plain_sums),
        cmocka_unit_test(every_row_is_taken_where_a_sample_is_of_one_in_one),
        cmocka_unit_test(a_sample_is_a_matter_of_feasign_and_step_alone),
        cmocka_unit_test(sampled_sums_are_expected_to_be_the_whole_ones),
        cmocka_unit_test(a_score_only_push_stores_and_counts_nothing),
        cmocka_unit_test(export_sums_rows_and_second_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
