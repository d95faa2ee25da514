#include "worker/train/report.h"
#include "worker/train/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void report_init(struct report *report, const struct train_options *options,
                 const struct dataset *data) {
    const struct figures none = {NAN, NAN};
    *report = (struct report){
        .options = options, .data = data, .full = none, .applied = none, .searched = none};
}

void report_fini(struct report *report) {
    search_held_fini(&report->before);
    search_held_fini(&report->after);
    search_result_fini(&report->search);
    json_decref(report->steps);
}

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *count(uint64_t v) {
    return json_integer((json_int_t)v);
}

static json_t *text(const char *v) {
    return v != NULL ? json_string(v) : json_null();
}

static json_t *copy(const json_t *object, const char *key) {
    json_t *const v = json_object_get(object, key);
    return v != NULL ? json_incref(v) : json_null();
}

/* Bytes of the searchable slots' rows. */
static json_t *row_bytes(const struct search_held *cluster) {
    const json_t *const slots = json_object_get(cluster->slots, "slots");
    json_int_t sum = 0;
    if (slots == NULL)
        return json_null();
    for (size_t i = 0; i < json_array_size(slots); i++) {
        const json_t *const slot = json_array_get(slots, i);
        if (json_is_true(json_object_get(slot, "search")))
            sum += json_integer_value(json_object_get(slot, "bytes"));
    }
    return json_integer(sum);
}

/* The entry of a list of slots with this id. */
static const json_t *find_slot(const json_t *reply, const json_t *id) {
    const json_t *const slots = json_object_get(reply, "slots");
    for (size_t i = 0; i < json_array_size(slots); i++) {
        const json_t *const slot = json_array_get(slots, i);
        if (json_equal(json_object_get(slot, "id"), id))
            return slot;
    }
    return NULL;
}

/* Of all its tiers; null without a search of it. */
static json_t *score_of(const json_t *plan, const json_t *id) {
    const json_t *const tiers = json_object_get(plan, "slots");
    double score = 0;
    bool planned = false;
    for (size_t i = 0; i < json_array_size(tiers); i++) {
        const json_t *const tier = json_array_get(tiers, i);
        if (!json_equal(json_object_get(tier, "id"), id))
            continue;
        score += json_number_value(json_object_get(tier, "score"));
        planned = true;
    }
    return planned ? json_real(score) : json_null();
}

static json_t *slots(const struct report *r) {
    json_t *const list = json_array();
    const json_t *const before = json_object_get(r->before.slots, "slots");
    for (size_t i = 0; i < json_array_size(before); i++) {
        const json_t *const slot = json_array_get(before, i), *const id = json_object_get(slot,
                                                                                          "id");
        if (!json_is_true(json_object_get(slot, "search")))
            continue;
        json_t *const entry = json_object();
        json_object_set_new(entry, "id", copy(slot, "id"));
        json_object_set_new(entry, "name", copy(slot, "name"));
        json_object_set_new(entry, "rows", copy(slot, "rows"));
        json_object_set_new(entry, "width_before", copy(slot, "width"));
        json_object_set_new(entry, "width_after", copy(find_slot(r->after.slots, id), "width"));
        json_object_set_new(entry, "score", score_of(r->search.plan, id));
        json_object_set_new(entry, "tiers", copy(find_slot(r->after.slots, id), "tiers"));
        json_array_append_new(list, entry);
    }
    return list;
}

static void set_job(json_t *json, const struct report *r) {
    const struct train_options *const o = r->options;
    const struct dataset *const d = r->data;
    json_object_set_new(json, "dataset", text(o->dataset.data[0]));
    json_object_set_new(json, "rows_train", count(d->n_part[DATASET_TRAIN]));
    json_object_set_new(json, "rows_valid", count(d->n_part[DATASET_VALID]));
    json_object_set_new(json, "rows_test", count(d->n_part[DATASET_TEST]));
    json_object_set_new(json, "lines_skipped", count(d->skipped));
    json_object_set_new(json, "model", text(options_model_name(o->learner.shape.kind)));
    json_object_set_new(json, "view", text(o->learner.view == DIMFIT_COMPACT ? "compact" : "full"));
    json_object_set_new(json, "dim", count(o->learner.shape.dim));
    json_object_set_new(json, "seed", count(o->learner.seed));
    json_object_set_new(json, "workers", count(o->learner.workers));
}

static void set_search(json_t *json, const struct report *r) {
    static const char *const keys[] = {"kappa", "strategy", "estimator", "basis", "count", "rank"};
    const json_t *const request = json_object_get(r->search.status, "request");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        json_object_set_new(json, keys[i], copy(request, keys[i]));
    json_object_set_new(json, "params_full", copy(r->before.stats, "params"));
    json_object_set_new(json, "params_kept", copy(r->after.stats, "params"));
    json_object_set_new(json, "params_linear", copy(r->before.stats, "params_linear"));
    json_object_set_new(
        json, "layout_bytes",
        copy(r->after.stats != NULL ? r->after.stats : r->before.stats, "layout_bytes"));
    json_object_set_new(json, "row_bytes_full", row_bytes(&r->before));
    json_object_set_new(json, "row_bytes_kept", row_bytes(&r->after));
    json_object_set_new(json, "rss_before",
                        copy(json_object_get(r->before.stats, "totals"), "resident_bytes"));
    json_object_set_new(json, "rss_after",
                        copy(json_object_get(r->after.stats, "totals"), "resident_bytes"));
    json_object_set_new(json, "slots", slots(r));
    json_object_set_new(json, "searches", r->steps != NULL ? json_incref(r->steps) : json_null());
}

static void set_figures(json_t *json, const struct report *r) {
    const bool retrained = r->retrained.seconds > 0;
    json_object_set_new(json, "epochs_run", number(r->trained.epochs));
    json_object_set_new(json, "retrain_epochs_run", number(retrained ? r->retrained.epochs : NAN));
    json_object_set_new(json, "samples_per_second", number(r->trained.samples_per_second));
    json_object_set_new(json, "auc_valid", number(r->trained.valid.auc));
    json_object_set_new(json, "logloss_valid", number(r->trained.valid.logloss));
    json_object_set_new(json, "auc_full", number(r->full.auc));
    json_object_set_new(json, "logloss_full", number(r->full.logloss));
    json_object_set_new(json, "auc_applied", number(r->applied.auc));
    json_object_set_new(json, "logloss_applied", number(r->applied.logloss));
    json_object_set_new(json, "auc_searched", number(r->searched.auc));
    json_object_set_new(json, "logloss_searched", number(r->searched.logloss));
    const bool searched = r->search.status != NULL;
    json_object_set_new(json, "seconds",
                        json_pack("{s:o, s:o, s:o, s:o}", "train", number(r->trained.seconds),
                                  "search", number(searched ? r->search.score_seconds : NAN),
                                  "apply", number(searched ? r->search.apply_seconds : NAN),
                                  "retrain", number(retrained ? r->retrained.seconds : NAN)));
    json_object_set_new(json, "epoch", count(r->epoch));
}

dimfit_err report_write(const struct report *report, const char *path, struct err_detail *detail) {
    json_t *const json = json_object();
    set_job(json, report);
    set_figures(json, report);
    set_search(json, report);
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.new", path) < 0)
        temporary = NULL;
    int failed = temporary == NULL ? ENOMEM : 0;
    FILE *const file = failed == 0 ? fopen(temporary, "w") : NULL;
    if (failed == 0 && file == NULL)
        failed = errno;
    if (failed == 0 && (json_dumpf(json, file, JSON_INDENT(2)) != 0 || fputc('\n', file) == EOF))
        failed = errno != 0 ? errno : EIO;
    if (file != NULL && fclose(file) != 0 && failed == 0)
        failed = errno;
    if (failed == 0 && rename(temporary, path) != 0)
        failed = errno;
    if (failed != 0 && file != NULL)
        remove(temporary);
    free(temporary);
    json_decref(json);
    if (failed != 0)
        return err_set(detail, DIMFIT_ERR_IO, "%s: cannot be written: %s", path, strerror(failed));
    return DIMFIT_OK;
}
