/*
 * How long single calls take, and what goes on meanwhile.
 *
 * Two ways to call. Back to back: the next call starts when the last has returned, and a time is
 * that of a call. Paced: calls are due at fixed times, whatever the calls before took, and a time
 * counts from when its call was due; so a stop of the server is met by every call that it makes
 * wait, not by the one call that happened to be under way.
 */
#ifndef TESTS_BENCH_LATENCY_H
#define TESTS_BENCH_LATENCY_H

#include "tests/bench/load.h"

#include <stdatomic.h>

struct times {
    double *us; /* microseconds */
    size_t n, room;
};

void times_fini(struct times *times);
/* The time that a share p of the calls does not exceed; 0 < p <= 1, and there are times. */
double times_percentile(const struct times *times, double p);

/* For so many seconds, and until there are at_least times. */
void times_back_to_back(struct times *times, const struct side *side, double seconds,
                        size_t at_least);
/* A call each `interval` seconds, for so many seconds; with over != NULL, further until that is
 * true. */
void times_paced(struct times *times, const struct side *side, double interval, double seconds,
                 const atomic_bool *over);

/* Wait until bench_seconds() says so. */
void sleep_until(double when);

/* The p99 and the longest of each round's times, beside those of a reference. */
struct time_series {
    struct series p99, longest;
};
void time_series_add(struct time_series *series, const struct times *ours,
                     const struct times *reference);
void time_series_print(const struct time_series *series);

#endif
