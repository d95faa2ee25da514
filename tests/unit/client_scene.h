/*
 * A fake cluster of two shards with a client of it: what tests of the client library start from.
 *
 * Two slots of dim 4, of which slot 1 counts clicks. Epoch 1 is at hand: slot 1 keeps axes 2 and 0,
 * slot 2 a dense basis of two columns.
 */
#ifndef TESTS_CLIENT_SCENE_H
#define TESTS_CLIENT_SCENE_H

#include "tests/unit/fake_cluster.h"
#include "worker/dimfit.h"

enum { DIM = 4 };

struct fixture {
    struct fake *fake;
    struct dimfit *client;
    struct layout *next; /* epoch 1 */
    uint64_t key[2];     /* of slot 1, on shard 0 and on shard 1 */
};

extern const struct dimfit_push train;
extern const double client_basis[DIM * 2], client_mean[DIM]; /* of slot 2 in the next layout */

int set_up(void **state);
int tear_down(void **state);

struct dimfit_rows rows_of(uint32_t slot, const uint64_t *keys, size_t n, float *values);
/* Push (1, 2, 3, 4) to slot 1's key on each shard; pull them. */
dimfit_err push_both(struct fixture *f, struct dimfit_push push);
dimfit_err pull_both(struct fixture *f, float *v);
void assert_says(const struct fixture *f, const char *text);
void move_on(struct fixture *f); /* both shards, to the next layout */
/* Number i of the gradients in a section of a push. */
float grad(const struct fake_request *r, size_t section, size_t i);

#endif
