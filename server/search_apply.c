/*
 * A change of the layout put into force: a plan's, or one that takes the last commit back.
 *
 * PREPARE goes to every shard, again and again while rows of the change before still move there;
 * when all have said yes, the state file is replaced, and from then on there is no way back: every
 * shard is told to commit until it has. A dry run ends with the shards' answers.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

#include <stdlib.h>

enum { BUSY_REPEAT_MS = 200 };

void apply_fini(struct coordinator *c) {
    change_destroy(&c->apply.change);
    layout_destroy(&c->apply.layout);
    c->apply = (struct apply){0};
}

bool apply_past_commit(const struct coordinator *c) {
    return c->search.phase == PHASE_PREPARING && c->apply.layout == NULL;
}

bool apply_waits(const struct coordinator *c) {
    return c->search.phase == PHASE_PREPARING && c->apply.repeat_ms != 0;
}

void search_committed(struct coordinator *c) {
    struct search *const s = &c->search;
    if (!apply_past_commit(c))
        return;
    s->seconds_apply = search_seconds_in_phase(c);
    s->err = DIMFIT_OK;
    search_enter(c, c->apply.undoes ? PHASE_ROLLED_BACK : PHASE_COMMITTED);
    apply_fini(c);
}

void search_commit_delayed(struct coordinator *c, dimfit_err err, const struct err_detail *detail) {
    if (!apply_past_commit(c))
        return;
    c->search.err = err;
    c->search.detail = *detail;
}

/* The commit point. */
static dimfit_err commit(struct coordinator *c, struct err_detail *detail) {
    struct apply *const a = &c->apply;
    struct undo undo = {.search = a->plan, .undone = a->undoes};
    if (!a->undoes) {
        undo.change = a->change;
        undo.before = c->layout;
    }
    const dimfit_err err = coordinator_save(c, a->layout, &undo, detail);
    if (err != DIMFIT_OK)
        return err;
    if (a->undoes)
        layout_destroy(&c->layout);
    else
        a->change = NULL;
    c->layout = a->layout;
    a->layout = NULL;
    undo_fini(&c->undo);
    c->undo = undo;
    plans_committed(c);
    log_info("search", "search %llu: epoch %llu is in force%s", (unsigned long long)a->plan,
             (unsigned long long)c->layout->epoch, a->undoes ? ", the layout before it again" : "");
    return DIMFIT_OK;
}

static json_t *dry_run_json(const struct coordinator *c) {
    const struct apply *const a = &c->apply;
    json_t *const slots = json_array();
    for (size_t i = 0; i < a->change->n_slots; i++) {
        const struct change_slot *const slot = &a->change->slots[i];
        const struct layout_slot *const there = layout_find(c->layout, slot->id);
        json_array_append_new(slots, json_pack("{s:I, s:s, s:i, s:i}", "id", (json_int_t)slot->id,
                                               "name", there->name, "before",
                                               (int)change_width_before(a->change, slot), "after",
                                               (int)change_width_after(a->change, slot)));
    }
    return json_pack("{s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "dry_run", 1, "step",
                     a->undoes ? "rollback" : "apply", "search", (json_int_t)a->plan, "epoch",
                     (json_int_t)c->layout->epoch, "to_epoch", (json_int_t)a->layout->epoch,
                     "shards", (json_int_t)c->options.shards, "layout_bytes",
                     (json_int_t)layout_bytes(a->layout), "slots", slots);
}

void apply_end_dry_run(struct coordinator *c, dimfit_err err, const struct err_detail *detail) {
    search_broadcast(c, WIRE_DISCARD, c->apply.layout->epoch);
    search_enter(c, c->apply.back);
    audit_dry_run(c, err, detail);
    if (err == DIMFIT_OK)
        admin_answer(c, &c->apply.asker, dry_run_json(c));
    else
        coordinator_answer(c, &c->apply.asker, err, detail, NULL, 0);
    apply_fini(c);
}

static void give_up_waiting(struct coordinator *c, const struct err_detail *why) {
    struct err_detail detail;
    err_set(&detail, DIMFIT_ERR_TIMEOUT,
            "rows of the last change still moved after %.0f s; apply again later (%.200s)",
            (double)c->search.timeout_ms / 1000, why->text);
    search_fail(c, DIMFIT_ERR_TIMEOUT, &detail);
}

static void prepared(struct coordinator *c, struct op *op) {
    struct apply *const a = &c->apply;
    if (c->search.phase != PHASE_PREPARING || op->id != a->awaited)
        return;
    if (a->dry_run) {
        apply_end_dry_run(c, op->err, &op->detail);
        return;
    }
    if (op->err == DIMFIT_ERR_BUSY) {
        const int64_t now = c->io.now_ms(c->io.self);
        if (now - c->search.phase_ms >= c->search.timeout_ms)
            give_up_waiting(c, &op->detail);
        else
            a->repeat_ms = now + BUSY_REPEAT_MS;
        return;
    }
    struct err_detail detail = op->detail;
    const dimfit_err err = op->err == DIMFIT_OK ? commit(c, &detail) : op->err;
    if (err != DIMFIT_OK)
        search_fail(c, err, &detail);
    else
        catch_up_commit(c);
}

/* length of the change, the change, the layout that it makes */
static dimfit_err send_prepare(struct coordinator *c) {
    struct apply *const a = &c->apply;
    struct buf change, body;
    buf_init(&change);
    buf_init(&body);
    change_encode(a->change, &change);
    buf_put_part(&body, &change);
    layout_encode(a->layout, &body);
    const struct wire_header prepare = {.kind = WIRE_PREPARE, .tag = a->layout->epoch};
    struct op *op = NULL;
    dimfit_err err = buf_status(&body);
    if (err == DIMFIT_OK)
        err = op_start(c, &prepare, body.data, body.len, prepared, &op);
    if (err == DIMFIT_OK)
        a->awaited = op->id;
    a->repeat_ms = 0;
    buf_fini(&change);
    buf_fini(&body);
    return err;
}

void apply_tick(struct coordinator *c, int64_t now) {
    if (!apply_waits(c) || now < c->apply.repeat_ms)
        return;
    const dimfit_err err = send_prepare(c);
    if (err != DIMFIT_OK)
        search_fail(c, err, &(struct err_detail){"no memory to prepare the change"});
}

/* ---- begun by an admin ----------------------------------------------------------------------- */

/* The search that is shown is from now on the one that this plan came from. */
static void become(struct coordinator *c, uint64_t id) {
    struct search *const s = &c->search;
    const struct kept_plan *const plan = kept_plans_find(&c->plans, id);
    if (s->id != id) {
        const enum wire_phase phase = s->phase;
        search_fini(c);
        *s = (struct search){.id = id, .phase = phase, .timeout_ms = c->options.scoring_timeout_ms};
        plan_request_init(&s->request);
        struct search_request request;
        if (plan != NULL && search_request_parse(json_object_get(plan->report, "request"),
                                                 s->timeout_ms, &request, NULL) == DIMFIT_OK)
            s->request = request.plan;
    }
    s->plan_only = false;
    s->err = DIMFIT_OK;
    snprintf(s->who, sizeof s->who, "%s", c->who);
}

/* Takes change. The slots added since it was made are carried along: it names slots by id. */
static dimfit_err begin(struct coordinator *c, const struct apply *apply,
                        const struct layout *before, struct err_detail *detail) {
    struct apply a = *apply;
    dimfit_err err = c->adding > 0 || c->uneven
                         ? err_set(detail, DIMFIT_ERR_BUSY, "slots are being added; apply again")
                         : search_level(c, detail);
    if (err == DIMFIT_OK)
        err = change_apply(a.change, c->layout, before, &a.layout, detail);
    if (err != DIMFIT_OK) {
        change_destroy(&a.change);
        return err;
    }
    a.back = c->search.phase;
    snprintf(a.who, sizeof a.who, "%s", c->who);
    if (!a.dry_run)
        become(c, a.plan);
    c->apply = a;
    search_enter(c, PHASE_PREPARING);
    err = send_prepare(c);
    if (err != DIMFIT_OK && a.dry_run)
        apply_end_dry_run(c, err, &(struct err_detail){"no memory to prepare the change"});
    else if (err != DIMFIT_OK)
        search_fail(c, err, &(struct err_detail){"no memory to prepare the change"});
    return DIMFIT_OK;
}

static dimfit_err check_idle(const struct coordinator *c, struct err_detail *detail) {
    const enum wire_phase phase = c->search.phase;
    if (phase != PHASE_SCORING && phase != PHASE_PLANNING && phase != PHASE_PREPARING)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_BUSY, "search %llu is %s; wait for it or abort it first",
                   (unsigned long long)c->search.id, wire_phase_name(phase));
}

dimfit_err apply_plan(struct coordinator *c, const struct kept_plan *plan, bool dry_run,
                      const struct asker *asker, struct err_detail *detail) {
    struct apply apply = {.plan = plan->id, .dry_run = dry_run};
    if (asker != NULL)
        apply.asker = *asker;
    dimfit_err err = plans_check_ready(c, plan, detail);
    if (err == DIMFIT_OK && (err = change_copy(plan->change, &apply.change)) != DIMFIT_OK)
        err_set(detail, err, "no memory for the change");
    return err == DIMFIT_OK ? begin(c, &apply, NULL, detail) : err;
}

static void answer_unless_dry(struct coordinator *c, const struct asker *asker, bool dry_run) {
    if (!dry_run)
        admin_answer(c, asker, search_status_json(c));
}

dimfit_err search_apply(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) {
    json_int_t id = 0;
    int dry_run = 0;
    json_error_t error;
    if (json_unpack_ex((json_t *)args, &error, 0, "{s?I, s?b !}", "plan", &id, "dry_run",
                       &dry_run) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "search apply: %s", error.text);
    if (c->search.phase == PHASE_SCORING && id == 0 && !dry_run) {
        c->search.plan_only = false;
        search_begin_planning(c);
        answer_unless_dry(c, asker, false);
        return DIMFIT_OK;
    }
    dimfit_err err = check_idle(c, detail);
    struct kept_plan *plan = plans_default(c);
    if (err == DIMFIT_OK && id != 0)
        err = plans_find(c, (uint64_t)id, &plan, detail);
    if (err == DIMFIT_OK && plan == NULL)
        err = err_set(
            detail, DIMFIT_ERR_STATE,
            "there is no plan to apply (the search is %s); search start makes one, --plan ID takes "
            "one that was kept",
            wire_phase_name(c->search.phase));
    if (err == DIMFIT_OK)
        err = apply_plan(c, plan, dry_run != 0, asker, detail);
    if (err == DIMFIT_OK)
        answer_unless_dry(c, asker, dry_run != 0);
    return err;
}

dimfit_err search_rollback(struct coordinator *c, const struct asker *asker, const json_t *args,
                           struct err_detail *detail) {
    int dry_run = 0;
    json_error_t error;
    if (json_unpack_ex((json_t *)args, &error, 0, "{s?b !}", "dry_run", &dry_run) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "search rollback: %s", error.text);
    dimfit_err err = check_idle(c, detail);
    if (err == DIMFIT_OK && c->undo.change == NULL)
        err = err_set(detail, DIMFIT_ERR_STATE,
                      c->undo.undone ? "the last commit was rolled back; one can be taken back once"
                      : c->undo.search != 0
                          ? "what the last commit saved was discarded: it can't be rolled back"
                          : "nothing was committed that could be rolled back");
    struct apply apply = {
        .plan = c->undo.search, .undoes = true, .dry_run = dry_run != 0, .asker = *asker};
    if (err == DIMFIT_OK &&
        (err = change_undo(c->undo.change, c->layout->epoch + 1, &apply.change)) != DIMFIT_OK)
        err_set(detail, err, "no memory for the change");
    if (err == DIMFIT_OK)
        err = begin(c, &apply, c->undo.before, detail);
    if (err == DIMFIT_OK)
        answer_unless_dry(c, asker, dry_run != 0);
    return err;
}
