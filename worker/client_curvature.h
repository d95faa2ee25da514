/*
 * The curvature of a push's slots: H = sum over lookups of g^T g, where g is the gradient of one
 * lookup as the caller gave it, before those of equal keys are summed (design 2.4).
 *
 * Formed once a call, in the coordinates of the caller's arrays, and only while a search asks for
 * it; taken to stored coordinates whenever a message is made, so that a push that is mapped again
 * for a new layout maps its curvature too. One part of a push has a slot's: that of the shard of
 * the slot's first distinct key. A push that a freeze turned away keeps no single gradients and
 * brings none. Sums are float64; products of float32 are exact in it. No state beside the call's.
 */
#ifndef WORKER_CLIENT_CURVATURE_H
#define WORKER_CLIENT_CURVATURE_H

#include "worker/client_call.h"

/* Form those of the slots that a search looks at, if they are wanted of this push. NOMEM; LIMIT
 * when they could not travel in one message. */
dimfit_err curvature_form(struct dimfit *c, struct dimfit_call *call) MUST_CHECK;

/* How many lookups the i-th slot's curvature in this part is of; 0: the part has none. */
uint32_t curvature_lookups(const struct dimfit_call *call, size_t i, size_t shard);

/* Write the i-th slot's curvature in stored coordinates to *at, and go on behind it. `old` is the
 * layout of compact arrays that `now` is not of, else NULL. NOMEM. */
dimfit_err curvature_put(const struct dimfit_call *call, size_t i, const struct view_slot *old,
                         const struct view_slot *now, uint8_t **at) MUST_CHECK;

/* H[w][w] += sum of g^T g over n rows of w floats: the upper triangle, other places of H are
 * scratch. rows[CURVATURE_ROWS][w] is scratch. */
enum { CURVATURE_ROWS = 8 };
void curvature_add(const float *g, size_t n, size_t w, double *rows, double *H);

#endif
