#include "tests/bench/latency.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

static void times_add(struct times *times, double seconds) {
    if (times->n == times->room) {
        times->room = times->room == 0 ? 4096 : 2 * times->room;
        times->us = realloc(times->us, times->room * sizeof *times->us);
        if (times->us == NULL)
            bench_die("no memory for %zu times", times->room);
    }
    times->us[times->n++] = 1e6 * seconds;
}

void times_fini(struct times *times) {
    free(times->us);
    *times = (struct times){0};
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double times_percentile(const struct times *times, double p) {
    if (times->n == 0)
        bench_die("no call was made in the time there was");
    qsort(times->us, times->n, sizeof *times->us, ascending);
    const size_t rank = (size_t)ceil(p * (double)times->n);
    return times->us[rank > 0 ? rank - 1 : 0];
}

void times_back_to_back(struct times *times, const struct side *side, double seconds,
                        size_t at_least) {
    const double begun = bench_seconds();
    double last = begun;
    for (size_t i = 0; last < begun + seconds || i < at_least; i++) {
        side->one(side->target, side->stream, i);
        const double now = bench_seconds();
        times_add(times, now - last);
        last = now;
    }
}

void sleep_until(double when) {
    const struct timespec at = {.tv_sec = (time_t)when,
                                .tv_nsec = (long)(1e9 * (when - (double)(time_t)when))};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
        ;
}

void times_paced(struct times *times, const struct side *side, double interval, double seconds,
                 const atomic_bool *over) {
    const double begun = bench_seconds();
    for (size_t i = 0;; i++) {
        const double due = begun + (double)i * interval;
        if (due >= begun + seconds && (over == NULL || atomic_load(over)))
            return;
        double from = due;
        if (bench_seconds() < due) {
            sleep_until(due);
            from = bench_seconds(); /* that the system woke us late is not the server's */
        }
        side->one(side->target, side->stream, i);
        times_add(times, bench_seconds() - from);
    }
}

void time_series_add(struct time_series *series, const struct times *ours,
                     const struct times *reference) {
    series_add(&series->p99, times_percentile(ours, 0.99), times_percentile(reference, 0.99));
    series_add(&series->longest, times_percentile(ours, 1), times_percentile(reference, 1));
}

void time_series_print(const struct time_series *series) {
    series_print(&series->p99);
    series_print(&series->longest);
}
