/* Letting rows go: shrink. */
#include "server/ctl/ctl.h"
#include "server/ctl/human.h"
#include "server/ctl/view.h"

#include "proto/retention.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 200 };

/* ---- waiting --------------------------------------------------------------------------------- */

static bool is_moving(const json_t *status) {
    const char *const state = get_text(status, "state", "");
    return strcmp(state, "starting") == 0 || strcmp(state, "running") == 0;
}

/* One line that the next call clears; nothing when no terminal reads it. */
static void show_progress(const json_t *status) {
    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    if (status != NULL)
        view_shrink_progress(status, stderr);
}

/* Poll until the shrink of *status has ended, replacing *status by the last one seen. */
static int wait_shrink(struct ctl *ctl, json_t **status) {
    const double shrink = get_number(*status, "shrink", 0);
    int code = EXIT_DONE;
    while (code == EXIT_DONE && is_moving(*status)) {
        const struct timespec pause = {0, POLL_MS * 1000000L};
        json_t *next;
        show_progress(*status);
        nanosleep(&pause, NULL);
        show_progress(NULL);
        code = ctl_call(ctl, "shrink status", CTL_READS, NULL, &next);
        if (code == EXIT_DONE) {
            json_decref(*status);
            *status = next;
        }
    }
    if (code == EXIT_UNREACHABLE)
        return ctl_fail(EXIT_MAYBE, "shrink", "`dimfitctl shrink --status` tells",
                        "shrink %.0f goes on without being watched", shrink);
    if (code == EXIT_DONE && get_number(*status, "shrink", 0) != shrink)
        return ctl_fail(EXIT_FAILED, "shrink", "`dimfitctl shrink --status` shows it",
                        "another one took the place of shrink %.0f", shrink);
    return code;
}

/* ---- the command ----------------------------------------------------------------------------- */

enum { KEY_DAYS = 0x100, KEY_SHOWS, KEY_DAY, KEY_DRY_RUN, KEY_NO_WAIT, KEY_STATUS, KEY_RETIER };

static const struct argp_option options[] = {
    {"slot", 's', "ID|NAME", 0, "Only this slot; may be given again (all)", 0},
    {"unseen-days", KEY_DAYS, "N", 0, "Rows go that were not seen for more than N days", 0},
    {"shows", KEY_SHOWS, "X", 0, "Rows go that have fewer than X shows, after decay", 0},
    {"day", KEY_DAY, "D", 0,
     "The day that age counts from, YYYY-MM-DD or days since 1970-01-01 (today, UTC)", 0},
    {"dry-run", KEY_DRY_RUN, NULL, 0, "Count what would go; change nothing", 0},
    {"retier", KEY_RETIER, NULL, 0, "Take rows to the tiers they belong to, and evict none", 0},
    {"no-wait", KEY_NO_WAIT, NULL, 0, "Return when every shard has begun", 0},
    {"status", KEY_STATUS, NULL, 0, "Show the shrink that runs, or the last one; start none", 0},
    {0},
};

struct shrink_args {
    struct ctl *ctl;
    json_t *request;
    bool no_wait, status;
};

static void put(struct shrink_args *args, const char *key, json_t *value) {
    if (json_object_set_new(args->request, key, value) != 0)
        exit(ctl_fail(EXIT_FAILED, "arguments", NULL, "%s", err_text(DIMFIT_ERR_NOMEM)));
}

static void put_slot(struct shrink_args *args, const char *word) {
    if (json_object_get(args->request, "slots") == NULL)
        put(args, "slots", json_array());
    if (json_array_append_new(json_object_get(args->request, "slots"), json_string(word)) != 0)
        ctl_usage("--slot", "\"%.80s\" is no name", word); /* no UTF-8 */
}

static int64_t day_of(const char *text) {
    struct tm date = {0};
    const char *const end = strptime(text, "%Y-%m-%d", &date);
    if (end == NULL || *end != '\0')
        return ctl_whole("--day", text, 1, UINT32_MAX);
    const int64_t day = (int64_t)timegm(&date) / 86400;
    if (day < 1)
        ctl_usage("--day", "%.40s is not after 1970-01-01", text);
    return day;
}

static error_t parse_shrink(int key, char *arg, struct argp_state *state) {
    struct shrink_args *const args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = args->ctl;
        return 0;
    case 's':
        put_slot(args, arg);
        return 0;
    case KEY_DAYS:
        put(args, "unseen_days",
            json_integer(ctl_whole("--unseen-days", arg, 1, RETENTION_DAYS_MAX)));
        return 0;
    case KEY_SHOWS:
        put(args, "shows", json_real(ctl_number("--shows", arg, 0, 1e9)));
        return 0;
    case KEY_DAY:
        put(args, "day", json_integer(day_of(arg)));
        return 0;
    case KEY_DRY_RUN:
        put(args, "dry_run", json_true());
        return 0;
    case KEY_RETIER:
        put(args, "retier", json_true());
        return 0;
    case KEY_NO_WAIT:
        args->no_wait = true;
        return 0;
    case KEY_STATUS:
        args->status = true;
        return 0;
    case ARGP_KEY_END:
        if (args->status && json_object_size(args->request) > 0)
            ctl_usage("--status", "starts nothing, leave the other options out");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_shrink(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .options = options,
        .parser = parse_shrink,
        .doc = "Evict rows that were not seen for long, or too seldom.\vWithout --unseen-days and "
               "--shows each slot goes by its own expire_days and expire_shows. What is evicted "
               "reads as its initial value again; pulls and pushes go on meanwhile. In slots with "
               "tiers the same pass takes each row to the tier that its shows say.",
        .children = ctl_all_options,
    };
    struct shrink_args args = {.ctl = ctl, .request = json_object()};
    json_t *status;
    ctl_parse(&argp, "dimfitctl shrink", argc, argv, &args);
    int code = args.status ? ctl_call(ctl, "shrink status", CTL_READS, NULL, &status)
                           : ctl_call(ctl, "shrink", CTL_CHANGES, args.request, &status);
    json_decref(args.request);
    if (code != EXIT_DONE)
        return code;
    if (!args.status && !args.no_wait)
        code = wait_shrink(ctl, &status);
    if (code == EXIT_DONE)
        code = ctl_show(ctl, status, view_shrink);
    if (code == EXIT_DONE && !args.status && strcmp(get_text(status, "state", ""), "failed") == 0)
        code = ctl_fail(EXIT_FAILED, "shrink", NULL, "%s", get_text(status, "error", "failed"));
    json_decref(status);
    return code;
}
