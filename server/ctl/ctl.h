/*
 * What every dimfitctl command has: a coordinator to ask, a way to say what went wrong, and the
 * exit codes that scripts rely on.
 *
 * A command is a function of its own arguments that returns an exit code; it prints its result to
 * standard output and, if it fails, one line to standard error:
 *
 *     dimfitctl: PLACE: WHY. NEXT STEP.
 *
 * One thread, one request at a time.
 */
#ifndef SERVER_CTL_CTL_H
#define SERVER_CTL_CTL_H

#include "proto/base.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>

struct rpc;

/* Pinned: scripts rely on them. */
enum ctl_exit {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 3,
    EXIT_DENIED = 4,
    EXIT_MAYBE = 5, /* timed out and may have happened */
};

struct ctl {
    const char *endpoint;
    double timeout;  /* seconds for one answer */
    bool json;       /* print the server's JSON, not text for people */
    struct rpc *rpc; /* opened by the first call */
    char *answer;    /* the last reply's JSON as it came */
};

void ctl_init(struct ctl *ctl); /* DIMFIT_COORDINATOR or the default endpoint, 10 s, text */
void ctl_fini(struct ctl *ctl);

/* --coordinator, --timeout and --json, taken before and after the command, as the one child of a
 * command's argp, whose parser sets child_inputs[0] to the struct ctl at ARGP_KEY_INIT.
 * ctl_common_options has no --timeout, for commands with one of their own. */
extern const struct argp_child ctl_all_options[], ctl_common_options[];

/* argp_parse() for the command whose words are `name`. Usage errors and --help end the process
 * inside. */
void ctl_parse(const struct argp *argp, const char *name, int argc, char **argv, void *input);

/* The argp parser of a command without options of its own; its input is the struct ctl. */
error_t ctl_parse_plain(int key, char *arg, struct argp_state *state);

/* A usage error found after parsing: print as ctl_fail() does, pointing to --help, and leave with
 * EXIT_USAGE. */
_Noreturn void ctl_usage(const char *place, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Option values; a wrong one is a ctl_usage() naming the option. */
double ctl_number(const char *option, const char *text, double over, double most); /* > over */
int64_t ctl_whole(const char *option, const char *text, int64_t least, int64_t most);
/* The text itself if it is one of the words. */
const char *ctl_word(const char *option, const char *text, const char *const *words, size_t n);

typedef int ctl_command(struct ctl *ctl, int argc, char **argv);

struct ctl_entry {
    const char *name;
    ctl_command *run;
};

/* Take the common options, then run the command that argv names after them. */
int ctl_dispatch(struct ctl *ctl, const char *name, const char *doc,
                 const struct ctl_entry *entries, size_t n, int argc, char **argv);

enum ctl_effect {
    CTL_READS,
    CTL_CHANGES, /* no answer means that it may have happened */
};

/* Ask the coordinator. args may be NULL and is not kept. EXIT_DONE with *reply to be given back by
 * json_decref(); otherwise the failure has been printed and its exit code is returned. A command
 * with CTL_CHANGES is sent only to a coordinator that has just answered, so that EXIT_UNREACHABLE
 * always means: nothing was done. */
int ctl_call(struct ctl *ctl, const char *command, enum ctl_effect effect, const json_t *args,
             json_t **reply) MUST_CHECK;

/* Print "dimfitctl: place: why. next" (next may be NULL) and return code. */
int ctl_fail(int code, const char *place, const char *next, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Print the last reply to standard output: with --json as it came (indented when a person reads it
 * from a terminal), else through a function of view.h. */
typedef int ctl_view(const json_t *reply, FILE *out);
int ctl_show(const struct ctl *ctl, const json_t *reply, ctl_view *view);

ctl_command cmd_status, cmd_stats, cmd_strategies, cmd_shutdown; /* cmd_cluster.c */
ctl_command cmd_slots, cmd_scores;                               /* cmd_slots.c */
ctl_command cmd_search;                                          /* cmd_search.c */
ctl_command cmd_shrink;                                          /* cmd_shrink.c */

#endif
