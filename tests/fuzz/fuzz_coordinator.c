/*
 * A whole coordinator under a script of messages from shards, workers and admins, of time passing,
 * plans made, and restarts from what it saved. Each operation takes a few bytes of the input.
 *
 * What must hold: what it sends can be sent, its admin answers are JSON, the epoch never goes back,
 * and what it saved begins another one.
 */
#include "proto/shrink.h"
#include "proto/trial.h"
#include "server/coordinator.h"
#include "server/log.h"
#include "server/figures.h"
#include "server/hello.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHARDS = 2, WORKER = 3, OPS_MAX = 120, PENDING_MAX = 32, PLANS_MAX = 24, BODY_MAX = 4096 };

static const char *const commands[] = {
    "status",       "stats",        "slots",           "scores",
    "strategies",   "search start", "search status",   "search plan",
    "search plans", "search apply", "search rollback", "search discard",
    "search abort", "shrink",       "shrink status",   "nothing",
};

/* Arguments that the commands take; an admin's own come from the input. */
static const char *const arguments[] = {
    "",
    "{}",
    "{\"kappa\": 0.5}",
    "{\"kappa\": 0.5, \"basis\": \"axis\", \"plan_only\": true}",
    "{\"kappa\": 0.7, \"mode\": \"freeze\", \"samples\": 10, \"basis\": \"kfac\"}",
    "{\"kappa\": 0.6, \"strategy\": \"measured\", \"trial_samples\": 8}",
    "{\"kappa\": 2, \"grow\": true, \"grow_init\": \"drawn\", \"half_life\": 3, \"window\": 2}",
    "{\"kappa\": 0.5, \"strategy\": \"uniform\", \"count\": \"dims\", \"rank\": \"density\"}",
    "{\"plan\": 1}",
    "{\"plan\": 2, \"dry_run\": true}",
    "{\"saved\": true}",
    "{\"dry_run\": true}",
    "{\"estimator\": \"row\"}",
    "{\"unseen_days\": 3, \"shows\": 1.5, \"slots\": [1, \"item\"], \"dry_run\": false}",
};

struct saved_plan {
    uint64_t id;
    struct buf bytes;
};

struct pending { /* a command to a shard that was not answered yet */
    struct wire_header header;
    size_t shard;
};

struct play {
    struct coordinator *coordinator;
    struct strategies *strategies;
    struct reader in;
    int64_t now_ms;
    uint64_t epoch;
    struct layout *layout; /* what it saved last */
    struct buf state, trials;
    size_t n_plans, n_pending;
    struct saved_plan plans[PLANS_MAX];
    struct pending pending[PENDING_MAX];
    struct plan_job *job;
    size_t answered; /* requests that were carried out */
};

/* ---- its outside ----------------------------------------------------------------------------- */

static void io_send(void *self, const struct route *to, const struct wire_header *header,
                    const void *body, size_t len) {
    struct play *const play = self;
    uint8_t encoded[WIRE_HEADER_MAX];
    struct wire_header decoded;
    REQUIRE(wire_decode(encoded, wire_encode(header, encoded), &decoded, NULL) == DIMFIT_OK);
    REQUIRE(len == 0 || body != NULL);
    if (header->reply) {
        /* A restarted one may be behind what was never confirmed, not behind what it saved. */
        REQUIRE(header->epoch >= play->epoch);
        play->epoch = header->epoch;
        play->answered += header->status == DIMFIT_OK;
        if (header->kind == WIRE_ADMIN && header->status == DIMFIT_OK) {
            json_t *const json = json_loadb(body, len, 0, NULL);
            REQUIRE(json_is_object(json));
            json_decref(json);
        }
        return;
    }
    if (play->n_pending < PENDING_MAX && to->len == 1 && to->id[0] < WORKER)
        play->pending[play->n_pending++] = (struct pending){decoded, to->id[0]};
}

static int64_t io_now_ms(void *self) {
    return ((const struct play *)self)->now_ms;
}

static int64_t io_wall_s(void *self) {
    return 1700000000 + ((const struct play *)self)->now_ms / 1000;
}

static dimfit_err io_save(void *self, const void *bytes, size_t len, struct err_detail *detail) {
    struct play *const play = self;
    struct reader in = reader_of(bytes, len);
    play->state.len = 0;
    buf_put(&play->state, bytes, len);
    (void)reader_take(&in, 3 * sizeof(uint64_t)); /* magic, checksum, cluster */
    const uint32_t shards = reader_u32(&in);
    (void)reader_take(&in, shards + sizeof(uint64_t)); /* which keep rows, next search */
    const size_t layout_len = reader_u64(&in);
    layout_destroy(&play->layout);
    REQUIRE(layout_decode(reader_take(&in, layout_len), layout_len, &play->layout, NULL) ==
            DIMFIT_OK);
    return buf_status(&play->state);
}

static struct saved_plan *find_plan(struct play *play, uint64_t id) {
    for (size_t i = 0; i < play->n_plans; i++) {
        if (play->plans[i].id == id)
            return &play->plans[i];
    }
    return NULL;
}

static dimfit_err io_save_plan(void *self, uint64_t id, const void *bytes, size_t len,
                               struct err_detail *detail) {
    struct play *const play = self;
    struct saved_plan *plan = find_plan(play, id);
    if (bytes == NULL) {
        if (plan != NULL) {
            buf_fini(&plan->bytes);
            *plan = play->plans[--play->n_plans];
        }
        return DIMFIT_OK;
    }
    if (plan == NULL) {
        REQUIRE(play->n_plans < PLANS_MAX); /* no more than are kept, and the one that is added */
        plan = &play->plans[play->n_plans++];
        *plan = (struct saved_plan){.id = id};
    }
    plan->bytes.len = 0;
    buf_put(&plan->bytes, bytes, len);
    return buf_status(&plan->bytes);
}

static dimfit_err io_keep_trials(void *self, const void *bytes, size_t len,
                                 struct err_detail *detail) {
    struct play *const play = self;
    play->trials.len = 0;
    buf_put(&play->trials, bytes, len);
    return buf_status(&play->trials);
}

static dimfit_err io_kept_trials(void *self, struct buf *out, struct err_detail *detail) {
    const struct play *const play = self;
    if (play->trials.len == 0)
        return DIMFIT_ERR_NOT_FOUND;
    buf_put(out, play->trials.data, play->trials.len);
    return buf_status(out);
}

static void io_audit(void *self, const char *line) {
    json_t *const json = json_loads(line, 0, NULL);
    REQUIRE(json_is_object(json));
    json_decref(json);
}

static void io_plan(void *self, struct plan_job *job) {
    struct play *const play = self;
    REQUIRE(play->job == NULL);
    play->job = job;
}

static void io_stop(void *self) {
}

static void begin(struct play *play, bool anew) {
    const struct coordinator_io io = {
        .self = play,
        .send = io_send,
        .now_ms = io_now_ms,
        .wall_s = io_wall_s,
        .save = io_save,
        .save_plan = io_save_plan,
        .audit = io_audit,
        .keep_trials = io_keep_trials,
        .kept_trials = io_kept_trials,
        .plan = io_plan,
        .stop = io_stop,
    };
    /* Without the one whose optimizer takes no basis but its axes. */
    const struct layout_slot slots[] = {scene_slots()[0], scene_slots()[1], scene_slots()[3]};
    struct coordinator_options options = {
        .shards = SHARDS,
        .seed = 7,
        .cluster = 77,
        .auto_slots = true,
        .defaults = scene_slots()[0],
        .n_slots = ARRAY_LEN(slots),
        .slots = slots,
        .scoring_timeout_ms = 5000,
        .step_timeout_ms = 1000,
        .shrink_at = 4 * 60,
        .strategies = play->strategies,
    };
    options.defaults.id = 0;
    struct err_detail detail;
    uint8_t *const state = fuzz_copy(play->state.data, play->state.len);
    const size_t len = play->state.len;
    REQUIRE(coordinator_new(&options, &io, anew ? NULL : state, anew ? 0 : len, &play->coordinator,
                            &detail) == DIMFIT_OK);
    free(state);
    for (size_t i = 0; i < play->n_plans; i++) {
        const struct buf *const plan = &play->plans[i].bytes;
        REQUIRE(coordinator_restore_plan(play->coordinator, plan->data, plan->len, &detail) ==
                DIMFIT_OK);
    }
}

static void restart(struct play *play) {
    coordinator_destroy(&play->coordinator);
    plan_job_destroy(&play->job);
    play->n_pending = 0;
    begin(play, false);
}

/* ---- messages to it -------------------------------------------------------------------------- */

static void receive(struct play *play, size_t from, const struct wire_header *header,
                    const uint8_t *body, size_t len) {
    const struct route route = {.len = 1, .id = {(uint8_t)from}};
    uint8_t *const exact = fuzz_copy(body, len);
    coordinator_receive(play->coordinator, &route, header, exact, len);
    free(exact);
}

static void enter(struct play *play, size_t shard, uint8_t form) {
    struct hello hello = {.pid = 10 + shard, .number = HELLO_NO_NUMBER};
    if ((form & 1) != 0) { /* one that has rows */
        hello.number = (form >> 1) & 3;
        hello.epoch = play->epoch - (form >> 3 & 1);
        hello.prepared_epoch = form >> 4 & 7;
        hello.search = form >> 7;
        hello.cluster = (form >> 6 & 1) != 0 ? 77 : form >> 5 & 1;
        hello.shards = 1 + (form >> 3 & 3);
        hello.slots = form >> 5;
    }
    snprintf(hello.endpoint, sizeof hello.endpoint, "tcp://shard:%zu", shard);
    const struct wire_header header = {.kind = WIRE_REGISTER, .client = 100 + shard + (form & 2)};
    struct buf body;
    buf_init(&body);
    hello_encode(&hello, &body);
    receive(play, shard, &header, body.data, body.len);
    buf_fini(&body);
}

static void fill(struct play *play, double *values, size_t n) {
    for (size_t i = 0; values != NULL && i < n; i++)
        values[i] = (double)(int8_t)reader_u8(&play->in) / 16;
}

/* Second moments are of r^T r: symmetric, and no entry is larger than those on the diagonal. */
static void fill_square(struct play *play, double *values, size_t w) {
    for (size_t i = 0; values != NULL && i < w; i++) {
        const double v = (double)reader_u8(&play->in) / 16;
        for (size_t j = 0; j < w; j++)
            values[i * w + j] = i == j ? v + 1 : 0;
    }
}

/* What a shard would say of the rows of one tier, by bytes of the input. */
static void add_entry(struct play *play, const struct layout_slot *spec, uint32_t tier,
                      bool moments, struct stats *stats, struct step_stats *step) {
    const uint32_t w = spec->tier_widths[tier];
    struct slot_stats *const s = stats_add_slot(stats, spec->id, tier, w, moments);
    REQUIRE(s != NULL);
    s->rows = reader_u8(&play->in);
    s->lookups = 2 * (double)s->rows;
    fill(play, s->sum, w);
    fill_square(play, s->second, w);
    fill(play, s->looked_sum, w);
    fill_square(play, s->looked_second, w);
    if (step == NULL)
        return;
    struct step_slot *const part = step_add_slot(step, spec->id, tier, w, moments);
    REQUIRE(part != NULL && stats_add_row_score(s));
    fill(play, part->g, w);
    fill_square(play, part->C, w);
    if ((reader_u8(&play->in) & 1) != 0) {
        REQUIRE(stats_add_curvature(s));
        fill_square(play, s->curvature, w);
        s->curved = 20;
    }
}

static void make_stats(struct play *play, uint32_t mode, struct buf *out) {
    struct stats *stats = NULL;
    const bool moments = (mode & GATHER_MOMENTS) != 0;
    REQUIRE(stats_new(play->layout->epoch, &stats) == DIMFIT_OK);
    struct step_stats *const step = (mode & GATHER_SCORES) != 0 ? stats_add_step(stats, 3) : NULL;
    for (size_t i = 0; i < play->layout->n_slots; i++) {
        for (uint32_t tier = 0; tier < play->layout->slots[i].n_tiers; tier++)
            add_entry(play, &play->layout->slots[i], tier, moments, stats, step);
    }
    if (step != NULL)
        REQUIRE(step_add_worker(step, WORKER, 64) == DIMFIT_OK);
    stats_encode(stats, out);
    stats_destroy(&stats);
}

static void make_figures(struct play *play, struct buf *out) {
    struct slot_figures slots[SCENE_SLOTS] = {{0}};
    struct shard_figures figures = {.epoch = play->epoch, .n_slots = SCENE_SLOTS, .slots = slots};
    for (uint32_t i = 0; i < SCENE_SLOTS; i++) {
        slots[i].slot = i + 1;
        slots[i].table.rows = reader_u8(&play->in);
    }
    figures.shrink.number = reader_u8(&play->in) & 7;
    figures.shrink.running = reader_u8(&play->in) & 1;
    shard_figures_encode(&figures, out);
}

/* The oldest command is answered, as a shard would or by an error, whole or damaged. */
static void answer(struct play *play, uint8_t form) {
    if (play->n_pending == 0)
        return;
    const struct pending asked = play->pending[0];
    memmove(play->pending, play->pending + 1, --play->n_pending * sizeof play->pending[0]);
    struct wire_header header = {.kind = asked.header.kind,
                                 .reply = true,
                                 .request = asked.header.request,
                                 .epoch = asked.header.kind == WIRE_COMMIT ? asked.header.tag
                                                                           : play->epoch};
    struct buf body;
    buf_init(&body);
    if ((form & 7) == 7)
        header.status = reader_u8(&play->in) % 30;
    else if (asked.header.kind == WIRE_GATHER && (asked.header.mode & GATHER_FIGURES) != 0)
        make_figures(play, &body);
    else if (asked.header.kind == WIRE_GATHER)
        make_stats(play, asked.header.mode, &body);
    if ((form & 7) == 6 && body.len > 0) {
        body.data[reader_u16(&play->in) % body.len] ^= (uint8_t)(reader_u8(&play->in) | 1);
        body.len -= reader_u8(&play->in) % 2 * (body.len / 3);
    }
    receive(play, asked.shard, &header, body.data, body.len);
    buf_fini(&body);
}

static void administrate(struct play *play, uint8_t form) {
    struct wire_header header = {.kind = WIRE_ADMIN, .request = 5};
    snprintf(header.name, sizeof header.name, "%s", commands[form % ARRAY_LEN(commands)]);
    const uint8_t which = reader_u8(&play->in);
    if (which < 0x80) {
        const char *const text = arguments[which % ARRAY_LEN(arguments)];
        receive(play, WORKER, &header, (const uint8_t *)text, strlen(text));
        return;
    }
    const size_t wanted = reader_u16(&play->in) % BODY_MAX;
    const size_t len = wanted < play->in.left ? wanted : play->in.left;
    receive(play, WORKER, &header, reader_take(&play->in, len), len);
}

static void declare(struct play *play, uint8_t form) {
    const struct wire_header header = {.kind = WIRE_DECLARE};
    struct buf body;
    buf_init(&body);
    buf_put_u32(&body, 1);
    buf_put_u32(&body, 10 + (form & 1));
    buf_put_u32(&body, form >> 1 & 7);
    buf_put_str(&body, (form & 0x10) != 0 ? "" : "more");
    buf_put_u8(&body, form >> 5 & 1);
    buf_put_str(&body, (form & 0x40) != 0 ? "adam" : "");
    buf_put_f64(&body, reader_f32(&play->in));
    buf_put_str(&body, "");
    buf_put_f64(&body, 0.1);
    buf_put_u8(&body, (form & 0x80) != 0 ? 1 : DECLARE_NO_TIERS);
    buf_put_u32(&body, 3);
    body.len -= (form & 0x80) != 0 ? 0 : sizeof(uint32_t);
    receive(play, WORKER, &header, body.data, body.len);
    buf_fini(&body);
}

static void report_trial(struct play *play, uint8_t form) {
    const struct trial_figures figures = {0.4 + (double)(form & 15) / 100, 0.8, 0.4, 0.81, 0.001};
    const struct wire_header header = {.kind = WIRE_TRIAL_NEXT,
                                       .client = WORKER + (form >> 7),
                                       .tag = 1 + (form >> 6 & 1),
                                       .step = reader_u8(&play->in) & 7,
                                       .samples = 8};
    struct buf body;
    buf_init(&body);
    if (header.step != 0)
        trial_encode(&figures, &body);
    receive(play, WORKER, &header, body.data, body.len);
    buf_fini(&body);
}

static void raw(struct play *play, uint8_t form) {
    struct wire_header header = {.kind = reader_u8(&play->in) % 64, .reply = (form & 4) != 0};
    header.tag = reader_u8(&play->in);
    header.step = reader_u8(&play->in);
    header.request = reader_u8(&play->in);
    header.samples = reader_u16(&play->in);
    header.mode = reader_u8(&play->in);
    header.client = form >> 4;
    header.name[0] = 'b';
    if (header.reply && play->n_pending > 0)
        header.request = play->pending[play->n_pending - 1].header.request;
    const size_t wanted = reader_u16(&play->in) % BODY_MAX;
    const size_t len = wanted < play->in.left ? wanted : play->in.left;
    receive(play, 1 + (form & 3), &header, reader_take(&play->in, len), len);
}

static void small(struct play *play, uint8_t form) {
    struct wire_header header = {.client = WORKER + (form >> 7), .request = 9};
    header.kind = (form & 3) == 0   ? WIRE_CONNECT
                  : (form & 3) == 1 ? WIRE_HEARTBEAT
                  : (form & 3) == 2 ? WIRE_SCORE_NEXT
                                    : WIRE_BARRIER;
    header.tag = 1 + (form >> 2 & 1);
    header.step = form >> 3 & 3;
    header.mode = form >> 5 & 1;
    header.samples = reader_u16(&play->in);
    header.timeout_ms = 500;
    header.epoch = play->epoch;
    header.name[0] = 'b';
    receive(play, header.kind == WIRE_HEARTBEAT ? 1 + (form >> 6 & 1) : WORKER, &header, NULL, 0);
}

static void plan(struct play *play) {
    struct plan_job *job = play->job;
    if (job == NULL)
        return;
    play->job = NULL;
    plan_job_run(job);
    coordinator_planned(play->coordinator, &job);
}

static void step(struct play *play) {
    const uint8_t op = reader_u8(&play->in), form = reader_u8(&play->in);
    switch (op % 10) {
    case 0:
        enter(play, 1 + (op >> 4 & 1), form);
        break;
    case 1:
        administrate(play, form);
        break;
    case 2:
    case 3:
        answer(play, form);
        break;
    case 4:
        small(play, form);
        break;
    case 5:
        play->now_ms += 8 * (int64_t)form;
        coordinator_tick(play->coordinator);
        break;
    case 6:
        plan(play);
        break;
    case 7:
        report_trial(play, form);
        break;
    case 8:
        if (form == 0xff)
            restart(play);
        else
            declare(play, form);
        break;
    default:
        raw(play, form);
    }
}

static struct strategies *load_strategies(void) {
    static struct strategies *loaded;
    struct err_detail detail;
    if (loaded == NULL)
        REQUIRE(strategies_load(STRATEGIES_BUILT, &loaded, &detail) == DIMFIT_OK &&
                strategies_count(loaded) > 0);
    return loaded;
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct play play = {.in = reader_of(bytes, len), .strategies = load_strategies()};
    log_set_level(LEVEL_ERROR);
    begin(&play, true);
    for (size_t i = 0; i < OPS_MAX && play.in.left > 0; i++)
        step(&play);
    restart(&play);
    const bool taken = play.answered > 0;
    coordinator_destroy(&play.coordinator);
    plan_job_destroy(&play.job);
    layout_destroy(&play.layout);
    for (size_t i = 0; i < play.n_plans; i++)
        buf_fini(&play.plans[i].bytes);
    buf_fini(&play.state);
    buf_fini(&play.trials);
    return taken;
}

/* ---- to begin with --------------------------------------------------------------------------- */

static void put_all(struct buf *out, size_t times, uint8_t op, uint8_t form, uint8_t value) {
    for (size_t i = 0; i < times; i++) {
        buf_put_u8(out, op);
        buf_put_u8(out, form);
        for (size_t k = 0; value != 0 && k < 64; k++)
            buf_put_u8(out, (uint8_t)(value + 5 * k % 90));
    }
}

void fuzz_seeds(struct fuzz_sink *sink) {
    static const uint8_t both[] = {0, 0, 16, 0};
    struct buf buf;
    buf_init(&buf);
    for (uint8_t which = 0; which < ARRAY_LEN(arguments); which++) {
        buf_put(&buf, both, sizeof both);
        for (uint8_t command = 0; command < ARRAY_LEN(commands); command += which == 0 ? 1 : 5)
            buf_put(&buf, (const uint8_t[]){1, command, which}, 3);
        buf_put(&buf, (const uint8_t[]){1, 5, which}, 3);
        put_all(&buf, 2, 2, 0, 3);                         /* scoring has begun everywhere */
        buf_put(&buf, (const uint8_t[]){4, 5, 0, 255}, 4); /* a heartbeat with many samples */
        put_all(&buf, 2, 5, 100, 0);
        put_all(&buf, 4, 2, 0, 3); /* the sums */
        put_all(&buf, 1, 6, 0, 0); /* a plan, or trials */
        for (uint8_t trial = 0; trial < 4; trial++)
            buf_put(&buf, (const uint8_t[]){7, trial, trial}, 3);
        put_all(&buf, 1, 6, 0, 0);
        put_all(&buf, 6, 2, 0, 3); /* prepared, committed */
        buf_put(&buf, (const uint8_t[]){1, 9, 0, 2, 0, 2, 0, 1, 10, 0, 2, 0, 2, 0, 8, 255}, 16);
        buf_put(&buf, both, sizeof both);
        buf_put(&buf, (const uint8_t[]){1, 8, 0, 4, 0, 0, 0}, 7);
        fuzz_put_buf(sink, &buf);
    }
    buf_fini(&buf);
}
