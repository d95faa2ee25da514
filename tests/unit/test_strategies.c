#include "server/plan_internal.h"
#include "tests/unit/plan_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void every_strategy_stays_within_budget_and_floors(void **state) {
    struct scene *const s = *state;
    for (size_t i = 0; i < strategies_count(s->strategies); i++) {
        scene_use(s, strategies_at(s->strategies, i)->name);
        for (int percent = 30; percent <= 100; percent += 5) {
            for (int bits = 0; bits < 8; bits++) {
                s->request.kappa = percent / 100.0;
                s->request.basis = (bits & 1) != 0 ? BASIS_AXIS : BASIS_ROTATED;
                s->request.rank = (bits & 2) != 0 ? RANK_DENSITY : RANK_SCORE;
                s->request.min_dim = (bits & 4) != 0 ? 0 : 1;
                if (!scene_suits(s))
                    continue;
                struct plan *plan = scene_plan(s);
                scene_check_sums(s, plan);
                assert_true(percent < 100 || plan->params_after == plan->params_before);
                plan_destroy(&plan);
            }
        }
    }
}

/* ---- what each strategy does ----------------------------------------------------------------- */

static void assert_widths(const struct scene *s, const uint32_t *want) {
    struct plan *plan = scene_plan(s);
    for (size_t i = 0; i < SLOTS; i++)
        assert_int_equal(plan->slots[i].after, want[i]);
    plan_destroy(&plan);
}

static void uniform_fills_level_by_level(void **state) {
    struct scene *const s = *state;
    scene_use(s, "uniform");
    /* rows 30 9 17 0 1 5 25, widths 4 6 1 3 6 2 4: levels cost 87, 70, 65 and 65, 10, 10 */
    s->request.kappa = 157.0 / 307;
    assert_widths(s, (uint32_t[]){2, 2, 1, 3, 2, 2, 2});
    s->request.kappa = (157 + 30 + 9 + 24.5) / 307; /* the last slot's 25 do not fit, 1 does */
    assert_widths(s, (uint32_t[]){3, 5, 1, 3, 6, 2, 2});
    s->request.rank = RANK_DENSITY; /* not its business */
    assert_widths(s, (uint32_t[]){3, 5, 1, 3, 6, 2, 2});
}

static void random_is_its_seed(void **state) {
    struct scene *const s = *state;
    scene_use(s, "random");
    s->request.min_dim = 0;
    struct plan *first = scene_plan(s), *again = scene_plan(s);
    s->request.seed++;
    struct plan *other = scene_plan(s);
    bool differs = false;
    for (size_t i = 0; i < SLOTS; i++) {
        const size_t w = s->widths[i];
        assert_memory_equal(first->slots[i].keep, again->slots[i].keep, w);
        differs = differs || memcmp(first->slots[i].keep, other->slots[i].keep, w) != 0;
    }
    assert_true(differs);
    plan_destroy(&first);
    plan_destroy(&again);
    plan_destroy(&other);
}

static void magnitude_keeps_the_longest_columns(void **state) {
    struct scene *const s = *state;
    scene_use(s, "magnitude");
    s->request.basis = BASIS_AXIS;
    s->request.count = COUNT_DIMS;
    s->request.min_dim = 0;
    s->request.kappa = 1.0 / 26;
    double best = 0;
    size_t best_slot = 0, best_unit = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        for (size_t k = 0; k < s->widths[i]; k++) {
            double square = 0;
            for (size_t f = 0; f < s->rows[i]; f++)
                square += s->row[i][f].r[k] * s->row[i][f].r[k];
            if (square > best) {
                best = square;
                best_slot = i;
                best_unit = k;
            }
        }
    }
    struct plan *plan = scene_plan(s);
    assert_true(plan->cost_after == 1);
    assert_int_equal(plan->slots[best_slot].keep[best_unit], 1);
    plan_destroy(&plan);
}

/* Six slots as wide as the ladder goes, ever less popular, with statistics of no moments. */
static void make_ladder(struct scene *s, const uint64_t *rows, const double *lookups) {
    layout_destroy(&s->layout);
    stats_destroy(&s->stats);
    assert_int_equal(layout_new(4, 1, &s->layout), DIMFIT_OK);
    assert_int_equal(stats_new(4, &s->stats), DIMFIT_OK);
    for (uint32_t i = 0; i < 6; i++) {
        struct layout_slot slot = {.id = i, .dim = 64, .width = 64, .search = true};
        slot.name[0] = (char)('a' + i);
        assert_int_equal(layout_add_slot(s->layout, &slot, NULL), DIMFIT_OK);
        struct slot_stats *const to = stats_add_slot(s->stats, i, 0, 64, false);
        to->rows = rows[i];
        to->lookups = lookups[i];
    }
    scene_use(s, "frequency");
    s->request.basis = BASIS_AXIS;
}

static void assert_ladder(const struct scene *s, const uint32_t *want) {
    struct plan *plan = scene_plan(s);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(plan->slots[i].after, want[i]);
    plan_destroy(&plan);
}

static void frequency_spreads_the_ladder_over_the_ranking(void **state) {
    struct scene *const s = *state;
    const uint64_t rows[] = {100, 100, 100, 100, 100, 100};
    make_ladder(s, rows, (double[]){500, 100, 600, 200, 400, 300});
    s->request.kappa = 125.0 / 384;
    assert_ladder(s, (uint32_t[]){32, 1, 64, 4, 16, 8});
    s->request.kappa = 1;
    assert_ladder(s, (uint32_t[]){64, 64, 64, 64, 64, 64});
    s->request.kappa = 6.0 / 384;
    assert_ladder(s, (uint32_t[]){1, 1, 1, 1, 1, 1});
    s->request.kappa = 9.0 / 384; /* the floors and a lift to 4 */
    assert_ladder(s, (uint32_t[]){1, 1, 4, 1, 1, 1});
    s->request.min_dim = 5;
    s->request.kappa = 0.5;
    struct plan *plan = scene_plan(s);
    for (size_t i = 0; i < 6; i++)
        assert_true(plan->slots[i].after >= 5);
    plan_destroy(&plan);
}

static void frequency_by_power_follows_the_rows(void **state) {
    struct scene *const s = *state;
    const uint64_t rows[] = {1, 10, 100, 1000, 10000, 100000};
    make_ladder(s, rows, (double[]){1, 1, 1, 1, 1, 1});
    scene_give(s, "rule=power");
    s->request.min_dim = 0;
    s->request.kappa = 0.05;
    struct plan *plan = scene_plan(s);
    scene_check_sums(s, plan);
    /* n^-0.3 halves with every decade: the scale is the largest that the budget pays for. */
    const double scale = plan->slots[5].after + 1;
    for (size_t i = 0; i < 6; i++) {
        const double ideal = scale * pow((double)rows[i] / 1e5, -0.3);
        assert_true(plan->slots[i].after <= fmin(ceil(ideal), 64));
        assert_true(plan->slots[i].after >= fmin(floor(ideal * (scale - 1) / scale), 64));
    }
    assert_true(plan->slots[2].after > plan->slots[3].after);
    plan_destroy(&plan);
}

/* Every unit kept has a larger eigenvalue than any dropped that costs as much or less. */
static void spectrum_keeps_the_largest_eigenvalues(void **state) {
    struct scene *const s = *state;
    scene_use(s, "spectrum");
    for (int b = BASIS_ROTATED; b <= BASIS_KFAC; b++) {
        s->request.basis = (enum basis)b;
        s->request.count = COUNT_DIMS;
        s->request.min_dim = 0;
        struct plan *plan = scene_plan(s);
        double kept = INFINITY, dropped = 0;
        for (size_t i = 0; i < SLOTS; i++) {
            for (size_t k = 0; k < s->widths[i]; k++) {
                const double value = plan->slots[i].eigenvalue[k];
                if (plan->slots[i].keep[k])
                    kept = fmin(kept, value);
                else
                    dropped = fmax(dropped, value);
            }
        }
        assert_true(kept >= dropped && dropped > 0);
        plan_destroy(&plan);
    }
    s->request.basis = BASIS_AXIS;
    scene_refuses(s, DIMFIT_ERR_INVALID, "eigenvalues of a fitted basis");
}

static bool same_way(const struct plan_request *a, const struct plan_request *b) {
    return strcmp(a->strategy, b->strategy) == 0 && strcmp(a->options, b->options) == 0 &&
           a->estimator == b->estimator && a->rank == b->rank;
}

static void auto_keeps_to_the_basis_that_was_asked_for(void **state) {
    struct scene *const s = *state;
    scene_use(s, "auto");
    struct plan *open = scene_plan(s);
    size_t in[BASIS_KFAC + 1] = {0};
    for (size_t i = 0; i < open->n_candidates; i++)
        in[open->candidates[i].request.basis]++;
    assert_true(in[BASIS_AXIS] > 0 && in[BASIS_ROTATED] > in[BASIS_AXIS] && in[BASIS_KFAC] > 0);
    s->request.basis_named = true;
    for (int basis = BASIS_AXIS; basis <= BASIS_KFAC; basis++) {
        s->request.basis = (enum basis)basis;
        struct plan *plan = scene_plan(s);
        assert_int_equal(plan->request.basis, basis);
        assert_true(plan->n_candidates >= in[BASIS_ROTATED]);
        for (size_t i = 0; i < plan->n_candidates; i++) {
            const struct plan_candidate *const c = &plan->candidates[i];
            assert_int_equal(c->request.basis, basis);
            assert_true(c->known);
            for (size_t j = 0; j < i; j++)
                assert_false(same_way(&plan->candidates[j].request, &c->request));
        }
        plan_destroy(&plan);
    }
    plan_destroy(&open);
}

static void options_are_checked_by_name(void **state) {
    struct scene *const s = *state;
    scene_use(s, "frequency");
    scene_give(s, "rule=best");
    scene_refuses(s, DIMFIT_ERR_PLUGIN, "strategy 'frequency': its option `rule`");
    scene_give(s, "rule=a-rule-that-is-much-too-long");
    scene_refuses(s, DIMFIT_ERR_PLUGIN, "strategy 'frequency': its option `rule`");
    scene_give(s, "rule=rank,depth=3");
    scene_refuses(s, DIMFIT_ERR_INVALID, "strategy 'frequency' has no use for 'depth=3'");
    scene_give(s, "rule");
    scene_refuses(s, DIMFIT_ERR_INVALID, "'rule' is not key=value");
    scene_give(s, "rule=rank,,");
    scene_refuses(s, DIMFIT_ERR_INVALID, "is not key=value");
    scene_use(s, "uniform");
    scene_give(s, "rule=rank");
    scene_refuses(s, DIMFIT_ERR_INVALID, "strategy 'uniform' has no use for 'rule=rank'");
}

/* ---- plugins that misbehave ------------------------------------------------------------------ */

static int plan_garbage(const struct dimfit_strategy_host *host,
                        const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    for (size_t i = 0; i < input->n_slots; i++)
        memset(keep[i], 1, 1);
    keep[1][2] = 2;
    return 0;
}

static int plan_nothing(const struct dimfit_strategy_host *host,
                        const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    return 0;
}

static int plan_everything(const struct dimfit_strategy_host *host,
                           const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    for (size_t i = 0; i < input->n_slots; i++)
        memset(keep[i], 1, input->slots[i].width);
    return 0;
}

static int plan_silence(const struct dimfit_strategy_host *host,
                        const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    return -1;
}

static int plan_failure(const struct dimfit_strategy_host *host,
                        const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    return (host->fail)(host->self, "out of ideas"); /* cmocka has a macro fail() */
}

static int plan_nan(const struct dimfit_strategy_host *host,
                    const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    double values[WIDTH];
    const double *priority[SLOTS];
    for (size_t k = 0; k < WIDTH; k++)
        values[k] = NAN;
    for (size_t i = 0; i < SLOTS; i++)
        priority[i] = values;
    return host->select(host->self, priority, keep);
}

static int plan_elsewhere(const struct dimfit_strategy_host *host,
                          const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    const struct dimfit_candidate candidate = {
        .size = sizeof candidate, .strategy = "uniform", .basis = "axis"};
    struct dimfit_trial_result result;
    assert_string_equal(input->basis, "rotated");
    assert_int_equal(host->candidate(host->self, &candidate, &result), DIMFIT_TRIAL_IMPOSSIBLE);
    return (host->fail)(host->self, "elsewhere");
}

static void answers(const struct scene *s,
                    int (*plan)(const struct dimfit_strategy_host *,
                                const struct dimfit_strategy_input *, uint8_t *const *),
                    const char *why) {
    const struct dimfit_strategy strategy = {
        .name = "bad", .needs = DIMFIT_NEEDS_TRIALS, .plan = plan};
    struct trials trials = {0};
    struct err_detail detail = {""};
    struct plan_slot slots[SLOTS];
    struct plan_fitted fitted[SLOTS] = {{0}};
    uint8_t keep[SLOTS][WIDTH] = {{0}};
    struct plan made = {.request = s->request, .n_slots = SLOTS, .slots = slots};
    for (size_t i = 0; i < SLOTS; i++)
        slots[i] = (struct plan_slot){.slot = scene_slot_id(i),
                                      .n_tiers = 1,
                                      .before = s->widths[i],
                                      .units = s->widths[i],
                                      .rows = s->rows[i],
                                      .keep = keep[i]};
    struct plan_work work = {
        .plan = &made,
        .fitted = fitted,
        .layout = s->layout,
        .strategy = &strategy,
        .trials = &trials,
        .detail = &detail,
    };
    assert_int_equal(plan_choose(&work), DIMFIT_ERR_PLUGIN);
    assert_string_equal(detail.text, why);
    trials_fini(&trials);
    free(made.candidates);
}

static void an_answer_that_breaks_the_rules_is_refused(void **state) {
    const struct scene *const s = *state;
    answers(s, plan_garbage,
            "strategy 'bad': slot 13, unit 2: the answer 2 is neither keep (1) nor drop (0)");
    answers(s, plan_nothing, "strategy 'bad': slot 3 was left 0 dimension(s), --min-dim is 1");
    answers(s, plan_everything, "strategy 'bad': the units it kept cost 307, the budget is 122");
    answers(s, plan_silence, "strategy 'bad': it failed and did not say why");
    answers(s, plan_failure, "strategy 'bad': out of ideas");
    answers(s, plan_nan, "strategy 'bad': a priority is not a number");
}

static void a_candidate_outside_the_basis_that_was_asked_for_is_impossible(void **state) {
    struct scene *const s = *state;
    s->request.basis_named = true;
    answers(s, plan_elsewhere, "strategy 'bad': elsewhere");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLAN_TEST(every_strategy_stays_within_budget_and_floors),
        PLAN_TEST(uniform_fills_level_by_level),
        PLAN_TEST(random_is_its_seed),
        PLAN_TEST(magnitude_keeps_the_longest_columns),
        PLAN_TEST(frequency_spreads_the_ladder_over_the_ranking),
        PLAN_TEST(frequency_by_power_follows_the_rows),
        PLAN_TEST(spectrum_keeps_the_largest_eigenvalues),
        PLAN_TEST(auto_keeps_to_the_basis_that_was_asked_for),
        PLAN_TEST(options_are_checked_by_name),
        PLAN_TEST(an_answer_that_breaks_the_rules_is_refused),
        PLAN_TEST(a_candidate_outside_the_basis_that_was_asked_for_is_impossible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
