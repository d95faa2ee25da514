#include "server/latency.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

static size_t bucket_of(uint64_t ns) {
    struct latency latency = {0};
    latency_add(&latency, ns);
    assert_int_equal(latency.sum_ns, ns);
    for (size_t i = 0; i < LATENCY_BUCKETS; i++) {
        if (latency.counts[i] == 1)
            return i;
    }
    fail_msg("%llu ns were not counted", (unsigned long long)ns);
    return 0;
}

static void each_time_falls_between_the_bounds_of_its_bucket(void **state) {
    for (size_t i = 0; i + 1 < LATENCY_BUCKETS; i++) {
        const uint64_t bound = (uint64_t)LATENCY_FIRST_NS << i;
        assert_int_equal(bucket_of(bound), i);
        assert_int_equal(bucket_of(bound + 1), i + 1);
        assert_true(fabs(latency_bound(i) - (double)bound * 1e-9) < 1e-12);
    }
    assert_int_equal(bucket_of(0), 0);
    assert_int_equal(bucket_of(UINT64_MAX), LATENCY_BUCKETS - 1);
    assert_true(isinf(latency_bound(LATENCY_BUCKETS - 1)));
}

static void a_quantile_is_the_bound_that_so_many_did_not_exceed(void **state) {
    struct latency latency = {0};
    assert_true(latency_quantile(&latency, 0.99) == 0);
    for (int i = 0; i < 99; i++)
        latency_add(&latency, 1000);
    latency_add(&latency, 1000000);
    assert_true(latency_quantile(&latency, 0.5) == latency_bound(0));
    assert_true(latency_quantile(&latency, 0.99) == latency_bound(0));
    assert_true(latency_quantile(&latency, 0.995) == latency_bound(bucket_of(1000000)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_time_falls_between_the_bounds_of_its_bucket),
        cmocka_unit_test(a_quantile_is_the_bound_that_so_many_did_not_exceed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
