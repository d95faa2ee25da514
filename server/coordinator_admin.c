#include "server/coordinator_internal.h"

#include "server/report.h"

#include <math.h>
#include <stdlib.h>

#include <config.h>

void admin_answer(struct coordinator *c, const struct asker *to, json_t *json) {
    char *const text = json == NULL ? NULL
                                    : json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(json);
    if (text == NULL) {
        const struct err_detail detail = {"no memory for the answer"};
        coordinator_answer(c, to, DIMFIT_ERR_NOMEM, &detail, NULL, 0);
        return;
    }
    coordinator_answer(c, to, DIMFIT_OK, NULL, text, strlen(text));
    free(text);
}

/* ---- status, strategies ---------------------------------------------------------------------- */

static json_t *status_json(const struct coordinator *c) {
    const int64_t now = c->io.now_ms(c->io.self);
    json_t *const shards = json_array();
    for (size_t i = 0; i < c->options.shards; i++) {
        const struct member *const m = &c->members[i];
        const int64_t silence = now - m->seen_ms;
        const char *const state = !m->registered              ? "missing"
                                  : silence > SILENT_AFTER_MS ? "silent"
                                                              : "up";
        json_array_append_new(shards, json_pack("{s:I, s:s, s:I, s:s, s:I, s:f}", "id",
                                                (json_int_t)i, "endpoint", c->map->endpoints[i],
                                                "pid", (json_int_t)m->pid, "state", state, "epoch",
                                                (json_int_t)m->epoch, "seen_seconds_ago",
                                                m->registered ? (double)silence / 1000 : -1.0));
    }
    return json_pack("{s:s, s:I, s:s, s:I, s:o, s:I, s:f}", "version", PACKAGE_VERSION, "epoch",
                     (json_int_t)c->layout->epoch, "phase", wire_phase_name(c->search.phase),
                     "shards_wanted", (json_int_t)c->options.shards, "shards", shards, "slots",
                     (json_int_t)c->layout->n_slots, "uptime",
                     (double)(now - c->started_ms) / 1000);
}

static json_t *strategies_json(const struct coordinator *c) {
    const struct strategies *const all = c->options.strategies;
    json_t *const list = json_array(), *const refused = json_array();
    for (size_t i = 0; i < strategies_count(all); i++) {
        const struct dimfit_strategy *const s = strategies_at(all, i);
        json_t *const needs = json_array();
        if ((s->needs & DIMFIT_NEEDS_SCORES) != 0)
            json_array_append_new(needs, json_string("scores"));
        if ((s->needs & DIMFIT_NEEDS_NORMS) != 0)
            json_array_append_new(needs, json_string("norms"));
        if ((s->needs & DIMFIT_NEEDS_SPECTRUM) != 0)
            json_array_append_new(needs, json_string("spectrum"));
        if ((s->needs & DIMFIT_NEEDS_LOOKUPS) != 0)
            json_array_append_new(needs, json_string("lookups"));
        if ((s->needs & DIMFIT_NEEDS_TRIALS) != 0)
            json_array_append_new(needs, json_string("trials"));
        if ((s->needs & DIMFIT_NEEDS_BASES) != 0)
            json_array_append_new(needs, json_string("bases"));
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", s->name, "version",
                                              s->version, "summary", s->summary, "needs", needs));
    }
    for (size_t i = 0; i < strategies_refused(all); i++)
        json_array_append_new(refused, json_string(strategies_refusal(all, i)));
    return json_pack("{s:o, s:o}", "strategies", list, "refused", refused);
}

/* ---- stats, slots: from gathered figures ----------------------------------------------------- */

static struct table_figures slot_total(const struct coordinator *c, const struct op *op,
                                       uint32_t slot) {
    struct table_figures total = {0};
    for (size_t i = 0; i < c->options.shards; i++) {
        const struct slot_figures *const f = shard_figures_find(&op->figures[i], slot);
        if (f != NULL)
            table_figures_add(&total, &f->table);
    }
    return total;
}

static void set_figures(json_t *object, const struct table_figures *f) {
    json_object_set_new(object, "rows", json_integer((json_int_t)f->rows));
    json_object_set_new(object, "value_bytes", json_integer((json_int_t)f->value_bytes));
    json_object_set_new(object, "state_bytes", json_integer((json_int_t)f->state_bytes));
    json_object_set_new(object, "counter_bytes", json_integer((json_int_t)f->counter_bytes));
    json_object_set_new(object, "index_bytes", json_integer((json_int_t)f->index_bytes));
    json_object_set_new(object, "slab_bytes", json_integer((json_int_t)f->slab_bytes));
    json_object_set_new(object, "moving_rows", json_integer((json_int_t)f->moving_rows));
    json_object_set_new(object, "saved_bytes", json_integer((json_int_t)f->saved_bytes));
    json_object_set_new(object, "pending", json_integer((json_int_t)f->pending));
    json_object_set_new(object, "evicted", json_integer((json_int_t)f->evicted));
}

static json_t *latency_json(const struct latency *latency) {
    json_t *const counts = json_array(), *const bounds = json_array();
    for (size_t i = 0; i < LATENCY_BUCKETS; i++) {
        json_array_append_new(counts, json_integer((json_int_t)latency->counts[i]));
        if (i + 1 < LATENCY_BUCKETS)
            json_array_append_new(bounds, json_real(latency_bound(i)));
    }
    const double p99 = latency_quantile(latency, 0.99);
    return json_pack("{s:o, s:o, s:f, s:o}", "bounds", bounds, "counts", counts, "sum",
                     (double)latency->sum_ns * 1e-9, "p99",
                     isfinite(p99) ? json_real(p99) : json_null());
}

static json_t *shard_json(const struct coordinator *c, const struct op *op, size_t shard) {
    const struct shard_figures *const f = &op->figures[shard];
    const struct process_figures *const p = &f->process;
    json_t *const json = json_pack(
        "{s:I, s:s, s:I, s:I, s:I, s:{s:s, s:I, s:I, s:I}}", "id", (json_int_t)shard, "endpoint",
        c->map->endpoints[shard], "pid", (json_int_t)p->pid, "epoch", (json_int_t)f->epoch,
        "resident_bytes", (json_int_t)p->resident_bytes, "jemalloc", "version", p->jemalloc_version,
        "allocated", (json_int_t)p->jemalloc_allocated, "active", (json_int_t)p->jemalloc_active,
        "resident", (json_int_t)p->jemalloc_resident);
    struct table_figures total = {0};
    for (size_t i = 0; i < f->n_slots; i++)
        table_figures_add(&total, &f->slots[i].table);
    set_figures(json, &total);
#define SET_COUNTER(name)                                                                          \
    json_object_set_new(json, #name, json_integer((json_int_t)f->counters.name));
    SHARD_COUNTER_MAP(SET_COUNTER)
#undef SET_COUNTER
    json_object_set_new(json, "pull_seconds", latency_json(&f->service.pull));
    json_object_set_new(json, "push_seconds", latency_json(&f->service.push));
    return json;
}

/* Shards of one process share its memory: count each process once. */
static uint64_t resident_total(const struct coordinator *c, const struct op *op) {
    uint64_t total = 0;
    for (size_t i = 0; i < c->options.shards; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++)
            seen |= op->figures[j].process.pid == op->figures[i].process.pid;
        if (!seen)
            total += op->figures[i].process.resident_bytes;
    }
    return total;
}

static json_t *stats_json(struct coordinator *c, struct op *op) {
    struct table_figures total = {0};
    uint64_t params = 0, linear = 0;
    for (size_t i = 0; i < c->layout->n_slots; i++) {
        const struct layout_slot *const slot = &c->layout->slots[i];
        const struct table_figures f = slot_total(c, op, slot->id);
        table_figures_add(&total, &f);
        *(slot->search ? &params : &linear) += f.value_bytes / sizeof(float);
    }
    json_t *const totals = json_object(), *const shards = json_array();
    set_figures(totals, &total);
    json_object_set_new(totals, "resident_bytes", json_integer((json_int_t)resident_total(c, op)));
    for (size_t i = 0; i < c->options.shards; i++)
        json_array_append_new(shards, shard_json(c, op, i));
    return json_pack("{s:I, s:s, s:I, s:I, s:I, s:o, s:o}", "epoch", (json_int_t)c->layout->epoch,
                     "phase", wire_phase_name(c->search.phase), "layout_bytes",
                     (json_int_t)layout_bytes(c->layout), "params", (json_int_t)params,
                     "params_linear", (json_int_t)linear, "totals", totals, "shards", shards);
}

static void set_retention(json_t *object, const struct retention *r) {
    json_object_set_new(object, "admit", json_integer(r->admit));
    json_object_set_new(object, "expire_days", json_integer(r->expire_days));
    json_object_set_new(object, "expire_shows", json_real((double)r->expire_shows));
    json_object_set_new(object, "decay", json_real((double)r->decay));
    json_object_set_new(object, "clicks", json_boolean(r->clicks));
    json_object_set_new(object, "last_seen", json_boolean(r->last_seen));
}

/* Where its tiers begin and how wide each is, the tail first. */
static void set_tiers(json_t *object, const struct layout_slot *slot) {
    json_t *const tiers = json_array();
    for (uint32_t t = 0; t < slot->n_tiers; t++)
        json_array_append_new(tiers,
                              json_pack("{s:I, s:I}", "shows", (json_int_t)slot->tier_shows[t],
                                        "width", (json_int_t)slot->tier_widths[t]));
    json_object_set_new(object, "tiers", tiers);
}

static json_t *slots_json(struct coordinator *c, struct op *op) {
    json_t *const slots = json_array();
    for (size_t i = 0; i < c->layout->n_slots; i++) {
        const struct layout_slot *const s = &c->layout->slots[i];
        const struct table_figures f = slot_total(c, op, s->id);
        json_t *const slot = json_pack(
            "{s:I, s:s, s:i, s:i, s:I, s:I, s:b, s:s, s:s, s:f, s:I, s:I}", "id", (json_int_t)s->id,
            "name", s->name, "dim", (int)s->dim, "width", (int)s->width, "rows", (json_int_t)f.rows,
            "bytes", (json_int_t)(f.value_bytes + f.state_bytes), "search", s->search, "basis",
            s->axes != NULL ? "axis" : "dense", "optimizer", optimizer_name(s->optimizer.kind),
            "lr", (double)s->optimizer.lr, "pending", (json_int_t)f.pending, "evicted",
            (json_int_t)f.evicted);
        set_retention(slot, &s->retention);
        set_tiers(slot, s);
        json_array_append_new(slots, slot);
    }
    return json_pack("{s:I, s:o}", "epoch", (json_int_t)c->layout->epoch, "slots", slots);
}

static void figures_done(struct coordinator *c, struct op *op) {
    if (op->err != DIMFIT_OK)
        coordinator_answer(c, &op->asker, op->err, &op->detail, NULL, 0);
    else
        admin_answer(c, &op->asker,
                     strcmp(op->argument, "slots") == 0 ? slots_json(c, op) : stats_json(c, op));
}

/* ---- scores: from gathered sums -------------------------------------------------------------- */

static json_t *scores_json(const struct coordinator *c, const struct plan *scores) {
    json_t *const slots = json_array();
    for (size_t i = 0; i < scores->n_slots; i++) {
        const struct plan_slot *const p = &scores->slots[i];
        const struct layout_slot *const slot = layout_find(c->layout, p->slot);
        json_array_append_new(
            slots, json_pack("{s:I, s:s, s:i, s:I, s:o, s:o}", "id", (json_int_t)p->slot, "name",
                             slot == NULL ? "" : slot->name, "tier", (int)p->tier, "rows",
                             (json_int_t)p->rows, "g", report_doubles(p->g, p->before), "s",
                             report_doubles(p->s, p->before)));
    }
    return json_pack("{s:I, s:s, s:s, s:I, s:o}", "epoch", (json_int_t)scores->epoch, "strategy",
                     c->search.id == 0 ? "sseds" : c->search.request.strategy, "estimator",
                     estimator_name(scores->request.estimator), "samples",
                     (json_int_t)scores->samples, "slots", slots);
}

static void scores_done(struct coordinator *c, struct op *op) {
    struct plan *scores = NULL;
    enum estimator estimator;
    base_assert(estimator_parse(op->argument, &estimator));
    dimfit_err err = op->err;
    struct err_detail detail = op->detail;
    if (err == DIMFIT_OK)
        err = plan_scores(c->layout, op->stats, estimator, &scores, &detail);
    if (err == DIMFIT_OK)
        admin_answer(c, &op->asker, scores_json(c, scores));
    else
        coordinator_answer(c, &op->asker, err, &detail, NULL, 0);
    plan_destroy(&scores);
}

/* ---- dispatch -------------------------------------------------------------------------------- */

typedef dimfit_err admin_handler(struct coordinator *c, const struct asker *asker,
                                 const json_t *args, struct err_detail *detail);

static dimfit_err admin_status(struct coordinator *c, const struct asker *asker, const json_t *args,
                               struct err_detail *detail) {
    admin_answer(c, asker, status_json(c));
    return DIMFIT_OK;
}

static dimfit_err admin_strategies(struct coordinator *c, const struct asker *asker,
                                   const json_t *args, struct err_detail *detail) {
    admin_answer(c, asker, strategies_json(c));
    return DIMFIT_OK;
}

static dimfit_err gather(struct coordinator *c, const struct asker *asker, uint32_t mode,
                         const char *argument, op_done *done, struct err_detail *detail) {
    if (!coordinator_answering(c, detail))
        return DIMFIT_ERR_TIMEOUT;
    if (op_count(c) >= OPS_MAX)
        return err_set(detail, DIMFIT_ERR_BUSY, "%d requests wait for the shards already", OPS_MAX);
    const struct wire_header command = {.kind = WIRE_GATHER, .mode = mode};
    struct op *op;
    const dimfit_err err = op_start(c, &command, NULL, 0, done, &op);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory to ask the shards");
    op->asker = *asker;
    snprintf(op->argument, sizeof op->argument, "%s", argument);
    return DIMFIT_OK;
}

static dimfit_err admin_stats(struct coordinator *c, const struct asker *asker, const json_t *args,
                              struct err_detail *detail) {
    return gather(c, asker, GATHER_FIGURES, "stats", figures_done, detail);
}

static dimfit_err admin_slots(struct coordinator *c, const struct asker *asker, const json_t *args,
                              struct err_detail *detail) {
    return gather(c, asker, GATHER_FIGURES, "slots", figures_done, detail);
}

static dimfit_err admin_scores(struct coordinator *c, const struct asker *asker, const json_t *args,
                               struct err_detail *detail) {
    const json_t *const given = json_object_get(args, "estimator");
    struct plan_request defaults;
    plan_request_init(&defaults);
    enum estimator estimator = c->search.id == 0 ? defaults.estimator : c->search.request.estimator;
    if (given != NULL && !json_is_null(given) &&
        !(json_is_string(given) && estimator_parse(json_string_value(given), &estimator)))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "--estimator is one of single step fisher row curvature taylor guarded");
    return gather(c, asker, GATHER_SCORES, estimator_name(estimator), scores_done, detail);
}

static dimfit_err admin_search_status(struct coordinator *c, const struct asker *asker,
                                      const json_t *args, struct err_detail *detail) {
    admin_answer(c, asker, search_status_json(c));
    return DIMFIT_OK;
}

static dimfit_err admin_search_plans(struct coordinator *c, const struct asker *asker,
                                     const json_t *args, struct err_detail *detail) {
    admin_answer(c, asker, plans_json(c));
    return DIMFIT_OK;
}

static dimfit_err admin_search_abort(struct coordinator *c, const struct asker *asker,
                                     const json_t *args, struct err_detail *detail) {
    const dimfit_err err = search_abort(c, detail);
    if (err == DIMFIT_OK)
        admin_answer(c, asker, search_status_json(c));
    return err;
}

static dimfit_err admin_shrink_status(struct coordinator *c, const struct asker *asker,
                                      const json_t *args, struct err_detail *detail) {
    admin_answer(c, asker, shrink_status_json(c));
    return DIMFIT_OK;
}

static dimfit_err admin_shutdown(struct coordinator *c, const struct asker *asker,
                                 const json_t *args, struct err_detail *detail) {
    admin_answer(c, asker, json_object());
    coordinator_stop(c);
    return DIMFIT_OK;
}

static const struct {
    const char *name;
    admin_handler *handler;
    bool audited;
} commands[] = {
    {"status", admin_status, false},
    {"stats", admin_stats, false},
    {"slots", admin_slots, false},
    {"scores", admin_scores, false},
    {"strategies", admin_strategies, false},
    {"search start", search_start, true},
    {"search status", admin_search_status, false},
    {"search plan", search_plan, false},
    {"search plans", admin_search_plans, false},
    {"search apply", search_apply, true},
    {"search rollback", search_rollback, true},
    {"search discard", search_discard, true},
    {"search abort", admin_search_abort, true},
    {"shrink", shrink_start, true},
    {"shrink status", admin_shrink_status, false},
    {"shutdown", admin_shutdown, true},
};

void admin_request(struct coordinator *c, const struct route *from,
                   const struct wire_header *header, const uint8_t *body, size_t len) {
    const struct asker asker = asker_of(from, header);
    struct err_detail detail = {{0}};
    admin_handler *handler = NULL;
    bool audited = false;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, header->name) == 0) {
            handler = commands[i].handler;
            audited = commands[i].audited;
        }
    }
    audit_set_who(c, from, header);
    json_error_t error;
    json_t *const args = len == 0
                             ? json_object()
                             : json_loadb((const char *)body, len, JSON_REJECT_DUPLICATES, &error);
    dimfit_err err;
    if (handler == NULL)
        err = err_set(&detail, DIMFIT_ERR_UNSUPPORTED, "there is no admin command '%s'",
                      header->name);
    else if (!json_is_object(args))
        err = err_set(&detail, DIMFIT_ERR_INVALID, "%s: the arguments are no JSON object",
                      header->name);
    else
        err = handler(c, &asker, args, &detail);
    if (audited)
        audit_command(c, header->name, args, err, &detail);
    json_decref(args);
    if (err != DIMFIT_OK)
        coordinator_answer(c, &asker, err, &detail, NULL, 0);
}
