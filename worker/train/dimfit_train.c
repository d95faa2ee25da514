/* dimfit-train: train a click model on a cluster, and let it fit its widths. */
#include "worker/train/report.h"
#include "worker/train/workers.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

/* A rise of validation log loss within this, relatively, keeps the function. */
#define KEPT        0.005
#define SHORT_STEPS 0.1

struct job {
    struct train_options options;
    struct dataset *data;
};

static dimfit_err test(struct course *c, const char *what, struct figures *out,
                       struct err_detail *detail) {
    if (c->options->learner.rank != 0)
        return DIMFIT_OK;
    const dimfit_err err = learner_evaluate(c->learner, samples_of(c->data, DATASET_TEST), out,
                                            detail);
    if (err == DIMFIT_OK && !isnan(out->logloss))
        progress_say(c->progress, "%s: test logloss %.5f auc %.5f", what, out->logloss, out->auc);
    return err;
}

static dimfit_err ask(struct course *c, struct search_held *out, struct err_detail *detail) {
    return c->options->learner.rank == 0 ? search_ask_held(c->learner, out, detail) : DIMFIT_OK;
}

static void say_widths(struct course *c, const struct search_result *search) {
    const json_t *const plan = search->plan;
    if (plan == NULL)
        return;
    progress_say(c->progress,
                 "search: kept %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " parameters",
                 json_integer_value(json_object_get(plan, "params_after")),
                 json_integer_value(json_object_get(plan, "params_before")));
}

/* Where the new layout kept the function, the model is past most of what the training part can
 * teach it, and steps of full length on samples it has seen overfit at once: all weights stay warm,
 * steps are short, and the first validation without a gain is the last, since there is little to
 * gain and no way back. Where it did not, the first dense layer starts cold and all is as it was.
 */
static dimfit_err begin_retraining(struct course *c, const struct figures *before,
                                   unsigned *patience, struct err_detail *detail) {
    double kept = 0;
    dimfit_err err = DIMFIT_OK;
    if (c->options->learner.rank == 0) {
        struct figures now = {NAN, NAN};
        err = learner_evaluate(c->learner, samples_of(c->data, DATASET_VALID), &now, detail);
        kept = now.logloss <= before->logloss * (1 + KEPT);
    }
    if (err == DIMFIT_OK)
        err = learner_share(c->learner, &kept, detail);
    if (err != DIMFIT_OK)
        return err;
    progress_say(c->progress, "retrain: %s", kept != 0 ? "warm, short steps" : "first layer cold");
    *patience = kept != 0 && c->options->patience > 0 ? 1 : c->options->patience;
    return learner_restart(c->learner, kept == 0, kept != 0 ? SHORT_STEPS : 1, detail);
}

static dimfit_err search_and_retrain(struct course *c, struct report *r,
                                     struct err_detail *detail) {
    const struct train_options *const o = c->options;
    dimfit_err err = search_run(c->learner, o, &r->search, detail);
    if (err == DIMFIT_OK) {
        say_widths(c, &r->search);
        err = test(c, "applied", &r->applied, detail);
    }
    if (err == DIMFIT_OK)
        err = ask(c, &r->after, detail);
    if (err != DIMFIT_OK)
        return err;
    if (!o->retrain)
        return learner_restart(c->learner, false, 1, detail);
    unsigned patience = 0;
    err = begin_retraining(c, &r->trained.valid, &patience, detail);
    if (err == DIMFIT_OK)
        err = course_run(c, "retrain", o->retrain_epochs, patience, &r->retrained, detail);
    if (err == DIMFIT_OK)
        err = test(c, "searched", &r->searched, detail);
    return err;
}

/* After a training with searches in it. */
static dimfit_err test_searched(struct course *c, struct searches *searches, struct report *r,
                                struct err_detail *detail) {
    r->before = searches->before;
    r->search = searches->first;
    r->steps = searches->steps;
    searches->before = (struct search_held){0};
    searches->first = (struct search_result){0};
    searches->steps = NULL;
    const dimfit_err err = ask(c, &r->after, detail);
    return err == DIMFIT_OK ? test(c, "searched", &r->searched, detail) : err;
}

static dimfit_err train(struct course *c, struct report *r, struct err_detail *detail) {
    const struct train_options *const o = c->options;
    struct searches searches;
    searches_init(&searches, o, c->data, c->progress);
    c->searches = &searches;
    dimfit_err err = course_run(c, "train", o->epochs, o->patience, &r->trained, detail);
    c->searches = NULL;
    if (err == DIMFIT_OK && searches.done > 0)
        err = test_searched(c, &searches, r, detail);
    else if (err == DIMFIT_OK)
        err = test(c, "full", &r->full, detail);
    if (err == DIMFIT_OK && searches.done == 0)
        err = ask(c, &r->before, detail);
    if (err == DIMFIT_OK && o->search.kappa > 0 && o->search_every == 0)
        err = search_and_retrain(c, r, detail);
    searches_fini(&searches);
    r->epoch = learner_epoch(c->learner);
    if (err == DIMFIT_OK && o->report != NULL && o->learner.rank == 0)
        err = report_write(r, o->report, detail);
    return err;
}

/* Answer the searches of others until there is no cluster any more. */
static dimfit_err stay(struct course *c, struct err_detail *detail) {
    const struct timespec pause = {.tv_nsec = 10 * 1000000L};
    dimfit_err err = DIMFIT_OK;
    progress_say(c->progress, "staying: searches are answered until the cluster stops");
    fflush(stdout);
    for (; err == DIMFIT_OK; nanosleep(&pause, NULL)) {
        err = learner_score(c->learner, detail);
        if (err == DIMFIT_OK)
            err = learner_try(c->learner, true, detail);
    }
    const bool gone = err == DIMFIT_ERR_UNREACHABLE || err == DIMFIT_ERR_MAYBE;
    return gone ? DIMFIT_OK : err;
}

static int exit_status(dimfit_err err) {
    enum { DONE = 0, FAILED = 1, UNREACHABLE = 3 };
    if (err == DIMFIT_OK)
        return DONE;
    return err == DIMFIT_ERR_UNREACHABLE ? UNREACHABLE : FAILED;
}

static int work(void *arg, uint32_t rank) {
    const struct job *const job = arg;
    struct train_options options = job->options;
    options.learner.rank = rank;
    struct progress progress;
    struct report report;
    struct err_detail detail = {""};
    struct learner *learner = NULL;
    progress_init(&progress, options.quiet || rank != 0);
    report_init(&report, &options, job->data);
    dimfit_err err = learner_open(&options.learner, job->data, &learner, &detail);
    if (err == DIMFIT_OK) {
        struct course course = {
            .learner = learner, .data = job->data, .options = &options, .progress = &progress};
        err = train(&course, &report, &detail);
        if (err == DIMFIT_OK && options.search.stay)
            err = stay(&course, &detail);
    }
    progress_end(&progress);
    if (err != DIMFIT_OK)
        fprintf(stderr, "dimfit-train: %s (%s)\n", detail.text, err_name(err));
    learner_close(&learner);
    report_fini(&report);
    return exit_status(err);
}

static void say_data(const struct job *job) {
    const struct dataset *const d = job->data;
    if (d->skipped > 0)
        fprintf(stderr, "dimfit-train: %" PRIu64 " malformed lines skipped, the first: %s\n",
                d->skipped, d->skipped_first);
    if (!job->options.quiet)
        printf(
            "data: %zu slots (%zu numeric), %zu samples: %zu training, %zu validation, %zu test\n",
            d->n_slots, d->numeric, d->rows, d->n_part[DATASET_TRAIN], d->n_part[DATASET_VALID],
            d->n_part[DATASET_TEST]);
}

int main(int argc, char **argv) {
    struct job job = {0};
    struct err_detail detail = {""};
    options_parse(argc, argv, &job.options);
    /* One BLAS thread a worker: workers are what uses more cores, and sums keep their order. */
    openblas_set_num_threads(1);
    int status = 1;
    const dimfit_err err = dataset_load(&job.options.dataset, &job.data, &detail);
    if (err != DIMFIT_OK) {
        fprintf(stderr, "dimfit-train: %s\n", detail.text);
    } else if (getrandom(&job.options.learner.run, sizeof job.options.learner.run, 0) !=
               (ssize_t)sizeof job.options.learner.run) {
        fprintf(stderr, "dimfit-train: no random numbers from the system\n");
    } else {
        say_data(&job);
        status = workers_run(job.options.learner.workers, work, &job);
    }
    dataset_destroy(&job.data);
    options_fini(&job.options);
    return status;
}
