#include "tests/unit/plan_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

uint32_t scene_slot_id(size_t i) {
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
            .id = scene_slot_id(i), .dim = s->widths[i], .width = s->widths[i], .search = true};
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

static void curve_part(const struct scene *s, const struct part *part, struct slot_stats *to) {
    const size_t w = s->widths[part->slot];
    for (size_t i = 0; i < w * w; i++)
        to->curvature[i] += part->samples * part->grad[i / w] * part->samples * part->grad[i % w];
    to->curved++;
}

static struct stats *shard_stats(const struct scene *s, size_t shard, size_t shards) {
    struct stats *stats;
    assert_int_equal(stats_new(4, &stats), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot_stats *const slot = stats_add_slot(stats, scene_slot_id(i), 0, s->widths[i],
                                                       true);
        slot->row_score = calloc(WIDTH, sizeof *slot->row_score);
        assert_non_null(slot->row_score);
        assert_true(stats_add_curvature(slot));
        sum_rows(s, shard, shards, i, slot);
    }
    for (size_t t = 0; t < STEPS; t++) {
        struct step_stats *const step = stats_add_step(stats, 100 + t);
        assert_int_equal(step_add_worker(step, 1, PARTS), DIMFIT_OK);
        step_add_slot(step, 1, 0, 1, true)->g[0] = 1e6;
        for (size_t i = 0; i < SLOTS; i++)
            assert_non_null(step_add_slot(step, scene_slot_id(i), 0, s->widths[i], true));
        for (size_t p = 0; p < PARTS; p++) {
            const struct part *const part = &s->part[t][p];
            if (shard_of(part->slot, part->row, shards) != shard)
                continue;
            sum_part(s, part, &step->slots[1 + part->slot], &stats->slots[part->slot]);
            curve_part(s, part, &stats->slots[part->slot]);
        }
    }
    return stats;
}

struct stats *scene_stats(const struct scene *s, size_t shards) {
    struct stats *all = shard_stats(s, 0, shards);
    for (size_t shard = 1; shard < shards; shard++) {
        struct stats *part = shard_stats(s, shard, shards);
        assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
        stats_destroy(&part);
    }
    return all;
}

int scene_set_up(void **state) {
    static const uint32_t widths[SLOTS] = {4, 6, 1, 3, 6, 2, 4};
    static const size_t rows[SLOTS] = {30, 9, 17, 0, 1, 5, 25};
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    memcpy(s->widths, widths, sizeof widths);
    memcpy(s->rows, rows, sizeof rows);
    uint64_t seed = 21;
    make_layout(s);
    make_rows(s, &seed);
    s->stats = scene_stats(s, 1);
    assert_int_equal(strategies_load(STRATEGIES_BUILT, &s->strategies, NULL), DIMFIT_OK);
    plan_request_init(&s->request);
    s->request.kappa = 0.4;
    *state = s;
    return 0;
}

int scene_tear_down(void **state) {
    struct scene *const s = *state;
    layout_destroy(&s->layout);
    stats_destroy(&s->stats);
    strategies_destroy(&s->strategies);
    free(s);
    return 0;
}

double scene_weight(size_t i) {
    return 0.001 * (double)(1 + i * i);
}

/* (r - shift) T N^T + shift; a kept coordinate as it is, the others zero. */
static void lose(const struct change_slot *c, const double *r, double *out) {
    double moved[WIDTH] = {0};
    memset(out, 0, WIDTH * sizeof *out);
    if (c->keep != NULL) {
        for (uint32_t k = 0; k < c->to; k++)
            out[c->keep[k]] = r[c->keep[k]];
        return;
    }
    for (uint32_t j = 0; j < c->from; j++) {
        for (uint32_t k = 0; k < c->to; k++)
            moved[k] += (r[j] - (c->shift != NULL ? c->shift[j] : 0)) * c->T[j * c->to + k];
    }
    for (uint32_t j = 0; j < c->from; j++) {
        out[j] = c->shift != NULL ? c->shift[j] : 0;
        for (uint32_t k = 0; k < c->to; k++)
            out[j] += moved[k] * c->N[j * c->to + k];
    }
}

double scene_loss(const struct scene *s, const struct change *change) {
    double loss = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        const struct change_slot *const c = change_find(change, scene_slot_id(i));
        for (size_t f = 0; c != NULL && f < s->rows[i]; f++) {
            double out[WIDTH];
            lose(c, s->row[i][f].r, out);
            for (size_t k = 0; k < s->widths[i]; k++) {
                const double lost = s->row[i][f].r[k] - out[k];
                loss += scene_weight(i) * s->row[i][f].count * lost * lost;
            }
        }
    }
    return loss;
}

size_t scene_answer(const struct scene *s, struct trials *trials) {
    size_t answered = 0;
    for (size_t t = 0; t < trials->n; t++) {
        struct trial *const trial = &trials->all[t];
        if (trial->known)
            continue;
        const double loss = scene_loss(s, trial->change);
        const struct trial_figures figures = {0.5 + loss, 0.75 - loss / 1e3, 0.5, 0.75, 1e-6};
        trials_answer(trials, trial, &figures, trial->samples);
        answered++;
    }
    return answered;
}

struct plan *scene_plan(const struct scene *s) {
    struct plan *plan = NULL;
    struct err_detail detail = {""};
    struct trials trials;
    trials_init(&trials);
    for (int turn = 0; plan == NULL; turn++) {
        assert_true(turn < 20);
        if (plan_try(s->layout, s->stats, &s->request, s->strategies, &trials, &plan, &detail) !=
            DIMFIT_OK)
            fail_msg("%s: %s", s->request.strategy, detail.text);
        assert_true((scene_answer(s, &trials) == 0) == (plan != NULL));
    }
    trials_fini(&trials);
    return plan;
}

void scene_refuses(const struct scene *s, dimfit_err err, const char *what) {
    struct plan *plan = NULL;
    struct err_detail detail = {""};
    assert_int_equal(plan_make(s->layout, s->stats, &s->request, s->strategies, &plan, &detail),
                     err);
    if (strstr(detail.text, what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", detail.text, what);
    assert_null(plan);
}

bool scene_suits(const struct scene *s) {
    const struct dimfit_strategy *const strategy = strategies_find(s->strategies,
                                                                   s->request.strategy);
    return s->request.basis != BASIS_AXIS || (strategy->needs & DIMFIT_NEEDS_SPECTRUM) == 0;
}

void scene_use(struct scene *s, const char *strategy) {
    memset(s->request.strategy, 0, sizeof s->request.strategy);
    memcpy(s->request.strategy, strategy, strlen(strategy));
}

void scene_give(struct scene *s, const char *options) {
    memset(s->request.options, 0, sizeof s->request.options);
    memcpy(s->request.options, options, strlen(options));
}

void scene_check_sums(const struct scene *s, const struct plan *plan) {
    uint64_t before = 0, after = 0;
    for (size_t i = 0; i < plan->n_slots; i++) {
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
