/*
 * Coordinator and shard cores together under faults, against plain models: integer gradients with
 * SGD of rate 1 are an exact oracle of what was applied, and the epochs of all shards one of what
 * was committed. The seed of a failing run is printed.
 */
#include "tests/sim/sim.h"

#include "proto/section.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOT = 1, DIM = 4, KEYS = 40 };

static struct sim_options options_of(uint64_t seed, size_t shards, double drop, double repeat) {
    return (struct sim_options){
        .seed = seed,
        .shards = shards,
        .workers = 3,
        .drop = drop,
        .repeat = repeat,
        .auto_slots = true,
        .n_slots = 1,
        .slots = {{
            .id = SLOT,
            .dim = DIM,
            .width = DIM,
            .search = true,
            .name = "user",
            .optimizer = {.kind = OPTIMIZER_SGD, .lr = 1, .eps = 1e-8f},
            .init = INIT_ZERO,
        }},
    };
}

static struct sim *start(uint64_t seed, size_t shards, double drop, double repeat) {
    const struct sim_options options = options_of(seed, shards, drop, repeat);
    return sim_new(&options);
}

static struct sim *start_small(uint64_t seed, size_t shards, uint64_t score_memory) {
    struct sim_options options = options_of(seed, shards, 0, 0);
    options.score_memory = score_memory;
    return sim_new(&options);
}

static size_t body_of(uint64_t key, const float *grad, uint8_t *body) {
    const struct section section = {.slot = SLOT, .rows = 1, .width = DIM};
    size_t at = section_put_head(body, &section, 1, 0);
    memcpy(body + at, &key, sizeof key);
    at += sizeof key;
    if (grad != NULL) {
        memcpy(body + at, grad, DIM * sizeof *grad);
        at += DIM * sizeof *grad;
    }
    return at;
}

struct worker {
    size_t number;
    uint64_t seq[SIM_SHARDS_MAX];
};

static dimfit_err push(struct sim *sim, struct worker *worker, size_t shards, uint64_t key,
                       const float *grad, uint32_t mode, uint64_t epoch) {
    uint8_t body[256];
    const size_t len = body_of(key, grad, body);
    const size_t shard = sim_shard_of(SLOT, key, shards);
    struct wire_header header = {
        .kind = WIRE_PUSH,
        .mode = mode,
        .epoch = epoch,
        .step = (mode & PUSH_SCORE) != 0 ? 1 + key : 0,
        .seq = worker->seq[shard] + 1,
    };
    const dimfit_err status =
        sim_ask(sim, worker->number, (int)shard, &header, body, len)->header.status;
    if (status != DIMFIT_ERR_STALE_EPOCH && status != DIMFIT_ERR_FROZEN &&
        status != DIMFIT_ERR_EPOCH_AHEAD)
        worker->seq[shard]++;
    return status;
}

static void pull(struct sim *sim, const struct worker *worker, size_t shards, uint64_t key,
                 uint64_t epoch, float *out, size_t width) {
    uint8_t body[256];
    const size_t len = body_of(key, NULL, body);
    struct wire_header header = {.kind = WIRE_PULL, .epoch = epoch};
    const struct sim_reply *const reply = sim_ask(
        sim, worker->number, (int)sim_shard_of(SLOT, key, shards), &header, body, len);
    assert_int_equal(reply->header.status, DIMFIT_OK);
    assert_int_equal(reply->len, width * sizeof *out);
    memcpy(out, reply->body, reply->len);
}

static struct wire_header admin(struct sim *sim, const char *command, const char *args) {
    struct wire_header header = {.kind = WIRE_ADMIN};
    snprintf(header.name, sizeof header.name, "%s", command);
    return sim_ask(sim, 0, -1, &header, args, args == NULL ? 0 : strlen(args))->header;
}

static void acknowledged_pushes_are_applied_once_under_loss_and_repetition(void **state) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        const size_t shards = 1 + seed % 4;
        struct sim *const sim = start(seed, shards, 0.2, 0.1);
        struct worker workers[2] = {{.number = 0}, {.number = 1}};
        float sums[KEYS][DIM] = {{0}};
        sim_faults(sim, true);
        for (uint64_t i = 0; i < 60; i++) {
            const uint64_t key = (i * 7 + seed) % KEYS;
            const float grad[DIM] = {1, (float)i, -2, (float)(seed % 5)};
            assert_int_equal(push(sim, &workers[i % 2], shards, key, grad, PUSH_TRAIN, 0),
                             DIMFIT_OK);
            for (size_t k = 0; k < DIM; k++)
                sums[key][k] -= grad[k];
        }
        sim_faults(sim, false);
        for (uint64_t key = 0; key < KEYS; key++) {
            float row[DIM];
            pull(sim, &workers[0], shards, key, 0, row, DIM);
            for (size_t k = 0; k < DIM; k++) {
                if (row[k] != sums[key][k])
                    fail_msg("seed %llu, key %llu, dimension %zu: %g, not %g",
                             (unsigned long long)seed, (unsigned long long)key, k, row[k],
                             sums[key][k]);
            }
        }
        sim_free(sim);
    }
}

/* After whatever was lost, time passes until nothing is under way: then all are of one epoch. */
static void a_commit_is_on_all_shards_or_on_none_whatever_is_lost(void **state) {
    size_t committed = 0, aborted = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        const size_t shards = 1 + seed % 5;
        struct sim *const sim = start(seed, shards, 0.25, 0.1);
        struct worker worker = {.number = 1};
        const float grad[DIM] = {1, 2, 3, 4};
        for (uint64_t key = 0; key < KEYS; key++)
            assert_int_equal(push(sim, &worker, shards, key, grad, PUSH_TRAIN, 0), DIMFIT_OK);
        sim_faults(sim, true);
        admin(sim, "search start", "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\"}");
        sim_run(sim, 40000);
        sim_faults(sim, false);
        sim_run(sim, 20000);
        struct wire_header header = {.kind = WIRE_CONNECT};
        const struct sim_reply *const reply = sim_ask(sim, 0, -1, &header, NULL, 0);
        const uint64_t epoch = reply->header.epoch;
        *(epoch == 1 ? &committed : &aborted) += 1;
        for (size_t i = 0; i < shards; i++) {
            if (sim_shard_epoch(sim, i) != epoch)
                fail_msg("seed %llu: shard %zu is at epoch %llu, the coordinator at %llu",
                         (unsigned long long)seed, i, (unsigned long long)sim_shard_epoch(sim, i),
                         (unsigned long long)epoch);
        }
        float row[DIM];
        pull(sim, &worker, shards, 3, epoch, row, epoch == 1 ? DIM / 2 : DIM);
        assert_true(row[0] == -1 && row[1] == -2);
        sim_free(sim);
    }
    assert_true(committed > 0 && aborted > 0); /* the faults reach both outcomes */
}

static void stale_epoch_push_is_refused_with_the_layout(void **state) {
    struct sim *const sim = start(3, 2, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 2, 3, 4};
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, &worker, 2, key, grad, PUSH_TRAIN, 0), DIMFIT_OK);
    const struct wire_header started = admin(
        sim, "search start", "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\"}");
    assert_int_equal(started.status, DIMFIT_OK);
    sim_run(sim, 1000);

    uint8_t body[256];
    const size_t len = body_of(5, grad, body);
    const size_t shard = sim_shard_of(SLOT, 5, 2);
    struct wire_header header = {
        .kind = WIRE_PUSH, .mode = PUSH_TRAIN, .seq = worker.seq[shard] + 1};
    const struct sim_reply *const reply = sim_ask(sim, 1, (int)shard, &header, body, len);
    assert_int_equal(reply->header.status, DIMFIT_ERR_STALE_EPOCH);
    struct layout *layout = NULL;
    assert_int_equal(layout_decode(reply->body, reply->len, &layout, NULL), DIMFIT_OK);
    assert_int_equal(layout->epoch, 1);
    assert_int_equal(layout->slots[0].width, DIM / 2);
    layout_destroy(&layout);
    float row[2];
    pull(sim, &worker, 2, 5, 1, row, 2);
    assert_true(row[0] == -1 && row[1] == -2); /* nothing of the refused push */
    assert_int_equal(push(sim, &worker, 2, 5, grad, PUSH_TRAIN, 7), DIMFIT_ERR_EPOCH_AHEAD);
    sim_free(sim);
}

static void frozen_training_is_turned_away_until_the_search_ends(void **state) {
    struct sim *const sim = start(4, 2, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {4, 3, 2, 1};
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, &worker, 2, key, grad, PUSH_TRAIN, 0), DIMFIT_OK);
    admin(sim, "search start", "{\"kappa\":0.5,\"basis\":\"axis\",\"mode\":\"freeze\"}");
    sim_run(sim, 100);
    assert_int_equal(push(sim, &worker, 2, 1, grad, PUSH_TRAIN, 0), DIMFIT_ERR_FROZEN);
    struct wire_header next = {.kind = WIRE_SCORE_NEXT};
    const uint64_t step = sim_ask(sim, 1, -1, &next, NULL, 0)->header.step;
    assert_int_equal(step, 1);
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, &worker, 2, key, grad, PUSH_SCORE, 0), DIMFIT_OK);
    next = (struct wire_header){
        .kind = WIRE_SCORE_NEXT, .step = step, .samples = KEYS, .mode = SCORE_EXHAUSTED};
    assert_true((sim_ask(sim, 1, -1, &next, NULL, 0)->header.mode & SCORE_OVER) != 0);
    sim_run(sim, 1000);
    /* Rows are -grad, so r dL/dr is largest for the first two dimensions: those stay. */
    float row[2];
    pull(sim, &worker, 2, 1, 1, row, 2);
    assert_true(row[0] == -4 && row[1] == -3);
    const float narrow[DIM] = {1, 1};
    struct wire_header header = {.kind = WIRE_PUSH, .mode = PUSH_TRAIN, .epoch = 1};
    uint8_t body[256];
    const struct section section = {.slot = SLOT, .rows = 1, .width = 2};
    size_t at = section_put_head(body, &section, 1, 0);
    const uint64_t key = 1;
    memcpy(body + at, &key, sizeof key);
    memcpy(body + at + sizeof key, narrow, 2 * sizeof(float));
    at += sizeof key + 2 * sizeof(float);
    const size_t shard = sim_shard_of(SLOT, key, 2);
    header.seq = worker.seq[shard] + 1;
    assert_int_equal(sim_ask(sim, 1, (int)shard, &header, body, at)->header.status, DIMFIT_OK);
    pull(sim, &worker, 2, 1, 1, row, 2);
    assert_true(row[0] == -5 && row[1] == -4);
    sim_free(sim);
}

static void a_freeze_without_a_scorer_ends_in_an_error_and_unfreezes(void **state) {
    struct sim *const sim = start(5, 2, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 1, 1, 1};
    admin(sim, "search start", "{\"kappa\":0.5,\"mode\":\"freeze\",\"timeout\":2}");
    sim_run(sim, 100);
    assert_int_equal(push(sim, &worker, 2, 1, grad, PUSH_TRAIN, 0), DIMFIT_ERR_FROZEN);
    sim_run(sim, 3000);
    struct wire_header header = {.kind = WIRE_ADMIN, .name = "search status"};
    const struct sim_reply *const reply = sim_ask(sim, 0, -1, &header, NULL, 0);
    reply->body[reply->len] = 0;
    assert_non_null(strstr((const char *)reply->body, "\"aborted\""));
    assert_non_null(strstr((const char *)reply->body, "no worker scored"));
    assert_int_equal(push(sim, &worker, 2, 1, grad, PUSH_TRAIN, 0), DIMFIT_OK);
    sim_free(sim);
}

static void impossible_requests_are_refused_and_change_nothing(void **state) {
    struct sim *const sim = start(6, 1, 0, 0);
    static const char *const bad[] = {
        "{}",
        "{\"kappa\":0}",
        "{\"kappa\":-1}",
        "{\"kappa\":0.5,\"basis\":\"sideways\"}",
        "{\"kappa\":0.5,\"mode\":\"warm\"}",
        "{\"kappa\":0.5,\"strategy\":\"../sseds\"}",
        "{\"kappa\":0.5,\"basis\":\"rotated\",\"estimator\":\"row\"}",
        "{\"kappa\":0.5,\"unknown\":1}",
        "{\"kappa\":0.5,\"timeout\":-1}",
        "{\"kappa\":0.5,\"timeout\":1e300}",
        "{\"kappa\":0.5,\"window\":-1}",
        "{\"kappa\":0.5,\"half_life\":-1}",
        "{\"kappa\":0.5,\"window\":5,\"half_life\":5}",
        "{\"kappa\":0.5,\"basis\":\"axis\",\"estimator\":\"row\",\"window\":5}",
        "[0.5]",
        "{\"kappa\":",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct wire_header reply = admin(sim, "search start", bad[i]);
        if (reply.status == DIMFIT_OK || reply.detail.text[0] == 0)
            fail_msg("%s was not refused with a reason", bad[i]);
        assert_int_equal(reply.phase, PHASE_IDLE);
    }
    assert_int_equal(admin(sim, "no such thing", NULL).status, DIMFIT_ERR_UNSUPPORTED);
    assert_int_equal(admin(sim, "search apply", NULL).status, DIMFIT_ERR_STATE);
    assert_int_equal(admin(sim, "search abort", NULL).status, DIMFIT_ERR_STATE);
    assert_int_equal(admin(sim, "search plan", NULL).status, DIMFIT_ERR_STATE);

    struct worker worker = {.number = 1};
    float grad[DIM] = {1, NAN, 0, 0};
    assert_int_equal(push(sim, &worker, 1, 9, grad, PUSH_TRAIN, 0), DIMFIT_ERR_NOT_FINITE);
    float row[DIM];
    pull(sim, &worker, 1, 9, 0, row, DIM);
    assert_true(row[0] == 0);
    sim_free(sim);
}

/* ---- what a lost coordinator, command or worker leaves behind ---------------------------------
 */

static const char *const plain_search =
    "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\"}";

static void push_all(struct sim *sim, struct worker *worker, size_t shards) {
    const float grad[DIM] = {1, 2, 3, 4};
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, worker, shards, key, grad, PUSH_TRAIN, 0), DIMFIT_OK);
}

static void a_freeze_ends_with_the_coordinator_that_ordered_it(void **state) {
    struct sim *const sim = start(7, 2, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 1, 1, 1};
    admin(sim, "search start", "{\"kappa\":0.5,\"mode\":\"freeze\"}");
    sim_run(sim, 100);
    assert_int_equal(push(sim, &worker, 2, 1, grad, PUSH_TRAIN, 0), DIMFIT_ERR_FROZEN);
    sim_restart_coordinator(sim, NULL);
    sim_run(sim, 3000);
    push_all(sim, &worker, 2);
    sim_free(sim);
}

static void a_freeze_ends_on_a_shard_that_missed_the_abort(void **state) {
    struct sim *const sim = start(7, 1, 0, 0);
    struct worker worker = {.number = 1};
    admin(sim, "search start", "{\"kappa\":0.5,\"mode\":\"freeze\"}");
    sim_lose(sim, 0, WIRE_DISCARD);
    assert_int_equal(admin(sim, "search abort", NULL).status, DIMFIT_OK);
    sim_run(sim, 3000);
    push_all(sim, &worker, 1);
    sim_free(sim);
}

static void a_commit_cut_short_by_a_restart_reaches_every_shard(void **state) {
    for (size_t last = 0; last < 3; last++) {
        struct sim *const sim = start(8 + last, 3, 0, 0);
        struct worker worker = {.number = 1};
        push_all(sim, &worker, 3);
        sim_lose(sim, last, WIRE_COMMIT);
        admin(sim, "search start", plain_search);
        sim_run(sim, 2000);
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(sim_shard_epoch(sim, i), i == last ? 0 : 1);
        sim_restart_coordinator(sim, NULL);
        sim_run(sim, 2000);
        assert_int_equal(sim_shard_epoch(sim, last), 0);
        sim_lose(sim, last, 0);
        sim_run(sim, 10000);
        assert_int_equal(sim_shard_epoch(sim, last), 1);
        sim_free(sim);
    }
}

/* Rows of a slot that the shards were not told of at first. */
static void push_slot(struct sim *sim, uint32_t slot, size_t shards) {
    const struct section section = {.slot = slot, .rows = 1, .width = DIM};
    const float grad[DIM] = {1, 2, 3, 4};
    const uint64_t key = 1;
    uint8_t body[256];
    size_t at = section_put_head(body, &section, 1, 0);
    memcpy(body + at, &key, sizeof key);
    memcpy(body + at + sizeof key, grad, sizeof grad);
    at += sizeof key + sizeof grad;
    for (size_t shard = 0; shard < shards; shard++) {
        struct wire_header header = {.kind = WIRE_PUSH, .mode = PUSH_TRAIN, .seq = 1};
        assert_int_equal(sim_ask(sim, 2, (int)shard, &header, body, at)->header.status, DIMFIT_OK);
    }
}

static void a_slot_added_by_the_configuration_reaches_shards_that_run(void **state) {
    struct sim *const sim = start(11, 2, 0, 0);
    const struct layout_slot more = {
        .id = 9, .dim = DIM, .width = DIM, .search = true, .name = "hour", .init = INIT_ZERO};
    sim_restart_coordinator(sim, &more);
    sim_run(sim, 3000);
    push_slot(sim, 9, 2);
    sim_free(sim);
}

static void a_slot_declared_while_a_shard_was_unreachable_reaches_it(void **state) {
    struct sim *const sim = start(12, 2, 0, 0);
    struct buf body;
    buf_init(&body);
    buf_put_u32(&body, 1);
    buf_put_u32(&body, 9);
    buf_put_u32(&body, DIM);
    buf_put_str(&body, "hour");
    buf_put_u8(&body, 1);
    buf_put_str(&body, "");
    buf_put_f64(&body, 0);
    buf_put_str(&body, "");
    buf_put_f64(&body, 0);
    buf_put_u8(&body, DECLARE_NO_TIERS);
    struct wire_header declare = {.kind = WIRE_DECLARE};
    sim_lose(sim, 1, WIRE_ADD_SLOTS);
    sim_ask(sim, 0, -1, &declare, body.data, body.len);
    sim_run(sim, 10000);
    struct wire_header connect = {.kind = WIRE_CONNECT};
    assert_int_equal(sim_ask(sim, 0, -1, &connect, NULL, 0)->header.status, DIMFIT_ERR_BUSY);
    sim_lose(sim, 1, 0);
    sim_run(sim, 10000);
    assert_int_equal(sim_ask(sim, 0, -1, &connect, NULL, 0)->header.status, DIMFIT_OK);
    push_slot(sim, 9, 2);
    buf_fini(&body);
    sim_free(sim);
}

static void the_end_of_an_aborted_search_is_not_taken_for_that_of_the_next(void **state) {
    struct sim *const sim = start(13, 2, 0, 0);
    struct worker worker = {.number = 1};
    push_all(sim, &worker, 2);
    sim_lose(sim, 1, WIRE_PREPARE);
    admin(sim, "search start", plain_search);
    sim_run(sim, 1000);
    assert_int_equal(admin(sim, "search abort", NULL).status, DIMFIT_OK);
    sim_run(sim, 2000);
    admin(sim, "search start", plain_search);
    sim_run(sim, 3000); /* the first one's limit has passed, the second one's has not */
    assert_int_equal(admin(sim, "search status", NULL).phase, PHASE_PREPARING);
    sim_free(sim);
}

static void a_freeze_that_only_waits_runs_out_of_time(void **state) {
    struct sim *const sim = start(14, 1, 0, 0);
    admin(sim, "search start", "{\"kappa\":0.5,\"mode\":\"freeze\",\"timeout\":3}");
    struct wire_header next = {.kind = WIRE_SCORE_NEXT};
    assert_int_equal(sim_ask(sim, 0, -1, &next, NULL, 0)->header.step, 1); /* and is lost */
    enum wire_phase phase = PHASE_SCORING;
    for (int second = 0; second < 10 && phase == PHASE_SCORING; second++) {
        next = (struct wire_header){.kind = WIRE_SCORE_NEXT, .mode = SCORE_EXHAUSTED};
        phase = sim_ask(sim, 1, -1, &next, NULL, 0)->header.phase;
        sim_run(sim, 1000);
    }
    assert_int_equal(phase, PHASE_ABORTED);
    sim_free(sim);
}

static void training_goes_on_when_a_live_search_runs_out_of_score_memory(void **state) {
    struct sim *const sim = start_small(15, 2, 8192);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 2, 3, 4};
    admin(sim, "search start", "{\"kappa\":0.5,\"plan_only\":true,\"samples\":1000000}");
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, &worker, 2, key, grad, PUSH_TRAIN | PUSH_SCORE, 0), DIMFIT_OK);
    sim_run(sim, 3000);
    assert_int_equal(admin(sim, "search status", NULL).phase, PHASE_PLANNED);
    sim_free(sim);
}

/* Keys from 0 until a push is turned away, or none is stored any more: how many there were. */
static uint64_t push_until_full(struct sim *sim, struct worker *worker, dimfit_err *last) {
    const float grad[DIM] = {1, 2, 3, 4};
    for (uint64_t key = 0;; key++) {
        *last = push(sim, worker, 1, key, grad, PUSH_TRAIN, 0);
        float r[DIM];
        pull(sim, worker, 1, key, 0, r, DIM);
        if (r[0] == 0)
            return key;
        assert_int_equal(*last, DIMFIT_OK);
    }
}

static void a_full_shard_turns_new_rows_away_and_trains_stored_ones(void **state) {
    for (int skip = 0; skip < 2; skip++) {
        struct sim_options options = options_of(19, 1, 0, 0);
        options.row_memory = 20000;
        options.skip_new = skip == 1;
        struct sim *const sim = sim_new(&options);
        struct worker worker = {.number = 1};
        const float grad[DIM] = {1, 2, 3, 4};
        dimfit_err last = DIMFIT_OK;
        const uint64_t rows = push_until_full(sim, &worker, &last);
        assert_int_equal(last, skip ? DIMFIT_OK : DIMFIT_ERR_LIMIT);
        assert_true(rows > 100 && rows < 2000);
        float r[DIM];
        for (uint64_t key = 0; key < rows; key++) {
            assert_int_equal(push(sim, &worker, 1, key, grad, PUSH_TRAIN, 0), DIMFIT_OK);
            pull(sim, &worker, 1, key, 0, r, DIM);
            assert_true(r[0] == -2 && r[3] == -8);
        }
        assert_int_equal(push(sim, &worker, 1, rows + 1, grad, PUSH_SCORE, 0), DIMFIT_OK);
        sim_free(sim);
    }
}

/* One push of a key that is stored and one that is not. */
static void a_push_with_new_rows_is_refused_whole_or_without_them(void **state) {
    for (int skip = 0; skip < 2; skip++) {
        struct sim_options options = options_of(20, 1, 0, 0);
        options.row_memory = 20000;
        options.skip_new = skip == 1;
        struct sim *const sim = sim_new(&options);
        struct worker worker = {.number = 1};
        dimfit_err last = DIMFIT_OK;
        const uint64_t rows = push_until_full(sim, &worker, &last);
        const uint64_t keys[2] = {rows + 5, 3};
        const float grads[2][DIM] = {{7, 7, 7, 7}, {10, 20, 30, 40}};
        const struct section section = {.slot = SLOT, .rows = 2, .width = DIM};
        uint8_t body[256];
        size_t len = section_put_head(body, &section, 1, 0);
        memcpy(body + len, keys, sizeof keys);
        memcpy(body + len + sizeof keys, grads, sizeof grads);
        len += sizeof keys + sizeof grads;
        struct wire_header header = {
            .kind = WIRE_PUSH, .mode = PUSH_TRAIN, .seq = worker.seq[0] + 1};
        const struct sim_reply *const reply = sim_ask(sim, worker.number, 0, &header, body, len);
        assert_int_equal(reply->header.status, skip ? DIMFIT_OK : DIMFIT_ERR_LIMIT);
        assert_int_equal(strstr(reply->header.detail.text, "--max-memory") != NULL, !skip);
        float r[DIM];
        pull(sim, &worker, 1, 3, 0, r, DIM);
        assert_true(r[0] == (skip ? -11 : -1) && r[3] == (skip ? -44 : -4));
        pull(sim, &worker, 1, rows + 5, 0, r, DIM);
        assert_true(r[0] == 0);
        sim_free(sim);
    }
}

static void a_plan_shown_early_is_not_applied_by_itself(void **state) {
    struct sim *const sim = start(16, 1, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 2, 3, 4};
    admin(sim, "search start", "{\"kappa\":0.5,\"basis\":\"axis\"}");
    for (uint64_t key = 0; key < KEYS; key++)
        assert_int_equal(push(sim, &worker, 1, key, grad, PUSH_TRAIN | PUSH_SCORE, 0), DIMFIT_OK);
    assert_int_equal(admin(sim, "search plan", NULL).status, DIMFIT_OK);
    sim_run(sim, 3000);
    assert_int_equal(sim_shard_epoch(sim, 0), 0);
    assert_int_equal(admin(sim, "search apply", NULL).status, DIMFIT_OK);
    sim_run(sim, 3000);
    assert_int_equal(sim_shard_epoch(sim, 0), 1);
    sim_free(sim);
}

static void a_live_search_that_nobody_feeds_runs_out_of_time(void **state) {
    struct sim *const sim = start(18, 2, 0, 0);
    struct worker worker = {.number = 1};
    const float grad[DIM] = {1, 2, 3, 4};
    admin(sim, "search start", "{\"kappa\":0.5,\"timeout\":3}");
    for (uint64_t key = 0; key < 6; key++) {
        assert_int_equal(push(sim, &worker, 2, key, grad, PUSH_TRAIN | PUSH_SCORE, 0), DIMFIT_OK);
        sim_run(sim, 1000);
    }
    assert_int_equal(admin(sim, "search status", NULL).phase, PHASE_SCORING);
    sim_run(sim, 4000);
    assert_int_equal(admin(sim, "search status", NULL).phase, PHASE_ABORTED);
    sim_free(sim);
}

static void a_commit_that_a_shard_owes_is_shown(void **state) {
    struct sim *const sim = start(19, 2, 0, 0);
    struct worker worker = {.number = 1};
    push_all(sim, &worker, 2);
    sim_lose(sim, 1, WIRE_COMMIT);
    admin(sim, "search start", plain_search);
    sim_run(sim, 7000);
    struct wire_header header = {.kind = WIRE_ADMIN, .name = "search status"};
    const struct sim_reply *reply = sim_ask(sim, 0, -1, &header, NULL, 0);
    reply->body[reply->len] = 0;
    assert_int_equal(reply->header.phase, PHASE_PREPARING);
    assert_non_null(strstr((const char *)reply->body, "shard 1 at sim://1 did not answer COMMIT"));
    sim_lose(sim, 1, 0);
    sim_run(sim, 7000);
    reply = sim_ask(sim, 0, -1, &header, NULL, 0);
    reply->body[reply->len] = 0;
    assert_int_equal(reply->header.phase, PHASE_COMMITTED);
    assert_non_null(strstr((const char *)reply->body, "\"error\":null"));
    sim_free(sim);
}

static void questions_to_a_silent_shard_do_not_pile_up(void **state) {
    struct sim *const sim = start(20, 2, 0, 0);
    sim_lose(sim, 1, WIRE_GATHER);
    struct wire_header header = {.kind = WIRE_ADMIN, .name = "stats"};
    for (int i = 0; i < 300; i++)
        sim_tell(sim, 0, &header);
    assert_int_equal(sim_ask(sim, 1, -1, &header, NULL, 0)->header.status, DIMFIT_ERR_BUSY);
    sim_free(sim);
}

static void barriers_of_many_names_do_not_pile_up(void **state) {
    struct sim *const sim = start(17, 1, 0, 0);
    for (int i = 0; i < 6000; i++) {
        struct wire_header header = {.kind = WIRE_BARRIER, .tag = 1, .timeout_ms = 1000};
        snprintf(header.name, sizeof header.name, "round %d", i);
        assert_int_equal(sim_ask(sim, 0, -1, &header, NULL, 0)->header.status, DIMFIT_OK);
    }
    sim_free(sim);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_pushes_are_applied_once_under_loss_and_repetition),
        cmocka_unit_test(a_commit_is_on_all_shards_or_on_none_whatever_is_lost),
        cmocka_unit_test(stale_epoch_push_is_refused_with_the_layout),
        cmocka_unit_test(frozen_training_is_turned_away_until_the_search_ends),
        cmocka_unit_test(a_freeze_without_a_scorer_ends_in_an_error_and_unfreezes),
        cmocka_unit_test(impossible_requests_are_refused_and_change_nothing),
        cmocka_unit_test(a_freeze_ends_with_the_coordinator_that_ordered_it),
        cmocka_unit_test(a_freeze_ends_on_a_shard_that_missed_the_abort),
        cmocka_unit_test(a_commit_cut_short_by_a_restart_reaches_every_shard),
        cmocka_unit_test(a_slot_added_by_the_configuration_reaches_shards_that_run),
        cmocka_unit_test(a_slot_declared_while_a_shard_was_unreachable_reaches_it),
        cmocka_unit_test(the_end_of_an_aborted_search_is_not_taken_for_that_of_the_next),
        cmocka_unit_test(a_freeze_that_only_waits_runs_out_of_time),
        cmocka_unit_test(training_goes_on_when_a_live_search_runs_out_of_score_memory),
        cmocka_unit_test(a_full_shard_turns_new_rows_away_and_trains_stored_ones),
        cmocka_unit_test(a_push_with_new_rows_is_refused_whole_or_without_them),
        cmocka_unit_test(a_plan_shown_early_is_not_applied_by_itself),
        cmocka_unit_test(a_live_search_that_nobody_feeds_runs_out_of_time),
        cmocka_unit_test(a_commit_that_a_shard_owes_is_shown),
        cmocka_unit_test(questions_to_a_silent_shard_do_not_pile_up),
        cmocka_unit_test(barriers_of_many_names_do_not_pile_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
