/*
 * The trials of a search, evaluated: a validation sample's rows and the dense weights as they were
 * when its first trial came, kept for all its trials, so that they are all of the same model while
 * training goes on.
 *
 * A trial changes the rows of some slots. Only those are mapped and pooled again; then the model
 * runs forward over all samples. Belongs to the learner's thread.
 */
#ifndef TRAIN_TRYOUT_H
#define TRAIN_TRYOUT_H

#include "worker/train/batch.h"
#include "worker/train/weights.h"

struct tryout;

/* What computes: borrowed for a call. */
struct tryout_model {
    struct dimfit *cluster;
    enum dimfit_view view;
    uint64_t epoch;         /* of the layout that model and weights are of */
    const uint32_t *widths; /* [n_slots] of the rows */
    bool count;             /* the model wants the slots' sums of weights */
    struct model *model;
    const struct weights *weights; /* copied at tryout_begin() */
};

/* order[n]: the validation samples, the same on all workers; data and order are borrowed. */
struct tryout *tryout_new(const struct dataset *data, const uint32_t *order, size_t n);
void tryout_destroy(struct tryout **t);

/* Are the rows and weights kept those of this trial's search, in this layout? */
bool tryout_fits(const struct tryout *t, const struct dimfit_trial *trial, uint64_t epoch);
/* Begin with another search: its rows are pulled as trials want them. */
void tryout_begin(struct tryout *t, const struct dimfit_trial *trial,
                  const struct tryout_model *model);

/* The figures of the trial handed out last. On as many samples as it says, or as there are; with
 * none, samples is 0. Errors are the cluster's; STALE_EPOCH when the layout has changed, begin anew
 * then. */
dimfit_err tryout_evaluate(struct tryout *t, const struct dimfit_trial *trial,
                           const struct tryout_model *model, struct dimfit_figures *out) MUST_CHECK;

#endif
