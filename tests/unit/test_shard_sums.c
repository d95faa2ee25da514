#include "proto/sums.h"
#include "server/shard.h"
#include "server/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DIM = 3, SAMPLES = 4 };

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

static int set_up(void **state) {
    struct fixture *const f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(layout_new(1, 7, &f->layout), DIMFIT_OK);
    for (uint32_t id = 1; id <= 3; id++) {
        struct layout_slot slot = {.id = id, .dim = DIM, .width = DIM, .search = id != 3};
        slot.optimizer.kind = OPTIMIZER_SGD;
        snprintf(slot.name, sizeof slot.name, "slot%u", id);
        assert_int_equal(layout_add_slot(f->layout, &slot, NULL), DIMFIT_OK);
    }
    const struct shard_options options = {.score_memory = 1 << 20, .score_sample = 1};
    const struct shard_io io = {.self = f, .body = io_body};
    assert_int_equal(shard_new(f->layout, &options, &io, &f->shard), DIMFIT_OK);
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

static struct sums sums_of(uint32_t slot, uint64_t rows, const double *g) {
    return (struct sums){slot, DIM, rows, (const uint8_t *)g};
}

static dimfit_err send(struct fixture *f, const struct buf *body, uint64_t step) {
    const struct wire_header header = {.kind = WIRE_SCORE_SUMS,
                                       .client = 1,
                                       .incarnation = 1,
                                       .epoch = shard_epoch(f->shard),
                                       .step = step,
                                       .samples = SAMPLES,
                                       .seq = ++f->seq};
    shard_request(f->shard, &header, body->data, body->len, &f->reply);
    return f->reply.header.status;
}

static dimfit_err report(struct fixture *f, const struct sums *sums, size_t n, uint64_t step) {
    struct buf body;
    buf_init(&body);
    sums_encode(sums, n, &body);
    assert_int_equal(buf_status(&body), DIMFIT_OK);
    const dimfit_err err = send(f, &body, step);
    buf_fini(&body);
    return err;
}

static void command(struct fixture *f, enum wire_kind kind, uint32_t mode) {
    const struct wire_header header = {.kind = kind, .tag = 1, .mode = mode};
    shard_command(f->shard, &header, NULL, 0, &f->reply);
    assert_int_equal(f->reply.header.status, DIMFIT_OK);
}

static struct stats *gather(struct fixture *f, uint32_t mode) {
    struct stats *stats;
    command(f, WIRE_GATHER, mode);
    const bool later = f->reply.later;
    while (later && !shard_due(f->shard, &f->reply))
        (void)shard_work(f->shard);
    assert_int_equal(stats_decode(f->body, f->reply.len, &stats, NULL), DIMFIT_OK);
    return stats;
}

static void reported_sums_are_scores_of_their_step(void **state) {
    struct fixture *const f = *state;
    const double one[DIM] = {1, -2, 0.5}, two[DIM] = {0.25, 4, 8};
    const struct sums both[] = {sums_of(1, 1000, one), sums_of(2, 50, two)};
    assert_int_equal(report(f, both, 2, 7), DIMFIT_OK);
    assert_int_equal(report(f, both, 1, 7), DIMFIT_OK);
    assert_int_equal(report(f, both, 1, 8), DIMFIT_OK);
    struct stats *stats = gather(f, GATHER_SCORES);
    assert_int_equal(stats->n_steps, 2);
    assert_int_equal(stats->steps[0].n_slots, 2);
    for (size_t k = 0; k < DIM; k++) {
        assert_true(stats->steps[0].slots[0].g[k] == 2 * SAMPLES * one[k]);
        assert_true(stats->steps[0].slots[1].g[k] == SAMPLES * two[k]);
        assert_true(stats->steps[1].slots[0].g[k] == SAMPLES * one[k]);
    }
    assert_int_equal(stats_samples(stats), 2 * SAMPLES);
    stats_destroy(&stats);
}

static void rows_elsewhere_are_counted_and_not_added_up(void **state) {
    struct fixture *const f = *state;
    const double g[DIM] = {1, 1, 1};
    const uint32_t modes[] = {0, GATHER_SCORES, GATHER_SCORES | GATHER_MOMENTS, GATHER_LOOKUPS};
    for (uint64_t rows = 40; rows <= 50; rows += 10) {
        const struct sums sums[] = {sums_of(2, rows, g)};
        assert_int_equal(report(f, sums, 1, rows), DIMFIT_OK);
    }
    const struct sums first[] = {sums_of(1, 9, g)};
    assert_int_equal(report(f, first, 1, 1), DIMFIT_OK);
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        struct stats *stats = gather(f, modes[i]);
        assert_int_equal(stats->slots[0].rows, 9);
        assert_int_equal(stats->slots[1].rows, 50);
        assert_int_equal(stats->n_slots, 2); /* the third is in no search */
        stats_destroy(&stats);
    }
}

static void refused_reports_change_nothing(void **state) {
    struct fixture *const f = *state;
    const double g[DIM] = {1, 2, 3}, infinite[DIM] = {1, INFINITY, 3};
    const struct sums good = sums_of(1, 10, g);
    struct sums wide = sums_of(2, 10, g);
    wide.width = DIM - 1;
    const struct {
        struct sums second;
        dimfit_err expected;
    } cases[] = {
        {sums_of(2, 10, infinite), DIMFIT_ERR_NOT_FINITE},
        {wide, DIMFIT_ERR_WIDTH},
        {sums_of(3, 10, g), DIMFIT_ERR_INVALID},
        {sums_of(9, 10, g), DIMFIT_ERR_UNKNOWN_SLOT},
        {sums_of(1, 10, g), DIMFIT_ERR_PROTOCOL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct sums both[] = {good, cases[i].second};
        assert_int_equal(report(f, both, 2, 1), cases[i].expected);
        assert_true(f->reply.header.detail.text[0] != '\0');
    }
    assert_int_equal(report(f, &good, 1, 0), DIMFIT_ERR_INVALID);
    struct stats *stats = gather(f, GATHER_SCORES);
    assert_int_equal(stats->n_steps, 0);
    assert_int_equal(stats->slots[0].rows, 0);
    stats_destroy(&stats);
}

static void report_that_is_cut_anywhere_is_refused(void **state) {
    struct fixture *const f = *state;
    const double g[DIM] = {1, 2, 3};
    const struct sums both[] = {sums_of(1, 10, g), sums_of(2, 10, g)};
    struct buf body;
    buf_init(&body);
    sums_encode(both, 2, &body);
    const size_t whole = body.len;
    for (body.len = 0; body.len < whole; body.len++)
        assert_int_equal(send(f, &body, 1), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(send(f, &body, 1), DIMFIT_OK);
    buf_put_u8(&body, 0);
    assert_int_equal(send(f, &body, 1), DIMFIT_ERR_PROTOCOL);
    buf_fini(&body);
}

static void search_that_fits_bases_takes_no_sums_alone(void **state) {
    struct fixture *const f = *state;
    const double g[DIM] = {1, 2, 3};
    const struct sums sums[] = {sums_of(1, 10, g)};
    command(f, WIRE_SCORE_START, SCORE_WANT_LIVE | SCORE_WANT_MOMENTS);
    assert_int_equal(report(f, sums, 1, 1), DIMFIT_ERR_STATE);
    command(f, WIRE_SCORE_START, SCORE_WANT_LIVE);
    assert_int_equal(report(f, sums, 1, 1), DIMFIT_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(reported_sums_are_scores_of_their_step),
        TEST(rows_elsewhere_are_counted_and_not_added_up),
        TEST(refused_reports_change_nothing),
        TEST(report_that_is_cut_anywhere_is_refused),
        TEST(search_that_fits_bases_takes_no_sums_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
