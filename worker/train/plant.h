/*
 * A click log with planted structure: slots whose embeddings have a known rank.
 *
 * Every feasign f of slot i has a latent vector u_f in a random r_i-dimensional subspace of an
 * 8-dimensional space, and a first-order weight w_f; feasigns come Zipf-distributed. A click's log
 * odds are
 *
 *     bias + sum_i w_f(i) + sum_{i<j} <u_f(i), u_f(j)>
 *
 * so slot i needs r_i dimensions and no more, and a slot of rank 0 (noise, without first-order
 * weights too) needs none. Among the widest slots there is one of each rank. All of it is a
 * function of the seed. A plant belongs to one thread.
 */
#ifndef TRAIN_PLANT_H
#define TRAIN_PLANT_H

#include "worker/train/rng.h"

#include <stdint.h>

enum { PLANT_LATENT = 8, PLANT_SLOTS = 20, PLANT_TEXT = 16 };

struct plant_slot {
    char name[8]; /* r<rank>_<letter> */
    unsigned rank;
    uint32_t feasigns;
    double *chance; /* [feasigns] cumulative */
    float *factor;  /* [feasigns][PLANT_LATENT] */
    float *weight;  /* [feasigns] */
    uint32_t mask;  /* scrambles ordinals into texts */
};

struct plant {
    uint64_t seed;
    double bias;
    struct plant_slot slots[PLANT_SLOTS]; /* in the order of the columns */
};

struct plant *plant_new(uint64_t seed);
void plant_destroy(struct plant **plant);

/* Draw one impression: feasigns by ordinal (0 the most frequent); returns the log odds of a click.
 */
double plant_draw(const struct plant *plant, struct rng *rng, uint32_t feasigns[PLANT_SLOTS]);

/* The log odds of given feasigns. */
double plant_logit(const struct plant *plant, const uint32_t feasigns[PLANT_SLOTS]);

/* A feasign as it stands in the file: a short text that does not tell its frequency. */
void plant_text(const struct plant_slot *slot, uint32_t feasign, char text[PLANT_TEXT]);

#endif
