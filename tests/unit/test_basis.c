#include "server/basis.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { W = 4, ROWS = 40 };

/* Rows with show counts and gradients, and what a shard sums up of them. */
struct scene {
    double r[ROWS][W], grad[ROWS][W], count[ROWS];
    struct stats *stats;
    struct slot_stats *slot;
    struct step_slot *step;
    double mean[W], N[W * W], eigenvalue[W];
};

static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

static void sum_up(struct scene *s, size_t rows) {
    assert_int_equal(stats_new(0, &s->stats), DIMFIT_OK);
    s->slot = stats_add_slot(s->stats, 6, W, true);
    s->step = step_add_slot(stats_add_step(s->stats, 1), 6, W, true);
    s->slot->rows = rows;
    for (size_t f = 0; f < rows; f++) {
        const double *const r = s->r[f], *const grad = s->grad[f];
        s->slot->lookups += s->count[f];
        for (size_t i = 0; i < W; i++) {
            s->slot->sum[i] += r[i];
            s->slot->looked_sum[i] += s->count[f] * r[i];
            s->step->b[i] += grad[i];
            s->step->g[i] += r[i] * grad[i];
            for (size_t j = 0; j < W; j++) {
                s->slot->second[i * W + j] += r[i] * r[j];
                s->slot->looked_second[i * W + j] += s->count[f] * r[i] * r[j];
                s->step->C[i * W + j] += r[i] * grad[j];
            }
        }
    }
}

static int set_up(void **state) {
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    uint64_t seed = 11;
    for (size_t f = 0; f < ROWS; f++) {
        s->count[f] = (double)(f % 7);
        for (size_t k = 0; k < W; k++) {
            s->r[f][k] = 0.5 + draw(&seed) * (double)(k + 1) + 0.3 * (k > 0 ? s->r[f][k - 1] : 0);
            s->grad[f][k] = draw(&seed);
        }
    }
    *state = s;
    return 0;
}

static int tear_down(void **state) {
    struct scene *const s = *state;
    stats_destroy(&s->stats);
    free(s);
    return 0;
}

static void fit(struct scene *s) {
    assert_int_equal(basis_rotated(s->slot, s->mean, s->N, s->eigenvalue, NULL), DIMFIT_OK);
}

/* (r - mean) N, row by row. */
static double turned(const struct scene *s, const double *r, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < W; i++)
        sum += (r[i] - s->mean[i]) * s->N[i * W + k];
    return sum;
}

static void assert_close(double a, double b) {
    assert_true(fabs(a - b) <= 1e-10 * (1 + fabs(a)));
}

static void turned_coordinates_are_uncorrelated_over_lookups(void **state) {
    struct scene *const s = *state;
    sum_up(s, ROWS);
    fit(s);
    for (size_t i = 0; i < W; i++) {
        for (size_t j = 0; j < W; j++) {
            double sum = 0;
            for (size_t f = 0; f < ROWS; f++)
                sum += s->count[f] * turned(s, s->r[f], i) * turned(s, s->r[f], j);
            assert_close(sum / s->slot->lookups, i == j ? s->eigenvalue[i] : 0);
        }
        assert_true(i == 0 || s->eigenvalue[i - 1] >= s->eigenvalue[i]);
    }
}

static void signs_do_not_depend_on_chance(void **state) {
    struct scene *const s = *state;
    sum_up(s, ROWS);
    fit(s);
    for (size_t k = 0; k < W; k++) {
        double largest = 0;
        for (size_t i = 0; i < W; i++)
            largest = fabs(s->N[i * W + k]) > fabs(largest) ? s->N[i * W + k] : largest;
        assert_true(largest > 0);
    }
}

static void scores_are_those_of_the_turned_rows(void **state) {
    struct scene *const s = *state;
    double g[W];
    sum_up(s, ROWS);
    fit(s);
    basis_score(s->step, s->mean, s->N, g);
    for (size_t k = 0; k < W; k++) {
        double want = 0;
        for (size_t f = 0; f < ROWS; f++) {
            double grad = 0;
            for (size_t i = 0; i < W; i++)
                grad += s->grad[f][i] * s->N[i * W + k];
            want += turned(s, s->r[f], k) * grad;
        }
        assert_close(g[k], want);
    }
}

static void norms_are_those_of_the_turned_rows(void **state) {
    struct scene *const s = *state;
    double norm[W];
    sum_up(s, ROWS);
    fit(s);
    basis_norm(s->slot, s->mean, s->N, norm);
    for (size_t k = 0; k < W; k++) {
        double want = 0;
        for (size_t f = 0; f < ROWS; f++)
            want += turned(s, s->r[f], k) * turned(s, s->r[f], k);
        assert_close(norm[k], sqrt(want));
    }
}

static void rows_never_looked_up_weigh_the_same(void **state) {
    struct scene *const s = *state;
    memset(s->count, 0, sizeof s->count);
    sum_up(s, ROWS);
    fit(s);
    for (size_t k = 0; k < W; k++) {
        double square = 0, mean = 0;
        for (size_t f = 0; f < ROWS; f++) {
            mean += s->r[f][k];
            square += turned(s, s->r[f], k) * turned(s, s->r[f], k);
        }
        assert_close(s->mean[k], mean / ROWS);
        assert_close(s->eigenvalue[k], square / ROWS);
    }
}

static void assert_identity(const struct scene *s) {
    for (size_t i = 0; i < W; i++) {
        assert_true(s->eigenvalue[i] == 0);
        for (size_t k = 0; k < W; k++)
            assert_true(s->N[i * W + k] == (i == k));
    }
}

static void without_rows_nothing_turns(void **state) {
    struct scene *const s = *state;
    sum_up(s, 0);
    fit(s);
    assert_identity(s);
    assert_true(s->mean[0] == 0);
}

static void one_row_is_its_own_mean(void **state) {
    struct scene *const s = *state;
    s->count[0] = 3;
    sum_up(s, 1);
    fit(s);
    assert_identity(s);
    for (size_t k = 0; k < W; k++)
        assert_close(s->mean[k], s->r[0][k]);
}

static void equal_rows_have_no_directions(void **state) {
    struct scene *const s = *state;
    for (size_t f = 1; f < ROWS; f++)
        memcpy(s->r[f], s->r[0], sizeof s->r[0]);
    sum_up(s, ROWS);
    fit(s);
    assert_identity(s);
    stats_destroy(&s->stats);
    memset(s->r, 0, sizeof s->r);
    sum_up(s, ROWS);
    fit(s);
    assert_identity(s);
}

static void sums_that_are_not_finite_are_refused(void **state) {
    struct scene *const s = *state;
    struct err_detail detail;
    sum_up(s, ROWS);
    s->slot->looked_second[5] = INFINITY;
    assert_int_equal(basis_rotated(s->slot, s->mean, s->N, s->eigenvalue, &detail),
                     DIMFIT_ERR_NOT_FINITE);
    assert_non_null(strstr(detail.text, "slot 6"));
    s->slot->looked_second[5] = 0;
    s->slot->looked_sum[1] = NAN;
    assert_int_equal(basis_rotated(s->slot, s->mean, s->N, s->eigenvalue, &detail),
                     DIMFIT_ERR_NOT_FINITE);
    s->slot->looked_sum[1] = 1e300; /* finite, its square is not */
    assert_int_equal(basis_rotated(s->slot, s->mean, s->N, s->eigenvalue, &detail),
                     DIMFIT_ERR_NOT_FINITE);
}

#define BASIS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        BASIS_TEST(turned_coordinates_are_uncorrelated_over_lookups),
        BASIS_TEST(signs_do_not_depend_on_chance),
        BASIS_TEST(scores_are_those_of_the_turned_rows),
        BASIS_TEST(norms_are_those_of_the_turned_rows),
        BASIS_TEST(rows_never_looked_up_weigh_the_same),
        BASIS_TEST(without_rows_nothing_turns),
        BASIS_TEST(one_row_is_its_own_mean),
        BASIS_TEST(equal_rows_have_no_directions),
        BASIS_TEST(sums_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
