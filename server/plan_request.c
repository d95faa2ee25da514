#include "server/plan.h"

#include <math.h>

#define WORD(name, text) text,
static const char *const estimator_words[] = {PLAN_ESTIMATOR_MAP(WORD)};
static const char *const basis_words[] = {PLAN_BASIS_MAP(WORD)};
static const char *const count_words[] = {PLAN_COUNT_MAP(WORD)};
static const char *const rank_words[] = {PLAN_RANK_MAP(WORD)};
static const char *const grow_init_words[] = {PLAN_GROW_INIT_MAP(WORD)};

static bool find_word(const char *text, const char *const *words, size_t n, size_t *out) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

#define OPTION_WORDS(type)                                                                         \
    const char *type##_name(enum type v) {                                                         \
        base_assert((size_t)v < ARRAY_LEN(type##_words));                                          \
        return type##_words[v];                                                                    \
    }                                                                                              \
    bool type##_parse(const char *text, enum type *out) {                                          \
        size_t i;                                                                                  \
        if (!find_word(text, type##_words, ARRAY_LEN(type##_words), &i))                           \
            return false;                                                                          \
        *out = (enum type)i;                                                                       \
        return true;                                                                               \
    }
OPTION_WORDS(estimator)
OPTION_WORDS(basis)
OPTION_WORDS(count)
OPTION_WORDS(rank)
OPTION_WORDS(grow_init)

void plan_request_init(struct plan_request *request) {
    *request = (struct plan_request){
        .estimator = ESTIMATOR_STEP,
        .basis = BASIS_ROTATED,
        .count = COUNT_PARAMS,
        .rank = RANK_SCORE,
        .min_dim = 1,
        .grow_init = GROW_INIT_DRAWN,
        .seed = 1,
        .strategy = "sseds",
        .trial_samples = PLAN_TRIAL_SAMPLES,
    };
}

uint64_t plan_window(const struct plan_request *request) {
    const double steps = 20 * request->half_life; /* 2^-20 */
    return request->window > 0 || steps >= 0x1p63 ? request->window : (uint64_t)ceil(steps);
}

static dimfit_err check_options(const char *options, struct err_detail *detail) {
    for (const char *at = options; *at != 0;) {
        const size_t len = strcspn(at, ",");
        const size_t key = strcspn(at, "=,");
        if (key == 0 || key == len)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "--strategy-options '%s': '%.*s' is not key=value", options, (int)len,
                           at);
        at += len + (at[len] == ',');
    }
    return DIMFIT_OK;
}

dimfit_err plan_request_check(const struct plan_request *request, struct err_detail *detail) {
    if (!isfinite(request->kappa) || request->kappa <= 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "--kappa %g: the fraction of parameters to keep is a finite number above 0",
                       request->kappa);
    if (request->min_dim > LAYOUT_DIM_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "--min-dim %u is not within 0..%d",
                       request->min_dim, LAYOUT_DIM_MAX);
    if (request->strategy[0] == 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "--strategy: the name is empty");
    if (request->estimator == ESTIMATOR_ROW && request->basis != BASIS_AXIS)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "--estimator row adds up absolute values row by row and so knows the stored "
                       "axes only; use it with --basis axis");
    if (!isfinite(request->half_life) || request->half_life < 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "--half-life %g is not a number of steps",
                       request->half_life);
    if (request->window > 0 && request->half_life > 0)
        return err_set(
            detail, DIMFIT_ERR_INVALID,
            "--window and --half-life are two ways to weigh recent steps more; give one");
    if ((request->window > 0 || request->half_life > 0) && request->estimator == ESTIMATOR_ROW)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "--estimator row knows no steps that --window or --half-life could weigh");
    return check_options(request->options, detail);
}

dimfit_err plan_basis_check(const struct layout *layout, const struct plan_request *request,
                            struct err_detail *detail) {
    const bool drawn = !request->grow || request->grow_init == GROW_INIT_DRAWN;
    for (size_t i = 0; i < layout->n_slots; i++) {
        const struct layout_slot *const slot = &layout->slots[i];
        if (!slot->search || slot->optimizer.kind != OPTIMIZER_FTRL)
            continue;
        if (request->basis != BASIS_AXIS)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u (%s): ftrl takes the axis basis only; use --basis axis, or "
                           "search: false for the slot",
                           slot->id, slot->name);
        if (!drawn)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u (%s): ftrl grows by drawn values only; use --grow-init drawn",
                           slot->id, slot->name);
    }
    return DIMFIT_OK;
}
