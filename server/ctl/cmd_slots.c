/* Slots and what their dimensions earn: slots, scores. */
#include "server/ctl/ctl.h"
#include "server/ctl/heatmap.h"
#include "server/ctl/human.h"
#include "server/ctl/view.h"
#include "server/plan.h"

#include <errno.h>

int cmd_slots(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "List every slot with its model width, stored width, rows and optimizer.",
        .children = ctl_all_options,
    };
    json_t *reply;
    ctl_parse(&argp, "dimfitctl slots", argc, argv, ctl);
    int code = ctl_call(ctl, "slots", CTL_READS, NULL, &reply);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, reply, view_slots);
    json_decref(reply);
    return code;
}

/* ---- scores ---------------------------------------------------------------------------------- */

struct scores_args {
    struct ctl *ctl;
    const char *estimator;
    const char *svg;
    bool csv, plan;
    const char *csv_file; /* NULL: standard output */
};

static error_t parse_scores(int key, char *arg, struct argp_state *state) {
    static const char *const estimators[] = {
#define ESTIMATOR_WORD(name, text) text,
        PLAN_ESTIMATOR_MAP(ESTIMATOR_WORD)
#undef ESTIMATOR_WORD
    };
    struct scores_args *const args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = args->ctl;
        return 0;
    case 'e':
        args->estimator = ctl_word("--estimator", arg, estimators, ARRAY_LEN(estimators));
        return 0;
    case 'c':
        args->csv = true;
        args->csv_file = arg != NULL ? arg : args->csv_file;
        return 0;
    case 's':
        args->svg = arg;
        return 0;
    case 'p':
        args->plan = true;
        return 0;
    case ARGP_KEY_ARG:
        /* `--csv FILE`, which argp can't tell from `--csv` and an argument. */
        if (!args->csv || args->csv_file != NULL)
            return ARGP_ERR_UNKNOWN;
        args->csv_file = arg;
        return 0;
    case ARGP_KEY_END:
        if (args->plan && args->svg == NULL)
            ctl_usage("--plan", "goes with --svg; `dimfitctl search plan` shows the plan as text");
        if (args->plan && args->estimator != NULL)
            ctl_usage("--plan", "a plan has its own estimator, leave --estimator out");
        if ((args->svg != NULL) + args->csv + args->ctl->json > 1)
            ctl_usage("scores", "one of --json, --csv and --svg");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A function that writes the reply: to the file, or to standard output for NULL or "-". */
static int write_file(const char *path, const json_t *reply,
                      void (*write)(const json_t *reply, FILE *out)) {
    if (path == NULL || strcmp(path, "-") == 0) {
        write(reply, stdout);
        return fflush(stdout) == 0
                   ? EXIT_DONE
                   : ctl_fail(EXIT_FAILED, "standard output", NULL, "%s", strerror(errno));
    }
    FILE *const out = fopen(path, "we");
    if (out == NULL)
        return ctl_fail(EXIT_FAILED, path, NULL, "%s", strerror(errno));
    write(reply, out);
    const bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed)
        return ctl_fail(EXIT_FAILED, path, "The file is not whole", "%s", strerror(errno));
    return EXIT_DONE;
}

/* Asking for the plan of a search that still scores would end its scoring. */
static int fetch_plan(struct ctl *ctl, json_t **out) {
    json_t *status;
    const int code = ctl_call(ctl, "search status", CTL_READS, NULL, &status);
    if (code != EXIT_DONE)
        return code;
    const bool scoring = strcmp(get_text(status, "phase", ""), "scoring") == 0;
    json_decref(status);
    if (scoring)
        return ctl_fail(EXIT_FAILED, "--plan", "`dimfitctl search plan` ends scoring and plans",
                        "the search is still scoring");
    return ctl_call(ctl, "search plan", CTL_READS, NULL, out);
}

static int fetch_scores(struct ctl *ctl, const char *estimator, json_t **out) {
    json_t *const args = json_pack("{s:s*}", "estimator", estimator);
    const int code = ctl_call(ctl, "scores", CTL_READS, args, out);
    json_decref(args);
    return code;
}

int cmd_scores(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        {"estimator", 'e', "E", 0,
         "single, step, fisher, row, curvature, taylor or guarded (that of the last search, or "
         "step)",
         0},
        {"csv", 'c', "FILE", OPTION_ARG_OPTIONAL, "A line a unit, to FILE or standard output", 0},
        {"svg", 's', "FILE", 0, "Draw a heat map; - is standard output", 0},
        {"plan", 'p', NULL, 0, "With --svg: the scores of the search's plan and what it keeps", 0},
        {0},
    };
    const struct argp argp = {
        .options = options,
        .parser = parse_scores,
        .doc = "Show what each embedding dimension earns: its share of all score.",
        .children = ctl_all_options,
    };
    struct scores_args args = {.ctl = ctl};
    json_t *reply;
    ctl_parse(&argp, "dimfitctl scores", argc, argv, &args);
    int code = args.plan ? fetch_plan(ctl, &reply) : fetch_scores(ctl, args.estimator, &reply);
    if (code != EXIT_DONE)
        return code;
    if (args.svg != NULL)
        code = write_file(args.svg, reply, heatmap_write);
    else if (args.csv)
        code = write_file(args.csv_file, reply, view_scores_csv);
    else
        code = ctl_show(ctl, reply, view_scores);
    json_decref(reply);
    return code;
}
