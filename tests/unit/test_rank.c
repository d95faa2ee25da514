#include "server/ctl/rank.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void the_same_order_is_one_and_the_opposite_minus_one(void **state) {
    const double a[] = {3, -1, 7, 2}, b[] = {30, -10, 700, 20}, c[] = {-3, 1, -7, -2};
    double rho, tau;
    assert_true(rank_spearman(a, b, 4, &rho) && rank_kendall(a, b, 4, &tau));
    assert_true(rho == 1 && tau == 1);
    assert_true(rank_spearman(a, c, 4, &rho) && rank_kendall(a, c, 4, &tau));
    assert_true(rho == -1 && tau == -1);
}

static double sign(double v) {
    return (double)((v > 0) - (v < 0));
}

/* tau-b by all pairs; rho as the correlation of ranks counted one by one. */
static void brute(const double *a, const double *b, size_t n, double *rho, double *tau) {
    double both = 0, in_a = 0, in_b = 0, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        double ra = 0, rb = 0; /* twice the distance from the middle rank */
        for (size_t j = 0; j < n; j++) {
            ra += sign(a[i] - a[j]);
            rb += sign(b[i] - b[j]);
            if (j < i) {
                both += sign(a[i] - a[j]) * sign(b[i] - b[j]);
                in_a += a[i] != a[j];
                in_b += b[i] != b[j];
            }
        }
        ab += ra * rb;
        aa += ra * ra;
        bb += rb * rb;
    }
    *rho = ab / sqrt(aa * bb);
    *tau = both / sqrt(in_a * in_b);
}

static void ties_count_as_all_pairs_say(void **state) {
    uint64_t seed = 5;
    for (size_t n = 5; n < 80; n += 7) {
        double a[80], b[80], rho, tau, want_rho, want_tau;
        for (size_t i = 0; i < n; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1;
            a[i] = (double)(seed >> 61);
            seed = seed * UINT64_C(6364136223846793005) + 1;
            b[i] = (i % 5 == 0 ? a[i] : (double)(seed >> 60));
        }
        b[0] = -INFINITY; /* what is never taken */
        brute(a, b, n, &want_rho, &want_tau);
        assert_true(rank_spearman(a, b, n, &rho) && rank_kendall(a, b, n, &tau));
        assert_true(fabs(rho - want_rho) < 1e-12);
        assert_true(fabs(tau - want_tau) < 1e-12);
    }
}

static void what_ranks_nothing_has_no_correlation(void **state) {
    const double a[] = {1, 1, 1}, b[] = {1, 2, 3};
    double rho, tau;
    assert_true(rank_spearman(a, b, 3, &rho) && rank_kendall(a, b, 3, &tau));
    assert_true(isnan(rho) && isnan(tau));
    assert_true(rank_spearman(a, b, 0, &rho) && rank_kendall(a, b, 1, &tau));
    assert_true(isnan(rho) && isnan(tau));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_order_is_one_and_the_opposite_minus_one),
        cmocka_unit_test(ties_count_as_all_pairs_say),
        cmocka_unit_test(what_ranks_nothing_has_no_correlation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
