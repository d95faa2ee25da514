/* A shard's layout changes: rows that move between its messages, and come back. */
#include "server/shard.h"

#include "proto/section.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOT = 3, DIM = 4, NARROW = 2, ROWS = 20000 };

/* Gradients of small integers and SGD of rate 1: values are exact sums. */
struct fixture {
    struct shard *shard;
    struct layout *layout, *before;
    struct change *last;
    uint64_t seq;
    uint64_t resident; /* what the process is said to have */
    uint8_t *answer;
    struct shard_reply reply;
};

static uint8_t *io_body(void *self, size_t len) {
    struct fixture *const f = self;
    return f->answer = malloc(len);
}

static void io_process(void *self, struct process_figures *out) {
    const struct fixture *const f = self;
    *out = (struct process_figures){.resident_bytes = f->resident};
}

static struct fixture *setup(bool keep, uint64_t max_memory) {
    struct fixture *const f = calloc(1, sizeof *f);
    const struct layout_slot spec = {
        .id = SLOT,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .name = "moved",
        .optimizer = {.kind = OPTIMIZER_SGD, .lr = 1, .eps = 1e-8f},
        .init = INIT_ZERO,
        .retention = {.expire_days = 2},
    };
    const struct shard_options options = {
        .score_memory = 1 << 20, .keep = keep, .max_memory = max_memory};
    const struct shard_io io = {.self = f, .body = io_body, .process = io_process};
    assert_int_equal(layout_new(1, 7, &f->layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(f->layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(shard_new(f->layout, &options, &io, &f->shard), DIMFIT_OK);
    return f;
}

static void teardown(struct fixture *f) {
    shard_destroy(&f->shard);
    layout_destroy(&f->layout);
    layout_destroy(&f->before);
    change_destroy(&f->last);
    free(f->answer);
    free(f);
}

static dimfit_err ask(struct fixture *f, const struct wire_header *header, const void *body,
                      size_t len) {
    free(f->answer);
    f->answer = NULL;
    if (header->kind == WIRE_PULL || header->kind == WIRE_PUSH)
        shard_request(f->shard, header, body, len, &f->reply);
    else
        shard_command(f->shard, header, body, len, &f->reply);
    return f->reply.header.status;
}

/* Rows first .. end - 1 with a gradient of -grad in every coordinate of the width in force. */
static void push(struct fixture *f, uint64_t first, uint64_t end, float grad) {
    const uint32_t w = f->layout->slots[0].width, n = (uint32_t)(end - first);
    uint8_t *const body = malloc((size_t)n * (8 + 4 * w) + 100);
    const struct section section = {.slot = SLOT, .rows = n, .width = w};
    uint8_t *at = body + section_put_head(body, &section, 1, 0);
    for (uint64_t key = first; key < end; key++, at += 8)
        memcpy(at, &key, 8);
    const float minus = -grad;
    for (size_t i = 0; i < (size_t)n * w; i++, at += 4)
        memcpy(at, &minus, 4);
    const struct wire_header header = {
        .kind = WIRE_PUSH,
        .mode = PUSH_TRAIN,
        .client = 1,
        .incarnation = 1,
        .epoch = f->layout->epoch,
        .seq = ++f->seq,
        .day = 10,
    };
    assert_int_equal(ask(f, &header, body, (size_t)(at - body)), DIMFIT_OK);
    free(body);
}

static void assert_row(struct fixture *f, uint64_t key, const float *want) {
    uint8_t body[100];
    const struct section section = {.slot = SLOT, .rows = 1};
    const size_t head = section_put_head(body, &section, 1, 0);
    memcpy(body + head, &key, 8);
    const struct wire_header header = {.kind = WIRE_PULL, .epoch = f->layout->epoch};
    assert_int_equal(ask(f, &header, body, head + 8), DIMFIT_OK);
    const uint32_t w = f->layout->slots[0].width;
    assert_int_equal(f->reply.len, w * sizeof(float));
    for (uint32_t k = 0; k < w; k++)
        assert_true(load_f32(f->answer + k * sizeof(float)) == want[k]);
}

static dimfit_err prepare(struct fixture *f, const struct change *change,
                          const struct layout *next) {
    struct buf bytes, body;
    buf_init(&bytes);
    buf_init(&body);
    change_encode(change, &bytes);
    buf_put_part(&body, &bytes);
    layout_encode(next, &body);
    const struct wire_header header = {.kind = WIRE_PREPARE, .tag = next->epoch};
    const dimfit_err err = ask(f, &header, body.data, body.len);
    buf_fini(&bytes);
    buf_fini(&body);
    return err;
}

static dimfit_err tell(struct fixture *f, enum wire_kind kind, uint64_t tag) {
    const struct wire_header header = {.kind = kind, .tag = tag};
    return ask(f, &header, NULL, 0);
}

/* Prepare and commit. Takes the change. */
static dimfit_err change_to(struct fixture *f, struct change *change) {
    struct layout *next = NULL;
    assert_int_equal(
        change_apply(change, f->layout, change->undoes != 0 ? f->before : NULL, &next, NULL),
        DIMFIT_OK);
    dimfit_err err = prepare(f, change, next);
    if (err == DIMFIT_OK)
        err = tell(f, WIRE_COMMIT, next->epoch);
    if (err != DIMFIT_OK) {
        layout_destroy(&next);
        change_destroy(&change);
        return err;
    }
    layout_destroy(&f->before);
    change_destroy(&f->last);
    f->before = f->layout;
    f->layout = next;
    f->last = change;
    return DIMFIT_OK;
}

/* Axes 3 and 1 of the four stay. */
static struct change *narrowing(const struct fixture *f) {
    struct change *change = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, NARROW, false), DIMFIT_OK);
    change->slots[0].keep[0] = 3;
    change->slots[0].keep[1] = 1;
    return change;
}

static struct change *undoing(const struct fixture *f) {
    struct change *change = NULL;
    assert_int_equal(change_undo(f->last, f->layout->epoch + 1, &change), DIMFIT_OK);
    return change;
}

static uint64_t moving(const struct fixture *f) {
    return shard_heartbeat(f->shard).moving;
}

static void work(struct fixture *f) {
    while (shard_work(f->shard))
        ;
}

static void a_commit_moves_no_row_and_slices_move_all(void **state) {
    struct fixture *const f = setup(false, 0);
    push(f, 0, ROWS, 1);
    assert_false(shard_has_work(f->shard));
    assert_int_equal(change_to(f, narrowing(f)), DIMFIT_OK);
    assert_int_equal(moving(f), ROWS);
    assert_true(shard_has_work(f->shard));
    push(f, ROWS - 10, ROWS + 10, 2); /* half of them new */
    assert_row(f, 5, (float[]){1, 1});
    assert_row(f, ROWS - 1, (float[]){3, 3});
    assert_row(f, ROWS + 1, (float[]){2, 2});
    assert_true(shard_work(f->shard));
    assert_true(moving(f) > 0 && moving(f) < ROWS);
    work(f);
    assert_int_equal(moving(f), 0);
    assert_false(shard_has_work(f->shard));
    assert_row(f, 5, (float[]){1, 1});
    assert_row(f, ROWS - 1, (float[]){3, 3});
    assert_row(f, ROWS + 1, (float[]){2, 2});
    teardown(f);
}

static void a_prepare_is_turned_away_while_rows_move(void **state) {
    struct fixture *const f = setup(true, 0);
    push(f, 0, ROWS, 1);
    assert_int_equal(change_to(f, narrowing(f)), DIMFIT_OK);
    assert_int_equal(change_to(f, undoing(f)), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(f->reply.header.detail.text, "20000 rows of the change before"));
    assert_int_equal(shard_prepared_epoch(f->shard), 0);
    assert_int_equal(tell(f, WIRE_FORGET, 2), DIMFIT_ERR_BUSY);
    work(f);
    assert_int_equal(change_to(f, undoing(f)), DIMFIT_OK);
    teardown(f);
}

/* What was trained since is kept, what was dropped is as it was; a row stored since starts anew
 * there. */
static void an_undone_change_brings_dropped_coordinates_back(void **state) {
    struct fixture *const f = setup(true, 0);
    push(f, 0, ROWS, 1);
    assert_int_equal(change_to(f, narrowing(f)), DIMFIT_OK);
    work(f);
    push(f, ROWS - 10, ROWS + 10, 2);
    assert_int_equal(change_to(f, undoing(f)), DIMFIT_OK);
    for (int twice = 0; twice < 2; twice++) {
        assert_row(f, 5, (float[]){1, 1, 1, 1});
        assert_row(f, ROWS - 1, (float[]){1, 3, 1, 3});
        assert_row(f, ROWS + 1, (float[]){0, 2, 0, 2});
        work(f);
    }
    assert_int_equal(shard_epoch(f->shard), 3);
    teardown(f);
}

static void assert_not_undone(struct fixture *f) {
    assert_int_equal(change_to(f, undoing(f)), DIMFIT_ERR_STATE);
    assert_non_null(strstr(f->reply.header.detail.text, "epoch 2 can't be undone here"));
    assert_int_equal(shard_epoch(f->shard), 2);
}

static void a_change_whose_rows_are_not_saved_cannot_be_undone(void **state) {
    struct fixture *const never = setup(false, 0), *const forgotten = setup(true, 0);
    struct fixture *const both[] = {never, forgotten};
    for (size_t i = 0; i < 2; i++) {
        push(both[i], 0, 100, 1);
        assert_int_equal(change_to(both[i], narrowing(both[i])), DIMFIT_OK);
        work(both[i]);
    }
    assert_not_undone(never);
    assert_int_equal(tell(forgotten, WIRE_FORGET, 1), DIMFIT_OK); /* of another epoch: nothing */
    assert_int_equal(tell(forgotten, WIRE_FORGET, 2), DIMFIT_OK);
    assert_not_undone(forgotten);
    teardown(never);
    teardown(forgotten);
}

static void a_change_that_has_no_room_is_refused_before_it_begins(void **state) {
    struct fixture *const f = setup(true, 100 << 20);
    push(f, 0, ROWS, 1);
    f->resident = (100 << 20) - 1000;
    assert_int_equal(change_to(f, narrowing(f)), DIMFIT_ERR_LIMIT);
    assert_int_equal(shard_epoch(f->shard), 1);
    f->resident = 90 << 20;
    assert_int_equal(change_to(f, narrowing(f)), DIMFIT_OK);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_moves_no_row_and_slices_move_all),
        cmocka_unit_test(a_prepare_is_turned_away_while_rows_move),
        cmocka_unit_test(an_undone_change_brings_dropped_coordinates_back),
        cmocka_unit_test(a_change_whose_rows_are_not_saved_cannot_be_undone),
        cmocka_unit_test(a_change_that_has_no_room_is_refused_before_it_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
