#include "worker/train/course.h"
#include "worker/train/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEED_SHUFFLE = 100 };

/* Validation log loss this much above the best, relatively, is no noise. */
#define OVERFIT 0.005

/* What one training keeps from epoch to epoch. */
struct state {
    const char *what;
    unsigned epoch, epochs;
    uint32_t *order;  /* [train rows] shuffled */
    size_t n_batches; /* an epoch, of all workers */
    double loss;      /* sum over this worker's batches since the last evaluation */
    size_t trained;   /* this worker's samples */
    size_t batches;
    double seconds;      /* in training batches */
    struct figures best; /* of the least validation log loss */
    unsigned stale;      /* evaluations since */
    unsigned patience;
    struct figures valid;
};

/* How many batches from `from` on belong to workers before this one has its turn. */
static size_t first_of(const struct learner_spec *spec, size_t from) {
    return (spec->rank + spec->workers - from % spec->workers) % spec->workers;
}

/* None from batch `to` on. */
static struct samples batch_of(const struct course *c, const struct state *st, size_t b,
                               size_t to) {
    const size_t n = c->data->n_part[DATASET_TRAIN], batch = c->options->learner.batch;
    const size_t at = b * batch;
    if (b >= to)
        return (struct samples){0};
    return (struct samples){st->order + at, n - at < batch ? n - at : batch};
}

static dimfit_err train_span(struct course *c, struct state *st, size_t from, size_t to,
                             struct err_detail *detail) {
    const struct learner_spec *const spec = &c->options->learner;
    const size_t n = c->data->n_part[DATASET_TRAIN];
    const double begin = progress_now(), before = st->seconds;
    for (size_t b = from + first_of(spec, from); b < to; b += spec->workers) {
        const struct samples of = batch_of(c, st, b, to);
        double loss = 0;
        const dimfit_err err = learner_train(c->learner, of, batch_of(c, st, b + spec->workers, to),
                                             &loss, detail);
        if (err != DIMFIT_OK)
            return err;
        st->loss += loss;
        st->batches++;
        st->trained += of.n;
        st->seconds = before + progress_now() - begin;
        const double rate = (double)st->trained * spec->workers / st->seconds;
        progress_step(c->progress, st->what, st->epoch + 1, (double)b / (double)st->n_batches, rate,
                      st->loss / (double)st->batches, (double)(n - b * spec->batch) / rate);
    }
    return DIMFIT_OK;
}

/* Whether to stop, from the evaluation just made. */
static bool judge(struct state *st) {
    const struct figures *const now = &st->valid, *const best = &st->best;
    if (isnan(now->logloss) || now->logloss < best->logloss) {
        st->best = *now;
        st->stale = 0;
        return false;
    }
    const bool overfit = now->logloss > best->logloss * (1 + OVERFIT) && now->auc < best->auc;
    return st->patience > 0 && (++st->stale >= st->patience || overfit);
}

static void say(struct course *c, const struct state *st, double share, double loss, bool stop) {
    char trained[48] = "", valid[80] = "";
    if (!isnan(loss))
        snprintf(trained, sizeof trained, "  logloss %.5f", loss);
    if (!isnan(st->valid.logloss))
        snprintf(valid, sizeof valid, "  validation logloss %.5f auc %.5f", st->valid.logloss,
                 st->valid.auc);
    progress_say(c->progress, "%s: epoch %.2f%s%s%s", st->what, st->epoch + share, trained, valid,
                 stop ? "  (stopping)" : "");
}

/* All workers' gradients are in; rank 0 looks at the validation part. *stop is the same for all. */
static dimfit_err evaluate(struct course *c, struct state *st, double share, bool *stop,
                           struct err_detail *detail) {
    const struct learner_spec *const spec = &c->options->learner;
    const double loss = st->batches > 0 ? st->loss / (double)st->batches : NAN;
    double verdict = 0;
    dimfit_err err = learner_barrier(c->learner, detail);
    if (err == DIMFIT_OK && spec->rank == 0) {
        err = learner_evaluate(c->learner, samples_of(c->data, DATASET_VALID), &st->valid, detail);
        if (err != DIMFIT_OK)
            return err;
        verdict = judge(st);
        say(c, st, share, loss, verdict != 0);
    }
    if (err == DIMFIT_OK)
        err = learner_share(c->learner, &verdict, detail);
    *stop = verdict != 0;
    st->loss = 0;
    st->batches = 0;
    return err;
}

/* A search where one is due; not behind the last batch, where nothing is trained any more. */
static dimfit_err search(struct course *c, struct state *st, double share,
                         struct err_detail *detail) {
    const double epoch = st->epoch + share;
    bool searched = false;
    if (c->searches == NULL || epoch >= st->epochs)
        return DIMFIT_OK;
    const dimfit_err err = searches_at(c->searches, c->learner, epoch, &st->valid, &searched,
                                       detail);
    if (searched) {
        st->best = st->valid;
        st->stale = 0;
    }
    return err;
}

static dimfit_err train_epoch(struct course *c, struct state *st, double *share, bool *stop,
                              struct err_detail *detail) {
    const size_t spans = c->options->evaluations < st->n_batches ? c->options->evaluations
                                                                 : st->n_batches;
    struct rng rng = rng_of(c->options->learner.seed, SEED_SHUFFLE + c->shuffles++);
    rng_shuffle(&rng, st->order, c->data->n_part[DATASET_TRAIN]);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < spans && err == DIMFIT_OK && !*stop; i++) {
        *share = (double)(i + 1) / (double)spans;
        err = train_span(c, st, st->n_batches * i / spans, st->n_batches * (i + 1) / spans, detail);
        if (err == DIMFIT_OK)
            err = evaluate(c, st, *share, stop, detail);
        if (err == DIMFIT_OK && i + 1 == spans)
            err = search_sweep(c->learner, c->options, detail);
        if (err == DIMFIT_OK && !*stop)
            err = search(c, st, *share, detail);
    }
    return err;
}

dimfit_err course_run(struct course *c, const char *what, unsigned epochs, unsigned patience,
                      struct course_result *out, struct err_detail *detail) {
    const struct learner_spec *const spec = &c->options->learner;
    const size_t n = c->data->n_part[DATASET_TRAIN];
    struct state st = {
        .what = what, .epochs = epochs, .patience = patience, .best = {NAN, INFINITY}};
    const double begin = progress_now();
    double share = 0;
    bool stop = false;
    st.n_batches = (n + spec->batch - 1) / spec->batch;
    st.order = mem_alloc(n, sizeof *st.order);
    memcpy(st.order, c->data->part[DATASET_TRAIN], n * sizeof *st.order);
    /* Where it starts from is what has to be beaten. */
    dimfit_err err = evaluate(c, &st, 0, &stop, detail);
    for (; err == DIMFIT_OK && st.epoch < epochs && !stop; st.epoch++)
        err = train_epoch(c, &st, &share, &stop, detail);
    if (err == DIMFIT_OK)
        *out = (struct course_result){
            .epochs = st.epoch > 0 ? st.epoch - 1 + share : 0,
            .seconds = progress_now() - begin,
            .samples_per_second = st.seconds > 0 ? (double)st.trained * spec->workers / st.seconds
                                                 : 0,
            .valid = st.valid};
    free(st.order);
    return err;
}
