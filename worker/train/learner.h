/*
 * One worker's model on a cluster: pulls a batch's rows and the dense weights, computes, pushes
 * gradients, and follows the cluster through layout changes.
 *
 * Dense weights are shared tables ("bias", "mlp.0", "mlp.rest", "proj") tagged with the layout's
 * epoch. When a new layout is in force the learner first adopts it, which keeps the weights it has
 * and, in the compact view, carries its transforms over (W' = M_new^T M_old W, mu' = mu + (mu_new -
 * mu_old) M_old W), so that the model's function stays; then it restarts the tables under the new
 * tag. Training adopts and restarts by itself when an operator's search commits, and scores the
 * validation part when one has frozen training. Belongs to one thread. All calls block within the
 * cluster's time limits.
 */
#ifndef TRAIN_LEARNER_H
#define TRAIN_LEARNER_H

#include "proto/tiers.h"
#include "worker/train/batch.h"
#include "worker/train/model.h"

struct learner_spec {
    const char *endpoint;
    double timeout; /* seconds a call to the cluster may take */
    enum dimfit_view view;
    struct model_shape
        shape; /* kind, dim and hidden layers; the rest is set from data and layout */
    size_t batch;
    size_t score_batch; /* 0: as many samples as leave enough steps to see their spread */
    double lr;          /* of the embeddings; 0: the cluster's default */
    size_t n_tiers;     /* thresholds of popularity tiers that slots are declared with */
    uint32_t tiers[LAYOUT_TIERS_MAX - 1];
    double dense_lr;
    bool stale; /* rows of the next batch may lack this one's step */
    uint64_t seed;
    uint64_t run; /* the same for all workers of a job, different for any two jobs */
    uint32_t rank, workers;
};

struct figures {
    double auc, logloss; /* NaN where there are no samples, auc also where one class is missing */
};

struct learner;

/* Connect, declare the slots, create or join the dense tables. data is borrowed. */
dimfit_err learner_open(const struct learner_spec *spec, const struct dataset *data,
                        struct learner **out, struct err_detail *detail) MUST_CHECK;
void learner_close(struct learner **l);

struct dimfit *learner_cluster(struct learner *l);
uint64_t learner_epoch(const struct learner *l);

/* Some samples of the data set, by row number. */
struct samples {
    const uint32_t *rows;
    size_t n;
};

static inline struct samples samples_of(const struct dataset *data, enum dataset_part part) {
    return (struct samples){data->part[part], data->n_part[part]};
}

/* Train on one batch, n <= the spec's; *loss is its mean log loss before the step. `next` is the
 * batch that the next call will be of, n 0 when there is none: its rows are sent for right behind
 * this one's gradients or, stale, before this one is computed. */
dimfit_err learner_train(struct learner *l, struct samples of, struct samples next, double *loss,
                         struct err_detail *detail) MUST_CHECK;

/* Figures of the model as it is over any number of samples. */
dimfit_err learner_evaluate(struct learner *l, struct samples of, struct figures *out,
                            struct err_detail *detail) MUST_CHECK;

/* Score the validation part, batch by batch as handed out between the workers, until the search has
 * enough or the part ends; a job without one reports its end at once. */
dimfit_err learner_score(struct learner *l, struct err_detail *detail) MUST_CHECK;

/* Evaluate the trials that a search hands out. all: until there can be no more of them; otherwise
 * one, now and then, so that training goes on. */
dimfit_err learner_try(struct learner *l, bool all, struct err_detail *detail) MUST_CHECK;

/* Adopt the layout in force, if it is new: from here on the model computes in it. Dense weights are
 * the learner's own copy until learner_restart() shares them under the new tag. cold draws the
 * first dense layer anew (full view; in the compact one the transforms keep its inputs what they
 * were). pace shortens every training step from here on: 1 is the learning rates as given. */
dimfit_err learner_adopt(struct learner *l, struct err_detail *detail) MUST_CHECK;
dimfit_err learner_restart(struct learner *l, bool cold, double pace,
                           struct err_detail *detail) MUST_CHECK;

/* Wait for all the job's workers. Each must come to the same calls in the same order. */
dimfit_err learner_barrier(struct learner *l, struct err_detail *detail) MUST_CHECK;

/* Rank 0's number becomes everyone's. A barrier, too. */
dimfit_err learner_share(struct learner *l, double *number, struct err_detail *detail) MUST_CHECK;

#endif
