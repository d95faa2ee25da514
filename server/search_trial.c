/*
 * The trials of a search: handed out to whichever workers ask, one by one, until all that the
 * strategy asked for are known; then it has its next turn (design 2.6).
 *
 *      planner: plan_try() ---- asks for trials ----> workers: TRIAL_NEXT, until all are known
 *          ^   |                                                  |
 *          |   '---- a plan: search.c goes on                     |
 *          '------------------------------------------------------'
 *
 * The search stays in `planning`. A trial that a worker took and did not report within a time limit
 * is handed out again; whoever reports first is heard.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

#include <math.h>
#include <stdlib.h>

enum {
    HOLD_MS = 1000,      /* a worker that waits for a trial is told to come again */
    PLANNER_MS = 600000, /* for a strategy's turn */
    GIVEN_SHARE = 4,     /* a trial is out for this part of the search's time limit */
    KEEP_MS = 1000,      /* between two times that trials are written */
    KEPT_SECONDS = 3600, /* older ones tell nothing of a model that was trained since */
};

static int64_t now_of(const struct coordinator *c) {
    return c->io.now_ms(c->io.self);
}

/* Until all are known. */
static struct trials *pending(const struct coordinator *c) {
    struct plan_job *const job = c->search.trying.job;
    return job == NULL ? NULL : &job->trials;
}

/* ---- kept ------------------------------------------------------------------------------------ */

/* The same question put to the same layout. */
static dimfit_err question(const struct plan_job *job, struct trial_key *out) {
    const struct plan_request *const r = &job->request;
    struct buf bytes;
    buf_init(&bytes);
    buf_put_u64(&bytes, job->layout->epoch);
    buf_put_f64(&bytes, r->kappa);
    buf_put_str(&bytes, r->strategy);
    buf_put_str(&bytes, r->options);
    buf_put_str(&bytes, estimator_name(r->estimator));
    buf_put_str(&bytes, basis_name(r->basis));
    buf_put_str(&bytes, count_name(r->count));
    buf_put_str(&bytes, rank_name(r->rank));
    buf_put_u32(&bytes, r->min_dim);
    buf_put_u64(&bytes, r->seed);
    buf_put_u64(&bytes, r->trial_samples);
    const dimfit_err err = buf_status(&bytes);
    if (err == DIMFIT_OK)
        *out = trials_key(bytes.data, bytes.len);
    buf_fini(&bytes);
    return err;
}

void search_trial_resume(struct coordinator *c, struct plan_job *job) {
    struct trying *const t = &c->search.trying;
    struct trial_key about;
    struct err_detail detail = {{0}};
    struct buf bytes;
    buf_init(&bytes);
    if (c->io.kept_trials != NULL && question(job, &about) == DIMFIT_OK) {
        dimfit_err err = c->io.kept_trials(c->io.self, &bytes, &detail);
        if (err == DIMFIT_OK)
            err = trials_decode(&job->trials, bytes.data, bytes.len, about,
                                c->io.wall_s(c->io.self), KEPT_SECONDS);
        if (err != DIMFIT_OK && err != DIMFIT_ERR_NOT_FOUND)
            log_warn("search", "the trials of an interrupted search are of no use: %s",
                     detail.text[0] != 0 ? detail.text : err_text(err));
    }
    buf_fini(&bytes);
    t->kept = job->trials.n_known;
    if (t->kept > 0)
        log_info("search", "search %llu goes on from %zu trials of the one that was interrupted",
                 (unsigned long long)c->search.id, t->kept);
}

static void keep(struct coordinator *c, int64_t now) {
    struct trying *const t = &c->search.trying;
    const struct trials *const trials = pending(c);
    struct trial_key about;
    struct err_detail detail = {{0}};
    struct buf bytes;
    if (c->io.keep_trials == NULL || !t->dirty || now - t->keep_ms < KEEP_MS)
        return;
    t->dirty = false;
    t->keep_ms = now;
    buf_init(&bytes);
    dimfit_err err = question(t->job, &about);
    if (err == DIMFIT_OK) {
        trials_encode(trials, about, c->io.wall_s(c->io.self), &bytes);
        err = buf_status(&bytes);
    }
    if (err == DIMFIT_OK)
        err = c->io.keep_trials(c->io.self, bytes.data, bytes.len, &detail);
    if (err != DIMFIT_OK)
        log_warn("search", "the trials done are not kept: %s",
                 detail.text[0] != 0 ? detail.text : err_text(err));
    buf_fini(&bytes);
}

void search_trial_forget(struct coordinator *c) {
    struct err_detail detail = {{0}};
    if (c->io.keep_trials != NULL && c->io.keep_trials(c->io.self, NULL, 0, &detail) != DIMFIT_OK)
        log_warn("search", "trials that are of no more use stay: %s", detail.text);
}

/* ---- the planner's turns --------------------------------------------------------------------- */

void search_trial_plan(struct coordinator *c, struct plan_job *job) {
    c->search.trying.planner_ms = now_of(c);
    c->search.trying.planning = true;
    c->io.plan(c->io.self, job);
}

static void next_turn(struct coordinator *c) {
    struct trying *const t = &c->search.trying;
    struct plan_job *const job = t->job;
    t->job = NULL;
    search_trial_plan(c, job);
}

void search_try(struct coordinator *c, struct plan_job **job) {
    struct trying *const t = &c->search.trying;
    const int64_t now = now_of(c);
    base_assert(t->job == NULL && (*job)->trials.n_known < (*job)->trials.n);
    t->job = *job;
    *job = NULL;
    t->next = 0;
    t->progress_ms = now;
    if (!t->begun)
        t->started_ms = now;
    t->begun = true;
    log_info("search", "search %llu: %zu trials, %zu of them known",
             (unsigned long long)c->search.id, t->job->trials.n, t->job->trials.n_known);
    search_trial_answer(c);
}

/* ---- handing out ----------------------------------------------------------------------------- */

static int64_t given_limit_ms(const struct search *s) {
    return s->timeout_ms / GIVEN_SHARE;
}

/* One that this worker has already (its answer was lost), one that nobody has, or one that somebody
 * has had for too long. NULL: none now. */
static struct trial *pick(struct coordinator *c, uint64_t worker, int64_t now) {
    struct trying *const t = &c->search.trying;
    struct trials *const trials = pending(c);
    struct trial *late = NULL;
    for (size_t i = 0; i < t->next; i++) {
        struct trial *const trial = &trials->all[i];
        if (trial->known)
            continue;
        if (trial->worker == worker)
            return trial;
        if (late == NULL && now - trial->given_ms >= given_limit_ms(&c->search))
            late = trial;
    }
    while (t->next < trials->n && trials->all[t->next].known)
        t->next++;
    return t->next < trials->n ? &trials->all[t->next++] : late;
}

static bool may_come(const struct coordinator *c) {
    return c->search.phase == PHASE_SCORING || c->search.phase == PHASE_PLANNING;
}

static void say_none(struct coordinator *c, const struct asker *asker) {
    struct wire_header reply = {.mode = may_come(c) ? TRIAL_LATER : TRIAL_OVER,
                                .tag = c->search.id};
    coordinator_reply(c, asker, &reply, NULL, 0);
}

/* False: there is none to give. */
static bool give(struct coordinator *c, const struct asker *asker, uint64_t worker) {
    const int64_t now = now_of(c);
    struct trial *const trial = pending(c) == NULL ? NULL : pick(c, worker, now);
    if (trial == NULL)
        return false;
    struct buf body;
    buf_init(&body);
    change_encode(trial->change, &body);
    if (buf_status(&body) == DIMFIT_OK) {
        struct wire_header reply = {
            .tag = c->search.id,
            .step = (uint64_t)(trial - pending(c)->all) + 1,
            .samples = trial->samples,
        };
        trial->worker = worker;
        trial->given_ms = now;
        coordinator_reply(c, asker, &reply, body.data, body.len);
    } else {
        const struct err_detail detail = {"no memory to hand out a trial"};
        coordinator_answer(c, asker, DIMFIT_ERR_NOMEM, &detail, NULL, 0);
    }
    buf_fini(&body);
    return true;
}

void search_trial_answer(struct coordinator *c) {
    struct trying *const t = &c->search.trying;
    size_t left = 0;
    for (size_t i = 0; i < t->n_waiting; i++) {
        struct trial_asker *const w = &t->waiting[i];
        if (!may_come(c))
            say_none(c, &w->asker);
        else if (!give(c, &w->asker, w->worker))
            t->waiting[left++] = *w;
    }
    t->n_waiting = left;
}

/* Who has waited for long enough is told to come again. */
static void send_away(struct coordinator *c, int64_t now) {
    struct trying *const t = &c->search.trying;
    size_t left = 0;
    for (size_t i = 0; i < t->n_waiting; i++) {
        if (now - t->waiting[i].since_ms >= HOLD_MS)
            say_none(c, &t->waiting[i].asker);
        else
            t->waiting[left++] = t->waiting[i];
    }
    t->n_waiting = left;
}

/* ---- reports --------------------------------------------------------------------------------- */

static dimfit_err take(struct coordinator *c, const struct wire_header *header, const uint8_t *body,
                       size_t len, struct err_detail *detail) {
    struct trying *const t = &c->search.trying;
    struct trials *const trials = pending(c);
    struct trial_figures figures;
    if (header->step == 0)
        return DIMFIT_OK;
    const dimfit_err err = trial_decode(body, len, &figures, detail);
    if (err != DIMFIT_OK)
        return err;
    if (header->samples == 0)
        return err_set(detail, DIMFIT_ERR_INVALID,
                       "trial %llu was evaluated on no samples; it needs a validation part",
                       (unsigned long long)header->step);
    /* Of a search before this one, or told again. */
    if (trials == NULL || header->tag != c->search.id || c->search.phase != PHASE_PLANNING)
        return DIMFIT_OK;
    if (header->step > t->next)
        return err_set(detail, DIMFIT_ERR_INVALID, "trial %llu was not handed out",
                       (unsigned long long)header->step);
    struct trial *const trial = &trials->all[header->step - 1];
    if (trial->known)
        return DIMFIT_OK;
    trials_answer(trials, trial, &figures, header->samples);
    t->dirty = true;
    t->progress_ms = now_of(c);
    return DIMFIT_OK;
}

void search_trial_next(struct coordinator *c, const struct route *from,
                       const struct wire_header *header, const uint8_t *body, size_t len) {
    struct trying *const t = &c->search.trying;
    const struct asker asker = asker_of(from, header);
    struct err_detail detail = {{0}};
    const dimfit_err err = take(c, header, body, len, &detail);
    if (err != DIMFIT_OK) {
        coordinator_answer(c, &asker, err, &detail, NULL, 0);
        return;
    }
    if (pending(c) != NULL && pending(c)->n_known == pending(c)->n)
        next_turn(c);
    if (may_come(c) && give(c, &asker, header->client))
        return;
    if (!may_come(c) || (header->mode & TRIAL_WAIT) == 0) {
        say_none(c, &asker);
        return;
    }
    size_t at = 0;
    while (at < t->n_waiting && t->waiting[at].worker != header->client)
        at++;
    if (at == ARRAY_LEN(t->waiting)) {
        say_none(c, &asker);
        return;
    }
    t->waiting[at] = (struct trial_asker){asker, header->client, now_of(c)};
    t->n_waiting += at == t->n_waiting;
}

/* ---- time ------------------------------------------------------------------------------------ */

void search_trial_tick(struct coordinator *c, int64_t now) {
    struct search *const s = &c->search;
    struct trying *const t = &s->trying;
    struct err_detail detail;
    send_away(c, now);
    if (s->phase != PHASE_PLANNING)
        return;
    if (t->planning && now - t->planner_ms >= PLANNER_MS) {
        err_set(&detail, DIMFIT_ERR_TIMEOUT,
                "strategy '%s' has been planning for %d s; does its plugin loop?",
                s->request.strategy, PLANNER_MS / 1000);
        search_fail(c, DIMFIT_ERR_TIMEOUT, &detail);
        return;
    }
    if (t->job == NULL)
        return;
    keep(c, now);
    search_trial_answer(c); /* of those that were lost */
    if (now - t->progress_ms >= s->timeout_ms) {
        err_set(&detail, DIMFIT_ERR_TIMEOUT,
                "no worker evaluated a trial within %.0f s; strategy '%s' needs some that do "
                "(dimfit-train does, with a validation part)",
                (double)s->timeout_ms / 1000, s->request.strategy);
        search_fail(c, DIMFIT_ERR_TIMEOUT, &detail);
    }
}

void search_trial_fini(struct coordinator *c) {
    plan_job_destroy(&c->search.trying.job);
}

/* ---- shown ----------------------------------------------------------------------------------- */

json_t *search_trial_json(const struct coordinator *c) {
    const struct trying *const t = &c->search.trying;
    const struct trials *const trials = pending(c);
    if (!t->begun)
        return json_null();
    const size_t asked = trials != NULL ? trials->n : t->asked;
    const size_t done = trials != NULL ? trials->n_known : t->asked;
    const size_t here = done - t->kept;
    const double seconds = (double)(now_of(c) - t->started_ms) / 1000;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:o}", "asked", (json_int_t)asked, "done", (json_int_t)done, "kept",
        (json_int_t)t->kept, "samples", (json_int_t)c->search.request.trial_samples, "seconds_left",
        here == 0 ? json_null() : json_real(seconds / (double)here * (double)(asked - done)));
}

static json_t *number_or_null(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

json_t *search_candidates_json(const struct plan *plan) {
    json_t *const all = json_array();
    for (size_t i = 0; i < plan->n_candidates; i++) {
        const struct plan_candidate *const p = &plan->candidates[i];
        json_t *const one = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "strategy",
                                      p->request.strategy, "basis", basis_name(p->request.basis),
                                      "estimator", estimator_name(p->request.estimator), "rank",
                                      rank_name(p->request.rank), "options", p->request.options,
                                      "chosen", (int)(i == plan->chosen));
        const struct dimfit_trial_result *const r = &p->result;
        json_object_set_new(one, "loss", p->known ? json_real(r->loss) : json_null());
        json_object_set_new(one, "loss_added",
                            p->known ? json_real(r->loss - r->whole_loss) : json_null());
        json_object_set_new(one, "error", p->known ? json_real(r->error) : json_null());
        json_object_set_new(one, "auc", p->known ? number_or_null(r->auc) : json_null());
        json_object_set_new(one, "samples",
                            p->known ? json_integer((json_int_t)r->samples) : json_null());
        json_object_set_new(one, "why",
                            p->why.text[0] != 0 ? json_string(p->why.text) : json_null());
        json_array_append_new(all, one);
    }
    return all;
}
