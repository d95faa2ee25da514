/* How long a pull takes: alone, while the table grows, while a layout change is applied. */
#include "tests/bench/latency.h"
#include "tests/bench/measurements.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PULL_INTERVAL 0.002 /* seconds; a pull of 10,000 keys takes about a third of it */
#define PUSH_INTERVAL 0.002
#define POLL_INTERVAL 0.005

enum {
    SAMPLES = 2000, /* a percentile of p999 needs some of them above it */
    PUSH_BATCH = 1000,
    LIVE_ROWS = 4 * BENCH_ROWS,
};

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
    struct stream stream = {.slot = SLOT_GROWING,
                            .width = BENCH_WIDTH,
                            .rows = BENCH_ROWS,
                            .batch = BENCH_BATCH,
                            .n = BENCH_DRAWN / BENCH_BATCH};
    const struct side pull = {target, &stream, call_pull};
    struct rival rival = {0};
    stream_init(&stream, 1);
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

/* ---- while a search plans and applies -------------------------------------------------------- */

/* A second client that gives an admin command and waits until the search is in a phase. */
struct errand {
    struct target target;
    const char *command, *args, *phase;
    double seconds; /* that it took */
    atomic_bool over;
    pthread_t thread;
};

static bool phase_is(const struct target *target, const char *phase) {
    char *text = NULL;
    target_must(target, dimfit_admin(target->c, "search status", NULL, &text));
    json_t *const status = json_loads(text, 0, NULL);
    const char *const now = json_string_value(json_object_get(status, "phase"));
    if (now == NULL || strcmp(now, "aborted") == 0)
        bench_die("no search goes on: %s", text);
    const bool is = strcmp(now, phase) == 0;
    json_decref(status);
    dimfit_free(text);
    return is;
}

static void *errand_run(void *self) {
    struct errand *const errand = self;
    const struct target *const target = &errand->target;
    char *reply = NULL;
    const double begun = bench_seconds();
    target_must(target, dimfit_admin(target->c, errand->command, errand->args, &reply));
    dimfit_free(reply);
    while (!phase_is(target, errand->phase))
        sleep_until(bench_seconds() + POLL_INTERVAL);
    errand->seconds = bench_seconds() - begun;
    atomic_store(&errand->over, true);
    return NULL;
}

/* Pulls from the command until the search is in the phase; the seconds that took. */
static double pull_during(const struct side *pull, const char *command, const char *args,
                          const char *phase, struct times *times) {
    struct errand errand = {.target = {.endpoint = pull->target->endpoint},
                            .command = command,
                            .args = args,
                            .phase = phase};
    target_open(&errand.target);
    if (pthread_create(&errand.thread, NULL, errand_run, &errand) != 0)
        bench_die("no thread for the other client");
    times_paced(times, pull, PULL_INTERVAL, 0, &errand.over);
    pthread_join(errand.thread, NULL);
    target_close(&errand.target);
    return errand.seconds;
}

static const char *const halve =
    "{\"kappa\": 0.5, \"strategy\": \"uniform\", \"basis\": \"rotated\", \"plan_only\": true}";

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
    const struct target *const target = &run->targets[0];
    struct stream stream = {.slot = SLOT_BIG,
                            .width = BENCH_WIDTH,
                            .rows = LIVE_ROWS,
                            .batch = BENCH_BATCH,
                            .n = BENCH_DRAWN / BENCH_BATCH};
    const struct side pull = {target, &stream, call_pull};
    struct times before = {0}, planned = {0}, changed = {0};
    stream_init(&stream, 1);
    slot_declare(target, SLOT_BIG, BENCH_WIDTH);
    slot_fill(target, SLOT_BIG, BENCH_WIDTH, 0, LIVE_ROWS);
    times_paced(&before, &pull, PULL_INTERVAL, run->seconds, NULL);
    pull_during(&pull, "search start", halve, "planned", &planned);
    series_add(&took, 1e3 * pull_during(&pull, "search apply", NULL, "committed", &changed), 0);
    time_series_add(&planning, &planned, &before);
    time_series_add(&change, &changed, &before);
    times_fini(&before);
    times_fini(&planned);
    times_fini(&changed);
    stream_fini(&stream);
    time_series_print(&planning);
    time_series_print(&change);
    series_print(&took);
}
