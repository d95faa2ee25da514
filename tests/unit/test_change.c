#include "proto/change.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DIM = 5 };

static struct layout *layout_of(const uint32_t *ids, size_t n) {
    struct layout *layout;
    assert_int_equal(layout_new(3, 1, &layout), DIMFIT_OK);
    for (size_t i = 0; i < n; i++) {
        struct layout_slot slot = {.id = ids[i], .dim = DIM, .width = DIM, .search = true};
        slot.name[0] = (char)('a' + i);
        assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
    }
    return layout;
}

static struct layout *one_slot(void) {
    return layout_of((uint32_t[]){9}, 1);
}

static struct change *one_change(const struct layout *layout, uint32_t to, bool dense) {
    struct change *change;
    assert_int_equal(change_new(layout->epoch, layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], layout->slots[0].id,
                                       layout->slots[0].width, to, dense),
                     DIMFIT_OK);
    return change;
}

static void apply(struct layout **layout, struct change *change) {
    struct layout *after;
    assert_int_equal(change_apply(change, *layout, NULL, &after, NULL), DIMFIT_OK);
    change_destroy(&change);
    layout_destroy(layout);
    *layout = after;
}

/* Repeatable numbers in [-1, 1). */
static double draw(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(int64_t)(*state) * 0x1p-63;
}

/* T = N with orthonormal columns out of random ones, and a shift. */
static void fill_rotation(struct change_slot *s, uint64_t *seed) {
    const size_t from = s->from, to = s->to;
    for (size_t i = 0; i < from * to; i++)
        s->N[i] = draw(seed);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < to; k++) {
            double norm = 0;
            for (size_t j = 0; j < k; j++) {
                double dot = 0;
                for (size_t i = 0; i < from; i++)
                    dot += s->N[i * to + j] * s->N[i * to + k];
                for (size_t i = 0; i < from; i++)
                    s->N[i * to + k] -= dot * s->N[i * to + j];
            }
            for (size_t i = 0; i < from; i++)
                norm += s->N[i * to + k] * s->N[i * to + k];
            for (size_t i = 0; i < from; i++)
                s->N[i * to + k] /= sqrt(norm);
        }
    }
    memcpy(s->T, s->N, from * to * sizeof *s->T);
    for (size_t i = 0; i < from; i++)
        s->shift[i] = draw(seed);
}

/* v = mean + r M^T */
static void decode_row(const struct layout_slot *slot, const double *r, double *v) {
    double M[DIM * DIM];
    layout_slot_basis(slot, M);
    layout_slot_mean(slot, v);
    for (size_t i = 0; i < slot->dim; i++) {
        for (size_t k = 0; k < slot->width; k++)
            v[i] += r[k] * M[i * slot->width + k];
    }
}

/* r' = (r - shift) T */
static void move_row(const struct change_slot *s, const double *r, double *moved) {
    for (size_t k = 0; k < s->to; k++) {
        moved[k] = s->keep != NULL ? r[s->keep[k]] : 0;
        for (size_t i = 0; i < s->from && s->keep == NULL; i++)
            moved[k] += (r[i] - (s->shift != NULL ? s->shift[i] : 0)) * s->T[i * s->to + k];
    }
}

static void kept_axes_stay_axes(void **state) {
    struct layout *layout = one_slot();
    struct change *change = one_change(layout, 3, false);
    memcpy(change->slots[0].keep, (uint16_t[]){0, 2, 4}, 3 * sizeof(uint16_t));
    apply(&layout, change);
    change = one_change(layout, 2, false);
    memcpy(change->slots[0].keep, (uint16_t[]){2, 1}, 2 * sizeof(uint16_t));
    apply(&layout, change);
    const struct layout_slot *const slot = &layout->slots[0];
    assert_int_equal(layout->epoch, 5);
    assert_int_equal(slot->width, 2);
    assert_int_equal(slot->axes[0], 4);
    assert_int_equal(slot->axes[1], 2);
    assert_null(slot->basis);
    layout_destroy(&layout);
}

static void a_rotation_at_full_width_moves_no_embedding(void **state) {
    struct layout *layout = one_slot();
    uint64_t seed = 5;
    const double r[DIM] = {1, -2, 3, 0.5, 7};
    double before[DIM], moved[DIM], after[DIM];
    decode_row(&layout->slots[0], r, before);
    struct change *const change = one_change(layout, DIM, true);
    fill_rotation(&change->slots[0], &seed);
    move_row(&change->slots[0], r, moved);
    apply(&layout, change);
    decode_row(&layout->slots[0], moved, after);
    for (size_t i = 0; i < DIM; i++)
        assert_true(fabs(after[i] - before[i]) < 1e-13);
    layout_destroy(&layout);
}

/* Dropping directions: v' is mu + (v - mu) P with P the projection on what is kept. */
static void a_shrink_projects_around_the_restored_mean(void **state) {
    struct layout *layout = one_slot();
    uint64_t seed = 6;
    struct change *const change = one_change(layout, 2, true);
    struct change_slot *const s = &change->slots[0];
    fill_rotation(s, &seed);
    const double r[DIM] = {1, -2, 3, 0.5, 7};
    double want[DIM], moved[DIM], after[DIM];
    for (size_t i = 0; i < DIM; i++) {
        want[i] = s->shift[i];
        for (size_t j = 0; j < DIM; j++) {
            for (size_t k = 0; k < 2; k++)
                want[i] += (r[j] - s->shift[j]) * s->N[j * 2 + k] * s->N[i * 2 + k];
        }
    }
    move_row(s, r, moved);
    apply(&layout, change);
    decode_row(&layout->slots[0], moved, after);
    for (size_t i = 0; i < DIM; i++)
        assert_true(fabs(after[i] - want[i]) < 1e-13);
    layout_destroy(&layout);
}

/* Whatever changes came before, a feasign never seen reads as if its row had been there all along.
 */
static void the_initial_map_is_the_way_a_row_went(void **state) {
    struct layout *layout = one_slot();
    uint64_t seed = 7;
    const double v_init[DIM] = {0.1, -0.2, 0.3, 0.4, -0.5};
    double row[DIM], moved[DIM] = {0};
    memcpy(row, v_init, sizeof row);
    const uint32_t widths[] = {5, 4, 3, 2};
    for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
        const bool keep = i == 2;
        struct change *const change = one_change(layout, widths[i], !keep);
        if (keep)
            memcpy(change->slots[0].keep, (uint16_t[]){3, 0, 1}, 3 * sizeof(uint16_t));
        else
            fill_rotation(&change->slots[0], &seed);
        move_row(&change->slots[0], row, moved);
        memcpy(row, moved, sizeof row);
        apply(&layout, change);
        const struct layout_slot *const slot = &layout->slots[0];
        for (size_t k = 0; k < slot->width; k++) {
            double initial = slot->init_shift[k];
            for (size_t j = 0; j < DIM; j++)
                initial += v_init[j] * slot->init_map[j * slot->width + k];
            assert_true(fabs(initial - row[k]) < 1e-13);
        }
    }
    assert_null(layout->slots[0].axes);
    layout_destroy(&layout);
}

static void a_slot_that_goes_entirely_leaves_its_mean(void **state) {
    struct layout *layout = one_slot();
    struct change *const change = one_change(layout, 0, true);
    const double mean[DIM] = {1, 2, 3, 4, 5};
    memcpy(change->slots[0].shift, mean, sizeof mean);
    apply(&layout, change);
    double v[DIM];
    assert_int_equal(layout->slots[0].width, 0);
    decode_row(&layout->slots[0], NULL, v);
    assert_memory_equal(v, mean, sizeof mean);
    layout_destroy(&layout);
}

static void a_basis_stays_orthonormal_over_many_epochs(void **state) {
    struct layout *layout = one_slot();
    uint64_t seed = 8;
    for (int i = 0; i < 200; i++) {
        struct change *const change = one_change(layout, DIM, true);
        fill_rotation(&change->slots[0], &seed);
        for (size_t k = 0; k < DIM; k++)
            change->slots[0].N[k] *= 1 + 1e-9; /* as far off as a wire may carry */
        apply(&layout, change);
        assert_true(layout_orthonormal_error(layout->slots[0].basis, DIM, DIM) < 1e-12);
    }
    layout_destroy(&layout);
}

static void slots_not_named_stay_as_they_are(void **state) {
    struct layout *layout = layout_of((uint32_t[]){1, 2, 3}, 3), *after;
    struct change *change;
    assert_int_equal(change_new(3, 4, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], 2, DIM, 1, false), DIMFIT_OK);
    change->slots[0].keep[0] = 4;
    assert_int_equal(change_apply(change, layout, NULL, &after, NULL), DIMFIT_OK);
    assert_int_equal(after->slots[0].width, DIM);
    assert_int_equal(after->slots[1].width, 1);
    assert_int_equal(after->slots[2].width, DIM);
    assert_int_equal(after->slots[1].axes[0], 4);
    assert_non_null(change_find(change, 2));
    assert_null(change_find(change, 1));
    change_destroy(&change);
    layout_destroy(&layout);
    layout_destroy(&after);
}

static void a_change_that_does_not_fit_is_refused(void **state) {
    struct layout *layout = one_slot(), *after = NULL;
    struct err_detail detail;
    struct change *change = one_change(layout, 2, false);
    change->slots[0].keep[1] = 1;
    change->from_epoch = 2;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "a change from epoch 2, the layout is 3");
    change->from_epoch = 3;
    change->slots[0].id = 8;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "the change names slot 8, not in epoch 3");
    change->slots[0].id = 9;
    change->slots[0].from = 4;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "slot 9: the change goes from width 4, the layout says 5");
    assert_null(after);
    change_destroy(&change);
    layout_destroy(&layout);
}

/* r of a feasign whose initial value is v */
static void initial_row(const struct layout_slot *slot, const double *v, double *r) {
    for (size_t k = 0; k < slot->width; k++) {
        r[k] = slot->axes != NULL ? v[slot->axes[k]] : slot->init_shift[k];
        for (size_t i = 0; i < slot->dim && slot->axes == NULL; i++)
            r[k] += v[i] * slot->init_map[i * slot->width + k];
    }
}

/* From the first three of DIM axes to four directions: two of the three, and two new ones. */
static struct change *growing_change(const struct layout *layout, bool drawn, bool dense) {
    const double third = 0.6, fourth = 0.8;
    struct change *change;
    assert_int_equal(change_new(layout->epoch, layout->epoch + 1, 1, &change), DIMFIT_OK);
    struct change_slot *const s = &change->slots[0];
    assert_int_equal(change_slot_alloc_added(s, 9, DIM, 3, 4, 2, dense), DIMFIT_OK);
    s->drawn = drawn;
    if (dense) {
        s->T[0] = s->N[0] = 1;
        s->T[2 * 2 + 1] = s->N[2 * 2 + 1] = 1;
        s->shift[1] = 7;
        s->columns[3 * 2] = s->columns[4 * 2 + 1] = third;
        s->columns[4 * 2] = fourth;
        s->columns[3 * 2 + 1] = -fourth;
    } else {
        memcpy(s->keep, (uint16_t[]){0, 2}, 2 * sizeof *s->keep);
        s->columns[4 * 2] = s->columns[3 * 2 + 1] = 1;
    }
    return change;
}

static struct layout *narrow_slot(void) {
    struct layout *layout = one_slot();
    apply(&layout, one_change(layout, 3, false));
    memcpy(layout->slots[0].axes, (uint16_t[]){0, 1, 2}, 3 * sizeof(uint16_t));
    return layout;
}

static void a_slot_grows_by_axes_and_stays_one_of_axes(void **state) {
    struct layout *layout = narrow_slot();
    apply(&layout, growing_change(layout, true, false));
    const struct layout_slot *const slot = &layout->slots[0];
    assert_int_equal(slot->width, 4);
    assert_non_null(slot->axes);
    assert_memory_equal(slot->axes, ((uint16_t[]){0, 2, 4, 3}), 4 * sizeof(uint16_t));
    layout_destroy(&layout);
}

/* With zeros in the new directions no embedding moves, and a feasign never seen reads as before. */
static void growing_moves_no_embedding(void **state) {
    struct layout *layout = narrow_slot();
    const double r[3] = {0.5, 7, -2}, grown[4] = {0.5, -2, 0, 0};
    double before[DIM], after[DIM];
    decode_row(&layout->slots[0], r, before);
    apply(&layout, growing_change(layout, false, true));
    const struct layout_slot *const slot = &layout->slots[0];
    assert_int_equal(slot->width, 4);
    assert_null(slot->axes);
    assert_true(layout_orthonormal_error(slot->basis, DIM, 4) < 1e-12);
    decode_row(slot, grown, after);
    for (size_t i = 0; i < DIM; i++)
        assert_true(fabs(after[i] - before[i]) < 1e-13);
    const double want[DIM * 4] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    assert_memory_equal(slot->init_map, want, sizeof want);
    layout_destroy(&layout);
}

static void drawn_directions_have_initial_values(void **state) {
    struct layout *layout = narrow_slot();
    apply(&layout, growing_change(layout, true, true));
    const struct layout_slot *const slot = &layout->slots[0];
    for (size_t i = 0; i < DIM; i++) {
        for (size_t k = 2; k < 4; k++)
            assert_true(slot->init_map[i * 4 + k] == slot->basis[i * 4 + k]);
    }
    layout_destroy(&layout);
}

/* What is mixed into the new directions goes for initial rows as for any others: whoever has its
 * initial row reads the same whether it is stored or not. */
static void mixed_directions_are_of_the_row_an_initial_one_too(void **state) {
    const double plain[DIM * 2] = {[3 * 2] = 1, [4 * 2 + 1] = 1};
    uint64_t seed = 4;
    for (int dense = 0; dense < 2; dense++) {
        struct layout *layout = narrow_slot(), *after;
        if (dense) { /* an initial map and shift of its own */
            struct change *turn = one_change(layout, 3, true);
            fill_rotation(&turn->slots[0], &seed);
            apply(&layout, turn);
        }
        struct change *change = growing_change(layout, false, true);
        struct change_slot *const s = &change->slots[0];
        assert_int_equal(change_slot_alloc_mix(s), DIMFIT_OK);
        for (size_t i = 0; i < 6; i++)
            s->mix[i] = draw(&seed);
        for (size_t i = 0; i < 3; i++)
            s->centre[i] = draw(&seed);
        if (dense) /* orthogonal to any turn of the first three axes */
            memcpy(s->columns, plain, sizeof plain);
        assert_int_equal(change_apply(change, layout, NULL, &after, NULL), DIMFIT_OK);
        double v[DIM], was[3], now[4];
        for (size_t i = 0; i < DIM; i++)
            v[i] = draw(&seed);
        initial_row(&layout->slots[0], v, was);
        initial_row(&after->slots[0], v, now);
        for (size_t k = 0; k < 2; k++) {
            double kept = 0, mixed = 0;
            for (size_t i = 0; i < 3; i++) {
                kept += (was[i] - s->shift[i]) * s->T[i * 2 + k];
                mixed += (was[i] - s->centre[i]) * s->mix[i * 2 + k];
            }
            assert_true(fabs(now[k] - kept) < 1e-13);
            assert_true(fabs(now[2 + k] - mixed) < 1e-13);
        }
        change_destroy(&change);
        layout_destroy(&layout);
        layout_destroy(&after);
    }
}

/* Mixed values are of no axis, so that a slot that takes axes only can't have them. */
static void ftrl_takes_no_mixed_directions(void **state) {
    struct layout *layout = narrow_slot(), *after = NULL;
    struct err_detail detail;
    layout->slots[0].optimizer = (struct optimizer){.kind = OPTIMIZER_FTRL, .lr = 1};
    struct change *change = growing_change(layout, false, false);
    assert_int_equal(change_slot_alloc_mix(&change->slots[0]), DIMFIT_OK);
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "ftrl takes axes only"));
    assert_null(after);
    change_destroy(&change);
    layout_destroy(&layout);
}

static void columns_across_what_is_kept_are_refused(void **state) {
    struct layout *layout = narrow_slot(), *after = NULL;
    struct err_detail detail;
    struct change *change = growing_change(layout, false, true);
    change->slots[0].columns[0] = 1; /* axis 0, which is kept */
    change->slots[0].columns[3 * 2] = change->slots[0].columns[4 * 2] = 0;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text,
                        "slot 9: the columns of its basis would be 1 away from orthonormal");
    change->slots[0].dim = 4;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    change->slots[0].dim = DIM;
    layout->slots[0].optimizer = (struct optimizer){.kind = OPTIMIZER_FTRL, .lr = 1};
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_null(after);
    change_destroy(&change);
    layout_destroy(&layout);
}

static void an_undone_change_brings_the_layout_back(void **state) {
    struct layout *before = narrow_slot(), *layout, *back = NULL;
    struct err_detail detail;
    struct change *change = growing_change(before, true, true), *undo;
    assert_int_equal(change_apply(change, before, NULL, &layout, NULL), DIMFIT_OK);
    assert_int_equal(change_undo(change, layout->epoch + 1, &undo), DIMFIT_OK);
    assert_int_equal(undo->undoes, layout->epoch);
    assert_int_equal(change_width_before(undo, &undo->slots[0]), 4);
    assert_int_equal(change_width_after(undo, &undo->slots[0]), 3);
    assert_int_equal(change_apply(undo, layout, NULL, &back, &detail), DIMFIT_ERR_INVALID);
    assert_int_equal(change_apply(undo, layout, before, &back, NULL), DIMFIT_OK);
    assert_int_equal(back->epoch, before->epoch + 2);
    assert_int_equal(back->slots[0].width, 3);
    assert_memory_equal(back->slots[0].axes, before->slots[0].axes, 3 * sizeof(uint16_t));
    layout_destroy(&back);
    before->slots[0].width = 2;
    assert_int_equal(change_apply(undo, layout, before, &back, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 9: the change can't be undone"));
    before->slots[0].width = 3;
    change_destroy(&change);
    change_destroy(&undo);
    layout_destroy(&before);
    layout_destroy(&layout);
}

static struct layout *tiered_slot(void) {
    struct layout *const layout = one_slot();
    struct layout_slot *const slot = &layout->slots[0];
    slot->n_tiers = 3;
    memcpy(slot->tier_shows, (uint32_t[]){0, 5, 50}, 3 * sizeof(uint32_t));
    memcpy(slot->tier_widths, (uint32_t[]){1, 3, DIM}, 3 * sizeof(uint32_t));
    return layout;
}

static struct change *tiered_change(const struct layout *layout, bool dense) {
    struct change *const change = one_change(layout, 2, dense);
    uint64_t seed = 4;
    if (dense)
        fill_rotation(&change->slots[0], &seed);
    else
        change->slots[0].keep[1] = 4;
    change_slot_tiers(&change->slots[0], 3, layout->slots[0].tier_widths, (uint32_t[]){0, 2, 2});
    return change;
}

static void tiers_change_with_their_slot_and_back(void **state) {
    for (int dense = 0; dense < 2; dense++) {
        struct layout *layout = tiered_slot(), *after, *back;
        struct change *change = tiered_change(layout, dense != 0), *undo;
        assert_int_equal(change_apply(change, layout, NULL, &after, NULL), DIMFIT_OK);
        assert_int_equal(after->slots[0].n_tiers, 3);
        assert_int_equal(after->slots[0].tier_shows[2], 50);
        assert_memory_equal(after->slots[0].tier_widths, ((uint32_t[]){0, 2, 2}),
                            3 * sizeof(uint32_t));
        assert_int_equal(change_undo(change, after->epoch + 1, &undo), DIMFIT_OK);
        assert_int_equal(change_tier_before(change, &change->slots[0], 1), 3);
        assert_int_equal(change_tier_after(change, &change->slots[0], 0), 0);
        assert_int_equal(change_tier_before(undo, &undo->slots[0], 0), 0);
        assert_int_equal(change_tier_after(undo, &undo->slots[0], 1), 3);
        assert_int_equal(change_apply(undo, after, layout, &back, NULL), DIMFIT_OK);
        assert_memory_equal(back->slots[0].tier_widths, ((uint32_t[]){1, 3, DIM}),
                            3 * sizeof(uint32_t));
        layout_destroy(&back);
        layout->slots[0].tier_widths[0] = 2;
        assert_int_equal(change_apply(undo, after, layout, &back, NULL), DIMFIT_ERR_INVALID);
        change_destroy(&change);
        change_destroy(&undo);
        layout_destroy(&layout);
        layout_destroy(&after);
    }
}

static void a_change_for_other_tiers_is_refused(void **state) {
    struct layout *layout = tiered_slot(), *after = NULL;
    struct err_detail detail;
    struct change *change = one_change(layout, 2, false);
    change->slots[0].keep[1] = 4;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text,
                        "slot 9: the change is for other widths of its tiers than the layout's");
    change_destroy(&change);
    change = tiered_change(layout, false);
    change->slots[0].tier_from[1] = 4;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    change->slots[0].tier_from[1] = 3;
    change->slots[0].tier_to[0] = 3;
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "slot 9: tier 1 is 2 wide, narrower than the one below");
    assert_null(after);
    change_destroy(&change);
    layout_destroy(&layout);
}

/* One slot by selection, one dense, one dense without shift, one that goes, and three that grow. */
static struct change *mixed(void) {
    struct change *change;
    uint64_t seed = 9;
    assert_int_equal(change_new(3, 4, 7, &change), DIMFIT_OK);
    change->undoes = 3;
    assert_int_equal(change_slot_alloc(&change->slots[0], 1, 4, 2, false), DIMFIT_OK);
    change->slots[0].keep[0] = 3;
    assert_int_equal(change_slot_alloc(&change->slots[1], 2, 3, 2, true), DIMFIT_OK);
    fill_rotation(&change->slots[1], &seed);
    assert_int_equal(change_slot_alloc(&change->slots[2], 5, 2, 2, true), DIMFIT_OK);
    fill_rotation(&change->slots[2], &seed);
    free(change->slots[2].shift);
    change->slots[2].shift = NULL;
    assert_int_equal(change_slot_alloc(&change->slots[3], 6, 3, 0, true), DIMFIT_OK);
    struct change_slot *const grown = &change->slots[4];
    assert_int_equal(change_slot_alloc_added(grown, 7, 3, 2, 3, 1, true), DIMFIT_OK);
    grown->N[0] = grown->N[3] = grown->columns[2] = 1;
    assert_int_equal(change_slot_alloc_added(&change->slots[5], 8, 2, 0, 1, 1, false), DIMFIT_OK);
    change->slots[5].columns[1] = 1;
    change->slots[5].drawn = true;
    assert_int_equal(change_slot_alloc_added(&change->slots[6], 9, 3, 2, 2, 1, false), DIMFIT_OK);
    assert_int_equal(change_slot_alloc_mix(&change->slots[6]), DIMFIT_OK);
    change->slots[6].columns[1] = change->slots[6].mix[1] = change->slots[6].centre[0] = 1;
    change_slot_tiers(&change->slots[1], 2, (uint32_t[]){2, 3}, (uint32_t[]){0, 2});
    return change;
}

static struct buf bytes_of(const struct change *change) {
    struct buf bytes;
    buf_init(&bytes);
    change_encode(change, &bytes);
    assert_int_equal(buf_status(&bytes), DIMFIT_OK);
    return bytes;
}

static void a_change_that_makes_an_endless_mean_or_map_is_refused(void **state) {
    struct layout *layout = one_slot(), *after;
    struct err_detail detail;
    for (int what = 0; what < 2; what++) {
        struct change *change = one_change(layout, 3, true);
        uint64_t seed = 1;
        fill_rotation(&change->slots[0], &seed);
        if (what == 0)
            change->slots[0].shift[1] = -DBL_MAX;
        for (size_t i = 0; i < (size_t)change->slots[0].from * 3; i++)
            change->slots[0].T[i] *= 4;
        if (what == 1)
            change->slots[0].shift[0] = change->slots[0].shift[1] = DBL_MAX;
        assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
        assert_string_equal(detail.text, "slot 9: its mean or initial map would not be finite");
        change_destroy(&change);
    }
    layout_destroy(&layout);
}

static void ftrl_is_selected_from_and_never_turned(void **state) {
    struct layout *layout = one_slot(), *after;
    struct err_detail detail;
    layout->slots[0].optimizer = (struct optimizer){.kind = OPTIMIZER_FTRL, .lr = 1};
    struct change *change = one_change(layout, 3, true);
    uint64_t seed = 1;
    fill_rotation(&change->slots[0], &seed);
    assert_int_equal(change_apply(change, layout, NULL, &after, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "slot 9 (a): ftrl takes the axis basis only");
    change_destroy(&change);
    change = one_change(layout, 2, false);
    memcpy(change->slots[0].keep, (uint16_t[]){4, 1}, 2 * sizeof(uint16_t));
    apply(&layout, change);
    assert_int_equal(layout->slots[0].width, 2);
    layout_destroy(&layout);
}

static void a_change_survives_its_bytes(void **state) {
    struct change *change = mixed(), *back;
    struct buf bytes = bytes_of(change);
    assert_int_equal(change_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    assert_int_equal(back->from_epoch, 3);
    assert_int_equal(back->to_epoch, 4);
    assert_int_equal(back->slots[0].keep[0], 3);
    assert_null(back->slots[0].T);
    assert_null(back->slots[1].keep);
    assert_non_null(back->slots[1].shift);
    assert_null(back->slots[2].shift);
    assert_non_null(back->slots[3].T);
    assert_int_equal(back->undoes, 3);
    assert_true(back->slots[4].columns[2] == 1);
    assert_true(back->slots[5].drawn);
    assert_null(back->slots[5].mix);
    assert_true(back->slots[6].mix[1] == 1 && back->slots[6].centre[0] == 1);
    assert_int_equal(back->slots[0].n_tiers, 1);
    assert_int_equal(back->slots[1].n_tiers, 2);
    assert_int_equal(back->slots[1].tier_from[0], 2);
    assert_int_equal(back->slots[1].tier_to[0], 0);
    struct buf again = bytes_of(back);
    assert_int_equal(bytes.len, again.len);
    assert_memory_equal(bytes.data, again.data, again.len);
    buf_fini(&bytes);
    buf_fini(&again);
    change_destroy(&change);
    change_destroy(&back);
}

/* On the heap at its exact size, so that a sanitizer sees one byte too far. */
static dimfit_err decode_exact(const uint8_t *bytes, size_t len) {
    uint8_t *const exact = malloc(len > 0 ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    struct change *change = NULL;
    struct err_detail detail = {""};
    const dimfit_err err = change_decode(exact, len, &change, &detail);
    assert_true(err == DIMFIT_OK || (err == DIMFIT_ERR_PROTOCOL && detail.text[0] != 0));
    assert_true((err == DIMFIT_OK) == (change != NULL));
    change_destroy(&change);
    free(exact);
    return err;
}

static void every_truncation_is_refused(void **state) {
    struct change *change = mixed();
    struct buf bytes = bytes_of(change);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(decode_exact(bytes.data, n), DIMFIT_ERR_PROTOCOL);
    buf_put_u8(&bytes, 0);
    assert_int_equal(decode_exact(bytes.data, bytes.len), DIMFIT_ERR_PROTOCOL);
    buf_fini(&bytes);
    change_destroy(&change);
}

static void any_changed_byte_is_refused_or_gives_a_sound_change(void **state) {
    struct change *change = mixed();
    struct buf bytes = bytes_of(change);
    for (size_t i = 0; i < bytes.len; i++) {
        for (int flip = 1; flip < 256; flip++) {
            bytes.data[i] ^= (uint8_t)flip;
            (void)decode_exact(bytes.data, bytes.len);
            bytes.data[i] ^= (uint8_t)flip;
        }
    }
    buf_fini(&bytes);
    change_destroy(&change);
}

static void decode_refused(const struct change *change, const char *what) {
    struct change *back = NULL;
    struct err_detail detail;
    struct buf bytes = bytes_of(change);
    assert_int_equal(change_decode(bytes.data, bytes.len, &back, &detail), DIMFIT_ERR_PROTOCOL);
    assert_non_null(strstr(detail.text, what));
    assert_null(back);
    buf_fini(&bytes);
}

static void changes_that_are_none_are_refused(void **state) {
    struct change *change = mixed();
    change->to_epoch = 3;
    decode_refused(change, "no change");
    change->to_epoch = 4;
    change->slots[0].keep[1] = 3;
    decode_refused(change, "slot 1: kept coordinate 3");
    change->slots[0].keep[1] = 4;
    decode_refused(change, "slot 1: kept coordinate 4");
    change->slots[0].keep[1] = 0;
    change->slots[1].N[0] += 1e-5;
    decode_refused(change, "slot 2: the columns of N");
    change->slots[1].N[0] -= 1e-5;
    change->slots[1].shift[2] = NAN;
    decode_refused(change, "slot 2: the change is not finite");
    change->slots[1].shift[2] = 0;
    change->slots[4].columns[2] = 2;
    decode_refused(change, "slot 7: the added columns");
    change->slots[4].columns[2] = 1;
    change->slots[1].tier_from[0] = 4;
    decode_refused(change, "slot 2: tier 1 is 3 wide");
    change->slots[1].tier_from[0] = 2;
    change->slots[1].tier_to[0] = 3;
    decode_refused(change, "slot 2: tier 1 is 2 wide");
    change->slots[1].tier_to[0] = 0;
    change->undoes = 2;
    decode_refused(change, "no change");
    change->undoes = 3;
    change->slots[6].mix[0] = INFINITY;
    decode_refused(change, "slot 9: what rows get in new directions is not finite");
    change->slots[6].mix[0] = 0;
    change->slots[6].centre[1] = NAN;
    decode_refused(change, "slot 9: what rows get in new directions is not finite");
    change->slots[6].centre[1] = 0;
    change->slots[6].drawn = true;
    decode_refused(change, "cut short or malformed");
    change->slots[6].drawn = false;
    change->undoes = 2;
    decode_refused(change, "no change");
    change->undoes = 3;
    change->slots[2].id = 2;
    decode_refused(change, "slot 2 of the change is out of order");
    change_destroy(&change);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_axes_stay_axes),
        cmocka_unit_test(a_rotation_at_full_width_moves_no_embedding),
        cmocka_unit_test(a_shrink_projects_around_the_restored_mean),
        cmocka_unit_test(the_initial_map_is_the_way_a_row_went),
        cmocka_unit_test(a_slot_that_goes_entirely_leaves_its_mean),
        cmocka_unit_test(a_basis_stays_orthonormal_over_many_epochs),
        cmocka_unit_test(slots_not_named_stay_as_they_are),
        cmocka_unit_test(a_change_that_does_not_fit_is_refused),
        cmocka_unit_test(a_slot_grows_by_axes_and_stays_one_of_axes),
        cmocka_unit_test(growing_moves_no_embedding),
        cmocka_unit_test(drawn_directions_have_initial_values),
        cmocka_unit_test(mixed_directions_are_of_the_row_an_initial_one_too),
        cmocka_unit_test(ftrl_takes_no_mixed_directions),
        cmocka_unit_test(columns_across_what_is_kept_are_refused),
        cmocka_unit_test(an_undone_change_brings_the_layout_back),
        cmocka_unit_test(a_change_that_makes_an_endless_mean_or_map_is_refused),
        cmocka_unit_test(ftrl_is_selected_from_and_never_turned),
        cmocka_unit_test(tiers_change_with_their_slot_and_back),
        cmocka_unit_test(a_change_for_other_tiers_is_refused),
        cmocka_unit_test(a_change_survives_its_bytes),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(any_changed_byte_is_refused_or_gives_a_sound_change),
        cmocka_unit_test(changes_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
