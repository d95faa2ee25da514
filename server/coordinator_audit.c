/*
 * Who had what done, and what came of it: JSON, one line a step.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

#include <stdlib.h>
#include <time.h>

void audit_set_who(struct coordinator *c, const struct route *from,
                   const struct wire_header *header) {
    const char *const peer = from->peer[0] != 0 ? from->peer : "?";
    if (header->client == 0)
        snprintf(c->who, sizeof c->who, "%s", peer);
    else
        snprintf(c->who, sizeof c->who, "%s client %016llx", peer,
                 (unsigned long long)header->client);
}

static void append(struct coordinator *c, json_t *line) {
    char *const text = line == NULL ? NULL : json_dumps(line, JSON_COMPACT);
    json_decref(line);
    if (text != NULL)
        c->io.audit(c->io.self, text);
    else
        log_error("audit", "no memory for a line of the audit log");
    free(text);
}

static json_t *result_of(dimfit_err err, const struct err_detail *detail) {
    if (err == DIMFIT_OK)
        return json_string("ok");
    return json_sprintf("%s: %s", err_name(err),
                        detail != NULL && detail->text[0] != 0 ? detail->text : err_text(err));
}

static json_t *line_of(struct coordinator *c, const char *step, const char *who) {
    const time_t now = (time_t)c->io.wall_s(c->io.self);
    struct tm utc;
    char time[32] = "";
    if (gmtime_r(&now, &utc) != NULL)
        strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_pack("{s:s, s:I, s:s, s:s, s:I}", "time", time, "search", (json_int_t)c->search.id,
                     "step", step, "who", who, "epoch", (json_int_t)c->layout->epoch);
}

void audit_command(struct coordinator *c, const char *command, const json_t *args, dimfit_err err,
                   const struct err_detail *detail) {
    log_info("audit", "%s by %s: %s", command, c->who, err == DIMFIT_OK ? "ok" : detail->text);
    if (c->io.audit == NULL)
        return;
    json_t *const line = line_of(c, command, c->who);
    json_object_set(line, "arguments", (json_t *)args);
    json_object_set_new(line, "result", result_of(err, detail));
    append(c, line);
}

void audit_phase(struct coordinator *c) {
    const struct search *const s = &c->search;
    if (c->io.audit == NULL || c->apply.dry_run)
        return;
    json_t *const line = line_of(c, wire_phase_name(s->phase), s->who);
    json_object_set_new(line, "arguments", json_null());
    json_object_set_new(line, "result",
                        result_of(s->phase == PHASE_ABORTED ? s->err : DIMFIT_OK, &s->detail));
    append(c, line);
}

void audit_dry_run(struct coordinator *c, dimfit_err err, const struct err_detail *detail) {
    if (c->io.audit == NULL)
        return;
    json_t *const line = line_of(c, c->apply.undoes ? "dry run of rollback" : "dry run of apply",
                                 c->apply.who);
    json_object_set_new(line, "search", json_integer((json_int_t)c->apply.plan));
    json_object_set_new(line, "arguments", json_null());
    json_object_set_new(line, "result", result_of(err, detail));
    append(c, line);
}
