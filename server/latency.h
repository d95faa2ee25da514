/*
 * How long requests took, as a histogram: counts in buckets that double, for one thread.
 *
 * Bucket i counts what took at most LATENCY_FIRST_NS << i nanoseconds and more than the bucket
 * before; the last one has no bound. Histograms of several shards add up.
 */
#ifndef SERVER_LATENCY_H
#define SERVER_LATENCY_H

#include "proto/base.h"

enum {
    LATENCY_FIRST_NS = 16384,
    LATENCY_BUCKETS = 18, /* the last bound is 1.07 s */
};

struct latency {
    uint64_t counts[LATENCY_BUCKETS];
    uint64_t sum_ns;
};

static inline void latency_add(struct latency *latency, uint64_t ns) {
    const uint64_t over = ns == 0 ? 0 : (ns - 1) / LATENCY_FIRST_NS;
    const int i = over == 0 ? 0 : 64 - __builtin_clzll(over);
    latency->counts[i < LATENCY_BUCKETS ? i : LATENCY_BUCKETS - 1]++;
    latency->sum_ns += ns;
}

/* The upper bound of a bucket in seconds, INFINITY for the last. */
double latency_bound(size_t bucket);

/* The least bound that a part q of all requests did not exceed; 0 when there were none. */
double latency_quantile(const struct latency *latency, double q);

#endif
