/*
 * The statistics a search decides from: what shards add up and the coordinator reduces.
 *
 * Per slot and tier (layout.h), over its stored rows: how many there are, how often they were
 * looked up, and the plain and count-weighted sums of r and r^T r (in stored coordinates, before
 * the change). Per scoring step, slot and tier: the signed sums g_k = sum of samples * r_k *
 * dL/dr_k, and, where a basis may be fitted, C = sum of samples * r^T dL/dr (g is its diagonal) and
 * b = sum of samples * dL/dr. Beside them `row`, the sum over rows of |r_k dL/dr_k|, and for the
 * kfac basis the curvature, the sum over single lookups of g^T g, g = samples * dL/dr. All float64,
 * so that the result does not depend on how rows are spread over shards (1e-9 of the largest
 * score).
 *
 * A struct stats is one shard's part or, after stats_merge(), the whole cluster's: the same type.
 * It is owned by one thread at a time.
 */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include "proto/layout.h"

struct slot_stats {
    uint32_t slot, tier;
    uint32_t width; /* w of the stored rows of the tier */
    uint64_t rows;
    double lookups;     /* sum of the rows' show counts */
    double *sum;        /* [w]    sum of r                   | NULL unless moments were gathered */
    double *second;     /* [w][w] sum of r^T r               | */
    double *looked_sum; /* [w]    sum of count * r          | */
    double *looked_second; /* [w][w] sum of count * r^T r      | */
    double *row_score; /* [w]    sum over rows of |r dL/dr|, NULL when the slot was not scored */
    double *curvature; /* [w][w] sum of (samples dL/dr)^T (samples dL/dr), NULL when not kept */
    double curved;     /* lookups behind it */
};

struct step_slot {
    uint32_t slot, tier, width;
    double *g; /* [w] */
    double *C; /* [w][w], NULL when not kept */
    double *b; /* [w], NULL when not kept */
};

/* Who scored how much of a step: samples count once a (worker, step), the largest seen. */
struct step_samples {
    uint64_t worker, samples;
};

struct step_stats {
    uint64_t step;
    size_t n_slots, n_workers;
    struct step_slot *slots;      /* ascending by (slot, tier) */
    struct step_samples *workers; /* ascending by worker */
};

struct stats {
    uint64_t epoch;
    size_t n_slots, n_steps, n_evicted;
    struct slot_stats *slots; /* ascending by (slot, tier) */
    struct step_stats *steps; /* ascending by step */
    uint64_t *evicted;      /* steps a shard had to drop: not whole anywhere, left out of scores */
    bool evicted_ascending; /* makes looking them up cheap; merging and decoding see to it */
};

dimfit_err stats_new(uint64_t epoch, struct stats **out) MUST_CHECK;
void stats_destroy(struct stats **stats);

/* Append a slot or step entry (ascending order is the caller's duty) with zeroed arrays. The
 * pointer is valid until the next append. NULL out of memory. */
struct slot_stats *stats_add_slot(struct stats *stats, uint32_t slot, uint32_t tier, uint32_t width,
                                  bool moments);
/* Give the entry row scores, a curvature of zeros if it has none. False out of memory. */
bool stats_add_row_score(struct slot_stats *slot);
bool stats_add_curvature(struct slot_stats *slot);
struct step_stats *stats_add_step(struct stats *stats, uint64_t step);
struct step_slot *step_add_slot(struct step_stats *step, uint32_t slot, uint32_t tier,
                                uint32_t width, bool C);
/* Workers may come in any order, and again: the largest samples stand. */
dimfit_err step_add_worker(struct step_stats *step, uint64_t worker, uint64_t samples) MUST_CHECK;
dimfit_err stats_add_evicted(struct stats *stats, uint64_t step) MUST_CHECK;
/* Once those are all there: each once, ascending. */
void stats_order_evicted(struct stats *stats);

const struct slot_stats *stats_find(const struct stats *stats, uint32_t slot, uint32_t tier);

/* into += part. STALE_EPOCH when they are of different epochs, PROTOCOL when widths differ. Moments
 * that one of the two lacks are lacking in the sum. On an error the sums of `into` are as before.
 */
dimfit_err stats_merge(struct stats *into, const struct stats *part,
                       struct err_detail *detail) MUST_CHECK;

/* A copy in which the entries of a slot's tiers are as wide as the layout's slot, their sums padded
 * with zeros, as their rows are. NOMEM. */
dimfit_err stats_widen(const struct stats *stats, const struct layout *layout,
                       struct stats **out) MUST_CHECK;
/* The sums of one slot's rows whatever their tier, as of tier 0: of entries of one width. No steps.
 * Empty where there is no entry. NOMEM, PROTOCOL when widths differ. */
dimfit_err stats_whole_slot(const struct stats *stats, uint32_t slot,
                            struct stats **out) MUST_CHECK;

/* Was this step dropped by a shard, and so is not whole? */
bool stats_step_evicted(const struct stats *stats, uint64_t step);

/* Sum over (worker, step) of the largest samples, evicted steps left out. */
uint64_t stats_samples(const struct stats *stats);

void stats_encode(const struct stats *stats, struct buf *out);
dimfit_err stats_decode(const void *bytes, size_t len, struct stats **out,
                        struct err_detail *detail) MUST_CHECK;

#endif
