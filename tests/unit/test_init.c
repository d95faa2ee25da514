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

/* Standard deviations from its own scale of what a feasign draws. */
static void draw(uint64_t feasign, uint32_t dim, float *z) {
    struct layout_slot slot = spec_of(INIT_NORMAL, dim);
    slot.init_scale = 1;
    init_value(&slot, 3, feasign, z);
}

static double normal_cdf(double z) {
    return erfc(-z / sqrt(2)) / 2;
}

/* Kolmogorov and Smirnov's distance in cells of equal probability; 1.95 / sqrt(n) is passed once in
 * a thousand. */
static void normal_values_follow_the_distribution_function(void **state) {
    enum { N = 200000, DIM = 8, CELLS = 1000 };
    static uint64_t cells[CELLS];
    for (uint64_t f = 0; f < N; f++) {
        float z[DIM];
        draw(f, DIM, z);
        for (int k = 0; k < DIM; k++)
            cells[(size_t)(normal_cdf(z[k]) * CELLS)]++;
    }
    double below = 0, distance = 0;
    for (size_t i = 0; i < CELLS; i++) {
        below += (double)cells[i];
        distance = fmax(distance, fabs(below / (N * DIM) - (i + 1.0) / CELLS));
    }
    assert_true(distance < 1.95 / sqrt(N * DIM));
}

/* Counts beyond z are Poisson: within five of their own deviations, on both sides. */
static void normal_values_have_the_tails_of_the_distribution(void **state) {
    enum { N = 500000, DIM = 16 };
    static const double edges[] = {1, 2, 3, 4, 4.5};
    double above[5] = {0}, below[5] = {0};
    float largest = 0;
    for (uint64_t f = 0; f < N; f++) {
        float z[DIM];
        draw(f, DIM, z);
        for (int k = 0; k < DIM; k++) {
            largest = fabsf(z[k]) > largest ? fabsf(z[k]) : largest;
            for (size_t i = 0; i < 5; i++) {
                above[i] += z[k] > edges[i];
                below[i] += z[k] < -edges[i];
            }
        }
    }
    for (size_t i = 0; i < 5; i++) {
        const double want = (double)N * DIM * normal_cdf(-edges[i]);
        assert_true(fabs(above[i] - want) < 5 * sqrt(want));
        assert_true(fabs(below[i] - want) < 5 * sqrt(want));
    }
    assert_true(largest > 4.9f && largest < 6.4f);
}

/* Of z, and of z^2, which sees what signs hide: dimensions k and k + lag of a feasign, and one
 * dimension of feasigns apart by a bit or by one. */
static void assert_uncorrelated(const float *a, const float *b, size_t n) {
    double first = 0, second = 0;
    for (size_t i = 0; i < n; i++) {
        first += (double)a[i] * b[i];
        second += ((double)a[i] * a[i] - 1) * ((double)b[i] * b[i] - 1);
    }
    assert_true(fabs(first) < 5 * sqrt((double)n));
    assert_true(fabs(second) < 5 * 2 * sqrt((double)n));
}

static void dimensions_and_neighbouring_feasigns_are_independent(void **state) {
    enum { N = 100000, DIM = 32 };
    float *const z = calloc((size_t)N * DIM, sizeof *z), *const a = calloc(N, sizeof *a),
                 *const b = calloc(N, sizeof *b);
    for (uint64_t f = 0; f < N; f++)
        draw(f, DIM, z + f * DIM);
    for (size_t k = 1; k < DIM; k++) {
        for (size_t f = 0; f < N; f++) {
            a[f] = z[f * DIM];
            b[f] = z[f * DIM + k];
        }
        assert_uncorrelated(a, b, N);
    }
    for (size_t apart = 1; apart < N; apart *= 2) {
        for (size_t f = 0; f < N; f++) {
            a[f] = z[f * DIM];
            b[f] = z[(f ^ apart) % N * DIM + 1];
        }
        assert_uncorrelated(a, b, N);
        assert_uncorrelated(z, z + apart * DIM, N - apart);
    }
    free(z);
    free(a);
    free(b);
}

/* Whatever the instruction set, the compiler and the C library. */
static void values_are_these_bits_on_every_machine(void **state) {
    static const float normals[] = {0x1.01a23ep-1f, -0x1.e65d46p-3f, 0x1.bd8b96p-9f, 0x1.a8fbe6p-1f,
                                    -0x1.d27b22p-3f};
    static const float uniforms[] = {-0x1.e9669p-3f, 0x1.5e5c08p-4f, -0x1.637cp-9f, -0x1.ff8a18p-3f,
                                     0x1.72f07p-4f};
    struct layout_slot slot = spec_of(INIT_NORMAL, 17);
    float v[17];
    init_value(&slot, 7, UINT64_C(0x123456789abcdef0), v);
    assert_memory_equal(v, normals, 4 * sizeof *v);
    assert_memory_equal(v + 16, normals + 4, sizeof *v);
    slot.init = INIT_UNIFORM;
    init_value(&slot, 7, UINT64_C(0x123456789abcdef0), v);
    assert_memory_equal(v, uniforms, 4 * sizeof *v);
    assert_memory_equal(v + 16, uniforms + 4, sizeof *v);
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
        cmocka_unit_test(normal_values_follow_the_distribution_function),
        cmocka_unit_test(normal_values_have_the_tails_of_the_distribution),
        cmocka_unit_test(dimensions_and_neighbouring_feasigns_are_independent),
        cmocka_unit_test(values_are_these_bits_on_every_machine),
        cmocka_unit_test(uniform_values_fill_their_half_open_range),
        cmocka_unit_test(zero_values_are_zero),
        cmocka_unit_test(an_axis_row_is_a_selection_of_the_value),
        cmocka_unit_test(a_dense_row_is_the_value_through_the_map),
        cmocka_unit_test(a_row_without_width_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
