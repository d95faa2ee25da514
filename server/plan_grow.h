/*
 * Growth: width for slots that deserve more, within the budget (design 2.5).
 *
 * The rule. In a search with growth a slot may get units that it does not have yet, up to the next
 * of 1/4/8/16/32/64 above its width and at most to its model width. They take part in the choice
 * like those that are there, and cost as much. What a unit is worth is its score, but a slot's k-th
 * best, there or not, at least half of what its unit at half that rank scores: directions are
 * learnt one after another, and a slot that uses half of its width well is not done. So width goes
 * from slots that leave more than half of theirs idle to those that use half and more, and stays
 * there while that is so: the layout settles as the scores do.
 *
 * New directions are those that the slot lacks and the other slots of its model width use most: by
 * their eigenvalues where a basis was fitted, by how many have the axis otherwise. A model that
 * multiplies embeddings learns nothing where all others are zero. When none uses any, they are the
 * first axes that the slot lacks, the same for all slots, so that slots that grow together meet.
 * The layout stays one of axes where the search keeps axes.
 *
 * What rows have there at first is the request's grow_init: `drawn` (small initial values of their
 * own), `zero`, or `linear`, the fully connected transform with batch normalisation: (r - rbar) W,
 * W a random matrix, normal, of the request's seed, slot and epoch, whose columns are scaled by
 * init_scale / sqrt(w^T A w), so that over lookups each new coordinate has mean 0 and standard
 * deviation init_scale, whatever the rows are. rbar and A are the slot's count-weighted mean and
 * covariance: the normalisation is folded into W, and its statistics are exact, not a batch's. It
 * changes the function that the model computes, and takes a basis of directions. Where rows do not
 * vary it is zero.
 */
#ifndef SERVER_PLAN_GROW_H
#define SERVER_PLAN_GROW_H

#include "server/plan_internal.h"

/* How many units a slot of this width may get in one search. */
uint32_t grow_room(uint32_t width, uint32_t dim);

/* For a search with growth: set every slot's room, and what its units, there or not, are expected
 * to be worth by score and norm. A slot that earns nothing has no room. NOMEM. */
dimfit_err grow_offer(struct plan_work *work) MUST_CHECK;

/* Set the directions that the plan's change adds and what rows have there; the rest of the change
 * is there. STATE when that is made of sums over rows which were not gathered. */
dimfit_err grow_fill(struct plan_work *work) MUST_CHECK;

/* n directions columns[dim][n], orthonormal and so to all of the slot's basis, those of most use in
 * E[dim][dim] first; plain axes where it has axes and `axes` is set. n <= dim - width. The same
 * input gives the same bits. NOMEM, NOT_FINITE when they are not found. */
dimfit_err grow_columns(const struct layout_slot *slot, bool axes, const double *E, size_t n,
                        double *columns, struct err_detail *detail) MUST_CHECK;

#endif
