#include "server/shard.h"

#include "proto/section.h"
#include "server/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DIM = 4, KEYS = 20000, BATCH = 1000 };

struct fixture {
    struct shard *shard;
    struct layout *layout;
    uint8_t *body;
    struct shard_reply reply;
    uint64_t seq;
};

static uint8_t *io_body(void *self, size_t len) {
    struct fixture *const f = self;
    free(f->body);
    f->body = malloc(len);
    return f->body;
}

/* The value of a row whose gradient was pushed once, by sgd of rate 1. */
static float value_of(uint64_t key, size_t k) {
    return (float)((key * 7 + k * 3) % 11) - 5;
}

static void push(struct fixture *f, uint32_t slot, uint64_t first, uint32_t n) {
    const struct section section = {.slot = slot, .rows = n, .width = DIM};
    const size_t len = section_body_size(1, n, (uint64_t)n * DIM, true, 0);
    uint8_t *const body = malloc(len);
    assert_non_null(body);
    uint8_t *at = body + section_put_head(body, &section, 1, 0);
    for (uint64_t key = first; key < first + n; key++, at += sizeof key)
        memcpy(at, &key, sizeof key);
    for (uint64_t key = first; key < first + n; key++) {
        for (size_t k = 0; k < DIM; k++, at += sizeof(float))
            memcpy(at, &(float){-value_of(key, k)}, sizeof(float));
    }
    const struct wire_header header = {.kind = WIRE_PUSH,
                                       .mode = PUSH_TRAIN,
                                       .client = 1,
                                       .incarnation = 1,
                                       .epoch = shard_epoch(f->shard),
                                       .seq = ++f->seq};
    shard_request(f->shard, &header, body, len, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
    free(body);
}

static int set_up(void **state) {
    struct fixture *const f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(layout_new(1, 7, &f->layout), DIMFIT_OK);
    for (uint32_t id = 1; id <= 2; id++) {
        struct layout_slot slot = {.id = id, .dim = DIM, .width = DIM, .search = true};
        slot.optimizer.kind = OPTIMIZER_SGD;
        slot.optimizer.lr = 1;
        snprintf(slot.name, sizeof slot.name, "slot%u", id);
        assert_int_equal(layout_add_slot(f->layout, &slot, NULL), DIMFIT_OK);
    }
    const struct shard_options options = {.score_memory = 1 << 20, .score_sample = 1};
    const struct shard_io io = {.self = f, .body = io_body};
    assert_int_equal(shard_new(f->layout, &options, &io, &f->shard), DIMFIT_OK);
    for (uint64_t first = 0; first < KEYS; first += BATCH)
        push(f, 1, first, BATCH);
    push(f, 2, 0, 10);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *const f = *state;
    shard_destroy(&f->shard);
    layout_destroy(&f->layout);
    free(f->body);
    free(f);
    return 0;
}

static void ask(struct fixture *f, enum wire_kind kind, uint64_t request, uint32_t mode) {
    const struct wire_header command = {.kind = kind, .request = request, .mode = mode};
    shard_command(f->shard, &command, NULL, 0, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
}

/* Slices until an answer is due; *slices counts them. */
static struct stats *answer(struct fixture *f, uint64_t request, size_t *slices) {
    while (!shard_due(f->shard, &f->reply)) {
        assert_true(shard_has_work(f->shard));
        (void)shard_work(f->shard);
        ++*slices;
    }
    struct stats *stats;
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
    assert_int_equal(f->reply.header.kind, WIRE_GATHER);
    assert_true(f->reply.header.reply && f->reply.header.request == request);
    assert_int_equal(stats_decode(f->body, f->reply.len, &stats, NULL), DIMFIT_OK);
    return stats;
}

/* The sums are those of keys 0 .. n, each looked up once. */
static void assert_sums(const struct slot_stats *s, uint64_t n) {
    assert_int_equal(s->rows, n);
    assert_true(s->lookups == (double)n);
    for (size_t a = 0; a < DIM; a++) {
        double sum = 0;
        for (uint64_t key = 0; key < n; key++)
            sum += value_of(key, a);
        assert_true(s->sum[a] == sum && s->looked_sum[a] == sum);
        for (size_t b = 0; b < DIM; b++) {
            double second = 0;
            for (uint64_t key = 0; key < n; key++)
                second += (double)value_of(key, a) * value_of(key, b);
            assert_true(s->second[a * DIM + b] == second);
            assert_true(s->looked_second[a * DIM + b] == second);
        }
    }
}

static void moments_come_after_several_slices(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_MOMENTS | GATHER_SCORES);
    assert_true(f->reply.later);
    assert_false(shard_due(f->shard, &f->reply));
    size_t slices = 0;
    struct stats *stats = answer(f, 5, &slices);
    assert_true(slices >= 4);
    assert_int_equal(stats->n_slots, 2);
    assert_sums(&stats->slots[0], KEYS);
    assert_sums(&stats->slots[1], 10);
    assert_false(shard_has_work(f->shard));
    assert_false(shard_due(f->shard, &f->reply));
    stats_destroy(&stats);
}

static void what_takes_no_sums_is_answered_at_once(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_SCORES);
    assert_false(f->reply.later);
    struct stats *stats;
    assert_int_equal(stats_decode(f->body, f->reply.len, &stats, NULL), DIMFIT_OK);
    assert_int_equal(stats->slots[0].rows, KEYS);
    assert_true(stats->slots[0].lookups == 0 && stats->slots[0].sum == NULL);
    stats_destroy(&stats);
}

static void lookups_alone_come_without_moments(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_LOOKUPS);
    size_t slices = 0;
    struct stats *stats = answer(f, 5, &slices);
    assert_true(stats->slots[0].lookups == KEYS && stats->slots[0].sum == NULL);
    stats_destroy(&stats);
}

static void those_who_ask_meanwhile_wait_for_the_same_sums(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_LOOKUPS);
    (void)shard_work(f->shard);
    ask(f, WIRE_GATHER, 5, GATHER_LOOKUPS); /* a repeat */
    assert_true(f->reply.later);
    ask(f, WIRE_GATHER, 6, GATHER_MOMENTS); /* more: they begin anew */
    (void)shard_work(f->shard);
    ask(f, WIRE_GATHER, 7, GATHER_LOOKUPS);
    size_t slices = 0;
    for (uint64_t request = 7; request >= 5; request--) {
        struct stats *stats = answer(f, request, &slices);
        assert_sums(&stats->slots[0], KEYS);
        stats_destroy(&stats);
    }
    assert_false(shard_has_work(f->shard));
}

static void too_many_who_ask_are_told(void **state) {
    struct fixture *const f = *state;
    for (uint64_t request = 1; request <= 8; request++)
        ask(f, WIRE_GATHER, request, GATHER_LOOKUPS);
    const struct wire_header command = {.kind = WIRE_GATHER, .request = 9, .mode = GATHER_LOOKUPS};
    shard_command(f->shard, &command, NULL, 0, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_ERR_BUSY);
    assert_false(f->reply.later);
}

static void a_discard_does_not_concern_it(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_MOMENTS);
    (void)shard_work(f->shard);
    ask(f, WIRE_DISCARD, 6, 0);
    size_t slices = 0;
    struct stats *stats = answer(f, 5, &slices);
    assert_sums(&stats->slots[0], KEYS);
    stats_destroy(&stats);
}

static void rows_that_come_meanwhile_are_counted_or_not(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_MOMENTS);
    (void)shard_work(f->shard);
    push(f, 1, KEYS, BATCH); /* behind what was summed up */
    push(f, 2, 10, 10);
    size_t slices = 0;
    struct stats *stats = answer(f, 5, &slices);
    assert_sums(&stats->slots[0], KEYS + BATCH);
    assert_sums(&stats->slots[1], 20);
    stats_destroy(&stats);
}

/* A commit of a layout of two columns less in slot 1. */
static void commit(struct fixture *f) {
    struct change *change;
    struct layout *after;
    assert_int_equal(change_new(1, 2, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], 1, DIM, 2, false), DIMFIT_OK);
    change->slots[0].keep[0] = 3;
    change->slots[0].keep[1] = 1;
    assert_int_equal(change_apply(change, f->layout, NULL, &after, NULL), DIMFIT_OK);
    struct buf bytes, body;
    buf_init(&bytes);
    buf_init(&body);
    change_encode(change, &bytes);
    buf_put_part(&body, &bytes);
    layout_encode(after, &body);
    const struct wire_header prepare = {.kind = WIRE_PREPARE, .tag = 2};
    shard_command(f->shard, &prepare, body.data, body.len, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
    const struct wire_header switch_over = {.kind = WIRE_COMMIT, .tag = 2};
    shard_command(f->shard, &switch_over, NULL, 0, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
    buf_fini(&bytes);
    buf_fini(&body);
    change_destroy(&change);
    layout_destroy(&after);
}

static void a_commit_begins_it_anew_once_rows_have_moved(void **state) {
    struct fixture *const f = *state;
    ask(f, WIRE_GATHER, 5, GATHER_MOMENTS);
    (void)shard_work(f->shard);
    commit(f);
    size_t slices = 0;
    struct stats *stats = answer(f, 5, &slices);
    assert_int_equal(stats->epoch, 2);
    const struct slot_stats *const s = &stats->slots[0];
    assert_int_equal(s->width, 2);
    assert_int_equal(s->rows, KEYS);
    static const size_t kept[2] = {3, 1};
    for (size_t a = 0; a < 2; a++) {
        double sum = 0;
        for (uint64_t key = 0; key < KEYS; key++)
            sum += value_of(key, kept[a]);
        assert_true(s->looked_sum[a] == sum);
    }
    assert_sums(&stats->slots[1], 10);
    stats_destroy(&stats);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(moments_come_after_several_slices),
        TEST(what_takes_no_sums_is_answered_at_once),
        TEST(lookups_alone_come_without_moments),
        TEST(those_who_ask_meanwhile_wait_for_the_same_sums),
        TEST(too_many_who_ask_are_told),
        TEST(a_discard_does_not_concern_it),
        TEST(rows_that_come_meanwhile_are_counted_or_not),
        TEST(a_commit_begins_it_anew_once_rows_have_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
