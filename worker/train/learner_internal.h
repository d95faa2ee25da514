/*
 * What the parts of a learner share: learner.c trains, learner_search.c scores and evaluates
 * trials.
 */
#ifndef TRAIN_LEARNER_INTERNAL_H
#define TRAIN_LEARNER_INTERNAL_H

#include "worker/train/learner.h"
#include "worker/train/metrics.h"
#include "worker/train/pass.h"
#include "worker/train/tryout.h"
#include "worker/train/weights.h"

struct learner {
    struct learner_spec spec;
    const struct dataset *data;
    struct dimfit *cluster;
    size_t max_batch;

    uint64_t epoch;            /* of the layout the model computes in */
    uint32_t *widths;          /* [n_slots] of the rows pulled */
    struct carry_slot *layout; /* [n_slots]; compact only */
    struct model *model;
    struct weights weights;
    double pace; /* of training steps, 1 at first */
    /* Two of each: one is computed while the next one's rows are on their way. Apart, since a held
     * training batch outlives a scoring phase. */
    struct feed {
        struct pass passes[2];
        size_t now; /* the one that is computed */
    } train, score;
    uint32_t *score_order; /* the validation part, shuffled: the first half is scored, trials are
                            * evaluated on the other */
    struct calibration calibration; /* of the samples that are scored */
    uint64_t meetings;              /* barriers so far */
    struct tryout *tryout;
    struct dimfit_figures tried; /* of the trial in hand, not reported yet; samples 0: none */
    double ask_at;               /* when to ask for a trial again */
};

static inline dimfit_err learner_fail(const struct learner *l, dimfit_err err, const char *what,
                                      struct err_detail *detail) {
    return err_set(detail, err, "%s: %s", what, dimfit_errmsg(l->cluster));
}

static inline bool learner_compact(const struct learner *l) {
    return l->spec.view == DIMFIT_COMPACT;
}

/* Of the validation part: what chooses between plans has to be other samples than they were made
 * of, or the plan wins that fits its sample's noise. */
static inline size_t learner_n_scored(const struct learner *l) {
    return (l->data->n_part[DATASET_VALID] + 1) / 2;
}

/* Move on to the layout in force, training as before. */
dimfit_err learner_follow(struct learner *l, struct err_detail *detail) MUST_CHECK;

/* Pull a batch's rows, in whatever layout is in force by then, send for those of `next` (n 0: not
 * yet), and run the model forward. The weights of the layout that the rows turn out to be of are
 * pulled once they are here. */
dimfit_err learner_forward(struct learner *l, struct feed *feed, struct samples of,
                           struct samples next, bool pull_weights, const real **logits,
                           struct err_detail *detail) MUST_CHECK;
void learner_backward(struct learner *l, struct pass *pass, double pace);

/* all[of.n] logits and labels[of.n]. */
dimfit_err learner_predict(struct learner *l, struct samples of, float *all, float *labels,
                           struct err_detail *detail) MUST_CHECK;

#endif
