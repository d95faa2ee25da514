/*
 * Score sums that a worker has added up itself, as they travel: the body of SCORE_SUMS.
 *
 * For rows that live outside the cluster: of each slot how many rows there are, and
 * g_k = sum over lookups of v_k * dL/dv_k (design 2.1), of the mean loss over the message's
 * samples. Float64, little-endian, unaligned. Pure.
 *
 *     u32 n
 *     n x { u32 slot, u32 width, u64 rows, f64 g[width] }      slots ascending
 */
#ifndef PROTO_SUMS_H
#define PROTO_SUMS_H

#include "proto/buf.h"

struct sums {
    uint32_t slot, width;
    uint64_t rows;
    const uint8_t *g; /* [width] f64 */
};

void sums_encode(const struct sums *sums, size_t n, struct buf *out);

/* *out, of *n, is the caller's to free and points into the bytes. PROTOCOL when they are cut short
 * or too long or slots do not ascend; NOT_FINITE naming the slot. */
dimfit_err sums_decode(const void *bytes, size_t len, struct sums **out, size_t *n,
                       struct err_detail *detail) MUST_CHECK;

#endif
