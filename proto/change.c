#include "proto/change.h"

#include <math.h>
#include <stdlib.h>

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
    free(slot->mix);
    free(slot->centre);
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
    change_slot_tiers(&s, 1, &from, &to);
    *slot = s;
    return DIMFIT_OK;
}

void change_slot_tiers(struct change_slot *slot, uint32_t n, const uint32_t *from,
                       const uint32_t *to) {
    base_assert(n >= 1 && n <= LAYOUT_TIERS_MAX);
    slot->n_tiers = n;
    for (uint32_t t = 0; t < n; t++) {
        slot->tier_from[t] = from[t];
        slot->tier_to[t] = to[t];
    }
}

dimfit_err change_slot_alloc(struct change_slot *slot, uint32_t id, uint32_t from, uint32_t to,
                             bool dense) {
    return change_slot_alloc_added(slot, id, 0, from, to, 0, dense);
}

dimfit_err change_slot_alloc_mix(struct change_slot *slot) {
    base_assert(slot->added > 0 && !slot->drawn && slot->mix == NULL);
    double *const mix = new_array((size_t)slot->from * slot->added, sizeof *mix);
    double *const centre = new_array(slot->from, sizeof *centre);
    if (mix == NULL || centre == NULL) {
        free(mix);
        free(centre);
        return DIMFIT_ERR_NOMEM;
    }
    slot->mix = mix;
    slot->centre = centre;
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

uint32_t change_width_before(const struct change *change, const struct change_slot *slot) {
    return change->undoes != 0 ? slot->to : slot->from;
}

uint32_t change_width_after(const struct change *change, const struct change_slot *slot) {
    return change->undoes != 0 ? slot->from : slot->to;
}

uint32_t change_tier_before(const struct change *change, const struct change_slot *slot,
                            uint32_t tier) {
    base_assert(tier < slot->n_tiers);
    return change->undoes != 0 ? slot->tier_to[tier] : slot->tier_from[tier];
}

uint32_t change_tier_after(const struct change *change, const struct change_slot *slot,
                           uint32_t tier) {
    base_assert(tier < slot->n_tiers);
    return change->undoes != 0 ? slot->tier_from[tier] : slot->tier_to[tier];
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

/* The kept columns of in[rows][from], the first of each row of out[rows][to]. */
static void select_columns(const double *in, size_t rows, const struct change_slot *change,
                           double *out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t k = 0; k < change_kept(change); k++)
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
    const size_t kept = change_kept(change);
    for (size_t k = 0; k < kept; k++)
        axes[k] = slot->axes[change->keep[k]];
    for (size_t k = kept; k < change->to; k++)
        axes[k] = (uint16_t)axis_of(change, k - kept);
    free(slot->axes);
    slot->axes = axes;
    slot->width = change->to;
    return DIMFIT_OK;
}

/* New directions in M; in the initial map what initial rows are there. */
static void fill_added(const struct change_slot *change, size_t d, const double *init_map,
                       const double *init_shift, struct layout_slot *after) {
    const size_t to = change->to, kept = change_kept(change), from = change->from;
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < change->added; k++) {
            const double x = change->columns[i * change->added + k];
            after->basis[i * to + kept + k] = x;
            after->init_map[i * to + kept + k] = change->drawn ? x : 0;
        }
    }
    if (change->mix == NULL)
        return;
    double centred[LAYOUT_DIM_MAX];
    for (size_t k = 0; k < from; k++)
        centred[k] = init_shift[k] - change->centre[k];
    multiply(init_map, d, change->mix, from, change->added, after->init_map + kept, to);
    multiply(centred, 1, change->mix, from, change->added, after->init_shift + kept, to);
}

/* Arrays of the slot as it will be, zeros so far; those of `before` are read. */
static void fill_dense(const struct change_slot *change, const struct layout_slot *before,
                       const double *M, const double *init_map, const double *init_shift,
                       struct layout_slot *after) {
    const size_t d = before->dim, from = change->from, to = change->to, kept = change_kept(change);
    layout_slot_mean(before, after->mean);
    fill_added(change, d, init_map, init_shift, after);
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

/* Finite numbers may have made a mean or an initial map that is not, and could not be read again.
 */
static bool is_finite(const double *values, size_t n) {
    double sum = 0; /* of zeros */
    for (size_t i = 0; i < n; i++)
        sum += values[i] * 0;
    return sum == 0;
}

/* What is off by more than rounding was never meant; what rounding did is put right. */
static dimfit_err settle_basis(struct layout_slot *slot, struct err_detail *detail) {
    const double error = layout_orthonormal_error(slot->basis, slot->dim, slot->width);
    if (!(error <= 1e-6))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the columns of its basis would be %g away from orthonormal",
                       slot->id, error);
    const size_t d = slot->dim, w = slot->width;
    if (!is_finite(slot->mean, d) || !is_finite(slot->init_map, d * w) ||
        !is_finite(slot->init_shift, w))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: its mean or initial map would not be finite", slot->id);
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

static bool tiers_are(const struct layout_slot *slot, uint32_t n, const uint32_t *widths) {
    return slot->n_tiers == n && memcmp(slot->tier_widths, widths, n * sizeof *widths) == 0;
}

static dimfit_err check_tiers(const struct change *change, const struct change_slot *s,
                              const struct layout_slot *slot, struct err_detail *detail) {
    if (!tiers_are(slot, s->n_tiers, change->undoes != 0 ? s->tier_to : s->tier_from))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "slot %u: the change is for other widths of its tiers than the layout's",
                       s->id);
    return tiers_check_widths(s->tier_to, s->n_tiers, s->to, s->id, DIMFIT_ERR_INVALID, detail);
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
    const dimfit_err err = check_tiers(change, s, slot, detail);
    if (err != DIMFIT_OK)
        return err;
    if (slot->optimizer.kind == OPTIMIZER_FTRL && s->keep == NULL)
        return err_set(detail, DIMFIT_ERR_INVALID, "slot %u (%s): ftrl takes the axis basis only",
                       s->id, slot->name);
    if (change->undoes == 0)
        return s->added > 0 ? check_added(s, slot, detail) : DIMFIT_OK;
    const struct layout_slot *const back = layout_find(before, s->id);
    if (back == NULL || back->width != s->from || back->dim != slot->dim ||
        !tiers_are(back, s->n_tiers, s->tier_from))
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
        if (err == DIMFIT_OK && change->undoes == 0)
            memcpy(slot->tier_widths, s->tier_to, s->n_tiers * sizeof *s->tier_to);
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
