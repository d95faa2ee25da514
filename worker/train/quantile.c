#include "worker/train/quantile.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

size_t quantile_cuts(double *values, size_t n, size_t buckets, double *cuts) {
    size_t n_cuts = 0;
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, by_value);
    for (size_t k = 1; k < buckets; k++) {
        const double cut = values[(size_t)((double)n * (double)k / (double)buckets)];
        if (cut > (n_cuts > 0 ? cuts[n_cuts - 1] : values[0]))
            cuts[n_cuts++] = cut;
    }
    return n_cuts;
}

size_t quantile_bucket(const double *cuts, size_t n, double x) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (cuts[mid] <= x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}
