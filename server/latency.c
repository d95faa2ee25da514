#include "server/latency.h"

#include <math.h>

double latency_bound(size_t bucket) {
    if (bucket + 1 >= LATENCY_BUCKETS)
        return INFINITY;
    return (double)((uint64_t)LATENCY_FIRST_NS << bucket) * 1e-9;
}

double latency_quantile(const struct latency *latency, double q) {
    uint64_t total = 0, seen = 0;
    for (size_t i = 0; i < LATENCY_BUCKETS; i++)
        total += latency->counts[i];
    if (total == 0)
        return 0;
    for (size_t i = 0; i < LATENCY_BUCKETS; i++) {
        seen += latency->counts[i];
        if ((double)seen >= q * (double)total)
            return latency_bound(i);
    }
    return INFINITY;
}
