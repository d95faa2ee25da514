#include "server/table.h"

#include "server/init.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Aligned allocations come through here, so that a test may have them fail after a while, and see
 * what was asked for. */
static long allocations_left = -1; /* -1: no end */
static size_t allocated;

void *aligned_alloc(size_t alignment, size_t size) {
    void *memory;
    if (allocations_left == 0 || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    allocated += size;
    allocations_left -= allocations_left > 0;
    return memory;
}

enum {
    SLOT = 7,
    DIM = 12,
    KEYS_MAX = 4000,
};

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double noise(uint64_t x) {
    return (double)(mix(x) >> 11) * 0x1p-53 * 2 - 1;
}

/* A layout of one slot, a table of it, and keys and gradients one byte past their alignment. */
struct fixture {
    struct layout *layout;
    struct table *table;
    struct table_slot *slot;
    uint8_t keys[KEYS_MAX * 8 + 1];
    uint8_t grads[KEYS_MAX * DIM * 4 + 1];
};

static struct layout_slot spec_of(uint32_t id, enum optimizer_kind kind) {
    struct layout_slot spec = {
        .id = id,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .optimizer = {kind, 0.05f, 1e-8f, 0.9f, 0.999f, 1, 0.01f, 0.1f},
        .init = INIT_NORMAL,
        .init_scale = 0.1f,
    };
    snprintf(spec.name, sizeof spec.name, "slot%u", id);
    return spec;
}

static void add_slot(struct fixture *f, uint32_t id, enum optimizer_kind kind) {
    const struct layout_slot spec = spec_of(id, kind);
    assert_int_equal(layout_add_slot(f->layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, id)), DIMFIT_OK);
}

static struct fixture *setup(enum optimizer_kind kind) {
    struct fixture *const f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(layout_new(1, 99, &f->layout), DIMFIT_OK);
    assert_int_equal(table_new(99, &f->table), DIMFIT_OK);
    add_slot(f, SLOT, kind);
    f->slot = table_find(f->table, SLOT);
    assert_non_null(f->slot);
    return f;
}

static void teardown(struct fixture *f) {
    table_destroy(&f->table);
    assert_null(f->table);
    layout_destroy(&f->layout);
    free(f);
}

static uint8_t *keys_of(struct fixture *f) {
    return f->keys + 1;
}

static uint8_t *grads_of(struct fixture *f) {
    return f->grads + 1;
}

static void set_key(struct fixture *f, size_t i, uint64_t key) {
    memcpy(keys_of(f) + i * 8, &key, sizeof key);
}

static void set_grad(struct fixture *f, size_t i, float g) {
    memcpy(grads_of(f) + i * sizeof g, &g, sizeof g);
}

static float grad_at(struct fixture *f, size_t i) {
    return load_f32(grads_of(f) + i * sizeof(float));
}

/* n keys, each of them one of `range`, with gradients of their own. */
static void fill(struct fixture *f, size_t n, uint64_t range, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        set_key(f, i, mix(mix(i + seed * 1000003) % range));
    for (size_t i = 0; i < n * table_slot_width(f->slot); i++)
        set_grad(f, i, (float)noise(i + seed * 7000003));
}

static void push(struct fixture *f, struct table_slot *slot, size_t n,
                 const struct score_sums *sums) {
    assert_int_equal(table_check_grads(slot, keys_of(f), grads_of(f), n, NULL), DIMFIT_OK);
    assert_int_equal(table_reserve(slot, n), DIMFIT_OK);
    table_push(slot, keys_of(f), grads_of(f), NULL, n, true, sums);
}

/* Some thousand rows with all optimizer state in use. */
static void train(struct fixture *f, struct table_slot *slot) {
    for (uint64_t step = 0; step < 5; step++) {
        fill(f, 3000, 5000, step);
        push(f, slot, 3000, NULL);
    }
}

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

/* Bit for bit the same rows in both slots. */
static void assert_same_rows(const struct table_slot *a, const struct table_slot *b, uint64_t range,
                             size_t state_width) {
    for (uint64_t i = 0; i < range; i++) {
        struct table_row x, y;
        const bool there = table_row(a, mix(i), &x);
        assert_int_equal(table_row(b, mix(i), &y), there);
        if (!there)
            continue;
        assert_memory_equal(x.values, y.values, table_slot_width(a) * sizeof *x.values);
        assert_memory_equal(x.state, y.state, state_width * sizeof *x.state);
        assert_int_equal(x.shows, y.shows);
    }
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

static void scores_do_not_depend_on_how_keys_are_split_into_calls(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct fixture *const one = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    enum { KEYS = 500 };
    double g[DIM] = {0}, row[DIM] = {0}, g_one[DIM] = {0}, row_one[DIM] = {0};
    const struct score_sums sums = {.scale = 3, .g = g, .row = row};
    const struct score_sums sums_one = {.scale = 3, .g = g_one, .row = row_one};
    for (int times = 0; times < 2; times++) {
        fill(f, KEYS, KEYS, 5);
        for (size_t i = 0; i < KEYS; i++)
            set_key(f, i, mix(i));
        push(f, f->slot, KEYS, &sums);
        for (size_t i = 0; i < KEYS; i++) {
            memcpy(keys_of(one), keys_of(f) + i * 8, 8);
            memcpy(grads_of(one), grads_of(f) + i * DIM * 4, DIM * 4);
            push(one, one->slot, 1, &sums_one);
        }
    }
    for (size_t k = 0; k < DIM; k++) {
        assert_true(fabs(g[k] - g_one[k]) <= 1e-13 * row_one[k]);
        assert_true(fabs(row[k] - row_one[k]) <= 1e-13 * row_one[k]);
    }
    teardown(f);
    teardown(one);
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

/* Rows until the table refuses more. */
static uint64_t fill_up(struct fixture *f, size_t n) {
    for (uint64_t first = 0;; first += n) {
        for (size_t i = 0; i < n; i++)
            set_key(f, i, mix(first + i));
        const dimfit_err err = table_reserve(f->slot, n);
        if (err != DIMFIT_OK) {
            assert_int_equal(err, DIMFIT_ERR_LIMIT);
            return first;
        }
        table_push(f->slot, keys_of(f), grads_of(f), NULL, n, true, NULL);
    }
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

/* g, row, C and b the plain way. */
struct naive {
    double g[DIM], row[DIM], C[DIM][DIM], b[DIM];
};

static void naive_add(struct naive *to, const float *r, struct fixture *f, size_t i, double scale) {
    for (size_t k = 0; k < DIM; k++) {
        const double grad = grad_at(f, i * DIM + k);
        to->g[k] += scale * r[k] * grad;
        to->row[k] += fabs(scale * r[k] * grad);
        to->b[k] += scale * grad;
        for (size_t j = 0; j < DIM; j++)
            to->C[j][k] += scale * r[j] * grad;
    }
}

static void assert_close(const double *a, const double *b, size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++)
        assert_true(fabs(a[i] - b[i]) <= tolerance);
}

static void scores_agree_with_plain_sums(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive got = {0}, want = {0};
    const struct score_sums sums = {512, got.g, got.row, got.C[0], got.b, 1, 1};
    float *const values = malloc(1001 * DIM * sizeof *values);
    train(f, f->slot);
    for (uint64_t step = 0; step < 3; step++) {
        fill(f, 1001, UINT64_MAX, 100 + step);
        for (size_t i = 0; i < 700; i++)
            set_key(f, i, mix(i * 3 + step));
        table_pull(f->slot, keys_of(f), 1001, values);
        for (size_t i = 0; i < 1001; i++)
            naive_add(&want, values + i * DIM, f, i, 512);
        if (step == 1)
            table_push(f->slot, keys_of(f), grads_of(f), NULL, 1001, false, &sums);
        else
            push(f, f->slot, 1001, &sums);
    }
    assert_close(got.g, want.g, DIM, 1e-9);
    assert_close(got.row, want.row, DIM, 1e-9);
    assert_close(got.b, want.b, DIM, 1e-9);
    assert_close(got.C[0], want.C[0], DIM * DIM, 1e-9);
    for (size_t k = 0; k < DIM; k++)
        assert_true(fabs(got.C[k][k] - got.g[k]) <= 1e-9);
    free(values);
    teardown(f);
}

/* A slot whose rows, and all sums of whose products, are small multiples of a half: exact in any
 * order. */
static struct table_slot *add_exact_slot(struct fixture *f) {
    struct layout_slot spec = spec_of(SLOT + 1, OPTIMIZER_SGD);
    spec.init = INIT_ZERO;
    spec.optimizer.lr = 0.5f;
    assert_int_equal(layout_add_slot(f->layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, SLOT + 1)), DIMFIT_OK);
    return table_find(f->table, SLOT + 1);
}

static void fill_exact(struct fixture *f, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        set_key(f, i, mix(i));
    for (size_t i = 0; i < n * DIM; i++)
        set_grad(f, i, (float)round(4 * noise(i + seed * 7000003)));
}

static void every_row_is_taken_where_a_sample_is_of_one_in_one(void **state) {
    enum { KEYS = 3000 };
    struct fixture *const f = setup(OPTIMIZER_SGD);
    struct table_slot *const slot = add_exact_slot(f);
    struct naive got = {0}, want = {0};
    const struct score_sums sums = {2, got.g, got.row, got.C[0], got.b, 77, 1};
    float *const values = malloc(KEYS * DIM * sizeof *values);
    for (uint64_t t = 0; t < 3; t++) {
        fill_exact(f, KEYS, t);
        table_pull(slot, keys_of(f), KEYS, values);
        for (size_t i = 0; i < KEYS; i++)
            naive_add(&want, values + i * DIM, f, i, 2);
        push(f, slot, KEYS, &sums);
    }
    assert_memory_equal(&got, &want, sizeof want);
    assert_true(want.C[0][0] != 0);
    free(values);
    teardown(f);
}

/* Two shards' worth of keys in calls of any size, backwards, are the sample that one call takes. */
static void a_sample_is_a_matter_of_feasign_and_step_alone(void **state) {
    enum { KEYS = 2000 };
    struct fixture *const f = setup(OPTIMIZER_SGD);
    struct table_slot *const slot = add_exact_slot(f);
    struct naive whole = {0}, parts = {0}, other = {0};
    const struct score_sums at_once = {2, whole.g, whole.row, whole.C[0], whole.b, 5, 4};
    const struct score_sums in_parts = {2, parts.g, parts.row, parts.C[0], parts.b, 5, 4};
    const struct score_sums other_step = {2, other.g, other.row, other.C[0], other.b, 6, 4};
    fill_exact(f, KEYS, 1);
    push(f, slot, KEYS, NULL);
    table_push(slot, keys_of(f), grads_of(f), NULL, KEYS, false, &at_once);
    table_push(slot, keys_of(f), grads_of(f), NULL, KEYS, false, &other_step);
    for (size_t shard = 0; shard < 2; shard++) {
        for (size_t i = KEYS; i-- > 0;) {
            if (mix(i) % 2 == shard)
                table_push(slot, keys_of(f) + i * 8, grads_of(f) + i * DIM * 4, NULL, 1, false,
                           &in_parts);
        }
    }
    assert_memory_equal(&whole, &parts, sizeof whole);
    assert_memory_equal(other.g, whole.g, sizeof whole.g);
    assert_memory_not_equal(other.C, whole.C, sizeof whole.C);
    teardown(f);
}

/* Over many steps the mean of sampled sums comes as near to the whole ones as their spread lets it:
 * the variance of a sum of x_i, each there with probability 1/N and weighed N, is (N - 1) sum
 * x_i^2.
 */
static void sampled_sums_are_expected_to_be_the_whole_ones(void **state) {
    enum { KEYS = 1000, TIMES = 400, SAMPLE = 8 };
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive want = {0}, got = {0}, squares = {0};
    float *const values = malloc(KEYS * DIM * sizeof *values);
    train(f, f->slot);
    fill(f, KEYS, UINT64_MAX, 3);
    table_pull(f->slot, keys_of(f), KEYS, values);
    for (size_t i = 0; i < KEYS; i++) {
        naive_add(&want, values + i * DIM, f, i, 1);
        for (size_t j = 0; j < DIM; j++) {
            for (size_t k = 0; k < DIM; k++)
                squares.C[j][k] += pow((double)values[i * DIM + j] * grad_at(f, i * DIM + k), 2);
            squares.b[j] += pow(grad_at(f, i * DIM + j), 2);
        }
    }
    for (uint64_t step = 1; step <= TIMES; step++) {
        const struct score_sums sums = {1, got.g, got.row, got.C[0], got.b, step, SAMPLE};
        table_push(f->slot, keys_of(f), grads_of(f), NULL, KEYS, false, &sums);
    }
    for (size_t i = 0; i < DIM * DIM; i++) {
        const size_t j = i / DIM, k = i % DIM;
        const double spread = sqrt((SAMPLE - 1.0) * squares.C[j][k] / TIMES);
        assert_true(fabs(got.C[j][k] / TIMES - want.C[j][k]) < 4.5 * spread);
    }
    for (size_t k = 0; k < DIM; k++) {
        const double spread = sqrt((SAMPLE - 1.0) * squares.b[k] / TIMES);
        assert_true(fabs(got.b[k] / TIMES - want.b[k]) < 4.5 * spread);
        assert_true(fabs(got.g[k] / TIMES - want.g[k]) <= 1e-12 * want.row[k]);
    }
    free(values);
    teardown(f);
}

static void a_score_only_push_stores_and_counts_nothing(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM);
    struct fixture *const same = setup(OPTIMIZER_ADAM);
    struct naive sums = {0};
    train(f, f->slot);
    train(same, same->slot);
    const struct score_sums to = {.scale = 1, .g = sums.g, .row = sums.row};
    fill(f, 3000, 10000, 77);
    table_push(f->slot, keys_of(f), grads_of(f), NULL, 3000, false, &to);
    assert_true(sums.row[0] > 0);
    assert_same_rows(f->slot, same->slot, 10000, 2 * DIM + 1);
    assert_int_equal(table_figures(f->table).rows, table_figures(same->table).rows);
    teardown(f);
    teardown(same);
}

static void export_sums_rows_and_second_moments(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ROWWISE_ADAGRAD);
    struct naive plain = {0}, looked = {0};
    double lookups = 0;
    uint64_t rows = 0;
    train(f, f->slot);
    for (uint64_t i = 0; i < 5000; i++) {
        struct table_row row;
        if (!table_row(f->slot, mix(i), &row))
            continue;
        rows++;
        lookups += row.shows;
        for (size_t k = 0; k < DIM; k++) {
            plain.b[k] += row.values[k];
            looked.b[k] += (double)row.shows * row.values[k];
            for (size_t j = 0; j < DIM; j++) {
                plain.C[j][k] += (double)row.values[j] * row.values[k];
                looked.C[j][k] += row.shows * (double)row.values[j] * row.values[k];
            }
        }
    }
    struct layout_slot linear = spec_of(3, OPTIMIZER_SGD);
    linear.search = false;
    assert_int_equal(layout_add_slot(f->layout, &linear, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, 3)), DIMFIT_OK);
    for (int moments = 0; moments < 2; moments++) {
        struct stats *stats = NULL;
        assert_int_equal(stats_new(1, &stats), DIMFIT_OK);
        assert_int_equal(table_export(f->table, moments == 1, stats), DIMFIT_OK);
        assert_int_equal(stats->n_slots, 1);
        const struct slot_stats *const s = &stats->slots[0];
        assert_int_equal(s->slot, SLOT);
        assert_int_equal(s->width, DIM);
        assert_int_equal(s->rows, rows);
        assert_true(s->lookups == lookups);
        assert_int_equal(s->sum != NULL, moments);
        if (moments == 1) {
            assert_close(s->sum, plain.b, DIM, 1e-9);
            assert_close(s->second, plain.C[0], DIM * DIM, 1e-9);
            assert_close(s->looked_sum, looked.b, DIM, 1e-9);
            assert_close(s->looked_second, looked.C[0], DIM * DIM, 1e-9);
        }
        stats_destroy(&stats);
    }
    teardown(f);
}

/* Change one slot and take on the layout after it. */
static void apply(struct fixture *f, const struct change *change) {
    struct layout *next = NULL;
    struct err_detail detail = {{0}};
    assert_int_equal(change_apply(change, f->layout, &next, &detail), DIMFIT_OK);
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_OK);
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
        assert_int_equal(table_export(f->table, true, stats), DIMFIT_OK);
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
    assert_true(allocated <= peak && peak <= (6 << 20)); /* whatever the number of rows */
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
    assert_int_equal(change_apply(change, f->layout, &next, NULL), DIMFIT_OK);

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

static void a_change_without_memory_leaves_slots_whole_and_can_be_repeated(void **state) {
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
    assert_int_equal(change_apply(change, f->layout, &next, NULL), DIMFIT_OK);
    assert_int_equal(table_change(calm->table, change, next, NULL), DIMFIT_OK);
    size_t failures = 0;
    for (long left = 0;; left++) {
        allocations_left = left;
        const dimfit_err err = table_change(f->table, change, next, NULL);
        allocations_left = -1;
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t width = table_slot_width(table_find(f->table, SLOT + i));
            assert_true(width == DIM || width == 2);
        }
        if (err == DIMFIT_OK)
            break;
        assert_int_equal(err, DIMFIT_ERR_NOMEM);
        failures++;
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
        cmocka_unit_test(scores_do_not_depend_on_how_keys_are_split_into_calls),
        cmocka_unit_test(rows_do_not_depend_on_the_order_keys_came_in),
        cmocka_unit_test(lookups_are_counted_and_never_wrap),
        cmocka_unit_test(room_reserved_for_two_pushes_at_once_serves_both),
        cmocka_unit_test(a_reservation_without_memory_changes_nothing),
        cmocka_unit_test(new_rows_are_taken_up_to_the_limit),
        cmocka_unit_test(stored_rows_are_pushed_and_unknown_ones_counted_beyond_the_limit),
        cmocka_unit_test(a_gradient_that_is_not_finite_is_refused_by_name),
        cmocka_unit_test(scores_agree_with_plain_sums),
        cmocka_unit_test(every_row_is_taken_where_a_sample_is_of_one_in_one),
        cmocka_unit_test(a_sample_is_a_matter_of_feasign_and_step_alone),
        cmocka_unit_test(sampled_sums_are_expected_to_be_the_whole_ones),
        cmocka_unit_test(a_score_only_push_stores_and_counts_nothing),
        cmocka_unit_test(export_sums_rows_and_second_moments),
        cmocka_unit_test(a_keep_change_moves_values_and_state_bit_for_bit),
        cmocka_unit_test(unknown_keys_read_the_kept_coordinates_of_their_initial_value),
        cmocka_unit_test(a_dense_change_agrees_with_plain_matrix_products),
        cmocka_unit_test(a_change_of_basis_at_full_width_leaves_every_embedding),
        cmocka_unit_test(a_dropped_slot_keeps_its_rows_and_counts),
        cmocka_unit_test(a_change_gives_memory_back),
        cmocka_unit_test(a_change_makes_room_below_the_limit_for_every_slot),
        cmocka_unit_test(a_change_that_does_not_fit_the_table_is_refused),
        cmocka_unit_test(a_change_without_memory_leaves_slots_whole_and_can_be_repeated),
        cmocka_unit_test(ten_thousand_small_slots_are_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
