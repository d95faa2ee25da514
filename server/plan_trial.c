/*
 * The half of planning that asks: trials of units kept, and of other strategies' plans.
 */
#include "server/plan_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { DEPTH_MAX = 1 }; /* a strategy that picks among others may pick one that tries units */

static dimfit_err refuse(const struct plan_work *work, const char *why) {
    return err_set(work->detail, DIMFIT_ERR_PLUGIN, "strategy '%s': %s", work->strategy->name, why);
}

static bool may_try(const struct plan_work *work) {
    return plan_needs(work, DIMFIT_NEEDS_TRIALS) && work->trials != NULL;
}

/* Answer from what is known, or say that it is asked for already; false: it is new. */
static bool look_up(const struct plan_work *work, struct trial_key key,
                    struct dimfit_trial_result *out, int *answer) {
    const struct trial *const trial = trials_find(work->trials, key);
    if (trial == NULL)
        return false;
    *answer = trial->known ? DIMFIT_TRIAL_KNOWN : DIMFIT_TRIAL_ASKED;
    if (trial->known)
        *out = trial->result;
    return true;
}

static dimfit_err ask(const struct plan_work *work, struct trial_key key, uint64_t samples,
                      struct change **change, int *answer) {
    struct trial *trial;
    const dimfit_err err = trials_add(work->trials, key, samples, change, &trial);
    if (err == DIMFIT_ERR_LIMIT)
        return err_set(work->detail, err, "strategy '%s' asks for more than %d trials",
                       work->strategy->name, TRIALS_MAX);
    if (err != DIMFIT_OK)
        return plan_nomem(work);
    *answer = DIMFIT_TRIAL_ASKED;
    return DIMFIT_OK;
}

/* ---- units ----------------------------------------------------------------------------------- */

/* A trial is the same whatever else the search was asked: basis, units kept, samples. */
static dimfit_err units_key(const struct plan_work *work, uint64_t samples, struct trial_key *out) {
    const struct plan *const plan = work->plan;
    struct buf bytes;
    buf_init(&bytes);
    buf_put_u8(&bytes, 'u');
    buf_put_str(&bytes, basis_name(plan->request.basis));
    buf_put_u64(&bytes, samples);
    for (size_t i = 0; i < plan->n_slots; i++) {
        buf_put_u32(&bytes, plan->slots[i].slot);
        buf_put_u32(&bytes, plan->slots[i].tier);
        buf_put_u32(&bytes, plan->slots[i].units);
        buf_put(&bytes, plan->slots[i].keep, plan->slots[i].units);
    }
    const dimfit_err err = buf_status(&bytes);
    if (err == DIMFIT_OK)
        *out = trials_key(bytes.data, bytes.len);
    buf_fini(&bytes);
    return err == DIMFIT_OK ? err : plan_nomem(work);
}

static dimfit_err check_units(const struct plan_work *work, uint8_t *const *keep) {
    const struct plan *const plan = work->plan;
    for (size_t i = 0; i < plan->n_slots; i++) {
        for (uint32_t k = 0; k < plan->slots[i].units; k++) {
            if (keep[i][k] > 1)
                return refuse(work, "a trial keeps units (1) or drops them (0)");
        }
    }
    return DIMFIT_OK;
}

static void set_keep(struct plan_slot *s, uint8_t *keep) {
    s->keep = keep;
    s->after = 0;
    for (uint32_t k = 0; k < s->units; k++)
        s->after += keep[k];
}

/* Known already, or a change to be tried: built as the plan's own would be. */
static dimfit_err try_kept(struct plan_work *work, uint64_t samples,
                           struct dimfit_trial_result *out, int *answer) {
    struct trial_key key;
    struct change *change = NULL;
    dimfit_err err = units_key(work, samples, &key);
    if (err != DIMFIT_OK || look_up(work, key, out, answer))
        return err;
    err = plan_build_change(work, true, &change);
    if (err == DIMFIT_OK)
        err = ask(work, key, samples, &change, answer);
    change_destroy(&change);
    return err;
}

/* The plan is lent the units for as long as it takes, as rows can be stored. */
static dimfit_err try_units(struct plan_work *work, uint8_t *const *keep, uint64_t samples,
                            struct dimfit_trial_result *out, int *answer) {
    struct plan *const plan = work->plan;
    size_t units = 0, at = 0;
    for (size_t i = 0; i < plan->n_slots; i++)
        units += plan->slots[i].units + plan->slots[i].room;
    uint8_t **const own = calloc(plan->n_slots + 1, sizeof *own);
    uint8_t *const lent = calloc(units + 1, sizeof *lent);
    if (own == NULL || lent == NULL) {
        free(own);
        free(lent);
        return plan_nomem(work);
    }
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        own[i] = s->keep;
        memcpy(lent + at, keep[i], s->units);
        s->keep = lent + at;
        at += s->units + s->room;
    }
    plan_take_prefixes(work);
    for (size_t i = 0; i < plan->n_slots; i++)
        set_keep(&plan->slots[i], plan->slots[i].keep);
    const dimfit_err err = try_kept(work, samples, out, answer);
    for (size_t i = 0; i < plan->n_slots; i++)
        set_keep(&plan->slots[i], own[i]);
    free(own);
    free(lent);
    return err;
}

dimfit_err plan_trial(struct plan_work *work, uint8_t *const *keep, uint64_t samples,
                      struct dimfit_trial_result *out, int *answer) {
    if (!may_try(work))
        return refuse(work, "it asks for trials and does not say that it needs any");
    if (samples == 0)
        samples = work->plan->request.trial_samples;
    const dimfit_err err = check_units(work, keep);
    return err == DIMFIT_OK ? try_units(work, keep, samples, out, answer) : err;
}

/* ---- candidates ------------------------------------------------------------------------------ */

static bool set_text(char *out, size_t cap, const char *text) {
    return text == NULL || (size_t)snprintf(out, cap, "%s", text) < cap;
}

/* What the search was asked for, but for what the candidate says. */
static dimfit_err candidate_request(const struct plan_work *work,
                                    const struct dimfit_candidate *candidate,
                                    struct plan_request *out, struct err_detail *detail) {
    *out = work->plan->request;
    out->options[0] = 0;
    if (!set_text(out->strategy, sizeof out->strategy, candidate->strategy) ||
        !set_text(out->options, sizeof out->options, candidate->options))
        return err_set(detail, DIMFIT_ERR_INVALID, "its strategy's name or options are too long");
    if (candidate->basis != NULL && !basis_parse(candidate->basis, &out->basis))
        return err_set(detail, DIMFIT_ERR_INVALID, "there is no basis '%s'", candidate->basis);
    if (out->basis_named && out->basis != work->plan->request.basis)
        return err_set(detail, DIMFIT_ERR_INVALID, "the search is in the %s basis",
                       basis_name(work->plan->request.basis));
    if (candidate->rank != NULL && !rank_parse(candidate->rank, &out->rank))
        return err_set(detail, DIMFIT_ERR_INVALID, "there is no rank '%s'", candidate->rank);
    if (candidate->estimator != NULL && !estimator_parse(candidate->estimator, &out->estimator))
        return err_set(detail, DIMFIT_ERR_INVALID, "there is no estimator '%s'",
                       candidate->estimator);
    return DIMFIT_OK;
}

static dimfit_err candidate_key(const struct plan_work *work, const struct plan_request *r,
                                struct trial_key *out) {
    struct buf bytes;
    buf_init(&bytes);
    buf_put_u8(&bytes, 'c');
    buf_put_str(&bytes, r->strategy);
    buf_put_str(&bytes, basis_name(r->basis));
    buf_put_str(&bytes, rank_name(r->rank));
    buf_put_str(&bytes, estimator_name(r->estimator));
    buf_put_str(&bytes, r->options);
    buf_put_u64(&bytes, r->trial_samples);
    const dimfit_err err = buf_status(&bytes);
    if (err == DIMFIT_OK)
        *out = trials_key(bytes.data, bytes.len);
    buf_fini(&bytes);
    return err == DIMFIT_OK ? err : plan_nomem(work);
}

static struct plan_candidate *new_candidate(struct plan *plan) {
    struct plan_candidate *const all = realloc(plan->candidates,
                                               (plan->n_candidates + 1) * sizeof *all);
    if (all == NULL)
        return NULL;
    plan->candidates = all;
    all[plan->n_candidates] = (struct plan_candidate){0};
    return &all[plan->n_candidates++];
}

static bool loses(const struct change_slot *slot) {
    return change_kept(slot) < slot->from || (slot->n_tiers > 1 && slot->tier_to[0] < slot->from);
}

static dimfit_err copy_loss(const struct change_slot *slot, struct change_slot *out) {
    const uint32_t from = slot->from, to = change_kept(slot);
    const bool dense = slot->keep == NULL;
    uint32_t kept[LAYOUT_TIERS_MAX];
    const dimfit_err err = change_slot_alloc(out, slot->id, from, to, dense);
    if (err != DIMFIT_OK)
        return err;
    for (uint32_t t = 0; t < slot->n_tiers; t++)
        kept[t] = slot->tier_to[t] < to ? slot->tier_to[t] : to;
    change_slot_tiers(out, slot->n_tiers, slot->tier_from, kept);
    if (!dense) {
        memcpy(out->keep, slot->keep, to * sizeof *out->keep);
        return err;
    }
    memcpy(out->T, slot->T, (size_t)from * to * sizeof *out->T);
    memcpy(out->N, slot->N, (size_t)from * to * sizeof *out->N);
    if (slot->shift != NULL)
        memcpy(out->shift, slot->shift, from * sizeof *out->shift);
    return err;
}

/* What a change does to embeddings: directions go. Turning a slot that keeps all of them leaves its
 * embeddings what they are, and so do new directions, where rows are zero. */
static dimfit_err losses_of(const struct change *change, struct change **out) {
    size_t n = 0;
    for (size_t i = 0; i < change->n_slots; i++)
        n += loses(&change->slots[i]);
    struct change *losses = NULL;
    dimfit_err err = change_new(change->from_epoch, change->to_epoch, n, &losses);
    size_t at = 0;
    for (size_t i = 0; i < change->n_slots && err == DIMFIT_OK; i++) {
        if (loses(&change->slots[i]))
            err = copy_loss(&change->slots[i], &losses->slots[at++]);
    }
    if (err == DIMFIT_OK)
        *out = losses;
    else
        change_destroy(&losses);
    return err;
}

/* Plan it, and ask for its trial unless it waits for trials of its own. */
static dimfit_err ask_candidate(const struct plan_work *work, struct plan_candidate *c,
                                struct trial_key key, int *answer) {
    struct plan *plan = NULL;
    struct change *change = NULL;
    dimfit_err err = plan_within(work, &c->request, &plan, &c->why);
    if (err == DIMFIT_ERR_NOMEM)
        return plan_nomem(work);
    if (err != DIMFIT_OK) {
        *answer = DIMFIT_TRIAL_IMPOSSIBLE;
        return DIMFIT_OK;
    }
    *answer = DIMFIT_TRIAL_ASKED;
    if (plan == NULL)
        return DIMFIT_OK;
    err = losses_of(plan->change, &change) == DIMFIT_OK ? DIMFIT_OK : plan_nomem(work);
    if (err == DIMFIT_OK)
        err = ask(work, key, c->request.trial_samples, &change, answer);
    change_destroy(&change);
    plan_destroy(&plan);
    return err;
}

dimfit_err plan_candidate(struct plan_work *work, const struct dimfit_candidate *candidate,
                          struct dimfit_trial_result *out, int *answer) {
    struct trial_key key;
    if (!may_try(work))
        return refuse(work, "it asks for trials and does not say that it needs any");
    if (work->depth == DEPTH_MAX)
        return refuse(work, "it is a candidate itself and may not name any");
    if (candidate->size < sizeof *candidate)
        return refuse(work, "a candidate is shorter than its ABI says");
    struct plan_candidate *const c = new_candidate(work->plan);
    if (c == NULL)
        return plan_nomem(work);
    if (candidate_request(work, candidate, &c->request, &c->why) != DIMFIT_OK) {
        *answer = DIMFIT_TRIAL_IMPOSSIBLE;
        return DIMFIT_OK;
    }
    dimfit_err err = candidate_key(work, &c->request, &key);
    if (err == DIMFIT_OK && !look_up(work, key, &c->result, answer))
        err = ask_candidate(work, c, key, answer);
    c->known = err == DIMFIT_OK && *answer == DIMFIT_TRIAL_KNOWN;
    if (c->known)
        *out = c->result;
    return err;
}

dimfit_err plan_take(struct plan_work *work, size_t i) {
    struct plan *const plan = work->plan;
    if (i >= plan->n_candidates || !plan->candidates[i].known)
        return refuse(work, "it chose a candidate that was not tried");
    plan_destroy(&work->chosen);
    plan->chosen = i;
    const dimfit_err err = plan_within(work, &plan->candidates[i].request, &work->chosen,
                                       work->detail);
    if (err == DIMFIT_OK && work->chosen == NULL)
        return refuse(work, "it chose a candidate whose trials are gone");
    return err;
}
