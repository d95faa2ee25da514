#include "worker/train/searches.h"

#include <inttypes.h>
#include <math.h>

/* A search that moves less than this of the parameters changes nothing worth another. */
#define SETTLED 0.02

void searches_init(struct searches *s, const struct train_options *options,
                   const struct dataset *data, struct progress *progress) {
    *s = (struct searches){.options = options,
                           .data = data,
                           .progress = progress,
                           .next = options->search_every > 0 ? options->search_every : INFINITY,
                           .steps = json_array()};
}

void searches_fini(struct searches *s) {
    search_held_fini(&s->before);
    search_result_fini(&s->first);
    json_decref(s->steps);
    *s = (struct searches){0};
}

static json_int_t number_of(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

/* Of the parameters before, those that a slot gave up or got. */
static double moved_share(const json_t *plan) {
    const json_t *const slots = json_object_get(plan, "slots");
    const json_int_t before = number_of(plan, "params_before");
    double moved = 0;
    for (size_t i = 0; i < json_array_size(slots); i++) {
        const json_t *const slot = json_array_get(slots, i);
        moved += (double)number_of(slot, "rows") *
                 fabs((double)(number_of(slot, "after") - number_of(slot, "before")));
    }
    return before > 0 ? moved / (double)before : 0;
}

static json_t *number_or_null(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *widths(const json_t *plan) {
    const json_t *const slots = json_object_get(plan, "slots");
    json_t *const list = json_array();
    for (size_t i = 0; i < json_array_size(slots); i++) {
        const json_t *const slot = json_array_get(slots, i);
        json_array_append_new(
            list,
            json_pack("{s:O, s:O, s:O, s:O, s:O, s:O}", "id", json_object_get(slot, "id"), "name",
                      json_object_get(slot, "name"), "tier", json_object_get(slot, "tier"),
                      "before", json_object_get(slot, "before"), "after",
                      json_object_get(slot, "after"), "added", json_object_get(slot, "added")));
    }
    return list;
}

static void record(struct searches *s, const struct search_result *result, double epoch,
                   double moved, const struct figures *before, const struct figures *after) {
    const json_t *const plan = result->plan;
    json_t *const step = json_pack(
        "{s:f, s:O, s:O, s:O, s:f, s:o, s:o, s:o, s:o, s:o, s:f, s:f}", "epoch", epoch,
        "layout_epoch", json_object_get(plan, "to_epoch"), "params_before",
        json_object_get(plan, "params_before"), "params_after",
        json_object_get(plan, "params_after"), "moved", moved, "auc_before",
        number_or_null(before->auc), "logloss_before", number_or_null(before->logloss), "auc_after",
        number_or_null(after->auc), "logloss_after", number_or_null(after->logloss), "slots",
        widths(plan), "search_seconds", result->score_seconds, "apply_seconds",
        result->apply_seconds);
    json_array_append_new(s->steps, step);
    progress_say(s->progress,
                 "search: epoch %.2f  %" JSON_INTEGER_FORMAT " -> %" JSON_INTEGER_FORMAT
                 " parameters, %.1f %% moved  validation auc %.5f -> %.5f",
                 epoch, number_of(plan, "params_before"), number_of(plan, "params_after"),
                 100 * moved, before->auc, after->auc);
}

/* Rank 0 looks at what it came to, and whether that was the last. */
static dimfit_err look(struct searches *s, struct learner *learner, struct search_result *result,
                       double epoch, struct figures *valid, double *last,
                       struct err_detail *detail) {
    struct figures after;
    const dimfit_err err = learner_evaluate(learner, samples_of(s->data, DATASET_VALID), &after,
                                            detail);
    if (err != DIMFIT_OK)
        return err;
    const double moved = moved_share(result->plan);
    record(s, result, epoch, moved, valid, &after);
    *valid = after;
    *last = !s->options->search.grow || (s->done > 0 && moved < SETTLED);
    if (s->done > 0)
        return DIMFIT_OK;
    s->first = *result;
    *result = (struct search_result){0};
    return DIMFIT_OK;
}

dimfit_err searches_at(struct searches *s, struct learner *learner, double epoch,
                       struct figures *valid, bool *searched, struct err_detail *detail) {
    /* Epochs are sums of eighths and the like. */
    *searched = epoch > s->next - 1e-9;
    if (!*searched)
        return DIMFIT_OK;
    struct train_options options = *s->options;
    struct search_result result = {0};
    double last = 0;
    if (s->done > 0)
        options.search.kappa = 1;
    dimfit_err err = DIMFIT_OK;
    if (s->done == 0 && options.learner.rank == 0)
        err = search_ask_held(learner, &s->before, detail);
    if (err == DIMFIT_OK)
        err = search_run(learner, &options, &result, detail);
    if (err == DIMFIT_OK)
        err = learner_restart(learner, false, 1, detail);
    if (err == DIMFIT_OK && options.learner.rank == 0)
        err = look(s, learner, &result, epoch, valid, &last, detail);
    if (err == DIMFIT_OK)
        err = learner_share(learner, &last, detail);
    search_result_fini(&result);
    s->done++;
    s->next = last != 0 ? INFINITY : epoch + s->options->search_every;
    return err;
}
