/* Two strategies on the same data: do they rank the units alike, and what does each cost? */
#include "server/ctl/cmd_search.h"
#include "server/ctl/human.h"
#include "server/ctl/rank.h"
#include "server/ctl/view.h"

#include <math.h>
#include <stdlib.h>

struct compare_args {
    struct start_args start;
    const char *strategies[2];
    size_t n;
};

/* What one search said of every unit, in the order of the plan's slots. */
struct ranking {
    size_t n;
    double *priority;
    double scoring, planning;
    json_t *trials;
};

static error_t parse_compare(int key, char *arg, struct argp_state *state) {
    struct compare_args *const args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &args->start;
        return 0;
    case ARGP_KEY_ARG:
        if (args->n == ARRAY_LEN(args->strategies))
            ctl_usage("search compare", "takes two strategies, `%.40s` is one more", arg);
        args->strategies[args->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (json_object_get(args->start.request, "strategy") != NULL)
            ctl_usage("--strategy", "is not for `search compare`, which is told two");
        if (args->n != ARRAY_LEN(args->strategies))
            ctl_usage("search compare", "needs two strategies, such as `sseds mask`");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- one search ------------------------------------------------------------------------------ */

/* What the strategy ranked a slot's units by; where it ranked none, whether it kept them. */
static double priority_of(const json_t *slot, size_t k) {
    const json_t *const priority = json_object_get(slot, "priority");
    if (!json_is_array(priority))
        return json_number_value(json_array_get(json_object_get(slot, "keep"), k));
    const json_t *const value = json_array_get(priority, k);
    return json_is_number(value) ? json_number_value(value) : -INFINITY;
}

static int read_ranking(const json_t *plan, struct ranking *out) {
    const json_t *const slots = json_object_get(plan, "slots"), *slot;
    size_t i, n = 0;
    json_array_foreach(slots, i, slot) {
        n += (size_t)get_number(slot, "before", 0);
    }
    out->priority = malloc((n + 1) * sizeof *out->priority);
    if (out->priority == NULL)
        return ctl_fail(EXIT_FAILED, "search compare", NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    json_array_foreach(slots, i, slot) {
        const size_t width = (size_t)get_number(slot, "before", 0);
        for (size_t k = 0; k < width; k++)
            out->priority[out->n++] = priority_of(slot, k);
    }
    return EXIT_DONE;
}

static int start(struct ctl *ctl, const json_t *asked, const char *strategy, json_t **status) {
    json_t *const request = json_deep_copy(asked);
    json_object_set_new(request, "strategy", json_string(strategy));
    json_object_set_new(request, "plan_only", json_true());
    int code = ctl_call(ctl, "search start", CTL_CHANGES, request, status);
    json_decref(request);
    if (code == EXIT_DONE && (code = search_wait(ctl, status)) == EXIT_DONE &&
        !search_phase_is(*status, "planned"))
        code = ctl_fail(EXIT_FAILED, strategy, NULL, "%s", get_text(*status, "error", "no plan"));
    if (code != EXIT_DONE)
        json_decref(*status);
    return code;
}

/* Search, and leave nothing behind: what is compared is not to be applied by mistake. */
static int search(struct ctl *ctl, const json_t *asked, const char *strategy, struct ranking *out) {
    json_t *status = NULL, *plan = NULL, *reply = NULL;
    int code = start(ctl, asked, strategy, &status);
    if (code != EXIT_DONE)
        return code;
    const json_t *const seconds = json_object_get(status, "seconds");
    out->scoring = get_number(seconds, "scoring", 0);
    out->planning = get_number(seconds, "planning", 0);
    out->trials = json_incref(json_object_get(status, "trials"));
    code = ctl_call(ctl, "search plan", CTL_CHANGES, NULL, &plan);
    if (code == EXIT_DONE)
        code = read_ranking(plan, out);
    if (code == EXIT_DONE) {
        json_t *const which = json_pack("{s:O, s:b}", "plan", json_object_get(status, "search"),
                                        "compared", 1);
        code = ctl_call(ctl, "search discard", CTL_CHANGES, which, &reply);
        json_decref(which);
    }
    json_decref(reply);
    json_decref(plan);
    json_decref(status);
    return code;
}

/* ---- both ------------------------------------------------------------------------------------ */

static json_t *number_or_null(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *one_json(const char *strategy, const struct ranking *r) {
    return json_pack("{s:s, s:f, s:f, s:f, s:O}", "strategy", strategy, "seconds",
                     r->scoring + r->planning, "seconds_scoring", r->scoring, "seconds_planning",
                     r->planning, "trials", r->trials);
}

static int report(const struct compare_args *args, const struct ranking *of, json_t **out) {
    const double first = of[0].scoring + of[0].planning, second = of[1].scoring + of[1].planning;
    double rho = NAN, tau = NAN;
    if (of[0].n != of[1].n)
        return ctl_fail(EXIT_FAILED, "search compare", "compare again",
                        "the layout changed between the two searches");
    if (!rank_spearman(of[0].priority, of[1].priority, of[0].n, &rho) ||
        !rank_kendall(of[0].priority, of[1].priority, of[0].n, &tau))
        return ctl_fail(EXIT_FAILED, "search compare", NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    *out = json_pack("{s:[o, o], s:I, s:o, s:o, s:o}", "strategies",
                     one_json(args->strategies[0], &of[0]), one_json(args->strategies[1], &of[1]),
                     "units", (json_int_t)of[0].n, "spearman", number_or_null(rho), "kendall",
                     number_or_null(tau), "ratio", number_or_null(second / first));
    return EXIT_DONE;
}

/* A reply made here, in the place of the last one that came. */
static int show(struct ctl *ctl, const json_t *result) {
    char *const text = json_dumps(result, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (text == NULL)
        return ctl_fail(EXIT_FAILED, "search compare", NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    free(ctl->answer);
    ctl->answer = text;
    return ctl_show(ctl, result, view_compare);
}

int search_compare(struct ctl *ctl, int argc, char **argv) {
    const struct argp_child children[] = {{&search_start_argp, 0, NULL, 0}, {0}};
    const struct argp argp = {
        .args_doc = "A B",
        .parser = parse_compare,
        .doc = "Plan by two strategies, one after the other, and compare how they rank the units "
               "and how long they take. Nothing is applied.\v"
               "A strategy that ranks no units is compared by what it keeps.",
        .children = children,
    };
    struct compare_args args = {.start = {.ctl = ctl, .request = json_object()}};
    struct ranking of[2] = {{0}};
    json_t *result = NULL;
    ctl_parse(&argp, "dimfitctl search compare", argc, argv, &args);
    int code = EXIT_DONE;
    for (size_t i = 0; i < 2 && code == EXIT_DONE; i++)
        code = search(ctl, args.start.request, args.strategies[i], &of[i]);
    if (code == EXIT_DONE)
        code = report(&args, of, &result);
    if (code == EXIT_DONE)
        code = show(ctl, result);
    for (size_t i = 0; i < 2; i++) {
        free(of[i].priority);
        json_decref(of[i].trials);
    }
    json_decref(result);
    json_decref(args.start.request);
    return code;
}
