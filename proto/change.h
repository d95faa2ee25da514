/*
 * A layout change: what takes the rows of one epoch to the next.
 *
 * For a slot that changes from width `from` to `to`, values move by r' = (r - shift) T and
 * gradients by N (a gradient g in old stored coordinates is g N in new ones); M_new = M_old N, and
 * mean_new = mean_old + shift M_old^T. An orthogonal change has T = N; a `keep` change selects
 * stored coordinates, bit for bit, with no shift. Slots not named stay as they are.
 *
 * Optimizer state through a change: row-wise AdaGrad's sum is kept (invariant under rotation),
 * first moments m' = m N, per-dimension second moments s' = s (N o N), FTRL's z and n only
 * selected.
 */
#ifndef PROTO_CHANGE_H
#define PROTO_CHANGE_H

#include "proto/layout.h"

struct change_slot {
    uint32_t id;
    uint32_t from, to; /* stored widths, 0 <= to <= from */
    uint16_t *keep;    /* [to] old coordinate of each new one, distinct; NULL when dense */
    double *T;         /* [from][to], NULL with keep */
    double *N;         /* [from][to], orthonormal columns; NULL with keep */
    double *shift;     /* [from], NULL for zero */
};

struct change {
    uint64_t from_epoch, to_epoch;
    size_t n_slots;
    struct change_slot *slots; /* ascending by id */
};

dimfit_err change_new(uint64_t from_epoch, uint64_t to_epoch, size_t n_slots, struct change **out)
    MUST_CHECK; /* slots zeroed, arrays to be filled with change_slot_alloc() */
void change_destroy(struct change **change);

/* Allocate the arrays of one slot: `keep` when dense is false, T, N and shift when it is. */
dimfit_err change_slot_alloc(struct change_slot *slot, uint32_t id, uint32_t from, uint32_t to,
                             bool dense) MUST_CHECK;

const struct change_slot *change_find(const struct change *change, uint32_t id);

/* The layout after the change. INVALID when the change does not fit the layout: epoch, slot, width,
 * or a basis of directions for a slot whose optimizer (ftrl) takes coordinates only. */
dimfit_err change_apply(const struct change *change, const struct layout *layout,
                        struct layout **out, struct err_detail *detail) MUST_CHECK;

void change_encode(const struct change *change, struct buf *out);
dimfit_err change_decode(const void *bytes, size_t len, struct change **out,
                         struct err_detail *detail) MUST_CHECK;

#endif
