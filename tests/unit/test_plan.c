#include "tests/unit/numpy_reference.h"
#include "tests/unit/plan_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- against numpy --------------------------------------------------------------------------- */

static void put_doubles(FILE *file, const char *key, const double *values, size_t n) {
    fprintf(file, "\"%s\":[", key);
    for (size_t i = 0; i < n; i++)
        fprintf(file, "%s%.17g", i > 0 ? "," : "", values[i]);
    fprintf(file, "]");
}

static void put_scene(FILE *file, const struct scene *s) {
    const struct plan_request *const q = &s->request;
    fprintf(file,
            "{\"kappa\":%.17g,\"estimator\":\"%s\",\"basis\":\"%s\",\"count\":\"%s\","
            "\"rank\":\"%s\",\"min_dim\":%u,\"window\":%llu,\"half_life\":%.17g,\"samples\":%g,"
            "\"slots\":[",
            q->kappa, estimator_name(q->estimator), basis_name(q->basis), count_name(q->count),
            rank_name(q->rank), q->min_dim, (unsigned long long)q->window, q->half_life,
            (double)STEPS * PARTS);
    for (size_t i = 0; i < SLOTS; i++) {
        double r[ROWS * WIDTH], counts[ROWS];
        for (size_t f = 0; f < s->rows[i]; f++) {
            memcpy(r + f * s->widths[i], s->row[i][f].r, s->widths[i] * sizeof *r);
            counts[f] = s->row[i][f].count;
        }
        fprintf(file, "%s{\"width\":%u,", i > 0 ? "," : "", s->widths[i]);
        put_doubles(file, "counts", counts, s->rows[i]);
        fprintf(file, ",");
        put_doubles(file, "r", r, s->rows[i] * s->widths[i]);
        fprintf(file, "}");
    }
    fprintf(file, "],\"steps\":[");
    for (size_t t = 0; t < STEPS; t++) {
        for (size_t p = 0; p < PARTS; p++) {
            const struct part *const part = &s->part[t][p];
            fprintf(file, "%s{\"slot\":%zu,\"row\":%zu,\"samples\":%g,",
                    p > 0   ? ","
                    : t > 0 ? ",["
                            : "[",
                    part->slot, part->row, part->samples);
            put_doubles(file, "grad", part->grad, s->widths[part->slot]);
            fprintf(file, "}");
        }
        fprintf(file, "]");
    }
    fprintf(file, "],\"plan\":");
}

/* r' = (r - shift) T */
static void move_row(const struct change_slot *c, uint32_t width, const double *r, double *moved) {
    if (c == NULL) {
        memcpy(moved, r, width * sizeof *moved);
        return;
    }
    for (size_t k = 0; k < c->to; k++) {
        moved[k] = c->keep != NULL ? r[c->keep[k]] : 0;
        for (size_t i = 0; i < c->from && c->keep == NULL; i++)
            moved[k] += (r[i] - (c->shift != NULL ? c->shift[i] : 0)) * c->T[i * c->to + k];
    }
}

static void decode_row(const struct layout_slot *slot, const double *r, double *v) {
    double M[WIDTH * WIDTH];
    layout_slot_basis(slot, M);
    layout_slot_mean(slot, v);
    for (size_t i = 0; i < slot->dim; i++) {
        for (size_t k = 0; k < slot->width; k++)
            v[i] += r[k] * M[i * slot->width + k];
    }
}

static void put_plan(FILE *file, const struct scene *s, const struct plan *plan) {
    struct layout *after;
    assert_int_equal(change_apply(plan->change, s->layout, NULL, &after, NULL), DIMFIT_OK);
    fprintf(file, "{\"kept_score\":%.17g,\"cost_before\":%.17g,\"cost_after\":%.17g,\"slots\":[",
            plan->kept_score, plan->cost_before, plan->cost_after);
    for (size_t i = 0; i < SLOTS; i++) {
        const struct plan_slot *const p = &plan->slots[i];
        const struct layout_slot *const slot = layout_find(after, p->slot);
        double keep[WIDTH], moved[ROWS * WIDTH], decoded[ROWS * WIDTH];
        for (size_t k = 0; k < p->before; k++)
            keep[k] = p->keep[k];
        for (size_t f = 0; f < s->rows[i]; f++) {
            double *const to = moved + f * p->after;
            move_row(change_find(plan->change, p->slot), p->before, s->row[i][f].r, to);
            decode_row(slot, to, decoded + f * slot->dim);
        }
        fprintf(file, "%s{", i > 0 ? "," : "");
        put_doubles(file, "g", p->g, p->before);
        fprintf(file, ",");
        put_doubles(file, "s", p->s, p->before);
        fprintf(file, ",");
        put_doubles(file, "keep", keep, p->before);
        fprintf(file, ",");
        put_doubles(file, "eigenvalues", p->eigenvalue, p->eigenvalue != NULL ? p->before : 0);
        fprintf(file, ",");
        put_doubles(file, "moved", moved, s->rows[i] * p->after);
        fprintf(file, ",");
        put_doubles(file, "decoded", decoded, s->rows[i] * slot->dim);
        fprintf(file, "}");
    }
    fprintf(file, "]}}\n");
    layout_destroy(&after);
}

/* Every combination of the request's options that there is. */
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
        q->kappa = bits % 5 == 0 ? 1 : 0.55;
        q->window = bits % 7 == 1 && q->estimator != ESTIMATOR_ROW ? 5 : 0;
        q->half_life = bits % 7 == 2 && q->estimator != ESTIMATOR_ROW ? 2.5 : 0;
        if (q->estimator == ESTIMATOR_ROW && q->basis != BASIS_AXIS)
            continue;
        struct plan *plan = scene_plan(s);
        put_scene(file, s);
        put_plan(file, s, plan);
        plan_destroy(&plan);
    }
}

static void plans_equal_those_worked_out_from_the_rows_by_numpy(void **state) {
    numpy_reference("plan_reference.py", put_all_plans, *state);
}

/* ---- what must hold of any plan -------------------------------------------------------------- */

static void the_number_of_shards_does_not_matter(void **state) {
    struct scene *const s = *state;
    const enum basis bases[] = {BASIS_AXIS, BASIS_ROTATED, BASIS_KFAC};
    for (size_t b = 0; b < ARRAY_LEN(bases); b++) {
        for (int estimator = ESTIMATOR_SINGLE; estimator <= ESTIMATOR_GUARDED; estimator++) {
            if (estimator == ESTIMATOR_ROW && bases[b] != BASIS_AXIS)
                continue;
            s->request.basis = bases[b];
            s->request.estimator = (enum estimator)estimator;
            struct plan *one = scene_plan(s);
            stats_destroy(&s->stats);
            s->stats = scene_stats(s, 5);
            struct plan *five = scene_plan(s);
            double largest = 0;
            for (size_t i = 0; i < SLOTS; i++) {
                for (size_t k = 0; k < s->widths[i]; k++)
                    largest = fmax(largest, fabs(one->slots[i].s[k]));
            }
            for (size_t i = 0; i < SLOTS; i++) {
                for (size_t k = 0; k < s->widths[i]; k++)
                    assert_true(fabs(one->slots[i].s[k] - five->slots[i].s[k]) <= 1e-9 * largest);
                assert_memory_equal(one->slots[i].keep, five->slots[i].keep, s->widths[i]);
            }
            plan_destroy(&one);
            plan_destroy(&five);
            stats_destroy(&s->stats);
            s->stats = scene_stats(s, 1);
        }
    }
}

static void slots_outside_the_search_are_outside_everything(void **state) {
    struct scene *const s = *state;
    struct plan *plan = scene_plan(s);
    assert_int_equal(plan->n_slots, SLOTS);
    double total = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        assert_int_equal(plan->slots[i].slot, scene_slot_id(i));
        for (size_t k = 0; k < plan->slots[i].before; k++)
            total += plan->slots[i].s[k];
    }
    assert_true(fabs(total - 1) < 1e-12);
    assert_null(change_find(plan->change, 1));
    assert_int_equal(plan->samples, STEPS * PARTS);
    assert_int_equal(plan->change->from_epoch, 4);
    assert_int_equal(plan->change->to_epoch, 5);
    plan_destroy(&plan);
}

static void all_that_is_kept_in_the_axis_basis_is_left_alone(void **state) {
    struct scene *const s = *state;
    s->request.kappa = 2;
    s->request.basis = BASIS_AXIS;
    struct plan *plan = scene_plan(s);
    assert_int_equal(plan->change->n_slots, 0);
    assert_true(fabs(plan->kept_score - 1) < 1e-12);
    plan_destroy(&plan);
}

static void a_rotation_at_full_width_leaves_the_mean_in_the_rows(void **state) {
    struct scene *const s = *state;
    s->request.kappa = 1;
    struct plan *plan = scene_plan(s);
    const struct change_slot *const c = change_find(plan->change, scene_slot_id(0));
    assert_non_null(c);
    assert_null(c->shift);
    assert_memory_equal(c->T, c->N, 16 * sizeof(double));
    assert_null(change_find(plan->change, scene_slot_id(3))); /* no rows: nothing to turn */
    assert_null(change_find(plan->change, scene_slot_id(4))); /* one row: no directions */
    plan_destroy(&plan);
}

static void a_slot_that_goes_entirely_restores_its_mean(void **state) {
    struct scene *const s = *state;
    s->request.kappa = 1e-9;
    s->request.min_dim = 0;
    struct plan *plan = scene_plan(s);
    const struct change_slot *const c = change_find(plan->change, scene_slot_id(0));
    assert_int_equal(c->to, 0);
    double count = 0, mean = 0;
    for (size_t f = 0; f < s->rows[0]; f++) {
        count += s->row[0][f].count;
        mean += s->row[0][f].count * s->row[0][f].r[1];
    }
    assert_true(fabs(c->shift[1] - mean / count) < 1e-12);
    assert_int_equal(plan->slots[3].after, s->widths[3]); /* without rows it costs nothing */
    plan_destroy(&plan);
}

static void evicted_steps_are_left_out(void **state) {
    struct scene *const s = *state;
    struct plan *with, *without;
    s->request.basis = BASIS_AXIS;
    assert_int_equal(stats_add_evicted(s->stats, 100), DIMFIT_OK);
    with = scene_plan(s);
    struct step_stats *const step = &s->stats->steps[0];
    for (size_t i = 0; i < step->n_slots; i++)
        step->slots[i].g[0] = NAN; /* whatever they hold */
    without = scene_plan(s);
    assert_int_equal(without->samples, (STEPS - 1) * PARTS);
    for (size_t i = 0; i < SLOTS; i++)
        assert_memory_equal(with->slots[i].g, without->slots[i].g, s->widths[i] * sizeof(double));
    plan_destroy(&with);
    plan_destroy(&without);
}

static void a_slot_newer_than_the_statistics_stays_whole(void **state) {
    struct scene *const s = *state;
    const struct layout_slot late = {
        .id = 500, .dim = 4, .width = 4, .search = true, .name = "late"};
    assert_int_equal(layout_add_slot(s->layout, &late, NULL), DIMFIT_OK);
    struct plan *plan = scene_plan(s);
    assert_int_equal(plan->n_slots, SLOTS + 1);
    assert_int_equal(plan->slots[SLOTS].after, 4);
    assert_null(change_find(plan->change, 500));
    plan_destroy(&plan);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void requests_out_of_range_are_refused(void **state) {
    struct scene *const s = *state;
    const double bad[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char says[32];
        snprintf(says, sizeof says, "--kappa %g:", bad[i]);
        s->request.kappa = bad[i];
        scene_refuses(s, DIMFIT_ERR_INVALID, says);
    }
    s->request.kappa = 0.5;
    s->request.estimator = ESTIMATOR_ROW;
    scene_refuses(s, DIMFIT_ERR_INVALID, "--estimator row");
    s->request.estimator = ESTIMATOR_STEP;
    s->request.min_dim = 513;
    scene_refuses(s, DIMFIT_ERR_INVALID, "--min-dim 513");
    s->request.min_dim = 1;
    scene_use(s, "gradient");
    scene_refuses(s, DIMFIT_ERR_NOT_FOUND, "no strategy 'gradient'");
    scene_use(s, "");
    scene_refuses(s, DIMFIT_ERR_INVALID, "--strategy");
}

static void floors_over_the_budget_are_refused_with_a_way_out(void **state) {
    struct scene *const s = *state;
    struct plan *plan = NULL;
    struct err_detail detail;
    s->request.kappa = 0.2;
    scene_refuses(s, DIMFIT_ERR_BUDGET, "--min-dim 0");
    assert_int_equal(plan_make(s->layout, s->stats, &s->request, s->strategies, &plan, &detail),
                     DIMFIT_ERR_BUDGET);
    static const char says[] = "smallest feasible --kappa is ";
    s->request.kappa = strtod(strstr(detail.text, says) + sizeof says - 1, NULL);
    assert_true(fabs(s->request.kappa - 87.0 / 307) < 1e-6);
    plan = scene_plan(s);
    assert_true(plan->cost_after == 87);
    plan_destroy(&plan);
    s->request.kappa = 0.2;
    s->request.min_dim = 0;
    plan = scene_plan(s);
    scene_check_sums(s, plan);
    plan_destroy(&plan);
}

static void statistics_of_another_layout_are_refused(void **state) {
    struct scene *const s = *state;
    s->stats->epoch = 3;
    scene_refuses(s, DIMFIT_ERR_STALE_EPOCH, "epoch 3");
    s->stats->epoch = 4;
    s->layout->slots[2].width--;
    scene_refuses(s, DIMFIT_ERR_WIDTH, "slot 13");
}

static void nothing_scored_is_refused_where_scores_decide(void **state) {
    struct scene *const s = *state;
    for (size_t t = 0; t < STEPS; t++)
        assert_int_equal(stats_add_evicted(s->stats, 100 + t), DIMFIT_OK);
    scene_refuses(s, DIMFIT_ERR_STATE, "nothing was scored");
    scene_use(s, "uniform");
    struct plan *plan = scene_plan(s);
    assert_true(plan->kept_score == 0 && plan->slots[0].s[0] == 0);
    plan_destroy(&plan);
}

static void ftrl_is_planned_in_the_axis_basis_only(void **state) {
    struct scene *const s = *state;
    s->layout->slots[0].optimizer.kind = OPTIMIZER_FTRL; /* the linear one, outside the search */
    struct plan *plan = scene_plan(s);
    plan_destroy(&plan);
    s->layout->slots[2].optimizer.kind = OPTIMIZER_FTRL;
    scene_refuses(s, DIMFIT_ERR_INVALID, "slot 13 (slot 1): ftrl takes the axis basis only");
    s->request.basis = BASIS_AXIS;
    plan = scene_plan(s);
    plan_destroy(&plan);
}

static void scores_of_the_axes_alone_cannot_be_turned(void **state) {
    struct scene *const s = *state;
    s->stats->steps[3].slots[2].C = NULL;
    scene_refuses(s, DIMFIT_ERR_STATE, "axis basis only");
    s->request.basis = BASIS_AXIS;
    struct plan *plan = scene_plan(s);
    plan_destroy(&plan);
    s->request.basis = BASIS_ROTATED;
    scene_use(s, "magnitude");
    plan = scene_plan(s);
    plan_destroy(&plan);
}

static void moments_not_gathered_are_missed_where_needed(void **state) {
    struct scene *const s = *state;
    double *const sum = s->stats->slots[1].sum;
    s->stats->slots[1].sum = NULL;
    scene_refuses(s, DIMFIT_ERR_STATE, "slot 13");
    scene_use(s, "magnitude");
    s->request.basis = BASIS_AXIS;
    scene_refuses(s, DIMFIT_ERR_STATE, "slot 13");
    s->stats->slots[1].sum = sum;
}

static void numbers_that_are_not_finite_are_refused_by_slot(void **state) {
    struct scene *const s = *state;
    s->stats->steps[2].slots[3].C[0] = NAN;
    scene_refuses(s, DIMFIT_ERR_NOT_FINITE, "slot 23");
    s->stats->steps[2].slots[3].C[0] = 0;
    s->request.basis = BASIS_AXIS;
    s->stats->steps[2].slots[1].g[1] = INFINITY;
    scene_refuses(s, DIMFIT_ERR_NOT_FINITE, "slot 3: the score of unit 1");
    s->stats->steps[2].slots[1].g[1] = 0;
    scene_use(s, "magnitude");
    s->stats->slots[1].second[0] = NAN;
    scene_refuses(s, DIMFIT_ERR_NOT_FINITE, "slot 13: the norm of unit 0");
    s->request.basis = BASIS_ROTATED;
    s->stats->slots[0].looked_second[0] = NAN;
    scene_refuses(s, DIMFIT_ERR_NOT_FINITE, "slot 3: the sums over its rows");
}

/* ---- scores without a plan ------------------------------------------------------------------- */

static void scores_are_shown_at_any_time(void **state) {
    struct scene *const s = *state;
    struct plan *scores, *plan;
    s->request.basis = BASIS_AXIS;
    plan = scene_plan(s);
    assert_int_equal(plan_scores(s->layout, s->stats, ESTIMATOR_STEP, &scores, NULL), DIMFIT_OK);
    assert_int_equal(scores->n_slots, SLOTS);
    assert_null(scores->change);
    assert_int_equal(scores->samples, STEPS * PARTS);
    for (size_t i = 0; i < SLOTS; i++) {
        assert_memory_equal(scores->slots[i].s, plan->slots[i].s, s->widths[i] * sizeof(double));
        assert_int_equal(scores->slots[i].after, s->widths[i]);
    }
    plan_destroy(&plan);
    plan_destroy(&scores);
    struct stats *empty;
    assert_int_equal(stats_new(4, &empty), DIMFIT_OK);
    for (int estimator = ESTIMATOR_SINGLE; estimator <= ESTIMATOR_GUARDED; estimator++) {
        assert_int_equal(plan_scores(s->layout, empty, (enum estimator)estimator, &scores, NULL),
                         DIMFIT_OK);
        assert_true(scores->slots[1].s[5] == 0 && scores->slots[1].g[5] == 0);
        plan_destroy(&scores);
    }
    stats_destroy(&empty);
}

static void option_words_go_both_ways(void **state) {
    enum estimator estimator = ESTIMATOR_SINGLE;
    enum basis basis = BASIS_AXIS;
    enum count count = COUNT_PARAMS;
    enum rank rank = RANK_SCORE;
    assert_true(estimator_parse("fisher", &estimator) && estimator == ESTIMATOR_FISHER);
    assert_string_equal(estimator_name(ESTIMATOR_ROW), "row");
    assert_false(estimator_parse("steps", &estimator));
    assert_true(basis_parse("rotated", &basis) && basis == BASIS_ROTATED);
    assert_string_equal(basis_name(BASIS_AXIS), "axis");
    assert_false(basis_parse("", &basis));
    assert_true(count_parse("dims", &count) && count == COUNT_DIMS);
    assert_string_equal(count_name(COUNT_PARAMS), "params");
    assert_true(rank_parse("density", &rank) && rank == RANK_DENSITY);
    assert_string_equal(rank_name(RANK_SCORE), "score");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLAN_TEST(plans_equal_those_worked_out_from_the_rows_by_numpy),
        PLAN_TEST(the_number_of_shards_does_not_matter),
        PLAN_TEST(slots_outside_the_search_are_outside_everything),
        PLAN_TEST(all_that_is_kept_in_the_axis_basis_is_left_alone),
        PLAN_TEST(a_rotation_at_full_width_leaves_the_mean_in_the_rows),
        PLAN_TEST(a_slot_that_goes_entirely_restores_its_mean),
        PLAN_TEST(evicted_steps_are_left_out),
        PLAN_TEST(a_slot_newer_than_the_statistics_stays_whole),
        PLAN_TEST(requests_out_of_range_are_refused),
        PLAN_TEST(floors_over_the_budget_are_refused_with_a_way_out),
        PLAN_TEST(statistics_of_another_layout_are_refused),
        PLAN_TEST(nothing_scored_is_refused_where_scores_decide),
        PLAN_TEST(ftrl_is_planned_in_the_axis_basis_only),
        PLAN_TEST(scores_of_the_axes_alone_cannot_be_turned),
        PLAN_TEST(moments_not_gathered_are_missed_where_needed),
        PLAN_TEST(numbers_that_are_not_finite_are_refused_by_slot),
        PLAN_TEST(scores_are_shown_at_any_time),
        cmocka_unit_test(option_words_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
