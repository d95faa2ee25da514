/* Pull and push by the size of a batch, the width of a row, the number of rows and of shards. */
#include "tests/bench/measurements.h"

#include <stdio.h>

enum {
    BIG_ROWS = 16 * BENCH_ROWS,
    BIG_BATCHES = 512, /* so many that rows are seldom met twice in a measurement */
    PARTS = 4,         /* a sweep has many points: each takes this part of the time */
};

/* ---- batch ----------------------------------------------------------------------------------- */

void bench_batch(const struct run *run) {
    static const size_t sizes[] = {1, 10, 100, 1000, 10000, 100000};
    model_fill(&run->targets[0]);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct stream stream = stream_of_model(sizes[i]);
        const struct side pull = {&run->targets[0], &stream, call_pull};
        const struct side push = {&run->targets[0], &stream, call_push_score};
        const struct side mget = {&run->targets[0], &stream, call_mget};
        const struct side mset = {&run->targets[0], &stream, call_mset};
        char name[32];
        snprintf(name, sizeof name, "pull_batch_%zu", sizes[i]);
        compare(name, &pull, "Redis MGET", &mget, run->rounds, run->seconds / PARTS);
        snprintf(name, sizeof name, "push_batch_%zu", sizes[i]);
        compare(name, &push, "Redis MSET", &mset, run->rounds, run->seconds / PARTS);
        stream_fini(&stream);
    }
}

/* ---- two slots of one daemon ----------------------------------------------------------------- */

/* The same calls on another slot, beside those on SLOT_MODEL. */
static void against_model(const struct run *run, const char *what, const struct stream *stream,
                          const char *against, double seconds) {
    struct stream model = stream_of_model(BENCH_BATCH);
    const struct target *const target = &run->targets[0];
    char name[32];
    snprintf(name, sizeof name, "pull_%s", what);
    compare(name, &(struct side){target, stream, call_pull}, against,
            &(struct side){target, &model, call_pull}, run->rounds, seconds);
    snprintf(name, sizeof name, "push_%s", what);
    compare(name, &(struct side){target, stream, call_push_score}, against,
            &(struct side){target, &model, call_push_score}, run->rounds, seconds);
    stream_fini(&model);
}

void bench_width(const struct run *run) {
    static const uint32_t widths[] = {4, 64, 128};
    model_fill(&run->targets[0]);
    for (uint32_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        struct stream stream = {.slot = SLOT_WIDE + i,
                                .width = widths[i],
                                .rows = BENCH_ROWS,
                                .batch = BENCH_BATCH,
                                .n = BENCH_DRAWN / BENCH_BATCH};
        char what[32];
        stream_init(&stream, 1);
        slot_declare(&run->targets[0], stream.slot, stream.width);
        slot_fill(&run->targets[0], stream.slot, stream.width, 0, BENCH_ROWS);
        snprintf(what, sizeof what, "width_%u", widths[i]);
        against_model(run, what, &stream, "16 floats a row", run->seconds / PARTS);
        stream_fini(&stream);
    }
}

void bench_16m(const struct run *run) {
    struct stream stream = {.slot = SLOT_BIG,
                            .width = BENCH_WIDTH,
                            .rows = BIG_ROWS,
                            .batch = BENCH_BATCH,
                            .n = BIG_BATCHES};
    stream_init(&stream, 1);
    model_fill(&run->targets[0]);
    slot_declare(&run->targets[0], SLOT_BIG, BENCH_WIDTH);
    slot_fill(&run->targets[0], SLOT_BIG, BENCH_WIDTH, 0, BIG_ROWS);
    against_model(run, "16m", &stream, "1 M rows", run->seconds);
    stream_fini(&stream);
}

/* ---- shards ---------------------------------------------------------------------------------- */

void bench_shards(const struct run *run) {
    struct stream stream = stream_of_model(BENCH_BATCH);
    if (run->n_targets != 2)
        bench_die("two targets are needed, of one shard and of two");
    for (size_t i = 0; i < run->n_targets; i++)
        model_fill(&run->targets[i]);
    const struct target *const one = &run->targets[0], *const two = &run->targets[1];
    compare("pull_2_shards", &(struct side){two, &stream, call_pull}, "one shard",
            &(struct side){one, &stream, call_pull}, run->rounds, run->seconds);
    compare("push_2_shards", &(struct side){two, &stream, call_push_score}, "one shard",
            &(struct side){one, &stream, call_push_score}, run->rounds, run->seconds);
    stream_fini(&stream);
}
