#include "server/plan_internal.h"

#include <libgen.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { SLOTS = 7, WIDTH = 6, ROWS = 30, STEPS = 9, PARTS = 60 };

/* ---- a made-up model: rows, lookups and gradients, and the statistics that shards have of it ----
 */

struct row {
    double r[WIDTH], count;
};

/* One lookup of a scoring step. */
struct part {
    size_t slot, row;
    double grad[WIDTH], samples;
};

struct scene {
    uint32_t widths[SLOTS];
    size_t rows[SLOTS];
    struct row row[SLOTS][ROWS];
    struct part part[STEPS][PARTS];
    struct layout *layout;
    struct stats *stats;
    struct strategies *strategies;
    struct plan_request request;
};

static uint32_t slot_id(size_t i) {
    return (uint32_t)(3 + 10 * i);
}

static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

static void make_layout(struct scene *s) {
    assert_int_equal(layout_new(4, 1, &s->layout), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++) {
        struct layout_slot slot = {
            .id = slot_id(i), .dim = s->widths[i], .width = s->widths[i], .search = true};
        snprintf(slot.name, sizeof slot.name, "slot %zu", i);
        assert_int_equal(layout_add_slot(s->layout, &slot, NULL), DIMFIT_OK);
    }
    /* Outside the search, though steps score it as well. */
    const struct layout_slot linear = {.id = 1, .dim = 1, .width = 1, .name = "linear"};
    assert_int_equal(layout_add_slot(s->layout, &linear, NULL), DIMFIT_OK);
}

static void make_rows(struct scene *s, uint64_t *seed) {
    for (size_t i = 0; i < SLOTS; i++) {
        for (size_t f = 0; f < s->rows[i]; f++) {
            struct row *const row = &s->row[i][f];
            row->count = (double)((f * 7 + i) % 5);
            for (size_t k = 0; k < s->widths[i]; k++)
                row->r[k] = 0.3 + draw(seed) * (double)(1 + (i + k) % 4) + 0.5 * row->r[0];
        }
    }
    for (size_t t = 0; t < STEPS; t++) {
        for (size_t p = 0; p < PARTS; p++) {
            struct part *const part = &s->part[t][p];
            do {
                part->slot = (size_t)(fabs(draw(seed)) * SLOTS);
            } while (s->rows[part->slot] == 0);
            part->row = (size_t)(fabs(draw(seed)) * (double)s->rows[part->slot]);
            part->samples = 1 + (double)(p % 2);
            for (size_t k = 0; k < s->widths[part->slot]; k++)
                part->grad[k] = draw(seed);
        }
    }
}

static size_t shard_of(size_t slot, size_t row, size_t shards) {
    return (slot * 31 + row * 17) % shards;
}

static void sum_rows(const struct scene *s, size_t shard, size_t shards, size_t i,
                     struct slot_stats *to) {
    const size_t w = s->widths[i];
    for (size_t f = 0; f < s->rows[i]; f++) {
        const struct row *const row = &s->row[i][f];
        if (shard_of(i, f, shards) != shard)
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

static void sum_part(const struct scene *s, const struct part *part, struct step_slot *to,
                     struct slot_stats *row_scores) {
    const size_t w = s->widths[part->slot];
    const double *const r = s->row[part->slot][part->row].r;
    for (size_t a = 0; a < w; a++) {
        to->g[a] += part->samples * r[a] * part->grad[a];
        to->b[a] += part->samples * part->grad[a];
        row_scores->row_score[a] += part->samples * fabs(r[a] * part->grad[a]);
        for (size_t b = 0; b < w; b++)
            to->C[a * w + b] += part->samples * r[a] * part->grad[b];
    }
}

static struct stats *shard_stats(const struct scene *s, size_t shard, size_t shards) {
    struct stats *stats;
    assert_int_equal(stats_new(4, &stats), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot_stats *const slot = stats_add_slot(stats, slot_id(i), s->widths[i], true);
        slot->row_score = calloc(WIDTH, sizeof *slot->row_score);
        assert_non_null(slot->row_score);
        sum_rows(s, shard, shards, i, slot);
    }
    for (size_t t = 0; t < STEPS; t++) {
        struct step_stats *const step = stats_add_step(stats, 100 + t);
        assert_int_equal(step_add_worker(step, 1, PARTS), DIMFIT_OK);
        step_add_slot(step, 1, 1, true)->g[0] = 1e6;
        for (size_t i = 0; i < SLOTS; i++)
            assert_non_null(step_add_slot(step, slot_id(i), s->widths[i], true));
        for (size_t p = 0; p < PARTS; p++) {
            const struct part *const part = &s->part[t][p];
            if (shard_of(part->slot, part->row, shards) == shard)
                sum_part(s, part, &step->slots[1 + part->slot], &stats->slots[part->slot]);
        }
    }
    return stats;
}

static struct stats *cluster_stats(const struct scene *s, size_t shards) {
    struct stats *all = shard_stats(s, 0, shards);
    for (size_t shard = 1; shard < shards; shard++) {
        struct stats *part = shard_stats(s, shard, shards);
        assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
        stats_destroy(&part);
    }
    return all;
}

static int set_up(void **state) {
    static const uint32_t widths[SLOTS] = {4, 6, 1, 3, 6, 2, 4};
    static const size_t rows[SLOTS] = {30, 9, 17, 0, 1, 5, 25};
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    memcpy(s->widths, widths, sizeof widths);
    memcpy(s->rows, rows, sizeof rows);
    uint64_t seed = 21;
    make_layout(s);
    make_rows(s, &seed);
    s->stats = cluster_stats(s, 1);
    assert_int_equal(strategies_load(STRATEGIES_BUILT, &s->strategies, NULL), DIMFIT_OK);
    plan_request_init(&s->request);
    s->request.kappa = 0.4;
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

static struct plan *make(const struct scene *s) {
    struct plan *plan = NULL;
    struct err_detail detail = {""};
    if (plan_make(s->layout, s->stats, &s->request, s->strategies, &plan, &detail) != DIMFIT_OK)
        fail_msg("%s", detail.text);
    return plan;
}

static void make_fails(const struct scene *s, dimfit_err err, const char *what) {
    struct plan *plan = NULL;
    struct err_detail detail = {""};
    assert_int_equal(plan_make(s->layout, s->stats, &s->request, s->strategies, &plan, &detail),
                     err);
    if (strstr(detail.text, what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", detail.text, what);
    assert_null(plan);
}

static void use(struct scene *s, const char *strategy) {
    memset(s->request.strategy, 0, sizeof s->request.strategy);
    memcpy(s->request.strategy, strategy, strlen(strategy));
}

static void give(struct scene *s, const char *options) {
    memset(s->request.options, 0, sizeof s->request.options);
    memcpy(s->request.options, options, strlen(options));
}

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
            "\"rank\":\"%s\",\"min_dim\":%u,\"slots\":[",
            q->kappa, estimator_name(q->estimator), basis_name(q->basis), count_name(q->count),
            rank_name(q->rank), q->min_dim);
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
    assert_int_equal(change_apply(plan->change, s->layout, &after, NULL), DIMFIT_OK);
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
static void put_all_plans(FILE *file, struct scene *s) {
    struct plan_request *const q = &s->request;
    for (int bits = 0; bits < 4 * 2 * 2 * 2 * 3; bits++) {
        q->estimator = (enum estimator)(bits & 3);
        q->basis = (bits >> 2 & 1) != 0 ? BASIS_ROTATED : BASIS_AXIS;
        q->count = (bits >> 3 & 1) != 0 ? COUNT_DIMS : COUNT_PARAMS;
        q->rank = (bits >> 4 & 1) != 0 ? RANK_DENSITY : RANK_SCORE;
        q->min_dim = (uint32_t)(bits >> 5);
        q->kappa = bits % 5 == 0 ? 1 : 0.55;
        if (q->estimator == ESTIMATOR_ROW && q->basis != BASIS_AXIS)
            continue;
        struct plan *plan = make(s);
        put_scene(file, s);
        put_plan(file, s, plan);
        plan_destroy(&plan);
    }
}

static void plans_equal_those_worked_out_from_the_rows_by_numpy(void **state) {
    char here[] = __FILE__, name[] = "/tmp/dimfit-plan-XXXXXX", command[1024];
    const char *const python = "/usr/bin/python3";
    snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null", python);
    if (system(command) != 0)
        skip();
    const int fd = mkstemp(name);
    assert_true(fd >= 0);
    FILE *const file = fdopen(fd, "w");
    assert_non_null(file);
    put_all_plans(file, *state);
    assert_int_equal(fclose(file), 0);
    snprintf(command, sizeof command, "%s '%s/plan_reference.py' %s", python, dirname(here), name);
    const int result = system(command);
    unlink(name);
    assert_int_equal(result, 0);
}

/* ---- what must hold of any plan -------------------------------------------------------------- */

static void the_number_of_shards_does_not_matter(void **state) {
    struct scene *const s = *state;
    const enum basis bases[] = {BASIS_AXIS, BASIS_ROTATED};
    for (size_t b = 0; b < 2; b++) {
        for (int estimator = ESTIMATOR_SINGLE; estimator <= ESTIMATOR_FISHER; estimator++) {
            s->request.basis = bases[b];
            s->request.estimator = (enum estimator)estimator;
            struct plan *one = make(s);
            stats_destroy(&s->stats);
            s->stats = cluster_stats(s, 5);
            struct plan *five = make(s);
            double largest = 0;
            for (size_t i = 0; i < SLOTS; i++) {
                for (size_t k = 0; k < s->widths[i]; k++)
                    largest = fmax(largest, one->slots[i].s[k]);
            }
            for (size_t i = 0; i < SLOTS; i++) {
                for (size_t k = 0; k < s->widths[i]; k++)
                    assert_true(fabs(one->slots[i].s[k] - five->slots[i].s[k]) <= 1e-9 * largest);
                assert_memory_equal(one->slots[i].keep, five->slots[i].keep, s->widths[i]);
            }
            plan_destroy(&one);
            plan_destroy(&five);
            stats_destroy(&s->stats);
            s->stats = cluster_stats(s, 1);
        }
    }
}

static void check_sums(const struct scene *s, const struct plan *plan) {
    uint64_t before = 0, after = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        const struct plan_slot *const p = &plan->slots[i];
        uint32_t kept = 0;
        for (size_t k = 0; k < p->before; k++)
            kept += p->keep[k];
        assert_int_equal(p->after, kept);
        assert_true(kept >= s->request.min_dim || kept == p->before);
        before += p->rows * p->before;
        after += p->rows * p->after;
    }
    assert_int_equal(plan->params_before, before);
    assert_int_equal(plan->params_after, after);
    assert_true(plan->cost_after <= s->request.kappa * plan->cost_before);
    assert_true(plan->cost_before == (double)before && plan->cost_after == (double)after);
}

static void every_strategy_stays_within_budget_and_floors(void **state) {
    struct scene *const s = *state;
    for (size_t i = 0; i < strategies_count(s->strategies); i++) {
        use(s, strategies_at(s->strategies, i)->name);
        for (int percent = 30; percent <= 100; percent += 5) {
            for (int bits = 0; bits < 8; bits++) {
                s->request.kappa = percent / 100.0;
                s->request.basis = (bits & 1) != 0 ? BASIS_AXIS : BASIS_ROTATED;
                s->request.rank = (bits & 2) != 0 ? RANK_DENSITY : RANK_SCORE;
                s->request.min_dim = (bits & 4) != 0 ? 0 : 1;
                struct plan *plan = make(s);
                check_sums(s, plan);
                assert_true(percent < 100 || plan->params_after == plan->params_before);
                plan_destroy(&plan);
            }
        }
    }
}

static void slots_outside_the_search_are_outside_everything(void **state) {
    struct scene *const s = *state;
    struct plan *plan = make(s);
    assert_int_equal(plan->n_slots, SLOTS);
    double total = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        assert_int_equal(plan->slots[i].slot, slot_id(i));
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
    struct plan *plan = make(s);
    assert_int_equal(plan->change->n_slots, 0);
    assert_true(fabs(plan->kept_score - 1) < 1e-12);
    plan_destroy(&plan);
}

static void a_rotation_at_full_width_leaves_the_mean_in_the_rows(void **state) {
    struct scene *const s = *state;
    s->request.kappa = 1;
    struct plan *plan = make(s);
    const struct change_slot *const c = change_find(plan->change, slot_id(0));
    assert_non_null(c);
    assert_null(c->shift);
    assert_memory_equal(c->T, c->N, 16 * sizeof(double));
    assert_null(change_find(plan->change, slot_id(3))); /* no rows: nothing to turn */
    assert_null(change_find(plan->change, slot_id(4))); /* one row: no directions */
    plan_destroy(&plan);
}

static void a_slot_that_goes_entirely_restores_its_mean(void **state) {
    struct scene *const s = *state;
    s->request.kappa = 1e-9;
    s->request.min_dim = 0;
    struct plan *plan = make(s);
    const struct change_slot *const c = change_find(plan->change, slot_id(0));
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
    with = make(s);
    struct step_stats *const step = &s->stats->steps[0];
    for (size_t i = 0; i < step->n_slots; i++)
        step->slots[i].g[0] = NAN; /* whatever they hold */
    without = make(s);
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
    struct plan *plan = make(s);
    assert_int_equal(plan->n_slots, SLOTS + 1);
    assert_int_equal(plan->slots[SLOTS].after, 4);
    assert_null(change_find(plan->change, 500));
    plan_destroy(&plan);
}

/* ---- what each strategy does ----------------------------------------------------------------- */

static void assert_widths(const struct scene *s, const uint32_t *want) {
    struct plan *plan = make(s);
    for (size_t i = 0; i < SLOTS; i++)
        assert_int_equal(plan->slots[i].after, want[i]);
    plan_destroy(&plan);
}

static void uniform_fills_level_by_level(void **state) {
    struct scene *const s = *state;
    use(s, "uniform");
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
    use(s, "random");
    s->request.min_dim = 0;
    struct plan *first = make(s), *again = make(s);
    s->request.seed++;
    struct plan *other = make(s);
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
    use(s, "magnitude");
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
    struct plan *plan = make(s);
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
        struct slot_stats *const to = stats_add_slot(s->stats, i, 64, false);
        to->rows = rows[i];
        to->lookups = lookups[i];
    }
    use(s, "frequency");
    s->request.basis = BASIS_AXIS;
}

static void assert_ladder(const struct scene *s, const uint32_t *want) {
    struct plan *plan = make(s);
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
    struct plan *plan = make(s);
    for (size_t i = 0; i < 6; i++)
        assert_true(plan->slots[i].after >= 5);
    plan_destroy(&plan);
}

static void frequency_by_power_follows_the_rows(void **state) {
    struct scene *const s = *state;
    const uint64_t rows[] = {1, 10, 100, 1000, 10000, 100000};
    make_ladder(s, rows, (double[]){1, 1, 1, 1, 1, 1});
    give(s, "rule=power");
    s->request.min_dim = 0;
    s->request.kappa = 0.05;
    struct plan *plan = make(s);
    check_sums(s, plan);
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

static void options_are_checked_by_name(void **state) {
    struct scene *const s = *state;
    use(s, "frequency");
    give(s, "rule=best");
    make_fails(s, DIMFIT_ERR_PLUGIN, "strategy 'frequency': its option `rule`");
    give(s, "rule=a-rule-that-is-much-too-long");
    make_fails(s, DIMFIT_ERR_PLUGIN, "strategy 'frequency': its option `rule`");
    give(s, "rule=rank,depth=3");
    make_fails(s, DIMFIT_ERR_INVALID, "strategy 'frequency' has no use for 'depth=3'");
    give(s, "rule");
    make_fails(s, DIMFIT_ERR_INVALID, "'rule' is not key=value");
    give(s, "rule=rank,,");
    make_fails(s, DIMFIT_ERR_INVALID, "is not key=value");
    use(s, "uniform");
    give(s, "rule=rank");
    make_fails(s, DIMFIT_ERR_INVALID, "strategy 'uniform' has no use for 'rule=rank'");
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void requests_out_of_range_are_refused(void **state) {
    struct scene *const s = *state;
    const double bad[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char says[32];
        snprintf(says, sizeof says, "--kappa %g:", bad[i]);
        s->request.kappa = bad[i];
        make_fails(s, DIMFIT_ERR_INVALID, says);
    }
    s->request.kappa = 0.5;
    s->request.estimator = ESTIMATOR_ROW;
    make_fails(s, DIMFIT_ERR_INVALID, "--estimator row");
    s->request.estimator = ESTIMATOR_STEP;
    s->request.min_dim = 513;
    make_fails(s, DIMFIT_ERR_INVALID, "--min-dim 513");
    s->request.min_dim = 1;
    use(s, "gradient");
    make_fails(s, DIMFIT_ERR_NOT_FOUND, "no strategy 'gradient'");
    use(s, "");
    make_fails(s, DIMFIT_ERR_INVALID, "--strategy");
}

static void floors_over_the_budget_are_refused_with_a_way_out(void **state) {
    struct scene *const s = *state;
    struct plan *plan = NULL;
    struct err_detail detail;
    s->request.kappa = 0.2;
    make_fails(s, DIMFIT_ERR_BUDGET, "--min-dim 0");
    assert_int_equal(plan_make(s->layout, s->stats, &s->request, s->strategies, &plan, &detail),
                     DIMFIT_ERR_BUDGET);
    static const char says[] = "smallest feasible --kappa is ";
    s->request.kappa = strtod(strstr(detail.text, says) + sizeof says - 1, NULL);
    assert_true(fabs(s->request.kappa - 87.0 / 307) < 1e-6);
    plan = make(s);
    assert_true(plan->cost_after == 87);
    plan_destroy(&plan);
    s->request.kappa = 0.2;
    s->request.min_dim = 0;
    plan = make(s);
    check_sums(s, plan);
    plan_destroy(&plan);
}

static void statistics_of_another_layout_are_refused(void **state) {
    struct scene *const s = *state;
    s->stats->epoch = 3;
    make_fails(s, DIMFIT_ERR_STALE_EPOCH, "epoch 3");
    s->stats->epoch = 4;
    s->layout->slots[2].width--;
    make_fails(s, DIMFIT_ERR_WIDTH, "slot 13");
}

static void nothing_scored_is_refused_where_scores_decide(void **state) {
    struct scene *const s = *state;
    for (size_t t = 0; t < STEPS; t++)
        assert_int_equal(stats_add_evicted(s->stats, 100 + t), DIMFIT_OK);
    make_fails(s, DIMFIT_ERR_STATE, "nothing was scored");
    use(s, "uniform");
    struct plan *plan = make(s);
    assert_true(plan->kept_score == 0 && plan->slots[0].s[0] == 0);
    plan_destroy(&plan);
}

static void scores_of_the_axes_alone_cannot_be_turned(void **state) {
    struct scene *const s = *state;
    s->stats->steps[3].slots[2].C = NULL;
    make_fails(s, DIMFIT_ERR_STATE, "axis basis only");
    s->request.basis = BASIS_AXIS;
    struct plan *plan = make(s);
    plan_destroy(&plan);
    s->request.basis = BASIS_ROTATED;
    use(s, "magnitude");
    plan = make(s);
    plan_destroy(&plan);
}

static void moments_not_gathered_are_missed_where_needed(void **state) {
    struct scene *const s = *state;
    double *const sum = s->stats->slots[1].sum;
    s->stats->slots[1].sum = NULL;
    make_fails(s, DIMFIT_ERR_STATE, "slot 13");
    use(s, "magnitude");
    s->request.basis = BASIS_AXIS;
    make_fails(s, DIMFIT_ERR_STATE, "slot 13");
    s->stats->slots[1].sum = sum;
}

static void numbers_that_are_not_finite_are_refused_by_slot(void **state) {
    struct scene *const s = *state;
    s->stats->steps[2].slots[3].C[0] = NAN;
    make_fails(s, DIMFIT_ERR_NOT_FINITE, "slot 23");
    s->stats->steps[2].slots[3].C[0] = 0;
    s->request.basis = BASIS_AXIS;
    s->stats->steps[2].slots[1].g[1] = INFINITY;
    make_fails(s, DIMFIT_ERR_NOT_FINITE, "slot 3: the score of unit 1");
    s->stats->steps[2].slots[1].g[1] = 0;
    use(s, "magnitude");
    s->stats->slots[1].second[0] = NAN;
    make_fails(s, DIMFIT_ERR_NOT_FINITE, "slot 13: the norm of unit 0");
    s->request.basis = BASIS_ROTATED;
    s->stats->slots[0].looked_second[0] = NAN;
    make_fails(s, DIMFIT_ERR_NOT_FINITE, "slot 3: the sums over its rows");
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

static void answers(const struct scene *s,
                    int (*plan)(const struct dimfit_strategy_host *,
                                const struct dimfit_strategy_input *, uint8_t *const *),
                    const char *why) {
    const struct dimfit_strategy strategy = {.name = "bad", .plan = plan};
    struct err_detail detail = {""};
    struct plan_slot slots[SLOTS];
    struct plan_fitted fitted[SLOTS] = {{0}};
    uint8_t keep[SLOTS][WIDTH] = {{0}};
    struct plan made = {.request = s->request, .n_slots = SLOTS, .slots = slots};
    for (size_t i = 0; i < SLOTS; i++)
        slots[i] = (struct plan_slot){
            .slot = slot_id(i), .before = s->widths[i], .rows = s->rows[i], .keep = keep[i]};
    struct plan_work work = {
        .plan = &made,
        .fitted = fitted,
        .layout = s->layout,
        .strategy = &strategy,
        .detail = &detail,
    };
    assert_int_equal(plan_choose(&work), DIMFIT_ERR_PLUGIN);
    assert_string_equal(detail.text, why);
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

/* ---- scores without a plan ------------------------------------------------------------------- */

static void scores_are_shown_at_any_time(void **state) {
    struct scene *const s = *state;
    struct plan *scores, *plan;
    s->request.basis = BASIS_AXIS;
    plan = make(s);
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
    for (int estimator = ESTIMATOR_SINGLE; estimator <= ESTIMATOR_ROW; estimator++) {
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

#define PLAN_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        PLAN_TEST(plans_equal_those_worked_out_from_the_rows_by_numpy),
        PLAN_TEST(the_number_of_shards_does_not_matter),
        PLAN_TEST(every_strategy_stays_within_budget_and_floors),
        PLAN_TEST(slots_outside_the_search_are_outside_everything),
        PLAN_TEST(all_that_is_kept_in_the_axis_basis_is_left_alone),
        PLAN_TEST(a_rotation_at_full_width_leaves_the_mean_in_the_rows),
        PLAN_TEST(a_slot_that_goes_entirely_restores_its_mean),
        PLAN_TEST(evicted_steps_are_left_out),
        PLAN_TEST(a_slot_newer_than_the_statistics_stays_whole),
        PLAN_TEST(uniform_fills_level_by_level),
        PLAN_TEST(random_is_its_seed),
        PLAN_TEST(magnitude_keeps_the_longest_columns),
        PLAN_TEST(frequency_spreads_the_ladder_over_the_ranking),
        PLAN_TEST(frequency_by_power_follows_the_rows),
        PLAN_TEST(options_are_checked_by_name),
        PLAN_TEST(requests_out_of_range_are_refused),
        PLAN_TEST(floors_over_the_budget_are_refused_with_a_way_out),
        PLAN_TEST(statistics_of_another_layout_are_refused),
        PLAN_TEST(nothing_scored_is_refused_where_scores_decide),
        PLAN_TEST(scores_of_the_axes_alone_cannot_be_turned),
        PLAN_TEST(moments_not_gathered_are_missed_where_needed),
        PLAN_TEST(numbers_that_are_not_finite_are_refused_by_slot),
        PLAN_TEST(an_answer_that_breaks_the_rules_is_refused),
        PLAN_TEST(scores_are_shown_at_any_time),
        cmocka_unit_test(option_words_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
