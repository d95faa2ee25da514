/*
 * Shrinks of a whole cluster, on a clock that moves when told: rows that go by the rules and no
 * others, one shrink at a time, errors that name the shard, numbers that no restart uses again, and
 * the daily one.
 */
#include "tests/sim/sim.h"

#include "proto/section.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOT = 1, PLAIN = 2, KEYS = 60, SHARDS = 3, DAY_S = 86400, TODAY = 20000 };

static struct sim_options options_of(uint64_t seed, struct retention retention) {
    const struct layout_slot slot = {
        .id = SLOT,
        .dim = 1,
        .width = 1,
        .name = "user",
        .optimizer = {.kind = OPTIMIZER_SGD, .lr = 1, .eps = 1e-8f},
        .init = INIT_ZERO,
    };
    struct sim_options options = {
        .seed = seed,
        .shards = SHARDS,
        .workers = 2,
        .n_slots = 2,
        .slots = {slot, slot},
        .wall_s = (int64_t)TODAY * DAY_S + 100,
        .shrink_at = -1,
    };
    options.slots[0].retention = retention;
    options.slots[1].id = PLAIN;
    memcpy(options.slots[1].name, "plain", 6);
    return options;
}

static struct sim *start(uint64_t seed, struct retention retention) {
    const struct sim_options options = options_of(seed, retention);
    return sim_new(&options);
}

static uint64_t seqs[SIM_SHARDS_MAX]; /* of worker 1 */

static size_t body_of(uint32_t slot, uint64_t key, const float *grad, uint32_t shows,
                      uint8_t *body) {
    const struct section section = {.slot = slot, .rows = 1, .width = 1};
    size_t at = section_put_head(body, &section, 1, grad != NULL ? SECTION_LOOKUPS : 0);
    memcpy(body + at, &key, sizeof key);
    at += sizeof key;
    if (grad != NULL) {
        memcpy(body + at, grad, sizeof *grad);
        at += sizeof *grad;
        memcpy(body + at, &shows, sizeof shows);
        at += sizeof shows;
    }
    return at;
}

static void push(struct sim *sim, uint32_t slot, uint64_t key, uint32_t shows, uint32_t day) {
    uint8_t body[64];
    const float grad = -(float)(key + 1);
    const size_t len = body_of(slot, key, &grad, shows, body);
    const size_t shard = sim_shard_of(slot, key, SHARDS);
    struct wire_header header = {
        .kind = WIRE_PUSH, .mode = PUSH_TRAIN, .seq = ++seqs[shard], .day = day};
    assert_int_equal(sim_ask(sim, 1, (int)shard, &header, body, len)->header.status, DIMFIT_OK);
}

static float pull(struct sim *sim, uint32_t slot, uint64_t key) {
    uint8_t body[64];
    float value;
    const size_t len = body_of(slot, key, NULL, 0, body);
    struct wire_header header = {.kind = WIRE_PULL};
    const struct sim_reply *const reply = sim_ask(sim, 1, (int)sim_shard_of(slot, key, SHARDS),
                                                  &header, body, len);
    assert_int_equal(reply->header.status, DIMFIT_OK);
    assert_int_equal(reply->len, sizeof value);
    memcpy(&value, reply->body, sizeof value);
    return value;
}

/* Key k was shown k % 5 + 1 times, on day TODAY - k. */
static void fill(struct sim *sim) {
    memset(seqs, 0, sizeof seqs);
    for (uint64_t key = 0; key < KEYS; key++)
        push(sim, SLOT, key, (uint32_t)key % 5 + 1, TODAY - (uint32_t)key);
}

/* An admin's command: its JSON to be given back, or NULL with *header telling why. */
static json_t *admin(struct sim *sim, const char *command, const char *args,
                     struct wire_header *header) {
    struct wire_header request = {.kind = WIRE_ADMIN};
    snprintf(request.name, sizeof request.name, "%s", command);
    const struct sim_reply *const reply = sim_ask(sim, 0, -1, &request, args,
                                                  args != NULL ? strlen(args) : 0);
    *header = reply->header;
    json_error_t error;
    return reply->header.status == DIMFIT_OK
               ? json_loadb((const char *)reply->body, reply->len, 0, &error)
               : NULL;
}

static int64_t number_in(const json_t *json, const char *key) {
    assert_true(json_is_integer(json_object_get(json, key)));
    return json_integer_value(json_object_get(json, key));
}

static void status_is(struct sim *sim, const char *state, int64_t number, int64_t evicted) {
    struct wire_header header;
    json_t *const json = admin(sim, "shrink status", NULL, &header);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "state")), state);
    assert_int_equal(number_in(json, "shrink"), number);
    if (number > 0)
        assert_int_equal(number_in(json, "evicted"), evicted);
    json_decref(json);
}

static void begin(struct sim *sim, const char *args) {
    struct wire_header header;
    json_t *const json = admin(sim, "shrink", args, &header);
    if (json == NULL)
        fail_msg("%s", header.detail.text);
    json_decref(json);
}

/* A shrink by the slots' own rules, whose answer nobody waits for. */
static void tell(struct sim *sim) {
    const struct wire_header request = {.kind = WIRE_ADMIN, .name = "shrink"};
    sim_tell(sim, 0, &request);
}

static void failed_with(struct sim *sim, const char *why) {
    struct wire_header header;
    json_t *const json = admin(sim, "shrink status", NULL, &header);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "failed");
    const char *const error = json_string_value(json_object_get(json, "error"));
    assert_non_null(error);
    if (strncmp(error, why, strlen(why)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", error, why);
    json_decref(json);
}

static void refused(struct sim *sim, const char *args, dimfit_err err, const char *why) {
    struct wire_header header;
    assert_null(admin(sim, "shrink", args, &header));
    assert_string_equal(header.detail.text, why);
    assert_int_equal(header.status, err);
}

static void rows_of_the_rules_go_and_no_others(void **state) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct sim_options options = options_of(
            seed, (struct retention){.expire_days = 29, .expire_shows = 3});
        options.repeat = 0.2;
        struct sim *const sim = sim_new(&options);
        fill(sim);
        push(sim, PLAIN, 3, 1, 0);
        sim_faults(sim, true);
        tell(sim);
        sim_run(sim, 1000);
        sim_faults(sim, false);
        status_is(sim, "done", 1, 42); /* 30 old ones, and 2 of 5 of the rest */
        for (uint64_t key = 0; key < KEYS; key++) {
            const bool gone = key > 29 || key % 5 + 1 < 3;
            assert_true(pull(sim, SLOT, key) == (gone ? 0 : (float)(key + 1)));
        }
        assert_true(pull(sim, PLAIN, 3) == 4);
        push(sim, SLOT, 50, 1, TODAY); /* one that went starts anew */
        assert_true(pull(sim, SLOT, 50) == 51);
        sim_free(sim);
    }
}

static void a_dry_run_counts_and_changes_nothing(void **state) {
    struct sim *const sim = start(2, (struct retention){.expire_days = 9});
    fill(sim);
    begin(sim, "{\"dry_run\": true}");
    sim_run(sim, 1000);
    status_is(sim, "done", 1, 50);
    for (uint64_t key = 0; key < KEYS; key++)
        assert_true(pull(sim, SLOT, key) == (float)(key + 1));
    begin(sim, "{}");
    sim_run(sim, 1000);
    status_is(sim, "done", 2, 50);
    begin(sim, "{}");
    sim_run(sim, 1000);
    status_is(sim, "done", 3, 0);
    sim_free(sim);
}

static void age_counts_from_the_day_that_is_given(void **state) {
    struct sim *const sim = start(3, (struct retention){.last_seen = true});
    fill(sim);
    begin(sim, "{\"unseen_days\": 9, \"day\": 19990}");
    sim_run(sim, 1000);
    status_is(sim, "done", 1, 40);
    sim_free(sim);
}

static void a_second_shrink_is_refused_with_the_number_of_the_first(void **state) {
    struct sim *const sim = start(4, (struct retention){.expire_shows = 2});
    fill(sim);
    sim_idle(sim, 1, true);
    begin(sim, "{}");
    sim_run(sim, 1000);
    refused(sim, "{}", DIMFIT_ERR_BUSY, "shrink 1 is under way, wait for its end");
    sim_idle(sim, 1, false);
    sim_run(sim, 3000);
    status_is(sim, "done", 1, 12);
    begin(sim, "{}");
    sim_run(sim, 1000);
    status_is(sim, "done", 2, 0);
    sim_free(sim);
}

static void a_shard_that_does_not_go_on_is_named_and_its_work_waited_for(void **state) {
    struct sim *const sim = start(5, (struct retention){.expire_shows = 2});
    fill(sim);
    sim_idle(sim, 1, true);
    begin(sim, "{}");
    sim_run(sim, 9000);
    failed_with(sim, "shard 1 at sim://1 has not gone on for ");
    refused(sim, "{}", DIMFIT_ERR_BUSY, "shard 1 still works on shrink 1");
    sim_idle(sim, 1, false);
    sim_run(sim, 1000);
    begin(sim, "{\"shows\": 3}");
    sim_run(sim, 1000);
    status_is(sim, "done", 2, 12); /* what the first left, by the new threshold */
    sim_free(sim);
}

static void a_shard_that_cannot_be_told_is_named(void **state) {
    struct sim *const sim = start(6, (struct retention){.expire_shows = 2});
    fill(sim);
    sim_lose(sim, 2, WIRE_SHRINK);
    tell(sim);
    sim_run(sim, 6000);
    failed_with(sim, "shard 2 at sim://2 did not answer SHRINK within 5 s");
    sim_lose(sim, 2, 0);
    begin(sim, "{}");
    sim_run(sim, 1000);
    int64_t gone = 0;
    for (uint64_t key = 0; key < KEYS; key++)
        gone += pull(sim, SLOT, key) == 0;
    assert_int_equal(gone, 12);
    sim_free(sim);
}

static void a_coordinator_started_anew_uses_no_number_again(void **state) {
    struct sim *const sim = start(7, (struct retention){.expire_shows = 2});
    fill(sim);
    begin(sim, "{}");
    sim_run(sim, 1000);
    sim_restart_coordinator(sim, NULL);
    sim_run(sim, 4000);
    status_is(sim, "none", 0, 0);
    begin(sim, "{\"shows\": 3}");
    sim_run(sim, 1000);
    status_is(sim, "done", 2, 12);
    sim_free(sim);
}

static void what_a_slot_cannot_do_is_refused_by_name(void **state) {
    struct sim *const sim = start(8, (struct retention){0});
    refused(sim, "{}", DIMFIT_ERR_INVALID,
            "no slot is configured with expire_days or expire_shows; give --unseen-days or "
            "--shows");
    refused(sim, "{\"slots\":[\"plain\"],\"unseen_days\":3}", DIMFIT_ERR_INVALID,
            "slot 2 ('plain') keeps no last-seen day, so age says nothing there; shrink it by "
            "--shows, or add a slot with `last_seen: true`");
    status_is(sim, "none", 0, 0);
    sim_free(sim);
}

static void expired_rows_go_each_day_at_its_time(void **state) {
    struct sim_options options = options_of(9, (struct retention){.expire_days = 9});
    options.shrink_at = 4 * 60;
    struct sim *const sim = sim_new(&options);
    const int64_t due = (int64_t)TODAY * DAY_S + 4 * 3600;
    fill(sim);
    sim_set_clock(sim, due - 10);
    sim_run(sim, 5000);
    status_is(sim, "none", 0, 0);
    sim_run(sim, 10000);
    status_is(sim, "done", 1, 50);
    sim_set_clock(sim, due + DAY_S - 10);
    sim_run(sim, 5000);
    status_is(sim, "done", 1, 50);
    sim_run(sim, 10000);
    status_is(sim, "done", 2, 1);
    sim_free(sim);
}

static void a_daily_shrink_that_failed_is_tried_again(void **state) {
    struct sim_options options = options_of(10, (struct retention){.expire_shows = 2});
    options.shrink_at = 4 * 60;
    struct sim *const sim = sim_new(&options);
    const int64_t due = (int64_t)TODAY * DAY_S + 4 * 3600;
    fill(sim);
    sim_lose(sim, 0, WIRE_SHRINK);
    sim_set_clock(sim, due);
    sim_run(sim, 10000);
    sim_lose(sim, 0, 0);
    failed_with(sim, "shard 0 at sim://0 did not answer SHRINK within 5 s");
    sim_set_clock(sim, due + 620);
    sim_run(sim, 1000);
    struct wire_header header;
    json_t *const json = admin(sim, "shrink status", NULL, &header);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "done");
    assert_true(json_is_true(json_object_get(json, "daily")));
    assert_int_equal(number_in(json, "shrink"), 2);
    json_decref(json);
    sim_free(sim);
}

static void no_daily_shrink_without_a_rule_or_a_time(void **state) {
    struct sim_options options = options_of(11, (struct retention){.last_seen = true});
    options.shrink_at = 0;
    struct sim *const unruled = sim_new(&options);
    sim_set_clock(unruled, (int64_t)(TODAY + 1) * DAY_S);
    sim_run(unruled, 1000);
    status_is(unruled, "none", 0, 0);
    sim_free(unruled);
    struct sim *const off = start(12, (struct retention){.expire_days = 9});
    sim_set_clock(off, (int64_t)(TODAY + 2) * DAY_S);
    sim_run(off, 1000);
    status_is(off, "none", 0, 0);
    sim_free(off);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_rules_go_and_no_others),
        cmocka_unit_test(a_dry_run_counts_and_changes_nothing),
        cmocka_unit_test(age_counts_from_the_day_that_is_given),
        cmocka_unit_test(a_second_shrink_is_refused_with_the_number_of_the_first),
        cmocka_unit_test(a_shard_that_does_not_go_on_is_named_and_its_work_waited_for),
        cmocka_unit_test(a_shard_that_cannot_be_told_is_named),
        cmocka_unit_test(a_coordinator_started_anew_uses_no_number_again),
        cmocka_unit_test(what_a_slot_cannot_do_is_refused_by_name),
        cmocka_unit_test(expired_rows_go_each_day_at_its_time),
        cmocka_unit_test(a_daily_shrink_that_failed_is_tried_again),
        cmocka_unit_test(no_daily_shrink_without_a_rule_or_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
