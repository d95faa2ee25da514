#include "server/shard.h"

#include "proto/section.h"
#include "proto/shrink.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    SLOT = 3,
    PLAIN = 5, /* counts shows alone */
    DIM = 4,
    KEYS = 5000,
    ROWS_MAX = 300,
};

/* Two slots of integer gradients and SGD of rate 1: a row's value is an exact sum. */
struct fixture {
    struct shard *shard;
    uint64_t seq, random;
    uint8_t *answer;
    struct shard_reply reply;
    /* What the shard said of evicted rows, and what they must have been. */
    struct model_row {
        bool there;
        float value;
        uint32_t shows, clicks, day;
    } rows[KEYS];
    uint64_t evicted;
};

static uint64_t draw(struct fixture *f) {
    uint64_t x = f->random += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ (x >> 31);
}

static uint8_t *io_body(void *self, size_t len) {
    struct fixture *const f = self;
    return f->answer = malloc(len);
}

static void io_evicted(void *self, uint32_t slot, const struct expired_row *rows, size_t n) {
    struct fixture *const f = self;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(slot, SLOT);
        struct model_row *const row = &f->rows[rows[i].feasign];
        assert_true(row->there);
        assert_true(rows[i].counters.shows == (float)row->shows);
        assert_true(rows[i].counters.clicks == (float)row->clicks);
        assert_int_equal(rows[i].counters.day, row->day);
        *row = (struct model_row){0};
    }
    f->evicted += n;
}

static struct fixture *setup(void) {
    struct fixture *const f = calloc(1, sizeof *f);
    struct layout *layout = NULL;
    struct layout_slot spec = {
        .id = SLOT,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .name = "counted",
        .optimizer = {.kind = OPTIMIZER_SGD, .lr = 1, .eps = 1e-8f},
        .init = INIT_ZERO,
        .retention = {.expire_days = 2, .clicks = true},
    };
    assert_int_equal(layout_new(1, 7, &layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(layout, &spec, NULL), DIMFIT_OK);
    spec.id = PLAIN;
    spec.retention = (struct retention){0};
    memcpy(spec.name, "plain", 6);
    assert_int_equal(layout_add_slot(layout, &spec, NULL), DIMFIT_OK);
    const struct shard_options options = {.score_memory = 1 << 20};
    const struct shard_io io = {.self = f, .body = io_body, .evicted = io_evicted};
    assert_int_equal(shard_new(layout, &options, &io, &f->shard), DIMFIT_OK);
    layout_destroy(&layout);
    return f;
}

static void teardown(struct fixture *f) {
    shard_destroy(&f->shard);
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

/* Keys with a gradient of `grad` in every coordinate, so many lookups and clicks each. */
struct batch {
    uint32_t slot, n, lookups, clicks, day;
    float grad;
    uint64_t keys[ROWS_MAX];
};

static uint8_t *put(uint8_t *at, const void *bytes, size_t len) {
    memcpy(at, bytes, len);
    return at + len;
}

static dimfit_err push(struct fixture *f, const struct batch *batch) {
    static uint8_t body[ROWS_MAX * (8 + 4 * DIM + 8) + 100];
    const struct section section = {.slot = batch->slot, .rows = batch->n, .width = DIM};
    uint8_t *at = body + section_put_head(body, &section, 1, SECTION_LOOKUPS | SECTION_CLICKS);
    at = put(at, batch->keys, batch->n * sizeof *batch->keys);
    for (size_t i = 0; i < (size_t)batch->n * DIM; i++)
        at = put(at, &batch->grad, sizeof batch->grad);
    for (size_t i = 0; i < batch->n; i++)
        at = put(at, &batch->lookups, sizeof batch->lookups);
    for (size_t i = 0; i < batch->n; i++)
        at = put(at, &batch->clicks, sizeof batch->clicks);
    const struct wire_header header = {
        .kind = WIRE_PUSH,
        .mode = PUSH_TRAIN,
        .client = 1,
        .incarnation = 1,
        .epoch = 1,
        .seq = ++f->seq,
        .day = batch->day,
    };
    return ask(f, &header, body, (size_t)(at - body));
}

static void pull(struct fixture *f, uint32_t slot, const uint64_t *keys, uint32_t n) {
    static uint8_t body[KEYS * 8 + 100];
    const struct section section = {.slot = slot, .rows = n, .width = DIM};
    uint8_t *const at = put(body + section_put_head(body, &section, 1, 0), keys, n * sizeof *keys);
    const struct wire_header header = {.kind = WIRE_PULL, .epoch = 1};
    assert_int_equal(ask(f, &header, body, (size_t)(at - body)), DIMFIT_OK);
    assert_int_equal(f->reply.len, n * DIM * sizeof(float));
}

static dimfit_err shrink(struct fixture *f, uint64_t number, uint32_t slot, uint32_t day,
                         uint32_t mode) {
    const struct shrink_rule rule = {.slot = slot, .expire_days = 2};
    struct buf buf;
    buf_init(&buf);
    shrink_encode(&rule, 1, &buf);
    const struct wire_header header = {
        .kind = WIRE_SHRINK, .tag = number, .step = day, .mode = mode};
    const dimfit_err err = ask(f, &header, buf.data, buf.len);
    buf_fini(&buf);
    return err;
}

/* Without its slots. */
static struct shard_figures figures_of(struct fixture *f) {
    struct shard_figures figures;
    const struct wire_header header = {.kind = WIRE_GATHER, .mode = GATHER_FIGURES};
    assert_int_equal(ask(f, &header, NULL, 0), DIMFIT_OK);
    assert_int_equal(shard_figures_decode(f->answer, f->reply.len, &figures), DIMFIT_OK);
    struct shard_figures plain = figures;
    shard_figures_fini(&figures);
    plain.slots = NULL;
    return plain;
}

static uint64_t rows_of(struct fixture *f, uint32_t slot) {
    struct shard_figures figures;
    const struct wire_header header = {.kind = WIRE_GATHER, .mode = GATHER_FIGURES};
    assert_int_equal(ask(f, &header, NULL, 0), DIMFIT_OK);
    assert_int_equal(shard_figures_decode(f->answer, f->reply.len, &figures), DIMFIT_OK);
    const uint64_t rows = shard_figures_find(&figures, slot)->table.rows;
    shard_figures_fini(&figures);
    return rows;
}

static void model_push(struct fixture *f, const struct batch *batch) {
    for (size_t i = 0; i < batch->n; i++) {
        struct model_row *const row = &f->rows[batch->keys[i]];
        row->there = true;
        row->value -= batch->grad;
        row->shows += batch->lookups;
        row->clicks += batch->clicks;
        row->day = row->day > batch->day ? row->day : batch->day;
    }
}

static void random_push(struct fixture *f, uint32_t day) {
    struct batch batch = {
        .slot = SLOT,
        .n = 1 + (uint32_t)(draw(f) % ROWS_MAX),
        .lookups = (uint32_t)(draw(f) % 3),
        .clicks = (uint32_t)(draw(f) % 2),
        .day = day,
        .grad = (float)(draw(f) % 9) - 4,
    };
    for (size_t i = 0; i < batch.n; i++)
        batch.keys[i] = draw(f) % (draw(f) % 2 ? KEYS : KEYS / 8);
    assert_int_equal(push(f, &batch), DIMFIT_OK);
    model_push(f, &batch);
}

static void check(struct fixture *f) {
    static uint64_t keys[KEYS];
    uint64_t rows = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        keys[k] = k;
        rows += f->rows[k].there;
    }
    pull(f, SLOT, keys, KEYS);
    for (size_t k = 0; k < KEYS; k++)
        assert_true(load_f32(f->answer + k * DIM * sizeof(float)) == f->rows[k].value);
    const struct shard_figures figures = figures_of(f);
    assert_int_equal(figures.counters.rows_evicted, f->evicted);
    assert_int_equal(shard_has_work(f->shard), figures.shrink.running);
    assert_int_equal(rows_of(f, SLOT), rows);
}

static void requests_between_slices_agree_with_a_model(void **state) {
    struct fixture *const f = setup();
    uint64_t amid = 0;
    for (uint32_t day = 100; day < 120; day++) {
        for (int i = 0; i < 10; i++)
            random_push(f, day);
        assert_int_equal(shrink(f, day, SLOT, day, 0), DIMFIT_OK);
        bool more = true;
        while (more) {
            const uint64_t before = f->evicted;
            more = shard_work(f->shard);
            amid += more && f->evicted > before;
            if (draw(f) % 3 == 0)
                random_push(f, day);
            if (draw(f) % 3 == 0)
                check(f);
        }
        for (size_t k = 0; k < KEYS; k++)
            assert_true(!f->rows[k].there || day - f->rows[k].day <= 2);
        check(f);
        assert_false(shard_work(f->shard));
    }
    assert_true(f->evicted > KEYS && amid > 20);
    teardown(f);
}

static void fill(struct fixture *f, uint32_t slot) {
    struct batch batch = {.slot = slot, .n = 200, .lookups = 1, .day = 100, .grad = 1};
    for (uint64_t i = 0; i < batch.n; i++)
        batch.keys[i] = i;
    assert_int_equal(push(f, &batch), DIMFIT_OK);
    if (slot == SLOT)
        model_push(f, &batch);
}

static void work(struct fixture *f) {
    while (shard_work(f->shard))
        continue;
}

static void a_repeated_number_starts_nothing(void **state) {
    struct fixture *const f = setup();
    fill(f, SLOT);
    assert_int_equal(shrink(f, 4, SLOT, 101, 0), DIMFIT_OK);
    assert_int_equal(figures_of(f).shrink.running, 1);
    assert_int_equal(shrink(f, 4, SLOT, 200, 0), DIMFIT_OK); /* that would evict all */
    work(f);
    assert_int_equal(shrink(f, 4, SLOT, 200, 0), DIMFIT_OK);
    assert_false(shard_has_work(f->shard));
    const struct shrink_figures figures = figures_of(f).shrink;
    assert_int_equal(figures.number, 4);
    assert_int_equal(figures.slots, 1);
    assert_int_equal(figures.slots_done, 1);
    assert_int_equal(figures.keys, 200);
    assert_int_equal(figures.keys_done, 200);
    assert_int_equal(figures.rows_evicted, 0);
    assert_int_equal(shrink(f, 5, SLOT, 200, 0), DIMFIT_OK);
    work(f);
    assert_int_equal(figures_of(f).shrink.rows_evicted, 200);
    teardown(f);
}

static void another_shrink_takes_the_place_of_one_under_way(void **state) {
    struct fixture *const f = setup();
    for (int i = 0; i < 20; i++)
        random_push(f, 100);
    assert_int_equal(shrink(f, 1, SLOT, 200, 0), DIMFIT_OK);
    assert_true(shard_work(f->shard));
    const uint64_t gone = f->evicted;
    assert_true(gone > 0);
    assert_int_equal(shrink(f, 2, SLOT, 101, 0), DIMFIT_OK); /* nothing is that old */
    work(f);
    assert_int_equal(f->evicted, gone);
    const struct shrink_figures figures = figures_of(f).shrink;
    assert_int_equal(figures.number, 2);
    assert_int_equal(figures.rows_evicted, 0);
    check(f);
    teardown(f);
}

static void a_dry_run_says_what_would_go(void **state) {
    struct fixture *const f = setup();
    fill(f, SLOT);
    assert_int_equal(shrink(f, 1, SLOT, 200, SHRINK_DRY_RUN), DIMFIT_OK);
    work(f);
    const struct shard_figures figures = figures_of(f);
    assert_int_equal(figures.shrink.dry_run, 1);
    assert_int_equal(figures.shrink.rows_evicted, 200);
    assert_int_equal(figures.counters.rows_evicted, 0);
    assert_int_equal(f->evicted, 0);
    check(f);
    teardown(f);
}

static void a_shrink_that_makes_no_sense_is_refused(void **state) {
    struct fixture *const f = setup();
    fill(f, SLOT);
    assert_int_equal(shrink(f, 1, SLOT + 1, 200, 0), DIMFIT_ERR_UNKNOWN_SLOT);
    assert_int_equal(shrink(f, 1, SLOT, 0, 0), DIMFIT_ERR_INVALID);
    assert_int_equal(shrink(f, 1, SLOT, COUNTERS_DAY_MAX + 1, 0), DIMFIT_ERR_INVALID);
    assert_int_equal(shrink(f, 1, SLOT, 200, 6), DIMFIT_ERR_INVALID);
    assert_int_equal(shrink(f, 0, SLOT, 200, 0), DIMFIT_ERR_INVALID);
    const struct wire_header header = {.kind = WIRE_SHRINK, .tag = 1, .step = 200};
    assert_int_equal(ask(f, &header, "nonsense", 8), DIMFIT_ERR_PROTOCOL);
    assert_false(shard_has_work(f->shard));
    assert_int_equal(figures_of(f).shrink.number, 0);
    teardown(f);
}

static void clicks_are_for_slots_that_count_them(void **state) {
    struct fixture *const f = setup();
    struct batch batch = {.slot = PLAIN, .n = 2, .lookups = 1, .clicks = 1, .day = 9, .grad = 1};
    batch.keys[0] = 17;
    assert_int_equal(push(f, &batch), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(f->reply.header.detail.text, "slot 5 counts no clicks"));
    pull(f, PLAIN, batch.keys, 1);
    assert_true(load_f32(f->answer) == 0);
    batch.clicks = 0; /* none is none */
    assert_int_equal(push(f, &batch), DIMFIT_OK);
    pull(f, PLAIN, batch.keys, 1);
    assert_true(load_f32(f->answer) == -1);
    batch.day = COUNTERS_DAY_MAX + 1;
    assert_int_equal(push(f, &batch), DIMFIT_ERR_INVALID);
    batch.day = COUNTERS_DAY_MAX;
    assert_int_equal(push(f, &batch), DIMFIT_OK);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_between_slices_agree_with_a_model),
        cmocka_unit_test(a_repeated_number_starts_nothing),
        cmocka_unit_test(another_shrink_takes_the_place_of_one_under_way),
        cmocka_unit_test(a_dry_run_says_what_would_go),
        cmocka_unit_test(a_shrink_that_makes_no_sense_is_refused),
        cmocka_unit_test(clicks_are_for_slots_that_count_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
