/* The cluster as a whole: status, stats, strategies, shutdown. */
#include "server/ctl/ctl.h"
#include "server/ctl/view.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

static int show_command(struct ctl *ctl, const char *command, enum ctl_effect effect,
                        ctl_view *view) {
    json_t *reply;
    int code = ctl_call(ctl, command, effect, NULL, &reply);
    if (code != EXIT_DONE)
        return code;
    code = ctl_show(ctl, reply, view);
    json_decref(reply);
    return code;
}

int cmd_status(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "Show the coordinator, its epoch and its shards.",
        .children = ctl_all_options,
    };
    ctl_parse(&argp, "dimfitctl status", argc, argv, ctl);
    return show_command(ctl, "status", CTL_READS, view_status);
}

int cmd_strategies(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "List the strategies that a search can use, and the plugins that were refused.",
        .children = ctl_all_options,
    };
    ctl_parse(&argp, "dimfitctl strategies", argc, argv, ctl);
    return show_command(ctl, "strategies", CTL_READS, view_strategies);
}

static int view_shutdown(const json_t *reply, FILE *out) {
    return fputs("the cluster is stopping\n", out) < 0 ? -1 : 0;
}

int cmd_shutdown(struct ctl *ctl, int argc, char **argv) {
    const struct argp argp = {
        .parser = ctl_parse_plain,
        .doc = "Stop the coordinator and all its shards, in order.",
        .children = ctl_all_options,
    };
    ctl_parse(&argp, "dimfitctl shutdown", argc, argv, ctl);
    return show_command(ctl, "shutdown", CTL_CHANGES, view_shutdown);
}

/* ---- stats ----------------------------------------------------------------------------------- */

struct stats_args {
    struct ctl *ctl;
    bool watch;
    double interval;
};

static error_t parse_stats(int key, char *arg, struct argp_state *state) {
    struct stats_args *const args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = args->ctl;
        return 0;
    case 'w':
        args->watch = true;
        return 0;
    case 'i':
        args->interval = ctl_number("--interval", arg, 0, 86400);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void pause_for(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static int watch_stats(const struct stats_args *args) {
    const bool redraw = !args->ctl->json && isatty(STDOUT_FILENO);
    for (;;) {
        json_t *reply;
        int code = ctl_call(args->ctl, "stats", CTL_READS, NULL, &reply);
        if (code != EXIT_DONE)
            return code;
        if (redraw)
            fputs("\033[H\033[J", stdout);
        code = ctl_show(args->ctl, reply, view_stats);
        json_decref(reply);
        if (code != EXIT_DONE)
            return code;
        if (!redraw && !args->ctl->json)
            putchar('\n');
        pause_for(args->interval);
    }
}

int cmd_stats(struct ctl *ctl, int argc, char **argv) {
    static const struct argp_option options[] = {
        {"watch", 'w', NULL, 0, "Show them again and again until interrupted", 0},
        {"interval", 'i', "S", 0, "Seconds between two looks (2)", 0},
        {0},
    };
    const struct argp argp = {
        .options = options,
        .parser = parse_stats,
        .doc = "Show rows, memory and traffic, in all and by shard.",
        .children = ctl_all_options,
    };
    struct stats_args args = {.ctl = ctl, .interval = 2};
    ctl_parse(&argp, "dimfitctl stats", argc, argv, &args);
    return args.watch ? watch_stats(&args) : show_command(ctl, "stats", CTL_READS, view_stats);
}
