#include "server/kept_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmocka.h>

static struct kept_plan *plan_of(uint64_t id, uint64_t applied) {
    struct kept_plan *const plan = calloc(1, sizeof *plan);
    plan->id = id;
    plan->applied = applied;
    plan->report = json_pack("{s:f, s:s}", "kappa", 0.1, "strategy", "sseds");
    assert_int_equal(change_new(4, 5, 1, &plan->change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&plan->change->slots[0], 7, 4, 2, true), DIMFIT_OK);
    struct change_slot *const slot = &plan->change->slots[0];
    for (size_t i = 0; i < 2; i++)
        slot->T[i * 2 + i] = slot->N[i * 2 + i] = 1;
    return plan;
}

static void encode(const struct kept_plan *plan, struct buf *out) {
    buf_init(out);
    kept_plan_encode(plan, out);
    assert_int_equal(buf_status(out), DIMFIT_OK);
}

static void a_plan_comes_back_as_it_was(void **state) {
    struct kept_plan *plan = plan_of(12, 5), *back = NULL;
    struct buf bytes, again;
    plan->undone = true;
    encode(plan, &bytes);
    assert_int_equal(kept_plan_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    assert_int_equal(back->id, 12);
    assert_int_equal(back->applied, 5);
    assert_true(back->undone);
    assert_true(json_real_value(json_object_get(back->report, "kappa")) == 0.1);
    assert_int_equal(back->change->from_epoch, 4);
    assert_true(back->change->slots[0].T[3] == 1);
    encode(back, &again);
    assert_int_equal(again.len, bytes.len);
    assert_memory_equal(again.data, bytes.data, bytes.len);
    kept_plan_destroy(&plan);
    kept_plan_destroy(&back);
    buf_fini(&bytes);
    buf_fini(&again);
}

static bool decodes(const uint8_t *bytes, size_t len) {
    struct kept_plan *back = NULL;
    struct err_detail detail = {{0}};
    uint8_t *const exact = malloc(len + 1); /* so that a sanitizer sees one byte too far */
    memcpy(exact, bytes, len);
    const dimfit_err err = kept_plan_decode(exact, len, &back, &detail);
    assert_true((err == DIMFIT_OK) == (back != NULL));
    assert_true(err == DIMFIT_OK || detail.text[0] != 0);
    kept_plan_destroy(&back);
    free(exact);
    return err == DIMFIT_OK;
}

static void damaged_bytes_are_refused(void **state) {
    struct kept_plan *plan = plan_of(12, 0);
    struct buf bytes;
    encode(plan, &bytes);
    for (size_t i = 0; i < bytes.len; i++) {
        bytes.data[i] ^= 0x40;
        assert_false(decodes(bytes.data, bytes.len));
        bytes.data[i] ^= 0x40;
        assert_false(decodes(bytes.data, i));
    }
    kept_plan_destroy(&plan);
    buf_fini(&bytes);
}

/* Whoever wrote the bytes can add them up, too. */
static void bytes_with_the_right_checksum_are_not_trusted(void **state) {
    enum { HEAD = 16 }; /* magic, checksum */
    struct kept_plan *plan = plan_of(12, 0);
    struct buf bytes;
    encode(plan, &bytes);
    size_t refused = 0;
    for (size_t i = HEAD; i < bytes.len; i++) {
        for (int flip = 0; flip < 3; flip++) {
            static const uint8_t masks[] = {0x01, 0x80, 0xff};
            bytes.data[i] ^= masks[flip];
            const uint64_t sum = XXH3_64bits(bytes.data + HEAD, bytes.len - HEAD);
            memcpy(bytes.data + 8, &sum, sizeof sum);
            refused += !decodes(bytes.data, bytes.len);
            bytes.data[i] ^= masks[flip];
        }
        const uint64_t sum = XXH3_64bits(bytes.data + HEAD, i - HEAD);
        memcpy(bytes.data + 8, &sum, sizeof sum);
        assert_false(decodes(bytes.data, i));
    }
    assert_true(refused > 0);
    kept_plan_destroy(&plan);
    buf_fini(&bytes);
}

static void the_oldest_never_applied_makes_room(void **state) {
    struct kept_plans plans = {0};
    for (uint64_t id = 1; id <= KEPT_PLANS_MAX; id++) {
        assert_null(kept_plans_excess(&plans));
        struct kept_plan *plan = plan_of(KEPT_PLANS_MAX + 1 - id, id > KEPT_PLANS_MAX - 2 ? 9 : 0);
        kept_plans_add(&plans, &plan);
        assert_null(plan);
    }
    assert_int_equal(plans.items[0]->id, 1); /* 1 and 2 were applied */
    assert_int_equal(kept_plans_last(&plans)->id, KEPT_PLANS_MAX);
    assert_int_equal(kept_plans_excess(&plans)->id, 3);
    for (uint64_t id = 3; id <= KEPT_PLANS_MAX; id++)
        kept_plans_find(&plans, id)->applied = 9;
    assert_int_equal(kept_plans_excess(&plans)->id, 1);
    kept_plans_remove(&plans, 2);
    assert_null(kept_plans_find(&plans, 2));
    assert_int_equal(plans.n, KEPT_PLANS_MAX - 1);
    kept_plans_fini(&plans);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_comes_back_as_it_was),
        cmocka_unit_test(damaged_bytes_are_refused),
        cmocka_unit_test(bytes_with_the_right_checksum_are_not_trusted),
        cmocka_unit_test(the_oldest_never_applied_makes_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
