#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/train/metrics.h"
#include "worker/train/quantile.h"
#include "worker/train/rng.h"

#include <math.h>

/* Every pair of a positive and a negative, one by one. */
static double auc_by_pairs(const float *logits, const float *labels, size_t n) {
    double wins = 0, pairs = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            if (labels[i] < 0.5f || labels[j] > 0.5f)
                continue;
            pairs++;
            wins += logits[i] > logits[j] ? 1 : logits[i] == logits[j] ? 0.5 : 0;
        }
    }
    return wins / pairs;
}

static void auc_equals_counting_every_pair(void **state) {
    enum { N = 400 };
    for (uint64_t levels = 2; levels < 500; levels *= 3) {
        struct rng rng = rng_of(levels, 1);
        float logits[N], labels[N];
        for (size_t i = 0; i < N; i++) {
            logits[i] = (float)rng_below(&rng, levels);
            labels[i] = rng_unit(&rng) < 0.3;
        }
        assert_true(fabs(metrics_auc(logits, labels, N) - auc_by_pairs(logits, labels, N)) < 1e-12);
    }
}

static void auc_of_one_class_is_not_a_number(void **state) {
    const float logits[] = {1, 2}, ones[] = {1, 1}, zeros[] = {0, 0};
    assert_true(isnan(metrics_auc(logits, ones, 2)));
    assert_true(isnan(metrics_auc(logits, zeros, 2)));
    assert_true(isnan(metrics_auc(logits, zeros, 0)));
}

static void auc_knows_best_worst_and_blind(void **state) {
    const float labels[] = {0, 1, 0, 1}, best[] = {-1, 1, -2, 2}, worst[] = {1, -1, 2, -2};
    const float blind[] = {3, 3, 3, 3};
    assert_true(metrics_auc(best, labels, 4) == 1);
    assert_true(metrics_auc(worst, labels, 4) == 0);
    assert_true(metrics_auc(blind, labels, 4) == 0.5);
}

static void logloss_equals_its_definition(void **state) {
    for (double z = -20; z <= 20; z += 0.25) {
        const double p = 1 / (1 + exp(-z));
        assert_true(fabs(metrics_logloss_one(z, 1) + log(p)) < 1e-12 * (1 + fabs(z)));
        assert_true(fabs(metrics_logloss_one(z, 0) - (z - log(p))) < 1e-12 * (1 + fabs(z)));
    }
}

static void logloss_of_extreme_logits_is_finite(void **state) {
    assert_true(metrics_logloss_one(1e6, 0) == 1e6);
    assert_true(metrics_logloss_one(-1e6, 1) == 1e6);
    assert_true(metrics_logloss_one(1e6, 1) == 0);
    assert_true(isnan(metrics_logloss(NULL, NULL, 0)));
}

static double loss_at(const float *logits, const float *labels, size_t n, double scale,
                      double shift) {
    double sum = ((scale - 1) * (scale - 1) + shift * shift) / 2; /* the prior */
    for (size_t i = 0; i < n; i++)
        sum += metrics_logloss_one(scale * (double)logits[i] + shift, (double)labels[i]);
    return sum;
}

static void calibration_finds_the_pair_of_least_loss(void **state) {
    enum { N = 4000 };
    static float logits[N], labels[N];
    struct rng rng = rng_of(1, 3);
    for (size_t i = 0; i < N; i++) {
        const double truth = 1.5 * rng_normal(&rng) - 1;
        labels[i] = rng_unit(&rng) < 1 / (1 + exp(-truth)) ? 1 : 0;
        logits[i] = (float)(4 * truth + 2);
    }
    const struct calibration c = metrics_calibrate(logits, labels, N);
    assert_true(fabs(c.scale - 0.25) < 0.03 && fabs(c.shift + 0.5) < 0.15);
    const double least = loss_at(logits, labels, N, c.scale, c.shift);
    for (double step = 1e-3; step < 1; step *= 10) {
        assert_true(loss_at(logits, labels, N, c.scale + step, c.shift) > least);
        assert_true(loss_at(logits, labels, N, c.scale - step, c.shift) > least);
        assert_true(loss_at(logits, labels, N, c.scale, c.shift + step) > least);
        assert_true(loss_at(logits, labels, N, c.scale, c.shift - step) > least);
    }
}

static void calibration_leaves_alone_what_it_can_not_mend(void **state) {
    const float logits[] = {-30, -1, 2, 40}, one[] = {1, 1, 1, 1}, wrong[] = {1, 1, 0, 0};
    const float parted[] = {0, 0, 1, 1};
    struct calibration c = metrics_calibrate(logits, one, 4);
    assert_true(c.scale == 1 && c.shift == 0);
    c = metrics_calibrate(logits, wrong, 4);
    assert_true(c.scale == 1 && c.shift == 0);
    c = metrics_calibrate(logits, NULL, 0);
    assert_true(c.scale == 1 && c.shift == 0);
    c = metrics_calibrate(logits, parted, 4); /* least without the prior at infinity */
    assert_true(isfinite(c.scale) && isfinite(c.shift) && c.scale > 1 && c.scale < 10);
}

static void quantile_buckets_hold_equal_shares(void **state) {
    enum { N = 1000, BUCKETS = 8 };
    double values[N], cuts[BUCKETS];
    size_t counts[BUCKETS] = {0};
    struct rng rng = rng_of(1, 2);
    for (size_t i = 0; i < N; i++)
        values[i] = rng_normal(&rng);
    const size_t n = quantile_cuts(values, N, BUCKETS, cuts);
    assert_int_equal(n, BUCKETS - 1);
    for (size_t i = 0; i < N; i++)
        counts[quantile_bucket(cuts, n, values[i])]++;
    for (size_t b = 0; b < BUCKETS; b++)
        assert_int_equal(counts[b], N / BUCKETS);
}

static void equal_values_share_a_bucket(void **state) {
    double values[] = {5, 1, 1, 1, 1, 1, 1, 1, 1, 9}, cuts[4];
    const size_t n = quantile_cuts(values, 10, 4, cuts);
    assert_int_equal(n, 0);
    assert_int_equal(quantile_bucket(cuts, n, 1), quantile_bucket(cuts, n, 9));
    double half[] = {2, 1, 2, 1};
    assert_int_equal(quantile_cuts(half, 4, 4, cuts), 1);
    assert_int_equal(quantile_bucket(cuts, 1, 1), 0);
    assert_int_equal(quantile_bucket(cuts, 1, 2), 1);
    assert_int_equal(quantile_cuts(half, 0, 4, cuts), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auc_equals_counting_every_pair),
        cmocka_unit_test(auc_of_one_class_is_not_a_number),
        cmocka_unit_test(auc_knows_best_worst_and_blind),
        cmocka_unit_test(logloss_equals_its_definition),
        cmocka_unit_test(logloss_of_extreme_logits_is_finite),
        cmocka_unit_test(calibration_finds_the_pair_of_least_loss),
        cmocka_unit_test(calibration_leaves_alone_what_it_can_not_mend),
        cmocka_unit_test(quantile_buckets_hold_equal_shares),
        cmocka_unit_test(equal_values_share_a_bucket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
