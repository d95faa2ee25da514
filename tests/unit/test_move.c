#include "server/move.h"

#include "proto/layout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#pragma GCC optimize("fp-contract=off") /* fused where it says so */

enum { ROWS = 27, FROM_STRIDE = 70, TO_STRIDE = 66 };

static double noise(uint64_t x) {
    x = (x + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)(int64_t)(x ^ (x >> 31)) * 0x1p-63;
}

struct rows {
    float from[ROWS * FROM_STRIDE], to[ROWS * TO_STRIDE];
    double matrix[64 * 64], shift[64];
};

static struct rows *setup(void) {
    struct rows *const f = calloc(1, sizeof *f);
    assert_non_null(f);
    for (size_t i = 0; i < ARRAY_LEN(f->from); i++)
        f->from[i] = (float)noise(i);
    for (size_t i = 0; i < ARRAY_LEN(f->matrix); i++)
        f->matrix[i] = noise(1000000 + i);
    for (size_t i = 0; i < ARRAY_LEN(f->shift); i++)
        f->shift[i] = noise(2000000 + i);
    for (size_t i = 0; i < ARRAY_LEN(f->to); i++)
        f->to[i] = 7;
    return f;
}

static struct move_run run_of(struct rows *f, size_t first, size_t n) {
    return (struct move_run){f->from + first * FROM_STRIDE, f->to + first * TO_STRIDE, FROM_STRIDE,
                             TO_STRIDE, n};
}

/* Cells behind those asked for are nobody's to touch. */
static void assert_rest(const struct rows *f, size_t width) {
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t k = width; k < TO_STRIDE; k++)
            assert_true(f->to[r * TO_STRIDE + k] == 7);
    }
}

static void cells_are_copied_bit_for_bit(void **state) {
    struct rows *const f = setup();
    f->from[1] = NAN;
    const struct move_run run = run_of(f, 0, ROWS);
    move_cells(&run, 5);
    for (size_t r = 0; r < ROWS; r++)
        assert_memory_equal(f->to + r * TO_STRIDE, f->from + r * FROM_STRIDE, 5 * sizeof(float));
    assert_rest(f, 5);
    free(f);
}

static void kept_cells_come_in_the_order_asked_for(void **state) {
    for (size_t n = 0; n <= 64; n++) {
        struct rows *const f = setup();
        uint16_t keep[64];
        for (size_t k = 0; k < n; k++)
            keep[k] = (uint16_t)(k * 29 % 64);
        const struct move_run run = run_of(f, 0, ROWS);
        move_kept(&run, keep, n);
        for (size_t r = 0; r < ROWS; r++) {
            for (size_t k = 0; k < n; k++)
                assert_true(f->to[r * TO_STRIDE + k] == f->from[r * FROM_STRIDE + keep[k]]);
        }
        assert_rest(f, n);
        free(f);
    }
}

static double product(const struct rows *f, size_t r, size_t k, size_t from, size_t to,
                      bool squared, bool shifted) {
    double sum = 0;
    for (size_t i = 0; i < from; i++) {
        const double cell = f->matrix[i * to + k];
        sum += (f->from[r * FROM_STRIDE + i] - (shifted ? f->shift[i] : 0)) *
               (squared ? cell * cell : cell);
    }
    return sum;
}

/* Of the whole f->matrix [from][to], or none of f->shift. */
static struct move_source source_of(const struct rows *f, bool shifted, size_t from, size_t to) {
    return (struct move_source){f->matrix, shifted ? f->shift : NULL, from, to, from, to};
}

/* A row that has its first cells alone is one with zeros behind them. */
static void the_corner_of_a_matrix_moves_a_row_padded_with_zeros(void **state) {
    enum { FROM = 24, TO = 20 };
    for (size_t from = 0; from <= FROM; from += 6) {
        for (size_t to = 0; to <= TO; to += 5) {
            struct rows *const f = setup();
            struct move_source source = source_of(f, true, FROM, TO);
            struct move_matrix m;
            source.from = from;
            source.to = to;
            assert_int_equal(move_matrix_init(&m, &source, false), DIMFIT_OK);
            const struct move_run run = run_of(f, 0, ROWS);
            move_dense(&run, &m);
            for (size_t r = 0; r < ROWS; r++) {
                for (size_t k = 0; k < to; k++) {
                    double sum = 0;
                    for (size_t i = 0; i < FROM; i++)
                        sum += ((i < from ? f->from[r * FROM_STRIDE + i] : 0) - f->shift[i]) *
                               f->matrix[i * TO + k];
                    assert_true(fabs(f->to[r * TO_STRIDE + k] - sum) < 1e-5);
                }
            }
            assert_rest(f, to);
            move_matrix_fini(&m);
            free(f);
        }
    }
}

static void cells_that_a_row_does_not_have_come_as_zeros(void **state) {
    struct rows *const f = setup();
    const uint16_t keep[4] = {5, MOVE_NONE, 0, MOVE_NONE};
    const struct move_run run = run_of(f, 0, ROWS);
    move_kept_some(&run, keep, 4);
    for (size_t r = 0; r < ROWS; r++) {
        const float *const from = f->from + r * FROM_STRIDE, *const to = f->to + r * TO_STRIDE;
        assert_true(to[0] == from[5] && to[1] == 0 && to[2] == from[0] && to[3] == 0);
    }
    assert_rest(f, 4);
    free(f);
}

static void a_dense_move_is_the_product_rounded_once(void **state) {
    static const size_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 33, 64};
    for (size_t c = 0; c < ARRAY_LEN(widths) * ARRAY_LEN(widths) * 4; c++) {
        const size_t from = widths[c / 4 % ARRAY_LEN(widths)];
        const size_t to = widths[c / 4 / ARRAY_LEN(widths)];
        const bool squared = (c & 1) != 0, shifted = (c & 2) != 0;
        struct rows *const f = setup();
        struct move_matrix m;
        const struct move_source source = source_of(f, shifted, from, to);
        assert_int_equal(move_matrix_init(&m, &source, squared), DIMFIT_OK);
        const struct move_run run = run_of(f, 0, ROWS);
        move_dense(&run, &m);
        for (size_t r = 0; r < ROWS; r++) {
            for (size_t k = 0; k < to; k++) {
                const double want = product(f, r, k, from, to, squared, shifted);
                assert_true(fabs(f->to[r * TO_STRIDE + k] - want) <= 0x1p-24 * fabs(want) + 1e-13);
            }
        }
        assert_rest(f, to);
        move_matrix_fini(&m);
        free(f);
    }
}

/* The plain loop: less the shift in order, then plus the products in order, each rounded once. */
static float fused(const struct rows *f, const struct move_matrix *m, size_t r, size_t k,
                   bool squared, bool shifted) {
    double sum = 0;
    for (size_t i = 0; shifted && i < m->from; i++) {
        const double x = f->matrix[i * m->to + k];
        sum -= f->shift[i] * (squared ? x * x : x);
    }
    for (size_t i = 0; i < m->from; i++) {
        const double x = f->matrix[i * m->to + k];
        sum = fma(f->from[r * FROM_STRIDE + i], squared ? x * x : x, sum);
    }
    return (float)sum;
}

static void assert_same_bits(const struct move_kernels *kernels, size_t from, size_t to,
                             bool squared, bool shifted) {
    struct rows *const f = setup();
    struct move_matrix m;
    const struct move_source source = source_of(f, shifted, from, to);
    assert_int_equal(move_matrix_init(&m, &source, squared), DIMFIT_OK);
    const struct move_run run = run_of(f, 0, ROWS);
    kernels->dense(&run, &m);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t k = 0; k < to; k++) {
            const float want = fused(f, &m, r, k, squared, shifted);
            assert_memory_equal(&f->to[r * TO_STRIDE + k], &want, sizeof want);
        }
    }
    assert_rest(f, to);
    move_matrix_fini(&m);
    free(f);
}

static void every_variant_gives_the_bits_of_the_plain_loop(void **state) {
    static const size_t widths[] = {1, 3, 4, 5, 8, 9, 15, 16, 17, 33, 64};
    size_t n;
    const struct move_kernels *const *const variants = move_variants(&n);
    assert_string_equal(variants[0]->name, "baseline");
    for (size_t v = 0; v < n; v++) {
        for (size_t c = 0; c < ARRAY_LEN(widths) * ARRAY_LEN(widths) * 4; c++)
            assert_same_bits(variants[v], widths[c / 4 % ARRAY_LEN(widths)],
                             widths[c / 4 / ARRAY_LEN(widths)], (c & 1) != 0, (c & 2) != 0);
    }
}

static void a_row_moves_to_the_same_bits_whoever_moves_with_it(void **state) {
    enum { FROM = 16, TO = 11 };
    struct rows *const together = setup(), *const apart = setup();
    struct move_matrix m;
    const struct move_source source = source_of(together, true, FROM, TO);
    assert_int_equal(move_matrix_init(&m, &source, false), DIMFIT_OK);
    const struct move_run all = run_of(together, 0, ROWS);
    move_dense(&all, &m);
    for (size_t first = 0, n = 1; first < ROWS; first += n, n = n % 10 + 1) {
        const struct move_run some = run_of(apart, first, n < ROWS - first ? n : ROWS - first);
        move_dense(&some, &m);
    }
    assert_memory_equal(together->to, apart->to, sizeof together->to);
    move_matrix_fini(&m);
    free(together);
    free(apart);
}

static struct move_back back_of(struct rows *f) {
    return (struct move_back){f->from,     f->from + 20, f->from + 40, f->to, FROM_STRIDE,
                              FROM_STRIDE, FROM_STRIDE,  TO_STRIDE,    ROWS};
}

/* saved + (now - moved) matrix, and where it must be positive, that or 0. */
static void a_way_back_agrees_with_plain_products(void **state) {
    enum { FROM = 7, TO = 12 };
    for (int positive = 0; positive < 2; positive++) {
        struct rows *const f = setup();
        const struct move_back back = back_of(f);
        size_t below = 0;
        move_back_dense(&back, f->matrix, FROM, TO, positive == 1);
        for (size_t r = 0; r < ROWS; r++) {
            const float *const now = f->from + r * FROM_STRIDE;
            for (size_t k = 0; k < TO; k++) {
                double want = now[40 + k];
                for (size_t i = 0; i < FROM; i++)
                    want += ((double)now[i] - now[20 + i]) * f->matrix[i * TO + k];
                below += want < 0;
                if (positive == 1 && want < 0)
                    want = 0;
                assert_true(fabs(f->to[r * TO_STRIDE + k] - want) <= 1e-6);
                assert_true(positive == 0 || f->to[r * TO_STRIDE + k] >= 0);
            }
        }
        assert_true(below > ROWS);
        assert_rest(f, TO);
        free(f);
    }
}

static void kept_cells_go_back_to_where_they_were(void **state) {
    static const uint16_t keep[] = {11, 0, 5};
    enum { WIDTH = 12 };
    struct rows *const f = setup();
    const struct move_back back = back_of(f);
    move_back_kept(&back, keep, ARRAY_LEN(keep), WIDTH);
    for (size_t r = 0; r < ROWS; r++) {
        const float *const now = f->from + r * FROM_STRIDE, *const to = f->to + r * TO_STRIDE;
        for (size_t k = 0; k < WIDTH; k++) {
            const float want = k == 11 ? now[0] : k == 0 ? now[1] : k == 5 ? now[2] : now[40 + k];
            assert_true(to[k] == want);
        }
    }
    assert_rest(f, WIDTH);
    free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_copied_bit_for_bit),
        cmocka_unit_test(kept_cells_come_in_the_order_asked_for),
        cmocka_unit_test(the_corner_of_a_matrix_moves_a_row_padded_with_zeros),
        cmocka_unit_test(cells_that_a_row_does_not_have_come_as_zeros),
        cmocka_unit_test(a_dense_move_is_the_product_rounded_once),
        cmocka_unit_test(every_variant_gives_the_bits_of_the_plain_loop),
        cmocka_unit_test(a_row_moves_to_the_same_bits_whoever_moves_with_it),
        cmocka_unit_test(a_way_back_agrees_with_plain_products),
        cmocka_unit_test(kept_cells_go_back_to_where_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
