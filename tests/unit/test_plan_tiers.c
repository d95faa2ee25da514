/*
 * Planning of slots with tiers, against numpy (plan_tiers_reference.py) and by its rules.
 */
#include "server/plan.h"

#include "tests/unit/numpy_reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOTS = 3, WIDTH = 6, TIERS = 3, ROWS = 40, STEPS = 7, PARTS = 90, GROUPS = 6 };

static const uint32_t n_tiers[SLOTS] = {3, 2, 1};
static const uint32_t tier_widths[SLOTS][TIERS] = {{2, 4, 6}, {0, 3}, {4}};
static const uint32_t dims[SLOTS] = {6, 5, 4};

struct row {
    double r[WIDTH], count;
    uint32_t tier;
};

struct part {
    size_t slot, row;
    double grad[WIDTH], samples;
};

struct scene {
    struct row row[SLOTS][ROWS];
    struct part part[STEPS][PARTS];
    struct layout *layout;
    struct stats *stats;
    struct strategies *strategies;
    struct plan_request request;
};

static uint32_t width_of(size_t i) {
    return tier_widths[i][n_tiers[i] - 1];
}

static uint32_t id_of(size_t i) {
    return (uint32_t)(3 + 10 * i);
}

static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

static void make_layout(struct scene *s) {
    assert_int_equal(layout_new(4, 1, &s->layout), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++) {
        struct layout_slot slot = {.id = id_of(i),
                                   .dim = dims[i],
                                   .width = width_of(i),
                                   .search = true,
                                   .n_tiers = n_tiers[i],
                                   .tier_shows = {0, 10, 100}};
        snprintf(slot.name, sizeof slot.name, "slot %zu", i);
        assert_int_equal(layout_add_slot(s->layout, &slot, NULL), DIMFIT_OK);
        memcpy(s->layout->slots[i].tier_widths, tier_widths[i], n_tiers[i] * sizeof(uint32_t));
    }
}

/* The tail has most of the rows; a row and its gradients end where its tier does. */
static void make_rows(struct scene *s) {
    uint64_t seed = 5;
    for (size_t i = 0; i < SLOTS; i++) {
        for (size_t f = 0; f < ROWS; f++) {
            struct row *const row = &s->row[i][f];
            row->tier = f % 8 == 0 ? n_tiers[i] - 1 : f % 3 == 0 ? (n_tiers[i] - 1) / 2 : 0;
            row->count = (double)((f * 7 + i) % 5) + 10 * row->tier;
            for (size_t k = 0; k < tier_widths[i][row->tier]; k++)
                row->r[k] = 0.2 + draw(&seed) * (double)(1 + (i + 2 * k) % 4);
        }
    }
    for (size_t t = 0; t < STEPS; t++) {
        for (size_t p = 0; p < PARTS; p++) {
            struct part *const part = &s->part[t][p];
            part->slot = p % SLOTS;
            part->row = (size_t)(fabs(draw(&seed)) * ROWS);
            part->samples = 1 + (double)(p % 2);
            const uint32_t tier = s->row[part->slot][part->row].tier;
            for (size_t k = 0; k < tier_widths[part->slot][tier]; k++)
                part->grad[k] = draw(&seed) + 0.3 * s->row[part->slot][part->row].r[k];
        }
    }
}

static void sum_rows(const struct scene *s, size_t i, uint32_t tier, struct slot_stats *to) {
    const size_t w = tier_widths[i][tier];
    for (size_t f = 0; f < ROWS; f++) {
        const struct row *const row = &s->row[i][f];
        if (row->tier != tier)
            continue;
        to->rows++;
        to->lookups += row->count;
        for (size_t a = 0; a < w; a++) {
            to->sum[a] += row->r[a];
            to->looked_sum[a] += row->count * row->r[a];
            for (size_t b = 0; b < w; b++) {
                to->second[a * w + b] += row->r[a] * row->r[b];
                to->looked_second[a * w + b] += row->count * row->r[a] * row->r[b];
            }
        }
    }
}

/* Of a slot's lookups, whatever the tier: workers know no tiers. */
static void sum_curvature(const struct scene *s, size_t i, struct slot_stats *to) {
    const size_t w = width_of(i);
    for (size_t n = 0; n < STEPS * PARTS; n++) {
        const struct part *const part = &s->part[n / PARTS][n % PARTS];
        if (part->slot != i)
            continue;
        for (size_t k = 0; k < w * w; k++)
            to->curvature[k] += part->samples * part->grad[k / w] * part->samples *
                                part->grad[k % w];
        to->curved++;
    }
}

static void sum_step(const struct scene *s, size_t t, struct stats *stats) {
    struct step_stats *const step = stats_add_step(stats, 100 + t);
    size_t first[SLOTS], at = 0;
    assert_int_equal(step_add_worker(step, 1, PARTS), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; at += n_tiers[i++]) {
        first[i] = at;
        for (uint32_t tier = 0; tier < n_tiers[i]; tier++)
            assert_non_null(step_add_slot(step, id_of(i), tier, tier_widths[i][tier], true));
    }
    for (size_t p = 0; p < PARTS; p++) {
        const struct part *const part = &s->part[t][p];
        const struct row *const row = &s->row[part->slot][part->row];
        const size_t group = first[part->slot] + row->tier;
        struct step_slot *const to = &step->slots[group];
        const size_t w = to->width;
        for (size_t a = 0; a < w; a++) {
            to->g[a] += part->samples * row->r[a] * part->grad[a];
            to->b[a] += part->samples * part->grad[a];
            stats->slots[group].row_score[a] += part->samples * fabs(row->r[a] * part->grad[a]);
            for (size_t b = 0; b < w; b++)
                to->C[a * w + b] += part->samples * row->r[a] * part->grad[b];
        }
    }
}

static void make_stats(struct scene *s) {
    assert_int_equal(stats_new(4, &s->stats), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++) {
        for (uint32_t tier = 0; tier < n_tiers[i]; tier++) {
            struct slot_stats *const to = stats_add_slot(s->stats, id_of(i), tier,
                                                         tier_widths[i][tier], true);
            assert_true(stats_add_row_score(to));
            sum_rows(s, i, tier, to);
            if (tier + 1 == n_tiers[i]) {
                assert_true(stats_add_curvature(to));
                sum_curvature(s, i, to);
            }
        }
    }
    for (size_t t = 0; t < STEPS; t++)
        sum_step(s, t, s->stats);
}

static int set_up(void **state) {
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    make_layout(s);
    make_rows(s);
    make_stats(s);
    assert_int_equal(strategies_load(STRATEGIES_BUILT, &s->strategies, NULL), DIMFIT_OK);
    plan_request_init(&s->request);
    s->request.kappa = 0.5;
    *state = s;
    return 0;
}

static int tear_down(void **state) {
    struct scene *const s = *state;
    layout_destroy(&s->layout);
    stats_destroy(&s->stats);
    strategies_destroy(&s->strategies);
    free(s);
    return 0;
}

/* Trials cost what they take from rows, each tier by itself: all rows are as dear as each other. */
static double loss_of(const struct scene *s, const struct change *change) {
    double loss = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        const struct change_slot *const c = change_find(change, id_of(i));
        for (size_t f = 0; c != NULL && f < ROWS; f++) {
            const double *const r = s->row[i][f].r;
            const uint32_t to = c->tier_to[s->row[i][f].tier];
            double left[WIDTH] = {0};
            for (uint32_t k = 0; k < to && c->keep != NULL; k++)
                left[c->keep[k]] = r[c->keep[k]];
            for (uint32_t j = 0; j < c->from && c->keep == NULL; j++) {
                left[j] = c->shift != NULL ? c->shift[j] : 0;
                for (uint32_t k = 0; k < to; k++) {
                    double x = 0;
                    for (uint32_t l = 0; l < c->from; l++)
                        x += (r[l] - (c->shift != NULL ? c->shift[l] : 0)) * c->T[l * c->to + k];
                    left[j] += x * c->N[j * c->to + k];
                }
            }
            for (uint32_t k = 0; k < c->from; k++)
                loss += 1e-3 * (r[k] - left[k]) * (r[k] - left[k]);
        }
    }
    return loss;
}

static struct plan *make_plan(const struct scene *s) {
    struct plan *plan = NULL;
    struct err_detail detail = {""};
    struct trials trials;
    trials_init(&trials);
    for (int turn = 0; plan == NULL; turn++) {
        assert_true(turn < 20);
        if (plan_try(s->layout, s->stats, &s->request, s->strategies, &trials, &plan, &detail) !=
            DIMFIT_OK)
            fail_msg("%s: %s", s->request.strategy, detail.text);
        for (size_t t = 0; t < trials.n; t++) {
            if (trials.all[t].known)
                continue;
            const double loss = loss_of(s, trials.all[t].change);
            const struct trial_figures figures = {0.5 + loss, 0.75 - loss / 1e3, 0.5, 0.75, 1e-6};
            trials_answer(&trials, &trials.all[t], &figures, trials.all[t].samples);
        }
    }
    trials_fini(&trials);
    return plan;
}

/* ---- against numpy --------------------------------------------------------------------------- */

static void put_doubles(FILE *file, const char *key, const double *values, size_t n) {
    fprintf(file, "\"%s\":[", key);
    for (size_t i = 0; i < n; i++)
        fprintf(file, "%s%.17g", i > 0 ? "," : "", values[i]);
    fprintf(file, "],");
}

static void put_slot(FILE *file, const struct scene *s, size_t i) {
    double r[ROWS * WIDTH], counts[ROWS], tiers[ROWS], widths[TIERS];
    const size_t w = width_of(i);
    for (size_t f = 0; f < ROWS; f++) {
        memcpy(r + f * w, s->row[i][f].r, w * sizeof *r);
        counts[f] = s->row[i][f].count;
        tiers[f] = s->row[i][f].tier;
    }
    for (uint32_t t = 0; t < n_tiers[i]; t++)
        widths[t] = tier_widths[i][t];
    fprintf(file, "%s{", i > 0 ? "," : "");
    put_doubles(file, "counts", counts, ROWS);
    put_doubles(file, "tiers", tiers, ROWS);
    put_doubles(file, "tier_widths", widths, n_tiers[i]);
    put_doubles(file, "r", r, ROWS * w);
    fprintf(file, "\"width\":%zu}", w);
}

static void put_scene(FILE *file, const struct scene *s) {
    const struct plan_request *const q = &s->request;
    fprintf(file,
            "{\"kappa\":%.17g,\"estimator\":\"%s\",\"basis\":\"%s\",\"count\":\"%s\","
            "\"rank\":\"%s\",\"min_dim\":%u,\"window\":0,\"half_life\":0,\"samples\":%d,"
            "\"slots\":[",
            q->kappa, estimator_name(q->estimator), basis_name(q->basis), count_name(q->count),
            rank_name(q->rank), q->min_dim, STEPS * PARTS);
    for (size_t i = 0; i < SLOTS; i++)
        put_slot(file, s, i);
    fprintf(file, "],\"steps\":[");
    for (size_t t = 0; t < STEPS; t++) {
        for (size_t p = 0; p < PARTS; p++) {
            const struct part *const part = &s->part[t][p];
            fprintf(file, "%s{", p > 0 ? "," : t > 0 ? ",[" : "[");
            put_doubles(file, "grad", part->grad, width_of(part->slot));
            fprintf(file, "\"slot\":%zu,\"row\":%zu,\"samples\":%g}", part->slot, part->row,
                    part->samples);
        }
        fprintf(file, "]");
    }
    fprintf(file, "],\"plan\":");
}

/* What each row stands for after the plan's change, by the layout that it leads to. */
static void put_rows(FILE *file, const struct scene *s, const struct plan *plan,
                     const struct layout *after, size_t i) {
    const struct layout_slot *const slot = layout_find(after, id_of(i));
    const struct change_slot *const c = change_find(plan->change, id_of(i));
    double M[WIDTH * WIDTH], v[ROWS * WIDTH];
    layout_slot_basis(slot, M);
    for (size_t f = 0; f < ROWS; f++) {
        const double *const r = s->row[i][f].r;
        double moved[WIDTH] = {0};
        for (uint32_t k = 0; k < slot->tier_widths[s->row[i][f].tier]; k++) {
            moved[k] = c == NULL ? r[k] : c->keep != NULL ? r[c->keep[k]] : 0;
            for (uint32_t j = 0; c != NULL && c->keep == NULL && j < c->from; j++)
                moved[k] += (r[j] - (c->shift != NULL ? c->shift[j] : 0)) * c->T[j * c->to + k];
        }
        layout_slot_mean(slot, v + f * slot->dim);
        for (uint32_t j = 0; j < slot->dim; j++) {
            for (uint32_t k = 0; k < slot->width; k++)
                v[f * slot->dim + j] += moved[k] * M[j * slot->width + k];
        }
    }
    put_doubles(file, "embeddings", v, ROWS * slot->dim);
}

static void put_plan(FILE *file, const struct scene *s, const struct plan *plan) {
    struct layout *after;
    assert_int_equal(change_apply(plan->change, s->layout, NULL, &after, NULL), DIMFIT_OK);
    assert_int_equal(plan->n_slots, GROUPS);
    fprintf(file, "{\"kept_score\":%.17g,\"cost_before\":%.17g,\"cost_after\":%.17g,\"tiers\":[",
            plan->kept_score, plan->cost_before, plan->cost_after);
    for (size_t g = 0; g < plan->n_slots; g++) {
        const struct plan_slot *const p = &plan->slots[g];
        const struct layout_slot *const slot = layout_find(after, p->slot);
        assert_int_equal(slot->tier_widths[p->tier], p->after);
        fprintf(file, "%s{", g > 0 ? "," : "");
        put_doubles(file, "g", p->g, p->units);
        put_doubles(file, "s", p->s, p->units);
        put_doubles(file, "eigenvalues", p->eigenvalue, p->eigenvalue != NULL ? p->units : 0);
        if (p->tier == 0)
            put_rows(file, s, plan, after, (p->slot - 3) / 10);
        fprintf(file, "\"slot\":%u,\"tier\":%u,\"after\":%u}", (p->slot - 3) / 10, p->tier,
                p->after);
    }
    fprintf(file, "]}}\n");
    layout_destroy(&after);
}

static void put_all_plans(FILE *file, void *scene) {
    struct scene *const s = scene;
    struct plan_request *const q = &s->request;
    enum { BASES = BASIS_KFAC + 1, ESTIMATORS = ESTIMATOR_GUARDED + 1 };
    for (int bits = 0; bits < 2 * 2 * 3 * BASES * ESTIMATORS; bits++) {
        q->count = (bits & 1) != 0 ? COUNT_DIMS : COUNT_PARAMS;
        q->rank = (bits >> 1 & 1) != 0 ? RANK_DENSITY : RANK_SCORE;
        q->min_dim = (uint32_t)(bits >> 2) % 3;
        q->basis = (enum basis)(bits / (2 * 2 * 3) % BASES);
        q->estimator = (enum estimator)(bits / (2 * 2 * 3 * BASES));
        q->kappa = bits % 5 == 0 ? 1 : bits % 2 == 0 ? 0.7 : 0.4;
        if (q->min_dim == 2)
            q->kappa = 0.8;
        if (q->estimator == ESTIMATOR_ROW && q->basis != BASIS_AXIS)
            continue;
        struct plan *plan = make_plan(s);
        put_scene(file, s);
        put_plan(file, s, plan);
        plan_destroy(&plan);
    }
}

static void plans_equal_those_worked_out_from_the_rows_by_numpy(void **state) {
    numpy_reference("plan_tiers_reference.py", put_all_plans, *state);
}

/* ---- what must hold of any plan -------------------------------------------------------------- */

static void check_widths(const struct scene *s, const struct plan *plan) {
    uint64_t before = 0, after = 0;
    for (size_t g = 0; g < plan->n_slots; g++) {
        const struct plan_slot *const p = &plan->slots[g];
        const uint32_t least = s->request.min_dim < p->before ? s->request.min_dim : p->before;
        assert_true(p->after >= least);
        if (p->tier + 1 < p->n_tiers)
            assert_true(p->after <= p[1].after);
        for (uint32_t k = 0; k < p->units + p->room && p->n_tiers > 1; k++)
            assert_int_equal(p->keep[k], k < p->after);
        before += p->rows * p->before;
        after += p->rows * p->after;
    }
    assert_int_equal(plan->params_before, before);
    assert_int_equal(plan->params_after, after);
    assert_true(plan->cost_after <= s->request.kappa * plan->cost_before);
}

static bool suits(const struct scene *s, const struct dimfit_strategy *strategy) {
    return s->request.basis != BASIS_AXIS || (strategy->needs & DIMFIT_NEEDS_SPECTRUM) == 0;
}

static void every_strategy_keeps_prefixes_that_do_not_fall_with_popularity(void **state) {
    struct scene *const s = *state;
    for (size_t i = 0; i < strategies_count(s->strategies); i++) {
        const struct dimfit_strategy *const strategy = strategies_at(s->strategies, i);
        snprintf(s->request.strategy, sizeof s->request.strategy, "%s", strategy->name);
        for (int bits = 0; bits < 36; bits++) {
            s->request.basis = (enum basis)(bits % 3);
            s->request.min_dim = (uint32_t)(bits / 3 % 2);
            s->request.grow = bits / 6 % 2 == 1;
            s->request.kappa = 0.35 + 0.3 * (bits / 12);
            if (!suits(s, strategy))
                continue;
            struct plan *plan = make_plan(s);
            struct layout *after;
            check_widths(s, plan);
            assert_int_equal(change_apply(plan->change, s->layout, NULL, &after, NULL), DIMFIT_OK);
            layout_destroy(&after);
            plan_destroy(&plan);
        }
    }
}

static void without_growth_the_axes_give_no_tier_coordinates_of_zeros_alone(void **state) {
    struct scene *const s = *state;
    s->request.basis = BASIS_AXIS;
    s->request.min_dim = 0;
    for (int percent = 5; percent <= 100; percent += 5) {
        s->request.kappa = percent / 100.0;
        struct plan *plan = make_plan(s);
        for (size_t g = 0; g < plan->n_slots; g++) {
            const struct plan_slot *const p = &plan->slots[g];
            assert_true(p->after == 0 || p->g[p->after - 1] != 0 || p->before == p->units);
        }
        plan_destroy(&plan);
    }
}

static void everything_is_kept_where_the_budget_pays_for_it(void **state) {
    struct scene *const s = *state;
    s->request.basis = BASIS_AXIS;
    s->request.kappa = 1;
    struct plan *plan = make_plan(s);
    /* In order of score a tier may not have all that comes before what it has. */
    for (size_t g = 0; g < plan->n_slots; g++) {
        if (plan->slots[g].tier + 1 == plan->slots[g].n_tiers)
            assert_int_equal(plan->slots[g].after, plan->slots[g].before);
    }
    plan_destroy(&plan);
}

static void growth_offers_new_directions_to_the_most_popular_tier(void **state) {
    struct scene *const s = *state;
    s->request.grow = true;
    s->request.kappa = 3;
    struct plan *plan = make_plan(s);
    bool grew = false;
    for (size_t g = 0; g < plan->n_slots; g++) {
        const struct plan_slot *const p = &plan->slots[g];
        const bool last = p->tier + 1 == p->n_tiers;
        assert_true(last || p->room == 0);
        grew |= p->added > 0 && p->n_tiers > 1;
    }
    assert_true(grew);
    plan_destroy(&plan);
}

static void widened_statistics_have_zeros_where_rows_have(void **state) {
    struct scene *const s = *state;
    struct stats *wide;
    assert_int_equal(stats_widen(s->stats, s->layout, &wide), DIMFIT_OK);
    assert_int_equal(wide->n_slots, s->stats->n_slots);
    for (size_t g = 0; g < wide->n_slots; g++) {
        const struct slot_stats *const was = &s->stats->slots[g], *const is = &wide->slots[g];
        const size_t w = was->width, to = is->width;
        assert_int_equal(to, width_of((was->slot - 3) / 10));
        assert_true(is->rows == was->rows && is->lookups == was->lookups);
        for (size_t a = 0; a < to * to; a++) {
            const size_t i = a / to, k = a % to;
            const bool there = i < w && k < w;
            assert_true(is->second[a] == (there ? was->second[i * w + k] : 0));
            assert_true(is->looked_second[a] == (there ? was->looked_second[i * w + k] : 0));
        }
        for (size_t k = 0; k < to; k++)
            assert_true(is->row_score[k] == (k < w ? was->row_score[k] : 0));
    }
    stats_destroy(&wide);
}

static void candidates_are_tried_and_one_of_them_is_the_plan(void **state) {
    struct scene *const s = *state;
    snprintf(s->request.strategy, sizeof s->request.strategy, "auto");
    struct plan *plan = make_plan(s);
    assert_true(plan->n_candidates > 5);
    for (size_t i = 0; i < plan->n_candidates; i++) {
        if (plan->candidates[i].known)
            assert_true(plan->candidates[plan->chosen].result.loss <=
                        plan->candidates[i].result.loss);
    }
    check_widths(s, plan);
    plan_destroy(&plan);
}

#define TIERS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TIERS_TEST(plans_equal_those_worked_out_from_the_rows_by_numpy),
        TIERS_TEST(every_strategy_keeps_prefixes_that_do_not_fall_with_popularity),
        TIERS_TEST(without_growth_the_axes_give_no_tier_coordinates_of_zeros_alone),
        TIERS_TEST(everything_is_kept_where_the_budget_pays_for_it),
        TIERS_TEST(growth_offers_new_directions_to_the_most_popular_tier),
        TIERS_TEST(widened_statistics_have_zeros_where_rows_have),
        TIERS_TEST(candidates_are_tried_and_one_of_them_is_the_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
