/*
 * Searches, plans applied, dry runs, rollbacks, discards and aborts, asked for at random while a
 * worker trains, on a network that loses, repeats and delays messages, with a coordinator that ends
 * at any step and a shard that loses its memory. Whatever happened, in the end one epoch is in
 * force everywhere, and every gradient was applied exactly once: with integer gradients, SGD of
 * rate 1 and the axis basis, a coordinate is minus the sum of what was pushed while it was stored,
 * through every narrowing and every way back.
 *
 * DIMFIT_SIM_SEED=N runs one seed, which a failure names; DIMFIT_SIM_SEEDS=N the first N.
 */
#include "tests/sim/sim.h"

#include "proto/section.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOT = 1, DIM = 4, KEYS = 24, STEPS = 100, SEEDS = 300, QUIET_MS = 30000 };

struct run {
    uint64_t seed;
    size_t shards;
    struct sim *sim;
    struct layout *layout; /* as the worker knows it */
    uint64_t seq[SIM_SHARDS_MAX];
    bool gone[SIM_SHARDS_MAX]; /* the worker met it without its memory */
    float sums[KEYS][DIM];
};

/* What was reached over all seeds: a test that never rolls back shows nothing of rolling back. */
static struct {
    size_t committed, rolled_back, aborted, dry_runs, discarded, crashes, lost, stale;
} reached;

#define FAIL(run, ...)                                                                             \
    do {                                                                                           \
        printf("DIMFIT_SIM_SEED=%llu replays this\n", (unsigned long long)(run)->seed);            \
        fail_msg(__VA_ARGS__);                                                                     \
    } while (0)

static struct run *begin(uint64_t seed) {
    struct run *const run = calloc(1, sizeof *run);
    const struct sim_options options = {
        .seed = seed,
        .shards = 1 + seed % 4,
        .workers = 2,
        .drop = 0.1,
        .repeat = 0.1,
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
    run->seed = seed;
    run->shards = options.shards;
    run->sim = sim_new(&options);
    assert_int_equal(layout_new(0, 7, &run->layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(run->layout, &options.slots[0], NULL), DIMFIT_OK);
    return run;
}

static void end(struct run *run) {
    reached.crashes += sim_crashes(run->sim);
    layout_destroy(&run->layout);
    sim_free(run->sim);
    free(run);
}

/* ---- the worker ------------------------------------------------------------------------------ */

static void adopt(struct run *run, const struct sim_reply *reply) {
    struct layout *layout = NULL;
    assert_int_equal(layout_decode(reply->body, reply->len, &layout, NULL), DIMFIT_OK);
    layout_destroy(&run->layout);
    run->layout = layout;
    assert_non_null(layout->slots[0].axes); /* what a stored coordinate is can be told */
}

static size_t body_of(const struct run *run, uint64_t key, const float *grad, uint8_t *body) {
    const struct layout_slot *const slot = &run->layout->slots[0];
    const struct section section = {.slot = SLOT, .rows = 1, .width = slot->width};
    size_t at = section_put_head(body, &section, 1, 0);
    memcpy(body + at, &key, sizeof key);
    at += sizeof key;
    for (uint32_t k = 0; grad != NULL && k < slot->width; k++, at += sizeof *grad)
        memcpy(body + at, &grad[slot->axes[k]], sizeof *grad);
    return at;
}

static void push(struct run *run, uint64_t key) {
    const size_t shard = sim_shard_of(SLOT, key, run->shards);
    const float grad[DIM] = {(float)(1 + key % 5), 3, -2, (float)(key % 3) - 1};
    for (int tries = 0; !run->gone[shard]; tries++) {
        uint8_t body[256];
        const size_t len = body_of(run, key, grad, body);
        struct wire_header header = {.kind = WIRE_PUSH,
                                     .mode = PUSH_TRAIN,
                                     .epoch = run->layout->epoch,
                                     .step = run->seq[shard] + 1,
                                     .samples = 1,
                                     .seq = run->seq[shard] + 1};
        const struct sim_reply *const reply = sim_ask(run->sim, 1, (int)shard, &header, body, len);
        run->gone[shard] = sim_shard_lost(run->sim, shard);
        if (tries > 1000)
            FAIL(run, "a push is answered %s for ever", err_name(reply->header.status));
        if (run->gone[shard])
            return;
        switch (reply->header.status) {
        case DIMFIT_OK:
            run->seq[shard]++;
            for (uint32_t k = 0; k < run->layout->slots[0].width; k++) {
                const uint32_t axis = run->layout->slots[0].axes[k];
                run->sums[key][axis] -= grad[axis];
            }
            return;
        case DIMFIT_ERR_STALE_EPOCH:
            adopt(run, reply);
            break;
        case DIMFIT_ERR_EPOCH_AHEAD:
        case DIMFIT_ERR_FROZEN:
            sim_run(run->sim, 200);
            break;
        default:
            FAIL(run, "a push failed: %s: %s", err_name(reply->header.status),
                 reply->header.detail.text);
        }
    }
}

/* ---- the admin ------------------------------------------------------------------------------- */

static const struct sim_reply *admin(struct run *run, const char *command, const char *args) {
    struct wire_header header = {.kind = WIRE_ADMIN};
    snprintf(header.name, sizeof header.name, "%s", command);
    return sim_ask(run->sim, 0, -1, &header, args, strlen(args));
}

static void something(struct run *run) {
    static const struct {
        const char *command, *args;
    } asks[] = {
        {"search start", "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\"}"},
        {"search start", "{\"kappa\":0.75,\"basis\":\"axis\",\"samples\":6,\"timeout\":5}"},
        {"search start", "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\","
                         "\"plan_only\":true}"},
        {"search start", "{\"kappa\":0.5,\"basis\":\"axis\",\"mode\":\"freeze\",\"timeout\":1}"},
        {"search start", "{\"kappa\":0.75,\"strategy\":\"uniform\",\"basis\":\"axis\"}"},
        {"search apply", "{}"},
        {"search apply", "{}"},
        {"search apply", "{\"plan\":2}"},
        {"search apply", "{\"dry_run\":true}"},
        {"search rollback", "{}"},
        {"search rollback", "{}"},
        {"search rollback", "{\"dry_run\":true}"},
        {"search discard", "{\"saved\":true}"},
        {"search discard", "{\"plan\":1}"},
        {"search discard", "{\"plan\":1,\"compared\":true}"},
        {"search abort", "{}"},
        {"search plans", "{}"},
        {"search plan", "{}"},
    };
    const size_t i = sim_draw(run->sim) % ARRAY_LEN(asks);
    const struct sim_reply *const reply = admin(run, asks[i].command, asks[i].args);
    const bool ok = reply->header.status == DIMFIT_OK;
    reached.stale += reply->header.status == DIMFIT_ERR_STALE_EPOCH;
    reached.dry_runs += ok && strstr(asks[i].args, "dry_run") != NULL;
    reached.discarded += ok && strstr(asks[i].args, "saved") != NULL;
}

static void count_outcome(enum wire_phase phase) {
    reached.committed += phase == PHASE_COMMITTED;
    reached.rolled_back += phase == PHASE_ROLLED_BACK;
    reached.aborted += phase == PHASE_ABORTED;
}

/* ---- what must hold in the end --------------------------------------------------------------- */

static void check_epochs(struct run *run) {
    struct wire_header header = {.kind = WIRE_CONNECT};
    const struct sim_reply *const reply = sim_ask(run->sim, 0, -1, &header, NULL, 0);
    if (reply->header.status != DIMFIT_OK)
        FAIL(run, "the cluster is not whole: %s", reply->header.detail.text);
    const enum wire_phase phase = reply->header.phase;
    if (phase == PHASE_SCORING || phase == PHASE_PLANNING || phase == PHASE_PREPARING)
        FAIL(run, "the search is still %s", wire_phase_name(phase));
    for (size_t i = 0; i < run->shards; i++) {
        const uint64_t epoch = sim_shard_epoch(run->sim, i);
        if (epoch != reply->header.epoch)
            FAIL(run, "shard %zu is at epoch %llu, the coordinator at %llu", i,
                 (unsigned long long)epoch, (unsigned long long)reply->header.epoch);
    }
    struct reader r = reader_of(reply->body, reply->len);
    (void)reader_take(&r, reader_u64(&r));
    const uint64_t len = reader_u64(&r);
    const struct sim_reply layout = {.body = (uint8_t *)r.data, .len = len};
    adopt(run, &layout);
}

static void check_rows(struct run *run) {
    const struct layout_slot *const slot = &run->layout->slots[0];
    for (uint64_t key = 0; key < KEYS; key++) {
        const size_t shard = sim_shard_of(SLOT, key, run->shards);
        if (sim_shard_lost(run->sim, shard))
            continue;
        uint8_t body[256];
        const size_t len = body_of(run, key, NULL, body);
        struct wire_header header = {.kind = WIRE_PULL, .epoch = run->layout->epoch};
        const struct sim_reply *const reply = sim_ask(run->sim, 1, (int)shard, &header, body, len);
        if (reply->header.status != DIMFIT_OK || reply->len != slot->width * sizeof(float))
            FAIL(run, "key %llu can't be pulled: %s", (unsigned long long)key,
                 reply->header.detail.text);
        for (uint32_t k = 0; k < slot->width; k++) {
            float value;
            memcpy(&value, reply->body + k * sizeof value, sizeof value);
            if (value != run->sums[key][slot->axes[k]])
                FAIL(run, "key %llu, coordinate %u: %g, not %g", (unsigned long long)key,
                     slot->axes[k], (double)value, (double)run->sums[key][slot->axes[k]]);
        }
    }
}

static void play(uint64_t seed) {
    struct run *const run = begin(seed);
    enum wire_phase before = PHASE_IDLE;
    sim_faults(run->sim, true);
    sim_chaos(run->sim, true);
    for (int step = 0; step < STEPS; step++) {
        push(run, sim_draw(run->sim) % KEYS);
        if (sim_draw(run->sim) % 3 == 0)
            something(run);
        if (sim_draw(run->sim) % 4 == 0)
            sim_run(run->sim, (int64_t)(sim_draw(run->sim) % 1500));
        struct wire_header header = {.kind = WIRE_ADMIN, .name = "status"};
        const enum wire_phase phase = sim_ask(run->sim, 0, -1, &header, NULL, 0)->header.phase;
        if (phase != before)
            count_outcome(phase);
        before = phase;
    }
    sim_chaos(run->sim, false);
    sim_faults(run->sim, false);
    sim_run(run->sim, QUIET_MS);
    for (size_t i = 0; i < run->shards; i++)
        reached.lost += sim_shard_lost(run->sim, i);
    check_epochs(run);
    check_rows(run);
    end(run);
}

static uint64_t number(const char *name, uint64_t fallback) {
    const char *const text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 10) : fallback;
}

static void one_epoch_is_in_force_and_each_gradient_applied_once_whatever_fails(void **state) {
    const uint64_t one = number("DIMFIT_SIM_SEED", 0), seeds = number("DIMFIT_SIM_SEEDS", SEEDS);
    if (one != 0) {
        play(one);
        return;
    }
    for (uint64_t seed = 1; seed <= seeds; seed++)
        play(seed);
    printf("%llu seeds: %zu commits, %zu rollbacks, %zu aborts, %zu dry runs, %zu discards of what "
           "was saved, %zu stale plans, %zu ends of a coordinator, %zu of a shard\n",
           (unsigned long long)seeds, reached.committed, reached.rolled_back, reached.aborted,
           reached.dry_runs, reached.discarded, reached.stale, reached.crashes, reached.lost);
    if (seeds < SEEDS)
        return;
    assert_true(reached.committed > 0 && reached.rolled_back > 0 && reached.aborted > 0);
    assert_true(reached.dry_runs > 0 && reached.discarded > 0 && reached.stale > 0);
    assert_true(reached.crashes > 0 && reached.lost > 0);
}

/* ---- one by one ------------------------------------------------------------------------------ */

static const char *const halve = "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\"}";

static struct run *begin_trained(uint64_t seed) {
    struct run *const run = begin(seed);
    for (uint64_t key = 0; key < KEYS; key++)
        push(run, key);
    return run;
}

static void set_idle(struct run *run, bool on) {
    for (size_t i = 0; i < run->shards; i++)
        sim_idle(run->sim, i, on);
}

static json_t *status_of(struct run *run) {
    const struct sim_reply *const reply = admin(run, "search status", "{}");
    json_t *const json = json_loadb((const char *)reply->body, reply->len, 0, NULL);
    assert_non_null(json);
    return json;
}

static void check_text(struct run *run, const char *key, const char *part) {
    json_t *const status = status_of(run);
    const char *const text = json_string_value(json_object_get(status, key));
    if (part == NULL ? text != NULL : text == NULL || strstr(text, part) == NULL)
        FAIL(run, "%s: %s", key, text == NULL ? "null" : text);
    json_decref(status);
}

static void check_phase(struct run *run, enum wire_phase phase) {
    assert_int_equal(admin(run, "search status", "{}")->header.phase, phase);
}

static void a_change_waits_until_the_rows_of_the_one_before_have_moved(void **state) {
    struct run *const run = begin_trained(3);
    set_idle(run, true);
    admin(run, "search start", halve);
    sim_run(run->sim, 2000);
    check_phase(run, PHASE_COMMITTED);
    admin(run, "search rollback", "{}");
    sim_run(run->sim, 3000);
    check_phase(run, PHASE_PREPARING);
    check_text(run, "waiting", "rows of the last change to move");
    set_idle(run, false);
    sim_run(run->sim, 2000);
    check_phase(run, PHASE_ROLLED_BACK);
    check_text(run, "waiting", NULL);
    check_epochs(run);
    check_rows(run);
    assert_int_equal(run->layout->epoch, 2);
    end(run);
}

static void a_change_that_waits_for_too_long_is_given_up_and_may_be_asked_for_again(void **state) {
    struct run *const run = begin_trained(4);
    set_idle(run, true);
    admin(run, "search start", halve);
    sim_run(run->sim, 2000);
    admin(run, "search rollback", "{}");
    sim_run(run->sim, 70000);
    check_phase(run, PHASE_ABORTED);
    check_text(run, "error", "still moved after 60 s");
    set_idle(run, false);
    sim_run(run->sim, 2000);
    assert_int_equal(admin(run, "search rollback", "{}")->header.status, DIMFIT_OK);
    sim_run(run->sim, 2000);
    check_phase(run, PHASE_ROLLED_BACK);
    assert_int_equal(admin(run, "search rollback", "{}")->header.status, DIMFIT_ERR_STATE);
    check_epochs(run);
    check_rows(run);
    end(run);
}

static void a_dry_run_leaves_the_search_where_it_was(void **state) {
    struct run *const run = begin_trained(5);
    admin(run, "search start",
          "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\",\"plan_only\":true}");
    sim_run(run->sim, 1000);
    for (int i = 0; i < 2; i++) {
        check_phase(run, PHASE_PLANNED);
        assert_int_equal(admin(run, "search apply", "{\"dry_run\":true}")->header.status,
                         DIMFIT_OK);
    }
    sim_lose(run->sim, 0, WIRE_PREPARE);
    /* Asked again for want of an answer, and told that one is under way. */
    assert_int_equal(admin(run, "search apply", "{\"dry_run\":true}")->header.status,
                     DIMFIT_ERR_BUSY);
    sim_run(run->sim, 6000);
    check_phase(run, PHASE_PLANNED);
    sim_lose(run->sim, 0, 0);
    assert_int_equal(admin(run, "search rollback", "{\"dry_run\":true}")->header.status,
                     DIMFIT_ERR_STATE);
    check_epochs(run);
    assert_int_equal(run->layout->epoch, 0);
    assert_int_equal(admin(run, "search apply", "{}")->header.status, DIMFIT_OK);
    sim_run(run->sim, 1000);
    check_phase(run, PHASE_COMMITTED);
    end(run);
}

static void sixteen_plans_are_kept_and_the_oldest_never_applied_goes_first(void **state) {
    struct run *const run = begin_trained(6);
    admin(run, "search start", halve); /* plan 1, applied */
    sim_run(run->sim, 1000);
    for (int i = 0; i < 20; i++) {
        admin(run, "search start",
              "{\"kappa\":0.5,\"strategy\":\"uniform\",\"basis\":\"axis\",\"plan_only\":true}");
        sim_run(run->sim, 1000);
    }
    sim_restart_coordinator(run->sim, NULL);
    sim_run(run->sim, 3000);
    const struct sim_reply *const reply = admin(run, "search plans", "{}");
    json_t *const json = json_loadb((const char *)reply->body, reply->len, 0, NULL);
    const json_t *const plans = json_object_get(json, "plans");
    assert_int_equal(json_array_size(plans), 16);
    for (size_t i = 0; i < 16; i++) {
        const json_t *const plan = json_array_get(plans, i);
        assert_int_equal(json_integer_value(json_object_get(plan, "plan")), i == 0 ? 1 : 6 + i);
        assert_string_equal(json_string_value(json_object_get(plan, "state")),
                            i == 0 ? "applied" : "ready");
    }
    json_decref(json);
    end(run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_waits_until_the_rows_of_the_one_before_have_moved),
        cmocka_unit_test(a_change_that_waits_for_too_long_is_given_up_and_may_be_asked_for_again),
        cmocka_unit_test(a_dry_run_leaves_the_search_where_it_was),
        cmocka_unit_test(sixteen_plans_are_kept_and_the_oldest_never_applied_goes_first),
        cmocka_unit_test(one_epoch_is_in_force_and_each_gradient_applied_once_whatever_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
