/* Pull and push of 10,000 keys of 1 M, what scoring costs them, and the memory of a row. */
#include "tests/bench/errand.h"
#include "tests/bench/measurements.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLICE 0.05 /* seconds; short, so that both sides of a pair meet the same machine */

/* ---- beside Redis ---------------------------------------------------------------------------- */

struct contest {
    const char *what, *against;
    call *one, *four, *redis, *bare;
};

static void bench_rate(const struct run *run, const struct contest *contest) {
    char four_name[32], bare_name[32], server_name[32], client_name[32];
    snprintf(four_name, sizeof four_name, "%s_4", contest->what);
    snprintf(bare_name, sizeof bare_name, "%s_vs_bare_redis", contest->what);
    snprintf(server_name, sizeof server_name, "server_cpu_%s", contest->what);
    snprintf(client_name, sizeof client_name, "client_cpu_%s", contest->what);
    struct series rate = {.name = contest->what, .unit = "keys/s", .against = contest->against};
    struct series four = {.name = four_name, .unit = "keys/s", .against = "one in flight"};
    struct series strict = {.name = bare_name, .unit = "keys/s", .against = "Redis, bare client"};
    struct series server = {.name = server_name, .unit = "ns/key"};
    struct series client = {.name = client_name, .unit = "ns/key"};
    struct stream stream = stream_of_model(BENCH_BATCH);
    struct side side = {&run->targets[0], &stream, contest->one};
    model_fill(&run->targets[0]);
    for (int i = 0; i < run->rounds; i++) {
        side.one = contest->one;
        const struct rate ours = measure(&side, run->seconds);
        side.one = contest->redis;
        series_add(&rate, ours.keys_a_second, measure(&side, run->seconds).keys_a_second);
        side.one = contest->four;
        series_add(&four, measure(&side, run->seconds).keys_a_second, ours.keys_a_second);
        side.one = contest->bare;
        series_add(&strict, ours.keys_a_second, measure(&side, run->seconds).keys_a_second);
        series_add(&server, ours.server_ns, 0);
        series_add(&client, ours.client_ns, 0);
    }
    stream_fini(&stream);
    series_print(&rate);
    series_print(&four);
    series_print(&strict);
    series_print(&server);
    series_print(&client);
}

void bench_pull(const struct run *run) {
    bench_rate(run, &(struct contest){"pull", "Redis MGET", call_pull, call_pull_4, call_mget,
                                      call_bare_mget});
}

void bench_push(const struct run *run) {
    bench_rate(run, &(struct contest){"push", "Redis MSET", call_push_score, call_push_score_4,
                                      call_mset, call_bare_mset});
}

void bench_half(const struct run *run) {
    struct target half = {.endpoint = run->targets[0].endpoint, .half = true};
    struct stream stream = stream_of_model(BENCH_BATCH);
    model_fill(&run->targets[0]);
    target_open(&half);
    compare("pull_half", &(struct side){&half, &stream, call_pull}, "float32 rows",
            &(struct side){&run->targets[0], &stream, call_pull}, run->rounds, run->seconds);
    target_close(&half);
    stream_fini(&stream);
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* One side of a pair: pushes with what is measured, or without. */
typedef struct rate slice(const struct target *target, const struct stream *stream, bool with);

/* The effect is as small as what else the machine does: many short pairs, the first of a pair by
 * turns, and the median of their ratios. cpu may be NULL. */
static void measure_pairs(const struct run *run, struct target *target, slice *part,
                          struct series *time, struct series *cpu) {
    struct stream stream = stream_of_model(BENCH_BATCH);
    model_fill(target);
    const double pairs = run->rounds * run->seconds / SLICE;
    for (int i = 0; i < pairs && i < BENCH_ROUNDS_MAX; i++) {
        const bool with_first = i % 2 == 0;
        const struct rate first = part(target, &stream, with_first);
        const struct rate second = part(target, &stream, !with_first);
        const struct rate *const with = with_first ? &first : &second;
        const struct rate *const without = with_first ? &second : &first;
        series_add(time, 1e9 / with->keys_a_second, 1e9 / without->keys_a_second);
        if (cpu != NULL)
            series_add(cpu, with->server_ns, without->server_ns);
    }
    stream_fini(&stream);
}

static struct rate slice_scored(const struct target *target, const struct stream *stream,
                                bool with) {
    return measure(&(struct side){target, stream, with ? call_push_score : call_push}, SLICE);
}

void bench_scoring(const struct run *run) {
    struct series time = {
        .name = "scoring", .unit = "ns/key", .against = "the same without scores"};
    struct series cpu = time;
    cpu.name = "scoring_cpu";
    measure_pairs(run, &run->targets[0], slice_scored, &time, &cpu);
    series_print(&time);
    series_print(&cpu);
}

/* While a search collects scores from training pushes; it never has enough. */
static struct rate slice_searched(const struct target *target, const struct stream *stream,
                                  bool rotated) {
    char args[160];
    snprintf(args, sizeof args,
             "{\"kappa\": 0.5, \"basis\": \"%s\", \"mode\": \"live\", \"plan_only\": true, "
             "\"samples\": 1000000000000}",
             rotated ? "rotated" : "axis");
    admin_do(target, "search start", args);
    const struct rate rate = measure(&(struct side){target, stream, call_push}, SLICE);
    admin_do(target, "search abort", NULL);
    return rate;
}

static void bench_moments_of(const struct run *run, struct target *target, const char *name) {
    struct series time = {.name = name, .unit = "ns/key", .against = "axis scores"};
    measure_pairs(run, target, slice_searched, &time, NULL);
    series_print(&time);
}

/* The second target samples the rows of a push (--score-sample). */
void bench_moments(const struct run *run) {
    if (run->n_targets != 2)
        bench_die("two targets are needed, the second with --score-sample");
    bench_moments_of(run, &run->targets[0], "moments");
    bench_moments_of(run, &run->targets[1], "moments_sampled");
}

/* ---- memory ---------------------------------------------------------------------------------- */

static double table_bytes(const struct target *target) {
    return target_total(target, "slab_bytes") + target_total(target, "index_bytes");
}

void bench_memory(const struct run *run) {
    struct series series = {.name = "memory", .unit = "bytes/row"};
    const struct target *const target = &run->targets[0];
    const double rows = target_total(target, "rows"), bytes = table_bytes(target);
    slot_declare(target, SLOT_MEMORY, BENCH_WIDTH);
    slot_fill(target, SLOT_MEMORY, BENCH_WIDTH, 0, BENCH_ROWS);
    series_add(&series, (table_bytes(target) - bytes) / (target_total(target, "rows") - rows), 0);
    series_print(&series);
}
