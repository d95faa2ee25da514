#include "tests/unit/table_scene.h"

#include "server/init.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void unknown_slots_are_not_found_and_known_ones_not_added_again(void **state) {
    struct fixture *const f = setup(OPTIMIZER_SGD);
    assert_null(table_find(f->table, SLOT + 1));
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, SLOT)), DIMFIT_ERR_EXISTS);
    for (uint32_t id = 1000; id > 900; id -= 2)
        add_slot(f, id, OPTIMIZER_SGD);
    for (uint32_t id = 1000; id > 900; id--)
        assert_int_equal(table_find(f->table, id) != NULL, id % 2 == 0);
    assert_ptr_equal(table_find(f->table, SLOT), f->slot);
    assert_int_equal(table_slot_width(f->slot), DIM);
    teardown(f);
}

static void a_pull_of_unknown_keys_reads_initial_rows_and_stores_nothing(void **state) {
    struct fixture *const f = setup(OPTIMIZER_SGD);
    float *const values = malloc(100 * DIM * sizeof *values), want[DIM];
    fill(f, 100, UINT64_MAX, 1);
    set_key(f, 0, 0);
    set_key(f, 1, UINT64_MAX);
    table_pull(f->slot, keys_of(f), 100, values);
    for (size_t i = 0; i < 100; i++) {
        init_row(layout_find(f->layout, SLOT), 99, load_u64(keys_of(f) + i * 8), want);
        assert_memory_equal(values + i * DIM, want, sizeof want);
    }
    const struct table_figures figures = table_figures(f->table);
    assert_int_equal(figures.rows, 0);
    assert_int_equal(figures.slab_bytes + figures.index_bytes, 0);
    free(values);
    teardown(f);
}

static void a_pull_reads_what_was_pushed(void **state) {
    struct fixture *const f = setup(OPTIMIZER_SGD);
    float *const values = malloc(KEYS_MAX * DIM * sizeof *values);
    for (size_t i = 0; i < KEYS_MAX; i++)
        set_key(f, i, i == 0 ? UINT64_MAX : i == 1 ? 0 : mix(i));
    for (size_t i = 0; i < KEYS_MAX * DIM; i++)
        set_grad(f, i, (float)noise(i));
    push(f, f->slot, KEYS_MAX, NULL);
    table_pull(f->slot, keys_of(f), KEYS_MAX, values);
    for (size_t i = 0; i < KEYS_MAX; i++) {
        float want[DIM];
        init_row(layout_find(f->layout, SLOT), 99, load_u64(keys_of(f) + i * 8), want);
        for (size_t k = 0; k < DIM; k++)
            assert_true(fabsf(values[i * DIM + k] - (want[k] - 0.05f * grad_at(f, i * DIM + k))) <
                        1e-7f);
        struct table_row row;
        assert_true(table_row(f->slot, load_u64(keys_of(f) + i * 8), &row));
        assert_memory_equal(row.values, values + i * DIM, DIM * sizeof *values);
        assert_int_equal(row.shows, 1);
    }
    assert_int_equal(table_slot_figures(f->slot).rows, KEYS_MAX);
    free(values);
    teardown(f);
}

static void a_repeated_key_takes_its_gradients_one_after_another(void **state) {
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_FTRL; kind++) {
        struct fixture *const f = setup((enum optimizer_kind)kind);
        struct fixture *const one = setup((enum optimizer_kind)kind);
        fill(f, 1000, 40, 5);
        push(f, f->slot, 1000, NULL);
        for (size_t i = 0; i < 1000; i++) {
            memcpy(keys_of(one), keys_of(f) + i * 8, 8);
            memcpy(grads_of(one), grads_of(f) + i * DIM * 4, DIM * 4);
            push(one, one->slot, 1, NULL);
        }
        assert_int_equal(table_slot_figures(f->slot).rows, 40);
        assert_same_rows(f->slot, one->slot, 40,
                         optimizer_state_width((enum optimizer_kind)kind, DIM));
        teardown(f);
        teardown(one);
    }
}

static void rows_do_not_depend_on_the_order_keys_came_in(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct fixture *const back = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    enum { KEYS = 2000 };
    for (size_t i = 0; i < KEYS; i++) {
        set_key(f, i, mix(i));
        set_key(back, KEYS - 1 - i, mix(i));
        for (size_t k = 0; k < DIM; k++) {
            set_grad(f, i * DIM + k, (float)noise(i * DIM + k));
            set_grad(back, (KEYS - 1 - i) * DIM + k, (float)noise(i * DIM + k));
        }
    }
    push(f, f->slot, KEYS, NULL);
    push(back, back->slot, KEYS, NULL);
    assert_same_rows(f->slot, back->slot, KEYS, 1);
    teardown(f);
    teardown(back);
}

static void lookups_are_counted_and_never_wrap(void **state) {
    struct fixture *const f = setup(OPTIMIZER_SGD);
    uint8_t lookups[13];
    static const uint32_t given[] = {5, UINT32_MAX - 2, 1};
    memcpy(lookups + 1, given, sizeof given);
    const struct table_counts counts = {.lookups = lookups + 1};
    for (size_t i = 0; i < 3; i++)
        set_key(f, i, 10 + i);
    struct table_row row;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(table_reserve(f->slot, 3), DIMFIT_OK);
        table_push(f->slot, keys_of(f), grads_of(f), &counts, 3, true, NULL);
    }
    assert_true(table_row(f->slot, 10, &row) && row.shows == 20);
    assert_true(table_row(f->slot, 11, &row) && row.shows == 4 * 0x1p32f);
    assert_true(table_row(f->slot, 12, &row) && row.shows == 4);
    /* One more is lost beside 2^34, and nothing turns around. */
    table_push(f->slot, keys_of(f) + 8, grads_of(f), NULL, 1, true, NULL);
    assert_true(table_row(f->slot, 11, &row) && row.shows == 4 * 0x1p32f);
    assert_true(row.clicks == 0 && row.day == 0);
    teardown(f);
}

static void room_reserved_for_two_pushes_at_once_serves_both(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    fill(f, 2000, UINT64_MAX, 1);
    assert_int_equal(table_reserve(f->slot, 1000), DIMFIT_OK);
    assert_int_equal(table_reserve(f->slot, 1000), DIMFIT_OK);
    table_push(f->slot, keys_of(f), grads_of(f), NULL, 1000, true, NULL);
    table_push(f->slot, keys_of(f) + 8000, grads_of(f), NULL, 1000, true, NULL);
    assert_int_equal(table_slot_figures(f->slot).rows, 2000);
    teardown(f);
}

static void a_reservation_without_memory_changes_nothing(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    train(f, f->slot);
    const struct table_figures before = table_figures(f->table);
    float values[DIM], again[DIM];
    table_pull(f->slot, keys_of(f), 1, values);
    allocations_left = 0;
    assert_int_equal(table_reserve(f->slot, 1 << 20), DIMFIT_ERR_NOMEM);
    allocations_left = -1;
    assert_int_equal(table_reserve(f->slot, SIZE_MAX), DIMFIT_ERR_NOMEM);
    table_pull(f->slot, keys_of(f), 1, again);
    assert_memory_equal(values, again, sizeof values);
    assert_int_equal(table_figures(f->table).rows, before.rows);
    teardown(f);
}

static void new_rows_are_taken_up_to_the_limit(void **state) {
    static const uint64_t limits[] = {1, 20000, 300000, 3 << 20, 20 << 20};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
        table_limit(f->table, limits[i]);
        const uint64_t rows = fill_up(f, 10);
        const struct table_figures figures = table_figures(f->table);
        assert_int_equal(figures.rows, rows);
        /* The next doubling or chunk of values would have passed it. */
        const uint64_t chunk = limits[i] / 2 + 4096 < 2 << 20 ? limits[i] / 2 + 4096 : 2 << 20;
        assert_true(figures.slab_bytes + figures.index_bytes <= limits[i] + limits[i] / 2);
        assert_true(figures.slab_bytes + figures.index_bytes + 2 * chunk >= limits[i]);
        table_limit(f->table, 2 * limits[i] + (4 << 20));
        assert_true(fill_up(f, 10) > rows);
        teardown(f);
    }
}

static void stored_rows_are_pushed_and_unknown_ones_counted_beyond_the_limit(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    table_limit(f->table, 1 << 20);
    const uint64_t rows = fill_up(f, 100);
    const struct table_figures before = table_figures(f->table);
    bool missing[1000];
    for (uint64_t i = 0; i < 1000; i++)
        set_key(f, i, i % 3 == 0 ? mix(rows + i) : mix(i));
    assert_int_equal(table_missing(f->slot, keys_of(f), 1000, missing), 334);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(missing[i], i % 3 == 0);
    for (uint64_t round = 0; round < 50; round++) {
        for (uint64_t i = 0; i < 1000; i++)
            set_key(f, i, mix((i + 997 * round) % rows));
        assert_int_equal(table_missing(f->slot, keys_of(f), 1000, NULL), 0);
        assert_int_equal(table_reserve(f->slot, 1000), DIMFIT_ERR_LIMIT);
        assert_int_equal(table_reserve(f->slot, 0), DIMFIT_OK);
        table_push(f->slot, keys_of(f), grads_of(f), NULL, 1000, true, NULL);
    }
    const struct table_figures after = table_figures(f->table);
    assert_int_equal(after.rows, before.rows);
    assert_int_equal(after.slab_bytes, before.slab_bytes);
    teardown(f);
}

static void a_gradient_that_is_not_finite_is_refused_by_name(void **state) {
    struct fixture *const f = setup(OPTIMIZER_SGD);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t place = 0; place < 200 * DIM; place += 61) {
        struct err_detail detail;
        fill(f, 200, UINT64_MAX, 3);
        assert_int_equal(table_check_grads(f->slot, keys_of(f), grads_of(f), 200, &detail),
                         DIMFIT_OK);
        set_grad(f, place, bad[place % 3]);
        set_key(f, place / DIM, 123456789);
        assert_int_equal(table_check_grads(f->slot, keys_of(f), grads_of(f), 200, &detail),
                         DIMFIT_ERR_NOT_FINITE);
        assert_non_null(strstr(detail.text, "slot 7 (slot7), feasign 123456789"));
    }
    set_grad(f, 0, 3.4e38f);
    set_grad(f, 1, -1e-45f);
    assert_int_equal(table_check_grads(f->slot, keys_of(f), grads_of(f), 1, NULL), DIMFIT_OK);
    assert_int_equal(table_figures(f->table).rows, 0);
    teardown(f);
}

static void ten_thousand_small_slots_are_cheap(void **state) {
    enum { SLOTS = 10000 };
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct layout_slot spec = *layout_find(f->layout, SLOT);
    for (uint32_t id = 100; id < 100 + SLOTS; id++) {
        spec.id = id;
        assert_int_equal(table_add_slot(f->table, &spec), DIMFIT_OK);
        for (size_t i = 0; i < 3; i++)
            set_key(f, i, i);
        push(f, table_find(f->table, id), 3, NULL);
    }
    const struct table_figures figures = table_figures(f->table);
    assert_int_equal(figures.rows, 3 * SLOTS);
    assert_true(figures.slab_bytes + figures.index_bytes <= 1024 * SLOTS);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_slots_are_not_found_and_known_ones_not_added_again),
        cmocka_unit_test(a_pull_of_unknown_keys_reads_initial_rows_and_stores_nothing),
        cmocka_unit_test(a_pull_reads_what_was_pushed),
        cmocka_unit_test(a_repeated_key_takes_its_gradients_one_after_another),
        cmocka_unit_test(rows_do_not_depend_on_the_order_keys_came_in),
        cmocka_unit_test(lookups_are_counted_and_never_wrap),
        cmocka_unit_test(room_reserved_for_two_pushes_at_once_serves_both),
        cmocka_unit_test(a_reservation_without_memory_changes_nothing),
        cmocka_unit_test(new_rows_are_taken_up_to_the_limit),
        cmocka_unit_test(stored_rows_are_pushed_and_unknown_ones_counted_beyond_the_limit),
        cmocka_unit_test(a_gradient_that_is_not_finite_is_refused_by_name),
        cmocka_unit_test(ten_thousand_small_slots_are_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
