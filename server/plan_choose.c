#include "server/plan_internal.h"

#include "server/budget.h"

#include <stdlib.h>

enum { OPTIONS_MAX = sizeof((struct plan_request *)0)->options };

/* What the host's services work on while a plugin has its turn. */
struct turn {
    struct plan_work *work;
    struct budget budget;
    bool asked[OPTIONS_MAX]; /* the option that starts at this byte was read */
    bool asked_trials;       /* some trial is not known yet */
    dimfit_err err;
};

static dimfit_err plugin_error(const struct turn *turn, const char *what) {
    return err_set(turn->work->detail, DIMFIT_ERR_PLUGIN, "strategy '%s': %.300s",
                   turn->work->strategy->name, what);
}

/* What the units were ranked by is shown with the plan. */
static dimfit_err note_priorities(const struct turn *turn, const double *const *priority) {
    const struct plan *const plan = turn->work->plan;
    for (size_t i = 0; i < plan->n_slots; i++) {
        struct plan_slot *const s = &plan->slots[i];
        if (s->priority == NULL)
            s->priority = calloc((size_t)s->units + 1, sizeof *s->priority);
        if (s->priority == NULL)
            return DIMFIT_ERR_NOMEM;
        memcpy(s->priority, priority[i], s->units * sizeof *s->priority);
    }
    return DIMFIT_OK;
}

static int host_select(void *self, const double *const *priority, uint8_t *const *keep) {
    struct turn *const turn = self;
    turn->err = budget_select(&turn->budget, priority, keep);
    if (turn->err == DIMFIT_OK)
        turn->err = note_priorities(turn, priority);
    if (turn->err == DIMFIT_ERR_NOMEM)
        plan_nomem(turn->work);
    if (turn->err == DIMFIT_ERR_INVALID)
        turn->err = plugin_error(turn, "a priority is not a number");
    return turn->err == DIMFIT_OK ? 0 : -1;
}

static int host_fail(void *self, const char *why) {
    struct turn *const turn = self;
    turn->err = plugin_error(turn, why != NULL ? why : "it failed");
    return -1;
}

static int host_option(void *self, const char *key, char *out, size_t cap) {
    struct turn *const turn = self;
    const char *const options = turn->work->plan->request.options;
    const size_t key_len = strlen(key);
    for (const char *at = options; *at != 0;) {
        const size_t len = strcspn(at, ",");
        if (len > key_len && strncmp(at, key, key_len) == 0 && at[key_len] == '=') {
            const size_t value_len = len - key_len - 1;
            turn->asked[at - options] = true;
            if (value_len >= cap)
                return -1;
            memcpy(out, at + key_len + 1, value_len);
            out[value_len] = 0;
            return 0;
        }
        at += len + (at[len] == ',');
    }
    return 1;
}

static int host_trial(void *self, uint8_t *const *keep, uint64_t samples,
                      struct dimfit_trial_result *out) {
    struct turn *const turn = self;
    int answer = DIMFIT_TRIAL_FAILED;
    turn->err = plan_trial(turn->work, keep, samples, out, &answer);
    turn->asked_trials |= answer == DIMFIT_TRIAL_ASKED;
    return answer;
}

static int host_candidate(void *self, const struct dimfit_candidate *candidate,
                          struct dimfit_trial_result *out) {
    struct turn *const turn = self;
    int answer = DIMFIT_TRIAL_FAILED;
    turn->err = plan_candidate(turn->work, candidate, out, &answer);
    turn->asked_trials |= answer == DIMFIT_TRIAL_ASKED;
    return answer;
}

static int host_choose(void *self, size_t i) {
    struct turn *const turn = self;
    turn->err = plan_take(turn->work, i);
    return turn->err == DIMFIT_OK ? 0 : -1;
}

/* An option that the strategy never asked for is a slip of the user's, not to be passed over. */
static dimfit_err check_options(const struct turn *turn) {
    const char *const options = turn->work->plan->request.options;
    for (const char *at = options; *at != 0;) {
        const size_t len = strcspn(at, ",");
        if (!turn->asked[at - options])
            return err_set(turn->work->detail, DIMFIT_ERR_INVALID,
                           "--strategy-options: strategy '%s' has no use for '%.*s'",
                           turn->work->strategy->name, (int)len, at);
        at += len + (at[len] == ',');
    }
    return DIMFIT_OK;
}

/* Whoever made it: every byte, floor and sum is checked. */
static dimfit_err check_answer(const struct turn *turn, uint8_t *const *keep) {
    const struct plan *const plan = turn->work->plan;
    const char *const name = turn->work->strategy->name;
    struct err_detail *const detail = turn->work->detail;
    for (size_t i = 0; i < plan->n_slots; i++) {
        uint32_t kept = 0;
        for (uint32_t k = 0; k < turn->budget.widths[i]; k++) {
            if (keep[i][k] > 1)
                return err_set(detail, DIMFIT_ERR_PLUGIN,
                               "strategy '%s': slot %u, unit %u: the answer %u is neither keep (1) "
                               "nor drop (0)",
                               name, plan->slots[i].slot, k, keep[i][k]);
            kept += keep[i][k];
        }
        if (kept < budget_floor(&turn->budget, i))
            return err_set(detail, DIMFIT_ERR_PLUGIN,
                           "strategy '%s': slot %u was left %u dimension(s), --min-dim is %u", name,
                           plan->slots[i].slot, kept, turn->budget.min_dim);
    }
    const uint64_t cost = budget_cost(&turn->budget, keep);
    if (cost > turn->budget.limit)
        return err_set(detail, DIMFIT_ERR_PLUGIN,
                       "strategy '%s': the units it kept cost %llu, the budget is %llu", name,
                       (unsigned long long)cost, (unsigned long long)turn->budget.limit);
    return DIMFIT_OK;
}

static dimfit_err ask(struct turn *turn, const struct dimfit_strategy_slot *slots,
                      const struct dimfit_strategy_tier *tiers, uint8_t *const *keep) {
    const struct plan_request *const request = &turn->work->plan->request;
    const struct dimfit_strategy_host host = {
        .magic = DIMFIT_STRATEGY_MAGIC,
        .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
        .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
        .size = sizeof host,
        .self = turn,
        .select = host_select,
        .fail = host_fail,
        .option = host_option,
        .trial = host_trial,
        .candidate = host_candidate,
        .choose = host_choose,
    };
    const struct dimfit_strategy_input input = {
        .size = sizeof input,
        .min_dim = request->min_dim,
        .seed = request->seed,
        .budget = (double)turn->budget.limit,
        .cost_before = (double)turn->budget.whole,
        .options = request->options,
        .n_slots = turn->budget.n_slots,
        .slots = slots,
        .trial_samples = request->trial_samples,
        .ordered = request->basis != BASIS_AXIS,
        .tiers = tiers,
        .basis = request->basis_named ? basis_name(request->basis) : NULL,
    };
    const int answer = turn->work->strategy->plan(&host, &input, keep);
    if (answer != DIMFIT_PLAN_DONE && answer != DIMFIT_PLAN_WAITS)
        return turn->err != DIMFIT_OK ? turn->err
                                      : plugin_error(turn, "it failed and did not say why");
    const dimfit_err err = check_options(turn);
    turn->work->waits = answer == DIMFIT_PLAN_WAITS;
    if (turn->work->waits && !turn->asked_trials)
        return plugin_error(turn, "it waits for trials that it did not ask for");
    if (err != DIMFIT_OK || turn->work->waits || turn->work->chosen != NULL)
        return err;
    return check_answer(turn, keep);
}

/* What the plugin sees of a tier. */
static struct dimfit_strategy_slot show_slot(const struct plan_work *work, size_t i,
                                             uint64_t cost) {
    const struct plan_slot *const s = &work->plan->slots[i];
    const struct plan_fitted *const f = &work->fitted[i];
    return (struct dimfit_strategy_slot){
        .id = s->slot,
        .dim = layout_find(work->layout, s->slot)->dim,
        .width = s->units + s->room,
        .room = s->room,
        .rows = s->rows,
        .lookups = f->stats != NULL ? f->stats->lookups : 0,
        .unit_cost = (double)cost,
        .score = !plan_needs(work, DIMFIT_NEEDS_SCORES) ? NULL
                 : f->expected != NULL                  ? f->expected
                                                        : s->s,
        .norm = f->norm,
        .eigen = !plan_needs(work, DIMFIT_NEEDS_SPECTRUM) ? NULL
                 : f->spectrum != NULL                    ? f->spectrum
                                                          : s->eigenvalue,
    };
}

/* In the kfac basis no units of a slot lose less than its first ones: as many as were chosen. */
static void take_leading(const struct plan *plan) {
    for (size_t i = 0; i < plan->n_slots; i++) {
        const struct plan_slot *const s = &plan->slots[i];
        uint32_t kept = 0;
        for (uint32_t k = 0; k < s->units; k++)
            kept += s->keep[k];
        memset(s->keep, 0, s->units);
        memset(s->keep, 1, kept);
    }
}

/* The arrays of a turn, an entry a tier. */
struct choice {
    uint32_t *widths, *room;
    uint64_t *costs;
    bool *capped;
    uint8_t **keep;
    struct dimfit_strategy_slot *slots;
    struct dimfit_strategy_tier *tiers;
};

static bool choice_init(struct choice *c, size_t n) {
    *c = (struct choice){
        .widths = calloc(n + 1, sizeof *c->widths),
        .room = calloc(n + 1, sizeof *c->room),
        .costs = calloc(n + 1, sizeof *c->costs),
        .capped = calloc(n + 1, sizeof *c->capped),
        .keep = calloc(n + 1, sizeof *c->keep),
        .slots = calloc(n + 1, sizeof *c->slots),
        .tiers = calloc(n + 1, sizeof *c->tiers),
    };
    return c->widths != NULL && c->room != NULL && c->costs != NULL && c->capped != NULL &&
           c->keep != NULL && c->slots != NULL && c->tiers != NULL;
}

static void choice_fini(struct choice *c) {
    free(c->widths);
    free(c->room);
    free(c->costs);
    free(c->capped);
    free(c->keep);
    free(c->slots);
    free(c->tiers);
}

static void choice_fill(struct choice *c, const struct plan_work *work) {
    const struct plan *const plan = work->plan;
    for (size_t i = 0; i < plan->n_slots; i++) {
        const struct plan_slot *const s = &plan->slots[i];
        c->widths[i] = s->units + s->room;
        c->room[i] = s->units + s->room - s->before;
        c->costs[i] = plan->request.count == COUNT_PARAMS ? s->rows : 1;
        c->capped[i] = s->tier + 1 < s->n_tiers;
        c->keep[i] = s->keep;
        c->slots[i] = show_slot(work, i, c->costs[i]);
        c->tiers[i] = (struct dimfit_strategy_tier){s->tier, s->n_tiers, s->before};
    }
}

dimfit_err plan_choose(struct plan_work *work) {
    struct plan *const plan = work->plan;
    struct choice choice;
    struct turn *const turn = calloc(1, sizeof *turn);
    dimfit_err err;
    if (!choice_init(&choice, plan->n_slots) || turn == NULL) {
        err = plan_nomem(work);
        goto done;
    }
    choice_fill(&choice, work);
    turn->work = work;
    turn->budget = (struct budget){
        .kappa = plan->request.kappa,
        .min_dim = plan->request.min_dim,
        .by_density = plan->request.rank == RANK_DENSITY,
        .n_slots = plan->n_slots,
        .widths = choice.widths,
        .room = choice.room,
        .unit_cost = choice.costs,
        .capped = choice.capped,
    };
    err = budget_open(&turn->budget, work->detail);
    if (err == DIMFIT_OK)
        err = ask(turn, choice.slots, choice.tiers, choice.keep);
    if (err == DIMFIT_OK && plan->request.basis == BASIS_KFAC)
        take_leading(plan);
    if (err == DIMFIT_OK)
        plan_take_prefixes(work);
    plan->cost_before = (double)turn->budget.whole;
    plan->cost_after = (double)budget_cost(&turn->budget, choice.keep);

done:
    choice_fini(&choice);
    free(turn);
    return err;
}
