/*
 * Initial values: what a feasign reads before it was ever trained.
 *
 * v_init is a pure function of (seed, slot, feasign, dimension) at model width, in the coordinates
 * of epoch 0; the layout's initial map takes it to the current stored row. The same bits whatever
 * the shard count, arrival order, restart, machine or instruction set: made by + - * / alone.
 */
#ifndef SERVER_INIT_H
#define SERVER_INIT_H

#include "proto/layout.h"

/* v[dim] of one feasign at epoch 0. */
void init_value(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *v);

/* r[width], the row at this layout: r = v init_map + init_shift. */
void init_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r);

/* The same of a feasign that has no row, or a new one: r[tier_widths[0]], its first cells, since it
 * begins in the first tier. */
void init_new_row(const struct layout_slot *slot, uint64_t seed, uint64_t feasign, float *r);

#endif
