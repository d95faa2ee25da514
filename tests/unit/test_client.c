#include "worker/dimfit.h"
#include "tests/unit/client_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmocka.h>

/* ---- rows --------------------------------------------------------------------------------------
 */

static void pulled_rows_stand_where_their_keys_do(void **state) {
    struct fixture *const f = *state;
    uint64_t keys[2][20];
    float v[2][20 * DIM];
    struct dimfit_rows rows[2];
    for (uint32_t s = 0; s < 2; s++) {
        for (size_t i = 0; i < 20; i++)
            keys[s][i] = 1000 * s + i % 13;
        rows[s] = rows_of(s + 1, keys[s], 20, v[s]);
    }
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, rows, 2), DIMFIT_OK);
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < 20; i++)
            for (size_t k = 0; k < DIM; k++)
                assert_true(v[s][i * DIM + k] == fake_value(keys[s][i], k));
    assert_int_equal(fake_count(f->fake, 0), 1);
    assert_int_equal(fake_count(f->fake, 1), 1);
}

static void a_repeated_key_is_asked_for_once(void **state) {
    struct fixture *const f = *state;
    const uint64_t keys[5] = {f->key[0], f->key[1], f->key[0], f->key[0], f->key[1]};
    float v[5 * DIM];
    const struct dimfit_rows rows = rows_of(1, keys, 5, v);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_OK);
    for (size_t s = 0; s < 2; s++)
        assert_int_equal(fake_request(f->fake, s, 0)->sections.rows, 1);
}

static void gradients_of_a_repeated_key_are_summed_with_its_lookups(void **state) {
    struct fixture *const f = *state;
    const uint64_t keys[3] = {f->key[0], f->key[1], f->key[0]};
    float g[3 * DIM] = {1, 2, 3, 4, 10, 20, 30, 40, 100, 200, 300, 400};
    const struct dimfit_rows rows = rows_of(1, keys, 3, g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
    const struct fake_request *const both = fake_request(f->fake, 0, 0);
    assert_int_equal(both->sections.rows, 1);
    assert_int_equal(load_u32(both->sections.items[0].lookups), 2);
    for (size_t k = 0; k < DIM; k++)
        assert_true(grad(both, 0, k) == 101 * (float)(k + 1));
    const struct fake_request *const one = fake_request(f->fake, 1, 0);
    assert_true(grad(one, 0, 3) == 40);
    const uint8_t *const lookups = one->sections.items[0].lookups;
    assert_int_equal(lookups == NULL ? 1 : load_u32(lookups), 1);
}

static void clicks_of_equal_keys_are_summed_and_travel_with_the_day(void **state) {
    struct fixture *const f = *state;
    const uint64_t keys[4] = {f->key[0], f->key[1], f->key[0], 5};
    const uint32_t clicks[3] = {1, 0, 3};
    float g[4 * DIM] = {1, 2, 3, 4};
    struct dimfit_rows rows[2] = {rows_of(2, keys, 4, g), rows_of(1, keys, 3, g)};
    rows[1].clicks = clicks;
    const struct dimfit_push push = {.mode = DIMFIT_TRAIN, .day = 20771};
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, rows, 2, &push), DIMFIT_OK);
    const struct fake_request *const r = fake_request(f->fake, 0, 0);
    assert_int_equal(r->header.day, 20771);
    assert_int_equal(r->sections.items[0].slot, 1);
    assert_int_equal(load_u32(r->sections.items[0].lookups), 2);
    assert_int_equal(load_u32(r->sections.items[0].clicks), 4);
    for (size_t i = 0; i < r->sections.items[1].rows; i++)
        assert_int_equal(load_u32(r->sections.items[1].clicks + 4 * i), 0);
    assert_null(fake_request(f->fake, 1, 0)->sections.items[0].clicks); /* all of them none */
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    const uint32_t today = (uint32_t)(time(NULL) / 86400);
    const uint32_t day = fake_request(f->fake, 0, -1)->header.day;
    assert_true(day == today || day + 1 == today);
}

static void clicks_for_a_slot_that_counts_none_reach_no_shard(void **state) {
    struct fixture *const f = *state;
    float g[2 * DIM] = {0};
    uint32_t clicks[2] = {0, 1};
    struct dimfit_rows rows = rows_of(2, f->key, 2, g);
    rows.clicks = clicks;
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_ERR_INVALID);
    assert_says(f, "slot 2 counts no clicks");
    assert_int_equal(fake_count(f->fake, 0) + fake_count(f->fake, 1), 0);
    clicks[1] = 0; /* none is none */
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
}

static void an_empty_call_asks_nobody(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_rows rows = rows_of(1, NULL, 0, NULL);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_OK);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, NULL, 0), DIMFIT_OK);
    assert_int_equal(fake_count(f->fake, 0) + fake_count(f->fake, 1), 0);
}

static void refused_arguments_reach_no_shard(void **state) {
    struct fixture *const f = *state;
    float g[2 * DIM] = {0};
    struct dimfit_rows rows = rows_of(1, f->key, 2, g);
    rows.width = 3;
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_ERR_WIDTH);
    assert_says(f, "slot 1");
    assert_int_equal(dimfit_push(f->client, DIMFIT_COMPACT, &rows, 1, &train), DIMFIT_ERR_WIDTH);
    rows.width = DIM;
    g[DIM + 2] = NAN;
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_ERR_NOT_FINITE);
    char text[64];
    snprintf(text, sizeof text, "slot 1, feasign %llu", (unsigned long long)f->key[1]);
    assert_says(f, text);
    g[DIM + 2] = 0;
    const struct dimfit_push none = {0};
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &none), DIMFIT_ERR_INVALID);
    assert_int_equal(fake_count(f->fake, 0) + fake_count(f->fake, 1), 0);
}

static void numbers_that_overflow_in_a_sum_are_refused(void **state) {
    struct fixture *const f = *state;
    const uint64_t keys[2] = {f->key[0], f->key[0]};
    float g[2 * DIM] = {3e38f, 0, 0, 0, 3e38f, 0, 0, 0};
    const struct dimfit_rows rows = rows_of(1, keys, 2, g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_ERR_NOT_FINITE);
    assert_int_equal(fake_count(f->fake, 0), 0);
}

static void an_answer_of_the_wrong_length_is_refused_and_nothing_written(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    for (size_t i = 0; i < 2 * DIM; i++)
        v[i] = -1;
    fake_cut(f->fake, 1, 1);
    assert_int_equal(pull_both(f, v), DIMFIT_ERR_PROTOCOL);
    assert_says(f, fake_shard_endpoint(f->fake, 1));
    for (size_t i = 0; i < 2 * DIM; i++)
        assert_true(v[i] == -1);
}

static void a_shards_refusal_is_told_with_its_endpoint(void **state) {
    struct fixture *const f = *state;
    fake_refuse(f->fake, 1, DIMFIT_ERR_LIMIT);
    assert_int_equal(push_both(f, train), DIMFIT_ERR_LIMIT);
    assert_says(f, fake_shard_endpoint(f->fake, 1));
    assert_says(f, "refused as told");
    fake_refuse(f->fake, 1, DIMFIT_OK);
    assert_int_equal(push_both(f, train), DIMFIT_OK); /* the refusal took a number: no gap */
}

/* ---- scoring -----------------------------------------------------------------------------------
 */

static void a_push_without_a_step_gets_one_of_its_own(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_push score = {.mode = DIMFIT_SCORE};
    for (int i = 0; i < 2; i++)
        assert_int_equal(push_both(f, score), DIMFIT_OK);
    uint64_t step[2];
    for (int i = 0; i < 2; i++) {
        const struct wire_header *const h = &fake_request(f->fake, 0, i)->header;
        step[i] = h->step;
        assert_true(step[i] >> 63 == 1);
        assert_true(fake_request(f->fake, 1, i)->header.step == step[i]);
        assert_int_equal(h->samples, 1);
        assert_int_equal(h->mode, PUSH_SCORE);
    }
    assert_true(step[0] < step[1]);
}

static void step_samples_and_mode_travel(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_push push = {.mode = DIMFIT_TRAIN_SCORE, .step = 9, .samples = 512};
    assert_int_equal(push_both(f, push), DIMFIT_OK);
    const struct wire_header *const h = &fake_request(f->fake, 1, 0)->header;
    assert_int_equal(h->step, 9);
    assert_int_equal(h->samples, 512);
    assert_int_equal(h->mode, PUSH_TRAIN | PUSH_SCORE);
    assert_int_equal(h->seq, 1);
}

/* ---- epochs ------------------------------------------------------------------------------------
 */

static void a_full_pull_goes_on_through_a_new_layout(void **state) {
    struct fixture *const f = *state;
    move_on(f);
    const uint64_t key = 321;
    float v[2][DIM];
    const struct dimfit_rows rows[2] = {rows_of(1, &key, 1, v[0]), rows_of(2, &key, 1, v[1])};
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, rows, 2), DIMFIT_OK);
    const float r[2] = {fake_value(key, 0), fake_value(key, 1)};
    const float axes[DIM] = {r[1], 0, r[0], 0};
    for (size_t j = 0; j < DIM; j++) {
        assert_true(v[0][j] == axes[j]);
        const double dense = client_mean[j] + r[0] * client_basis[2 * j] +
                             r[1] * client_basis[2 * j + 1];
        assert_float_equal(v[1][j], dense, 1e-4);
    }
    assert_int_equal(dimfit_layout(f->client)->epoch, 1);
    const struct dimfit_slot *const slot = dimfit_slot(f->client, 2);
    assert_int_equal(slot->width, 2);
    assert_float_equal(slot->basis[2], 0.8, 1e-7);
    assert_float_equal(slot->mean[3], 4, 0);
}

static void parts_of_a_full_pull_may_be_of_different_epochs(void **state) {
    struct fixture *const f = *state;
    fake_layout(f->fake, f->next);
    fake_switch(f->fake, 0);
    float v[2 * DIM];
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    assert_true(v[0] == fake_value(f->key[0], 1)); /* by the new axes */
    assert_true(v[1] == 0);
    assert_true(v[DIM] == fake_value(f->key[1], 0)); /* as it was */
    assert_true(v[DIM + 3] == fake_value(f->key[1], 3));
}

static void a_stale_push_is_mapped_again_and_keeps_its_number(void **state) {
    struct fixture *const f = *state;
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    move_on(f);
    const uint64_t key = f->key[0];
    float g[DIM] = {1, 2, 3, 4};
    const struct dimfit_rows rows = rows_of(1, &key, 1, g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
    assert_int_equal(fake_count(f->fake, 0), 3);
    const struct fake_request *const stale = fake_request(f->fake, 0, 1), *const again =
                                                                              fake_request(f->fake,
                                                                                           0, 2);
    assert_int_equal(stale->status, DIMFIT_ERR_STALE_EPOCH);
    assert_true(stale->header.seq == 2 && again->header.seq == 2);
    assert_int_equal(again->header.epoch, 1);
    assert_int_equal(again->sections.items[0].width, 2);
    assert_true(grad(again, 0, 0) == 3 && grad(again, 0, 1) == 1);
    assert_int_equal(fake_applied(f->fake, 0), 2);
}

static void a_dense_basis_maps_gradients_by_its_columns(void **state) {
    struct fixture *const f = *state;
    move_on(f);
    const uint64_t key = fake_key_on(f->fake, 2, 0, 0);
    float g[DIM] = {1, 2, 3, 4};
    const struct dimfit_rows rows = rows_of(2, &key, 1, g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
    const struct fake_request *const r = fake_request(f->fake, 0, -1);
    assert_float_equal(grad(r, 0, 0), 2.2, 1e-6);
    assert_float_equal(grad(r, 0, 1), 3, 1e-6);
}

static void a_shard_behind_is_waited_for_with_the_same_number(void **state) {
    struct fixture *const f = *state;
    fake_layout(f->fake, f->next);
    fake_switch(f->fake, 0);
    fake_switch_after(f->fake, 1, 3);
    assert_int_equal(dimfit_refresh(f->client), DIMFIT_OK);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(fake_count(f->fake, 1), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(fake_request(f->fake, 1, i)->header.seq, 1);
    assert_int_equal(fake_applied(f->fake, 1), 1);
}

static void a_compact_pull_of_an_old_layout_says_so_and_has_the_new_one(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    struct dimfit_rows rows = rows_of(1, f->key, 2, v);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_COMPACT, &rows, 1), DIMFIT_OK);
    move_on(f);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_COMPACT, &rows, 1), DIMFIT_ERR_STALE_EPOCH);
    assert_int_equal(dimfit_layout(f->client)->epoch, 1);
    rows.width = 2;
    assert_int_equal(dimfit_pull(f->client, DIMFIT_COMPACT, &rows, 1), DIMFIT_OK);
    for (size_t i = 0; i < 4; i++)
        assert_true(v[i] == fake_value(f->key[i / 2], i % 2));
}

static void a_compact_gradient_of_the_epoch_before_is_carried_over(void **state) {
    struct fixture *const f = *state;
    move_on(f);
    float g[2 * DIM] = {1, 2, 3, 4, 5, 6, 7, 8};
    const struct dimfit_rows rows = rows_of(1, f->key, 2, g);
    assert_int_equal(dimfit_push(f->client, DIMFIT_COMPACT, &rows, 1, &train), DIMFIT_OK);
    const struct fake_request *const a = fake_request(f->fake, 0, -1), *const b = fake_request(
                                                                           f->fake, 1, -1);
    assert_true(grad(a, 0, 0) == 3 && grad(a, 0, 1) == 1);
    assert_true(grad(b, 0, 0) == 7 && grad(b, 0, 1) == 5);
}

static void a_compact_gradient_of_the_new_layout_is_sent_as_it_is(void **state) {
    struct fixture *const f = *state;
    move_on(f);
    assert_int_equal(dimfit_refresh(f->client), DIMFIT_OK);
    float g[4] = {1, 2, 3, 4};
    struct dimfit_rows rows = rows_of(1, f->key, 2, g);
    rows.width = 2;
    const struct dimfit_push push = {.mode = DIMFIT_TRAIN, .epoch = 1};
    assert_int_equal(dimfit_push(f->client, DIMFIT_COMPACT, &rows, 1, &push), DIMFIT_OK);
    const struct fake_request *const b = fake_request(f->fake, 1, -1);
    assert_true(grad(b, 0, 0) == 3 && grad(b, 0, 1) == 4);
}

/* ---- faults ------------------------------------------------------------------------------------
 */

static void a_lost_push_is_sent_again_with_its_number(void **state) {
    struct fixture *const f = *state;
    fake_drop(f->fake, 0, 1);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_true(fake_count(f->fake, 0) >= 2);
    for (size_t i = 0; i < fake_count(f->fake, 0); i++) {
        const struct fake_request *const r = fake_request(f->fake, 0, (int)i);
        assert_int_equal(r->header.seq, 1);
        assert_int_equal(r->len, fake_request(f->fake, 0, 0)->len);
        assert_memory_equal(r->body, fake_request(f->fake, 0, 0)->body, r->len);
    }
    assert_int_equal(fake_applied(f->fake, 0), 1);
}

static void a_push_whose_answer_was_lost_is_applied_once(void **state) {
    struct fixture *const f = *state;
    fake_lose(f->fake, 1, 1);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_true(fake_count(f->fake, 1) >= 2);
    assert_int_equal(fake_applied(f->fake, 1), 1);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 1), 2);
}

static void a_lost_pull_is_asked_for_again(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    fake_drop(f->fake, 0, 1);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    assert_true(v[0] == fake_value(f->key[0], 0));
}

static void a_silent_shard_ends_a_pull_with_its_endpoint(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    fake_drop(f->fake, 1, 1000);
    assert_int_equal(pull_both(f, v), DIMFIT_ERR_UNREACHABLE); /* it has never answered */
    assert_says(f, fake_shard_endpoint(f->fake, 1));
    fake_drop(f->fake, 1, 0);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    fake_drop(f->fake, 1, 1000);
    assert_int_equal(pull_both(f, v), DIMFIT_ERR_TIMEOUT);
    assert_says(f, fake_shard_endpoint(f->fake, 1));
}

static void the_push_after_one_of_unknown_fate_is_applied(void **state) {
    struct fixture *const f = *state;
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    fake_lose(f->fake, 0, 1000); /* applied, but we never hear of it */
    fake_drop(f->fake, 1, 1000); /* never applied */
    assert_int_equal(push_both(f, train), DIMFIT_ERR_MAYBE);
    assert_says(f, "shard");
    fake_lose(f->fake, 0, 0);
    fake_drop(f->fake, 1, 0);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 3);
    assert_int_equal(fake_applied(f->fake, 1), 2);
}

static void a_shard_that_moved_is_found_again(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    fake_move(f->fake, 0);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0), 2);
}

static void incarnations_of_the_callers_own_stay_apart(void **state) {
    struct fixture *const f = *state;
    const float zeros[DIM] = {0};
    for (uint64_t life = 1; life <= 2; life++) {
        const struct dimfit_options options = {
            .size = sizeof options, .timeout = 0.3, .client = 99, .incarnation = life};
        struct dimfit *c;
        assert_int_equal(dimfit_connect(fake_endpoint(f->fake), &options, &c), DIMFIT_OK);
        float g[DIM];
        memcpy(g, zeros, sizeof g);
        const struct dimfit_rows rows = rows_of(1, f->key, 1, g);
        fake_drop(f->fake, 0, life == 1);
        const dimfit_err first = dimfit_push(c, DIMFIT_FULL, &rows, 1, &train);
        assert_int_equal(first, life == 1 ? DIMFIT_ERR_MAYBE : DIMFIT_OK);
        assert_int_equal(dimfit_push(c, DIMFIT_FULL, &rows, 1, &train), DIMFIT_OK);
        dimfit_close(&c);
    }
    assert_int_equal(fake_applied(f->fake, 0),
                     3); /* none taken for a repeat of the earlier life's */
}

static void a_handle_is_of_no_use_after_a_fork(void **state) {
    struct fixture *const f = *state;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        float v[2 * DIM];
        const bool refused = pull_both(f, v) == DIMFIT_ERR_STATE;
        dimfit_close(&f->client);
        _exit(refused && f->client == NULL ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    float v[2 * DIM];
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
}

static void a_call_larger_than_a_message_is_refused(void **state) {
    struct fixture *const f = *state;
    float v[2 * DIM];
    struct dimfit_rows rows = rows_of(1, f->key, (size_t)1 << 27, v);
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_ERR_LIMIT);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &train), DIMFIT_ERR_LIMIT);
    assert_says(f, "split");
    rows.n = SIZE_MAX / 8;
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_ERR_LIMIT);
    rows.n = 2;
    assert_int_equal(dimfit_pull(f->client, (enum dimfit_view)7, &rows, 1), DIMFIT_ERR_INVALID);
}

static void options_out_of_range_are_refused(void **state) {
    struct fixture *const f = *state;
    struct dimfit *none = NULL;
    struct dimfit_options options = {.timeout = 1};
    assert_int_equal(dimfit_connect(fake_endpoint(f->fake), &options, &none), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(dimfit_errmsg(NULL), "sizeof"));
    options.size = sizeof options;
    static const double bad[] = {-1, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        options.timeout = bad[i];
        assert_int_equal(dimfit_connect(fake_endpoint(f->fake), &options, &none),
                         DIMFIT_ERR_INVALID);
        assert_int_equal(dimfit_barrier(f->client, "b", 1, bad[i]), DIMFIT_ERR_INVALID);
    }
    assert_null(none);
}

static void a_shard_that_lost_its_numbers_is_named(void **state) {
    struct fixture *const f = *state;
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    fake_forget(f->fake, 1);
    assert_int_equal(push_both(f, train), DIMFIT_ERR_FENCED);
    assert_says(f, fake_shard_endpoint(f->fake, 1));
}

/* ---- freeze ------------------------------------------------------------------------------------
 */

static void a_push_waits_for_the_end_of_a_freeze(void **state) {
    struct fixture *const f = *state;
    fake_freeze(f->fake, 6);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    for (size_t s = 0; s < 2; s++) {
        assert_int_equal(fake_applied(f->fake, s), 1);
        for (size_t i = 0; i < fake_count(f->fake, s); i++)
            assert_int_equal(fake_request(f->fake, s, (int)i)->header.seq, 1);
    }
}

static void a_push_that_is_not_to_wait_is_delivered_by_a_flush(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_push quick = {.mode = DIMFIT_TRAIN, .no_hold = 1},
                             score = {.mode = DIMFIT_SCORE, .step = 5};
    float v[2 * DIM];
    fake_freeze(f->fake, -1);
    assert_int_equal(push_both(f, quick), DIMFIT_ERR_FROZEN);
    assert_true(dimfit_state(f->client).frozen);
    assert_int_equal(pull_both(f, v), DIMFIT_OK);
    assert_int_equal(push_both(f, score), DIMFIT_OK);
    fake_freeze(f->fake, 0);
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK);
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK); /* nothing is left */
    for (size_t s = 0; s < 2; s++) {
        assert_int_equal(fake_applied(f->fake, s), 2);
        const struct fake_request *const r = fake_request(f->fake, s, -1);
        assert_int_equal(r->header.mode, PUSH_TRAIN);
        assert_int_equal(r->header.seq, 2);
        assert_true(grad(r, 0, 3) == 4);
    }
}

static void a_held_push_keeps_its_clicks_and_its_day(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_push quick = {.mode = DIMFIT_TRAIN, .no_hold = 1, .day = 99};
    const uint64_t keys[3] = {f->key[1], f->key[0], f->key[1]};
    const uint32_t clicks[3] = {5, 6, 7};
    float g[3 * DIM] = {1, 2, 3, 4};
    struct dimfit_rows rows = rows_of(1, keys, 3, g);
    rows.clicks = clicks;
    fake_freeze(f->fake, -1);
    assert_int_equal(dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &quick), DIMFIT_ERR_FROZEN);
    fake_freeze(f->fake, 0);
    assert_int_equal(dimfit_flush(f->client), DIMFIT_OK);
    for (size_t s = 0; s < 2; s++) {
        const struct fake_request *const r = fake_request(f->fake, s, -1);
        assert_int_equal(r->header.day, 99);
        assert_int_equal(load_u32(r->sections.items[0].clicks), s == 0 ? 6 : 12);
    }
}

static void a_held_push_is_mapped_to_the_layout_that_came_meanwhile(void **state) {
    struct fixture *const f = *state;
    const struct dimfit_push quick = {.mode = DIMFIT_TRAIN, .no_hold = 1};
    fake_freeze(f->fake, -1);
    assert_int_equal(push_both(f, quick), DIMFIT_ERR_FROZEN);
    fake_freeze(f->fake, 0);
    move_on(f);
    assert_int_equal(push_both(f, train), DIMFIT_OK); /* delivers the held one before itself */
    for (size_t s = 0; s < 2; s++) {
        assert_int_equal(fake_applied(f->fake, s), 2);
        const struct fake_request *const r = fake_request(f->fake, s, -1);
        assert_int_equal(r->sections.items[0].width, 2);
        assert_true(grad(r, 0, 0) == 3 && grad(r, 0, 1) == 1);
    }
}

static void a_freeze_longer_than_the_time_limit_is_told(void **state) {
    struct fixture *const f = *state;
    fake_freeze(f->fake, -1);
    assert_int_equal(push_both(f, train), DIMFIT_ERR_FROZEN);
    assert_int_equal(fake_applied(f->fake, 0) + fake_applied(f->fake, 1), 0);
}

/* ---- dense tables ------------------------------------------------------------------------------
 */

static void a_dense_table_is_made_read_and_pushed_on_one_shard(void **state) {
    struct fixture *const f = *state;
    float values[3] = {1, 2, 3};
    const struct dimfit_dense table = {
        .name = "w", .tag = 6, .optimizer = "adagrad", .lr = 0.5, .n = 3, .values = values};
    int created = 0;
    assert_int_equal(dimfit_dense_reset(f->client, &table, &created), DIMFIT_OK);
    assert_int_equal(created, 1);
    const size_t shard = key_bucket(XXH3_64bits("w", 1)) * 2 / KEY_BUCKETS;
    const struct fake_request *const reset = fake_request(f->fake, shard, 0);
    assert_int_equal(reset->header.kind, WIRE_DENSE_RESET);
    assert_string_equal(reset->header.name, "w");
    assert_int_equal(reset->header.tag, 6);
    struct reader r = reader_of(reset->body, reset->len);
    assert_int_equal(reader_u8(&r), OPTIMIZER_ADAGRAD);
    assert_true(reader_f32(&r) == 0.5f);
    reader_take(&r, 12); /* eps, beta1, beta2 */
    for (size_t i = 0; i < 3; i++)
        assert_true(reader_f32(&r) == values[i]);
    assert_true(reader_done(&r));

    assert_int_equal(dimfit_dense_push(f->client, &table), DIMFIT_OK);
    const struct fake_request *const push = fake_request(f->fake, shard, 1);
    assert_int_equal(push->header.seq, 1);
    assert_int_equal(push->len, sizeof values);
    assert_int_equal(dimfit_dense_pull(f->client, &table), DIMFIT_OK);
    for (size_t i = 0; i < 3; i++)
        assert_true(values[i] == (float)i);
    assert_int_equal(fake_count(f->fake, 1 - shard), 0);
}

static void dense_pushes_and_row_pushes_share_their_numbers(void **state) {
    struct fixture *const f = *state;
    float values[3] = {1, 2, 3};
    const struct dimfit_dense table = {.name = "w", .n = 3, .values = values};
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(dimfit_dense_push(f->client, &table), DIMFIT_OK);
    assert_int_equal(push_both(f, train), DIMFIT_OK);
    assert_int_equal(fake_applied(f->fake, 0) + fake_applied(f->fake, 1), 5);
}

static void a_dense_answer_of_another_size_is_refused(void **state) {
    struct fixture *const f = *state;
    float values[2] = {8, 9};
    const struct dimfit_dense table = {.name = "w", .n = 2, .values = values};
    assert_int_equal(dimfit_dense_pull(f->client, &table), DIMFIT_ERR_WIDTH);
    assert_true(values[0] == 8 && values[1] == 9);
    values[1] = INFINITY;
    assert_int_equal(dimfit_dense_push(f->client, &table), DIMFIT_ERR_NOT_FINITE);
    const struct dimfit_dense nameless = {.name = "", .n = 2, .values = values};
    assert_int_equal(dimfit_dense_pull(f->client, &nameless), DIMFIT_ERR_INVALID);
}

/* ---- coordinator -------------------------------------------------------------------------------
 */

static void connect_waits_until_all_shards_are_here(void **state) {
    struct fixture *const f = *state;
    struct dimfit *second = NULL;
    fake_busy(f->fake, 3);
    assert_int_equal(dimfit_connect(fake_endpoint(f->fake), NULL, &second), DIMFIT_OK);
    assert_int_equal(dimfit_layout(second)->n_slots, 2);
    dimfit_close(&second);
    assert_null(second);
}

static void connect_gives_up_with_a_reason(void **state) {
    struct fixture *const f = *state;
    struct dimfit *none = (struct dimfit *)f;
    const struct dimfit_options options = {.size = sizeof options, .timeout = 0.2};
    fake_busy(f->fake, 1000);
    assert_int_equal(dimfit_connect(fake_endpoint(f->fake), &options, &none), DIMFIT_ERR_TIMEOUT);
    assert_non_null(strstr(dimfit_errmsg(NULL), "waiting for shards 1/2"));
    assert_int_equal(dimfit_connect("tcp://127.0.0.1:9", &options, &none), DIMFIT_ERR_UNREACHABLE);
    assert_non_null(strstr(dimfit_errmsg(NULL), "tcp://127.0.0.1:9"));
    assert_int_equal(dimfit_connect("nonsense", &options, &none), DIMFIT_ERR_INVALID);
    assert_true(none == (struct dimfit *)f);
}

static void an_unknown_slot_is_declared_where_the_cluster_takes_it(void **state) {
    struct fixture *const f = *state;
    fake_auto_slots(f->fake, true);
    const uint64_t key = 5;
    float v[3];
    struct dimfit_rows rows = {.slot = 77, .n = 1, .keys = &key, .values = v, .width = 3};
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_OK);
    assert_true(v[2] == fake_value(key, 2));
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_OK);
    assert_int_equal(fake_declared(f->fake), 1);
    assert_string_equal(dimfit_slot(f->client, 77)->name, "slot77");
}

static void an_unknown_slot_is_refused_with_what_to_do(void **state) {
    struct fixture *const f = *state;
    const uint64_t key = 5;
    float v[3];
    const struct dimfit_rows rows = {.slot = 77, .n = 1, .keys = &key, .values = v, .width = 3};
    assert_int_equal(dimfit_pull(f->client, DIMFIT_FULL, &rows, 1), DIMFIT_ERR_UNKNOWN_SLOT);
    assert_says(f, "auto_slots: true");
    assert_null(dimfit_slot(f->client, 77));
}

static void declared_settings_travel(void **state) {
    struct fixture *const f = *state;
    fake_auto_slots(f->fake, true);
    const struct dimfit_declare slots[2] = {
        {.slot = 9, .dim = 1, .name = "linear", .optimizer = "sgd", .lr = 0.5, .init = "zero"},
        {.slot = 8, .search = 1},
    };
    assert_int_equal(dimfit_declare(f->client, slots, 2), DIMFIT_OK);
    assert_int_equal(dimfit_slot(f->client, 9)->dim, 1);
    assert_string_equal(dimfit_slot(f->client, 9)->name, "linear");
    assert_false(dimfit_slot(f->client, 9)->search);
    assert_true(dimfit_slot(f->client, 8)->search);
    const uint32_t tiers[LAYOUT_TIERS_MAX] = {10, 100, 1000, 10000, 100000, 1000000, 10000000};
    const struct dimfit_declare tiered[2] = {{.slot = 10, .dim = 4, .tiers = tiers, .n_tiers = 2},
                                             {.slot = 11, .tiers = tiers}};
    assert_int_equal(dimfit_declare(f->client, tiered, 2), DIMFIT_OK);
    uint32_t shows[LAYOUT_TIERS_MAX];
    assert_int_equal(fake_tiers(f->fake, 11, shows), 1);
    assert_int_equal(fake_tiers(f->fake, 10, shows), 3);
    assert_memory_equal(shows, ((uint32_t[]){0, 10, 100}), 3 * sizeof(uint32_t));
    const struct dimfit_declare many = {.slot = 12, .tiers = tiers, .n_tiers = LAYOUT_TIERS_MAX};
    assert_int_equal(dimfit_declare(f->client, &many, 1), DIMFIT_ERR_INVALID);
    const struct dimfit_declare bad = {
        .slot = 7, .dim = 1, .optimizer = "no such optimizer there is"};
    (void)!dimfit_declare(f->client, &bad, 1); /* must not upset the handle */
    assert_int_equal(dimfit_layout(f->client)->n_slots >= 4, 1);
}

static void a_barrier_that_is_not_full_names_who_came(void **state) {
    struct fixture *const f = *state;
    assert_int_equal(dimfit_barrier(f->client, "epoch", 1, 0), DIMFIT_OK);
    assert_int_equal(dimfit_barrier(f->client, "epoch", 2, 0), DIMFIT_ERR_TIMEOUT);
    assert_says(f, "1 of 2 workers");
    assert_int_equal(dimfit_barrier(f->client, "", 2, 0), DIMFIT_ERR_INVALID);
}

static void steps_to_score_are_handed_out_until_it_is_over(void **state) {
    struct fixture *const f = *state;
    uint64_t step = 0;
    for (uint64_t i = 1; i <= 3; i++) {
        assert_int_equal(dimfit_score_next(f->client, step, 10, 0, &step), DIMFIT_OK);
        assert_int_equal(step, i);
    }
    assert_int_equal(dimfit_score_next(f->client, step, 10, 0, &step), DIMFIT_OK);
    assert_int_equal(step, 0);
}

static void an_admin_answer_is_the_callers(void **state) {
    struct fixture *const f = *state;
    char *reply;
    assert_int_equal(dimfit_admin(f->client, "stats", "{\"a\":1}", &reply), DIMFIT_OK);
    assert_string_equal(reply, "{\"a\":1}");
    dimfit_free(reply);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(pulled_rows_stand_where_their_keys_do),
        TEST(a_repeated_key_is_asked_for_once),
        TEST(gradients_of_a_repeated_key_are_summed_with_its_lookups),
        TEST(clicks_of_equal_keys_are_summed_and_travel_with_the_day),
        TEST(clicks_for_a_slot_that_counts_none_reach_no_shard),
        TEST(an_empty_call_asks_nobody),
        TEST(refused_arguments_reach_no_shard),
        TEST(numbers_that_overflow_in_a_sum_are_refused),
        TEST(an_answer_of_the_wrong_length_is_refused_and_nothing_written),
        TEST(a_shards_refusal_is_told_with_its_endpoint),
        TEST(a_push_without_a_step_gets_one_of_its_own),
        TEST(step_samples_and_mode_travel),
        TEST(a_full_pull_goes_on_through_a_new_layout),
        TEST(parts_of_a_full_pull_may_be_of_different_epochs),
        TEST(a_stale_push_is_mapped_again_and_keeps_its_number),
        TEST(a_dense_basis_maps_gradients_by_its_columns),
        TEST(a_shard_behind_is_waited_for_with_the_same_number),
        TEST(a_compact_pull_of_an_old_layout_says_so_and_has_the_new_one),
        TEST(a_compact_gradient_of_the_epoch_before_is_carried_over),
        TEST(a_compact_gradient_of_the_new_layout_is_sent_as_it_is),
        TEST(a_lost_push_is_sent_again_with_its_number),
        TEST(a_push_whose_answer_was_lost_is_applied_once),
        TEST(a_lost_pull_is_asked_for_again),
        TEST(a_silent_shard_ends_a_pull_with_its_endpoint),
        TEST(the_push_after_one_of_unknown_fate_is_applied),
        TEST(a_shard_that_moved_is_found_again),
        TEST(incarnations_of_the_callers_own_stay_apart),
        TEST(a_shard_that_lost_its_numbers_is_named),
        TEST(a_handle_is_of_no_use_after_a_fork),
        TEST(a_call_larger_than_a_message_is_refused),
        TEST(options_out_of_range_are_refused),
        TEST(a_push_waits_for_the_end_of_a_freeze),
        TEST(a_push_that_is_not_to_wait_is_delivered_by_a_flush),
        TEST(a_held_push_keeps_its_clicks_and_its_day),
        TEST(a_held_push_is_mapped_to_the_layout_that_came_meanwhile),
        TEST(a_freeze_longer_than_the_time_limit_is_told),
        TEST(a_dense_table_is_made_read_and_pushed_on_one_shard),
        TEST(dense_pushes_and_row_pushes_share_their_numbers),
        TEST(a_dense_answer_of_another_size_is_refused),
        TEST(connect_waits_until_all_shards_are_here),
        TEST(connect_gives_up_with_a_reason),
        TEST(an_unknown_slot_is_declared_where_the_cluster_takes_it),
        TEST(an_unknown_slot_is_refused_with_what_to_do),
        TEST(declared_settings_travel),
        TEST(a_barrier_that_is_not_full_names_who_came),
        TEST(steps_to_score_are_handed_out_until_it_is_over),
        TEST(an_admin_answer_is_the_callers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
