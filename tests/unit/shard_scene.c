#include "tests/unit/shard_scene.h"

#include "proto/section.h"
#include "proto/shrink.h"
#include "proto/sums.h"
#include "server/shard_internal.h"
#include "tests/unit/buf_archive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

const struct shard_options scene_options = {.score_memory = 60000, .score_sample = 1, .keep = true};

uint64_t draw(struct fixture *f, uint64_t end) {
    uint64_t x = f->random += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % end;
}

/* ---- the shards' outside --------------------------------------------------------------------- */

static uint8_t *io_body(void *self, size_t len) {
    const struct outside *const o = self;
    return o->f->answers[o->which] = calloc(1, len);
}

static void io_evicted(void *self, uint32_t slot, const struct expired_row *rows, size_t n) {
    const struct outside *const o = self;
    for (size_t i = 0; i < n; i++)
        buf_put_u64(&o->f->evicted[o->which], rows[i].feasign * SLOTS + slot);
}

static dimfit_err io_log(void *self, const struct wire_header *header, const void *body, size_t len,
                         struct err_detail *detail) {
    const struct outside *const o = self;
    return shard_store_log(o->f->store, header, body, len, detail);
}

static void io_unlog(void *self) {
    const struct outside *const o = self;
    shard_store_unlog(o->f->store);
}

struct shard_io io_of(struct fixture *f, size_t which) {
    const struct shard_io io = {
        .self = &f->outsides[which], .body = io_body, .evicted = io_evicted};
    struct shard_io logged = io;
    logged.log = io_log;
    logged.unlog = io_unlog;
    return which == 0 && f->store != NULL ? logged : io;
}

/* Slots of every kind of state, one that keeps feasigns waiting. */
struct fixture *setup(uint64_t seed) {
    static const enum optimizer_kind kinds[SLOTS] = {OPTIMIZER_ADAM, OPTIMIZER_ROWWISE_ADAGRAD,
                                                     OPTIMIZER_SGD, OPTIMIZER_ADAGRAD};
    static const struct retention kept[SLOTS] = {
        {.expire_days = 3},
        {.admit = 3, .expire_days = 4, .clicks = true, .decay = 0.9f},
        {0},
        {0}};
    struct fixture *const f = calloc(1, sizeof *f);
    f->random = seed;
    f->day = 100;
    f->n = 1;
    assert_int_equal(layout_new(1, seed, &f->layout), DIMFIT_OK);
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct layout_slot spec = {
            .id = 10 * i,
            .dim = DIM,
            .width = DIM,
            .search = i != 2,
            .optimizer =
                {.kind = kinds[i], .lr = 0.1f, .eps = 1e-6f, .beta1 = 0.9f, .beta2 = 0.99f},
            .init = INIT_NORMAL,
            .init_scale = 0.1f,
            .retention = kept[i],
        };
        if (i == 3) {
            spec.n_tiers = 3;
            memcpy(spec.tier_shows, (const uint32_t[]){0, 3, 6}, 3 * sizeof(uint32_t));
        }
        snprintf(spec.name, sizeof spec.name, "slot %u", i);
        assert_int_equal(layout_add_slot(f->layout, &spec, NULL), DIMFIT_OK);
    }
    for (size_t i = 0; i < 2; i++) {
        f->outsides[i] = (struct outside){f, i};
        buf_init(&f->evicted[i]);
    }
    const struct shard_io io = io_of(f, 0);
    assert_int_equal(shard_new(f->layout, &scene_options, &io, &f->shards[0]), DIMFIT_OK);
    return f;
}

void teardown(struct fixture *f) {
    for (size_t i = 0; i < 2; i++) {
        shard_destroy(&f->shards[i]);
        free(f->answers[i]);
        buf_fini(&f->evicted[i]);
    }
    change_destroy(&f->last);
    layout_destroy(&f->layout);
    layout_destroy(&f->before);
    free(f);
}

static void assert_same_answers(const struct fixture *f) {
    const struct shard_reply *const a = &f->replies[0], *const b = &f->replies[1];
    assert_int_equal(a->header.status, b->header.status);
    assert_int_equal(a->header.epoch, b->header.epoch);
    assert_int_equal(a->header.seq, b->header.seq);
    assert_int_equal(a->header.phase, b->header.phase);
    assert_int_equal(a->header.frozen, b->header.frozen);
    assert_int_equal(a->header.curvature, b->header.curvature);
    assert_string_equal(a->header.detail.text, b->header.detail.text);
    assert_int_equal(a->len, b->len);
    assert_int_equal(a->later, b->later);
    if (a->len > 0)
        assert_memory_equal(f->answers[0], f->answers[1], a->len);
}

dimfit_err ask(struct fixture *f, const struct wire_header *header, const void *body, size_t len) {
    for (size_t i = 0; i < f->n; i++) {
        free(f->answers[i]);
        f->answers[i] = NULL;
        if (header->kind < WIRE_ADD_SLOTS || header->kind == WIRE_SCORE_SUMS)
            shard_request(f->shards[i], header, body, len, &f->replies[i]);
        else
            shard_command(f->shards[i], header, body, len, &f->replies[i]);
    }
    if (f->n == 2)
        assert_same_answers(f);
    return f->replies[0].header.status;
}

void work(struct fixture *f) {
    for (size_t i = 0; i < f->n; i++) {
        while (shard_work(f->shards[i]))
            ;
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

static void put_floats(struct fixture *f, struct buf *body, size_t n) {
    for (size_t i = 0; i < n; i++)
        buf_put_f32(body, (float)((double)draw(f, 2001) - 1000) / 500);
}

void send_push(struct fixture *f, uint32_t mode, bool again) {
    struct section items[2] = {{.rows = 1 + (uint32_t)draw(f, BATCH)}, {.rows = 7}};
    const uint32_t first = (uint32_t)draw(f, SLOTS - 1);
    uint32_t slots[2] = {first, first + 1};
    for (size_t i = 0; i < 2; i++) {
        items[i].slot = 10 * slots[i];
        items[i].width = f->layout->slots[slots[i]].width;
    }
    uint8_t head[100];
    struct buf body;
    buf_init(&body);
    buf_put(&body, head, section_put_head(head, items, 2, SECTION_LOOKUPS | SECTION_CLICKS));
    const size_t n = items[0].rows + items[1].rows;
    for (size_t i = 0; i < n; i++)
        buf_put_u64(&body, draw(f, KEYS));
    for (size_t i = 0; i < 2; i++)
        put_floats(f, &body, (size_t)items[i].rows * items[i].width);
    for (size_t i = 0; i < n; i++)
        buf_put_u32(&body, (uint32_t)draw(f, 3));
    for (size_t i = 0; i < 2; i++) {
        const bool clicks = f->layout->slots[slots[i]].retention.clicks;
        for (size_t k = 0; k < items[i].rows; k++)
            buf_put_u32(&body, clicks ? (uint32_t)draw(f, 2) : 0);
    }
    const size_t client = draw(f, CLIENTS);
    const struct wire_header header = {
        .kind = WIRE_PUSH,
        .mode = mode,
        .client = 100 + client,
        .incarnation = 1,
        .epoch = f->layout->epoch,
        .seq = f->seq[client] += again ? 0 : 1,
        .step = ++f->step / 2 + 1, /* in a live search any push is scored */
        .samples = 32,
        .day = f->day,
    };
    if (header.seq > 0) {
        const dimfit_err err = ask(f, &header, body.data, body.len);
        /* In a search a step of scores may find no memory; what is repeated was what it was. */
        if (err != DIMFIT_OK && !again && !(err == DIMFIT_ERR_LIMIT && mode == PUSH_SCORE))
            fail_msg("%s", f->replies[0].header.detail.text);
    }
    buf_fini(&body);
}

void send_pull(struct fixture *f) {
    uint8_t body[100 + 8 * BATCH];
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        const struct section section = {.slot = 10 * slot, .rows = BATCH};
        const size_t head = section_put_head(body, &section, 1, 0);
        for (size_t i = 0; i < BATCH; i++) {
            const uint64_t key = draw(f, KEYS);
            memcpy(body + head + 8 * i, &key, 8);
        }
        const struct wire_header header = {.kind = WIRE_PULL, .epoch = f->layout->epoch};
        assert_int_equal(ask(f, &header, body, head + 8 * BATCH), DIMFIT_OK);
    }
}

void send_dense(struct fixture *f) {
    struct wire_header header = {.kind = WIRE_DENSE_RESET, .tag = f->layout->epoch};
    snprintf(header.name, sizeof header.name, "layer %u", (unsigned)draw(f, 3));
    struct buf body;
    buf_init(&body);
    buf_put_u8(&body, OPTIMIZER_ADAM);
    for (int i = 0; i < 4; i++)
        buf_put_f32(&body, 0.5f);
    put_floats(f, &body, 50);
    assert_int_equal(ask(f, &header, body.data, body.len), DIMFIT_OK);
    body.len = 0;
    put_floats(f, &body, 50);
    header.kind = WIRE_DENSE_PUSH;
    header.client = 100;
    header.incarnation = 1;
    header.seq = ++f->seq[0];
    (void)ask(f, &header, body.data, body.len);
    buf_fini(&body);
}

/* Of a slot whose rows live elsewhere as well. */
static void send_sums(struct fixture *f) {
    double g[DIM];
    for (size_t k = 0; k < DIM; k++)
        g[k] = (double)draw(f, 1000) - 500;
    const struct sums sums = {0, f->layout->slots[0].width, draw(f, 1 << 20), (const uint8_t *)g};
    struct buf body;
    buf_init(&body);
    sums_encode(&sums, 1, &body);
    const struct wire_header header = {
        .kind = WIRE_SCORE_SUMS,
        .client = 101,
        .incarnation = 1,
        .epoch = f->layout->epoch,
        .seq = ++f->seq[1],
        .step = ++f->step / 2 + 1,
        .samples = 8,
    };
    (void)ask(f, &header, body.data, body.len); /* not in a search that fits bases */
    buf_fini(&body);
}

void send_gather(struct fixture *f) {
    const struct wire_header header = {
        .kind = WIRE_GATHER, .request = 1, .mode = GATHER_SCORES | GATHER_MOMENTS};
    (void)ask(f, &header, NULL, 0);
    assert_true(f->replies[0].later);
    for (size_t i = 0; i < f->n; i++) {
        free(f->answers[i]);
        f->answers[i] = NULL;
        while (!shard_due(f->shards[i], &f->replies[i]))
            assert_true(shard_work(f->shards[i]));
        assert_int_equal(f->replies[i].header.status, DIMFIT_OK);
    }
    if (f->n == 2)
        assert_same_answers(f);
}

void send_shrink(struct fixture *f, bool interleave) {
    const struct shrink_rule rules[] = {{.slot = 0, .expire_days = 3},
                                        {.slot = 10, .expire_days = 4, .expire_shows = 0.5f},
                                        {.slot = 30}}; /* to the tiers alone */
    struct buf body;
    buf_init(&body);
    shrink_encode(rules, 3, &body);
    const struct wire_header header = {.kind = WIRE_SHRINK, .tag = ++f->shrinks, .step = f->day};
    assert_int_equal(ask(f, &header, body.data, body.len), DIMFIT_OK);
    buf_fini(&body);
    for (int i = 0; interleave && i < 20; i++) {
        for (size_t k = 0; k < f->n; k++)
            (void)shard_work(f->shards[k]);
        send_push(f, PUSH_TRAIN, false);
        send_pull(f);
    }
    work(f);
}

void send_scoring(struct fixture *f, bool start) {
    const struct wire_header header = {
        .kind = start ? WIRE_SCORE_START : WIRE_SCORE_STOP,
        .tag = 1 + draw(f, 100),
        .mode = SCORE_WANT_LIVE | (draw(f, 2) == 0 ? SCORE_WANT_MOMENTS : 0),
        .step = draw(f, 2) * 20,
        .phase = start             ? PHASE_SCORING
                 : draw(f, 2) == 0 ? PHASE_PLANNED
                                   : PHASE_COMPARED,
    };
    assert_int_equal(ask(f, &header, NULL, 0), DIMFIT_OK);
}

dimfit_err prepare(struct fixture *f, const struct change *change, const struct layout *next) {
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

struct change *narrowing(struct fixture *f, uint32_t slot) {
    struct change *change = NULL;
    const uint32_t from = f->layout->slots[slot].width, gone = (uint32_t)draw(f, from);
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], 10 * slot, from, from - 1, false),
                     DIMFIT_OK);
    struct change_slot *const s = &change->slots[0];
    s->n_tiers = f->layout->slots[slot].n_tiers;
    for (uint32_t t = 0; t < s->n_tiers; t++) {
        s->tier_from[t] = f->layout->slots[slot].tier_widths[t];
        s->tier_to[t] = s->tier_from[t] < from ? s->tier_from[t] : from - 1;
        if (t + 1 < s->n_tiers && s->tier_to[t] > 0)
            s->tier_to[t]--;
    }
    for (uint32_t k = 0; k < from - 1; k++)
        change->slots[0].keep[k] = (uint16_t)(k < gone ? k : k + 1);
    return change;
}

struct layout *layout_after(const struct fixture *f, const struct change *change) {
    struct layout *next = NULL;
    assert_int_equal(
        change_apply(change, f->layout, change->undoes != 0 ? f->before : NULL, &next, NULL),
        DIMFIT_OK);
    return next;
}

dimfit_err commit(struct fixture *f, const struct layout *next) {
    const struct wire_header header = {.kind = WIRE_COMMIT, .tag = next->epoch};
    return ask(f, &header, NULL, 0);
}

void switched(struct fixture *f, struct change *change, struct layout *next) {
    layout_destroy(&f->before);
    change_destroy(&f->last);
    f->before = f->layout;
    f->layout = next;
    f->last = change;
}

void change_to(struct fixture *f, struct change *change) {
    struct layout *const next = layout_after(f, change);
    assert_int_equal(prepare(f, change, next), DIMFIT_OK);
    assert_int_equal(commit(f, next), DIMFIT_OK);
    switched(f, change, next);
    send_push(f, PUSH_TRAIN, false);
    work(f);
}

void roll_back(struct fixture *f) {
    struct change *undo = NULL;
    assert_int_equal(change_undo(f->last, f->layout->epoch + 1, &undo), DIMFIT_OK);
    change_to(f, undo);
}

void live_a_little(struct fixture *f, int messages) {
    for (int i = 0; i < messages; i++) {
        f->day += draw(f, 20) == 0;
        switch (draw(f, 12)) {
        case 0:
            send_pull(f);
            break;
        case 1:
            send_dense(f);
            break;
        case 2:
            send_push(f, PUSH_SCORE, false);
            break;
        case 3:
            send_push(f, PUSH_TRAIN, true); /* its number is there already */
            break;
        case 4:
            send_sums(f);
            break;
        case 5:
            send_push(f, PUSH_TRAIN | PUSH_SCORE, false);
            break;
        default:
            send_push(f, PUSH_TRAIN, false);
        }
    }
}

void forget_what_is_not_logged(struct fixture *f) {
    for (size_t i = 0; i < 2; i++) {
        struct shard_counters *const c = &f->shards[i]->counters;
        c->pull_requests = c->keys_pulled = c->dense_requests = 0;
        c->repeats = c->stale = c->frozen = c->refused = c->malformed = 0;
        f->evicted[i].len = 0; /* a replay tells nobody */
    }
}

void assert_same_state(const struct fixture *f) {
    struct buf a, b;
    buf_init(&a);
    buf_init(&b);
    buf_archive_save(f->shards[0], SHARD_SAVE_UNDO, &a);
    buf_archive_save(f->shards[1], SHARD_SAVE_UNDO, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_int_equal(f->evicted[0].len, f->evicted[1].len);
    if (f->evicted[0].len > 0)
        assert_memory_equal(f->evicted[0].data, f->evicted[1].data, f->evicted[0].len);
    buf_fini(&a);
    buf_fini(&b);
}
