#include "proto/change.h"

#include <math.h>
#include <stdlib.h>

enum {
    CHANGE_MAGIC = 0x32636664, /* "dfc2" */
    SLOT_BYTES_MIN = 13,       /* an encoded slot that keeps nothing and gains nothing */
    FLAG_DENSE = 1 << 0,
    FLAG_SHIFT = 1 << 1,
    FLAG_ADDED = 1 << 2,
    FLAG_DRAWN = 1 << 3,
    FLAGS = FLAG_DENSE | FLAG_SHIFT | FLAG_ADDED | FLAG_DRAWN,
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
    free(slot->columns);
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

dimfit_err change_slot_alloc_added(struct change_slot *slot, uint32_t id, uint32_t dim,
                                   uint32_t from, uint32_t to, uint32_t added, bool dense) {
    base_assert(added <= to);
    struct change_slot s = {.id = id, .from = from, .to = to, .added = added};
    const size_t kept = to - added;
    bool whole = true;
    if (dense) {
        s.T = new_array(from * kept, sizeof *s.T);
        s.N = new_array(from * kept, sizeof *s.N);
        s.shift = new_array(from, sizeof *s.shift);
        whole = s.T != NULL && s.N != NULL && s.shift != NULL;
    } else {
        s.keep = new_array(kept, sizeof *s.keep);
        whole = s.keep != NULL;
    }
    if (added > 0) {
        s.dim = dim;
        s.columns = new_array((size_t)dim * added, sizeof *s.columns);
        whole = whole && s.columns != NULL;
    }
    if (!whole) {
        slot_fini(&s);
        return DIMFIT_ERR_NOMEM;
    }
    *slot = s;
    return DIMFIT_OK;
}

dimfit_err change_slot_alloc(struct change_slot *slot, uint32_t id, uint32_t from, uint32_t to,
                             bool dense) {
    return change_slot_alloc_added(slot, id, 0, from, to, 0, dense);
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

uint32_t change_width_before(const struct change *change, const struct change_slot *slot) {
    return change->undoes != 0 ? slot->to : slot->from;
}

uint32_t change_width_after(const struct change *change, const struct change_slot *slot) {
    return change->undoes != 0 ? slot->from : slot->to;
}

dimfit_err change_copy(const struct change *change, struct change **out) {
    struct buf bytes;
    buf_init(&bytes);
    change_encode(change, &bytes);
    dimfit_err err = buf_status(&bytes);
    if (err == DIMFIT_OK)
        err = change_decode(bytes.data, bytes.len, out, NULL);
    buf_fini(&bytes);
    return err;
}

dimfit_err change_undo(const struct change *change, uint64_t to_epoch, struct change **out) {
    base_assert(change->undoes == 0);
    struct change *undo = NULL;
    const dimfit_err err = change_copy(change, &undo);
    if (err != DIMFIT_OK)
        return err;
    undo->from_epoch = undo->undoes = change->to_epoch;
    undo->to_epoch = to_epoch;
    *out = undo;
    return DIMFIT_OK;
}

/* ---- the layout after ------------------------------------------------------------------------ */

/* The first `to` of each row of `stride` in out = in[rows][from] A, A[from][to]. */
static void multiply(const double *in, size_t rows, const double *A, size_t from, size_t to,
                     double *out, size_t stride) {
    for (size_t r = 0; r < rows; r++) {
        double *const sum = out + r * stride;
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

static size_t kept_of(const struct change_slot *change) {
    return change->to - change->added;
}

/* The kept columns of in[rows][from], the first of each row of out[rows][to]. */
static void select_columns(const double *in, size_t rows, const struct change_slot *change,
                           double *out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t k = 0; k < kept_of(change); k++)
            out[r * change->to + k] = in[r * change->from + change->keep[k]];
    }
}

/* The axis that an added column is, or dim when it is none. */
static size_t axis_of(const struct change_slot *change, size_t column) {
    size_t axis = change->dim;
    for (size_t i = 0; i < change->dim; i++) {
        const double x = change->columns[i * change->added + column];
        if (x != 0 && (x != 1 || axis < change->dim))
            return change->dim;
        if (x == 1)
            axis = i;
    }
    return axis;
}

/* Whether a slot of axes stays one. A layout of axes has initial values on all of them, so that new
 * ones must be drawn. */
static bool stays_axes(const struct change_slot *change, const struct layout_slot *slot) {
    if (change->keep == NULL || slot->axes == NULL || (change->added > 0 && !change->drawn))
        return false;
    for (size_t k = 0; k < change->added; k++) {
        if (axis_of(change, k) == change->dim)
            return false;
    }
    return true;
}

static dimfit_err change_axes(const struct change_slot *change, struct layout_slot *slot) {
    uint16_t *const axes = new_array(change->to, sizeof *axes);
    if (axes == NULL)
        return DIMFIT_ERR_NOMEM;
    const size_t kept = kept_of(change);
    for (size_t k = 0; k < kept; k++)
        axes[k] = slot->axes[change->keep[k]];
    for (size_t k = kept; k < change->to; k++)
        axes[k] = (uint16_t)axis_of(change, k - kept);
    free(slot->axes);
    slot->axes = axes;
    slot->width = change->to;
    return DIMFIT_OK;
}

/* New directions in M; in the initial map where rows get initial values there. */
static void fill_added(const struct change_slot *change, size_t d, struct layout_slot *after) {
    const size_t kept = kept_of(change);
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < change->added; k++) {
            const double x = change->columns[i * change->added + k];
            after->basis[i * change->to + kept + k] = x;
            after->init_map[i * change->to + kept + k] = change->drawn ? x : 0;
        }
    }
}

/* Arrays of the slot as it will be, zeros so far; those of `before` are read. */
static void fill_dense(const struct change_slot *change, const struct layout_slot *before,
                       const double *M, const double *init_map, const double *init_shift,
                       struct layout_slot *after) {
    const size_t d = before->dim, from = change->from, to = change->to, kept = kept_of(change);
    layout_slot_mean(before, after->mean);
    fill_added(change, d, after);
    if (change->keep != NULL) {
        select_columns(M, d, change, after->basis);
        select_columns(init_map, d, change, after->init_map);
        select_columns(init_shift, 1, change, after->init_shift);
        return;
    }
    multiply(M, d, change->N, from, kept, after->basis, to);
    double shifted[LAYOUT_DIM_MAX];
    for (size_t k = 0; k < from; k++)
        shifted[k] = init_shift[k] - (change->shift != NULL ? change->shift[k] : 0);
    multiply(init_map, d, change->T, from, kept, after->init_map, to);
    multiply(shifted, 1, change->T, from, kept, after->init_shift, to);
    for (size_t i = 0; i < d && change->shift != NULL; i++) {
        for (size_t k = 0; k < from; k++)
            after->mean[i] += change->shift[k] * M[i * from + k];
    }
}

/* What is off by more than rounding was never meant; what rounding did is put right. */
static dimfit_err settle_basis(struct layout_slot *slot, struct err_detail *detail) {
    const double error = layout_orthonormal_error(slot->basis, slot->dim, slot->width);
    if (!(error <= 1e-6))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the columns of its basis would be %g away from orthonormal",
                       slot->id, error);
    if (error > 1e-12)
        orthonormalise(slot->basis, slot->dim, slot->width);
    return DIMFIT_OK;
}

static dimfit_err become_dense(const struct change_slot *change, struct layout_slot *slot,
                               struct err_detail *detail) {
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
    dimfit_err err = DIMFIT_ERR_NOMEM;
    if (after.basis == NULL || after.mean == NULL || after.init_map == NULL ||
        after.init_shift == NULL || M == NULL)
        goto done;
    layout_slot_basis(slot, M);
    /* While the basis is made of axes, the initial map is that same selection. */
    fill_dense(change, slot, M, slot->axes != NULL ? M : slot->init_map,
               slot->axes != NULL ? zeros : slot->init_shift, &after);
    err = settle_basis(&after, detail);

done:
    free(M);
    layout_slot_fini(err == DIMFIT_OK ? slot : &after);
    if (err == DIMFIT_OK)
        *slot = after;
    return err;
}

/* The slot as it was before the undone change; what is not of the layout itself stays. */
static dimfit_err come_back(const struct layout_slot *before, struct layout_slot *slot) {
    struct layout_slot back;
    const dimfit_err err = layout_slot_copy(before, &back);
    if (err != DIMFIT_OK)
        return err;
    back.retention = slot->retention;
    layout_slot_fini(slot);
    *slot = back;
    return DIMFIT_OK;
}

static dimfit_err check_added(const struct change_slot *s, const struct layout_slot *slot,
                              struct err_detail *detail) {
    if (s->dim != slot->dim || s->to > slot->dim)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the change adds directions of dim %u up to width %u, the layout "
                       "says dim %u",
                       s->id, s->dim, s->to, slot->dim);
    if (slot->optimizer.kind == OPTIMIZER_FTRL && !stays_axes(s, slot))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u (%s): ftrl takes axes only, with initial values on new ones", s->id,
                       slot->name);
    return DIMFIT_OK;
}

static dimfit_err check_slot(const struct change *change, const struct change_slot *s,
                             const struct layout *layout, const struct layout *before,
                             struct err_detail *detail) {
    const struct layout_slot *const slot = layout_find(layout, s->id);
    if (slot == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID, "the change names slot %u, not in epoch %llu",
                       s->id, (unsigned long long)layout->epoch);
    if (slot->width != change_width_before(change, s))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the change goes from width %u, the layout says %u", s->id,
                       change_width_before(change, s), slot->width);
    if (slot->optimizer.kind == OPTIMIZER_FTRL && s->keep == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u (%s): ftrl takes the axis basis only",
                       s->id, slot->name);
    if (change->undoes == 0)
        return s->added > 0 ? check_added(s, slot, detail) : DIMFIT_OK;
    const struct layout_slot *const back = layout_find(before, s->id);
    if (back == NULL || back->width != s->from || back->dim != slot->dim)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the change can't be undone, the layout before it was another",
                       s->id);
    return DIMFIT_OK;
}

static dimfit_err check_fits(const struct change *change, const struct layout *layout,
                             const struct layout *before, struct err_detail *detail) {
    if (change->from_epoch != layout->epoch)
        return err_set(detail, DIMFIT_ERR_INVALID, "a change from epoch %llu, the layout is %llu",
                       (unsigned long long)change->from_epoch, (unsigned long long)layout->epoch);
    if (change->undoes != 0 && before == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "the change of epoch %llu can't be undone without the layout before it",
                       (unsigned long long)change->undoes);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < change->n_slots && err == DIMFIT_OK; i++)
        err = check_slot(change, &change->slots[i], layout, before, detail);
    return err;
}

dimfit_err change_apply(const struct change *change, const struct layout *layout,
                        const struct layout *before, struct layout **out,
                        struct err_detail *detail) {
    struct layout *after = NULL;
    dimfit_err err = check_fits(change, layout, before, detail);
    if (err != DIMFIT_OK)
        return err;
    err = layout_copy(layout, &after);
    size_t at = 0;
    for (size_t i = 0; i < change->n_slots && err == DIMFIT_OK; i++) {
        const struct change_slot *const s = &change->slots[i];
        while (after->slots[at].id != s->id)
            at++;
        struct layout_slot *const slot = &after->slots[at];
        if (change->undoes != 0)
            err = come_back(layout_find(before, s->id), slot);
        else if (stays_axes(s, slot))
            err = change_axes(s, slot);
        else
            err = become_dense(s, slot, detail);
    }
    if (err != DIMFIT_OK) {
        layout_destroy(&after);
        return err == DIMFIT_ERR_INVALID
                   ? err
                   : err_set(detail, err, "no memory for the layout of epoch %llu",
                             (unsigned long long)change->to_epoch);
    }
    after->epoch = change->to_epoch;
    *out = after;
    return DIMFIT_OK;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void encode_slot(const struct change_slot *s, struct buf *out) {
    const size_t kept = kept_of(s), values = s->from * kept;
    buf_put_u32(out, s->id);
    buf_put_u32(out, s->from);
    buf_put_u32(out, s->to);
    buf_put_u8(out,
               (uint8_t)((s->keep == NULL ? FLAG_DENSE : 0) | (s->shift != NULL ? FLAG_SHIFT : 0) |
                         (s->added > 0 ? FLAG_ADDED : 0) | (s->drawn ? FLAG_DRAWN : 0)));
    if (s->added > 0) {
        buf_put_u32(out, s->added);
        buf_put_u32(out, s->dim);
        buf_put(out, s->columns, (size_t)s->dim * s->added * sizeof *s->columns);
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
    for (uint32_t k = 0; k < kept_of(s); k++) {
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
    const size_t values = s->from * kept_of(s);
    bool finite = true;
    for (size_t i = 0; i < values; i++)
        finite = finite && isfinite(s->T[i]);
    for (size_t k = 0; k < s->from && s->shift != NULL; k++)
        finite = finite && isfinite(s->shift[k]);
    if (!finite)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: the change is not finite", s->id);
    const double error = layout_orthonormal_error(s->N, s->from, kept_of(s));
    if (error > 1e-6)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "slot %u: the columns of N are %g away from orthonormal", s->id, error);
    return DIMFIT_OK;
}

static dimfit_err read_dense(struct reader *in, bool shift, struct change_slot *s,
                             struct err_detail *detail) {
    const size_t values = s->from * kept_of(s);
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

static dimfit_err read_arrays(struct reader *in, uint8_t flags, uint32_t added, uint32_t dim,
                              struct change_slot *s, struct err_detail *detail) {
    const bool dense = (flags & FLAG_DENSE) != 0, shift = (flags & FLAG_SHIFT) != 0;
    const size_t kept = s->to - added, columns = (size_t)dim * added;
    const size_t doubles = columns + (dense ? 2 * s->from * kept + (shift ? s->from : 0) : 0);
    if (!reader_has(in, doubles * sizeof(double) + (dense ? 0 : kept * sizeof(uint16_t)), 1))
        return DIMFIT_ERR_PROTOCOL;
    dimfit_err err = change_slot_alloc_added(s, s->id, dim, s->from, s->to, added, dense);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "slot %u: no memory for its change", s->id);
    s->drawn = (flags & FLAG_DRAWN) != 0;
    if (columns > 0)
        reader_copy(in, s->columns, columns * sizeof *s->columns);
    err = check_columns(s, detail);
    if (err != DIMFIT_OK)
        return err;
    if (dense)
        return read_dense(in, shift, s, detail);
    reader_copy(in, s->keep, kept * sizeof *s->keep);
    return check_keep(s, detail);
}

static bool flags_sound(uint8_t flags) {
    return (flags & ~(unsigned)FLAGS) == 0 && (flags & (FLAG_DENSE | FLAG_SHIFT)) != FLAG_SHIFT &&
           (flags & (FLAG_ADDED | FLAG_DRAWN)) != FLAG_DRAWN;
}

static dimfit_err read_slot(struct reader *in, struct change_slot *s, struct err_detail *detail) {
    s->id = reader_u32(in);
    s->from = reader_u32(in);
    s->to = reader_u32(in);
    const uint8_t flags = reader_u8(in);
    const bool grows = (flags & FLAG_ADDED) != 0;
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
    return read_arrays(in, flags, added, dim, s, detail);
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
