#include "tests/unit/client_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LOOKUPS = 21 };

static const struct dimfit_push score = {.mode = DIMFIT_SCORE, .step = 3, .samples = 7};

/* Lookups of one slot: keys of both shards, some more than once, with gradients of their own. */
struct lookups {
    uint64_t keys[LOOKUPS];
    float g[LOOKUPS * DIM];
};

static struct lookups make_lookups(const struct fixture *f, uint32_t slot) {
    struct lookups l;
    uint64_t keys[2][3];
    for (size_t shard = 0; shard < 2; shard++) {
        for (size_t i = 0; i < 3; i++)
            keys[shard][i] = fake_key_on(f->fake, slot, shard, 1000 * (i + 1));
    }
    for (size_t i = 0; i < LOOKUPS; i++) {
        l.keys[i] = keys[(i + 1) % 2][i * i % 3];
        for (size_t k = 0; k < DIM; k++)
            l.g[i * DIM + k] = (float)sin((double)(17 * i + 5 * k));
    }
    return l;
}

/* Ask for it, and let the client hear of that. */
static void want(struct fixture *f) {
    float v[2 * DIM];
    fake_curvature(f->fake, true);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
}

static dimfit_err push_lookups(struct fixture *f, uint32_t slot, struct lookups *l,
                               const struct dimfit_push *how) {
    const struct dimfit_rows rows = rows_of(slot, l->keys, LOOKUPS, l->g);
    return dimfit_push(f->client, DIMFIT_FULL, &rows, 1, how);
}

/* The one section of a shard's last request that has a curvature; NULL when it has none. */
static const struct section *curved(const struct fixture *f, size_t shard) {
    const struct section_list *const list = &fake_request(f->fake, shard, -1)->sections;
    assert_int_equal(list->n, 1);
    return list->items[0].curved > 0 ? &list->items[0] : NULL;
}

/* It is the sum of (g B)^T (g B), B[DIM][w] row-major. */
static void assert_is(const struct section *section, const struct lookups *l, const double *B,
                      size_t w) {
    assert_non_null(section);
    assert_int_equal(section->curved, LOOKUPS);
    assert_int_equal(section->width, w);
    const uint8_t *at = section->curvature;
    for (size_t a = 0; a < w; a++) {
        for (size_t b = a; b < w; b++, at += sizeof(double)) {
            double sum = 0;
            for (size_t i = 0; i < LOOKUPS; i++) {
                double x = 0, y = 0;
                for (size_t k = 0; k < DIM; k++) {
                    x += l->g[i * DIM + k] * B[k * w + a];
                    y += l->g[i * DIM + k] * B[k * w + b];
                }
                sum += x * y;
            }
            assert_true(fabs(load_f64(at) - sum) <= 1e-6 * LOOKUPS);
        }
    }
}

static const double identity[DIM * DIM] = {[0] = 1, [5] = 1, [10] = 1, [15] = 1};

static void nothing_is_brought_unasked(void **state) {
    struct fixture *const f = *state;
    struct lookups l = make_lookups(f, 1);
    assert_int_equal(push_lookups(f, 1, &l, &score), DIMFIT_OK);
    for (size_t shard = 0; shard < 2; shard++) {
        assert_null(curved(f, shard));
        assert_int_equal(load_u32(fake_request(f->fake, shard, -1)->body + 4) & SECTION_CURVATURE,
                         0);
    }
}

static void one_part_brings_the_products_of_single_lookups(void **state) {
    struct fixture *const f = *state;
    struct lookups l = make_lookups(f, 1);
    want(f);
    const struct dimfit_push modes[] = {score, train};
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        assert_int_equal(push_lookups(f, 1, &l, &modes[i]), DIMFIT_OK);
        assert_is(curved(f, 0), &l, identity, DIM);
        assert_null(curved(f, 1));
    }
    /* A slot without keys on the first shard. */
    for (size_t i = 0; i < LOOKUPS; i++)
        l.keys[i] = f->key[1];
    assert_int_equal(push_lookups(f, 1, &l, &score), DIMFIT_OK);
    assert_is(curved(f, 1), &l, identity, DIM);
}

static void training_held_by_a_freeze_brings_none(void **state) {
    struct fixture *const f = *state;
    struct lookups l = make_lookups(f, 1);
    const struct dimfit_push quick = {.mode = DIMFIT_TRAIN, .no_hold = 1};
    fake_freeze(f->fake, -1);
    want(f);
    assert_int_equal(push_lookups(f, 1, &l, &quick), DIMFIT_ERR_FROZEN);
    assert_null(curved(f, 0));
    assert_int_equal(push_lookups(f, 1, &l, &score), DIMFIT_OK);
    assert_is(curved(f, 0), &l, identity, DIM);
    fake_freeze(f->fake, 0);
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK); /* its single gradients are gone */
    assert_int_equal(fake_request(f->fake, 0, -1)->header.mode, PUSH_TRAIN);
    assert_null(curved(f, 0));
}

static void a_stale_push_maps_its_curvature_too(void **state) {
    struct fixture *const f = *state;
    static const double axes[DIM * 2] = {[2 * 2] = 1, [1] = 1}; /* 2, then 0 */
    for (uint32_t slot = 1; slot <= 2; slot++) {
        struct lookups l = make_lookups(f, slot);
        want(f);
        if (slot == 1)
            move_on(f);
        assert_int_equal(push_lookups(f, slot, &l, &score), DIMFIT_OK);
        assert_is(curved(f, 0), &l, slot == 1 ? axes : client_basis, 2);
        assert_null(curved(f, 1));
        const struct fake_request *const first = fake_request(f->fake, 0, slot == 1 ? -2 : -1);
        assert_int_equal(first->status, slot == 1 ? DIMFIT_ERR_STALE_EPOCH : DIMFIT_OK);
    }
}

static void a_compact_gradients_curvature_is_carried_over(void **state) {
    struct fixture *const f = *state;
    struct lookups l = make_lookups(f, 2);
    want(f);
    move_on(f);
    const struct dimfit_rows rows = rows_of(2, l.keys, LOOKUPS, l.g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_COMPACT, &rows, 1, &score), DIMFIT_OK);
    assert_is(curved(f, 0), &l, client_basis, 2);
}

static void a_slot_outside_the_search_brings_none(void **state) {
    struct fixture *const f = *state;
    struct lookups l = make_lookups(f, 2);
    f->next->slots[1].search = false;
    move_on(f);
    want(f);
    assert_int_equal(push_lookups(f, 2, &l, &train), DIMFIT_OK);
    assert_null(curved(f, 0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_brought_unasked),
        TEST(one_part_brings_the_products_of_single_lookups),
        TEST(training_held_by_a_freeze_brings_none),
        TEST(a_stale_push_maps_its_curvature_too),
        TEST(a_compact_gradients_curvature_is_carried_over),
        TEST(a_slot_outside_the_search_brings_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
