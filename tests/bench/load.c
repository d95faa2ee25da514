#include "tests/bench/load.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- targets --------------------------------------------------------------------------------- */

void target_open(struct target *target) {
    const struct dimfit_options options = {.size = sizeof options, .half = target->half};
    if (dimfit_connect(target->endpoint, &options, &target->c) != DIMFIT_OK)
        bench_die("%s: %s", target->endpoint, dimfit_errmsg(NULL));
    if (target->port != NULL) {
        target->redis = redis_connect(target->port);
        target->bare = redis_bare_connect(target->port);
    }
}

void target_close(struct target *target) {
    redis_bare_close(&target->bare);
    redis_close(&target->redis);
    dimfit_close(&target->c);
}

void target_must(const struct target *target, dimfit_err err) {
    if (err != DIMFIT_OK)
        bench_die("%s: %s", dimfit_errname(err), dimfit_errmsg(target->c));
}

void slot_declare(const struct target *target, uint32_t slot, uint32_t width) {
    const struct dimfit_declare declare = {
        .slot = slot, .dim = width, .search = 1, .optimizer = "rowwise_adagrad", .lr = 0.05};
    target_must(target, dimfit_declare(target->c, &declare, 1));
}

static void fill_keys(struct stream *stream, uint64_t first, uint64_t end) {
    stream->batch = end - first < BENCH_BATCH ? end - first : BENCH_BATCH;
    for (size_t i = 0; i < stream->batch; i++)
        stream->keys[i] = bench_key(first + i);
}

static void fill(const struct target *target, uint32_t slot, uint32_t width, uint64_t first,
                 uint64_t end, call *one) {
    struct stream stream = {.slot = slot, .width = width, .rows = 1, .batch = BENCH_BATCH, .n = 1};
    stream_init(&stream, 1);
    for (; first < end; first += stream.batch) {
        fill_keys(&stream, first, end);
        one(target, &stream, 0);
    }
    stream_fini(&stream);
}

void slot_fill(const struct target *target, uint32_t slot, uint32_t width, uint64_t first,
               uint64_t end) {
    fill(target, slot, width, first, end, call_push);
}

void redis_fill(const struct target *target, uint32_t width, uint64_t rows) {
    fill(target, 0, width, 0, rows, call_mset);
}

void model_fill(struct target *target) {
    if (target->has_model)
        return;
    slot_declare(target, SLOT_MODEL, BENCH_WIDTH);
    slot_fill(target, SLOT_MODEL, BENCH_WIDTH, 0, BENCH_ROWS);
    if (target->redis != NULL)
        redis_fill(target, BENCH_WIDTH, BENCH_ROWS);
    target->has_model = true;
}

double target_total(const struct target *target, const char *name) {
    char *text = NULL;
    target_must(target, dimfit_admin(target->c, "stats", NULL, &text));
    json_t *const stats = json_loads(text, 0, NULL);
    const json_t *const total = json_object_get(json_object_get(stats, "totals"), name);
    if (!json_is_number(total))
        bench_die("the statistics lack totals.%s", name);
    const double value = json_number_value(total);
    json_decref(stats);
    dimfit_free(text);
    return value;
}

/* ---- streams --------------------------------------------------------------------------------- */

void stream_init(struct stream *stream, uint64_t seed) {
    const size_t n = stream->n * stream->batch, floats = stream->batch * stream->width;
    stream->keys = bench_alloc(n * sizeof *stream->keys);
    stream->values = bench_alloc(floats * sizeof *stream->values);
    stream->grads = bench_alloc(floats * sizeof *stream->grads);
    for (size_t i = 0; i < n; i++)
        stream->keys[i] = bench_key(bench_pick(&seed, stream->rows));
    bench_noise(stream->grads, floats);
    stream->flights = bench_alloc(IN_FLIGHT * sizeof *stream->flights);
    for (size_t i = 0; i < IN_FLIGHT; i++)
        stream->flights[i].values = bench_alloc(floats * sizeof *stream->values);
}

struct stream stream_of_model(size_t batch) {
    struct stream stream = {.slot = SLOT_MODEL,
                            .width = BENCH_WIDTH,
                            .rows = BENCH_ROWS,
                            .batch = batch,
                            .n = (BENCH_DRAWN + batch - 1) / batch};
    stream_init(&stream, 1);
    return stream;
}

void stream_fini(struct stream *stream) {
    free(stream->keys);
    free(stream->values);
    free(stream->grads);
    for (size_t i = 0; i < IN_FLIGHT; i++)
        free(stream->flights[i].values);
    free(stream->flights);
}

static const uint64_t *keys_of(const struct stream *stream, size_t i) {
    return stream->keys + i % stream->n * stream->batch;
}

static struct dimfit_rows rows_of(const struct stream *stream, size_t i, float *values) {
    return (struct dimfit_rows){.slot = stream->slot,
                                .n = stream->batch,
                                .keys = keys_of(stream, i),
                                .values = values,
                                .width = stream->width};
}

void call_pull(const struct target *target, const struct stream *stream, size_t i) {
    const struct dimfit_rows rows = rows_of(stream, i, stream->values);
    target_must(target, dimfit_pull(target->c, DIMFIT_FULL, &rows, 1));
}

static struct dimfit_push push_of(const struct stream *stream, enum dimfit_mode mode) {
    return (struct dimfit_push){.mode = mode, .samples = stream->batch};
}

static void push(const struct target *target, const struct stream *stream, size_t i,
                 enum dimfit_mode mode) {
    const struct dimfit_rows rows = rows_of(stream, i, stream->grads);
    const struct dimfit_push how = push_of(stream, mode);
    target_must(target, dimfit_push(target->c, DIMFIT_FULL, &rows, 1, &how));
}

void call_push(const struct target *target, const struct stream *stream, size_t i) {
    push(target, stream, i, DIMFIT_TRAIN);
}

void call_push_score(const struct target *target, const struct stream *stream, size_t i) {
    push(target, stream, i, DIMFIT_TRAIN_SCORE);
}

static void land(const struct target *target, struct flight *flight) {
    if (flight->call != NULL)
        target_must(target, dimfit_wait(target->c, &flight->call));
}

void call_pull_4(const struct target *target, const struct stream *stream, size_t i) {
    struct flight *const flight = &stream->flights[i % IN_FLIGHT];
    land(target, flight);
    const struct dimfit_rows rows = rows_of(stream, i, flight->values);
    target_must(target, dimfit_pull_async(target->c, DIMFIT_FULL, &rows, 1, &flight->call));
}

void call_push_score_4(const struct target *target, const struct stream *stream, size_t i) {
    struct flight *const flight = &stream->flights[i % IN_FLIGHT];
    land(target, flight);
    const struct dimfit_rows rows = rows_of(stream, i, stream->grads);
    const struct dimfit_push how = push_of(stream, DIMFIT_TRAIN_SCORE);
    target_must(target, dimfit_push_async(target->c, DIMFIT_FULL, &rows, 1, &how, &flight->call));
}

void call_mget(const struct target *target, const struct stream *stream, size_t i) {
    redis_mget(target->redis, keys_of(stream, i), stream->batch, stream->values, stream->width);
}

void call_mset(const struct target *target, const struct stream *stream, size_t i) {
    redis_mset(target->redis, keys_of(stream, i), stream->batch, stream->grads, stream->width);
}

void call_bare_mget(const struct target *target, const struct stream *stream, size_t i) {
    redis_bare_mget(target->bare, keys_of(stream, i), stream->values);
}

void call_bare_mset(const struct target *target, const struct stream *stream, size_t i) {
    redis_bare_mset(target->bare, keys_of(stream, i), stream->grads);
}

/* ---- measuring ------------------------------------------------------------------------------- */

/* Nanoseconds that the daemon's threads have run. */
static double daemon_ns(const struct target *target) {
    char path[320];
    if (target->daemon == NULL)
        return 0;
    snprintf(path, sizeof path, "/proc/%s/task", target->daemon);
    DIR *const tasks = opendir(path);
    if (tasks == NULL)
        bench_die("no process %s", target->daemon);
    double sum = 0;
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%s/task/%s/schedstat", target->daemon, task->d_name);
        FILE *const f = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        double ns = 0;
        if (f != NULL && fscanf(f, "%lf", &ns) == 1)
            sum += ns;
        if (f != NULL)
            fclose(f);
    }
    closedir(tasks);
    return sum;
}

/* CPU that this process has used. */
static double own_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return 1e9 * (double)used.tv_sec + (double)used.tv_nsec;
}

struct rate measure(const struct side *side, double seconds) {
    const double server = daemon_ns(side->target), client = own_ns(), begun = bench_seconds();
    double now = begun, keys = 0;
    for (size_t i = 0; now < begun + seconds; i++, now = bench_seconds()) {
        side->one(side->target, side->stream, i);
        keys += (double)side->stream->batch;
    }
    for (size_t i = 0; i < IN_FLIGHT; i++)
        land(side->target, &side->stream->flights[i]);
    now = bench_seconds();
    return (struct rate){
        .keys_a_second = keys / (now - begun),
        .server_ns = (daemon_ns(side->target) - server) / keys,
        .client_ns = (own_ns() - client) / keys,
    };
}

void compare(const char *name, const struct side *ours, const char *against,
             const struct side *theirs, int rounds, double seconds) {
    struct series series = {.name = name, .unit = "keys/s", .against = against};
    for (int i = 0; i < rounds; i++) {
        const double rate = measure(ours, seconds).keys_a_second;
        series_add(&series, rate, measure(theirs, seconds).keys_a_second);
    }
    series_print(&series);
}
