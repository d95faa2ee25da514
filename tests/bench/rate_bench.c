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

/* The effect is as small as what else the machine does: many short pairs, the first of a pair by
 * turns, and the median of their ratios. */
void bench_scoring(const struct run *run) {
    struct series time = {
        .name = "scoring", .unit = "ns/key", .against = "the same without scores"};
    struct series cpu = time;
    cpu.name = "scoring_cpu";
    struct stream stream = stream_of_model(BENCH_BATCH);
    const struct side scored = {&run->targets[0], &stream, call_push_score};
    const struct side plain = {&run->targets[0], &stream, call_push};
    model_fill(&run->targets[0]);
    const double pairs = run->rounds * run->seconds / SLICE;
    for (int i = 0; i < pairs && i < BENCH_ROUNDS_MAX; i++) {
        const bool plain_first = i % 2 == 1;
        const struct rate first = measure(plain_first ? &plain : &scored, SLICE);
        const struct rate second = measure(plain_first ? &scored : &plain, SLICE);
        const struct rate *const with = plain_first ? &second : &first;
        const struct rate *const without = plain_first ? &first : &second;
        series_add(&time, 1e9 / with->keys_a_second, 1e9 / without->keys_a_second);
        series_add(&cpu, with->server_ns, without->server_ns);
    }
    stream_fini(&stream);
    series_print(&time);
    series_print(&cpu);
}

/* Pushes while a search of this basis collects scores from them; it never has enough. */
static struct rate measure_in_search(const struct side *side, const char *basis, double seconds) {
    char args[160];
    snprintf(args, sizeof args,
             "{\"kappa\": 0.5, \"basis\": \"%s\", \"mode\": \"live\", \"plan_only\": true, "
             "\"samples\": 1000000000000}",
             basis);
    admin_do(side->target, "search start", args);
    const struct rate rate = measure(side, seconds);
    admin_do(side->target, "search abort", NULL);
    return rate;
}

static void bench_moments_of(const struct run *run, struct target *target, const char *name) {
    struct series series = {.name = name, .unit = "ns/key", .against = "axis scores"};
    struct stream stream = stream_of_model(BENCH_BATCH);
    const struct side side = {target, &stream, call_push};
    model_fill(target);
    for (int i = 0; i < run->rounds; i++) {
        const struct rate matrix = measure_in_search(&side, "rotated", run->seconds);
        const struct rate axis = measure_in_search(&side, "axis", run->seconds);
        series_add(&series, 1e9 / matrix.keys_a_second, 1e9 / axis.keys_a_second);
    }
    stream_fini(&stream);
    series_print(&series);
}

/* The second target, if there is one, samples the rows of a push (--score-sample). */
void bench_moments(const struct run *run) {
    bench_moments_of(run, &run->targets[0], "moments");
    if (run->n_targets > 1)
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
