#include "proto/retention.h"

#include <math.h>

enum {
    FLAG_CLICKS = 1 << 0,
    FLAG_LAST_SEEN = 1 << 1,
    FLAGS_ALL = FLAG_CLICKS | FLAG_LAST_SEEN,
};

static bool needs_last_seen(const struct retention *r) {
    return r->expire_days > 0 || r->decay < 1;
}

void retention_complete(struct retention *r) {
    if (r->admit == 0)
        r->admit = 1;
    if (r->decay == 0)
        r->decay = 1;
    if (needs_last_seen(r))
        r->last_seen = true;
}

dimfit_err retention_check(const struct retention *r, uint32_t slot, dimfit_err bad,
                           struct err_detail *detail) {
    if (r->admit < 1 || r->admit > RETENTION_ADMIT_MAX)
        return err_set(detail, bad, "slot %u: admit %u is not within 1..%d", slot, r->admit,
                       RETENTION_ADMIT_MAX);
    if (r->expire_days > RETENTION_DAYS_MAX)
        return err_set(detail, bad, "slot %u: expire_days %u is not within 0..%d", slot,
                       r->expire_days, RETENTION_DAYS_MAX);
    if (!isfinite(r->expire_shows) || r->expire_shows < 0)
        return err_set(detail, bad, "slot %u: expire_shows %g must be finite and >= 0", slot,
                       (double)r->expire_shows);
    if (!(r->decay > 0 && r->decay <= 1))
        return err_set(detail, bad, "slot %u: decay %g must be above 0 and at most 1", slot,
                       (double)r->decay);
    if (needs_last_seen(r) && !r->last_seen)
        return err_set(detail, bad, "slot %u: expire_days and decay need last_seen", slot);
    return DIMFIT_OK;
}

const char *retention_difference(const struct retention *a, const struct retention *b) {
    if (a->admit != b->admit)
        return "admit";
    if (a->expire_days != b->expire_days)
        return "expire_days";
    if (a->expire_shows != b->expire_shows)
        return "expire_shows";
    if (a->decay != b->decay)
        return "decay";
    if (a->clicks != b->clicks)
        return "clicks";
    return a->last_seen != b->last_seen ? "last_seen" : NULL;
}

void retention_encode(const struct retention *r, struct buf *out) {
    buf_put_u32(out, r->admit);
    buf_put_u32(out, r->expire_days);
    buf_put_f32(out, r->expire_shows);
    buf_put_f32(out, r->decay);
    buf_put_u8(out, (uint8_t)((r->clicks ? FLAG_CLICKS : 0) | (r->last_seen ? FLAG_LAST_SEEN : 0)));
}

void retention_decode(struct reader *in, struct retention *out) {
    out->admit = reader_u32(in);
    out->expire_days = reader_u32(in);
    out->expire_shows = reader_f32(in);
    out->decay = reader_f32(in);
    const uint8_t flags = reader_u8(in);
    if ((flags & ~FLAGS_ALL) != 0)
        in->failed = true;
    out->clicks = (flags & FLAG_CLICKS) != 0;
    out->last_seen = (flags & FLAG_LAST_SEEN) != 0;
}
