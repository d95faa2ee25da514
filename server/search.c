/*
 * The search life cycle (design 6).
 *
 *               start                scoring over            plan made
 *      idle ------------> scoring -----------------> planning ----------> planned
 *        \                             no scores needed ^                    |
 *         \---------------------------------------------/                    | apply
 *                                                                            v
 *      committed, rolled back <---------------- commit point ----------- preparing
 *
 * One search at a time. Every phase but these two and idle ends in `aborted` by an abort, an error
 * or a time limit. idle, planned, committed, rolled back and aborted are where the next one
 * starts, where a plan that was kept is applied, and where the last commit is rolled back: it goes
 * through preparing too, and ends in rolled back. A dry run goes through preparing and back to
 * where it came from. The commit point is the state file: before it nothing has changed anywhere,
 * after it every shard is told until it has switched (search_apply.c).
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

#include <stdlib.h>

#define FROM_REST [PHASE_SCORING] = true, [PHASE_PLANNING] = true, [PHASE_PREPARING] = true
static const bool allowed[PHASE_COMPARED + 1][PHASE_COMPARED + 1] = {
    [PHASE_IDLE] = {FROM_REST},
    [PHASE_SCORING] = {[PHASE_PLANNING] = true, [PHASE_ABORTED] = true},
    [PHASE_PLANNING] = {[PHASE_PLANNED] = true, [PHASE_ABORTED] = true},
    [PHASE_PLANNED] = {FROM_REST, [PHASE_ABORTED] = true, [PHASE_COMPARED] = true},
    [PHASE_PREPARING] = {[PHASE_COMMITTED] = true,
                         [PHASE_ROLLED_BACK] = true,
                         [PHASE_ABORTED] = true,
                         [PHASE_IDLE] = true, /* this and the next by a dry run */
                         [PHASE_PLANNED] = true},
    [PHASE_COMMITTED] = {FROM_REST},
    [PHASE_ABORTED] = {FROM_REST},
    [PHASE_ROLLED_BACK] = {FROM_REST},
    [PHASE_COMPARED] = {FROM_REST},
};

static int64_t now_of(const struct coordinator *c) {
    return c->io.now_ms(c->io.self);
}

void search_enter(struct coordinator *c, enum wire_phase phase) {
    struct search *const s = &c->search;
    base_assert(allowed[s->phase][phase]);
    log_info("search", "search %llu: %s -> %s", (unsigned long long)s->id,
             wire_phase_name(s->phase), wire_phase_name(phase));
    s->phase = phase;
    s->phase_ms = now_of(c);
    audit_phase(c);
}

double search_seconds_in_phase(const struct coordinator *c) {
    return (double)(now_of(c) - c->search.phase_ms) / 1000;
}

static void answer_plan_askers(struct coordinator *c) {
    struct search *const s = &c->search;
    for (size_t i = 0; i < s->n_plan_askers; i++) {
        if (s->phase == PHASE_ABORTED)
            coordinator_answer(c, &s->plan_askers[i], s->err, &s->detail, NULL, 0);
        else
            admin_answer(c, &s->plan_askers[i], plans_show(c, plans_default(c)));
    }
    s->n_plan_askers = 0;
}

static void ignore_done(struct coordinator *c, struct op *op) {
    if (op->err != DIMFIT_OK)
        log_warn("search", "%s: %s", wire_kind_name(op->command.kind), op->detail.text);
}

void search_broadcast(struct coordinator *c, enum wire_kind kind, uint64_t tag) {
    const struct wire_header command = {.kind = kind, .tag = tag};
    if (op_start(c, &command, NULL, 0, ignore_done, NULL) != DIMFIT_OK)
        log_error("search", "no memory to tell the shards %s", wire_kind_name(kind));
}

static void end_in(struct coordinator *c, enum wire_phase phase) {
    base_assert(!c->apply.dry_run);
    search_enter(c, phase);
    apply_fini(c);
    search_broadcast(c, WIRE_DISCARD, c->layout->epoch + 1);
    search_answer_scorers(c);
    search_trial_fini(c);
    search_trial_answer(c);
    answer_plan_askers(c);
}

void search_fail(struct coordinator *c, dimfit_err err, const struct err_detail *detail) {
    struct search *const s = &c->search;
    s->err = err;
    s->detail = *detail;
    if (s->detail.text[0] == 0)
        err_set(&s->detail, err, "%s", err_text(err));
    log_warn("search", "search %llu aborted: %s", (unsigned long long)s->id, s->detail.text);
    end_in(c, PHASE_ABORTED);
}

void search_compared(struct coordinator *c) {
    end_in(c, PHASE_COMPARED);
}

/* ---- planning -------------------------------------------------------------------------------- */

void plan_job_run(struct plan_job *job) {
    job->err = plan_try(job->layout, job->stats, &job->request, job->strategies, &job->trials,
                        &job->plan, &job->detail);
}

void plan_job_destroy(struct plan_job **job) {
    if (*job == NULL)
        return;
    layout_destroy(&(*job)->layout);
    stats_destroy(&(*job)->stats);
    plan_destroy(&(*job)->plan);
    trials_fini(&(*job)->trials);
    free(*job);
    *job = NULL;
}

static void gathered(struct coordinator *c, struct op *op) {
    struct search *const s = &c->search;
    if (s->phase != PHASE_PLANNING || op->id != s->awaited)
        return;
    if (op->err != DIMFIT_OK) {
        search_fail(c, op->err, &op->detail);
        return;
    }
    struct plan_job *job = calloc(1, sizeof *job);
    dimfit_err err = job == NULL ? DIMFIT_ERR_NOMEM : layout_copy(c->layout, &job->layout);
    if (err != DIMFIT_OK) {
        plan_job_destroy(&job);
        search_fail(c, err, &(struct err_detail){"no memory to plan"});
        return;
    }
    job->search = s->id;
    job->request = s->request;
    job->strategies = c->options.strategies;
    job->stats = op->stats;
    op->stats = NULL;
    search_trial_resume(c, job);
    search_trial_plan(c, job);
}

/* Of the search's strategy: DIMFIT_NEEDS_*. */
static uint32_t needs_of(const struct coordinator *c) {
    const struct dimfit_strategy *const strategy = strategies_find(c->options.strategies,
                                                                   c->search.request.strategy);
    return strategy != NULL ? strategy->needs : 0;
}

static bool tries_bases(const struct plan_request *request, uint32_t needs) {
    return (needs & DIMFIT_NEEDS_BASES) != 0 && !request->basis_named;
}

/* What basis, strategy and new directions are made of, and no more. */
static uint32_t gather_mode(const struct coordinator *c) {
    const struct plan_request *const request = &c->search.request;
    const uint32_t needs = needs_of(c);
    uint32_t mode = GATHER_SCORES;
    const bool mixes = request->grow && request->grow_init == GROW_INIT_LINEAR;
    if (request->basis != BASIS_AXIS || mixes || tries_bases(request, needs) ||
        (needs & DIMFIT_NEEDS_NORMS) != 0)
        mode |= GATHER_MOMENTS;
    if ((needs & DIMFIT_NEEDS_LOOKUPS) != 0)
        mode |= GATHER_LOOKUPS;
    return mode;
}

void search_begin_planning(struct coordinator *c) {
    struct search *const s = &c->search;
    if (s->phase == PHASE_SCORING)
        s->seconds_scoring = search_seconds_in_phase(c);
    search_enter(c, PHASE_PLANNING);
    if (s->plan_only || !s->freeze)
        search_broadcast(c, WIRE_SCORE_STOP, s->id);
    const struct wire_header gather = {.kind = WIRE_GATHER, .mode = gather_mode(c)};
    struct op *op = NULL;
    const dimfit_err err = op_start(c, &gather, NULL, 0, gathered, &op);
    if (err == DIMFIT_OK)
        s->awaited = op->id;
    else
        search_fail(c, err, &(struct err_detail){"no memory to gather the statistics"});
}

void coordinator_planned(struct coordinator *coordinator, struct plan_job **job) {
    struct coordinator *const c = coordinator;
    struct search *const s = &c->search;
    if ((*job)->search != s->id || s->phase != PHASE_PLANNING) {
        plan_job_destroy(job); /* aborted meanwhile */
        return;
    }
    if ((*job)->err != DIMFIT_OK) {
        search_fail(c, (*job)->err, &(*job)->detail);
        plan_job_destroy(job);
        return;
    }
    s->trying.planning = false;
    s->trying.asked = (*job)->trials.n;
    if ((*job)->plan == NULL) {
        search_try(c, job);
        return;
    }
    search_trial_forget(c);
    struct plan *const plan = (*job)->plan;
    json_t *const report = search_plan_report(c, plan);
    struct err_detail detail = {{0}};
    dimfit_err err = plans_keep(c, s->id, &plan->change, report, &detail);
    plan_job_destroy(job);
    if (err != DIMFIT_OK) {
        search_fail(c, err, &detail);
        return;
    }
    s->seconds_planning = search_seconds_in_phase(c);
    search_enter(c, PHASE_PLANNED);
    search_trial_answer(c);
    answer_plan_askers(c);
    if (s->plan_only)
        return;
    err = apply_plan(c, kept_plans_find(&c->plans, s->id), false, NULL, &detail);
    if (err != DIMFIT_OK)
        search_fail(c, err, &detail);
}

/* ---- start, plan, abort ---------------------------------------------------------------------- */

static void score_started(struct coordinator *c, struct op *op) {
    /* By now it may have been aborted, and another one begun that its shards do not score for yet.
     */
    const bool ours = c->search.phase == PHASE_SCORING && op->command.tag == c->search.id;
    if (op->err != DIMFIT_OK) {
        if (ours)
            search_fail(c, op->err, &op->detail);
        coordinator_answer(c, &op->asker, op->err, &op->detail, NULL, 0);
        return;
    }
    if (ours) {
        c->search.scoring = true;
        search_answer_scorers(c);
    }
    admin_answer(c, &op->asker, search_status_json(c));
}

/* Answered when every shard scores: what is pushed from then on counts, and a step counts whole. */
static dimfit_err begin_scoring(struct coordinator *c, const struct asker *asker,
                                struct err_detail *detail) {
    struct search *const s = &c->search;
    s->scorers = calloc(SCORERS_MAX, sizeof *s->scorers);
    if (s->scorers == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to keep track of scorers");
    search_enter(c, PHASE_SCORING);
    s->progress_ms = now_of(c);
    for (size_t i = 0; i < c->options.shards; i++) {
        c->members[i].samples = 0;
        c->members[i].full = false;
    }
    const struct wire_header start = {
        .kind = WIRE_SCORE_START,
        .tag = s->id,
        .step = plan_window(&s->request),
        .mode = (s->moments ? SCORE_WANT_MOMENTS : 0u) |
                (s->curvature ? SCORE_WANT_CURVATURE : 0u) |
                (s->freeze ? SCORE_WANT_FREEZE : SCORE_WANT_LIVE),
    };
    struct op *op = NULL;
    const dimfit_err err = op_start(c, &start, NULL, 0, score_started, &op);
    if (err == DIMFIT_OK)
        op->asker = *asker;
    else
        search_fail(c, err, &(struct err_detail){"no memory to start scoring"});
    return err;
}

dimfit_err search_level(const struct coordinator *c, struct err_detail *detail) {
    if (!coordinator_answering(c, detail))
        return DIMFIT_ERR_TIMEOUT;
    for (size_t i = 0; i < c->options.shards; i++) {
        if (c->members[i].epoch < c->layout->epoch)
            return err_set(detail, DIMFIT_ERR_BUSY, "shard %zu has yet to switch to epoch %llu", i,
                           (unsigned long long)c->layout->epoch);
    }
    return DIMFIT_OK;
}

/* The state file remembers it: no restart gives the number of a plan or an audit line again. */
static dimfit_err take_number(struct coordinator *c, struct err_detail *detail) {
    c->next_search++;
    return coordinator_save(c, c->layout, &c->undo, detail);
}

dimfit_err search_start(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) {
    struct search *const s = &c->search;
    if (s->phase == PHASE_SCORING || s->phase == PHASE_PLANNING || s->phase == PHASE_PREPARING)
        return err_set(detail, DIMFIT_ERR_BUSY, "search %llu is %s; wait for it or abort it first",
                       (unsigned long long)s->id, wire_phase_name(s->phase));
    struct search_request request;
    dimfit_err err = search_request_parse(args, c->options.scoring_timeout_ms, &request, detail);
    if (err == DIMFIT_OK)
        err = plan_basis_check(c->layout, &request.plan, detail);
    if (err != DIMFIT_OK)
        return err;
    const struct dimfit_strategy *const strategy = strategies_find(c->options.strategies,
                                                                   request.plan.strategy);
    if (strategy == NULL)
        return err_set(detail, DIMFIT_ERR_NOT_FOUND,
                       "there is no strategy '%s'; `dimfitctl strategies` lists them",
                       request.plan.strategy);
    err = search_level(c, detail);
    if (err == DIMFIT_OK)
        err = take_number(c, detail);
    if (err != DIMFIT_OK)
        return err;

    const enum wire_phase phase = s->phase;
    const bool bases = tries_bases(&request.plan, strategy->needs);
    search_fini(c);
    *s = (struct search){
        .id = c->next_search,
        .phase = phase,
        .freeze = request.freeze,
        .plan_only = request.plan_only,
        .moments = bases || (request.plan.basis != BASIS_AXIS &&
                             (strategy->needs & DIMFIT_NEEDS_SCORES) != 0),
        .curvature = bases || request.plan.basis == BASIS_KFAC,
        .request = request.plan,
        .wanted = request.samples,
        .timeout_ms = request.timeout_ms,
    };
    snprintf(s->who, sizeof s->who, "%s", c->who);
    log_info("search", "search %llu: kappa %g, %s, %s, %s basis, %s%s", (unsigned long long)s->id,
             s->request.kappa, request.plan.strategy, estimator_name(s->request.estimator),
             basis_name(s->request.basis), s->freeze ? "freeze" : "live",
             s->plan_only ? ", plan only" : "");
    if ((strategy->needs & DIMFIT_NEEDS_SCORES) != 0 || s->curvature)
        return begin_scoring(c, asker, detail);
    s->freeze = false;
    search_begin_planning(c);
    admin_answer(c, asker, search_status_json(c));
    return DIMFIT_OK;
}

/* The plan to come: scoring ends for it. */
static dimfit_err await_plan(struct coordinator *c, const struct asker *asker,
                             struct err_detail *detail) {
    struct search *const s = &c->search;
    if (s->n_plan_askers == ARRAY_LEN(s->plan_askers))
        return err_set(detail, DIMFIT_ERR_BUSY, "too many are waiting for this plan");
    s->plan_askers[s->n_plan_askers++] = *asker;
    if (s->phase == PHASE_SCORING) {
        s->plan_only = true; /* it was asked what would change, and is told before it does */
        search_begin_planning(c);
    }
    return DIMFIT_OK;
}

dimfit_err search_plan(struct coordinator *c, const struct asker *asker, const json_t *args,
                       struct err_detail *detail) {
    const enum wire_phase phase = c->search.phase;
    json_int_t id = 0;
    json_error_t error;
    if (json_unpack_ex((json_t *)args, &error, 0, "{s?I !}", "plan", &id) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "search plan: %s", error.text);
    if (id == 0 && (phase == PHASE_SCORING || phase == PHASE_PLANNING))
        return await_plan(c, asker, detail);
    struct kept_plan *plan = plans_default(c);
    if (id != 0) {
        const dimfit_err err = plans_find(c, (uint64_t)id, &plan, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    if (plan == NULL)
        return err_set(detail, DIMFIT_ERR_STATE, "no search has made a plan; search start does");
    admin_answer(c, asker, plans_show(c, plan));
    return DIMFIT_OK;
}

dimfit_err search_abort(struct coordinator *c, struct err_detail *detail) {
    const struct search *const s = &c->search;
    const bool running = s->phase == PHASE_SCORING || s->phase == PHASE_PLANNING ||
                         s->phase == PHASE_PLANNED || s->phase == PHASE_PREPARING;
    if (!running || apply_past_commit(c))
        return err_set(detail, DIMFIT_ERR_STATE, "there is no search to abort (it is %s)",
                       wire_phase_name(s->phase));
    const struct err_detail why = {"aborted on request"};
    if (c->apply.dry_run) {
        apply_end_dry_run(c, DIMFIT_ERR_STATE, &why);
        return DIMFIT_OK;
    }
    if (s->phase == PHASE_PLANNED)
        plans_forget(c, s->id);
    search_fail(c, DIMFIT_ERR_STATE, &why);
    return DIMFIT_OK;
}

bool search_wants_curvature(const struct search *s) {
    return s->phase == PHASE_SCORING && s->curvature;
}

void search_fini(struct coordinator *c) {
    search_trial_fini(c);
    free(c->search.scorers);
    c->search.scorers = NULL;
}
