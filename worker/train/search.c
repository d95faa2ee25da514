#include "worker/train/search.h"
#include "worker/train/progress.h"

#include <stdlib.h>
#include <time.h>

enum { POLL_MS = 20 };
#define PATIENCE_SECONDS 900.0 /* in one phase */

dimfit_err search_admin(struct learner *learner, const char *command, json_t *args, json_t **reply,
                        struct err_detail *detail) {
    struct dimfit *const cluster = learner_cluster(learner);
    char *const text = args != NULL ? json_dumps(args, JSON_COMPACT) : NULL;
    char *answer = NULL;
    dimfit_err err = args != NULL && text == NULL ? DIMFIT_ERR_INVALID : DIMFIT_OK;
    json_decref(args);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "%s: an argument is not UTF-8 text", command);
    err = dimfit_admin(cluster, command, text, &answer);
    free(text);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "%s: %s", command, dimfit_errmsg(cluster));
    json_error_t why;
    json_t *const json = json_loads(answer, 0, &why);
    dimfit_free(answer);
    if (!json_is_object(json)) {
        json_decref(json);
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "%s: the reply is not a JSON object: %s",
                       command, why.text);
    }
    *reply = json;
    return DIMFIT_OK;
}

static void set_text(json_t *args, const char *key, const char *value) {
    if (value != NULL)
        json_object_set_new(args, key, json_string(value));
}

static json_t *request(const struct train_options *o) {
    const struct search_options *const s = &o->search;
    json_t *const args = json_object();
    json_object_set_new(args, "kappa", json_real(s->kappa));
    json_object_set_new(args, "mode", json_string("freeze"));
    json_object_set_new(args, "seed", json_integer((json_int_t)(o->learner.seed & INT64_MAX)));
    set_text(args, "strategy", s->strategy);
    set_text(args, "estimator", s->estimator);
    set_text(args, "basis", s->basis);
    set_text(args, "count", s->count);
    set_text(args, "rank", s->rank);
    set_text(args, "options", s->options);
    if (s->grow)
        json_object_set_new(args, "grow", json_true());
    set_text(args, "grow_init", s->grow_init);
    if (s->min_dim >= 0)
        json_object_set_new(args, "min_dim", json_integer(s->min_dim));
    if (s->trial_samples > 0)
        json_object_set_new(args, "trial_samples", json_integer((json_int_t)s->trial_samples));
    if (s->samples > 0)
        json_object_set_new(args, "samples", json_integer((json_int_t)s->samples));
    return args;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *const text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* Poll until the search is over. */
static dimfit_err wait_for_commit(struct learner *learner, json_t **status,
                                  struct err_detail *detail) {
    const struct timespec poll = {.tv_nsec = POLL_MS * 1000000L};
    char phase[32] = "";
    double since = progress_now();
    for (;; nanosleep(&poll, NULL)) {
        json_t *now = NULL;
        const dimfit_err err = search_admin(learner, "search status", NULL, &now, detail);
        if (err != DIMFIT_OK)
            return err;
        if (strcmp(text_of(now, "phase"), "committed") == 0) {
            *status = now;
            return DIMFIT_OK;
        }
        const bool aborted = strcmp(text_of(now, "phase"), "aborted") == 0;
        if (aborted)
            err_set(detail, DIMFIT_ERR_STATE, "the search was aborted: %s", text_of(now, "error"));
        if (strcmp(text_of(now, "phase"), phase) != 0) {
            snprintf(phase, sizeof phase, "%s", text_of(now, "phase"));
            since = progress_now();
        }
        json_decref(now);
        if (aborted)
            return DIMFIT_ERR_STATE;
        if (progress_now() - since > PATIENCE_SECONDS)
            return err_set(detail, DIMFIT_ERR_TIMEOUT, "the search has been %s for %.0f seconds",
                           phase, PATIENCE_SECONDS);
    }
}

static double seconds_of(const json_t *status, const char *key) {
    return json_number_value(json_object_get(json_object_get(status, "seconds"), key));
}

static dimfit_err check_patience(double since, struct err_detail *detail) {
    return progress_now() - since <= PATIENCE_SECONDS
               ? DIMFIT_OK
               : err_set(detail, DIMFIT_ERR_TIMEOUT, "rows are not in their tiers after %.0f s",
                         PATIENCE_SECONDS);
}

/* Another shrink, the daily one say, is waited for: the cluster has one at a time. */
static dimfit_err begin_sweep(struct learner *learner, double since, json_t **reply,
                              struct err_detail *detail) {
    const struct timespec poll = {.tv_nsec = POLL_MS * 1000000L};
    for (;;) {
        dimfit_err err = search_admin(learner, "shrink", json_pack("{s:b}", "retier", 1), reply,
                                      detail);
        if (err != DIMFIT_ERR_BUSY)
            return err;
        nanosleep(&poll, NULL);
        err = check_patience(since, detail);
        if (err != DIMFIT_OK)
            return err;
    }
}

static dimfit_err sweep(struct learner *learner, struct err_detail *detail) {
    const struct timespec poll = {.tv_nsec = POLL_MS * 1000000L};
    const double since = progress_now();
    json_t *reply = NULL;
    dimfit_err err = begin_sweep(learner, since, &reply, detail);
    while (err == DIMFIT_OK && strcmp(text_of(reply, "state"), "running") == 0) {
        nanosleep(&poll, NULL);
        json_decref(reply);
        reply = NULL;
        err = check_patience(since, detail);
        if (err == DIMFIT_OK)
            err = search_admin(learner, "shrink status", NULL, &reply, detail);
    }
    if (err == DIMFIT_OK && strcmp(text_of(reply, "state"), "done") != 0)
        err = err_set(detail, DIMFIT_ERR_STATE, "rows did not get into their tiers: %s",
                      text_of(reply, "error"));
    json_decref(reply);
    return err;
}

dimfit_err search_sweep(struct learner *learner, const struct train_options *options,
                        struct err_detail *detail) {
    if (options->learner.n_tiers == 0)
        return DIMFIT_OK;
    dimfit_err err = learner_barrier(learner, detail);
    if (err == DIMFIT_OK && options->learner.rank == 0)
        err = sweep(learner, detail);
    return err == DIMFIT_OK ? learner_barrier(learner, detail) : err;
}

dimfit_err search_run(struct learner *learner, const struct train_options *options,
                      struct search_result *out, struct err_detail *detail) {
    const bool first = options->learner.rank == 0;
    struct search_result result = {0};
    json_t *reply = NULL;
    /* Nobody may score before the search has begun, or leave before it has ended. */
    dimfit_err err = search_sweep(learner, options, detail);
    if (err == DIMFIT_OK)
        err = learner_barrier(learner, detail);
    if (err == DIMFIT_OK && first)
        err = search_admin(learner, "search start", request(options), &reply, detail);
    json_decref(reply);
    if (err == DIMFIT_OK)
        err = learner_barrier(learner, detail);
    if (err == DIMFIT_OK)
        err = learner_score(learner, detail);
    if (err == DIMFIT_OK)
        err = learner_try(learner, true, detail);
    if (err == DIMFIT_OK && first)
        err = wait_for_commit(learner, &result.status, detail);
    if (err == DIMFIT_OK && first)
        err = search_admin(learner, "search plan", NULL, &result.plan, detail);
    if (err == DIMFIT_OK)
        err = learner_barrier(learner, detail);
    if (err == DIMFIT_OK && (err = dimfit_refresh(learner_cluster(learner))) != DIMFIT_OK)
        err_set(detail, err, "%s", dimfit_errmsg(learner_cluster(learner)));
    if (err == DIMFIT_OK)
        err = learner_adopt(learner, detail);
    if (err == DIMFIT_OK) {
        result.score_seconds = seconds_of(result.status, "scoring") +
                               seconds_of(result.status, "planning");
        result.apply_seconds = seconds_of(result.status, "apply");
        *out = result;
    } else {
        search_result_fini(&result);
    }
    return err;
}

void search_result_fini(struct search_result *result) {
    json_decref(result->status);
    json_decref(result->plan);
    *result = (struct search_result){0};
}

dimfit_err search_ask_held(struct learner *learner, struct search_held *out,
                           struct err_detail *detail) {
    struct search_held now = {0};
    dimfit_err err = search_admin(learner, "stats", NULL, &now.stats, detail);
    if (err == DIMFIT_OK)
        err = search_admin(learner, "slots", NULL, &now.slots, detail);
    if (err != DIMFIT_OK) {
        search_held_fini(&now);
        return err;
    }
    search_held_fini(out);
    *out = now;
    return DIMFIT_OK;
}

void search_held_fini(struct search_held *held) {
    json_decref(held->stats);
    json_decref(held->slots);
    *held = (struct search_held){0};
}
