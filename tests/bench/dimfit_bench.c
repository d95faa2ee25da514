/*
 * dimfit-bench: pull and push of a running dimfitd, by turns with Redis.
 *
 *     dimfit-bench ENDPOINT DAEMON-PID REDIS-PORT ROUNDS SECONDS [NAME...]
 *
 * One thread, one request in flight: batches of 10,000 keys drawn from 1 M, with what repeats come
 * of it. Every measurement of a round takes SECONDS; the rounds go through all of them, so that
 * what else the machine does meets them alike. Prints one line of JSON a series (bench.h).
 */
#include "tests/bench/bench.h"
#include "tests/bench/redis.h"
#include "worker/dimfit.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOT = 1, BATCHES = 64 };

struct load {
    struct dimfit *c;
    struct redis *redis;
    const char *daemon; /* its process number */
    double seconds;     /* of a measurement */
    uint64_t *keys;     /* [BATCHES][BENCH_BATCH] */
    float *values;      /* [BENCH_BATCH][BENCH_WIDTH], what was pulled */
    float *grads;       /* [BENCH_BATCH][BENCH_WIDTH] */
};

static struct dimfit_rows rows_of(const uint64_t *keys, float *values) {
    return (struct dimfit_rows){
        .slot = SLOT, .n = BENCH_BATCH, .keys = keys, .values = values, .width = BENCH_WIDTH};
}

static void must(const struct load *load, dimfit_err err) {
    if (err != DIMFIT_OK)
        bench_die("%s: %s", dimfit_errname(err), dimfit_errmsg(load->c));
}

static void push(const struct load *load, const uint64_t *keys, enum dimfit_mode mode) {
    const struct dimfit_rows rows = rows_of(keys, load->grads);
    const struct dimfit_push how = {.mode = mode, .samples = BENCH_BATCH};
    must(load, dimfit_push(load->c, DIMFIT_FULL, &rows, 1, &how));
}

/* ---- the calls that are measured ------------------------------------------------------------- */

static void call_pull(const struct load *load, const uint64_t *keys) {
    const struct dimfit_rows rows = rows_of(keys, load->values);
    must(load, dimfit_pull(load->c, DIMFIT_FULL, &rows, 1));
}

static void call_train(const struct load *load, const uint64_t *keys) {
    push(load, keys, DIMFIT_TRAIN);
}

static void call_train_score(const struct load *load, const uint64_t *keys) {
    push(load, keys, DIMFIT_TRAIN_SCORE);
}

static void call_mget(const struct load *load, const uint64_t *keys) {
    redis_mget(load->redis, keys, load->values);
}

static void call_mset(const struct load *load, const uint64_t *keys) {
    redis_mset(load->redis, keys, load->grads);
}

typedef void call(const struct load *load, const uint64_t *keys);

/* ---- measuring ------------------------------------------------------------------------------- */

/* Nanoseconds that the daemon's threads have run. */
static double daemon_ns(const struct load *load) {
    char path[320];
    snprintf(path, sizeof path, "/proc/%s/task", load->daemon);
    DIR *const tasks = opendir(path);
    if (tasks == NULL)
        bench_die("no process %s", load->daemon);
    double sum = 0;
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%s/task/%s/schedstat", load->daemon, task->d_name);
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

struct rate {
    double keys_a_second;
    double server_ns, client_ns; /* CPU a key; the server's is dimfitd's whatever is called */
};

static struct rate measure(const struct load *load, call *one) {
    const double server = daemon_ns(load), client = own_ns(), begun = bench_seconds();
    double now = begun, keys = 0;
    for (size_t i = 0; now < begun + load->seconds; i++, now = bench_seconds()) {
        one(load, load->keys + i % BATCHES * BENCH_BATCH);
        keys += BENCH_BATCH;
    }
    return (struct rate){
        .keys_a_second = keys / (now - begun),
        .server_ns = (daemon_ns(load) - server) / keys,
        .client_ns = (own_ns() - client) / keys,
    };
}

static void bench_pull(const struct load *load, int rounds) {
    struct series rate = {"pull", "keys/s", "Redis MGET", 0, {0}, {0}};
    struct series cpu = {.name = "server_cpu_pull", .unit = "ns/key"};
    struct series client = {.name = "client_cpu_pull", .unit = "ns/key"};
    for (int i = 0; i < rounds; i++) {
        const struct rate ours = measure(load, call_pull), redis = measure(load, call_mget);
        series_add(&rate, ours.keys_a_second, redis.keys_a_second);
        series_add(&cpu, ours.server_ns, 0);
        series_add(&client, ours.client_ns, 0);
    }
    series_print(&rate);
    series_print(&cpu);
    series_print(&client);
}

static void bench_push(const struct load *load, int rounds) {
    struct series rate = {"push", "keys/s", "Redis MSET", 0, {0}, {0}};
    struct series cpu = {.name = "server_cpu_push", .unit = "ns/key"};
    struct series client = {.name = "client_cpu_push", .unit = "ns/key"};
    struct series scoring = {"scoring", "ns/key", "the same without scores", 0, {0}, {0}};
    struct series scoring_cpu = {"scoring_cpu", "ns/key", "the same without scores", 0, {0}, {0}};
    for (int i = 0; i < rounds; i++) {
        const struct rate scored = measure(load, call_train_score);
        const struct rate plain = measure(load, call_train);
        const struct rate redis = measure(load, call_mset);
        series_add(&rate, scored.keys_a_second, redis.keys_a_second);
        series_add(&cpu, scored.server_ns, 0);
        series_add(&client, scored.client_ns, 0);
        series_add(&scoring, 1e9 / scored.keys_a_second, 1e9 / plain.keys_a_second);
        series_add(&scoring_cpu, scored.server_ns, plain.server_ns);
    }
    series_print(&rate);
    series_print(&cpu);
    series_print(&client);
    series_print(&scoring);
    series_print(&scoring_cpu);
}

static double total_of(const char *stats, const char *name) {
    char field[64];
    snprintf(field, sizeof field, "\"%s\":", name);
    const char *const totals = strstr(stats, "\"totals\"");
    const char *const at = totals != NULL ? strstr(totals, field) : NULL;
    if (at == NULL)
        bench_die("the statistics lack totals.%s", name);
    return atof(at + strlen(field));
}

static void bench_memory(const struct load *load) {
    struct series bytes = {.name = "memory", .unit = "bytes/row"};
    char *stats = NULL;
    must(load, dimfit_admin(load->c, "stats", NULL, &stats));
    const double rows = total_of(stats, "rows");
    series_add(&bytes, (total_of(stats, "slab_bytes") + total_of(stats, "index_bytes")) / rows, 0);
    dimfit_free(stats);
    series_print(&bytes);
}

/* ---- the model ------------------------------------------------------------------------------- */

/* Every row there is, on both sides, before anything is measured. */
static void fill(const struct load *load) {
    uint64_t *const keys = bench_alloc(BENCH_BATCH * sizeof *keys);
    for (uint64_t first = 0; first < BENCH_ROWS; first += BENCH_BATCH) {
        for (uint64_t i = 0; i < BENCH_BATCH; i++)
            keys[i] = bench_key(first + i);
        call_train(load, keys);
        call_mset(load, keys);
    }
    free(keys);
}

static void declare(const struct load *load) {
    const struct dimfit_declare slot = {
        .slot = SLOT,
        .dim = BENCH_WIDTH,
        .name = "bench",
        .search = 1,
        .optimizer = "rowwise_adagrad",
        .lr = 0.05,
    };
    must(load, dimfit_declare(load->c, &slot, 1));
}

int main(int argc, char **argv) {
    if (argc < 6)
        bench_die("usage: dimfit-bench ENDPOINT DAEMON-PID REDIS-PORT ROUNDS SECONDS [NAME...]");
    struct load load = {.daemon = argv[2], .seconds = atof(argv[5])};
    const int rounds = atoi(argv[4]);
    if (dimfit_connect(argv[1], NULL, &load.c) != DIMFIT_OK)
        bench_die("%s: %s", argv[1], dimfit_errmsg(NULL));
    load.redis = redis_connect(argv[3]);
    load.keys = bench_alloc(BATCHES * BENCH_BATCH * sizeof *load.keys);
    load.values = bench_alloc(BENCH_BATCH * BENCH_WIDTH * sizeof *load.values);
    load.grads = bench_alloc(BENCH_BATCH * BENCH_WIDTH * sizeof *load.grads);
    uint64_t random = 1;
    for (size_t i = 0; i < BATCHES * BENCH_BATCH; i++)
        load.keys[i] = bench_key(bench_draw(&random));
    bench_noise(load.grads, BENCH_BATCH * BENCH_WIDTH);

    declare(&load);
    fill(&load);
    char *const *const names = argv + 6;
    if (bench_wanted("pull", names, argc - 6))
        bench_pull(&load, rounds);
    if (bench_wanted("push", names, argc - 6))
        bench_push(&load, rounds);
    if (bench_wanted("memory", names, argc - 6))
        bench_memory(&load);

    redis_close(&load.redis);
    dimfit_close(&load.c);
    free(load.keys);
    free(load.values);
    free(load.grads);
    return 0;
}
