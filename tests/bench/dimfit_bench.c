/*
 * dimfit-bench: measure running dimfitds, by turns with Redis or with themselves.
 *
 *     dimfit-bench --rounds N --seconds S --target ENDPOINT,PID [--target ...] [--redis PORT]
 * NAME...
 *
 * The first --target is what is measured, at most three more are what it is measured beside; PID is
 * the daemon's, for its CPU time. The --redis goes with the first. Each measurement of a round
 * takes SECONDS; a round goes through both sides of a comparison, so that what else the machine
 * does meets them alike. Prints one line of JSON a series (bench.h); scripts/bench starts the
 * servers and makes a table of the lines.
 */
#include "tests/bench/measurements.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum { TARGETS_MAX = 4 };

static const struct {
    const char *name;
    measurement *measure;
    bool redis;
} measurements[] = {
    {"pull", bench_pull, true},        {"push", bench_push, true},
    {"scoring", bench_scoring, false}, {"moments", bench_moments, false},
    {"half", bench_half, false},       {"memory", bench_memory, false},
    {"batch", bench_batch, true},      {"width", bench_width, false},
    {"shards", bench_shards, false},   {"16m", bench_16m, false},
    {"latency", bench_latency, true},  {"growing", bench_growing, false},
    {"shrink", bench_shrink, false},   {"live", bench_live, false},
    {"load20m", bench_load20m, false},
};

static const struct option options[] = {
    {"rounds", required_argument, NULL, 'r'},
    {"seconds", required_argument, NULL, 's'},
    {"target", required_argument, NULL, 't'},
    {"redis", required_argument, NULL, 'p'},
    {0},
};

static void add_target(struct run *run, char *text) {
    if (run->n_targets == TARGETS_MAX)
        bench_die("more than %d targets", TARGETS_MAX);
    struct target *const target = &run->targets[run->n_targets++];
    target->endpoint = strtok(text, ",");
    target->daemon = strtok(NULL, ",");
    if (target->endpoint == NULL || target->daemon == NULL)
        bench_die("--target takes ENDPOINT,PID");
}

static void parse(struct run *run, int argc, char **argv) {
    const char *port = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'r')
            run->rounds = atoi(optarg);
        else if (c == 's')
            run->seconds = atof(optarg);
        else if (c == 't')
            add_target(run, optarg);
        else if (c == 'p')
            port = optarg;
        else
            bench_die("usage: dimfit-bench --rounds N --seconds S --target ENDPOINT,PID "
                      "[--target ...] [--redis PORT] NAME...");
    }
    if (run->n_targets == 0 || run->rounds < 1 || run->rounds > BENCH_ROUNDS_MAX ||
        !(run->seconds > 0))
        bench_die("--target, --rounds (1..%d) and --seconds are needed", BENCH_ROUNDS_MAX);
    run->targets[0].port = port;
}

static void measure_named(const struct run *run, const char *name) {
    for (size_t i = 0; i < sizeof measurements / sizeof measurements[0]; i++) {
        if (strcmp(measurements[i].name, name) != 0)
            continue;
        if (measurements[i].redis && run->targets[0].port == NULL)
            bench_die("%s needs --redis", name);
        measurements[i].measure(run);
        return;
    }
    bench_die("there is no measurement %s", name);
}

int main(int argc, char **argv) {
    struct target targets[TARGETS_MAX] = {{0}};
    struct run run = {.targets = targets};
    parse(&run, argc, argv);
    for (size_t i = 0; i < run.n_targets; i++)
        target_open(&targets[i]);
    for (int i = optind; i < argc; i++)
        measure_named(&run, argv[i]);
    for (size_t i = 0; i < run.n_targets; i++)
        target_close(&targets[i]);
    return 0;
}
