/*
 * The dense weights of a model, shared between workers as tables of the cluster under one epoch's
 * tag: "bias", "mlp.0", "mlp.rest", "proj". Values here are a copy, as new as the last pull.
 */
#ifndef TRAIN_WEIGHTS_H
#define TRAIN_WEIGHTS_H

#include "proto/base.h"
#include "worker/dimfit.h"
#include "worker/train/model.h"

struct weights {
    double lr;
    uint64_t tag;
    bool shared;            /* false: the values are this worker's own */
    size_t n[MODEL_GROUPS]; /* 0: not in this model */
    real *values[MODEL_GROUPS];
};

/* Take on the group sizes of a model; values start at zero. */
void weights_init(struct weights *w, const struct model *m, double lr);
void weights_fini(struct weights *w);

/* Make the tables under this tag from the values. Where another worker was first, its values are
 * taken. */
dimfit_err weights_create(struct weights *w, struct dimfit *c, uint64_t tag) MUST_CHECK;
dimfit_err weights_pull(struct weights *w, struct dimfit *c) MUST_CHECK;
/* Send the gradients of one group, which the model has; to be waited for. */
dimfit_err weights_push(const struct weights *w, struct dimfit *c, enum model_group group,
                        real *grads, struct dimfit_call **out) MUST_CHECK;

#endif
