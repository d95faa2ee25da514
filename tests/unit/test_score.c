#include "server/score.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct score *make(uint64_t max_bytes, bool moments, bool searching) {
    struct score *score = NULL;
    assert_int_equal(score_new(max_bytes, &score), DIMFIT_OK);
    score_restart(score, moments ? SCORE_KEEP_MOMENTS : 0, searching);
    return score;
}

static dimfit_err open_one(struct score *score, uint64_t step, uint64_t worker, uint64_t samples,
                           uint32_t slot, uint32_t width, struct score_step **out) {
    struct err_detail detail = {{0}};
    const struct score_part part = {slot, 0, width, true};
    const dimfit_err err = score_open(score, step, worker, samples, &part, 1, out, &detail);
    assert_true((err == DIMFIT_ERR_LIMIT) == (detail.text[0] != '\0'));
    return err;
}

/* One more to the first coordinate of a step's slot. */
static void add(struct score *score, uint64_t step, uint64_t worker, uint64_t samples,
                uint32_t slot, double value) {
    struct score_step *opened;
    assert_int_equal(open_one(score, step, worker, samples, slot, 2, &opened), DIMFIT_OK);
    const struct score_sums sums = score_sums_of(score, opened, slot, 0);
    sums.g[0] += value;
    sums.row[1] += value;
}

static bool is_unscored(const struct slot_stats *slot) {
    return slot->row_score == NULL || (slot->row_score[0] == 0 && slot->row_score[1] == 0);
}

static struct stats *export(const struct score *score, const uint32_t *slots, size_t n) {
    struct stats *stats = NULL;
    assert_int_equal(stats_new(4, &stats), DIMFIT_OK);
    for (size_t i = 0; i < n; i++)
        assert_non_null(stats_add_slot(stats, slots[i], 0, 2, false));
    assert_int_equal(score_export(score, stats), DIMFIT_OK);
    return stats;
}

static void steps_are_exported_in_ascending_order_with_their_slots(void **state) {
    struct score *score = make(1 << 20, false, true);
    add(score, 30, 1, 8, 7, 3);
    add(score, 10, 1, 8, 7, 1);
    add(score, 20, 1, 8, 9, 2);
    add(score, 10, 1, 8, 5, 4);
    add(score, 10, 1, 8, 7, 1);
    static const uint32_t slots[] = {5, 6, 7, 9};
    struct stats *stats = export(score, slots, 4);
    assert_int_equal(stats->n_steps, 3);
    assert_int_equal(stats->steps[0].step, 10);
    assert_int_equal(stats->steps[1].step, 20);
    assert_int_equal(stats->steps[2].step, 30);
    assert_int_equal(stats->steps[0].n_slots, 2);
    assert_int_equal(stats->steps[0].slots[0].slot, 5);
    assert_true(stats->steps[0].slots[0].g[0] == 4);
    assert_int_equal(stats->steps[0].slots[1].slot, 7);
    assert_true(stats->steps[0].slots[1].g[0] == 2);
    assert_null(stats->steps[0].slots[1].C);
    assert_true(stats->slots[0].row_score[1] == 4);
    assert_true(is_unscored(&stats->slots[1]));
    assert_true(stats->slots[2].row_score[1] == 5);
    assert_true(stats->slots[3].row_score[1] == 2);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void moments_have_their_place_in_a_step(void **state) {
    enum { WIDTH = 3 };
    struct score *score = make(1 << 20, true, true);
    struct score_step *step;
    assert_int_equal(open_one(score, 1, 1, 1, 4, WIDTH, &step), DIMFIT_OK);
    const struct score_sums sums = score_sums_of(score, step, 4, 0);
    assert_true(sums.scale == 1);
    for (int i = 0; i < WIDTH; i++) {
        sums.g[i] = 1 + i;
        sums.b[i] = 10 + i;
    }
    for (int i = 0; i < WIDTH * WIDTH; i++)
        sums.C[i] = 100 + i;
    struct stats *stats = export(score, NULL, 0);
    const struct step_slot *const slot = &stats->steps[0].slots[0];
    for (int i = 0; i < WIDTH; i++)
        assert_true(slot->g[i] == 1 + i && slot->b[i] == 10 + i);
    for (int i = 0; i < WIDTH * WIDTH; i++)
        assert_true(slot->C[i] == 100 + i);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void a_slot_named_twice_is_opened_once(void **state) {
    struct score *score = make(1 << 20, false, true);
    static const struct score_part parts[] = {
        {9, 0, 2, true}, {2, 0, 3, true}, {9, 0, 2, true}, {2, 0, 3, true}, {4, 0, 0, true}};
    struct score_step *step;
    assert_int_equal(score_open(score, 1, 1, 1, parts, 5, &step, NULL), DIMFIT_OK);
    score_sums_of(score, step, 9, 0).g[1] = 6;
    score_sums_of(score, step, 2, 0).g[2] = 7;
    const uint64_t bytes = score_bytes(score);
    assert_int_equal(score_open(score, 1, 1, 1, parts, 5, &step, NULL), DIMFIT_OK);
    assert_int_equal(score_bytes(score), bytes);
    struct stats *stats = export(score, NULL, 0);
    assert_int_equal(stats->steps[0].n_slots, 3);
    assert_int_equal(stats->steps[0].slots[0].slot, 2);
    assert_true(stats->steps[0].slots[0].g[2] == 7);
    assert_int_equal(stats->steps[0].slots[1].width, 0);
    assert_true(stats->steps[0].slots[2].g[1] == 6);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void sums_keep_their_place_while_a_step_gets_more_slots(void **state) {
    struct score *score = make(64 << 20, false, true);
    for (uint32_t slot = 500; slot-- > 0;)
        add(score, 77, 1, 1, slot, slot);
    struct stats *stats = export(score, NULL, 0);
    assert_int_equal(stats->steps[0].n_slots, 500);
    for (uint32_t slot = 0; slot < 500; slot++)
        assert_true(stats->steps[0].slots[slot].g[0] == slot);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void samples_are_the_largest_of_a_worker_and_step(void **state) {
    struct score *score = make(1 << 20, false, true);
    add(score, 1, 5, 100, 7, 1);
    add(score, 1, 5, 60, 7, 1);
    add(score, 1, 5, 120, 7, 1);
    add(score, 1, 6, 50, 7, 1);
    add(score, 2, 5, 30, 7, 1);
    assert_int_equal(score_samples(score), 200);
    assert_int_equal(score_steps(score), 2);
    struct stats *stats = export(score, NULL, 0);
    assert_int_equal(stats_samples(stats), 200);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void a_full_search_refuses_and_changes_nothing(void **state) {
    struct score *score = make(4096, false, true);
    struct score_step *step;
    uint64_t id = 0;
    while (open_one(score, id, 1, 10, 7, 16, &step) == DIMFIT_OK)
        id++;
    assert_true(id > 2);
    const uint64_t steps = score_steps(score), bytes = score_bytes(score);
    assert_int_equal(steps, id);
    assert_int_equal(score_samples(score), 10 * id);
    assert_true(bytes <= 4096);
    assert_int_equal(open_one(score, 0, 1, 99, 8, 500, &step), DIMFIT_ERR_LIMIT);
    assert_int_equal(score_steps(score), steps);
    assert_int_equal(score_bytes(score), bytes);
    assert_int_equal(score_samples(score), 10 * id);
    assert_int_equal(open_one(score, id - 1, 1, 10, 7, 16, &step), DIMFIT_OK);
    struct stats *stats = export(score, NULL, 0);
    assert_int_equal(stats->n_evicted, 0);
    assert_int_equal(stats->steps[0].n_slots, 1);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void outside_a_search_the_oldest_steps_go_and_are_remembered(void **state) {
    struct score *score = make(4096, false, false);
    enum { STEPS = 1000 };
    for (uint64_t id = 0; id < STEPS; id++) {
        add(score, STEPS - id, 1, 10, 7, (double)id);
        assert_true(score_bytes(score) <= 4096);
    }
    const uint64_t kept = score_steps(score);
    assert_true(kept > 2 && kept < 50);
    assert_int_equal(score_samples(score), 10 * kept);
    static const uint32_t slots[] = {7};
    struct stats *stats = export(score, slots, 1);
    assert_int_equal(stats->n_evicted, STEPS - kept);
    assert_int_equal(stats->n_steps, kept);
    assert_int_equal(stats->steps[0].step, 1);
    assert_true(stats->steps[0].slots[0].g[0] == STEPS - 1);
    /* Sums over rows need no steps: they lose nothing. */
    assert_true(stats->slots[0].row_score[1] == STEPS * (STEPS - 1) / 2);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void a_step_makes_room_for_itself_but_never_by_itself(void **state) {
    struct score *score = make(4096, false, false);
    add(score, 1, 1, 1, 7, 5);
    for (uint64_t id = 2; score_steps(score) == id - 1; id++)
        add(score, id, 1, 1, 7, 0);
    const uint64_t oldest = 2;
    struct score_step *step;
    assert_int_equal(open_one(score, oldest, 1, 1, 8, 100, &step), DIMFIT_OK);
    score_sums_of(score, step, 7, 0).g[0] += 1;
    assert_int_equal(open_one(score, oldest, 1, 1, 9, 1000, &step), DIMFIT_ERR_LIMIT);
    score_destroy(&score);
}

static void a_stopped_search_drops_old_steps_again(void **state) {
    struct score *score = make(4096, false, true);
    struct score_step *step;
    uint64_t id = 0;
    while (open_one(score, id, 1, 1, 7, 16, &step) == DIMFIT_OK)
        id++;
    score_stop(score);
    assert_int_equal(score_steps(score), id);
    assert_int_equal(open_one(score, id, 1, 1, 7, 16, &step), DIMFIT_OK);
    struct stats *stats = export(score, NULL, 0);
    assert_true(stats->n_evicted > 0);
    assert_int_equal(stats->evicted[0], 0);
    stats_destroy(&stats);
    score_destroy(&score);
}

static void no_more_than_65536_evicted_ids_are_remembered(void **state) {
    enum { STEPS = 70000 };
    struct score *score = make(2048, false, false);
    for (uint64_t id = 0; id < STEPS; id++)
        add(score, id, 1, 1, 7, 1);
    struct stats *stats = export(score, NULL, 0);
    assert_int_equal(stats->n_evicted, 65536);
    for (size_t i = 0; i < stats->n_evicted; i++)
        assert_true(stats->evicted[i] >= STEPS - 65536 - score_steps(score));
    stats_destroy(&stats);
    score_destroy(&score);
}

static void a_window_keeps_the_last_steps_and_counts_all_samples(void **state) {
    enum { WINDOW = 40, STEPS = 1000 };
    struct score *score = make(1 << 20, false, true);
    score_window(score, WINDOW);
    for (uint64_t id = 1; id <= STEPS; id++)
        add(score, id, 1, 3, 7, (double)id);
    assert_true(score_steps(score) >= WINDOW && score_steps(score) <= 2 * WINDOW);
    assert_int_equal(score_samples(score), 3 * STEPS);
    static const uint32_t slots[] = {7};
    struct stats *stats = export(score, slots, 1);
    for (uint64_t id = STEPS - WINDOW + 1; id <= STEPS; id++) {
        const struct step_stats *const step = &stats->steps[stats->n_steps - 1 - (STEPS - id)];
        assert_true(step->step == id && step->slots[0].g[0] == (double)id);
        assert_false(stats_step_evicted(stats, id));
    }
    assert_true(stats_step_evicted(stats, 1));
    stats_destroy(&stats);
    score_restart(score, 0, true); /* and no window */
    for (uint64_t id = 1; id <= STEPS; id++)
        add(score, id, 1, 3, 7, 1);
    assert_int_equal(score_steps(score), STEPS);
    score_destroy(&score);
}

static void a_restart_forgets_everything(void **state) {
    struct score *score = make(4096, false, false);
    for (uint64_t id = 0; id < 100; id++)
        add(score, id, 1, 1, 7, 1);
    score_restart(score, SCORE_KEEP_MOMENTS, true);
    assert_int_equal(score_steps(score), 0);
    assert_int_equal(score_samples(score), 0);
    assert_int_equal(score_bytes(score), 0);
    struct score_step *step;
    assert_int_equal(open_one(score, 5, 1, 1, 7, 5, &step), DIMFIT_OK); /* another width */
    assert_non_null(score_sums_of(score, step, 7, 0).C);
    assert_true(score_sums_of(score, step, 7, 0).g[0] == 0);
    static const uint32_t slots[] = {8};
    struct stats *stats = export(score, slots, 1);
    assert_int_equal(stats->n_evicted, 0);
    assert_true(is_unscored(&stats->slots[0]));
    stats_destroy(&stats);
    score_destroy(&score);
}

static void many_steps_are_found_again_in_any_order(void **state) {
    enum { STEPS = 5000 };
    struct score *score = make(64 << 20, false, true);
    for (uint64_t id = 0; id < STEPS; id++)
        add(score, id << 40, 1, 1, 7, (double)id);
    for (uint64_t id = STEPS; id-- > 0;)
        add(score, id << 40, 1, 1, 7, 1);
    assert_int_equal(score_steps(score), STEPS);
    struct stats *stats = export(score, NULL, 0);
    for (uint64_t id = 0; id < STEPS; id++)
        assert_true(stats->steps[id].slots[0].g[0] == (double)id + 1);
    stats_destroy(&stats);
    score_destroy(&score);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_exported_in_ascending_order_with_their_slots),
        cmocka_unit_test(moments_have_their_place_in_a_step),
        cmocka_unit_test(a_slot_named_twice_is_opened_once),
        cmocka_unit_test(sums_keep_their_place_while_a_step_gets_more_slots),
        cmocka_unit_test(samples_are_the_largest_of_a_worker_and_step),
        cmocka_unit_test(a_full_search_refuses_and_changes_nothing),
        cmocka_unit_test(outside_a_search_the_oldest_steps_go_and_are_remembered),
        cmocka_unit_test(a_step_makes_room_for_itself_but_never_by_itself),
        cmocka_unit_test(a_stopped_search_drops_old_steps_again),
        cmocka_unit_test(no_more_than_65536_evicted_ids_are_remembered),
        cmocka_unit_test(a_window_keeps_the_last_steps_and_counts_all_samples),
        cmocka_unit_test(a_restart_forgets_everything),
        cmocka_unit_test(many_steps_are_found_again_in_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
