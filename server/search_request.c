/*
 * What `search start` was asked for, from JSON.
 */
#include "server/coordinator_internal.h"

#include <math.h>

enum {
    SEARCH_LIVE_SAMPLES = 65536, /* when --samples is not given */
    TIMEOUT_SECONDS_MAX = 604800,
};

static dimfit_err option_error(const char *name, const char *value, const char *choices,
                               struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_INVALID, "--%s '%s' is none of %s", name, value, choices);
}

#define CHOICE(name, text) " " text
/* What a word says, or the error that lists what it could have said; nothing where none was given.
 */
#define CHOOSE(given, option, map, parse, out)                                                     \
    ((given) == NULL || parse(given, out) ? DIMFIT_OK                                              \
                                          : option_error(option, given, "" map(CHOICE), detail))

/* Arguments as they are in JSON; NULL and what they were before where not given. */
struct arguments {
    const char *strategy, *options, *estimator, *basis, *count, *rank, *mode, *grow_init;
    json_int_t min_dim, seed, samples, window, trial_samples;
    double kappa, timeout, half_life;
    int plan_only, grow;
};

static dimfit_err unpack(const json_t *args, struct arguments *a, struct err_detail *detail) {
    json_error_t error;
    if (json_unpack_ex(
            (json_t *)args, &error, 0,
            "{s:F, s?s, s?s, s?s, s?s, s?s, s?I, s?s, s?I, s?b, s?s, s?I, s?F, s?I, s?F, "
            "s?b, s?s, s?I !}",
            "kappa", &a->kappa, "strategy", &a->strategy, "estimator", &a->estimator, "basis",
            &a->basis, "count", &a->count, "rank", &a->rank, "min_dim", &a->min_dim, "mode",
            &a->mode, "samples", &a->samples, "plan_only", &a->plan_only, "options", &a->options,
            "seed", &a->seed, "timeout", &a->timeout, "window", &a->window, "half_life",
            &a->half_life, "grow", &a->grow, "grow_init", &a->grow_init, "trial_samples",
            &a->trial_samples) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "search start: %s", error.text);
    return DIMFIT_OK;
}

static dimfit_err check(const struct arguments *a, struct err_detail *detail) {
    if (strcmp(a->mode, "live") != 0 && strcmp(a->mode, "freeze") != 0)
        return option_error("mode", a->mode, " live freeze", detail);
    if (a->min_dim < 0 || a->min_dim > LAYOUT_DIM_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "--min-dim %lld is not within 0..%d",
                       (long long)a->min_dim, LAYOUT_DIM_MAX);
    if (a->samples < 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "--samples %lld is negative",
                       (long long)a->samples);
    if (a->window < 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "--window %lld is negative",
                       (long long)a->window);
    if (a->trial_samples < 1)
        return err_set(detail, DIMFIT_ERR_INVALID, "--trial-samples %lld is not above 0",
                       (long long)a->trial_samples);
    if (!(a->timeout >= 0 && a->timeout <= TIMEOUT_SECONDS_MAX))
        return err_set(detail, DIMFIT_ERR_INVALID, "--timeout %g is not within 0..%d s", a->timeout,
                       TIMEOUT_SECONDS_MAX);
    return DIMFIT_OK;
}

static dimfit_err take_text(char *out, size_t cap, const char *given, const char *option,
                            struct err_detail *detail) {
    if (given == NULL)
        return DIMFIT_OK;
    if (strlen(given) >= cap)
        return err_set(detail, DIMFIT_ERR_INVALID, "--%s: longer than %zu bytes", option, cap - 1);
    memcpy(out, given, strlen(given) + 1);
    return DIMFIT_OK;
}

static dimfit_err take_words(const struct arguments *a, struct plan_request *r,
                             struct err_detail *detail) {
    dimfit_err err = CHOOSE(a->estimator, "estimator", PLAN_ESTIMATOR_MAP, estimator_parse,
                            &r->estimator);
    if (err == DIMFIT_OK)
        err = CHOOSE(a->basis, "basis", PLAN_BASIS_MAP, basis_parse, &r->basis);
    if (err == DIMFIT_OK)
        err = CHOOSE(a->count, "count", PLAN_COUNT_MAP, count_parse, &r->count);
    if (err == DIMFIT_OK)
        err = CHOOSE(a->rank, "rank", PLAN_RANK_MAP, rank_parse, &r->rank);
    if (err == DIMFIT_OK)
        err = CHOOSE(a->grow_init, "grow-init", PLAN_GROW_INIT_MAP, grow_init_parse, &r->grow_init);
    if (err == DIMFIT_OK)
        err = take_text(r->strategy, sizeof r->strategy, a->strategy, "strategy", detail);
    if (err == DIMFIT_OK)
        err = take_text(r->options, sizeof r->options, a->options, "strategy-options", detail);
    return err;
}

dimfit_err search_request_parse(const json_t *args, int64_t timeout_ms, struct search_request *out,
                                struct err_detail *detail) {
    struct search_request request = {.timeout_ms = timeout_ms};
    struct plan_request *const r = &request.plan;
    plan_request_init(r);
    struct arguments a = {.mode = "live",
                          .min_dim = r->min_dim,
                          .seed = (json_int_t)r->seed,
                          .trial_samples = (json_int_t)r->trial_samples};
    dimfit_err err = unpack(args, &a, detail);
    if (err == DIMFIT_OK)
        err = check(&a, detail);
    if (err == DIMFIT_OK)
        err = take_words(&a, r, detail);
    if (err != DIMFIT_OK)
        return err;
    r->kappa = a.kappa;
    r->min_dim = (uint32_t)a.min_dim;
    r->basis_named = a.basis != NULL;
    r->grow = a.grow != 0;
    /* Where no unit is at its end, its share of the gradient is mostly noise: what counts is what
     * its loss would be. */
    if (r->grow && a.estimator == NULL)
        r->estimator = ESTIMATOR_CURVATURE;
    r->seed = (uint64_t)a.seed;
    r->window = (uint64_t)a.window;
    r->trial_samples = (uint64_t)a.trial_samples;
    r->half_life = a.half_life;
    err = plan_request_check(r, detail);
    if (err != DIMFIT_OK)
        return err;
    request.freeze = strcmp(a.mode, "freeze") == 0;
    request.plan_only = a.plan_only != 0;
    request.samples = a.samples == 0 && !request.freeze ? SEARCH_LIVE_SAMPLES : (uint64_t)a.samples;
    if (a.timeout > 0)
        request.timeout_ms = (int64_t)(a.timeout * 1000);
    *out = request;
    return DIMFIT_OK;
}
