/*
 * The course of a training: epochs over the shuffled training part, the validation part evaluated
 * several times in each, and the decision to stop.
 *
 * Click models overfit wide slots within an epoch or two, and rows live on the cluster, where a
 * better past can't be brought back. So the validation part is looked at several times an epoch,
 * and training stops at the `patience`-th time in a row without a gain in log loss, or at the first
 * where the log loss is worse than its best by more than half a percent and the AUC is worse too:
 * noise does not do that, overfitting does within a fraction of an epoch. With several workers each
 * takes every N-th batch, rank 0 evaluates and decides for all. A search during the training begins
 * it anew in this respect: what has to be beaten is the model in the new layout.
 */
#ifndef TRAIN_COURSE_H
#define TRAIN_COURSE_H

#include "worker/train/searches.h"

struct course {
    struct learner *learner; /* borrowed, as the rest */
    const struct dataset *data;
    const struct train_options *options;
    struct progress *progress;
    struct searches *searches; /* during the training; NULL: none */
    uint64_t shuffles;         /* epochs begun, through all trainings */
};

struct course_result {
    double epochs; /* passes made; a fraction when stopped within one */
    double seconds;
    double samples_per_second; /* of all workers, validation left out */
    struct figures valid;      /* of the model as it is at the end */
};

/* Train for at most so many epochs, or until patience (0: no end to it) is spent. what: the name of
 * it in progress lines. */
dimfit_err course_run(struct course *course, const char *what, unsigned epochs, unsigned patience,
                      struct course_result *out, struct err_detail *detail) MUST_CHECK;

#endif
