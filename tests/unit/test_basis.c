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
    struct basis_fit basis;
};

static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

static void sum_up(struct scene *s, size_t rows) {
    assert_int_equal(stats_new(0, &s->stats), DIMFIT_OK);
    s->slot = stats_add_slot(s->stats, 6, 0, W, true);
    s->step = step_add_slot(stats_add_step(s->stats, 1), 6, 0, W, true);
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
    basis_fini(&s->basis);
    free(s);
    return 0;
}

static void begin(struct scene *s) {
    basis_fini(&s->basis);
    assert_int_equal(basis_init(&s->basis, W), DIMFIT_OK);
}

static void fit(struct scene *s) {
    begin(s);
    assert_int_equal(basis_rotated(s->slot, &s->basis, NULL), DIMFIT_OK);
    assert_ptr_equal(s->basis.encode, s->basis.decode);
}

/* (r - mean) N, row by row. */
static double turned(const struct scene *s, const double *r, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < W; i++)
        sum += (r[i] - s->basis.mean[i]) * s->basis.encode[i * W + k];
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
            assert_close(sum / s->slot->lookups, i == j ? s->basis.eigenvalue[i] : 0);
        }
        assert_true(i == 0 || s->basis.eigenvalue[i - 1] >= s->basis.eigenvalue[i]);
    }
}

static void signs_do_not_depend_on_chance(void **state) {
    struct scene *const s = *state;
    sum_up(s, ROWS);
    fit(s);
    for (size_t k = 0; k < W; k++) {
        double largest = 0;
        for (size_t i = 0; i < W; i++)
            largest = fabs(s->basis.encode[i * W + k]) > fabs(largest) ? s->basis.encode[i * W + k]
                                                                       : largest;
        assert_true(largest > 0);
    }
}

static void scores_are_those_of_the_turned_rows(void **state) {
    struct scene *const s = *state;
    double g[W];
    sum_up(s, ROWS);
    fit(s);
    basis_score(s->step, &s->basis, g);
    for (size_t k = 0; k < W; k++) {
        double want = 0;
        for (size_t f = 0; f < ROWS; f++) {
            double grad = 0;
            for (size_t i = 0; i < W; i++)
                grad += s->grad[f][i] * s->basis.encode[i * W + k];
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
    basis_norm(s->slot, &s->basis, norm);
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
        assert_close(s->basis.mean[k], mean / ROWS);
        assert_close(s->basis.eigenvalue[k], square / ROWS);
    }
}

static void assert_identity(const struct scene *s) {
    for (size_t i = 0; i < W; i++) {
        assert_true(s->basis.eigenvalue[i] == 0);
        for (size_t k = 0; k < W; k++)
            assert_true(s->basis.encode[i * W + k] == (i == k));
    }
}

static void without_rows_nothing_turns(void **state) {
    struct scene *const s = *state;
    sum_up(s, 0);
    fit(s);
    assert_identity(s);
    assert_true(s->basis.mean[0] == 0);
}

static void one_row_is_its_own_mean(void **state) {
    struct scene *const s = *state;
    s->count[0] = 3;
    sum_up(s, 1);
    fit(s);
    assert_identity(s);
    for (size_t k = 0; k < W; k++)
        assert_close(s->basis.mean[k], s->r[0][k]);
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
    begin(s);
    sum_up(s, ROWS);
    s->slot->looked_second[5] = INFINITY;
    assert_int_equal(basis_rotated(s->slot, &s->basis, &detail), DIMFIT_ERR_NOT_FINITE);
    assert_non_null(strstr(detail.text, "slot 6"));
    s->slot->looked_second[5] = 0;
    s->slot->looked_sum[1] = NAN;
    assert_int_equal(basis_rotated(s->slot, &s->basis, &detail), DIMFIT_ERR_NOT_FINITE);
    s->slot->looked_sum[1] = 1e300; /* finite, its square is not */
    assert_int_equal(basis_rotated(s->slot, &s->basis, &detail), DIMFIT_ERR_NOT_FINITE);
}

/* ---- kfac -------------------------------------------------------------------------------------
 */

/* Every row's gradient is one lookup's. */
static void curve(struct scene *s, size_t lookups) {
    assert_true(stats_add_curvature(s->slot));
    memset(s->slot->curvature, 0, W * W * sizeof *s->slot->curvature);
    s->slot->curved = (double)lookups;
    for (size_t f = 0; f < lookups; f++) {
        for (size_t i = 0; i < W * W; i++)
            s->slot->curvature[i] += s->grad[f][i / W] * s->grad[f][i % W];
    }
}

static void fit_kfac(struct scene *s) {
    begin(s);
    assert_int_equal(basis_kfac(s->slot, &s->basis, NULL), DIMFIT_OK);
}

/* A and the regularised H, in the plainest way; the largest eigenvalue of H by power iteration. */
static void plain_moments(const struct scene *s, double A[W][W], double H[W][W]) {
    for (size_t i = 0; i < W; i++) {
        for (size_t j = 0; j < W; j++) {
            A[i][j] = 0;
            for (size_t f = 0; f < s->slot->rows; f++)
                A[i][j] += s->count[f] * (s->r[f][i] - s->basis.mean[i]) *
                           (s->r[f][j] - s->basis.mean[j]) / s->slot->lookups;
            H[i][j] = s->slot->curvature[i * W + j] / s->slot->curved;
        }
    }
    double x[W] = {1, 0.9, 0.8, 0.7}, largest = 0;
    for (int turn = 0; turn < 20000; turn++) {
        double y[W] = {0}, size = 0;
        for (size_t i = 0; i < W * W; i++)
            y[i / W] += H[i / W][i % W] * x[i % W];
        for (size_t i = 0; i < W; i++)
            size += y[i] * y[i];
        largest = sqrt(size);
        for (size_t i = 0; i < W; i++)
            x[i] = y[i] / largest;
    }
    for (size_t i = 0; i < W; i++)
        H[i][i] += 1e-3 * largest;
}

/* tr(H (I - P)^T A (I - P)) of P = T N^T, T and N [W][n]. */
static double loss_of(const double A[W][W], const double H[W][W], const double *T, const double *N,
                      size_t n) {
    double Q[W][W], loss = 0;
    for (size_t i = 0; i < W; i++) {
        for (size_t j = 0; j < W; j++) {
            Q[i][j] = i == j;
            for (size_t k = 0; k < n; k++)
                Q[i][j] -= T[i * n + k] * N[j * n + k];
        }
    }
    for (size_t i = 0; i < W * W; i++) {
        double AQ = 0, HQ = 0; /* (A Q)_ij (Q H)_ij */
        for (size_t k = 0; k < W; k++) {
            AQ += A[i / W][k] * Q[k][i % W];
            HQ += Q[i / W][k] * H[k][i % W];
        }
        loss += AQ * HQ;
    }
    return loss;
}

static void change_of(const struct scene *s, size_t n, double *T, double *N) {
    uint8_t keep[W] = {0};
    memset(keep, 1, n);
    assert_int_equal(basis_change(&s->basis, keep, n, T, N, NULL), DIMFIT_OK);
    for (size_t i = 0; i < n * n; i++) {
        double dot = 0;
        for (size_t j = 0; j < W; j++)
            dot += N[j * n + i / n] * N[j * n + i % n];
        assert_close(dot, i / n == i % n);
    }
}

static void check_least_loss(struct scene *s) {
    double A[W][W], H[W][W], T[W * W], N[W * W];
    uint64_t seed = 5;
    fit_kfac(s);
    plain_moments(s, A, H);
    for (size_t n = 0; n <= W; n++) {
        double dropped = 0;
        change_of(s, n, T, N);
        for (size_t k = n; k < W; k++)
            dropped += s->basis.eigenvalue[k];
        const double least = loss_of(A, H, T, N, n);
        assert_true(fabs(least - dropped) <= 1e-8 * (1 + s->basis.eigenvalue[0]));
        /* Projections near it and far away, T N^T of the same rank. */
        for (int trial = 0; trial < 2000; trial++) {
            double other_T[W * W], other_N[W * W];
            const double far = trial % 2 == 0 ? 1 : 1e-3;
            for (size_t i = 0; i < W * n; i++) {
                other_T[i] = T[i] + far * draw(&seed);
                other_N[i] = N[i] + far * draw(&seed);
            }
            assert_true(loss_of(A, H, other_T, other_N, n) >= least - 1e-9);
        }
    }
}

static void no_projection_loses_less_than_kfac_ones(void **state) {
    struct scene *const s = *state;
    sum_up(s, ROWS);
    curve(s, ROWS);
    check_least_loss(s);
    assert_true(s->basis.eigenvalue[W - 1] > 0);
}

static void deficient_moments_lose_what_their_eigenvalues_say(void **state) {
    struct scene *const s = *state;
    sum_up(s, 4); /* one never looked up: two directions about the mean */
    curve(s, 2);
    check_least_loss(s);
    assert_true(s->basis.eigenvalue[1] > 1e-3 * s->basis.eigenvalue[0]);
    assert_true(s->basis.eigenvalue[2] < 1e-12 * s->basis.eigenvalue[0]);
}

static void all_units_of_kfac_leave_rows_whole(void **state) {
    struct scene *const s = *state;
    double T[W * W], N[W * W];
    sum_up(s, ROWS);
    curve(s, ROWS);
    fit_kfac(s);
    assert_ptr_not_equal(s->basis.encode, s->basis.decode);
    assert_false(basis_is_identity(&s->basis));
    change_of(s, W, T, N);
    assert_memory_equal(T, N, sizeof T);
}

/* Any units, not only the first: T N^T is the sum of their e_k d_k. */
static void any_choice_of_kfac_units_is_its_projection(void **state) {
    struct scene *const s = *state;
    double T[W * 2], N[W * 2];
    sum_up(s, ROWS);
    curve(s, ROWS);
    fit_kfac(s);
    const uint8_t keep[W] = {0, 1, 0, 1};
    assert_int_equal(basis_change(&s->basis, keep, 2, T, N, NULL), DIMFIT_OK);
    for (size_t i = 0; i < W * W; i++) {
        double got = 0, want = 0;
        for (size_t k = 0; k < 2; k++)
            got += T[i / W * 2 + k] * N[i % W * 2 + k];
        for (size_t k = 0; k < W; k++)
            want += keep[k] ? s->basis.encode[i / W * W + k] * s->basis.decode[i % W * W + k] : 0;
        assert_close(got, want);
    }
}

/* Masking unit k by alpha, v(alpha) = mean + sum alpha_k (r - mean) e_k d_k. */
static void kfac_scores_and_norms_are_those_of_what_units_give_back(void **state) {
    struct scene *const s = *state;
    double g[W], norm[W];
    sum_up(s, ROWS);
    curve(s, ROWS);
    fit_kfac(s);
    basis_score(s->step, &s->basis, g);
    basis_norm(s->slot, &s->basis, norm);
    for (size_t k = 0; k < W; k++) {
        double want_g = 0, want_norm = 0;
        for (size_t f = 0; f < ROWS; f++) {
            for (size_t j = 0; j < W; j++) {
                const double back = turned(s, s->r[f], k) * s->basis.decode[j * W + k];
                want_g += back * s->grad[f][j];
                want_norm += back * back;
            }
        }
        assert_close(g[k], want_g);
        assert_close(norm[k], sqrt(want_norm));
    }
}

static void without_curvature_directions_are_rotated_and_worth_nothing(void **state) {
    struct scene *const s = *state;
    double rotated[W * W], zeros[W] = {0};
    sum_up(s, ROWS);
    fit(s);
    memcpy(rotated, s->basis.encode, sizeof rotated);
    fit_kfac(s);
    assert_memory_equal(s->basis.encode, rotated, sizeof rotated);
    assert_memory_equal(s->basis.eigenvalue, zeros, sizeof zeros);
    curve(s, 0); /* no lookups */
    fit_kfac(s);
    assert_memory_equal(s->basis.encode, rotated, sizeof rotated);
    memset(s->grad, 0, sizeof s->grad);
    curve(s, ROWS); /* lookups without a gradient */
    fit_kfac(s);
    assert_memory_equal(s->basis.encode, rotated, sizeof rotated);
    assert_memory_equal(s->basis.eigenvalue, zeros, sizeof zeros);
}

static void kfac_of_few_rows_is_the_identity(void **state) {
    struct scene *const s = *state;
    for (size_t rows = 0; rows < 2; rows++) {
        sum_up(s, rows);
        curve(s, ROWS);
        fit_kfac(s);
        assert_identity(s);
        assert_true(basis_is_identity(&s->basis));
        stats_destroy(&s->stats);
    }
    sum_up(s, 0);
}

static void kfac_of_width_1_keeps_its_axis(void **state) {
    struct stats *stats;
    assert_int_equal(stats_new(0, &stats), DIMFIT_OK);
    struct slot_stats *const slot = stats_add_slot(stats, 3, 0, 1, true);
    slot->rows = 2;
    slot->lookups = 4;
    slot->looked_second[0] = 20;
    slot->looked_sum[0] = 4;
    assert_true(stats_add_curvature(slot));
    slot->curvature[0] = 12;
    slot->curved = 4;
    struct basis_fit basis;
    assert_int_equal(basis_init(&basis, 1), DIMFIT_OK);
    assert_int_equal(basis_kfac(slot, &basis, NULL), DIMFIT_OK);
    assert_close(basis.eigenvalue[0], 4 * 3 * 1.001); /* variance 4, curvature 3 */
    assert_true(basis_is_identity(&basis));
    basis_fini(&basis);
    stats_destroy(&stats);
}

static void curvature_that_is_not_finite_is_refused(void **state) {
    struct scene *const s = *state;
    struct err_detail detail;
    sum_up(s, ROWS);
    curve(s, ROWS);
    s->slot->curvature[3] = NAN;
    begin(s);
    assert_int_equal(basis_kfac(s->slot, &s->basis, &detail), DIMFIT_ERR_NOT_FINITE);
    assert_non_null(strstr(detail.text, "slot 6"));
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
        BASIS_TEST(no_projection_loses_less_than_kfac_ones),
        BASIS_TEST(deficient_moments_lose_what_their_eigenvalues_say),
        BASIS_TEST(all_units_of_kfac_leave_rows_whole),
        BASIS_TEST(any_choice_of_kfac_units_is_its_projection),
        BASIS_TEST(kfac_scores_and_norms_are_those_of_what_units_give_back),
        BASIS_TEST(without_curvature_directions_are_rotated_and_worth_nothing),
        BASIS_TEST(kfac_of_few_rows_is_the_identity),
        BASIS_TEST(kfac_of_width_1_keeps_its_axis),
        BASIS_TEST(curvature_that_is_not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
