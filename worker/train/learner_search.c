#include "worker/train/learner_internal.h"
#include "worker/train/mem.h"
#include "worker/train/progress.h"

#include <stdlib.h>

enum {
    ASK_SECONDS = 1, /* between two looks for a trial */
    AWAY_SECONDS = 10,
};

/* ---- scoring --------------------------------------------------------------------------------- */

static dimfit_err calibrate(struct learner *l, struct err_detail *detail) {
    const struct samples of = {l->score_order, learner_n_scored(l)};
    float *const logits = mem_alloc(of.n, sizeof *logits);
    float *const labels = mem_alloc(of.n, sizeof *labels);
    const dimfit_err err = learner_predict(l, of, logits, labels, detail);
    if (err == DIMFIT_OK)
        l->calibration = metrics_calibrate(logits, labels, of.n);
    free(logits);
    free(labels);
    return err;
}

/* Gradients are of the calibrated loss: of the bare one those of a model that is too sure of itself
 * would say of every unit that less of it is better. */
static dimfit_err score_batch(struct learner *l, struct samples of, uint64_t step, bool first,
                              struct err_detail *detail) {
    struct pass *const pass = &l->score.passes[l->score.now];
    const real *logits = NULL;
    dimfit_err err = learner_forward(l, &l->score, of, (struct samples){0}, first, &logits, detail);
    if (err != DIMFIT_OK)
        return err;
    pass->input.calibration = &l->calibration;
    learner_backward(l, pass, 1);
    const struct dimfit_push push = {.mode = DIMFIT_SCORE,
                                     .step = step,
                                     .samples = of.n,
                                     .epoch = learner_compact(l) ? l->epoch : 0};
    /* First-order rows, the last entry, are in no search. */
    err = dimfit_push(l->cluster, l->spec.view, pass->batch.rows, pass->batch.n_rows - 1, &push);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "pushing scores", detail);
}

dimfit_err learner_score(struct learner *l, struct err_detail *detail) {
    const size_t n = learner_n_scored(l);
    uint64_t done = 0, samples = 0;
    for (bool exhausted = false, first = true;; first = false) {
        uint64_t next = 0;
        dimfit_err err = dimfit_score_next(l->cluster, done, samples, exhausted, &next);
        if (err != DIMFIT_OK)
            return learner_fail(l, err, "scoring", detail);
        if (next == 0 || exhausted)
            return DIMFIT_OK;
        /* Steps count from 1 over all workers, who shuffle alike: the k-th is the k-th batch. */
        const uint64_t batches = (n + l->spec.score_batch - 1) / l->spec.score_batch;
        exhausted = next > batches;
        done = samples = 0;
        if (exhausted)
            continue;
        if (first && (err = calibrate(l, detail)) != DIMFIT_OK)
            return err;
        const size_t at = (next - 1) * l->spec.score_batch;
        samples = n - at < l->spec.score_batch ? n - at : l->spec.score_batch;
        err = score_batch(l, (struct samples){l->score_order + at, samples}, next, first, detail);
        if (err != DIMFIT_OK)
            return err;
        done = next;
    }
}

/* ---- trials ---------------------------------------------------------------------------------- */

/* Figures of the trial in hand; tried.samples stays 0 when the layout has moved on under it. */
static dimfit_err evaluate_trial(struct learner *l, const struct dimfit_trial *trial,
                                 struct err_detail *detail) {
    dimfit_err err = learner_follow(l, detail);
    if (err != DIMFIT_OK)
        return err;
    const struct tryout_model model = {
        .cluster = l->cluster,
        .view = l->spec.view,
        .epoch = l->epoch,
        .widths = l->widths,
        .count = learner_compact(l) && l->data->slot != NULL,
        .model = l->model,
        .weights = &l->weights,
    };
    if (!tryout_fits(l->tryout, trial, l->epoch)) {
        if (l->weights.shared)
            err = weights_pull(&l->weights, l->cluster);
        if (err == DIMFIT_OK)
            tryout_begin(l->tryout, trial, &model);
    }
    if (err == DIMFIT_OK)
        err = tryout_evaluate(l->tryout, trial, &model, &l->tried);
    if (err == DIMFIT_ERR_STALE_EPOCH)
        return DIMFIT_OK;
    if (err != DIMFIT_OK)
        return learner_fail(l, err, "evaluating a trial", detail);
    if (l->tried.samples == 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "a search wants trials evaluated, and the data has no validation part");
    return DIMFIT_OK;
}

/* Training goes on while the coordinator is away. */
static bool is_silence(dimfit_err err) {
    return err == DIMFIT_ERR_UNREACHABLE || err == DIMFIT_ERR_TIMEOUT || err == DIMFIT_ERR_MAYBE;
}

dimfit_err learner_try(struct learner *l, bool all, struct err_detail *detail) {
    if (!all && l->tried.samples == 0 && progress_now() < l->ask_at)
        return DIMFIT_OK;
    for (;;) {
        const struct dimfit_trial *trial = NULL;
        const bool done = l->tried.samples > 0;
        dimfit_err err = dimfit_trial_next(l->cluster, done ? &l->tried : NULL, all, &trial);
        if (err != DIMFIT_OK && !all && is_silence(err)) {
            l->ask_at = progress_now() + AWAY_SECONDS;
            return DIMFIT_OK;
        }
        l->tried.samples = 0;
        if (err != DIMFIT_OK)
            return learner_fail(l, err, "asking for a trial", detail);
        l->ask_at = progress_now() + (trial->number == 0 ? ASK_SECONDS : 0);
        if (trial->number > 0)
            err = evaluate_trial(l, trial, detail);
        if (err != DIMFIT_OK || !all || trial->over)
            return err;
    }
}
