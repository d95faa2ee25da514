#include "tests/unit/table_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Change one slot and take on the layout after it. */
static void apply(struct fixture *f, const struct change *change) {
    struct layout *next = NULL;
    struct err_detail detail = {{0}};
    assert_int_equal(change_apply(change, f->layout, NULL, &next, &detail), DIMFIT_OK);
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_OK);
    move_all(f->table);
    layout_destroy(&f->layout);
    f->layout = next;
}

static struct change *keep_change(const struct fixture *f, uint32_t id, uint32_t from,
                                  const uint16_t *keep, uint32_t to) {
    struct change *change = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], id, from, to, false), DIMFIT_OK);
    for (uint32_t k = 0; k < to; k++)
        change->slots[0].keep[k] = keep[k];
    return change;
}

/* Columns of a matrix made orthonormal one after another (Gram and Schmidt). */
static void orthonormal(double *N, size_t from, size_t to) {
    for (size_t i = 0; i < from * to; i++)
        N[i] = noise(i + 31);
    for (size_t k = 0; k < to; k++) {
        for (size_t j = 0; j <= k; j++) {
            double dot = 0;
            for (size_t i = 0; i < from; i++)
                dot += N[i * to + k] * N[i * to + j];
            for (size_t i = 0; i < from; i++)
                N[i * to + k] = j < k ? N[i * to + k] - dot * N[i * to + j]
                                      : N[i * to + k] / sqrt(dot);
        }
    }
}

static struct change *dense_change(const struct fixture *f, uint32_t from, uint32_t to) {
    struct change *change = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    struct change_slot *const slot = &change->slots[0];
    assert_int_equal(change_slot_alloc(slot, SLOT, from, to, true), DIMFIT_OK);
    orthonormal(slot->N, from, to);
    memcpy(slot->T, slot->N, (size_t)from * to * sizeof *slot->T);
    for (size_t k = 0; k < from; k++)
        slot->shift[k] = 0.1 * noise(k + 500);
    return change;
}

/* Rows of a slot as they were, to be compared with what a change made of them. */
struct saved {
    bool there;
    float values[DIM], state[2 * DIM + 1];
    uint32_t shows;
};

static struct saved *save(const struct fixture *f, size_t state_width) {
    struct saved *const saved = calloc(5000, sizeof *saved);
    for (uint64_t i = 0; i < 5000; i++) {
        struct table_row row;
        saved[i].there = table_row(f->slot, mix(i), &row);
        if (!saved[i].there)
            continue;
        memcpy(saved[i].values, row.values, table_slot_width(f->slot) * sizeof(float));
        memcpy(saved[i].state, row.state, state_width * sizeof(float));
        saved[i].shows = row.shows;
    }
    return saved;
}

static void a_keep_change_moves_values_and_state_bit_for_bit(void **state) {
    static const uint16_t keep[] = {11, 0, 4, 5, 8};
    enum { TO = ARRAY_LEN(keep) };
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_FTRL; kind++) {
        struct fixture *const f = setup((enum optimizer_kind)kind);
        train(f, f->slot);
        struct saved *const old = save(f, optimizer_state_width((enum optimizer_kind)kind, DIM));
        struct change *change = keep_change(f, SLOT, DIM, keep, TO);
        apply(f, change);
        assert_int_equal(table_slot_width(f->slot), TO);
        for (uint64_t i = 0; i < 5000; i++) {
            struct table_row row;
            assert_int_equal(table_row(f->slot, mix(i), &row), old[i].there);
            if (!old[i].there)
                continue;
            assert_int_equal(row.shows, old[i].shows);
            if (kind == OPTIMIZER_ROWWISE_ADAGRAD || kind == OPTIMIZER_ADAM)
                assert_true(row.state[0] == old[i].state[0]);
            for (size_t k = 0; k < TO; k++) {
                assert_true(row.values[k] == old[i].values[keep[k]]);
                if (kind == OPTIMIZER_ADAGRAD || kind == OPTIMIZER_FTRL)
                    assert_true(row.state[k] == old[i].state[keep[k]]);
                if (kind == OPTIMIZER_FTRL)
                    assert_true(row.state[TO + k] == old[i].state[DIM + keep[k]]);
                if (kind == OPTIMIZER_ADAM) {
                    assert_true(row.state[1 + k] == old[i].state[1 + keep[k]]);
                    assert_true(row.state[1 + TO + k] == old[i].state[1 + DIM + keep[k]]);
                }
            }
        }
        free(old);
        change_destroy(&change);
        teardown(f);
    }
}

static void unknown_keys_read_the_kept_coordinates_of_their_initial_value(void **state) {
    static const uint16_t keep[] = {3, 9};
    struct fixture *const f = setup(OPTIMIZER_SGD);
    float before[DIM], after[2];
    set_key(f, 0, 4711);
    table_pull(f->slot, keys_of(f), 1, before);
    struct change *change = keep_change(f, SLOT, DIM, keep, 2);
    apply(f, change);
    table_pull(f->slot, keys_of(f), 1, after);
    assert_true(after[0] == before[3] && after[1] == before[9]);
    change_destroy(&change);
    teardown(f);
}

static double naive_times(const float *r, const double *shift, const double *matrix, size_t from,
                          size_t to, size_t k, bool squared) {
    double sum = 0;
    for (size_t i = 0; i < from; i++) {
        const double m = matrix[i * to + k];
        sum += (r[i] - (shift != NULL ? shift[i] : 0)) * (squared ? m * m : m);
    }
    return sum;
}

static void assert_near(float got, double want) {
    assert_true(fabs(got - want) <= 1e-6 * (1 + fabs(want)));
}

static void a_dense_change_agrees_with_plain_matrix_products(void **state) {
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_ADAM; kind++) {
        enum { TO = 5 };
        struct fixture *const f = setup((enum optimizer_kind)kind);
        train(f, f->slot);
        struct saved *const old = save(f, optimizer_state_width((enum optimizer_kind)kind, DIM));
        struct change *change = dense_change(f, DIM, TO);
        const struct change_slot *const c = &change->slots[0];
        for (size_t i = 0; i < DIM * TO; i++)
            change->slots[0].T[i] *= 1.5; /* T and N differ in general */
        apply(f, change);
        for (uint64_t i = 0; i < 5000; i++) {
            struct table_row row;
            if (!old[i].there)
                continue;
            assert_true(table_row(f->slot, mix(i), &row));
            assert_int_equal(row.shows, old[i].shows);
            if (kind == OPTIMIZER_ROWWISE_ADAGRAD || kind == OPTIMIZER_ADAM)
                assert_true(row.state[0] == old[i].state[0]);
            for (size_t k = 0; k < TO; k++) {
                assert_near(row.values[k],
                            naive_times(old[i].values, c->shift, c->T, DIM, TO, k, false));
                if (kind == OPTIMIZER_ADAGRAD)
                    assert_near(row.state[k],
                                naive_times(old[i].state, NULL, c->N, DIM, TO, k, true));
                if (kind != OPTIMIZER_ADAM)
                    continue;
                assert_near(row.state[1 + k],
                            naive_times(old[i].state + 1, NULL, c->N, DIM, TO, k, false));
                assert_near(row.state[1 + TO + k],
                            naive_times(old[i].state + 1 + DIM, NULL, c->N, DIM, TO, k, true));
            }
        }
        free(old);
        change_destroy(&change);
        teardown(f);
    }
}

/* v = mean + r M^T of what a pull reads. */
static void embed(struct fixture *f, double v[DIM]) {
    const struct layout_slot *const spec = layout_find(f->layout, SLOT);
    double M[DIM * DIM], mean[DIM];
    float r[DIM];
    table_pull(f->slot, keys_of(f), 1, r);
    layout_slot_basis(spec, M);
    layout_slot_mean(spec, mean);
    for (size_t i = 0; i < DIM; i++) {
        v[i] = mean[i];
        for (size_t k = 0; k < spec->width; k++)
            v[i] += r[k] * M[i * spec->width + k];
    }
}

static void a_change_of_basis_at_full_width_leaves_every_embedding(void **state) {
    enum { KEYS = 6000 };
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    double(*const before)[DIM] = malloc(KEYS * sizeof *before), after[DIM];
    train(f, f->slot);
    for (uint64_t i = 0; i < KEYS; i++) {
        set_key(f, 0, mix(i)); /* a sixth of them unknown */
        embed(f, before[i]);
    }
    struct change *change = dense_change(f, DIM, DIM);
    apply(f, change);
    for (uint64_t i = 0; i < KEYS; i++) {
        double norm = 0, error = 0;
        set_key(f, 0, mix(i));
        embed(f, after);
        for (size_t k = 0; k < DIM; k++) {
            norm += before[i][k] * before[i][k];
            error += (after[k] - before[i][k]) * (after[k] - before[i][k]);
        }
        assert_true(sqrt(error) <= 1e-6 * sqrt(norm));
    }
    free(before);
    change_destroy(&change);
    teardown(f);
}

static void a_dropped_slot_keeps_its_rows_and_counts(void **state) {
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_FTRL; kind++) {
        struct fixture *const f = setup((enum optimizer_kind)kind);
        train(f, f->slot);
        const uint64_t rows = table_figures(f->table).rows;
        struct saved *const old = save(f, 0);
        struct change *change = keep_change(f, SLOT, DIM, NULL, 0);
        apply(f, change);
        assert_int_equal(table_slot_width(f->slot), 0);
        assert_int_equal(table_figures(f->table).rows, rows);
        assert_int_equal(table_figures(f->table).value_bytes, 0);
        fill(f, 1000, 10000, 55);
        push(f, f->slot, 1000, NULL);
        table_pull(f->slot, keys_of(f), 1000, NULL);
        struct table_row row;
        assert_true(table_row(f->slot, load_u64(keys_of(f)), &row));
        assert_true(row.shows >= 1);
        uint64_t shows = 0, shows_before = 0;
        for (uint64_t i = 0; i < 5000; i++) {
            if (old[i].there)
                assert_true(table_row(f->slot, mix(i), &row) && row.shows >= old[i].shows);
            shows_before += old[i].shows;
            shows += table_row(f->slot, mix(i), &row) ? row.shows : 0;
        }
        assert_true(shows > shows_before);
        struct stats *stats = NULL;
        assert_int_equal(stats_new(2, &stats), DIMFIT_OK);
        assert_int_equal(table_export(f->table, TABLE_MOMENTS, stats), DIMFIT_OK);
        assert_true(stats->slots[0].lookups == 15000 + 1000);
        stats_destroy(&stats);
        free(old);
        change_destroy(&change);
        teardown(f);
    }
}

static void a_change_gives_memory_back(void **state) {
    static const uint16_t keep[] = {0, 1, 2};
    enum { ROWS = 200000 };
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    for (uint64_t i = 0; i < ROWS; i += 1000) {
        for (uint64_t k = 0; k < 1000; k++)
            set_key(f, k, mix(i + k));
        push(f, f->slot, 1000, NULL);
    }
    const struct table_figures before = table_figures(f->table);
    assert_int_equal(before.rows, ROWS);
    assert_int_equal(before.value_bytes, ROWS * DIM * 4);
    assert_int_equal(before.state_bytes, ROWS * (2 * DIM + 1) * 4);
    assert_int_equal(before.counter_bytes, ROWS * 4);
    assert_true(before.slab_bytes >=
                before.value_bytes + before.state_bytes + before.counter_bytes);
    struct change *change = keep_change(f, SLOT, DIM, keep, 3);
    const uint64_t peak = table_change_peak(f->table, change);
    allocated = 0;
    apply(f, change);
    assert_true(allocated <= peak && peak <= (8 << 20)); /* of 30 MB */
    const struct table_figures after = table_figures(f->table);
    assert_int_equal(after.rows, ROWS);
    assert_int_equal(after.index_bytes, before.index_bytes);
    assert_int_equal(after.value_bytes, ROWS * 3 * 4);
    const uint64_t used = after.value_bytes + after.state_bytes + after.counter_bytes;
    assert_true(after.slab_bytes <= used + (4 << 20)); /* the last chunk of each slab */
    change_destroy(&change);
    teardown(f);
}

static void a_change_makes_room_below_the_limit_for_every_slot(void **state) {
    static const uint16_t kept[] = {0, 1, 2};
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    add_slot(f, SLOT + 1, OPTIMIZER_ADAM);
    struct table_slot *const other = table_find(f->table, SLOT + 1);
    table_limit(f->table, 1 << 20);
    fill_up(f, 100);
    assert_int_equal(table_reserve(other, 4000), DIMFIT_ERR_LIMIT);
    struct change *change = keep_change(f, SLOT, DIM, kept, 3);
    apply(f, change);
    assert_int_equal(table_reserve(other, 4000), DIMFIT_OK);
    change_destroy(&change);
    teardown(f);
}

static void a_change_that_does_not_fit_the_table_is_refused(void **state) {
    static const uint16_t keep[] = {0, 1, 2};
    struct fixture *const f = setup(OPTIMIZER_SGD);
    struct err_detail detail;
    train(f, f->slot);
    struct change *change = keep_change(f, SLOT, DIM, keep, 3);
    struct layout *next = NULL;
    assert_int_equal(change_apply(change, f->layout, NULL, &next, NULL), DIMFIT_OK);

    change->slots[0].from = DIM - 1;
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_ERR_INVALID);
    change->slots[0].from = DIM;
    change->slots[0].keep[1] = DIM;
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_ERR_INVALID);
    change->slots[0].keep[1] = 1;
    assert_int_equal(table_change(f->table, change, f->layout, &detail), DIMFIT_ERR_INVALID);
    change->slots[0].id = SLOT + 1;
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 8"));
    change->slots[0].id = SLOT;

    assert_int_equal(table_slot_width(f->slot), DIM);
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_OK);
    assert_int_equal(table_slot_width(f->slot), 3);
    change_destroy(&change);
    layout_destroy(&next);
    teardown(f);
}

/* Memory may be short at any time: a change begins whole or not at all, and its rows are moved when
 * there is some. */
static void a_change_without_memory_waits_for_some(void **state) {
    static const uint16_t keep[] = {10, 3};
    struct fixture *const f = setup(OPTIMIZER_ADAM), *const calm = setup(OPTIMIZER_ADAM);
    struct fixture *const both[] = {f, calm};
    for (size_t i = 0; i < 2; i++) {
        add_slot(both[i], SLOT + 1, OPTIMIZER_ADAM);
        train(both[i], both[i]->slot);
        train(both[i], table_find(both[i]->table, SLOT + 1));
    }
    struct change *change = NULL;
    assert_int_equal(change_new(1, 2, 2, &change), DIMFIT_OK);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(change_slot_alloc(&change->slots[i], SLOT + i, DIM, 2, false), DIMFIT_OK);
        memcpy(change->slots[i].keep, keep, sizeof keep);
    }
    struct layout *next = NULL;
    assert_int_equal(change_apply(change, f->layout, NULL, &next, NULL), DIMFIT_OK);
    assert_int_equal(table_change(calm->table, change, next, NULL), DIMFIT_OK);
    move_all(calm->table);
    assert_int_equal(table_change(f->table, change, next, NULL), DIMFIT_OK);
    size_t failures = 0;
    for (bool more = true; more;) {
        const uint64_t left = table_figures(f->table).moving_rows;
        allocations_left = 0;
        more = table_move(f->table, 1000);
        failures += more && table_figures(f->table).moving_rows == left;
        allocations_left = 1;
        more = table_move(f->table, 1000);
        allocations_left = -1;
        for (uint32_t i = 0; i < 2; i++)
            assert_int_equal(table_slot_width(table_find(f->table, SLOT + i)), 2);
    }
    assert_true(failures > 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_same_rows(table_find(f->table, SLOT + i), table_find(calm->table, SLOT + i), 5000,
                         5);
    change_destroy(&change);
    layout_destroy(&next);
    teardown(f);
    teardown(calm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_keep_change_moves_values_and_state_bit_for_bit),
        cmocka_unit_test(unknown_keys_read_the_kept_coordinates_of_their_initial_value),
        cmocka_unit_test(a_dense_change_agrees_with_plain_matrix_products),
        cmocka_unit_test(a_change_of_basis_at_full_width_leaves_every_embedding),
        cmocka_unit_test(a_dropped_slot_keeps_its_rows_and_counts),
        cmocka_unit_test(a_change_gives_memory_back),
        cmocka_unit_test(a_change_makes_room_below_the_limit_for_every_slot),
        cmocka_unit_test(a_change_that_does_not_fit_the_table_is_refused),
        cmocka_unit_test(a_change_without_memory_waits_for_some),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
