#include "server/plan_grow.h"
#include "tests/unit/plan_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DIM = 12 };

static struct layout_slot *slot_of(const struct scene *s, size_t i) {
    for (size_t at = 0; at < s->layout->n_slots; at++) {
        if (s->layout->slots[at].id == scene_slot_id(i))
            return &s->layout->slots[at];
    }
    fail();
    return NULL;
}

/* Slots of axes have nothing that depends on their dim but the dim itself. */
static void make_room(struct scene *s) {
    for (size_t i = 0; i < SLOTS; i++)
        slot_of(s, i)->dim = DIM;
    s->request.grow = true;
    s->request.kappa = 1;
}

static void a_slot_grows_to_the_next_candidate_at_most(void **state) {
    assert_int_equal(grow_room(0, 32), 1);
    assert_int_equal(grow_room(1, 32), 3);
    assert_int_equal(grow_room(5, 32), 3);
    assert_int_equal(grow_room(8, 32), 8);
    assert_int_equal(grow_room(9, 12), 3);
    assert_int_equal(grow_room(32, 32), 0);
    assert_int_equal(grow_room(64, 128), 0);
}

/* The rule as its header says it: every unit, there or not, in one list. */
struct offer {
    double value;
    size_t slot, k;
};

static int by_value(const void *a, const void *b) {
    const struct offer *const x = a, *const y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    return x->k < y->k ? -1 : 1;
}

static void choose_plainly(const struct scene *s, const struct plan *plan, uint32_t *after) {
    struct offer offers[SLOTS * DIM];
    double left = s->request.kappa * plan->cost_before;
    size_t n = 0;
    uint32_t owed[SLOTS];
    for (size_t i = 0; i < SLOTS; i++) {
        const struct plan_slot *const p = &plan->slots[i];
        double best[WIDTH] = {0};
        owed[i] = p->before < s->request.min_dim ? p->before : s->request.min_dim;
        left -= (double)(owed[i] * p->rows);
        after[i] = 0;
        for (size_t k = 0; k < p->before; k++) {
            size_t at = k;
            for (; at > 0 && best[at - 1] < p->s[k]; at--)
                best[at] = best[at - 1];
            best[at] = p->s[k];
        }
        const uint32_t next = p->before < 4 ? (p->before < 1 ? 1 : 4) : 8;
        const size_t there = p->before, end = p->rows > 0 && best[0] > 0 ? next : there;
        for (size_t k = 1; k <= end; k++) {
            const size_t half = (k + 1) / 2 < there ? (k + 1) / 2 : there;
            const double least = best[half - 1] / 2;
            if (k <= there || least > 0)
                offers[n++] = (struct offer){k <= there ? fmax(best[k - 1], least) : least, i, k};
        }
    }
    qsort(offers, n, sizeof *offers, by_value);
    for (size_t u = 0; u < n; u++) {
        const size_t i = offers[u].slot;
        const double cost = (double)plan->slots[i].rows;
        if (owed[i] > 0)
            owed[i]--;
        else if (cost <= left)
            left -= cost;
        else
            continue;
        after[i]++;
    }
}

static void weak_units_make_room_for_what_strong_slots_promise(void **state) {
    struct scene *const s = *state;
    make_room(s);
    const double kappas[] = {1, 0.6, 1.7, 50};
    bool grown = false, shrunk = false;
    for (size_t q = 0; q < 2 * ARRAY_LEN(kappas); q++) {
        s->request.kappa = kappas[q / 2];
        s->request.basis = q % 2 == 0 ? BASIS_AXIS : BASIS_ROTATED;
        struct plan *const plan = scene_plan(s);
        uint32_t want[SLOTS];
        choose_plainly(s, plan, want);
        for (size_t i = 0; i < SLOTS; i++) {
            const struct plan_slot *const p = &plan->slots[i];
            assert_int_equal(p->after, want[i]);
            grown |= s->request.kappa == 1 && p->after > p->before;
            shrunk |= s->request.kappa == 1 && p->after < p->before;
        }
        assert_true(plan->cost_after <= s->request.kappa * plan->cost_before);
        struct plan *gone = plan;
        plan_destroy(&gone);
    }
    assert_true(grown && shrunk);
}

static void without_growth_kappa_above_one_changes_nothing(void **state) {
    struct scene *const s = *state;
    make_room(s);
    s->request.grow = false;
    s->request.kappa = 3;
    s->request.basis = BASIS_AXIS;
    struct plan *plan = scene_plan(s);
    assert_int_equal(plan->change->n_slots, 0);
    plan_destroy(&plan);
}

/* The next search, where what was earned so far is earned again and new units earn nothing. */
static void search_again(struct scene *s, struct plan **plan, double earned[SLOTS][DIM]) {
    struct stats *stats;
    uint32_t width[SLOTS];
    for (size_t i = 0; i < SLOTS; i++) {
        const struct plan_slot *const p = &(*plan)->slots[i];
        size_t to = 0;
        for (size_t k = 0; k < p->before; k++) {
            if (p->keep[k])
                earned[i][to++] = earned[i][k];
        }
        for (; to < DIM; to++)
            earned[i][to] = 0;
        width[i] = p->after;
        slot_of(s, i)->width = slot_of(s, i)->tier_widths[0] = p->after;
        slot_of(s, i)->axes = realloc(slot_of(s, i)->axes, DIM * sizeof(uint16_t));
        for (uint32_t k = 0; k < p->after; k++)
            slot_of(s, i)->axes[k] = (uint16_t)k;
    }
    assert_int_equal(stats_new(4, &stats), DIMFIT_OK);
    for (size_t i = 0; i < SLOTS; i++)
        stats_add_slot(stats, scene_slot_id(i), 0, width[i], true)->rows = s->rows[i];
    struct step_stats *const step = stats_add_step(stats, 1);
    for (size_t i = 0; i < SLOTS; i++)
        memcpy(step_add_slot(step, scene_slot_id(i), 0, width[i], false)->g, earned[i],
               width[i] * sizeof(double));
    stats_destroy(&s->stats);
    s->stats = stats;
    plan_destroy(plan);
    *plan = scene_plan(s);
}

static void the_layout_settles_where_new_units_earn_nothing(void **state) {
    struct scene *const s = *state;
    double earned[SLOTS][DIM];
    make_room(s);
    s->request.basis = BASIS_AXIS;
    struct plan *plan = scene_plan(s);
    for (size_t i = 0; i < SLOTS; i++)
        memcpy(earned[i], plan->slots[i].g, plan->slots[i].before * sizeof(double));
    size_t searches = 1;
    bool grew = false;
    for (; plan->change->n_slots > 0; searches++) {
        for (size_t i = 0; i < SLOTS; i++)
            grew |= plan->slots[i].added > 0;
        assert_true(searches < 8);
        search_again(s, &plan, earned);
    }
    assert_true(grew && searches > 1);
    plan_destroy(&plan);
}

static void every_strategy_grows_within_the_budget(void **state) {
    struct scene *const s = *state;
    make_room(s);
    for (size_t i = 0; i < strategies_count(s->strategies); i++) {
        scene_use(s, strategies_at(s->strategies, i)->name);
        for (int percent = 30; percent <= 250; percent += 20) {
            s->request.kappa = percent / 100.0;
            s->request.basis = percent % 40 == 10 ? BASIS_AXIS : BASIS_ROTATED;
            if (!scene_suits(s))
                continue;
            struct plan *plan = scene_plan(s);
            struct layout *after;
            assert_true(plan->cost_after <= s->request.kappa * plan->cost_before);
            assert_int_equal(change_apply(plan->change, s->layout, NULL, &after, NULL), DIMFIT_OK);
            for (size_t j = 0; j < SLOTS; j++) {
                const struct layout_slot *const slot = layout_find(after, scene_slot_id(j));
                assert_int_equal(slot->width, plan->slots[j].after);
                assert_true(slot->axes != NULL || plan->request.basis != BASIS_AXIS);
            }
            layout_destroy(&after);
            plan_destroy(&plan);
        }
    }
}

/* ---- directions ------------------------------------------------------------------------------ */

static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

static double quotient(const double *E, const double *x) {
    double up = 0, down = 0;
    for (size_t i = 0; i < DIM; i++) {
        down += x[i] * x[i];
        for (size_t j = 0; j < DIM; j++)
            up += x[i] * E[i * DIM + j] * x[j];
    }
    return up / down;
}

/* M[DIM][w] orthonormal by Gram-Schmidt from random columns. */
static void random_basis(double *M, size_t w, uint64_t *seed) {
    for (size_t k = 0; k < w; k++) {
        for (size_t i = 0; i < DIM; i++)
            M[i * w + k] = draw(seed);
        for (int pass = 0; pass < 2; pass++) {
            for (size_t j = 0; j < k; j++) {
                double dot = 0;
                for (size_t i = 0; i < DIM; i++)
                    dot += M[i * w + j] * M[i * w + k];
                for (size_t i = 0; i < DIM; i++)
                    M[i * w + k] -= dot * M[i * w + j];
            }
        }
        double square = 0;
        for (size_t i = 0; i < DIM; i++)
            square += M[i * w + k] * M[i * w + k];
        for (size_t i = 0; i < DIM; i++)
            M[i * w + k] /= sqrt(square);
    }
}

static void new_directions_are_those_used_most_outside_the_basis(void **state) {
    enum { W = 5, N = 4, RANK = 3 };
    uint64_t seed = 5;
    double M[DIM * W], E[DIM * DIM] = {0}, columns[DIM * N], again[DIM * N], all[DIM * (W + N)];
    random_basis(M, W, &seed);
    for (size_t r = 0; r < RANK; r++) {
        double x[DIM];
        for (size_t i = 0; i < DIM; i++)
            x[i] = draw(&seed);
        for (size_t i = 0; i < DIM * DIM; i++)
            E[i] += (double)(1 + r) * x[i / DIM] * x[i % DIM];
    }
    const struct layout_slot slot = {.id = 1, .dim = DIM, .width = W, .basis = M};
    assert_int_equal(grow_columns(&slot, true, E, N, columns, NULL), DIMFIT_OK);
    assert_int_equal(grow_columns(&slot, true, E, N, again, NULL), DIMFIT_OK);
    assert_memory_equal(columns, again, sizeof columns);
    for (size_t i = 0; i < DIM; i++) {
        memcpy(all + i * (W + N), M + i * W, W * sizeof *all);
        memcpy(all + i * (W + N) + W, columns + i * N, N * sizeof *all);
    }
    assert_true(layout_orthonormal_error(all, DIM, W + N) < 1e-13);
    double first[DIM], used[N];
    for (size_t k = 0; k < N; k++) {
        double x[DIM];
        for (size_t i = 0; i < DIM; i++)
            x[i] = columns[i * N + k];
        used[k] = quotient(E, x);
        memcpy(first, k == 0 ? x : first, sizeof first);
    }
    assert_true(used[0] > used[1] && used[1] > used[2] && used[2] > 1e-3);
    assert_true(fabs(used[3]) < 1e-9); /* three are used, and no more are needed */
    for (int round = 0; round < 2000; round++) {
        double x[DIM];
        for (size_t i = 0; i < DIM; i++)
            x[i] = first[i] + (round % 2 == 0 ? 1 : 0.01) * draw(&seed);
        for (size_t k = 0; k < W; k++) {
            double dot = 0;
            for (size_t i = 0; i < DIM; i++)
                dot += M[i * W + k] * x[i];
            for (size_t i = 0; i < DIM; i++)
                x[i] -= dot * M[i * W + k];
        }
        assert_true(quotient(E, x) <= used[0] * (1 + 1e-12));
    }
}

static void slots_that_grow_together_get_the_same_new_directions(void **state) {
    uint64_t seed = 9;
    double square[4 * 4], M[2][DIM * 4] = {{0}}, columns[2][DIM * 3];
    const double E[DIM * DIM] = {0};
    for (size_t b = 0; b < 2; b++) {
        /* A turn of the first four axes. */
        double turned[DIM * 4];
        random_basis(turned, 4, &seed);
        for (size_t i = 0; i < 16; i++)
            square[i] = turned[i];
        for (size_t k = 0; k < 4; k++) {
            for (int pass = 0; pass < 2; pass++) {
                for (size_t j = 0; j < k; j++) {
                    double dot = 0;
                    for (size_t i = 0; i < 4; i++)
                        dot += square[i * 4 + j] * square[i * 4 + k];
                    for (size_t i = 0; i < 4; i++)
                        square[i * 4 + k] -= dot * square[i * 4 + j];
                }
            }
            double size = 0;
            for (size_t i = 0; i < 4; i++)
                size += square[i * 4 + k] * square[i * 4 + k];
            for (size_t i = 0; i < 4; i++)
                square[i * 4 + k] /= sqrt(size);
        }
        memcpy(M[b], square, sizeof square);
        const struct layout_slot slot = {.id = 1, .dim = DIM, .width = 4, .basis = M[b]};
        assert_int_equal(grow_columns(&slot, false, E, 3, columns[b], NULL), DIMFIT_OK);
    }
    for (size_t i = 0; i < DIM; i++) {
        for (size_t k = 0; k < 3; k++) {
            assert_true(fabs(columns[0][i * 3 + k] - (i == 4 + k)) < 1e-12);
            assert_true(fabs(columns[1][i * 3 + k] - (i == 4 + k)) < 1e-12);
        }
    }
}

static void axes_stay_axes_and_come_by_use(void **state) {
    uint16_t axes[] = {7, 0};
    const struct layout_slot slot = {.id = 1, .dim = DIM, .width = 2, .axes = axes};
    double E[DIM * DIM] = {0}, columns[DIM * 3];
    E[7 * DIM + 7] = 9;
    E[5 * DIM + 5] = 4;
    E[9 * DIM + 9] = 1;
    assert_int_equal(grow_columns(&slot, true, E, 3, columns, NULL), DIMFIT_OK);
    const size_t want[] = {5, 9, 1};
    for (size_t i = 0; i < DIM; i++) {
        for (size_t k = 0; k < 3; k++)
            assert_true(columns[i * 3 + k] == (i == want[k]));
    }
}

/* Of what the change makes of the scene's rows in the k-th new coordinate, over lookups, or over
 * rows where there were none. */
static void moments_of(const struct scene *s, size_t slot, const struct change_slot *c, size_t k,
                       double *mean, double *deviation) {
    double n = 0, sum = 0, square = 0;
    for (size_t f = 0; f < s->rows[slot]; f++) {
        double x = 0;
        for (size_t i = 0; i < c->from; i++)
            x += (s->row[slot][f].r[i] - c->centre[i]) * c->mix[i * c->added + k];
        n += s->row[slot][f].count;
        sum += s->row[slot][f].count * x;
        square += s->row[slot][f].count * x * x;
    }
    assert_true(n > 0);
    *mean = sum / n;
    *deviation = sqrt(square / n - *mean * *mean);
}

static void check_mixes(const struct scene *s, const struct plan *plan, size_t *mixed) {
    for (size_t i = 0; i < SLOTS; i++) {
        const struct change_slot *const c = change_find(plan->change, scene_slot_id(i));
        if (c == NULL || c->added == 0)
            continue;
        const double scale = layout_find(s->layout, c->id)->init_scale;
        assert_false(c->drawn);
        assert_non_null(c->mix);
        for (size_t k = 0; k < c->added; k++) {
            double mean, deviation;
            if (s->rows[i] < 2) { /* nothing that varies */
                for (size_t j = 0; j < c->from; j++)
                    assert_true(c->mix[j * c->added + k] == 0);
                continue;
            }
            moments_of(s, i, c, k, &mean, &deviation);
            assert_true(fabs(mean) < 1e-12);
            assert_true(fabs(deviation - scale) < 1e-10);
            (*mixed)++;
        }
    }
}

static void linear_directions_are_of_mean_zero_and_the_initial_scale_over_lookups(void **state) {
    struct scene *const s = *state;
    struct layout *after = NULL;
    size_t mixed = 0;
    make_room(s);
    s->request.grow_init = GROW_INIT_LINEAR;
    s->request.kappa = 3;
    for (size_t i = 0; i < SLOTS; i++)
        slot_of(s, i)->init_scale = 0.02f * (float)(1 + i);
    for (int basis = BASIS_AXIS; basis <= BASIS_KFAC; basis++) {
        s->request.basis = (enum basis)basis;
        struct plan *plan = scene_plan(s), *again = scene_plan(s);
        check_mixes(s, plan, &mixed);
        struct buf one, two;
        buf_init(&one);
        buf_init(&two);
        change_encode(plan->change, &one);
        change_encode(again->change, &two);
        assert_int_equal(one.len, two.len);
        assert_memory_equal(one.data, two.data, one.len);
        buf_fini(&one);
        buf_fini(&two);
        assert_int_equal(change_apply(plan->change, s->layout, NULL, &after, NULL), DIMFIT_OK);
        layout_destroy(&after);
        plan_destroy(&plan);
        plan_destroy(&again);
    }
    assert_true(mixed > 20);
}

static void linear_directions_need_the_moments_of_rows_and_differ_by_seed(void **state) {
    struct scene *const s = *state;
    make_room(s);
    s->request.basis = BASIS_AXIS;
    s->request.grow_init = GROW_INIT_LINEAR;
    s->request.kappa = 3;
    struct plan *plan = scene_plan(s);
    s->request.seed++;
    struct plan *other = scene_plan(s);
    assert_true(plan->change->n_slots > 0 && plan->change->n_slots == other->change->n_slots);
    for (size_t i = 0; i < plan->change->n_slots; i++) {
        const struct change_slot *const a = &plan->change->slots[i], *const b =
                                                                         &other->change->slots[i];
        if (a->mix != NULL && a->mix[0] != 0)
            assert_true(a->mix[0] != b->mix[0]);
    }
    plan_destroy(&plan);
    plan_destroy(&other);
    for (size_t i = 0; i < s->stats->n_slots; i++) {
        free(s->stats->slots[i].sum); /* one block */
        s->stats->slots[i].sum = s->stats->slots[i].second = NULL;
        s->stats->slots[i].looked_sum = s->stats->slots[i].looked_second = NULL;
    }
    scene_refuses(s, DIMFIT_ERR_STATE, "the sums over its rows were not gathered");
}

static void ftrl_slots_grow_by_drawn_values_only(void **state) {
    struct scene *const s = *state;
    make_room(s);
    s->request.basis = BASIS_AXIS;
    slot_of(s, 1)->optimizer.kind = OPTIMIZER_FTRL;
    s->request.grow_init = GROW_INIT_ZERO;
    scene_refuses(s, DIMFIT_ERR_INVALID, "slot 13 (slot 1): ftrl grows by drawn values only");
    s->request.grow_init = GROW_INIT_LINEAR;
    scene_refuses(s, DIMFIT_ERR_INVALID, "slot 13 (slot 1): ftrl grows by drawn values only");
    s->request.grow_init = GROW_INIT_DRAWN;
    struct plan *plan = scene_plan(s);
    for (size_t i = 0; i < plan->change->n_slots; i++)
        assert_true(plan->change->slots[i].added == 0 || plan->change->slots[i].drawn);
    plan_destroy(&plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_grows_to_the_next_candidate_at_most),
        PLAN_TEST(weak_units_make_room_for_what_strong_slots_promise),
        PLAN_TEST(without_growth_kappa_above_one_changes_nothing),
        PLAN_TEST(the_layout_settles_where_new_units_earn_nothing),
        PLAN_TEST(every_strategy_grows_within_the_budget),
        cmocka_unit_test(new_directions_are_those_used_most_outside_the_basis),
        cmocka_unit_test(slots_that_grow_together_get_the_same_new_directions),
        cmocka_unit_test(axes_stay_axes_and_come_by_use),
        PLAN_TEST(linear_directions_are_of_mean_zero_and_the_initial_scale_over_lookups),
        PLAN_TEST(linear_directions_need_the_moments_of_rows_and_differ_by_seed),
        PLAN_TEST(ftrl_slots_grow_by_drawn_values_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
