#include "proto/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static uint16_t encoded(float x) {
    uint8_t bytes[2];
    uint16_t half;
    half_encode(&x, 1, bytes);
    memcpy(&half, bytes, sizeof half);
    return half;
}

static void every_half_survives_the_way_there_and_back(void **state) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float x = half_value((uint16_t)h);
        if (isnan(x))
            assert_true(isnan(half_value(half_of(x))));
        else if (isinf(x))
            assert_int_equal(half_of(x), (h & 0x8000) | 0x7bff);
        else
            assert_int_equal(half_of(x), h);
    }
}

/* The nearest of all halves, found by search: between two neighbours the nearer, at the middle the
 * even one. */
static void floats_round_to_the_nearest_half_ties_to_even(void **state) {
    for (uint16_t h = 0; h < 0x7bff; h++) {
        const float low = half_value(h), high = half_value((uint16_t)(h + 1));
        const float middle = low + (high - low) / 2; /* exact */
        assert_int_equal(half_of(middle), h % 2 == 0 ? h : h + 1);
        assert_int_equal(half_of(nextafterf(middle, 0)), h);
        assert_int_equal(half_of(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(half_of(-nextafterf(middle, 0)), h | 0x8000);
    }
}

static void values_beyond_the_largest_half_become_it(void **state) {
    assert_true(half_value(encoded(65504)) == 65504);
    assert_true(half_value(encoded(65519.9f)) == 65504);
    assert_true(half_value(encoded(1e30f)) == 65504);
    assert_true(half_value(encoded(-INFINITY)) == -65504);
    assert_true(isnan(half_value(encoded(NAN))));
}

static void relative_and_absolute_errors_keep_their_bounds(void **state) {
    for (float x = 1e-9f; x < 65504; x *= 1.0137f) {
        const double error = fabs((double)half_value(half_of(x)) - (double)x);
        assert_true(error <= (x >= 0x1p-14f ? 0x1p-11 * (double)x : 0x1p-25));
    }
}

/* Whatever the machine has, for every length and alignment. */
static void arrays_have_the_bits_of_the_specification(void **state) {
    float x[67];
    for (size_t i = 0; i < 67; i++)
        x[i] = ldexpf((float)i - 30.5f, (int)(i * 7 % 50) - 30);
    x[3] = NAN, x[11] = 1e20f, x[20] = -INFINITY, x[31] = 1e-40f, x[40] = -0.0f;
    for (size_t n = 0; n <= 67; n++) {
        uint8_t bytes[2 * 67 + 1];
        float back[67 + 1];
        back[n] = 77;
        half_encode(x, n, bytes + 1);
        half_decode(bytes + 1, n, back);
        for (size_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, bytes + 1 + 2 * i, sizeof half);
            const float expected = half_value(half);
            if (isnan(x[i]))
                assert_true(isnan(back[i]) && isnan(expected));
            else
                assert_true(half == half_of(x[i]) && memcmp(&back[i], &expected, 4) == 0);
        }
        assert_true(back[n] == 77);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_way_there_and_back),
        cmocka_unit_test(floats_round_to_the_nearest_half_ties_to_even),
        cmocka_unit_test(values_beyond_the_largest_half_become_it),
        cmocka_unit_test(relative_and_absolute_errors_keep_their_bounds),
        cmocka_unit_test(arrays_have_the_bits_of_the_specification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
