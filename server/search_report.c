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

json_t *search_status_json(const struct coordinator *c) {
    const struct search *const s = &c->search;
    json_t *const status = json_pack(
        "{s:I, s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f}}", "search",
        (json_int_t)s->id, "phase", wire_phase_name(s->phase), "mode",
        s->freeze ? "freeze" : "live", "plan_only", s->plan_only, "samples", (json_int_t)s->samples,
        "samples_wanted", (json_int_t)s->wanted, "steps", (json_int_t)s->steps, "workers",
        (json_int_t)s->n_scorers, "epoch", (json_int_t)c->layout->epoch, "seconds", "scoring",
        s->seconds_scoring, "planning", s->seconds_planning, "apply", s->seconds_apply);
    if (status == NULL)
        return NULL;
    json_object_set_new(status, "request", s->id == 0 ? json_null() : request_json(s));
    json_object_set_new(status, "trials", search_trial_json(c));
    json_object_set_new(status, "error",
                        s->err == DIMFIT_OK ? json_null() : json_string(s->detail.text));
    if (s->plan != NULL) {
        json_object_set_new(status, "params_before",
                            json_integer((json_int_t)s->plan->params_before));
        json_object_set_new(status, "params_after",
                            json_integer((json_int_t)s->plan->params_after));
        json_object_set_new(status, "kept_score", json_real(s->plan->kept_score));
    }
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
    for (uint32_t k = 0; k < p->before; k++)
        json_array_append_new(array,
                              isfinite(p->priority[k]) ? json_real(p->priority[k]) : json_null());
    return array;
}

static json_t *slot_json(const struct coordinator *c, const struct plan_slot *p) {
    const struct layout_slot *const slot = layout_find(c->layout, p->slot);
    base_assert(slot != NULL);
    json_t *const keep = json_array();
    double score = 0;
    for (uint32_t k = 0; k < p->before; k++) {
        json_array_append_new(keep, json_integer(p->keep[k]));
        score += p->s[k];
    }
    return json_pack(
        "{s:I, s:s, s:I, s:i, s:i, s:i, s:i, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o}", "id",
        (json_int_t)p->slot, "name", slot->name, "rows", (json_int_t)p->rows, "dim", (int)slot->dim,
        "before", (int)p->before, "after", (int)p->after, "added", (int)p->added, "bytes_before",
        row_bytes(slot, p->rows, p->before), "bytes_after", row_bytes(slot, p->rows, p->after),
        "score", score, "g", report_doubles(p->g, p->before), "s", report_doubles(p->s, p->before),
        "keep", keep, "priority", priority_json(p), "eigenvalues",
        p->eigenvalue == NULL ? json_null() : report_doubles(p->eigenvalue, p->before));
}

/* Of the layout that the plan makes, where it still applies; of the one in force otherwise. */
static uint64_t planned_layout_bytes(const struct coordinator *c, const struct plan *plan) {
    struct layout *next = NULL;
    if (change_apply(plan->change, c->layout, NULL, &next, NULL) != DIMFIT_OK)
        return layout_bytes(c->layout);
    const uint64_t bytes = layout_bytes(next);
    layout_destroy(&next);
    return bytes;
}

json_t *search_plan_json(const struct coordinator *c) {
    const struct search *const s = &c->search;
    const struct plan *const p = s->plan;
    json_t *const slots = json_array();
    for (size_t i = 0; i < p->n_slots; i++)
        json_array_append_new(slots, slot_json(c, &p->slots[i]));
    json_t *const json = json_pack(
        "{s:I, s:s, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:f, s:I}", "search", (json_int_t)s->id,
        "phase", wire_phase_name(s->phase), "epoch", (json_int_t)p->epoch, "to_epoch",
        (json_int_t)p->change->to_epoch, "samples", (json_int_t)p->samples, "cost_before",
        p->cost_before, "cost_after", p->cost_after, "params_before", (json_int_t)p->params_before,
        "params_after", (json_int_t)p->params_after, "kept_score", p->kept_score, "layout_bytes",
        (json_int_t)planned_layout_bytes(c, p));
    if (json == NULL) {
        json_decref(slots);
        return NULL;
    }
    json_t *const request = request_json(s);
    json_object_update_missing(json, request);
    json_decref(request);
    json_object_set_new(json, "candidates", search_candidates_json(p));
    json_object_set_new(json, "slots", slots);
    return json;
}
