/* The command line: common options, values, and which command to run. */
#include "server/ctl/ctl.h"

#include "server/words.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

enum { KEY_COORDINATOR = 0x1001, KEY_TIMEOUT, KEY_JSON };

enum { WORDS_MAX = 16 }; /* commands of a group */

static error_t parse_common(int key, char *arg, struct argp_state *state) {
    struct ctl *const ctl = state->input;
    switch (key) {
    case KEY_COORDINATOR:
        ctl->endpoint = arg;
        return 0;
    case KEY_TIMEOUT:
        ctl->timeout = ctl_number("--timeout", arg, 0, 86400);
        return 0;
    case KEY_JSON:
        ctl->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Group -2: after a command's own options, before --help. */
#define COORDINATOR_OPTION                                                                         \
    {                                                                                              \
        "coordinator", KEY_COORDINATOR, "EP", 0,                                                   \
            "Where the coordinator listens (DIMFIT_COORDINATOR, else tcp://127.0.0.1:7700)", -2    \
    }
#define JSON_OPTION                                                                                \
    { "json", KEY_JSON, NULL, 0, "Print JSON", -2 }

static const struct argp_option common_options[] = {COORDINATOR_OPTION, JSON_OPTION, {0}};
static const struct argp_option all_options[] = {
    COORDINATOR_OPTION,
    JSON_OPTION,
    {"timeout", KEY_TIMEOUT, "S", 0, "Seconds to wait for an answer (10)", -2},
    {0},
};
static const struct argp common_argp = {.options = common_options, .parser = parse_common};
static const struct argp all_argp = {.options = all_options, .parser = parse_common};
const struct argp_child ctl_common_options[] = {{&common_argp, 0, NULL, 0}, {0}};
const struct argp_child ctl_all_options[] = {{&all_argp, 0, NULL, 0}, {0}};

error_t ctl_parse_plain(int key, char *arg, struct argp_state *state) {
    if (key != ARGP_KEY_INIT)
        return ARGP_ERR_UNKNOWN;
    state->child_inputs[0] = state->input;
    return 0;
}

static void parse(const struct argp *argp, const char *name, unsigned flags, int argc, char **argv,
                  void *input) {
    char program[64];
    snprintf(program, sizeof program, "%s", name);
    argv[0] = program;
    argp_err_exit_status = EXIT_USAGE;
    /* Usage errors end the process inside; what remains is running out of memory. */
    const error_t err = argp_parse(argp, argc, argv, flags, NULL, input);
    if (err != 0)
        exit(ctl_fail(EXIT_FAILED, "arguments", NULL, "%s", strerror(err)));
    argv[0] = NULL;
}

void ctl_parse(const struct argp *argp, const char *name, int argc, char **argv, void *input) {
    parse(argp, name, 0, argc, argv, input);
}

void ctl_usage(const char *place, const char *fmt, ...) {
    char why[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    exit(ctl_fail(EXIT_USAGE, place, "--help lists the options", "%s", why));
}

double ctl_number(const char *option, const char *text, double over, double most) {
    char *end;
    const double v = strtod(text, &end);
    if (end == text || *end != '\0' || isspace((unsigned char)text[0]) || !isfinite(v))
        ctl_usage(option, "\"%.40s\" is not a number", text);
    if (v <= over)
        ctl_usage(option, "%.40s is not more than %g", text, over);
    if (v > most)
        ctl_usage(option, "%.40s is more than %g", text, most);
    return v;
}

int64_t ctl_whole(const char *option, const char *text, int64_t least, int64_t most) {
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || isspace((unsigned char)text[0]) || errno != 0)
        ctl_usage(option, "\"%.40s\" is not a whole number", text);
    if (v < least || v > most)
        ctl_usage(option, "%lld is not from %lld to %lld", v, (long long)least, (long long)most);
    return v;
}

const char *ctl_word(const char *option, const char *text, const char *const *words, size_t n) {
    char list[160];
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0)
            return words[i];
    }
    ctl_usage(option, "\"%.40s\" is not one of %s", text, words_list(words, n, list, sizeof list));
}

struct dispatch {
    struct ctl *ctl;
    int command; /* index in argv, 0: none */
};

static error_t parse_dispatch(int key, char *arg, struct argp_state *state) {
    struct dispatch *const dispatch = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = dispatch->ctl;
        return 0;
    case ARGP_KEY_ARG:
        /* The rest is the command's. */
        dispatch->command = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_usage(state);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int ctl_dispatch(struct ctl *ctl, const char *name, const char *doc,
                 const struct ctl_entry *entries, size_t n, int argc, char **argv) {
    const struct argp argp = {
        .parser = parse_dispatch,
        .args_doc = "COMMAND [OPTION...]",
        .doc = doc,
        .children = ctl_all_options,
    };
    struct dispatch dispatch = {.ctl = ctl};
    parse(&argp, name, ARGP_IN_ORDER, argc, argv, &dispatch);

    const char *const word = argv[dispatch.command];
    const char *words[WORDS_MAX];
    base_assert(n <= WORDS_MAX);
    for (size_t i = 0; i < n; i++) {
        words[i] = entries[i].name;
        if (strcmp(word, words[i]) == 0)
            return entries[i].run(ctl, argc - dispatch.command, argv + dispatch.command);
    }
    const char *const near = words_closest(word, words, n);
    char list[160];
    if (near != NULL)
        ctl_usage("command", "there is no command \"%.40s\", did you mean %s?", word, near);
    ctl_usage("command", "there is no command \"%.40s\" among %s", word,
              words_list(words, n, list, sizeof list));
}
