/* The search: start, status, plan, plans, apply, rollback, discard, abort. */
#include "server/ctl/cmd_search.h"
#include "server/ctl/ctl.h"
#include "server/ctl/human.h"
#include "server/ctl/view.h"
#include "server/plan.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 200 };

#define WORD(name, text) text,
static const char *const estimators[] = {PLAN_ESTIMATOR_MAP(WORD)};
static const char *const bases[] = {PLAN_BASIS_MAP(WORD)};
static const char *const counts[] = {PLAN_COUNT_MAP(WORD)};
static const char *const ranks[] = {PLAN_RANK_MAP(WORD)};
static const char *const grow_inits[] = {PLAN_GROW_INIT_MAP(WORD)};
#undef WORD
static const char *const modes[] = {"live", "freeze"};

/* ---- waiting --------------------------------------------------------------------------------- */

bool search_phase_is(const json_t *status, const char *phase) {
    return strcmp(get_text(status, "phase", ""), phase) == 0;
}

static bool is_moving(const json_t *status) {
    return search_phase_is(status, "scoring") || search_phase_is(status, "planning") ||
           search_phase_is(status, "preparing");
}

static void show_progress(const json_t *status) {
    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    view_progress(status, stderr);
}

static void end_progress(void) {
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* Poll until the search of *status is neither scoring, planning nor preparing, replacing *status by
 * the last one seen. The coordinator limits every phase; here each single question has its limit.
 */
int search_wait(struct ctl *ctl, json_t **status) {
    const double search = get_number(*status, "search", 0);
    while (is_moving(*status)) {
        const struct timespec pause = {0, POLL_MS * 1000000L};
        json_t *next;
        show_progress(*status);
        nanosleep(&pause, NULL);
        const int code = ctl_call(ctl, "search status", CTL_READS, NULL, &next);
        if (code != EXIT_DONE) {
            end_progress();
            return code == EXIT_UNREACHABLE
                       ? ctl_fail(EXIT_MAYBE, "--wait", "`dimfitctl search status` tells",
                                  "the search may have gone on")
                       : code;
        }
        json_decref(*status);
        *status = next;
        if (get_number(next, "search", 0) != search) {
            end_progress();
            return ctl_fail(EXIT_FAILED, "--wait", "`dimfitctl search status` shows it",
                            "another search took the place of search %.0f", search);
        }
        /* Past the commit point the coordinator tries again for as long as it takes. */
        const char *const error = get_text(next, "error", "");
        if (is_moving(next) && error[0] != 0) {
            end_progress();
            return ctl_fail(EXIT_MAYBE, "--wait", "`dimfitctl search status` tells",
                            "the layout is in force, but not yet on every shard: %s", error);
        }
    }
    end_progress();
    return EXIT_DONE;
}

/* Show where the search stands, after waiting if asked to. One that was aborted is a failure only
 * for who waits for it. */
static int finish_status(struct ctl *ctl, json_t **status, bool wait) {
    int code = wait ? search_wait(ctl, status) : EXIT_DONE;
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, *status, view_search);
    if (code == EXIT_DONE && wait && search_phase_is(*status, "aborted"))
        return ctl_fail(EXIT_FAILED, "search", NULL, "%s", get_text(*status, "error", "aborted"));
    return code;
}

static int show_plan(struct ctl *ctl, json_t *request) {
    json_t *plan;
    int code = ctl_call(ctl, "search plan", CTL_CHANGES, request, &plan);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, plan, view_plan);
    json_decref(plan);
    return code;
}

/* ---- start ----------------------------------------------------------------------------------- */

enum {
    KEY_STRATEGY = 0x100,
    KEY_ESTIMATOR,
    KEY_BASIS,
    KEY_COUNT,
    KEY_RANK,
    KEY_MIN_DIM,
    KEY_GROW,
    KEY_GROW_INIT,
    KEY_MODE,
    KEY_SAMPLES,
    KEY_TRIAL_SAMPLES,
    KEY_WINDOW,
    KEY_HALF_LIFE,
    KEY_SEED,
    KEY_OPTIONS,
    KEY_LIMIT,
    KEY_PLAN_ONLY,
    KEY_WAIT,
};

static const struct argp_option start_options[] = {
    {"kappa", 'k', "K", 0, "Parameters to keep, as a share of those before; needed", 0},
    {"strategy", KEY_STRATEGY, "S", 0, "What decides (sseds); `dimfitctl strategies` lists them",
     0},
    {"estimator", KEY_ESTIMATOR, "E", 0,
     "single, step, fisher, row, curvature, taylor or guarded (step)", 0},
    {"basis", KEY_BASIS, "B", 0, "axis, rotated or kfac (rotated)", 0},
    {"count", KEY_COUNT, "C", 0, "What kappa counts: params or dims (params)", 0},
    {"rank", KEY_RANK, "R", 0, "Take units by score or by density, score per parameter (score)", 0},
    {"min-dim", KEY_MIN_DIM, "N", 0, "Units that every slot keeps; 0 lets slots go entirely (1)",
     0},
    {"grow", KEY_GROW, NULL, 0, "Slots may get new units where those they have earn enough", 0},
    {"grow-init", KEY_GROW_INIT, "I", 0,
     "What rows have in new units: drawn (small initial values), zero, or linear (a transform of "
     "what they have) (drawn)",
     0},
    {"mode", KEY_MODE, "M", 0, "live: training goes on; freeze: it is held while scoring (live)",
     0},
    {"samples", KEY_SAMPLES, "N", 0, "Samples to score (live: 65536; freeze: all there are)", 0},
    {"trial-samples", KEY_TRIAL_SAMPLES, "N", 0,
     "Validation samples that a strategy's trials are evaluated on (8192)", 0},
    {"window", KEY_WINDOW, "STEPS", 0, "Score the last steps only, this many", 0},
    {"half-life", KEY_HALF_LIFE, "STEPS", 0,
     "Let a step count half as much every so many steps later", 0},
    {"seed", KEY_SEED, "N", 0, "Seed of strategies that draw", 0},
    {"strategy-options", KEY_OPTIONS, "K=V,...", 0, "For the strategy", 0},
    {"timeout", KEY_LIMIT, "S", 0, "Longest time without progress in scoring or trials, in seconds",
     0},
    {"plan-only", KEY_PLAN_ONLY, NULL, 0, "Stop at the plan; `search apply` goes on", 0},
    {"wait", KEY_WAIT, NULL, 0, "Return when it is done", 0},
    {0},
};

static void put(json_t *request, const char *key, json_t *value) {
    if (json_object_set_new(request, key, value) != 0)
        exit(ctl_fail(EXIT_FAILED, "arguments", NULL, "%s", err_text(DIMFIT_ERR_NOMEM)));
}

/* "key=value,key=value", keys not empty. */
static const char *check_pairs(const char *text) {
    for (const char *p = text; p != NULL; p = strchr(p, ',') != NULL ? strchr(p, ',') + 1 : NULL) {
        if (strcspn(p, "=,") == 0 || p[strcspn(p, "=,")] != '=')
            ctl_usage("--strategy-options", "\"%.80s\" is not KEY=VALUE,...", text);
    }
    return text;
}

/* Options whose value is one of a few words: false for another key. */
static bool put_word(struct start_args *args, int key, const char *arg) {
    static const struct {
        int key;
        const char *name, *option;
        const char *const *words;
        size_t n;
    } choices[] = {
        {KEY_ESTIMATOR, "estimator", "--estimator", estimators, ARRAY_LEN(estimators)},
        {KEY_BASIS, "basis", "--basis", bases, ARRAY_LEN(bases)},
        {KEY_COUNT, "count", "--count", counts, ARRAY_LEN(counts)},
        {KEY_RANK, "rank", "--rank", ranks, ARRAY_LEN(ranks)},
        {KEY_GROW_INIT, "grow_init", "--grow-init", grow_inits, ARRAY_LEN(grow_inits)},
        {KEY_MODE, "mode", "--mode", modes, ARRAY_LEN(modes)},
    };
    for (size_t i = 0; i < ARRAY_LEN(choices); i++) {
        if (choices[i].key == key) {
            arg = ctl_word(choices[i].option, arg, choices[i].words, choices[i].n);
            put(args->request, choices[i].name, json_string(arg));
            return true;
        }
    }
    return false;
}

static error_t parse_start(int key, char *arg, struct argp_state *state) {
    struct start_args *const args = state->input;
    if (put_word(args, key, arg))
        return 0;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = args->ctl;
        return 0;
    case 'k':
        put(args->request, "kappa", json_real(ctl_number("--kappa", arg, 0, 1e6)));
        return 0;
    case KEY_STRATEGY:
        put(args->request, "strategy", json_string(arg));
        return 0;
    case KEY_GROW:
        put(args->request, "grow", json_true());
        return 0;
    case KEY_OPTIONS:
        put(args->request, "options", json_string(check_pairs(arg)));
        return 0;
    case KEY_MIN_DIM:
        put(args->request, "min_dim", json_integer(ctl_whole("--min-dim", arg, 0, LAYOUT_DIM_MAX)));
        return 0;
    case KEY_SAMPLES:
        put(args->request, "samples", json_integer(ctl_whole("--samples", arg, 1, INT64_MAX)));
        return 0;
    case KEY_TRIAL_SAMPLES:
        put(args->request, "trial_samples",
            json_integer(ctl_whole("--trial-samples", arg, 1, INT64_MAX)));
        return 0;
    case KEY_WINDOW:
        put(args->request, "window", json_integer(ctl_whole("--window", arg, 1, INT64_MAX)));
        return 0;
    case KEY_HALF_LIFE:
        put(args->request, "half_life", json_real(ctl_number("--half-life", arg, 0, 1e15)));
        return 0;
    case KEY_SEED:
        put(args->request, "seed", json_integer(ctl_whole("--seed", arg, 0, INT64_MAX)));
        return 0;
    case KEY_LIMIT:
        put(args->request, "timeout", json_real(ctl_number("--timeout", arg, 0, 604800)));
        return 0;
    case KEY_PLAN_ONLY:
        args->plan_only = true;
        put(args->request, "plan_only", json_true());
        return 0;
    case KEY_WAIT:
        args->wait = true;
        return 0;
    case ARGP_KEY_END:
        if (json_object_get(args->request, "kappa") == NULL)
            ctl_usage("--kappa", "is needed: the share of parameters to keep, such as 0.25");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp search_start_argp = {
    .options = start_options,
    .parser = parse_start,
    .doc = "Score the dimensions of all slots, plan which stay within kappa, and apply that.\v"
           "With --plan-only and --wait the plan is printed.",
    .children = ctl_common_options,
};

static int search_start(struct ctl *ctl, int argc, char **argv) {
    struct start_args args = {.ctl = ctl, .request = json_object()};
    json_t *status;
    ctl_parse(&search_start_argp, "dimfitctl search start", argc, argv, &args);
    int code = ctl_call(ctl, "search start", CTL_CHANGES, args.request, &status);
    json_decref(args.request);
    if (code != EXIT_DONE)
        return code;
    if (args.wait && args.plan_only)
        code = search_wait(ctl, &status);
    if (code == EXIT_DONE)
        code = args.wait && search_phase_is(status, "planned")
                   ? show_plan(ctl, NULL)
                   : finish_status(ctl, &status, args.wait);
    json_decref(status);
    return code;
}

/* ---- the others ------------------------------------------------------------------------------ */

struct search_args {
    struct ctl *ctl;
    json_t *request;
    bool wait, dry_run;
};

enum { KEY_PLAN = 0x200, KEY_DRY_RUN, KEY_SAVED };

static error_t parse_search(int key, char *arg, struct argp_state *state) {
    struct search_args *const args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = args->ctl;
        return 0;
    case KEY_WAIT:
        args->wait = true;
        return 0;
    case KEY_PLAN:
        put(args->request, "plan", json_integer(ctl_whole("--plan", arg, 1, INT64_MAX)));
        return 0;
    case KEY_DRY_RUN:
        args->dry_run = true;
        put(args->request, "dry_run", json_true());
        return 0;
    case KEY_SAVED:
        put(args->request, "saved", json_true());
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

#define WAIT_OPTION(text)                                                                          \
    { "wait", KEY_WAIT, NULL, 0, text, 0 }
#define PLAN_OPTION(text)                                                                          \
    { "plan", KEY_PLAN, "ID", 0, text, 0 }
#define DRY_RUN_OPTION(text)                                                                       \
    { "dry-run", KEY_DRY_RUN, NULL, 0, text, 0 }

static void parse(struct search_args *args, const struct argp_option *options, const char *name,
                  const char *doc, int argc, char **argv) {
    const struct argp argp = {
        .options = options, .parser = parse_search, .doc = doc, .children = ctl_all_options};
    args->request = json_object();
    ctl_parse(&argp, name, argc, argv, args);
}

static int call_and_finish(struct ctl *ctl, const char *command, enum ctl_effect effect,
                           json_t *request, bool wait) {
    json_t *status;
    int code = ctl_call(ctl, command, effect, request, &status);
    if (code != EXIT_DONE)
        return code;
    code = finish_status(ctl, &status, wait);
    json_decref(status);
    return code;
}

/* apply and rollback, whose dry run has an answer of its own. */
static int change(struct search_args *args, const char *command) {
    if (!args->dry_run)
        return call_and_finish(args->ctl, command, CTL_CHANGES, args->request, args->wait);
    json_t *answer;
    int code = ctl_call(args->ctl, command, CTL_READS, args->request, &answer);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(args->ctl, answer, view_dry_run);
    json_decref(answer);
    return code;
}

static int search_status(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        WAIT_OPTION("Return when it is planned, committed, rolled back or aborted"), {0}};
    struct search_args args = {.ctl = ctl};
    parse(&args, options, "dimfitctl search status", "Show where the search stands.", argc, argv);
    const int code = call_and_finish(ctl, "search status", CTL_READS, NULL, args.wait);
    json_decref(args.request);
    return code;
}

static int search_plan(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        PLAN_OPTION("A plan that is kept (that of the last search)"),
        WAIT_OPTION("Let scoring come to its own end first"),
        {0}};
    struct search_args args = {.ctl = ctl};
    parse(&args, options, "dimfitctl search plan",
          "Show what the search would change. One that is still scoring plans from what is there.",
          argc, argv);
    int code = EXIT_DONE;
    if (args.wait) {
        json_t *status;
        code = ctl_call(ctl, "search status", CTL_READS, NULL, &status);
        if (code == EXIT_DONE) {
            code = search_wait(ctl, &status);
            json_decref(status);
        }
    }
    if (code == EXIT_DONE)
        code = show_plan(ctl, args.request);
    json_decref(args.request);
    return code;
}

static int search_plans(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "List the plans that are kept.",
        .children = ctl_all_options,
    };
    ctl_parse(&argp, "dimfitctl search plans", argc, argv, ctl);
    json_t *plans;
    int code = ctl_call(ctl, "search plans", CTL_READS, NULL, &plans);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, plans, view_plans);
    json_decref(plans);
    return code;
}

static int search_apply(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        PLAN_OPTION("A plan that is kept (that of the last search)"),
        DRY_RUN_OPTION("Ask every shard whether it could, and change nothing"),
        WAIT_OPTION("Return when it is committed or aborted"),
        {0}};
    struct search_args args = {.ctl = ctl};
    parse(&args, options, "dimfitctl search apply", "Put a plan into force on all shards.", argc,
          argv);
    const int code = change(&args, "search apply");
    json_decref(args.request);
    return code;
}

static int search_rollback(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        DRY_RUN_OPTION("Ask every shard whether it could, and change nothing"),
        WAIT_OPTION("Return when it is rolled back or aborted"),
        {0}};
    struct search_args args = {.ctl = ctl};
    parse(&args, options, "dimfitctl search rollback",
          "Take the last commit back: the layout before it is in force again, as a new epoch. What "
          "was trained since stays; directions that were dropped come back as they were.",
          argc, argv);
    const int code = change(&args, "search rollback");
    json_decref(args.request);
    return code;
}

static int search_discard(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        PLAN_OPTION("This plan"),
        {"saved", KEY_SAVED, NULL, 0,
         "What the last commit saved to be rolled back: it can't be from then on", 0},
        {0}};
    struct search_args args = {.ctl = ctl};
    parse(&args, options, "dimfitctl search discard", "Let something go that is kept.", argc, argv);
    const bool plan = json_object_get(args.request, "plan") != NULL;
    if (plan == (json_object_get(args.request, "saved") != NULL))
        ctl_usage("search discard", "takes --plan ID or --saved");
    json_t *answer;
    int code = ctl_call(ctl, "search discard", CTL_CHANGES, args.request, &answer);
    json_decref(args.request);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, answer, plan ? view_plans : view_search);
    json_decref(answer);
    return code;
}

static int search_abort(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "End the search; nothing changes.",
        .children = ctl_all_options,
    };
    ctl_parse(&argp, "dimfitctl search abort", argc, argv, ctl);
    return call_and_finish(ctl, "search abort", CTL_CHANGES, NULL, false);
}

int cmd_search(struct ctl *ctl, int argc, char **argv) {
    static const struct ctl_entry commands[] = {
        {"start", search_start},     {"status", search_status}, {"plan", search_plan},
        {"plans", search_plans},     {"apply", search_apply},   {"rollback", search_rollback},
        {"discard", search_discard}, {"abort", search_abort},   {"compare", search_compare},
    };
    return ctl_dispatch(ctl, "dimfitctl search",
                        "Fit the embedding dimensions.\v"
                        "Commands:\n"
                        "  start        score, plan and apply\n"
                        "  status       where the search stands\n"
                        "  plan         what it would change\n"
                        "  plans        the plans that are kept\n"
                        "  apply        put a plan into force\n"
                        "  rollback     take the last commit back\n"
                        "  discard      let a plan go, or what a rollback needs\n"
                        "  abort        end it, changing nothing\n"
                        "  compare      two strategies: ranks and times",
                        commands, ARRAY_LEN(commands), argc, argv);
}
