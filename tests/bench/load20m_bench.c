/* 20 M rows: loaded, read, trained, half of them evicted; what the daemon takes of memory beside
 * what the layout says. */
#include "tests/bench/errand.h"
#include "tests/bench/measurements.h"

enum {
    ROWS = 20 * BENCH_ROWS,
    BATCHES = 512,
};

/* Resident memory of the daemon, beside rows x (width + optimizer state + counters) x 4 bytes and
 * the index. */
static void memory_print(const struct target *target, const char *name) {
    struct series series = {.name = name, .unit = "bytes", .against = "rows and index"};
    const double rows = target_total(target, "value_bytes") + target_total(target, "state_bytes") +
                        target_total(target, "counter_bytes");
    series_add(&series, target_total(target, "resident_bytes"),
               rows + target_total(target, "index_bytes"));
    series_print(&series);
}

static void rate_print(const char *name, const struct side *side, double seconds) {
    struct series series = {.name = name, .unit = "keys/s"};
    series_add(&series, measure(side, seconds).keys_a_second, 0);
    series_print(&series);
}

void bench_load20m(const struct run *run) {
    const struct target *const target = &run->targets[0];
    struct stream stream = {.slot = SLOT_BIG,
                            .width = BENCH_WIDTH,
                            .rows = ROWS / 2,
                            .batch = BENCH_BATCH,
                            .n = BATCHES};
    struct series empty = {.name = "load20m_memory_empty", .unit = "bytes"};
    struct series load = {.name = "load20m_load", .unit = "keys/s"};
    struct series took = {.name = "load20m_expire", .unit = "ms"};
    stream_init(&stream, 1);
    series_add(&empty, target_total(target, "resident_bytes"), 0);
    series_print(&empty);
    slot_declare(target, SLOT_BIG, BENCH_WIDTH);
    const double begun = bench_seconds();
    slot_fill(target, SLOT_BIG, BENCH_WIDTH, 0, ROWS);
    series_add(&load, ROWS / (bench_seconds() - begun), 0);
    series_print(&load);
    memory_print(target, "load20m_memory_loaded");
    rate_print("load20m_pull", &(struct side){target, &stream, call_pull}, run->seconds);
    rate_print("load20m_push", &(struct side){target, &stream, call_push_score}, run->seconds);
    slot_fill(target, SLOT_BIG, BENCH_WIDTH, 0, ROWS / 2); /* the other half was shown once */
    memory_print(target, "load20m_memory_trained");
    series_add(&took, 1e3 * errand_do(&errand_shrink, target, NULL), 0);
    series_print(&took);
    memory_print(target, "load20m_memory_expired");
    slot_fill(target, SLOT_BIG, BENCH_WIDTH, ROWS, ROWS + ROWS / 2); /* into their places */
    memory_print(target, "load20m_memory_refilled");
    stream_fini(&stream);
}
