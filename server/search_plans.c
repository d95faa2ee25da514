/*
 * The plans that are kept: made by searches, shown, discarded.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"
#include "server/report.h"

#include <stdlib.h>

/* ---- durable --------------------------------------------------------------------------------- */

/* A plan that can't be written is there until the coordinator ends. */
static void save(struct coordinator *c, const struct kept_plan *plan) {
    if (c->io.save_plan == NULL)
        return;
    struct err_detail detail = {{0}};
    struct buf buf;
    buf_init(&buf);
    kept_plan_encode(plan, &buf);
    dimfit_err err = buf_status(&buf);
    if (err == DIMFIT_OK)
        err = c->io.save_plan(c->io.self, plan->id, buf.data, buf.len, &detail);
    if (err != DIMFIT_OK)
        log_error("search", "plan %llu would not survive a restart: %s",
                  (unsigned long long)plan->id, detail.text[0] != 0 ? detail.text : err_text(err));
    buf_fini(&buf);
}

void plans_forget(struct coordinator *c, uint64_t id) {
    struct err_detail detail;
    kept_plans_remove(&c->plans, id);
    if (c->io.save_plan != NULL && c->io.save_plan(c->io.self, id, NULL, 0, &detail) != DIMFIT_OK)
        log_error("search", "plan %llu comes back with a restart: %s", (unsigned long long)id,
                  detail.text);
}

static void make_room(struct coordinator *c) {
    const struct kept_plan *const excess = kept_plans_excess(&c->plans);
    if (excess == NULL)
        return;
    log_info("search", "plan %llu goes: %d are kept", (unsigned long long)excess->id,
             KEPT_PLANS_MAX);
    plans_forget(c, excess->id);
}

dimfit_err plans_keep(struct coordinator *c, uint64_t id, struct change **change, json_t *report,
                      struct err_detail *detail) {
    struct kept_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL || report == NULL) {
        free(plan);
        json_decref(report);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to keep the plan");
    }
    plan->id = id;
    plan->change = *change;
    plan->report = report;
    *change = NULL;
    make_room(c);
    save(c, plan);
    kept_plans_add(&c->plans, &plan);
    return DIMFIT_OK;
}

void plans_committed(struct coordinator *c) {
    struct kept_plan *const plan = kept_plans_find(&c->plans, c->undo.search);
    if (plan == NULL)
        return;
    if (c->undo.undone)
        plan->undone = true;
    else if (c->undo.change != NULL)
        plan->applied = c->undo.change->to_epoch;
    save(c, plan);
}

dimfit_err coordinator_restore_plan(struct coordinator *c, const void *bytes, size_t len,
                                    struct err_detail *detail) {
    struct kept_plan *plan = NULL;
    const dimfit_err err = kept_plan_decode(bytes, len, &plan, detail);
    if (err != DIMFIT_OK)
        return err;
    const uint64_t id = plan->id;
    if (c->next_search < id)
        c->next_search = id;
    make_room(c);
    kept_plans_add(&c->plans, &plan);
    if (id == c->undo.search)
        plans_committed(c); /* the coordinator before us may have ended between the two files */
    return DIMFIT_OK;
}

/* ---- shown ----------------------------------------------------------------------------------- */

static bool is_stale(const struct coordinator *c, const struct kept_plan *plan) {
    return plan->change->from_epoch != c->layout->epoch;
}

static const char *state_name(const struct coordinator *c, const struct kept_plan *plan) {
    return plan->undone         ? "rolled back"
           : plan->applied != 0 ? "applied"
           : is_stale(c, plan)  ? "stale"
                                : "ready";
}

static void set_state(const struct coordinator *c, const struct kept_plan *plan, json_t *json) {
    json_object_set_new(json, "plan", json_integer((json_int_t)plan->id));
    json_object_set_new(json, "state", json_string(state_name(c, plan)));
    json_object_set_new(json, "applied_epoch",
                        plan->applied == 0 ? json_null() : json_integer((json_int_t)plan->applied));
}

json_t *plans_json(const struct coordinator *c) {
    static const char *const shown[] = {
        "strategy", "basis",         "estimator",    "count",      "kappa",   "epoch",
        "to_epoch", "params_before", "params_after", "kept_score", "samples",
    };
    json_t *const list = json_array();
    for (size_t i = 0; i < c->plans.n; i++) {
        const struct kept_plan *const plan = c->plans.items[i];
        json_t *const json = json_object();
        set_state(c, plan, json);
        for (size_t k = 0; k < ARRAY_LEN(shown); k++) {
            json_t *const value = json_object_get(plan->report, shown[k]);
            json_object_set(json, shown[k], value);
        }
        json_array_append_new(list, json);
    }
    return json_pack("{s:I, s:o}", "epoch", (json_int_t)c->layout->epoch, "plans", list);
}

json_t *plans_show(const struct coordinator *c, const struct kept_plan *plan) {
    json_t *const json = json_copy(plan->report);
    if (json == NULL)
        return NULL;
    set_state(c, plan, json);
    json_object_set_new(json, "phase",
                        json_string(plan->id == c->search.id ? wire_phase_name(c->search.phase)
                                                             : state_name(c, plan)));
    return json;
}

/* ---- chosen ---------------------------------------------------------------------------------- */

struct kept_plan *plans_default(const struct coordinator *c) {
    return c->search.id != 0 ? kept_plans_find(&c->plans, c->search.id)
                             : kept_plans_last(&c->plans);
}

dimfit_err plans_find(const struct coordinator *c, uint64_t id, struct kept_plan **out,
                      struct err_detail *detail) {
    struct kept_plan *const plan = kept_plans_find(&c->plans, id);
    if (plan == NULL)
        return err_set(detail, DIMFIT_ERR_NOT_FOUND,
                       "there is no plan %llu; `dimfitctl search plans` lists them",
                       (unsigned long long)id);
    *out = plan;
    return DIMFIT_OK;
}

dimfit_err plans_check_ready(const struct coordinator *c, const struct kept_plan *plan,
                             struct err_detail *detail) {
    if (plan->applied != 0)
        return err_set(detail, DIMFIT_ERR_STATE, "plan %llu was applied: it made epoch %llu%s",
                       (unsigned long long)plan->id, (unsigned long long)plan->applied,
                       plan->undone ? ", which was rolled back" : "");
    if (is_stale(c, plan))
        return err_set(detail, DIMFIT_ERR_STALE_EPOCH,
                       "plan %llu is stale: it was made for epoch %llu, the cluster is at %llu; "
                       "search start makes one for that",
                       (unsigned long long)plan->id, (unsigned long long)plan->change->from_epoch,
                       (unsigned long long)c->layout->epoch);
    return DIMFIT_OK;
}

/* ---- discarded ------------------------------------------------------------------------------- */

static dimfit_err discard_plan(struct coordinator *c, const struct asker *asker, uint64_t id,
                               bool compared, struct err_detail *detail) {
    const struct search *const s = &c->search;
    struct kept_plan *plan;
    const dimfit_err err = plans_find(c, id, &plan, detail);
    if (err != DIMFIT_OK)
        return err;
    if (s->phase == PHASE_PREPARING && c->apply.plan == id && !c->apply.undoes)
        return err_set(detail, DIMFIT_ERR_BUSY, "plan %llu is being applied",
                       (unsigned long long)id);
    plans_forget(c, id);
    log_info("search", "plan %llu was discarded", (unsigned long long)id);
    const bool ends = s->phase == PHASE_PLANNED && s->id == id;
    if (ends && compared)
        search_compared(c);
    else if (ends)
        search_fail(c, DIMFIT_ERR_STATE, &(struct err_detail){"its plan was discarded"});
    admin_answer(c, asker, plans_json(c));
    return DIMFIT_OK;
}

static void saved_discarded(struct coordinator *c, struct op *op) {
    if (op->err != DIMFIT_OK)
        coordinator_answer(c, &op->asker, op->err, &op->detail, NULL, 0);
    else
        admin_answer(c, &op->asker, search_status_json(c));
}

/* Not to be rolled back any more, from the state file on; every shard is told each time it is asked
 * for, since one may have missed it. */
static dimfit_err discard_saved(struct coordinator *c, const struct asker *asker,
                                struct err_detail *detail) {
    if (c->search.phase == PHASE_PREPARING)
        return err_set(detail, DIMFIT_ERR_BUSY, "a change is under way");
    if (!coordinator_answering(c, detail))
        return DIMFIT_ERR_TIMEOUT;
    struct undo none = {.search = c->undo.search, .undone = c->undo.undone};
    dimfit_err err = coordinator_save(c, c->layout, &none, detail);
    if (err != DIMFIT_OK)
        return err;
    undo_fini(&c->undo);
    c->undo = none;
    const struct wire_header command = {.kind = WIRE_FORGET, .tag = c->layout->epoch};
    struct op *op;
    err = op_start(c, &command, NULL, 0, saved_discarded, &op);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory to tell the shards; discard again");
    op->asker = *asker;
    return DIMFIT_OK;
}

dimfit_err search_discard(struct coordinator *c, const struct asker *asker, const json_t *args,
                          struct err_detail *detail) {
    json_int_t id = 0;
    int saved = 0, compared = 0;
    json_error_t error;
    if (json_unpack_ex((json_t *)args, &error, 0, "{s?I, s?b, s?b !}", "plan", &id, "saved", &saved,
                       "compared", &compared) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "search discard: %s", error.text);
    if ((id > 0) == (saved != 0))
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "search discard takes --plan ID, or --saved for what the last change saved");
    return saved ? discard_saved(c, asker, detail)
                 : discard_plan(c, asker, (uint64_t)id, compared != 0, detail);
}
