/*
 * A change as bytes, and back: what comes in is trusted in nothing.
 */
#include "proto/change.h"

#include <math.h>
#include <stdlib.h>

enum {
    CHANGE_MAGIC = 0x33636664, /* "dfc3" */
    SLOT_BYTES_MIN = 14,       /* an encoded slot that keeps nothing and gains nothing */
    FLAG_DENSE = 1 << 0,
    FLAG_SHIFT = 1 << 1,
    FLAG_ADDED = 1 << 2,
    FLAG_DRAWN = 1 << 3,
    FLAG_MIX = 1 << 4,
    FLAGS = FLAG_DENSE | FLAG_SHIFT | FLAG_ADDED | FLAG_DRAWN | FLAG_MIX,
};

static void encode_slot(const struct change_slot *s, struct buf *out) {
    const size_t kept = change_kept(s), values = s->from * kept;
    buf_put_u32(out, s->id);
    buf_put_u32(out, s->from);
    buf_put_u32(out, s->to);
    buf_put_u8(out,
               (uint8_t)((s->keep == NULL ? FLAG_DENSE : 0) | (s->shift != NULL ? FLAG_SHIFT : 0) |
                         (s->added > 0 ? FLAG_ADDED : 0) | (s->drawn ? FLAG_DRAWN : 0) |
                         (s->mix != NULL ? FLAG_MIX : 0)));
    buf_put_u8(out, (uint8_t)s->n_tiers);
    tiers_encode_widths(s->tier_from, s->n_tiers, out);
    tiers_encode_widths(s->tier_to, s->n_tiers, out);
    if (s->added > 0) {
        buf_put_u32(out, s->added);
        buf_put_u32(out, s->dim);
        buf_put(out, s->columns, (size_t)s->dim * s->added * sizeof *s->columns);
    }
    if (s->mix != NULL) {
        buf_put(out, s->mix, (size_t)s->from * s->added * sizeof *s->mix);
        buf_put(out, s->centre, s->from * sizeof *s->centre);
    }
    if (s->keep != NULL) {
        buf_put(out, s->keep, kept * sizeof *s->keep);
        return;
    }
    buf_put(out, s->T, values * sizeof *s->T);
    buf_put(out, s->N, values * sizeof *s->N);
    if (s->shift != NULL)
        buf_put(out, s->shift, s->from * sizeof *s->shift);
}

void change_encode(const struct change *change, struct buf *out) {
    buf_put_u32(out, CHANGE_MAGIC);
    buf_put_u64(out, change->from_epoch);
    buf_put_u64(out, change->to_epoch);
    buf_put_u64(out, change->undoes);
    buf_put_u32(out, (uint32_t)change->n_slots);
    for (size_t i = 0; i < change->n_slots; i++)
        encode_slot(&change->slots[i], out);
}

static dimfit_err check_keep(const struct change_slot *s, struct err_detail *detail) {
    bool seen[LAYOUT_DIM_MAX] = {false};
    for (uint32_t k = 0; k < change_kept(s); k++) {
        const uint16_t old = s->keep[k];
        if (old >= s->from || seen[old])
            return err_set(detail, DIMFIT_ERR_PROTOCOL,
                           "slot %u: kept coordinate %u is twice there or not within width %u",
                           s->id, old, s->from);
        seen[old] = true;
    }
    return DIMFIT_OK;
}

static dimfit_err check_dense(const struct change_slot *s, struct err_detail *detail) {
    const size_t values = (size_t)s->from * change_kept(s);
    bool finite = true;
    for (size_t i = 0; i < values; i++)
        finite = finite && isfinite(s->T[i]);
    for (size_t k = 0; k < s->from && s->shift != NULL; k++)
        finite = finite && isfinite(s->shift[k]);
    if (!finite)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: the change is not finite", s->id);
    const double error = layout_orthonormal_error(s->N, s->from, change_kept(s));
    if (error > 1e-6)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: the columns of N are %g away from orthonormal", s->id, error);
    return DIMFIT_OK;
}

static dimfit_err read_dense(struct reader *in, bool shift, struct change_slot *s,
                             struct err_detail *detail) {
    const size_t values = (size_t)s->from * change_kept(s);
    reader_copy(in, s->T, values * sizeof *s->T);
    reader_copy(in, s->N, values * sizeof *s->N);
    if (shift) {
        reader_copy(in, s->shift, s->from * sizeof *s->shift);
    } else {
        free(s->shift);
        s->shift = NULL;
    }
    return check_dense(s, detail);
}

static dimfit_err check_columns(const struct change_slot *s, struct err_detail *detail) {
    if (s->added == 0)
        return DIMFIT_OK;
    const double error = layout_orthonormal_error(s->columns, s->dim, s->added);
    if (error > 1e-6)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: the added columns are %g away from orthonormal", s->id, error);
    return DIMFIT_OK;
}

static dimfit_err read_mix(struct reader *in, struct change_slot *s, struct err_detail *detail) {
    const size_t values = (size_t)s->from * s->added;
    if (!reader_has(in, values + s->from, sizeof(double)))
        return DIMFIT_ERR_PROTOCOL;
    if (change_slot_alloc_mix(s) != DIMFIT_OK)
        return err_set(detail, DIMFIT_ERR_NOMEM, "slot %u: no memory for its change", s->id);
    reader_copy(in, s->mix, values * sizeof *s->mix);
    reader_copy(in, s->centre, s->from * sizeof *s->centre);
    bool finite = true;
    for (size_t i = 0; i < values; i++)
        finite = finite && isfinite(s->mix[i]);
    for (size_t k = 0; k < s->from; k++)
        finite = finite && isfinite(s->centre[k]);
    return finite ? DIMFIT_OK
                  : err_set(detail, DIMFIT_ERR_PROTOCOL,
                            "slot %u: what rows get in new directions is not finite", s->id);
}

static dimfit_err read_arrays(struct reader *in, uint8_t flags, uint32_t added, uint32_t dim,
                              struct change_slot *s, struct err_detail *detail) {
    const bool dense = (flags & FLAG_DENSE) != 0, shift = (flags & FLAG_SHIFT) != 0;
    const size_t kept = s->to - added, columns = (size_t)dim * added;
    const size_t doubles = columns + (dense ? 2 * s->from * kept + (shift ? s->from : 0) : 0);
    if (!reader_has(in, doubles * sizeof(double) + (dense ? 0 : kept * sizeof(uint16_t)), 1))
        return DIMFIT_ERR_PROTOCOL;
    struct change_slot made;
    dimfit_err err = change_slot_alloc_added(&made, s->id, dim, s->from, s->to, added, dense);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "slot %u: no memory for its change", s->id);
    change_slot_tiers(&made, s->n_tiers, s->tier_from, s->tier_to);
    *s = made;
    s->drawn = (flags & FLAG_DRAWN) != 0;
    if (columns > 0)
        reader_copy(in, s->columns, columns * sizeof *s->columns);
    err = check_columns(s, detail);
    if (err == DIMFIT_OK && (flags & FLAG_MIX) != 0)
        err = read_mix(in, s, detail);
    if (err != DIMFIT_OK)
        return err;
    if (dense)
        return read_dense(in, shift, s, detail);
    reader_copy(in, s->keep, kept * sizeof *s->keep);
    return check_keep(s, detail);
}

static bool flags_sound(uint8_t flags) {
    return (flags & ~(unsigned)FLAGS) == 0 && (flags & (FLAG_DENSE | FLAG_SHIFT)) != FLAG_SHIFT &&
           (flags & (FLAG_ADDED | FLAG_DRAWN)) != FLAG_DRAWN &&
           (flags & (FLAG_ADDED | FLAG_MIX)) != FLAG_MIX &&
           (flags & (FLAG_DRAWN | FLAG_MIX)) != (FLAG_DRAWN | FLAG_MIX);
}

static dimfit_err read_slot(struct reader *in, struct change_slot *s, struct err_detail *detail) {
    s->id = reader_u32(in);
    s->from = reader_u32(in);
    s->to = reader_u32(in);
    const uint8_t flags = reader_u8(in);
    const bool grows = (flags & FLAG_ADDED) != 0;
    s->n_tiers = tiers_decode_number(in);
    tiers_decode_widths(in, s->n_tiers, s->from, s->tier_from);
    tiers_decode_widths(in, s->n_tiers, s->to, s->tier_to);
    const uint32_t added = grows ? reader_u32(in) : 0, dim = grows ? reader_u32(in) : 0;
    err_set(detail, DIMFIT_ERR_PROTOCOL, "a slot of the change is cut short or malformed");
    if (in->failed || !flags_sound(flags))
        return DIMFIT_ERR_PROTOCOL;
    if (s->from > LAYOUT_DIM_MAX || s->to > LAYOUT_DIM_MAX || added > s->to ||
        s->to - added > s->from)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: a change from width %u to %u, %u of them new", s->id, s->from,
                       s->to, added);
    if (grows && (added == 0 || dim > LAYOUT_DIM_MAX || s->to > dim))
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: %u new directions of dim %u, for a width of %u", s->id, added, dim,
                       s->to);
    dimfit_err err = tiers_check_widths(s->tier_from, s->n_tiers, s->from, s->id,
                                        DIMFIT_ERR_PROTOCOL, detail);
    if (err == DIMFIT_OK)
        err = tiers_check_widths(s->tier_to, s->n_tiers, s->to, s->id, DIMFIT_ERR_PROTOCOL, detail);
    return err == DIMFIT_OK ? read_arrays(in, flags, added, dim, s, detail) : err;
}

dimfit_err change_decode(const void *bytes, size_t len, struct change **out,
                         struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const uint32_t magic = reader_u32(&in);
    const uint64_t from_epoch = reader_u64(&in);
    const uint64_t to_epoch = reader_u64(&in);
    const uint64_t undoes = reader_u64(&in);
    const uint32_t n = reader_u32(&in);
    if (in.failed || magic != CHANGE_MAGIC || to_epoch <= from_epoch ||
        (undoes != 0 && undoes != from_epoch))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "these %zu bytes are no change", len);
    if (n > LAYOUT_SLOTS_MAX || !reader_has(&in, n, SLOT_BYTES_MIN))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "a change of %zu bytes can't hold %u slots",
                       len, n);
    struct change *change = NULL;
    dimfit_err err = change_new(from_epoch, to_epoch, n, &change);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a change of %u slots", n);
    change->undoes = undoes;
    for (uint32_t i = 0; i < n && err == DIMFIT_OK; i++) {
        err = read_slot(&in, &change->slots[i], detail);
        if (err == DIMFIT_OK && i > 0 && change->slots[i - 1].id >= change->slots[i].id)
            err = err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u of the change is out of order",
                          change->slots[i].id);
    }
    if (err == DIMFIT_OK && !reader_done(&in))
        err = err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu bytes are left over after the change",
                      in.left);
    if (err != DIMFIT_OK) {
        change_destroy(&change);
        return err;
    }
    *out = change;
    return DIMFIT_OK;
}
