#include "tests/unit/client_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CALLS = 6 };

/* Calls of slot 1, one key each; push i has the gradient (i + 1, 0, 0, 0), by which it is known. */
struct calls {
    uint64_t key[CALLS];
    float values[CALLS][DIM];
    struct dimfit_call *call[CALLS];
};

static void start_pull(struct fixture *f, struct calls *calls, size_t i, uint64_t key) {
    calls->key[i] = key;
    const struct dimfit_rows rows = rows_of(1, &calls->key[i], 1, calls->values[i]);
    assert_int_equal(dimfit_pull_async(f->client, DIMFIT_FULL, &rows, 1, &calls->call[i]),
                     DIMFIT_OK);
}

static void start_push(struct fixture *f, struct calls *calls, size_t i) {
    calls->key[i] = f->key[0];
    memset(calls->values[i], 0, sizeof calls->values[i]);
    calls->values[i][0] = (float)(i + 1);
    const struct dimfit_rows rows = rows_of(1, &calls->key[i], 1, calls->values[i]);
    assert_int_equal(dimfit_push_async(f->client, DIMFIT_FULL, &rows, 1, &train, &calls->call[i]),
                     DIMFIT_OK);
}

static void start_pushes(struct fixture *f, struct calls *calls) {
    for (size_t i = 0; i < CALLS; i++)
        start_push(f, calls, i);
}

static void wait_for(struct fixture *f, struct calls *calls, size_t i, dimfit_err expected) {
    const dimfit_err err = dimfit_wait(f->client, &calls->call[i]);
    if (err != expected)
        fail_msg("call %zu: %s: %s", i, dimfit_errname(err), dimfit_errmsg(f->client));
    assert_null(calls->call[i]);
}

static void wait_for_all(struct fixture *f, struct calls *calls) {
    for (size_t i = 0; i < CALLS; i++)
        wait_for(f, calls, i, DIMFIT_OK);
}

/* The pushes that shard 0 has applied, by their gradients, are 1, 2, ... n. Whether axis 0 is
 * stored at coordinate 0 or 1 depends on the layout; the other one is 0. */
static void assert_applied_in_order(struct fixture *f, size_t n) {
    size_t seen = 0;
    const size_t all = fake_count(f->fake, 0);
    for (size_t i = 0; i < all; i++) {
        const struct fake_request *const r = fake_request(f->fake, 0, (int)i);
        if (r->applied)
            assert_true(grad(r, 0, 0) + grad(r, 0, 1) == (float)++seen);
    }
    assert_int_equal(seen, n);
}

static void pulls_under_way_are_waited_for_in_any_order(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    for (size_t i = 0; i < CALLS; i++)
        start_pull(f, &calls, i, fake_key_on(f->fake, 1, i % 2, 100 * i));
    for (size_t i = CALLS; i-- > 0;) {
        wait_for(f, &calls, i, DIMFIT_OK);
        for (size_t k = 0; k < DIM; k++)
            assert_true(calls.values[i][k] == fake_value(calls.key[i], k));
    }
}

static void values_are_written_by_the_wait(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    start_pull(f, &calls, 0, f->key[0]);
    start_pull(f, &calls, 1, f->key[1]);
    calls.values[0][0] = -1;
    wait_for(f, &calls, 1, DIMFIT_OK); /* the other answer may have come meanwhile */
    assert_true(calls.values[0][0] == -1);
    wait_for(f, &calls, 0, DIMFIT_OK);
    assert_true(calls.values[0][0] == fake_value(f->key[0], 0));
}

static void pushes_under_way_are_applied_in_order(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    start_pushes(f, &calls);
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
    assert_int_equal(fake_count(f->fake, 0), CALLS);
}

static void a_call_can_go_on_while_others_are_under_way(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    float v[2 * DIM];
    start_pushes(f, &calls);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    assert_true(v[0] == fake_value(f->key[0], 0));
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
}

static void stale_pushes_under_way_are_mapped_again_in_order(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    move_on(f);
    start_pushes(f, &calls);
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
    for (size_t i = 0; i < CALLS; i++) {
        const struct fake_request *const r = fake_request(f->fake, 0, (int)i - CALLS);
        assert_int_equal(r->header.seq, i + 1);
        assert_int_equal(r->header.epoch, 1);
    }
}

static void pushes_behind_a_shard_that_lags_keep_their_order(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    float v[2 * DIM];
    fake_layout(f->fake, f->next);
    fake_switch(f->fake, 1);
    assert_int_equal(pull_both(f, v), DIMFIT_OK); /* the client is at epoch 1, shard 0 is not */
    fake_switch_after(f->fake, 0, 3);
    start_pushes(f, &calls);
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
}

static void pushes_wait_out_a_freeze_in_order(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_freeze(f->fake, 4);
    start_pushes(f, &calls);
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
}

static void a_push_not_to_be_held_does_not_wait_behind_those_that_are(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_freeze(f->fake, -1);
    start_push(f, &calls, 0);
    assert_int_equal(push_both(f, (struct dimfit_push){.mode = DIMFIT_TRAIN, .no_hold = 1}),
                     DIMFIT_ERR_FROZEN);
    fake_freeze(f->fake, 0);
    wait_for(f, &calls, 0, DIMFIT_OK);
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 2);
    assert_int_equal(fake_applied(f->fake, 1), 1);
}

static void a_lost_request_does_not_let_later_ones_by(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_drop(f->fake, 0, 1);
    start_pushes(f, &calls);
    wait_for_all(f, &calls);
    assert_applied_in_order(f, CALLS);
}

static void a_lost_answer_does_not_apply_a_push_twice(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    start_push(f, &calls, 0);
    wait_for(f, &calls, 0, DIMFIT_OK);
    fake_lose(f->fake, 0, 2);
    for (size_t i = 1; i < CALLS; i++)
        start_push(f, &calls, i);
    for (size_t i = CALLS; --i > 0;)
        wait_for(f, &calls, i, DIMFIT_OK);
    assert_applied_in_order(f, CALLS);
}

static void a_refused_push_does_not_hold_up_the_next(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_refuse(f->fake, 0, DIMFIT_ERR_LIMIT);
    start_push(f, &calls, 0);
    start_push(f, &calls, 1);
    wait_for(f, &calls, 1, DIMFIT_ERR_LIMIT);
    wait_for(f, &calls, 0, DIMFIT_ERR_LIMIT);
    fake_refuse(f->fake, 0, DIMFIT_OK);
    start_push(f, &calls, 2);
    wait_for(f, &calls, 2, DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 1);
}

static void pushes_behind_one_of_unknown_fate_share_it(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_drop(f->fake, 0, 100);
    for (size_t i = 0; i < 3; i++)
        start_push(f, &calls, i);
    for (size_t i = 0; i < 3; i++)
        wait_for(f, &calls, i, DIMFIT_ERR_MAYBE);
    fake_drop(f->fake, 0, 0);
    start_push(f, &calls, 3);
    wait_for(f, &calls, 3, DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 1);
    assert_true(grad(fake_request(f->fake, 0, -1), 0, 0) == 4);
}

/* The one in front comes to the end of its time while it is refused: it surely was not taken, and
 * the others go on. */
static void a_push_given_up_in_a_freeze_leaves_the_others_their_turn(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    fake_freeze(f->fake, -1);
    for (size_t i = 0; i < 3; i++)
        start_push(f, &calls, i);
    wait_for(f, &calls, 0, DIMFIT_ERR_FROZEN);
    fake_freeze(f->fake, 0);
    wait_for(f, &calls, 1, DIMFIT_OK);
    wait_for(f, &calls, 2, DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 2);
    assert_true(grad(fake_request(f->fake, 0, -1), 0, 0) == 3);
}

static void a_shard_that_lost_its_numbers_refuses_all(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    start_push(f, &calls, 0);
    wait_for(f, &calls, 0, DIMFIT_OK);
    fake_forget(f->fake, 0);
    start_push(f, &calls, 1);
    start_push(f, &calls, 2);
    wait_for(f, &calls, 1, DIMFIT_ERR_FENCED);
    wait_for(f, &calls, 2, DIMFIT_ERR_FENCED);
    assert_int_equal(fake_applied(f->fake, 0), 1);
}

static void dense_requests_are_under_way_with_rows(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    float dense[3] = {9, 9, 9}, grads[3] = {1, 1, 1};
    const struct dimfit_dense table = {.name = "bias", .n = 3, .values = dense};
    const struct dimfit_dense gradient = {.name = "bias", .n = 3, .values = grads};
    struct dimfit_call *pull, *push;
    start_push(f, &calls, 0);
    assert_int_equal(dimfit_dense_pull_async(f->client, &table, &pull), DIMFIT_OK);
    assert_int_equal(dimfit_dense_push_async(f->client, &gradient, &push), DIMFIT_OK);
    start_push(f, &calls, 1);
    assert_int_equal(dimfit_wait(f->client, &push), DIMFIT_OK);
    assert_int_equal(dimfit_wait(f->client, &pull), DIMFIT_OK);
    wait_for(f, &calls, 0, DIMFIT_OK);
    wait_for(f, &calls, 1, DIMFIT_OK);
    assert_true(dense[0] == 0 && dense[1] == 1 && dense[2] == 2);
    assert_int_equal(fake_applied(f->fake, 0) + fake_applied(f->fake, 1), 3);
}

static void a_call_is_waited_for_once(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    start_pull(f, &calls, 0, f->key[0]);
    struct dimfit_call *again = calls.call[0];
    wait_for(f, &calls, 0, DIMFIT_OK);
    assert_int_equal(dimfit_wait(f->client, &again), DIMFIT_ERR_INVALID);
    assert_says(f, "not under way");
}

static void too_many_calls_under_way_are_refused(void **state) {
    struct fixture *const f = *state;
    float v[DIM], w[DIM] = {-1};
    const struct dimfit_rows rows = rows_of(1, f->key, 1, v), more = rows_of(1, f->key, 1, w);
    struct dimfit_call *calls[DIMFIT_CALLS_MAX], *last = NULL;
    fake_drop(f->fake, 0, CALLS);
    for (size_t i = 0; i < CALLS; i++)
        assert_int_equal(dimfit_pull_async(f->client, DIMFIT_FULL, &rows, 1, &calls[i]), DIMFIT_OK);
    const struct dimfit_rows none = rows_of(1, NULL, 0, NULL);
    for (size_t i = CALLS; i < DIMFIT_CALLS_MAX; i++)
        assert_int_equal(dimfit_pull_async(f->client, DIMFIT_FULL, &none, 1, &calls[i]), DIMFIT_OK);
    assert_int_equal(dimfit_pull_async(f->client, DIMFIT_FULL, &more, 1, &last), DIMFIT_ERR_LIMIT);
    assert_null(last);
    assert_true(w[0] == -1);
    for (size_t i = DIMFIT_CALLS_MAX; i-- > CALLS;)
        assert_int_equal(dimfit_wait(f->client, &calls[i]), DIMFIT_OK);
    /* The rest goes with the handle. */
}

static void a_push_that_is_not_to_wait_is_held_by_its_wait_one_at_a_time(void **state) {
    struct fixture *const f = *state;
    struct calls calls;
    float g[DIM] = {7};
    const struct dimfit_rows rows = rows_of(1, f->key, 1, g);
    const struct dimfit_push push = {.mode = DIMFIT_TRAIN, .no_hold = 1};
    struct dimfit_call *call, *second = NULL;
    fake_freeze(f->fake, -1);
    assert_int_equal(dimfit_push_async(f->client, DIMFIT_FULL, &rows, 1, &push, &call), DIMFIT_OK);
    assert_int_equal(dimfit_push_async(f->client, DIMFIT_FULL, &rows, 1, &push, &second),
                     DIMFIT_ERR_STATE);
    assert_null(second);
    start_pull(f, &calls, 0, f->key[0]);
    assert_int_equal(dimfit_wait(f->client, &call), DIMFIT_ERR_FROZEN);
    wait_for(f, &calls, 0, DIMFIT_OK);
    fake_freeze(f->fake, 0);
    g[0] = 0; /* the caller's again */
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 1);
    assert_true(grad(fake_request(f->fake, 0, -1), 0, 0) == 7);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(pulls_under_way_are_waited_for_in_any_order),
        T(values_are_written_by_the_wait),
        T(pushes_under_way_are_applied_in_order),
        T(a_call_can_go_on_while_others_are_under_way),
        T(stale_pushes_under_way_are_mapped_again_in_order),
        T(pushes_behind_a_shard_that_lags_keep_their_order),
        T(pushes_wait_out_a_freeze_in_order),
        T(a_push_not_to_be_held_does_not_wait_behind_those_that_are),
        T(a_lost_request_does_not_let_later_ones_by),
        T(a_lost_answer_does_not_apply_a_push_twice),
        T(a_refused_push_does_not_hold_up_the_next),
        T(pushes_behind_one_of_unknown_fate_share_it),
        T(a_push_given_up_in_a_freeze_leaves_the_others_their_turn),
        T(a_shard_that_lost_its_numbers_refuses_all),
        T(dense_requests_are_under_way_with_rows),
        T(a_call_is_waited_for_once),
        T(too_many_calls_under_way_are_refused),
        T(a_push_that_is_not_to_wait_is_held_by_its_wait_one_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
