#include "server/coordinator_internal.h"

#include "server/report.h"

#include <math.h>

json_t *report_doubles(const double *values, size_t n) {
    json_t *const array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_real(values[i]));
    return array;
}

static json_t *request_json(const struct search *s) {
    const struct plan_request *const r = &s->request;
    return json_pack(
        "{s:f, s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s, s:I, s:I, s:f, s:s, s:I}", "kappa", r->kappa,
        "strategy", r->strategy, "estimator", estimator_name(r->estimator), "basis",
        basis_name(r->basis), "count", count_name(r->count), "rank", rank_name(r->rank), "min_dim",
        (int)r->min_dim, "grow", r->grow, "grow_init", grow_init_name(r->grow_init), "seed",
        (json_int_t)r->seed, "window", (json_int_t)r->window, "half_life", r->half_life, "options",
        r->options, "trial_samples", (json_int_t)r->trial_samples);
}

static uint64_t rows_moving(const struct coordinator *c) {
    uint64_t rows = 0;
    for (size_t i = 0; i < c->options.shards; i++)
        rows += c->members[i].moving;
    return rows;
}

static size_t slots_searched(const struct coordinator *c) {
    size_t n = 0;
    for (size_t i = 0; i < c->layout->n_slots; i++)
        n += c->layout->slots[i].search;
    return n;
}

/* How fast samples come and, while they do, how long the rest takes at that rate. */
static void set_rate(const struct coordinator *c, json_t *status) {
    const struct search *const s = &c->search;
    const bool scores = s->phase == PHASE_SCORING;
    const double seconds = scores ? search_seconds_in_phase(c) : s->seconds_scoring;
    const double rate = seconds > 0 ? (double)s->samples / seconds : 0;
    const bool known = scores && rate > 0 && s->wanted > s->samples;
    json_object_set_new(status, "samples_per_second", json_real(rate));
    json_object_set_new(status, "seconds_left",
                        known ? json_real((double)(s->wanted - s->samples) / rate) : json_null());
}

static void set_waiting(const struct coordinator *c, json_t *status) {
    const uint64_t moving = rows_moving(c);
    json_object_set_new(status, "moving_rows", json_integer((json_int_t)moving));
    json_object_set_new(status, "waiting",
                        !apply_waits(c)
                            ? json_null()
                            : json_sprintf("waiting for %llu rows of the last change to move",
                                           (unsigned long long)moving));
}

/* What search rollback would take back. */
static json_t *saved_json(const struct coordinator *c) {
    if (c->undo.change == NULL)
        return json_null();
    return json_pack("{s:I, s:I}", "search", (json_int_t)c->undo.search, "epoch",
                     (json_int_t)c->undo.before->epoch);
}

json_t *search_status_json(const struct coordinator *c) {
    static const char *const planned[] = {"params_before", "params_after", "kept_score"};
    const struct search *const s = &c->search;
    json_t *const status = json_pack(
        "{s:I, s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f}}", "search",
        (json_int_t)s->id, "phase", wire_phase_name(s->phase), "mode",
        s->freeze ? "freeze" : "live", "plan_only", s->plan_only, "samples", (json_int_t)s->samples,
        "samples_wanted", (json_int_t)s->wanted, "steps", (json_int_t)s->steps, "workers",
        (json_int_t)s->n_scorers, "epoch", (json_int_t)c->layout->epoch, "slots",
        (json_int_t)slots_searched(c), "seconds", "scoring", s->seconds_scoring, "planning",
        s->seconds_planning, "apply", s->seconds_apply);
    if (status == NULL)
        return NULL;
    set_rate(c, status);
    set_waiting(c, status);
    json_object_set_new(status, "saved", saved_json(c));
    json_object_set_new(status, "request", s->id == 0 ? json_null() : request_json(s));
    json_object_set_new(status, "trials", search_trial_json(c));
    json_object_set_new(status, "error",
                        s->err == DIMFIT_OK ? json_null() : json_string(s->detail.text));
    const struct kept_plan *const plan = kept_plans_find(&c->plans, s->id);
    for (size_t i = 0; plan != NULL && i < ARRAY_LEN(planned); i++)
        json_object_set(status, planned[i], json_object_get(plan->report, planned[i]));
    return status;
}

/* Bytes of a row: values and optimizer state of that width. */
static json_int_t row_bytes(const struct layout_slot *slot, uint64_t rows, uint32_t width) {
    const size_t state = optimizer_state_width(slot->optimizer.kind, width);
    return (json_int_t)(rows * (width + state) * sizeof(float));
}

/* What never may be taken for its own sake has none. */
static json_t *priority_json(const struct plan_slot *p) {
    if (p->priority == NULL)
        return json_null();
    json_t *const array = json_array();
    for (uint32_t k = 0; k < p->units; k++)
        json_array_append_new(array,
                              isfinite(p->priority[k]) ? json_real(p->priority[k]) : json_null());
    return array;
}

static json_t *slot_json(const struct coordinator *c, const struct plan_slot *p) {
    const struct layout_slot *const slot = layout_find(c->layout, p->slot);
    base_assert(slot != NULL);
    json_t *const keep = json_array();
    double score = 0, kept = 0;
    for (uint32_t k = 0; k < p->units; k++) {
        json_array_append_new(keep, json_integer(p->keep[k]));
        score += p->s[k];
        kept += p->keep[k] ? p->s[k] : 0;
    }
    return json_pack(
        "{s:I, s:s, s:i, s:I, s:i, s:i, s:i, s:i, s:I, s:I, s:f, s:f, s:o, s:o, s:o, s:o, s:o}",
        "id", (json_int_t)p->slot, "name", slot->name, "tier", (int)p->tier, "rows",
        (json_int_t)p->rows, "dim", (int)slot->dim, "before", (int)p->before, "after",
        (int)p->after, "added", (int)p->added, "bytes_before", row_bytes(slot, p->rows, p->before),
        "bytes_after", row_bytes(slot, p->rows, p->after), "score", score, "score_kept", kept, "g",
        report_doubles(p->g, p->units), "s", report_doubles(p->s, p->units), "keep", keep,
        "priority", priority_json(p), "eigenvalues",
        p->eigenvalue == NULL ? json_null() : report_doubles(p->eigenvalue, p->units));
}

static uint64_t planned_layout_bytes(const struct coordinator *c, const struct plan *plan) {
    struct layout *next = NULL;
    if (change_apply(plan->change, c->layout, NULL, &next, NULL) != DIMFIT_OK)
        return layout_bytes(c->layout);
    const uint64_t bytes = layout_bytes(next);
    layout_destroy(&next);
    return bytes;
}

json_t *search_plan_report(const struct coordinator *c, const struct plan *p) {
    const struct search *const s = &c->search;
    json_t *const slots = json_array();
    for (size_t i = 0; i < p->n_slots; i++)
        json_array_append_new(slots, slot_json(c, &p->slots[i]));
    json_t *const json = json_pack(
        "{s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:f, s:I}", "search", (json_int_t)s->id, "epoch",
        (json_int_t)p->epoch, "to_epoch", (json_int_t)p->change->to_epoch, "samples",
        (json_int_t)p->samples, "cost_before", p->cost_before, "cost_after", p->cost_after,
        "params_before", (json_int_t)p->params_before, "params_after", (json_int_t)p->params_after,
        "kept_score", p->kept_score, "layout_bytes", (json_int_t)planned_layout_bytes(c, p));
    if (json == NULL) {
        json_decref(slots);
        return NULL;
    }
    json_t *const request = request_json(s);
    json_object_update_missing(json, request);
    json_object_set_new(json, "request", request);
    /* A strategy that picks among plans decides these, too. */
    json_object_set_new(json, "basis", json_string(basis_name(p->request.basis)));
    json_object_set_new(json, "estimator", json_string(estimator_name(p->request.estimator)));
    json_object_set_new(json, "rank", json_string(rank_name(p->request.rank)));
    json_object_set_new(json, "candidates", search_candidates_json(p));
    json_object_set_new(json, "slots", slots);
    return json;
}
