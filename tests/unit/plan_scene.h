/*
 * A made-up model to plan for: rows, lookups and gradients, and the statistics that any number of
 * shards would have of them. Shared by the tests of planning.
 */
#ifndef TESTS_PLAN_SCENE_H
#define TESTS_PLAN_SCENE_H

#include "server/plan.h"

enum { SLOTS = 7, WIDTH = 6, ROWS = 30, STEPS = 9, PARTS = 60 };

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

uint32_t scene_slot_id(size_t i);

/* cmocka's set-up and tear-down: *state is a struct scene of one shard, kappa 0.4. */
int scene_set_up(void **state);
int scene_tear_down(void **state);

struct stats *scene_stats(const struct scene *s, size_t shards);

/* What a trial costs in the scene: per slot, its weight times the sum over lookups of |r - r'|^2.
 */
double scene_weight(size_t i);
double scene_loss(const struct scene *s, const struct change *change);

/* Answer all trials asked for. Returns how many there were. */
size_t scene_answer(const struct scene *s, struct trials *trials);

/* A plan that must succeed, its trials answered, and one that must fail with a detail that says
 * `what`. */
struct plan *scene_plan(const struct scene *s);
void scene_refuses(const struct scene *s, dimfit_err err, const char *what);

/* The strategy takes the basis that is asked for. */
bool scene_suits(const struct scene *s);
void scene_use(struct scene *s, const char *strategy);
void scene_give(struct scene *s, const char *options);

/* Widths, costs and budget of a plan that counts parameters agree. */
void scene_check_sums(const struct scene *s, const struct plan *plan);

#define PLAN_TEST(name) cmocka_unit_test_setup_teardown(name, scene_set_up, scene_tear_down)

#endif
