/*
 * Trials in a whole cluster under faults: workers that lose answers, repeat themselves, go away
 * with a trial in hand or report what was never asked, and a coordinator that ends in the middle.
 * What a unit's masking costs is a function of the unit, so that the plan's ranking is known
 * beforehand.
 */
#include "tests/sim/sim.h"

#include "proto/trial.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { SLOT = 1, DIM = 6 };

#define MASK                                                                                       \
    "{\"kappa\": 0.5, \"strategy\": \"mask\", \"basis\": \"axis\", \"plan_only\": true,"           \
    " \"timeout\": 40}"

static struct sim *begin(uint64_t seed, double drop, double repeat) {
    const struct sim_options options = {
        .seed = seed,
        .shards = 1 + seed % 3,
        .workers = 3,
        .drop = drop,
        .repeat = repeat,
        .wall_s = 1000000,
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
    return sim_new(&options);
}

static const struct sim_reply *admin(struct sim *sim, const char *command, const char *args) {
    struct wire_header header = {.kind = WIRE_ADMIN};
    snprintf(header.name, sizeof header.name, "%s", command);
    return sim_ask(sim, 0, -1, &header, args, args == NULL ? 0 : strlen(args));
}

static json_t *json_of(const struct sim_reply *reply) {
    assert_int_equal(reply->header.status, DIMFIT_OK);
    json_t *const json = json_loadb((const char *)reply->body, reply->len, 0, NULL);
    assert_non_null(json);
    return json;
}

/* What masking unit k costs: no order that units come in. */
static double cost_of(size_t k) {
    return 0.01 * (double)((k * 5 + 2) % 7);
}

/* A trial as a worker has it in hand. */
struct hand {
    struct wire_header reply;
    double cost;
};

static void take(struct hand *hand, const struct sim_reply *reply) {
    struct change *change = NULL;
    hand->reply = reply->header;
    assert_int_equal(reply->header.status, DIMFIT_OK);
    if (reply->header.step == 0)
        return;
    assert_int_equal(change_decode(reply->body, reply->len, &change, NULL), DIMFIT_OK);
    assert_int_equal(change->n_slots, 1);
    bool kept[DIM] = {false};
    assert_int_equal(change->slots[0].to, DIM - 1);
    for (size_t k = 0; k < DIM - 1; k++)
        kept[change->slots[0].keep[k]] = true;
    for (size_t k = 0; k < DIM; k++)
        hand->cost = kept[k] ? hand->cost : cost_of(k);
    change_destroy(&change);
}

/* Report what is in hand, if anything, and take the next. */
static void next(struct sim *sim, size_t worker, struct hand *hand) {
    struct wire_header header = {.kind = WIRE_TRIAL_NEXT};
    struct buf body;
    buf_init(&body);
    if (hand->reply.step != 0) {
        header.tag = hand->reply.tag;
        header.step = hand->reply.step;
        header.samples = hand->reply.samples;
        trial_encode(&(struct trial_figures){0.5 + hand->cost, NAN, 0.5, NAN, 0.001}, &body);
    }
    take(hand, sim_ask(sim, worker, -1, &header, body.data, body.len));
    buf_fini(&body);
}

static void work(struct sim *sim, size_t worker) {
    struct hand hand = {.cost = 0};
    for (int i = 0; i < 1000; i++) {
        next(sim, worker, &hand);
        if ((hand.reply.mode & TRIAL_OVER) != 0)
            return;
    }
    fail_msg("the search does not end");
}

static void check_plan(struct sim *sim) {
    json_t *const plan = json_of(admin(sim, "search plan", NULL));
    const json_t *const slot = json_array_get(json_object_get(plan, "slots"), 0);
    for (size_t k = 0; k < DIM; k++) {
        const double got = json_number_value(json_array_get(json_object_get(slot, "priority"), k));
        assert_true(fabs(got - cost_of(k)) < 1e-12);
    }
    json_decref(plan);
}

static void every_unit_is_measured_whatever_is_lost(void **state) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct sim *const sim = begin(seed, 0.2, 0.2);
        struct hand gone = {.cost = 0}, other = {.cost = 0};
        admin(sim, "search start", MASK);
        sim_faults(sim, true);
        while (gone.reply.step == 0)
            next(sim, 1, &gone); /* and is never heard of again */
        for (uint64_t i = 0; i < seed % 4; i++)
            next(sim, 2, &other);
        work(sim, 0);
        sim_faults(sim, false);
        check_plan(sim);
        sim_free(sim);
    }
}

static double trials_count(struct sim *sim, const char *what) {
    json_t *const status = json_of(admin(sim, "search status", NULL));
    const double n = json_number_value(json_object_get(json_object_get(status, "trials"), what));
    json_decref(status);
    return n;
}

static void a_coordinator_that_ends_keeps_what_was_measured(void **state) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sim *const sim = begin(seed, 0, 0);
        const uint64_t done = 1 + seed % (DIM - 1);
        struct hand hand = {.cost = 0};
        admin(sim, "search start", MASK);
        for (uint64_t i = 0; i <= done; i++)
            next(sim, 0, &hand);
        sim_run(sim, 2000);
        sim_restart_coordinator(sim, NULL);
        sim_run(sim, 3000);
        admin(sim, "search start", MASK);
        sim_run(sim, 1000);
        assert_true(trials_count(sim, "kept") == (double)done);
        next(sim, 0, &hand); /* of the search before: not taken for one of this */
        assert_true(trials_count(sim, "done") == (double)done);
        work(sim, 0);
        check_plan(sim);
        sim_free(sim);
    }
}

static void expect(struct sim *sim, struct wire_header header, const struct trial_figures *figures,
                   size_t cut, dimfit_err want) {
    struct buf body;
    buf_init(&body);
    if (figures != NULL)
        trial_encode(figures, &body);
    header.kind = WIRE_TRIAL_NEXT;
    const struct sim_reply *const reply = sim_ask(sim, 2, -1, &header, body.data, body.len - cut);
    assert_int_equal(reply->header.status, want);
    buf_fini(&body);
}

static void reports_that_make_no_sense_change_nothing(void **state) {
    const struct trial_figures sound = {0.5, NAN, 0.4, NAN, 0}, not_a_number = {.loss = NAN};
    struct sim *const sim = begin(1, 0, 0);
    /* No search: nothing to report, nothing to do. */
    expect(sim, (struct wire_header){.step = 1, .samples = 5}, &sound, 0, DIMFIT_OK);
    expect(sim, (struct wire_header){.mode = UINT32_MAX}, NULL, 0, DIMFIT_OK);
    admin(sim, "search start", MASK);
    sim_run(sim, 1000);
    struct hand hand = {.cost = 0};
    next(sim, 1, &hand);
    assert_int_equal(hand.reply.step, 1);
    const struct wire_header of = {.tag = hand.reply.tag, .step = 1, .samples = 5};
    struct wire_header other = of;
    expect(sim, of, NULL, 0, DIMFIT_ERR_PROTOCOL);
    expect(sim, of, &sound, 1, DIMFIT_ERR_PROTOCOL);
    expect(sim, of, &not_a_number, 0, DIMFIT_ERR_NOT_FINITE);
    other.samples = 0;
    expect(sim, other, &sound, 0, DIMFIT_ERR_INVALID);
    other = of;
    other.step = UINT64_MAX;
    expect(sim, other, &sound, 0, DIMFIT_ERR_INVALID);
    other = of;
    other.tag = 99; /* of another search: nobody's business any more, and a trial is given */
    expect(sim, other, &sound, 0, DIMFIT_OK);
    assert_true(trials_count(sim, "done") == 0);
    work(sim, 1);
    check_plan(sim);
    sim_free(sim);
}

static void trials_that_nobody_does_end_the_search(void **state) {
    struct sim *const sim = begin(2, 0, 0);
    struct hand hand = {.cost = 0};
    admin(sim, "search start", MASK);
    next(sim, 1, &hand);
    sim_run(sim, 39000);
    assert_true(trials_count(sim, "asked") == DIM);
    sim_run(sim, 3000);
    json_t *const status = json_of(admin(sim, "search status", NULL));
    assert_string_equal(json_string_value(json_object_get(status, "phase")), "aborted");
    assert_non_null(strstr(json_string_value(json_object_get(status, "error")),
                           "no worker evaluated a trial within 40 s"));
    json_decref(status);
    next(sim, 1, &hand);
    assert_int_equal(hand.reply.mode & TRIAL_OVER, TRIAL_OVER);
    sim_free(sim);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_is_measured_whatever_is_lost),
        cmocka_unit_test(a_coordinator_that_ends_keeps_what_was_measured),
        cmocka_unit_test(reports_that_make_no_sense_change_nothing),
        cmocka_unit_test(trials_that_nobody_does_end_the_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
