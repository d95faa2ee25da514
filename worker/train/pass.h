/*
 * One batch on its way through a model: its rows asked for, pulled, pooled into the model's inputs.
 *
 * pass_start() sends for the rows and returns, so that they travel while another batch is computed.
 * Belongs to the learner's thread.
 */
#ifndef TRAIN_PASS_H
#define TRAIN_PASS_H

#include "proto/base.h"
#include "worker/train/batch.h"
#include "worker/train/model.h"

struct pass {
    struct batch batch;
    struct dimfit_call *call; /* rows on their way; NULL: none are */
    const uint32_t *samples;  /* that they are of */
    uint64_t epoch;           /* of the layout they were asked for in */
    real *x, *dx;             /* [max_batch][input width] */
    real *count;              /* [max_batch][n_slots]; NULL: not needed */
    real *linear, *dlogit;
    struct model_batch input; /* as the model takes it */
    real *dweights[MODEL_GROUPS];
};

void pass_init(struct pass *pass, const struct dataset *data, const struct model *model,
               size_t max_batch, bool count);
void pass_fini(struct pass *pass);

/* Take on the sizes of another model; gradients that do not depend on stored widths stay. */
void pass_fit(struct pass *pass, const struct model *model, size_t max_batch);

/* Send for the rows of samples[n], as wide as widths[n_slots] of this epoch's layout. */
dimfit_err pass_start(struct pass *pass, struct dimfit *cluster, enum dimfit_view view,
                      const uint32_t *samples, size_t n, const uint32_t *widths,
                      uint64_t epoch) MUST_CHECK;
/* Wait for them. */
dimfit_err pass_wait(struct pass *pass, struct dimfit *cluster) MUST_CHECK;

/* Pool the rows into `input`. */
void pass_pool(struct pass *pass);

#endif
