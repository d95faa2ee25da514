/*
 * Growth: width for slots that deserve more, within the budget (design 2.5).
 *
 * The rule. In a search with growth a slot may get units that it does not have yet, up to the next
 * of 1/4/8/16/32/64 above its width and at most to its model width. They take part in the choice
 * like those that are there, and cost as much; each is expected to score half of the one before it,
 * the first half of the slot's weakest. So a new unit takes the place of one elsewhere that scores
 * less than half of what the slot's own weakest does, and where no slot's weakest unit scores twice
 * another's (per parameter, ranked by density) the layout has settled. What new units really earn
 * is seen in the next search, and there they stay or go by it.
 *
 * New directions are those that the slot lacks and the other slots of its model width use most: by
 * their eigenvalues where a basis was fitted, by how many have the axis otherwise. A model that
 * multiplies embeddings learns nothing where all others are zero. When none uses any, they are the
 * first axes that the slot lacks, the same for all slots, so that slots that grow together meet.
 * The layout stays one of axes where the search keeps axes.
 */
#ifndef SERVER_PLAN_GROW_H
#define SERVER_PLAN_GROW_H

#include "server/plan_internal.h"

/* How many units a slot of this width may get in one search. */
uint32_t grow_room(uint32_t width, uint32_t dim);

/* For a search with growth: set every slot's room, and the expected scores and norms of its units
 * that are not there yet, behind those of the units that are. A slot whose weakest unit earns
 * nothing promises nothing and has no room. */
void grow_offer(struct plan_work *work);

/* Set the directions that the plan's change adds; the rest of the change is there. */
dimfit_err grow_fill(struct plan_work *work) MUST_CHECK;

/* n directions columns[dim][n], orthonormal and so to all of the slot's basis, those of most use in
 * E[dim][dim] first; plain axes where it has axes and `axes` is set. n <= dim - width. The same
 * input gives the same bits. NOMEM, NOT_FINITE when they are not found. */
dimfit_err grow_columns(const struct layout_slot *slot, bool axes, const double *E, size_t n,
                        double *columns, struct err_detail *detail) MUST_CHECK;

#endif
