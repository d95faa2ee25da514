#include "server/budget.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SLOTS = 6, WIDTH = 5 };

/* A budget, priorities and room for an answer. */
struct scene {
    struct budget budget;
    uint32_t widths[SLOTS];
    uint64_t costs[SLOTS];
    double priority[SLOTS][WIDTH];
    uint8_t keep[SLOTS][WIDTH];
    const double *priority_rows[SLOTS];
    uint8_t *keep_rows[SLOTS];
};

static void set_up(struct scene *s, size_t n_slots) {
    *s = (struct scene){.budget = {.n_slots = n_slots, .widths = s->widths, .unit_cost = s->costs}};
    for (size_t i = 0; i < SLOTS; i++) {
        s->priority_rows[i] = s->priority[i];
        s->keep_rows[i] = s->keep[i];
    }
}

static dimfit_err open(struct scene *s, double kappa, uint32_t min_dim) {
    s->budget.kappa = kappa;
    s->budget.min_dim = min_dim;
    return budget_open(&s->budget, NULL);
}

static void assert_keep(const struct scene *s, size_t slot, const char *want) {
    char got[WIDTH + 1] = "";
    for (size_t k = 0; k < s->widths[slot]; k++)
        got[k] = s->keep[slot][k] ? '1' : '0';
    assert_string_equal(got, want);
}

static void choose(struct scene *s) {
    assert_int_equal(budget_select(&s->budget, s->priority_rows, s->keep_rows), DIMFIT_OK);
}

static void the_limit_never_exceeds_kappa_times_the_whole(void **state) {
    assert_int_equal(budget_limit(1, 12345), 12345);
    assert_int_equal(budget_limit(7.5, 12346), 92595);
    assert_int_equal(budget_limit(2, UINT64_MAX), UINT64_MAX);
    assert_int_equal(budget_limit(0.25, 100), 25);
    assert_int_equal(budget_limit(0.7, 10), 7);
    assert_int_equal(budget_limit(0.5, 1), 0);
    assert_int_equal(budget_limit(1e-300, UINT64_MAX), 0);
    assert_int_equal(budget_limit(0.1, 0), 0);
    for (uint64_t whole = 1; whole < 3000; whole += 7) {
        for (int i = 1; i < 100; i++) {
            const double kappa = i / 100.0;
            const uint64_t limit = budget_limit(kappa, whole);
            assert_true((double)limit <= kappa * (double)whole);
            assert_true((double)(limit + 1) > kappa * (double)whole);
        }
    }
    assert_true(budget_limit(0.9999999999999999, UINT64_MAX) < UINT64_MAX);
}

static void the_best_units_that_fit_are_kept(void **state) {
    struct scene s;
    set_up(&s, 2);
    s.widths[0] = s.widths[1] = 3;
    s.costs[0] = 10;
    s.costs[1] = 3;
    memcpy(s.priority[0], (double[]){5, 1, 4}, 3 * sizeof(double));
    memcpy(s.priority[1], (double[]){2, 3, 0}, 3 * sizeof(double));
    assert_int_equal(open(&s, 19.0 / 39, 0), DIMFIT_OK);
    assert_int_equal(s.budget.whole, 39);
    assert_int_equal(s.budget.limit, 19);
    choose(&s);
    /* 5 costs 10; 4 would cost 20 and is skipped; 3, 2 and 0 cost 9 together. */
    assert_keep(&s, 0, "100");
    assert_keep(&s, 1, "111");
    assert_int_equal(budget_cost(&s.budget, s.keep_rows), 19);
}

static void ties_go_to_the_lower_slot_then_the_lower_unit(void **state) {
    struct scene s;
    set_up(&s, 2);
    s.widths[0] = s.widths[1] = 2;
    s.costs[0] = s.costs[1] = 1;
    s.priority[0][0] = -0.0; /* as good as 0 */
    assert_int_equal(open(&s, 0.75, 0), DIMFIT_OK);
    choose(&s);
    assert_keep(&s, 0, "11");
    assert_keep(&s, 1, "10");
}

static void floors_come_first_and_are_a_slots_best(void **state) {
    struct scene s;
    set_up(&s, 3);
    memcpy(s.widths, (uint32_t[]){3, 3, 1}, 3 * sizeof(uint32_t));
    memcpy(s.costs, (uint64_t[]){1, 5, 2}, 3 * sizeof(uint64_t));
    memcpy(s.priority[0], (double[]){9, 8, 7}, 3 * sizeof(double));
    memcpy(s.priority[1], (double[]){-3, -1, -2}, 3 * sizeof(double));
    s.priority[2][0] = -INFINITY;
    assert_int_equal(open(&s, 14.0 / 20, 2), DIMFIT_OK);
    choose(&s);
    assert_int_equal(s.budget.floors, 2 + 10 + 2);
    assert_keep(&s, 0, "110");
    assert_keep(&s, 1, "011");
    assert_keep(&s, 2, "1");
}

static void units_of_no_priority_are_left_even_where_they_fit(void **state) {
    struct scene s;
    set_up(&s, 2);
    s.widths[0] = s.widths[1] = 2;
    s.costs[0] = 1; /* the other slot has no rows: its units are free */
    s.priority[0][1] = s.priority[1][1] = -INFINITY;
    for (int density = 0; density < 2; density++) {
        s.budget.by_density = density;
        assert_int_equal(open(&s, 1, 0), DIMFIT_OK);
        choose(&s);
        assert_keep(&s, 0, "10");
        assert_keep(&s, 1, "10");
    }
}

static void density_divides_by_the_cost(void **state) {
    struct scene s;
    set_up(&s, 3);
    s.widths[0] = s.widths[1] = s.widths[2] = 1;
    memcpy(s.costs, (uint64_t[]){10, 2, 0}, 3 * sizeof(uint64_t));
    s.priority[0][0] = 10;
    s.priority[1][0] = 3;
    s.priority[2][0] = 0;
    assert_int_equal(open(&s, 10.0 / 12, 0), DIMFIT_OK);
    choose(&s);
    assert_keep(&s, 0, "1");
    assert_keep(&s, 1, "0");
    s.budget.by_density = true;
    choose(&s);
    assert_keep(&s, 0, "0");
    assert_keep(&s, 1, "1");
    assert_keep(&s, 2, "1"); /* costs nothing: infinitely dense */
}

static void floors_over_the_budget_name_a_kappa_that_is_enough(void **state) {
    uint64_t seed = 1;
    for (int i = 0; i < 2000; i++) {
        struct scene s;
        set_up(&s, SLOTS);
        for (size_t slot = 0; slot < SLOTS; slot++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            s.widths[slot] = 1 + (seed >> 60) % WIDTH;
            s.costs[slot] = (seed >> 20 & 0xffffff) >> (seed >> 50 & 15);
        }
        s.costs[0]++;
        struct err_detail detail;
        s.budget.kappa = 1e-12;
        s.budget.min_dim = 1;
        assert_int_equal(budget_open(&s.budget, &detail), DIMFIT_ERR_BUDGET);
        assert_non_null(strstr(detail.text, "--min-dim 0"));
        static const char says[] = "smallest feasible --kappa is ";
        const char *const at = strstr(detail.text, says);
        assert_non_null(at);
        const double kappa = strtod(at + sizeof says - 1, NULL);
        const double least = (double)s.budget.floors / (double)s.budget.whole;
        assert_true(kappa >= least * (1 - 1e-15) && kappa <= least * (1 + 1e-5));
        assert_int_equal(open(&s, kappa, 1), DIMFIT_OK);
    }
}

static void costs_that_no_number_holds_are_refused(void **state) {
    struct scene s;
    set_up(&s, 2);
    s.widths[0] = 2;
    s.costs[0] = UINT64_C(1) << 63;
    assert_int_equal(open(&s, 0.5, 0), DIMFIT_ERR_LIMIT);
    s.widths[0] = s.widths[1] = 1;
    s.costs[1] = UINT64_C(1) << 63;
    assert_int_equal(open(&s, 0.5, 0), DIMFIT_ERR_LIMIT);
}

static void a_priority_that_is_no_number_is_refused(void **state) {
    struct scene s;
    set_up(&s, 1);
    s.widths[0] = 2;
    s.costs[0] = 1;
    s.priority[0][1] = NAN;
    s.keep[0][0] = 7;
    assert_int_equal(open(&s, 1, 0), DIMFIT_OK);
    assert_int_equal(budget_select(&s.budget, s.priority_rows, s.keep_rows), DIMFIT_ERR_INVALID);
    assert_int_equal(s.keep[0][0], 7);
}

/* The rule as the design says it, one unit at a time. */
static void select_plainly(const struct scene *s, uint8_t keep[SLOTS][WIDTH]) {
    bool done[SLOTS][WIDTH] = {{false}};
    uint32_t kept[SLOTS] = {0};
    uint64_t spent = 0, units = 0;
    for (size_t i = 0; i < s->budget.n_slots; i++) {
        units += s->widths[i];
        for (uint32_t f = 0; f < budget_floor(&s->budget, i); f++)
            spent += s->costs[i];
    }
    for (; units > 0; units--) {
        size_t best_i = 0, best_k = 0;
        double best = 0;
        bool any = false;
        for (size_t i = 0; i < s->budget.n_slots; i++) {
            for (size_t k = 0; k < s->widths[i]; k++) {
                double p = s->priority[i][k];
                if (s->budget.by_density)
                    p = s->costs[i] == 0 ? INFINITY : p / (double)s->costs[i];
                if (!done[i][k] && (!any || p > best)) {
                    any = true;
                    best = p;
                    best_i = i;
                    best_k = k;
                }
            }
        }
        done[best_i][best_k] = true;
        const bool is_floor = kept[best_i] < budget_floor(&s->budget, best_i);
        keep[best_i][best_k] = is_floor || spent + s->costs[best_i] <= s->budget.limit;
        kept[best_i] += keep[best_i][best_k];
        spent += keep[best_i][best_k] && !is_floor ? s->costs[best_i] : 0;
    }
}

static void the_selection_is_that_of_the_plain_rule(void **state) {
    uint64_t seed = 3;
    int feasible = 0;
    for (int round = 0; round < 3000; round++) {
        struct scene s;
        set_up(&s, 1 + (size_t)round % SLOTS);
        for (size_t i = 0; i < s.budget.n_slots; i++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            s.widths[i] = (seed >> 58) % (WIDTH + 1);
            s.costs[i] = (seed >> 40) % 40;
            for (size_t k = 0; k < s.widths[i]; k++) {
                seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                s.priority[i][k] = (double)((int)(seed >> 59) - 10) / 4; /* many ties */
            }
        }
        s.budget.by_density = round % 3 == 0;
        if (open(&s, (double)(seed >> 44 & 1023) / 1000 + 0.001, (uint32_t)(round % 3)) !=
            DIMFIT_OK)
            continue;
        feasible++;
        uint8_t want[SLOTS][WIDTH] = {{0}};
        select_plainly(&s, want);
        choose(&s);
        for (size_t i = 0; i < s.budget.n_slots; i++)
            assert_memory_equal(s.keep[i], want[i], s.widths[i]);
        assert_true(budget_cost(&s.budget, s.keep_rows) <= s.budget.limit);
    }
    assert_true(feasible > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_never_exceeds_kappa_times_the_whole),
        cmocka_unit_test(the_best_units_that_fit_are_kept),
        cmocka_unit_test(ties_go_to_the_lower_slot_then_the_lower_unit),
        cmocka_unit_test(floors_come_first_and_are_a_slots_best),
        cmocka_unit_test(units_of_no_priority_are_left_even_where_they_fit),
        cmocka_unit_test(density_divides_by_the_cost),
        cmocka_unit_test(floors_over_the_budget_name_a_kappa_that_is_enough),
        cmocka_unit_test(costs_that_no_number_holds_are_refused),
        cmocka_unit_test(a_priority_that_is_no_number_is_refused),
        cmocka_unit_test(the_selection_is_that_of_the_plain_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
