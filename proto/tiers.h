/*
 * Tiers: popularity bands of a slot's rows, each with a width of its own (design 2.7).
 *
 * Tier 0 is the tail. A row that was shown as often as a tier's threshold says belongs to that tier
 * (the highest such), and has the first width[tier] coordinates of its slot's one basis: it stands
 * for the row padded with zeros to the slot's width. Thresholds are a slot's setting, widths a
 * layout's. Plain arrays, no state.
 */
#ifndef PROTO_TIERS_H
#define PROTO_TIERS_H

#include "proto/buf.h"

enum {
    LAYOUT_TIERS_MAX = 8,
    DECLARE_NO_TIERS = UINT8_MAX, /* in place of the number of thresholds that a worker asks for */
    LAYOUT_TIER_SHOWS_MAX = 1 << 24, /* show counts beyond it need not grow (row_counters.h) */
};

/* shows[0] = 0, then ascending; n within 1..LAYOUT_TIERS_MAX. `bad` is what the caller calls a
 * refusal, the detail names slot and field. */
dimfit_err tiers_check_shows(const uint32_t *shows, uint32_t n, uint32_t slot, dimfit_err bad,
                             struct err_detail *detail) MUST_CHECK;
/* Non-decreasing, the last one the slot's width. */
dimfit_err tiers_check_widths(const uint32_t *widths, uint32_t n, uint32_t width, uint32_t slot,
                              dimfit_err bad, struct err_detail *detail) MUST_CHECK;

/* All but what the checks above make certain: shows[1 ..], widths[.. n - 2]. */
void tiers_encode_shows(const uint32_t *shows, uint32_t n, struct buf *out);
void tiers_encode_widths(const uint32_t *widths, uint32_t n, struct buf *out);
void tiers_decode_shows(struct reader *in, uint32_t n, uint32_t *shows);
void tiers_decode_widths(struct reader *in, uint32_t n, uint32_t width, uint32_t *widths);

/* Their number, as it stands before both. Fails the reader when it is none. */
uint32_t tiers_decode_number(struct reader *in);

#endif
