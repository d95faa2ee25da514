/* How long a pull takes: alone, and while the table grows, shrinks or changes its layout. */
#include "tests/bench/errand.h"
#include "tests/bench/latency.h"
#include "tests/bench/measurements.h"

#include <stdio.h>

#define PULL_INTERVAL 0.002 /* seconds; a pull of 10,000 keys takes about a third of it */
#define PUSH_INTERVAL 0.002

enum {
    SAMPLES = 2000, /* a percentile of p999 needs some of them above it */
    PUSH_BATCH = 1000,
    LIVE_ROWS = 4 * BENCH_ROWS,
};

static struct stream stream_of(uint32_t slot, size_t rows) {
    struct stream stream = {.slot = slot,
                            .width = BENCH_WIDTH,
                            .rows = rows,
                            .batch = BENCH_BATCH,
                            .n = BENCH_DRAWN / BENCH_BATCH};
    stream_init(&stream, 1);
    return stream;
}

/* ---- one in flight, back to back ------------------------------------------------------------- */

static const double shares[] = {0.5, 0.99, 0.999};
static const char *const share_names[] = {"p50", "p99", "p999"};
enum { SHARES = sizeof shares / sizeof shares[0] };

/* Redis answers too few batches of 10,000 in a second to know more than their median. */
static void latency_of_batch(const struct run *run, size_t batch, const char *what,
                             size_t known_of_redis) {
    struct series series[SHARES];
    char names[SHARES][32];
    for (size_t k = 0; k < SHARES; k++) {
        snprintf(names[k], sizeof names[k], "%s_%s", what, share_names[k]);
        series[k] = (struct series){.name = names[k], .unit = "us"};
        if (k < known_of_redis)
            series[k].against = "Redis MGET";
    }
    struct stream stream = stream_of_model(batch);
    const struct side pull = {&run->targets[0], &stream, call_pull};
    const struct side mget = {&run->targets[0], &stream, call_mget};
    for (int i = 0; i < run->rounds; i++) {
        struct times ours = {0}, redis = {0};
        times_back_to_back(&ours, &pull, run->seconds, SAMPLES);
        times_back_to_back(&redis, &mget, run->seconds, 1);
        for (size_t k = 0; k < SHARES; k++)
            series_add(&series[k], times_percentile(&ours, shares[k]),
                       times_percentile(&redis, shares[k]));
        times_fini(&ours);
        times_fini(&redis);
    }
    stream_fini(&stream);
    for (size_t k = 0; k < SHARES; k++)
        series_print(&series[k]);
}

void bench_latency(const struct run *run) {
    model_fill(&run->targets[0]);
    latency_of_batch(run, BENCH_BATCH, "pull_10k", 1);
    latency_of_batch(run, 100, "pull_100", SHARES);
}

/* ---- beside another client that pushes ------------------------------------------------------- */

struct rival {
    struct target target;
    struct stream stream; /* of old keys; new ones are put in their place */
    uint64_t next;        /* the first row that is not there */
    bool fresh;           /* push new keys */
    atomic_bool over;
    pthread_t thread;
};

static void *rival_run(void *self) {
    struct rival *const rival = self;
    const double begun = bench_seconds();
    for (size_t i = 0; !atomic_load(&rival->over); i++) {
        sleep_until(begun + (double)i * PUSH_INTERVAL);
        uint64_t *const keys = rival->stream.keys + i % rival->stream.n * rival->stream.batch;
        for (size_t k = 0; rival->fresh && k < rival->stream.batch; k++)
            keys[k] = bench_key(rival->next++);
        call_push(&rival->target, &rival->stream, i);
    }
    return NULL;
}

static void rival_open(struct rival *rival, const struct target *target, uint64_t rows) {
    rival->target = (struct target){.endpoint = target->endpoint};
    target_open(&rival->target);
    rival->next = rows;
}

/* Pulls of old keys while the rival pushes. */
static void pull_beside(struct rival *rival, bool fresh, const struct side *pull, double seconds,
                        struct times *times) {
    rival->stream = (struct stream){.slot = SLOT_GROWING,
                                    .width = BENCH_WIDTH,
                                    .rows = BENCH_ROWS,
                                    .batch = PUSH_BATCH,
                                    .n = BENCH_DRAWN / PUSH_BATCH};
    stream_init(&rival->stream, 2);
    rival->fresh = fresh;
    atomic_store(&rival->over, false);
    if (pthread_create(&rival->thread, NULL, rival_run, rival) != 0)
        bench_die("no thread for the other client");
    times_paced(times, pull, PULL_INTERVAL, seconds, NULL);
    atomic_store(&rival->over, true);
    pthread_join(rival->thread, NULL);
    stream_fini(&rival->stream);
}

void bench_growing(const struct run *run) {
    struct time_series series = {
        .p99 = {.name = "pull_p99_growing", .unit = "us", .against = "pushes of old keys"},
        .longest = {.name = "pull_max_growing", .unit = "us", .against = "pushes of old keys"},
    };
    struct target *const target = &run->targets[0];
    struct stream stream = stream_of(SLOT_GROWING, BENCH_ROWS);
    const struct side pull = {target, &stream, call_pull};
    struct rival rival = {0};
    slot_declare(target, SLOT_GROWING, BENCH_WIDTH);
    slot_fill(target, SLOT_GROWING, BENCH_WIDTH, 0, BENCH_ROWS);
    rival_open(&rival, target, BENCH_ROWS);
    for (int i = 0; i < run->rounds; i++) {
        struct times fresh = {0}, old = {0};
        pull_beside(&rival, true, &pull, run->seconds, &fresh);
        pull_beside(&rival, false, &pull, run->seconds, &old);
        time_series_add(&series, &fresh, &old);
        times_fini(&fresh);
        times_fini(&old);
    }
    target_close(&rival.target);
    stream_fini(&stream);
    time_series_print(&series);
}

/* ---- while something goes on ----------------------------------------------------------------- */

/* Pulls until the errand is done; the milliseconds that it took. *peak: struct errand_run. */
static double pull_during(const struct side *pull, const struct errand *errand, struct times *times,
                          double *peak) {
    struct errand_run meanwhile;
    errand_start(&meanwhile, errand, pull->target);
    times_paced(times, pull, PULL_INTERVAL, 0, &meanwhile.over);
    const double ms = 1e3 * errand_join(&meanwhile);
    *peak = meanwhile.peak;
    return ms;
}

/* One round: the rows are halved once, so a daemon is good for one. */
void bench_live(const struct run *run) {
    struct time_series planning = {
        .p99 = {.name = "pull_p99_planning", .unit = "us", .against = "before"},
        .longest = {.name = "pull_max_planning", .unit = "us", .against = "before"},
    };
    struct time_series change = {
        .p99 = {.name = "pull_p99_change", .unit = "us", .against = "before"},
        .longest = {.name = "pull_max_change", .unit = "us", .against = "before"},
    };
    struct series took = {.name = "change_live", .unit = "ms"};
    struct series peak = {.name = "change_peak", .unit = "bytes", .against = "before"};
    double most = 0;
    const struct target *const target = &run->targets[0];
    struct stream stream = stream_of(SLOT_BIG, LIVE_ROWS);
    const struct side pull = {target, &stream, call_pull};
    struct times before = {0}, planned = {0}, changed = {0};
    slot_declare(target, SLOT_BIG, BENCH_WIDTH);
    slot_fill(target, SLOT_BIG, BENCH_WIDTH, 0, LIVE_ROWS);
    times_paced(&before, &pull, PULL_INTERVAL, run->seconds, NULL);
    pull_during(&pull, &errand_plan, &planned, &most);
    const double resident = target_total(target, "resident_bytes");
    series_add(&took, pull_during(&pull, &errand_apply, &changed, &most), 0);
    series_add(&peak, most, resident);
    time_series_add(&planning, &planned, &before);
    time_series_add(&change, &changed, &before);
    times_fini(&before);
    times_fini(&planned);
    times_fini(&changed);
    stream_fini(&stream);
    time_series_print(&planning);
    time_series_print(&change);
    series_print(&took);
    series_print(&peak);
}

/* Rows shown once go, among as many that stay. */
void bench_shrink(const struct run *run) {
    struct time_series series = {
        .p99 = {.name = "pull_p99_shrink", .unit = "us", .against = "before"},
        .longest = {.name = "pull_max_shrink", .unit = "us", .against = "before"},
    };
    struct series took = {.name = "shrink", .unit = "ms"};
    const struct target *const target = &run->targets[0];
    struct stream stream = stream_of(SLOT_GROWING, BENCH_ROWS);
    const struct side pull = {target, &stream, call_pull};
    uint64_t next = BENCH_ROWS;
    slot_declare(target, SLOT_GROWING, BENCH_WIDTH);
    for (int i = 0; i < 2; i++)
        slot_fill(target, SLOT_GROWING, BENCH_WIDTH, 0, BENCH_ROWS);
    for (int i = 0; i < run->rounds; i++, next += BENCH_ROWS) {
        struct times before = {0}, during = {0};
        double peak = 0;
        slot_fill(target, SLOT_GROWING, BENCH_WIDTH, next, next + BENCH_ROWS);
        times_paced(&before, &pull, PULL_INTERVAL, run->seconds, NULL);
        series_add(&took, pull_during(&pull, &errand_shrink, &during, &peak), 0);
        time_series_add(&series, &during, &before);
        times_fini(&before);
        times_fini(&during);
    }
    if (target_total(target, "rows") != BENCH_ROWS)
        bench_die("%.0f rows stay, not %d", target_total(target, "rows"), BENCH_ROWS);
    stream_fini(&stream);
    time_series_print(&series);
    series_print(&took);
}
