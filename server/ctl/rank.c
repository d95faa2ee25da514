#include "server/ctl/rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct item {
    double key, other; /* sorted by the one, then by the other */
    size_t at;
};

static int compare(const void *x, const void *y) {
    const struct item *const a = x, *const b = y;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    if (a->other != b->other)
        return a->other < b->other ? -1 : 1;
    return 0;
}

static void sort(const double *key, const double *other, size_t n, struct item *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = (struct item){key[i], other[i], i};
    qsort(out, n, sizeof *out, compare);
}

/* End of the items from `at` on that are equal in their key, and `both`: in the other, too. */
static size_t tied(const struct item *items, size_t n, size_t at, bool both) {
    size_t end = at + 1;
    while (end < n && items[end].key == items[at].key &&
           (!both || items[end].other == items[at].other))
        end++;
    return end;
}

/* ---- Spearman -------------------------------------------------------------------------------- */

static void mean_ranks(const double *values, size_t n, struct item *items, double *rank) {
    sort(values, values, n, items);
    for (size_t at = 0, end; at < n; at = end) {
        end = tied(items, n, at, false);
        for (size_t i = at; i < end; i++)
            rank[items[i].at] = (double)(at + end - 1) / 2;
    }
}

bool rank_spearman(const double *a, const double *b, size_t n, double *out) {
    struct item *const items = malloc((n + 1) * sizeof *items);
    double *const ranks = malloc((2 * n + 1) * sizeof *ranks);
    const bool whole = items != NULL && ranks != NULL;
    if (whole) {
        const double mean = ((double)n - 1) / 2;
        double ab = 0, aa = 0, bb = 0;
        mean_ranks(a, n, items, ranks);
        mean_ranks(b, n, items, ranks + n);
        for (size_t i = 0; i < n; i++) {
            const double x = ranks[i] - mean, y = ranks[n + i] - mean;
            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        *out = aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
    }
    free(items);
    free(ranks);
    return whole;
}

/* ---- Kendall (Knight 1966) ------------------------------------------------------------------- */

static double pairs(size_t n) {
    return (double)n * ((double)n - 1) / 2;
}

/* Pairs of items that are equal in their key, or in both. */
static double tied_pairs(const struct item *items, size_t n, bool both) {
    double sum = 0;
    for (size_t at = 0, end; at < n; at = end) {
        end = tied(items, n, at, both);
        sum += pairs(end - at);
    }
    return sum;
}

/* Sort values[n] by merging and count how many pairs change places. */
static double sort_swaps(double *values, double *spare, size_t n) {
    if (n < 2)
        return 0;
    const size_t half = n / 2;
    double swaps = sort_swaps(values, spare, half) + sort_swaps(values + half, spare, n - half);
    size_t i = 0, j = half;
    for (size_t k = 0; k < n; k++) {
        if (i < half && (j == n || values[i] <= values[j])) {
            spare[k] = values[i++];
        } else {
            spare[k] = values[j++];
            swaps += (double)(half - i);
        }
    }
    memcpy(values, spare, n * sizeof *values);
    return swaps;
}

bool rank_kendall(const double *a, const double *b, size_t n, double *out) {
    struct item *const items = malloc((n + 1) * sizeof *items);
    double *const values = malloc((2 * n + 1) * sizeof *values);
    const bool whole = items != NULL && values != NULL;
    if (whole) {
        sort(b, b, n, items);
        const double all = pairs(n), tied_b = tied_pairs(items, n, false);
        sort(a, b, n, items);
        const double tied_a = tied_pairs(items, n, false), tied_both = tied_pairs(items, n, true);
        for (size_t i = 0; i < n; i++)
            values[i] = items[i].other;
        const double discordant = sort_swaps(values, values + n, n);
        const double root = sqrt((all - tied_a) * (all - tied_b));
        *out = root > 0 ? (all - tied_a - tied_b + tied_both - 2 * discordant) / root : NAN;
    }
    free(items);
    free(values);
    return whole;
}
