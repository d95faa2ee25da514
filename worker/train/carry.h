/*
 * The compact view's transforms through a layout change.
 *
 * A slot's embedding is v = count mu + r W with a trained W (width x dim). In a layout with basis M
 * and mean m it starts as W = M^T, mu = m. When the layout changes to M', m', the stored rows
 * become r' = (v - m') M' of what the old ones stood for, so W' = M'^T A and mu' = mu + (m' - m) A
 * with A = M W + (I - M M^T) keep the function for what the new basis holds. A direction that the
 * old basis lacks, new or back again, is passed on as it is: a row of W' for it is its column of
 * M'.
 */
#ifndef TRAIN_CARRY_H
#define TRAIN_CARRY_H

#include "worker/dimfit.h"
#include "worker/train/real.h"

/* A copy of what a layout says of one slot. */
struct carry_slot {
    uint32_t dim, width;
    float *basis; /* [dim][width] */
    float *mean;  /* [dim] */
};

void carry_slot_set(struct carry_slot *slot, const struct dimfit_slot *from);
void carry_slot_fini(struct carry_slot *slot);

/* W[width][dim] = M^T, mu[dim] = m. */
void carry_start(const struct carry_slot *slot, real *W, real *mu);

/* From the layout's slot `from` to `to` of the same dim: W_new[to->width][dim], mu_new[dim]. */
void carry_over(const struct carry_slot *from, const struct carry_slot *to, const real *W,
                const real *mu, real *W_new, real *mu_new);

#endif
