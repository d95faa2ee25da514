#include "server/ctl/ctl.h"

#include "proto/rpc.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char default_endpoint[] = "tcp://127.0.0.1:7700";

void ctl_init(struct ctl *ctl) {
    const char *const named = getenv("DIMFIT_COORDINATOR");
    *ctl = (struct ctl){
        .endpoint = named != NULL && named[0] != '\0' ? named : default_endpoint,
        .timeout = 10,
    };
}

void ctl_fini(struct ctl *ctl) {
    if (ctl->rpc != NULL)
        rpc_close(&ctl->rpc);
    free(ctl->answer);
    ctl->answer = NULL;
}

/* A sentence to standard error, with a full stop unless it brings a mark of its own. */
static void print_sentence(const char *text) {
    const size_t len = strlen(text);
    fprintf(stderr, len > 0 && strchr(".?!", text[len - 1]) != NULL ? " %s" : " %s.", text);
}

int ctl_fail(int code, const char *place, const char *next, const char *fmt, ...) {
    char why[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    fprintf(stderr, "dimfitctl: %s:", place);
    print_sentence(why);
    if (next != NULL)
        print_sentence(next);
    fputc('\n', stderr);
    return code;
}

static int fail_unreachable(const struct ctl *ctl) {
    return ctl_fail(EXIT_UNREACHABLE, ctl->endpoint,
                    "Is the coordinator running there? --coordinator or DIMFIT_COORDINATOR name "
                    "another place",
                    "no answer within %g s", ctl->timeout);
}

static int fail_call(const struct ctl *ctl, const char *command, enum ctl_effect effect,
                     dimfit_err err, const struct err_detail *detail) {
    const char *const why = detail->text[0] != '\0' ? detail->text : err_text(err);
    switch (err) {
    case DIMFIT_ERR_UNREACHABLE:
        return fail_unreachable(ctl);
    case DIMFIT_ERR_MAYBE:
        if (effect == CTL_READS)
            return fail_unreachable(ctl);
        return ctl_fail(EXIT_MAYBE, command, "It may have happened: see `dimfitctl status`",
                        "no answer from %s within %g s", ctl->endpoint, ctl->timeout);
    case DIMFIT_ERR_INVALID:
        return ctl_fail(EXIT_USAGE, command, NULL, "%s", why);
    case DIMFIT_ERR_DENIED:
        return ctl_fail(EXIT_DENIED, command, NULL, "%s", why);
    default:
        return ctl_fail(EXIT_FAILED, command, NULL, "%s", why);
    }
}

static dimfit_err send_command(struct ctl *ctl, const char *command, const char *body,
                               struct rpc_reply *reply, struct err_detail *detail) {
    struct wire_header header = {.kind = WIRE_ADMIN};
    const int64_t timeout_ms = (int64_t)ceil(ctl->timeout * 1000);
    snprintf(header.name, sizeof header.name, "%s", command);
    header.timeout_ms = (uint32_t)timeout_ms;
    return rpc_call(ctl->rpc, &header, body, body != NULL ? strlen(body) : 0, timeout_ms, reply,
                    detail);
}

static int open_rpc(struct ctl *ctl) {
    struct err_detail detail = {""};
    const dimfit_err err = rpc_open(ctl->endpoint, &ctl->rpc, &detail);
    if (err == DIMFIT_ERR_INVALID)
        return ctl_fail(EXIT_USAGE, "--coordinator", "An endpoint is such as tcp://10.0.0.5:7700",
                        "\"%s\" is no endpoint", ctl->endpoint);
    if (err != DIMFIT_OK)
        return ctl_fail(EXIT_FAILED, ctl->endpoint, NULL, "%s",
                        detail.text[0] != '\0' ? detail.text : err_text(err));
    return EXIT_DONE;
}

static int parse_reply(struct ctl *ctl, const char *command, const struct rpc_reply *reply,
                       json_t **out) {
    json_error_t error;
    free(ctl->answer);
    ctl->answer = reply->len > 0 ? strndup((const char *)reply->body, reply->len) : strdup("{}");
    if (ctl->answer == NULL)
        return ctl_fail(EXIT_FAILED, command, NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    json_t *const json = json_loads(ctl->answer, 0, &error);
    if (!json_is_object(json)) {
        json_decref(json);
        return ctl_fail(EXIT_FAILED, command, "Is dimfitctl as new as the coordinator?",
                        "the answer is no JSON object");
    }
    *out = json;
    return EXIT_DONE;
}

int ctl_call(struct ctl *ctl, const char *command, enum ctl_effect effect, const json_t *args,
             json_t **out) {
    struct rpc_reply reply;
    struct err_detail detail = {""};
    dimfit_err err = DIMFIT_OK;
    if (ctl->rpc == NULL) {
        const int code = open_rpc(ctl);
        if (code != EXIT_DONE)
            return code;
        if (effect == CTL_CHANGES)
            err = send_command(ctl, "status", NULL, &reply, &detail);
        if (err != DIMFIT_OK)
            return fail_call(ctl, command, CTL_READS, err, &detail);
    }
    char *const body = args != NULL ? json_dumps(args, JSON_COMPACT) : NULL;
    if (args != NULL && body == NULL)
        return ctl_fail(EXIT_FAILED, command, NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    err = send_command(ctl, command, body, &reply, &detail);
    free(body);
    return err == DIMFIT_OK ? parse_reply(ctl, command, &reply, out)
                            : fail_call(ctl, command, effect, err, &detail);
}

static void print_json(const struct ctl *ctl, const json_t *reply) {
    if (isatty(STDOUT_FILENO))
        json_dumpf(reply, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    else
        fputs(ctl->answer, stdout);
    putchar('\n');
}

int ctl_show(const struct ctl *ctl, const json_t *reply, ctl_view *view) {
    if (ctl->json)
        print_json(ctl, reply);
    else if (view(reply, stdout) != 0)
        return ctl_fail(EXIT_FAILED, "output", NULL, "%s", err_text(DIMFIT_ERR_NOMEM));
    if (fflush(stdout) != 0)
        return ctl_fail(EXIT_FAILED, "standard output", NULL, "%s", strerror(errno));
    return EXIT_DONE;
}
