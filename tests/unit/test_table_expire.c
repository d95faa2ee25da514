#include "server/table_expire.h"

#include "server/init.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    SLOT = 7,
    DIM = 5,
    SEED = 99,
    KEYS_MAX = 1000,
};

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

struct fixture {
    struct layout *layout;
    struct table *table;
    struct table_slot *slot;
    uint64_t random;
};

static struct fixture setup(enum optimizer_kind kind, struct retention retention) {
    struct fixture f = {.random = 3};
    const struct layout_slot spec = {
        .id = SLOT,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .name = "slot",
        .optimizer = {kind, 0.25f, 1e-8f, 0.9f, 0.999f, 1, 0, 0},
        .init = INIT_NORMAL,
        .init_scale = 0.1f,
        .retention = retention,
    };
    assert_int_equal(layout_new(1, SEED, &f.layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(f.layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(table_new(SEED, &f.table), DIMFIT_OK);
    assert_int_equal(table_add_slot(f.table, layout_find(f.layout, SLOT)), DIMFIT_OK);
    f.slot = table_find(f.table, SLOT);
    return f;
}

static void teardown(struct fixture *f) {
    table_destroy(&f->table);
    layout_destroy(&f->layout);
}

static uint64_t draw(struct fixture *f) {
    return mix(f->random += 0x9e3779b97f4a7c15);
}

/* What one key brings: its gradient is the same in all coordinates. */
struct one {
    uint64_t key;
    uint32_t lookups, clicks, day;
    float grad;
};

static const uint8_t *bytes_of(const void *array) {
    return array;
}

static void push_many(struct fixture *f, const struct one *ones, size_t n, uint32_t day) {
    uint64_t keys[KEYS_MAX];
    float grads[KEYS_MAX * DIM];
    uint32_t lookups[KEYS_MAX], clicks[KEYS_MAX];
    const uint32_t width = table_slot_width(f->slot);
    for (size_t i = 0; i < n; i++) {
        keys[i] = ones[i].key;
        lookups[i] = ones[i].lookups;
        clicks[i] = ones[i].clicks;
        for (size_t k = 0; k < width; k++)
            grads[i * width + k] = ones[i].grad;
    }
    const struct table_counts counts = {bytes_of(lookups), bytes_of(clicks), day};
    assert_int_equal(table_reserve(f->slot, n), DIMFIT_OK);
    table_push(f->slot, bytes_of(keys), bytes_of(grads), &counts, n, true, NULL);
}

static void push(struct fixture *f, struct one one) {
    push_many(f, &one, 1, one.day);
}

static struct table_row row_of(const struct fixture *f, uint64_t key) {
    struct table_row row;
    assert_true(table_row(f->slot, key, &row));
    return row;
}

static bool has_row(const struct fixture *f, uint64_t key) {
    struct table_row row;
    return table_row(f->slot, key, &row);
}

static void initial(const struct fixture *f, uint64_t key, float *values) {
    init_row(layout_find(f->layout, SLOT), SEED, key, values);
}

static void assert_counters(const struct fixture *f, uint64_t key, float shows, float clicks,
                            uint32_t day) {
    const struct table_row row = row_of(f, key);
    assert_true(row.shows == shows);
    assert_true(row.clicks == clicks);
    assert_int_equal(row.day, day);
}

/* All slices of an expiry; how many rows went. */
static uint64_t expire(struct fixture *f, struct expiry_rule rule) {
    struct expiry_walk walk = {0};
    struct expiry_slice slice;
    uint64_t n = 0;
    bool more;
    do {
        more = table_expire(f->slot, &rule, &walk, &slice);
        n += slice.n_rows;
    } while (more);
    return n;
}

/* ---- counters -------------------------------------------------------------------------------- */

static void shows_and_clicks_decay_by_the_day(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.decay = 0.5f, .clicks = true});
    push(&f, (struct one){1, 8, 4, 100, 0});
    assert_counters(&f, 1, 8, 4, 100);
    push(&f, (struct one){1, 2, 1, 100, 0});
    assert_counters(&f, 1, 10, 5, 100);
    push(&f, (struct one){1, 1, 0, 101, 0});
    assert_counters(&f, 1, 6, 2.5f, 101);
    push(&f, (struct one){1, 3, 2, 103, 0});
    assert_counters(&f, 1, 6 * 0.25f + 3, 2.5f * 0.25f + 2, 103);
    teardown(&f);
}

static void an_older_or_unknown_day_decays_nothing(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.decay = 0.5f, .clicks = true});
    push(&f, (struct one){1, 4, 1, 100, 0});
    push(&f, (struct one){1, 1, 1, 99, 0});
    push(&f, (struct one){1, 1, 1, 0, 0});
    assert_counters(&f, 1, 6, 3, 100);
    /* A row that never had a day takes the first that comes as it is. */
    push(&f, (struct one){2, 4, 1, 0, 0});
    assert_counters(&f, 2, 4, 1, 0);
    push(&f, (struct one){2, 1, 0, 100, 0});
    assert_counters(&f, 2, 5, 1, 100);
    teardown(&f);
}

static void what_a_slot_does_not_count_is_not_there(void **state) {
    static const struct retention kinds[] = {
        {0}, {.clicks = true}, {.last_seen = true}, {.clicks = true, .last_seen = true}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct fixture f = setup(OPTIMIZER_ADAGRAD, kinds[i]);
        push(&f, (struct one){1, 4, 3, 100, 0});
        push(&f, (struct one){1, 2, 1, 101, 0});
        assert_counters(&f, 1, 6, kinds[i].clicks ? 4 : 0, kinds[i].last_seen ? 101 : 0);
        const struct table_figures figures = table_slot_figures(f.slot);
        assert_int_equal(figures.counter_bytes, 4 * (1 + kinds[i].clicks + kinds[i].last_seen));
        assert_int_equal(figures.state_bytes, 4 * DIM);
        teardown(&f);
    }
}

static void counters_leave_values_and_state_alone(void **state) {
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_FTRL; kind++) {
        struct fixture f = setup((enum optimizer_kind)kind,
                                 (struct retention){.decay = 0.9f, .clicks = true});
        struct fixture plain = setup((enum optimizer_kind)kind, (struct retention){0});
        for (uint32_t i = 0; i < 500; i++) {
            const uint64_t x = draw(&f);
            const struct one one = {x % 50, x % 7, x % 3, i / 20, (float)(x % 100) - 50};
            push(&f, one);
            push(&plain, one);
        }
        const size_t n = optimizer_state_width((enum optimizer_kind)kind, DIM);
        for (uint64_t key = 0; key < 50; key++) {
            const struct table_row a = row_of(&f, key), b = row_of(&plain, key);
            assert_memory_equal(a.values, b.values, DIM * sizeof *a.values);
            assert_memory_equal(a.state, b.state, n * sizeof *a.state);
        }
        teardown(&f);
        teardown(&plain);
    }
}

/* ---- admission ------------------------------------------------------------------------------- */

static void assert_values(const struct fixture *f, uint64_t key, float grads) {
    float want[DIM], got[DIM];
    initial(f, key, want);
    table_pull(f->slot, bytes_of(&key), 1, got);
    for (size_t k = 0; k < DIM; k++)
        assert_true(fabsf(got[k] - (want[k] - 0.25f * grads)) <= 1e-6f * (1 + fabsf(grads)));
}

static void a_feasign_gets_its_row_at_exactly_its_nth_show(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD,
                             (struct retention){.admit = 5, .clicks = true, .last_seen = true});
    push(&f, (struct one){1, 1, 1, 10, 100});
    push(&f, (struct one){1, 2, 0, 12, 100});
    push(&f, (struct one){1, 1, 1, 11, 100});
    assert_false(has_row(&f, 1));
    assert_values(&f, 1, 0);
    assert_int_equal(table_slot_figures(f.slot).pending, 1);
    assert_int_equal(table_slot_figures(f.slot).keys_pending, 3);
    push(&f, (struct one){1, 1, 1, 12, 8}); /* the fifth */
    assert_counters(&f, 1, 5, 1, 12);
    assert_values(&f, 1, 8);
    push(&f, (struct one){1, 1, 1, 13, 2});
    assert_counters(&f, 1, 6, 2, 13);
    assert_values(&f, 1, 10);
    const struct table_figures figures = table_slot_figures(f.slot);
    assert_int_equal(figures.rows, 1);
    assert_int_equal(figures.pending, 0);
    assert_int_equal(figures.keys_pending, 3);
    teardown(&f);
}

static void a_push_of_many_shows_jumps_over_the_nth(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.admit = RETENTION_ADMIT_MAX});
    push(&f, (struct one){1, RETENTION_ADMIT_MAX - 1, 0, 10, 4});
    assert_false(has_row(&f, 1));
    push(&f, (struct one){1, UINT32_MAX, 0, 10, 4});
    assert_true(row_of(&f, 1).shows == (float)RETENTION_ADMIT_MAX - 1 + 0x1p32f);
    assert_values(&f, 1, 4);
    push(&f, (struct one){2, RETENTION_ADMIT_MAX, 0, 10, 4});
    assert_true(row_of(&f, 2).shows == RETENTION_ADMIT_MAX);
    assert_values(&f, 2, 4);
    teardown(&f);
}

static void repeats_within_a_push_are_shows_of_their_own(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.admit = 50});
    struct one ones[200];
    for (size_t i = 0; i < 200; i++)
        ones[i] = (struct one){i % 2, 1, 0, 0, (float)(i / 2)};
    push_many(&f, ones, 198, 0);
    for (uint64_t key = 0; key < 2; key++) {
        assert_true(row_of(&f, key).shows == 99);
        assert_values(&f, key, 49 * 50 + 25 * 49); /* gradients 49 to 98 */
    }
    teardown(&f);
}

static void shows_before_the_row_decay_like_those_after(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.admit = 10, .decay = 0.5f});
    push(&f, (struct one){1, 8, 0, 10, 0});
    push(&f, (struct one){1, 2, 0, 12, 0});
    assert_counters(&f, 1, 8 * 0.25f + 2, 0, 12);
    teardown(&f);
}

static void a_pending_feasign_scores_as_its_initial_value(void **state) {
    struct fixture f = setup(OPTIMIZER_ADAM, (struct retention){.admit = 9});
    double g[2][DIM] = {{0}}, row[2][DIM] = {{0}}, C[2][DIM * DIM] = {{0}}, b[2][DIM] = {{0}};
    uint64_t keys[100];
    float grads[100 * DIM], values[DIM], want[DIM];
    for (size_t i = 0; i < 100; i++)
        keys[i] = mix(i);
    for (size_t i = 0; i < 100 * DIM; i++)
        grads[i] = (float)(draw(&f) % 1000) - 500;
    for (int train = 0; train < 4; train++) {
        const struct score_sums sums = {
            2, g[train > 0], row[train > 0], C[train > 0], b[train > 0], 1, 1};
        memset(g[train > 0], 0, sizeof g[0]);
        memset(row[train > 0], 0, sizeof row[0]);
        memset(C[train > 0], 0, sizeof C[0]);
        memset(b[train > 0], 0, sizeof b[0]);
        assert_int_equal(table_reserve(f.slot, 100), DIMFIT_OK);
        table_push(f.slot, bytes_of(keys), bytes_of(grads), NULL, 100, train > 0, &sums);
        for (size_t k = 0; train > 0 && k < DIM; k++) {
            assert_true(fabs(g[0][k] - g[1][k]) <= 1e-9 * row[0][k]);
            assert_true(fabs(row[0][k] - row[1][k]) <= 1e-9 * row[0][k]);
            assert_true(fabs(C[0][k] - C[1][k]) <= 1e-9 * row[0][k]);
            assert_true(b[0][k] == b[1][k]);
        }
    }
    assert_int_equal(table_slot_figures(f.slot).pending, 100);
    table_pull(f.slot, bytes_of(&keys[7]), 1, values);
    initial(&f, keys[7], want);
    assert_memory_equal(values, want, sizeof want);
    teardown(&f);
}

static void a_pending_feasign_costs_an_index_entry(void **state) {
    enum { KEYS = 300000 };
    struct fixture f = setup(OPTIMIZER_ADAM, (struct retention){.admit = 2});
    struct one ones[KEYS_MAX];
    for (uint64_t first = 0; first < KEYS; first += KEYS_MAX) {
        for (size_t i = 0; i < KEYS_MAX; i++)
            ones[i] = (struct one){mix(first + i), 1, 0, 5, 1};
        push_many(&f, ones, KEYS_MAX, 5);
    }
    const struct table_figures figures = table_slot_figures(f.slot);
    assert_int_equal(figures.rows, 0);
    assert_int_equal(figures.pending, KEYS);
    assert_true(figures.index_bytes <= 24 * KEYS + (2 << 20));
    assert_true(figures.slab_bytes <= 1 << 20);
    teardown(&f);
}

/* ---- expiry ---------------------------------------------------------------------------------- */

/* Key k: last seen on day 100 + k % 10, shown k / 10 + 1 times, clicked once. */
static void fill(struct fixture *f, uint64_t n) {
    for (uint64_t k = 0; k < n; k++)
        push(f, (struct one){k, (uint32_t)(k / 10) + 1, 1, 100 + (uint32_t)(k % 10), 1});
}

static void rows_unseen_for_more_days_go(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.expire_days = 3});
    fill(&f, 1000);
    push(&f, (struct one){5000, 1, 0, 0, 1}); /* of no day */
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .days = 3}), 500);
    for (uint64_t k = 0; k < 1000; k++)
        assert_int_equal(has_row(&f, k), 108 - (100 + k % 10) <= 3 || k % 10 > 8);
    assert_true(has_row(&f, 5000));
    assert_int_equal(table_slot_figures(f.slot).rows, 501);
    assert_int_equal(table_slot_figures(f.slot).evicted, 500);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .days = 3}), 0);
    assert_int_equal(table_slot_figures(f.slot).evicted, 500);
    assert_int_equal(table_slot_figures(f.slot).expired_rows, 0);
    teardown(&f);
}

static void rows_of_fewer_shows_go(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){0});
    fill(&f, 1000);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 200, .shows = 20.5f}), 200);
    for (uint64_t k = 0; k < 1000; k++)
        assert_int_equal(has_row(&f, k), k >= 200);
    teardown(&f);
}

static void shows_are_judged_as_decayed_until_today(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.decay = 0.5f});
    push(&f, (struct one){1, 16, 0, 100, 0});
    push(&f, (struct one){2, 16, 0, 99, 0});
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 103, .shows = 2}), 1);
    assert_counters(&f, 1, 16, 0, 100); /* as they were: judging is no push */
    assert_false(has_row(&f, 2));
    teardown(&f);
}

static void pending_feasigns_go_by_age_and_by_shows(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.admit = 100, .expire_days = 3});
    fill(&f, 500);
    assert_int_equal(table_slot_figures(f.slot).pending, 500);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .days = 3}), 0);
    assert_int_equal(table_slot_figures(f.slot).pending, 250);
    assert_int_equal(table_slot_figures(f.slot).expired_pending, 250);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .shows = 11}), 0);
    assert_int_equal(table_slot_figures(f.slot).pending, 200);
    /* One that stayed goes on from its count, one that went from nothing. */
    push(&f, (struct one){479, 51, 0, 109, 1});
    push(&f, (struct one){478, 52, 0, 109, 1});
    assert_false(has_row(&f, 479));
    assert_true(has_row(&f, 478));
    assert_true(row_of(&f, 478).shows == 100);
    push(&f, (struct one){470, 99, 0, 109, 1});
    assert_false(has_row(&f, 470));
    teardown(&f);
}

static void a_dry_run_counts_and_changes_nothing(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.admit = 30, .expire_days = 3});
    fill(&f, 1000);
    const struct table_figures before = table_slot_figures(f.slot);
    assert_int_equal(before.rows, 710);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .days = 3, .dry = true}), 355);
    struct table_figures after = table_slot_figures(f.slot);
    assert_int_equal(after.expired_rows, 355);
    assert_int_equal(after.expired_pending, 145);
    after.expired_rows = after.expired_pending = 0;
    assert_memory_equal(&after, &before, sizeof after);
    teardown(&f);
}

static void freed_rows_serve_the_next_new_ones(void **state) {
    struct fixture f = setup(OPTIMIZER_ADAGRAD, (struct retention){.last_seen = true});
    fill(&f, 1000);
    const uint64_t bytes = table_slot_figures(f.slot).slab_bytes;
    for (uint32_t round = 0; round < 20; round++) {
        assert_int_equal(expire(&f, (struct expiry_rule){.today = 500 + round, .days = 1}), 1000);
        const struct table_figures empty = table_slot_figures(f.slot);
        assert_int_equal(empty.rows + empty.value_bytes + empty.index_bytes, 0);
        for (uint64_t k = 0; k < 1000; k++)
            push(&f, (struct one){mix(k + round), 1, 0, 400 + round, (float)k});
        assert_int_equal(table_slot_figures(f.slot).slab_bytes, bytes);
        for (uint64_t k = 0; k < 1000; k++) {
            const struct table_row row = row_of(&f, mix(k + round));
            float want[DIM];
            initial(&f, mix(k + round), want);
            assert_true(row.shows == 1 && row.day == 400 + round);
            assert_true(row.state[DIM - 1] == (float)k * (float)k);
            assert_true(fabsf(row.values[0] - (want[0] - (k > 0 ? 0.25f : 0))) < 1e-6f);
        }
    }
    teardown(&f);
}

static void an_evicted_feasign_starts_anew(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.clicks = true, .last_seen = true});
    push(&f, (struct one){1, 5, 3, 100, 1000});
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 200, .days = 1}), 1);
    assert_values(&f, 1, 0);
    push(&f, (struct one){1, 1, 0, 200, 4});
    assert_counters(&f, 1, 1, 0, 200);
    assert_values(&f, 1, 4);
    teardown(&f);
}

static void moments_are_of_stored_rows_alone(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.clicks = true, .last_seen = true});
    fill(&f, 1000);
    assert_int_equal(expire(&f, (struct expiry_rule){.today = 108, .days = 3}), 500);
    double lookups = 0, sum[DIM] = {0}, looked[DIM] = {0}, second = 0;
    for (uint64_t k = 0; k < 1000; k++) {
        struct table_row row;
        if (!table_row(f.slot, k, &row))
            continue;
        lookups += (double)row.shows;
        second += (double)row.values[0] * (double)row.values[1];
        for (size_t j = 0; j < DIM; j++) {
            sum[j] += (double)row.values[j];
            looked[j] += (double)row.shows * (double)row.values[j];
        }
    }
    for (int moments = 0; moments < 2; moments++) {
        struct stats *stats = NULL;
        assert_int_equal(stats_new(1, &stats), DIMFIT_OK);
        assert_int_equal(table_export(f.table, moments == 1 ? TABLE_MOMENTS : TABLE_LOOKUPS, stats),
                         DIMFIT_OK);
        const struct slot_stats *const s = &stats->slots[0];
        assert_int_equal(s->rows, 500);
        assert_true(s->lookups == lookups);
        for (size_t j = 0; moments == 1 && j < DIM; j++) {
            assert_true(fabs(s->sum[j] - sum[j]) <= 1e-9);
            assert_true(fabs(s->looked_sum[j] - looked[j]) <= 1e-7);
        }
        assert_true(moments == 0 || fabs(s->second[1] - second) <= 1e-9);
        stats_destroy(&stats);
    }
    teardown(&f);
}

static void narrow(struct fixture *f) {
    struct change *change = NULL;
    struct layout *next = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, 2, false), DIMFIT_OK);
    change->slots[0].keep[0] = 4;
    change->slots[0].keep[1] = 1;
    assert_int_equal(change_apply(change, f->layout, NULL, &next, NULL), DIMFIT_OK);
    assert_int_equal(table_change(f->table, change, next, NULL), DIMFIT_OK);
    while (table_move(f->table, 1000))
        ;
    change_destroy(&change);
    layout_destroy(&f->layout);
    f->layout = next;
}

static void a_layout_change_amid_an_expiry_keeps_rows_and_free_ones(void **state) {
    enum { KEYS = 6000 };
    for (int kind = OPTIMIZER_SGD; kind <= OPTIMIZER_FTRL; kind++) {
        struct fixture f = setup((enum optimizer_kind)kind,
                                 (struct retention){.admit = 2, .clicks = true, .expire_days = 1});
        for (uint64_t k = 0; k < KEYS; k++)
            push(&f, (struct one){k, 2, 1, 100 + (uint32_t)(k % 2), (float)k});
        float(*const before)[DIM] = malloc(KEYS * sizeof *before);
        for (uint64_t k = 0; k < KEYS; k++)
            memcpy(before[k], row_of(&f, k).values, sizeof before[k]);
        const struct expiry_rule rule = {.today = 102, .days = 1};
        struct expiry_walk walk = {0};
        struct expiry_slice slice;
        uint64_t n = 0;
        for (int i = 0; table_expire(f.slot, &rule, &walk, &slice); i++) {
            n += slice.n_rows;
            if (i == 5) {
                assert_true(n > 0 && n < KEYS / 2);
                narrow(&f);
                for (uint64_t k = 0; k < 100; k++)
                    push(&f, (struct one){KEYS + k, k % 3, 1, 102, 1}); /* some into free rows */
            }
        }
        assert_int_equal(n, KEYS / 2);
        for (uint64_t k = 0; k < KEYS; k++) {
            assert_int_equal(has_row(&f, k), k % 2);
            if (k % 2 == 0)
                continue;
            const struct table_row row = row_of(&f, k);
            assert_true(row.values[0] == before[k][4] && row.values[1] == before[k][1]);
            assert_counters(&f, k, 2, 1, 101);
        }
        assert_int_equal(table_slot_figures(f.slot).rows, KEYS / 2 + 33);
        free(before);
        teardown(&f);
    }
}

static void a_change_that_would_count_otherwise_is_refused(void **state) {
    struct fixture f = setup(OPTIMIZER_SGD, (struct retention){.clicks = true});
    struct change *change = NULL;
    struct layout *next = NULL;
    struct err_detail detail;
    fill(&f, 10);
    assert_int_equal(change_new(f.layout->epoch, f.layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, 1, false), DIMFIT_OK);
    change->slots[0].keep[0] = 0;
    assert_int_equal(change_apply(change, f.layout, NULL, &next, NULL), DIMFIT_OK);
    next->slots[0].retention.clicks = false;
    assert_int_equal(table_change(f.table, change, next, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 7 would have another clicks"));
    assert_int_equal(table_slot_width(f.slot), DIM);
    assert_counters(&f, 3, 1, 1, 0);
    change_destroy(&change);
    layout_destroy(&next);
    teardown(&f);
}

/* ---- everything at once ---------------------------------------------------------------------- */

enum { MODEL_KEYS = 20000 };

struct model_row {
    enum { MODEL_NONE, MODEL_PENDING, MODEL_ROW } is;
    float shows, clicks, value; /* of coordinate 0 */
    uint32_t day, pending, touched;
};

struct model {
    struct retention retention;
    struct model_row rows[MODEL_KEYS];
    uint32_t clock; /* pushes so far */
};

static void model_push(struct model *m, const struct fixture *f, const struct one *one) {
    struct model_row *const row = &m->rows[one->key];
    row->touched = ++m->clock;
    const uint32_t day = one->day > row->day ? one->day : row->day;
    if (row->is != MODEL_ROW) {
        row->pending += one->lookups;
        if (row->pending < m->retention.admit) {
            row->is = MODEL_PENDING;
            row->day = day;
            return;
        }
        float values[DIM];
        initial(f, mix(one->key), values);
        row->is = MODEL_ROW;
        row->value = values[0];
        row->shows = (float)(row->pending - one->lookups);
        row->clicks = 0;
        row->pending = 0;
    }
    for (uint32_t d = row->day; row->day > 0 && d < day; d++) {
        row->shows *= m->retention.decay;
        row->clicks *= m->retention.decay;
    }
    row->day = day;
    row->shows += (float)one->lookups;
    row->clicks += (float)one->clicks;
    row->value -= 0.25f * one->grad;
}

static bool model_expires(const struct model *m, const struct model_row *row,
                          const struct expiry_rule *rule) {
    float shows = row->is == MODEL_ROW ? row->shows : (float)row->pending;
    for (uint32_t d = row->day; row->is == MODEL_ROW && row->day > 0 && d < rule->today; d++)
        shows *= m->retention.decay;
    const bool old = row->day > 0 && rule->days > 0 && rule->today > row->day + rule->days;
    return row->is != MODEL_NONE && (old || shows < rule->shows);
}

/* While a shrink is under way, nothing that it may or may not have forgotten is pushed, and nothing
 * comes that would go at once: the slices say which rows went, not which pending feasigns. */
static void random_pushes(struct fixture *f, struct model *m, uint32_t day,
                          const struct expiry_rule *rule) {
    struct one ones[200];
    size_t n = 0;
    for (size_t i = 0; i < 200; i++) {
        const uint64_t x = draw(f), spread = x % 3 == 0 ? MODEL_KEYS : 2000;
        const struct one one = {x / 3 % spread, (uint32_t)(x >> 40) % 4 + (rule != NULL),
                                (uint32_t)(x >> 50) % 2, day, (float)((x >> 20) % 64)};
        const struct model_row *const row = &m->rows[one.key];
        if (rule != NULL && row->is == MODEL_PENDING && model_expires(m, row, rule))
            continue;
        model_push(m, f, &one);
        ones[n] = one;
        ones[n++].key = mix(one.key);
    }
    push_many(f, ones, n, day);
}

static uint32_t model_key(const uint64_t *keys, uint64_t feasign) {
    for (uint32_t k = 0;; k++) {
        assert_true(k < MODEL_KEYS);
        if (keys[k] == feasign)
            return k;
    }
}

static void model_check(const struct model *m, const struct fixture *f) {
    uint64_t rows = 0, pending = 0;
    for (uint64_t k = 0; k < MODEL_KEYS; k++) {
        const struct model_row *const want = &m->rows[k];
        struct table_row got;
        assert_int_equal(table_row(f->slot, mix(k), &got), want->is == MODEL_ROW);
        rows += want->is == MODEL_ROW;
        pending += want->is == MODEL_PENDING;
        if (want->is != MODEL_ROW)
            continue;
        assert_true(got.shows == want->shows && got.clicks == want->clicks);
        assert_int_equal(got.day, want->day);
        assert_true(got.values[0] == want->value);
    }
    assert_int_equal(table_slot_figures(f->slot).rows, rows);
    assert_int_equal(table_slot_figures(f->slot).pending, pending);
}

static void model_shrink(struct fixture *f, struct model *m, const uint64_t *keys, uint32_t day,
                         struct expiry_rule rule) {
    const uint32_t begun = m->clock;
    struct expiry_walk walk = {0};
    struct expiry_slice slice;
    bool more;
    do {
        more = table_expire(f->slot, &rule, &walk, &slice);
        for (size_t i = 0; i < slice.n_rows; i++) {
            struct model_row *const row = &m->rows[model_key(keys, slice.rows[i].feasign)];
            assert_true(row->is == MODEL_ROW && model_expires(m, row, &rule));
            assert_true(slice.rows[i].counters.shows == row->shows);
            *row = (struct model_row){.is = MODEL_NONE};
        }
        if (draw(f) % 4 == 0)
            random_pushes(f, m, day, &rule);
    } while (more);
    for (size_t k = 0; k < MODEL_KEYS; k++) {
        struct model_row *const row = &m->rows[k];
        if (!model_expires(m, row, &rule) || row->touched > begun)
            continue;
        assert_int_equal(row->is, MODEL_PENDING);
        *row = (struct model_row){.is = MODEL_NONE};
    }
}

static void random_days_of_pushes_and_shrinks_agree_with_a_model(void **state) {
    const struct retention retention = {
        .admit = 4, .expire_days = 3, .decay = 0.5f, .clicks = true, .last_seen = true};
    struct fixture f = setup(OPTIMIZER_SGD, retention);
    struct model *const m = calloc(1, sizeof *m);
    uint64_t *const keys = malloc(MODEL_KEYS * sizeof *keys);
    m->retention = retention;
    for (uint64_t k = 0; k < MODEL_KEYS; k++)
        keys[k] = mix(k);
    uint64_t evicted = 0;
    for (uint32_t day = 100; day < 130; day++) {
        for (int i = 0; i < 60; i++)
            random_pushes(&f, m, draw(&f) % 16 == 0 ? day - 1 : day, NULL);
        model_shrink(&f, m, keys, day,
                     (struct expiry_rule){.today = day, .days = 3, .shows = day % 2 ? 1.0f : 0});
        model_check(m, &f);
        evicted = table_slot_figures(f.slot).evicted;
    }
    assert_true(evicted > 10000);
    free(keys);
    free(m);
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_and_clicks_decay_by_the_day),
        cmocka_unit_test(an_older_or_unknown_day_decays_nothing),
        cmocka_unit_test(what_a_slot_does_not_count_is_not_there),
        cmocka_unit_test(counters_leave_values_and_state_alone),
        cmocka_unit_test(a_feasign_gets_its_row_at_exactly_its_nth_show),
        cmocka_unit_test(a_push_of_many_shows_jumps_over_the_nth),
        cmocka_unit_test(repeats_within_a_push_are_shows_of_their_own),
        cmocka_unit_test(shows_before_the_row_decay_like_those_after),
        cmocka_unit_test(a_pending_feasign_scores_as_its_initial_value),
        cmocka_unit_test(a_pending_feasign_costs_an_index_entry),
        cmocka_unit_test(rows_unseen_for_more_days_go),
        cmocka_unit_test(rows_of_fewer_shows_go),
        cmocka_unit_test(shows_are_judged_as_decayed_until_today),
        cmocka_unit_test(pending_feasigns_go_by_age_and_by_shows),
        cmocka_unit_test(a_dry_run_counts_and_changes_nothing),
        cmocka_unit_test(freed_rows_serve_the_next_new_ones),
        cmocka_unit_test(an_evicted_feasign_starts_anew),
        cmocka_unit_test(moments_are_of_stored_rows_alone),
        cmocka_unit_test(a_layout_change_amid_an_expiry_keeps_rows_and_free_ones),
        cmocka_unit_test(a_change_that_would_count_otherwise_is_refused),
        cmocka_unit_test(random_days_of_pushes_and_shrinks_agree_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
