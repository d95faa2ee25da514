/*
 * A layout change: what takes the rows of one epoch to the next.
 *
 * For a slot that changes from width `from` to `to`, values move by r' = (r - shift) T and
 * gradients by N (a gradient g in old stored coordinates is g N in new ones); M_new = M_old N, and
 * mean_new = mean_old + shift M_old^T. An orthogonal change has T = N; a `keep` change selects
 * stored coordinates, bit for bit, with no shift. Slots not named stay as they are.
 *
 * A slot that grows gets `added` new directions behind those it keeps: M_new = [M_old N | added
 * columns]. Existing rows are 0 there (the embedding stays what it was) or, `drawn`, what the
 * initial value of a feasign made up from their own bits is: a model whose gradient vanishes where
 * everything is zero (FM) can't leave zero by itself. Feasigns never seen read as 0, or their own
 * initial value. A third way is `mix`: rows are (r - centre) mix there, a linear transform of what
 * they have, and so are feasigns never seen, of their initial row.
 *
 * A change may undo the one before it. Its slots say, word for word, what the undone change did:
 * rows saved as r_saved, which that change made r_moved, and now of r_now, become r_saved + (r_now
 * - r_moved) N^T, so that what was trained since is kept and what was dropped comes back. In terms
 * of `keep`: kept coordinates are those of now, bit for bit, the others those saved. The directions
 * that the undone change added go. A row stored since has the initial row of the layout before in
 * place of a saved one.
 *
 * A row of tier t (proto/tiers.h) goes from width tier_from[t] to tier_to[t] by the same change:
 * padded with zeros to `from`, moved, cut.
 *
 * Optimizer state through a change: row-wise AdaGrad's sum is kept (invariant under rotation),
 * first moments m' = m N, per-dimension second moments s' = s (N o N), FTRL's z and n only
 * selected; zero in added directions. Undone, it goes back as values do, second moments by (N o
 * N)^T and never below zero.
 */
#ifndef PROTO_CHANGE_H
#define PROTO_CHANGE_H

#include "proto/layout.h"

struct change_slot {
    uint32_t id;
    uint32_t from, to; /* stored widths; of the undone change where one is undone */
    uint32_t added;    /* of `to`, the last ones: new directions */
    bool drawn;        /* rows get initial values there, not zeros */
    uint16_t *keep;    /* [to - added] old coordinate of each kept one, distinct; NULL when dense */
    double *T;         /* [from][to - added], NULL with keep */
    double *N;         /* [from][to - added], orthonormal columns; NULL with keep */
    double *shift;     /* [from], NULL for zero */
    double *columns;   /* [dim][added] orthonormal, and so to M_old N; NULL when none is added */
    double *mix;       /* [from][added], NULL unless rows are (r - centre) mix in new directions */
    double *centre;    /* [from], with mix */
    uint32_t dim;      /* model width, where columns are */
    uint32_t n_tiers;  /* the slot's */
    uint32_t tier_from[LAYOUT_TIERS_MAX]; /* non-decreasing, the last ones are from and to */
    uint32_t tier_to[LAYOUT_TIERS_MAX];
};

/* Of the width after, how many coordinates are made of old ones by keep or T. */
static inline uint32_t change_kept(const struct change_slot *slot) {
    return slot->to - slot->added;
}

struct change {
    uint64_t from_epoch, to_epoch;
    uint64_t undoes; /* the epoch whose change is undone; 0: none */
    size_t n_slots;
    struct change_slot *slots; /* ascending by id */
};

dimfit_err change_new(uint64_t from_epoch, uint64_t to_epoch, size_t n_slots, struct change **out)
    MUST_CHECK; /* slots zeroed, arrays to be filled with change_slot_alloc() */
void change_destroy(struct change **change);
dimfit_err change_copy(const struct change *change, struct change **out) MUST_CHECK;

/* Stored widths of the rows before and after, whichever way the change goes. */
uint32_t change_width_before(const struct change *change, const struct change_slot *slot);
uint32_t change_width_after(const struct change *change, const struct change_slot *slot);

/* The same of rows of one tier. */
uint32_t change_tier_before(const struct change *change, const struct change_slot *slot,
                            uint32_t tier);
uint32_t change_tier_after(const struct change *change, const struct change_slot *slot,
                           uint32_t tier);

/* Allocate the arrays of one slot, zeroed: `keep` when dense is false, T, N and shift when it is.
 * It has one tier: change_slot_tiers(). */
dimfit_err change_slot_alloc(struct change_slot *slot, uint32_t id, uint32_t from, uint32_t to,
                             bool dense) MUST_CHECK;
/* The same for a slot of model width `dim` that gets `added` of its `to` directions new. */
dimfit_err change_slot_alloc_added(struct change_slot *slot, uint32_t id, uint32_t dim,
                                   uint32_t from, uint32_t to, uint32_t added,
                                   bool dense) MUST_CHECK;

/* Give a slot that has new directions, not drawn, its `mix` and `centre`, zeroed. */
dimfit_err change_slot_alloc_mix(struct change_slot *slot) MUST_CHECK;

/* Give it n tiers of these widths, whose order and ends change_apply() and change_decode() check.
 */
void change_slot_tiers(struct change_slot *slot, uint32_t n, const uint32_t *from,
                       const uint32_t *to);

const struct change_slot *change_find(const struct change *change, uint32_t id);

/* What undoes `change`, whose epoch is in force, and leads to to_epoch. */
dimfit_err change_undo(const struct change *change, uint64_t to_epoch,
                       struct change **out) MUST_CHECK;

/* The layout after the change. `before` is the layout that the undone change began from, NULL where
 * none is undone; slots that came later stay. INVALID when the change does not fit: epoch, slot,
 * width, columns that are not orthonormal to what is kept, or a basis of directions for a slot
 * whose optimizer (ftrl) takes coordinates only. */
dimfit_err change_apply(const struct change *change, const struct layout *layout,
                        const struct layout *before, struct layout **out,
                        struct err_detail *detail) MUST_CHECK;

void change_encode(const struct change *change, struct buf *out);
dimfit_err change_decode(const void *bytes, size_t len, struct change **out,
                         struct err_detail *detail) MUST_CHECK;

#endif
