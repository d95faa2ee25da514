#include "proto/tiers.h"

dimfit_err tiers_check_shows(const uint32_t *shows, uint32_t n, uint32_t slot, dimfit_err bad,
                             struct err_detail *detail) {
    if (n < 1 || n > LAYOUT_TIERS_MAX || shows[0] != 0)
        return err_set(detail, bad,
                       "slot %u: a slot has 1 to %d tiers, the first one from no show on", slot,
                       LAYOUT_TIERS_MAX);
    for (uint32_t t = 1; t < n; t++) {
        if (shows[t] <= shows[t - 1] || shows[t] > LAYOUT_TIER_SHOWS_MAX)
            return err_set(detail, bad,
                           "slot %u: tiers: show counts must ascend within 1..%d, %u comes after "
                           "%u",
                           slot, LAYOUT_TIER_SHOWS_MAX, shows[t], shows[t - 1]);
    }
    return DIMFIT_OK;
}

dimfit_err tiers_check_widths(const uint32_t *widths, uint32_t n, uint32_t width, uint32_t slot,
                              dimfit_err bad, struct err_detail *detail) {
    for (uint32_t t = 1; t < n; t++) {
        if (widths[t] < widths[t - 1])
            return err_set(detail, bad, "slot %u: tier %u is %u wide, narrower than the one below",
                           slot, t, widths[t]);
    }
    if (widths[n - 1] != width)
        return err_set(detail, bad, "slot %u: its last tier is %u wide, the slot %u", slot,
                       widths[n - 1], width);
    return DIMFIT_OK;
}

void tiers_encode_shows(const uint32_t *shows, uint32_t n, struct buf *out) {
    for (uint32_t t = 1; t < n; t++)
        buf_put_u32(out, shows[t]);
}

void tiers_encode_widths(const uint32_t *widths, uint32_t n, struct buf *out) {
    for (uint32_t t = 0; t + 1 < n; t++)
        buf_put_u32(out, widths[t]);
}

void tiers_decode_shows(struct reader *in, uint32_t n, uint32_t *shows) {
    shows[0] = 0;
    for (uint32_t t = 1; t < n; t++)
        shows[t] = reader_u32(in);
}

void tiers_decode_widths(struct reader *in, uint32_t n, uint32_t width, uint32_t *widths) {
    for (uint32_t t = 0; t + 1 < n; t++)
        widths[t] = reader_u32(in);
    widths[n - 1] = width;
}

uint32_t tiers_decode_number(struct reader *in) {
    const uint32_t n = reader_u8(in);
    if (n >= 1 && n <= LAYOUT_TIERS_MAX)
        return n;
    in->failed = true;
    return 1;
}
