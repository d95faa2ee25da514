#include "proto/change.h"

#include <math.h>
#include <stdlib.h>

enum {
    CHANGE_MAGIC = 0x31636664, /* "dfc1" */
    SLOT_BYTES_MIN = 13,       /* an encoded slot that keeps nothing */
    FLAG_DENSE = 1 << 0,
    FLAG_SHIFT = 1 << 1,
};

dimfit_err change_new(uint64_t from_epoch, uint64_t to_epoch, size_t n_slots, struct change **out) {
    struct change *const change = calloc(1, sizeof *change);
    struct change_slot *const slots = calloc(n_slots > 0 ? n_slots : 1, sizeof *slots);
    if (change == NULL || slots == NULL) {
        free(change);
        free(slots);
        return DIMFIT_ERR_NOMEM;
    }
    change->from_epoch = from_epoch;
    change->to_epoch = to_epoch;
    change->n_slots = n_slots;
    change->slots = slots;
    *out = change;
    return DIMFIT_OK;
}

static void slot_fini(struct change_slot *slot) {
    free(slot->keep);
    free(slot->T);
    free(slot->N);
    free(slot->shift);
    *slot = (struct change_slot){0};
}

void change_destroy(struct change **change) {
    if (*change == NULL)
        return;
    for (size_t i = 0; i < (*change)->n_slots; i++)
        slot_fini(&(*change)->slots[i]);
    free((*change)->slots);
    free(*change);
    *change = NULL;
}

/* There even for zero items: NULL says what kind of change it is, not how wide. */
static void *new_array(size_t n, size_t size) {
    return calloc(n > 0 ? n : 1, size);
}

dimfit_err change_slot_alloc(struct change_slot *slot, uint32_t id, uint32_t from, uint32_t to,
                             bool dense) {
    struct change_slot s = {.id = id, .from = from, .to = to};
    bool whole;
    if (dense) {
        s.T = new_array((size_t)from * to, sizeof *s.T);
        s.N = new_array((size_t)from * to, sizeof *s.N);
        s.shift = new_array(from, sizeof *s.shift);
        whole = s.T != NULL && s.N != NULL && s.shift != NULL;
    } else {
        s.keep = new_array(to, sizeof *s.keep);
        whole = s.keep != NULL;
    }
    if (!whole) {
        slot_fini(&s);
        return DIMFIT_ERR_NOMEM;
    }
    *slot = s;
    return DIMFIT_OK;
}

const struct change_slot *change_find(const struct change *change, uint32_t id) {
    size_t low = 0, high = change->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (change->slots[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < change->n_slots && change->slots[low].id == id ? &change->slots[low] : NULL;
}

/* ---- the layout after ------------------------------------------------------------------------ */

/* out[rows][to] = in[rows][from] A, A[from][to]. */
static void multiply(const double *in, size_t rows, const double *A, size_t from, size_t to,
                     double *out) {
    for (size_t r = 0; r < rows; r++) {
        double *const sum = out + r * to;
        for (size_t j = 0; j < to; j++)
            sum[j] = 0;
        for (size_t i = 0; i < from; i++) {
            const double scale = in[r * from + i];
            for (size_t j = 0; j < to; j++)
                sum[j] += scale * A[i * to + j];
        }
    }
}

/* Modified Gram-Schmidt: rounding adds up over epochs, and a basis must stay orthonormal. Columns
 * that are nearly orthonormal keep their direction. */
static void orthonormalise(double *M, size_t d, size_t w) {
    for (size_t k = 0; k < w; k++) {
        for (size_t j = 0; j < k; j++) {
            double dot = 0;
            for (size_t i = 0; i < d; i++)
                dot += M[i * w + j] * M[i * w + k];
            for (size_t i = 0; i < d; i++)
                M[i * w + k] -= dot * M[i * w + j];
        }
        double norm = 0;
        for (size_t i = 0; i < d; i++)
            norm += M[i * w + k] * M[i * w + k];
        norm = sqrt(norm);
        for (size_t i = 0; i < d; i++)
            M[i * w + k] /= norm;
    }
}

/* out[rows][to] = the kept columns of in[rows][from]. */
static void select_columns(const double *in, size_t rows, const struct change_slot *change,
                           double *out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t k = 0; k < change->to; k++)
            out[r * change->to + k] = in[r * change->from + change->keep[k]];
    }
}

static void keep_axes(const struct change_slot *change, struct layout_slot *slot) {
    uint16_t axes[LAYOUT_DIM_MAX];
    for (uint32_t k = 0; k < change->to; k++)
        axes[k] = slot->axes[change->keep[k]];
    memcpy(slot->axes, axes, change->to * sizeof *axes);
    slot->width = change->to;
}

/* Arrays of the slot as it will be; those of `before` are read. */
static void fill_dense(const struct change_slot *change, const struct layout_slot *before,
                       const double *M, const double *init_map, const double *init_shift,
                       struct layout_slot *after) {
    const size_t d = before->dim, from = change->from, to = change->to;
    layout_slot_mean(before, after->mean);
    if (change->keep != NULL) {
        select_columns(M, d, change, after->basis);
        select_columns(init_map, d, change, after->init_map);
        select_columns(init_shift, 1, change, after->init_shift);
        return;
    }
    multiply(M, d, change->N, from, to, after->basis);
    if (layout_orthonormal_error(after->basis, d, to) > 1e-12)
        orthonormalise(after->basis, d, to);
    double shifted[LAYOUT_DIM_MAX];
    for (size_t k = 0; k < from; k++)
        shifted[k] = init_shift[k] - (change->shift != NULL ? change->shift[k] : 0);
    multiply(init_map, d, change->T, from, to, after->init_map);
    multiply(shifted, 1, change->T, from, to, after->init_shift);
    for (size_t i = 0; i < d && change->shift != NULL; i++) {
        for (size_t k = 0; k < from; k++)
            after->mean[i] += change->shift[k] * M[i * from + k];
    }
}

static dimfit_err become_dense(const struct change_slot *change, struct layout_slot *slot) {
    const size_t d = slot->dim, from = change->from, to = change->to;
    const double zeros[LAYOUT_DIM_MAX] = {0};
    struct layout_slot after = *slot;
    after.width = change->to;
    after.axes = NULL;
    after.basis = new_array(d * to, sizeof *after.basis);
    after.mean = new_array(d, sizeof *after.mean);
    after.init_map = new_array(d * to, sizeof *after.init_map);
    after.init_shift = new_array(to, sizeof *after.init_shift);
    double *const M = new_array(d * from, sizeof *M);
    if (after.basis == NULL || after.mean == NULL || after.init_map == NULL ||
        after.init_shift == NULL || M == NULL) {
        layout_slot_fini(&after);
        free(M);
        return DIMFIT_ERR_NOMEM;
    }
    layout_slot_basis(slot, M);
    /* While the basis is made of axes, the initial map is that same selection. */
    fill_dense(change, slot, M, slot->axes != NULL ? M : slot->init_map,
               slot->axes != NULL ? zeros : slot->init_shift, &after);
    free(M);
    layout_slot_fini(slot);
    *slot = after;
    return DIMFIT_OK;
}

static dimfit_err check_fits(const struct change *change, const struct layout *layout,
                             struct err_detail *detail) {
    if (change->from_epoch != layout->epoch)
        return err_set(detail, DIMFIT_ERR_INVALID, "a change from epoch %llu, the layout is %llu",
                       (unsigned long long)change->from_epoch, (unsigned long long)layout->epoch);
    for (size_t i = 0; i < change->n_slots; i++) {
        const struct change_slot *const s = &change->slots[i];
        const struct layout_slot *const slot = layout_find(layout, s->id);
        if (slot == NULL)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "the change names slot %u, not in epoch %llu", s->id,
                           (unsigned long long)layout->epoch);
        if (slot->width != s->from)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u: the change goes from width %u, the layout says %u", s->id,
                           s->from, slot->width);
        if (slot->optimizer.kind == OPTIMIZER_FTRL && s->keep == NULL)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u (%s): ftrl takes the axis basis only", s->id, slot->name);
    }
    return DIMFIT_OK;
}

dimfit_err change_apply(const struct change *change, const struct layout *layout,
                        struct layout **out, struct err_detail *detail) {
    struct layout *after = NULL;
    dimfit_err err = check_fits(change, layout, detail);
    if (err != DIMFIT_OK)
        return err;
    err = layout_copy(layout, &after);
    size_t at = 0;
    for (size_t i = 0; i < change->n_slots && err == DIMFIT_OK; i++) {
        const struct change_slot *const s = &change->slots[i];
        while (after->slots[at].id != s->id)
            at++;
        struct layout_slot *const slot = &after->slots[at];
        if (s->keep != NULL && slot->axes != NULL)
            keep_axes(s, slot);
        else
            err = become_dense(s, slot);
    }
    if (err != DIMFIT_OK) {
        layout_destroy(&after);
        return err_set(detail, err, "no memory for the layout of epoch %llu",
                       (unsigned long long)change->to_epoch);
    }
    after->epoch = change->to_epoch;
    *out = after;
    return DIMFIT_OK;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

void change_encode(const struct change *change, struct buf *out) {
    buf_put_u32(out, CHANGE_MAGIC);
    buf_put_u64(out, change->from_epoch);
    buf_put_u64(out, change->to_epoch);
    buf_put_u32(out, (uint32_t)change->n_slots);
    for (size_t i = 0; i < change->n_slots; i++) {
        const struct change_slot *const s = &change->slots[i];
        const size_t values = (size_t)s->from * s->to;
        buf_put_u32(out, s->id);
        buf_put_u32(out, s->from);
        buf_put_u32(out, s->to);
        buf_put_u8(out, (uint8_t)((s->keep == NULL ? FLAG_DENSE : 0) |
                                  (s->shift != NULL ? FLAG_SHIFT : 0)));
        if (s->keep != NULL) {
            buf_put(out, s->keep, s->to * sizeof *s->keep);
            continue;
        }
        buf_put(out, s->T, values * sizeof *s->T);
        buf_put(out, s->N, values * sizeof *s->N);
        if (s->shift != NULL)
            buf_put(out, s->shift, s->from * sizeof *s->shift);
    }
}

static dimfit_err check_keep(const struct change_slot *s, struct err_detail *detail) {
    bool seen[LAYOUT_DIM_MAX] = {false};
    for (uint32_t k = 0; k < s->to; k++) {
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
    const size_t values = (size_t)s->from * s->to;
    bool finite = true;
    for (size_t i = 0; i < values; i++)
        finite = finite && isfinite(s->T[i]);
    for (size_t k = 0; k < s->from && s->shift != NULL; k++)
        finite = finite && isfinite(s->shift[k]);
    if (!finite)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: the change is not finite", s->id);
    const double error = layout_orthonormal_error(s->N, s->from, s->to);
    if (error > 1e-6)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: the columns of N are %g away from orthonormal", s->id, error);
    return DIMFIT_OK;
}

static dimfit_err read_arrays(struct reader *in, uint8_t flags, struct change_slot *s,
                              struct err_detail *detail) {
    const bool dense = (flags & FLAG_DENSE) != 0;
    const size_t values = (size_t)s->from * s->to;
    const size_t shift = (flags & FLAG_SHIFT) != 0 ? s->from : 0;
    if (!reader_has(in, dense ? 2 * values + shift : s->to,
                    dense ? sizeof(double) : sizeof(uint16_t)))
        return DIMFIT_ERR_PROTOCOL;
    const dimfit_err err = change_slot_alloc(s, s->id, s->from, s->to, dense);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "slot %u: no memory for its change", s->id);
    if (!dense) {
        reader_copy(in, s->keep, s->to * sizeof *s->keep);
        return check_keep(s, detail);
    }
    reader_copy(in, s->T, values * sizeof *s->T);
    reader_copy(in, s->N, values * sizeof *s->N);
    if ((flags & FLAG_SHIFT) != 0) {
        reader_copy(in, s->shift, shift * sizeof *s->shift);
    } else {
        free(s->shift);
        s->shift = NULL;
    }
    return check_dense(s, detail);
}

static dimfit_err read_slot(struct reader *in, struct change_slot *s, struct err_detail *detail) {
    s->id = reader_u32(in);
    s->from = reader_u32(in);
    s->to = reader_u32(in);
    const uint8_t flags = reader_u8(in);
    err_set(detail, DIMFIT_ERR_PROTOCOL, "a slot of the change is cut short or malformed");
    if (in->failed || flags > (FLAG_DENSE | FLAG_SHIFT) || flags == FLAG_SHIFT)
        return DIMFIT_ERR_PROTOCOL;
    if (s->from > LAYOUT_DIM_MAX || s->to > s->from)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: a change from width %u to %u", s->id,
                       s->from, s->to);
    return read_arrays(in, flags, s, detail);
}

dimfit_err change_decode(const void *bytes, size_t len, struct change **out,
                         struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const uint32_t magic = reader_u32(&in);
    const uint64_t from_epoch = reader_u64(&in);
    const uint64_t to_epoch = reader_u64(&in);
    const uint32_t n = reader_u32(&in);
    if (in.failed || magic != CHANGE_MAGIC || to_epoch <= from_epoch)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "these %zu bytes are no change", len);
    if (n > LAYOUT_SLOTS_MAX || !reader_has(&in, n, SLOT_BYTES_MIN))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "a change of %zu bytes can't hold %u slots",
                       len, n);
    struct change *change = NULL;
    dimfit_err err = change_new(from_epoch, to_epoch, n, &change);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a change of %u slots", n);
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
