#include "server/init.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct layout_slot spec_of(enum init_kind init, uint32_t dim) {
    return (struct layout_slot){
        .id = 12, .dim = dim, .width = dim, .init = init, .init_scale = 0.25f};
}

static void a_value_depends_on_nothing_but_its_arguments(void **state) {
    const struct layout_slot slot = spec_of(INIT_NORMAL, 7);
    float first[100][7], again[7];
    for (uint64_t f = 0; f < 100; f++)
        init_value(&slot, 5, f, first[f]);
    for (uint64_t f = 100; f-- > 0;) {
        init_value(&slot, 5, f, again);
        assert_memory_equal(again, first[f], sizeof again);
    }
}

static void seed_slot_and_feasign_each_change_the_value(void **state) {
    struct layout_slot slot = spec_of(INIT_NORMAL, 2);
    float base[2], other[2];
    init_value(&slot, 5, 1, base);
    init_value(&slot, 6, 1, other);
    assert_memory_not_equal(base, other, sizeof base);
    init_value(&slot, 5, UINT64_C(1) << 63 | 1, other);
    assert_memory_not_equal(base, other, sizeof base);
    slot.id++;
    init_value(&slot, 5, 1, other);
    assert_memory_not_equal(base, other, sizeof base);
}

static void a_dimension_reads_the_same_at_any_model_width(void **state) {
    const struct layout_slot narrow = spec_of(INIT_NORMAL, 3), wide = spec_of(INIT_NORMAL, 64);
    float a[3], b[64];
    init_value(&narrow, 1, 99, a);
    init_value(&wide, 1, 99, b);
    assert_memory_equal(a, b, sizeof a);
}

static void normal_values_have_the_moments_of_their_scale(void **state) {
    enum { N = 50000 };
    const struct layout_slot slot = spec_of(INIT_NORMAL, 3);
    double sum = 0, squares = 0, fourth = 0, cross = 0;
    for (uint64_t f = 0; f < N; f++) {
        float v[3];
        init_value(&slot, 1, f, v);
        for (int k = 0; k < 3; k++) {
            const double x = v[k] / 0.25;
            sum += x;
            squares += x * x;
            fourth += x * x * x * x;
        }
        cross += (double)v[0] * v[1] / 0.0625;
    }
    assert_true(fabs(sum / (3 * N)) < 0.02);
    assert_true(fabs(squares / (3 * N) - 1) < 0.02);
    assert_true(fabs(fourth / (3 * N) - 3) < 0.15);
    assert_true(fabs(cross / N) < 0.02);
}

static void uniform_values_fill_their_half_open_range(void **state) {
    const struct layout_slot slot = spec_of(INIT_UNIFORM, 2);
    double sum = 0, low = 1, high = -1;
    for (uint64_t f = 0; f < 50000; f++) {
        float v[2];
        init_value(&slot, 1, f, v);
        for (int k = 0; k < 2; k++) {
            assert_true(v[k] >= -0.25f && v[k] < 0.25f);
            sum += v[k];
            low = v[k] < low ? v[k] : low;
            high = v[k] > high ? v[k] : high;
        }
    }
    assert_true(low < -0.249 && high > 0.249 && fabs(sum / 100000) < 0.003);
}

static void zero_values_are_zero(void **state) {
    const struct layout_slot slot = spec_of(INIT_ZERO, 5);
    const float zero[5] = {0};
    float v[5];
    init_value(&slot, 1, 77, v);
    assert_memory_equal(v, zero, sizeof v);
}

static void an_axis_row_is_a_selection_of_the_value(void **state) {
    struct layout_slot slot = spec_of(INIT_NORMAL, 5);
    uint16_t axes[] = {4, 0, 3};
    slot.axes = axes;
    slot.width = 3;
    float v[5], r[3];
    init_value(&slot, 2, 8, v);
    init_row(&slot, 2, 8, r);
    for (int k = 0; k < 3; k++)
        assert_true(r[k] == v[axes[k]]);
}

static void a_dense_row_is_the_value_through_the_map(void **state) {
    enum { DIM = 5, WIDTH = 3 };
    struct layout_slot slot = spec_of(INIT_NORMAL, DIM);
    double map[DIM * WIDTH], shift[WIDTH];
    for (int i = 0; i < DIM * WIDTH; i++)
        map[i] = sin(i + 1);
    for (int i = 0; i < WIDTH; i++)
        shift[i] = 0.1 * i;
    slot.width = WIDTH;
    slot.init_map = map;
    slot.init_shift = shift;
    float v[DIM], r[WIDTH];
    init_value(&slot, 2, 8, v);
    init_row(&slot, 2, 8, r);
    for (int k = 0; k < WIDTH; k++) {
        double want = shift[k];
        for (int i = 0; i < DIM; i++)
            want += v[i] * map[i * WIDTH + k];
        assert_true(fabs(r[k] - want) < 1e-7);
    }
}

static void a_row_without_width_is_left_alone(void **state) {
    struct layout_slot slot = spec_of(INIT_NORMAL, 5);
    float r = 3;
    slot.width = 0;
    init_row(&slot, 2, 8, &r);
    assert_true(r == 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_depends_on_nothing_but_its_arguments),
        cmocka_unit_test(seed_slot_and_feasign_each_change_the_value),
        cmocka_unit_test(a_dimension_reads_the_same_at_any_model_width),
        cmocka_unit_test(normal_values_have_the_moments_of_their_scale),
        cmocka_unit_test(uniform_values_fill_their_half_open_range),
        cmocka_unit_test(zero_values_are_zero),
        cmocka_unit_test(an_axis_row_is_a_selection_of_the_value),
        cmocka_unit_test(a_dense_row_is_the_value_through_the_map),
        cmocka_unit_test(a_row_without_width_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
