/* Changes of more rows than one chunk has: where the old ones go, what it takes, what is refused.
 */
#include "server/slab.h"
#include "tests/unit/table_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- many chunks -------------------------------------------------------------------------------
 */

enum { ROWS = 150000 };

/* A file of chunks, in memory: as much as `room` of them are taken. */
struct spill {
    size_t users, bytes;
    uint8_t *memory;
};
static size_t spill_room, spills_open;

static struct spill *spill_new(void *self, uint64_t epoch, uint64_t bytes) {
    struct spill *const spill = calloc(1, sizeof *spill);
    *spill = (struct spill){1, bytes, calloc(1, bytes)};
    spills_open++;
    return spill;
}

static const void *spill_put(void *self, struct spill *spill, float *chunk, size_t bytes,
                             uint64_t offset) {
    if (spill_room == 0)
        return NULL;
    spill_room--;
    assert_true(offset % 4096 == 0 && offset + bytes <= spill->bytes);
    memcpy(spill->memory + offset, chunk, bytes);
    slab_chunk_free(chunk, bytes);
    return spill->memory + offset;
}

static dimfit_err spill_checked(void *self, const struct spill *spill, struct err_detail *detail) {
    return DIMFIT_OK;
}

static void spill_share(void *self, struct spill *spill) {
    spill->users++;
}

static void spill_free(void *self, struct spill *spill) {
    if (--spill->users > 0)
        return;
    free(spill->memory);
    free(spill);
    spills_open--;
}

static const struct table_spill spill_io = {
    .open = spill_new,
    .write = spill_put,
    .check = spill_checked,
    .open_more = spill_share,
    .close = spill_free,
};

static void push_range(struct fixture *f, uint64_t first, uint64_t end, uint64_t step) {
    enum { BATCH = 1000 };
    const size_t w = table_slot_width(f->slot);
    for (size_t i = 0; i < BATCH * w; i++)
        set_grad(f, i, (float)noise(i + first));
    while (first < end) {
        size_t n = 0;
        for (; n < BATCH && first < end; n++, first += step)
            set_key(f, n, mix(first));
        push(f, f->slot, n, NULL);
    }
}

static struct change *halved(const struct fixture *f, uint32_t to) {
    struct change *change = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, to, false), DIMFIT_OK);
    for (uint32_t k = 0; k < to; k++)
        change->slots[0].keep[k] = (uint16_t)(DIM - 1 - k);
    return change;
}

static void assert_same_tables(const struct fixture *a, const struct fixture *b) {
    const size_t w = table_slot_width(a->slot), state = optimizer_state_width(OPTIMIZER_ADAM, w);
    assert_int_equal(table_slot_width(b->slot), w);
    for (uint64_t i = 0; i < ROWS + 2000; i++) {
        struct table_row x, y;
        assert_true(table_row(a->slot, mix(i), &x) == table_row(b->slot, mix(i), &y));
        if (i >= ROWS + 1000)
            continue;
        assert_memory_equal(x.values, y.values, w * sizeof(float));
        assert_memory_equal(x.state, y.state, state * sizeof(float));
    }
}

/* Old chunks go on as the sweep passes them, into the new slabs, a file, or nowhere, and rows come
 * back from there. */
static void rows_of_many_chunks_come_back_from_wherever_they_are_kept(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM), *const memory = setup(OPTIMIZER_ADAM);
    struct fixture *const both[] = {f, memory};
    spills_open = 0;
    table_keep(f->table, true, &spill_io);
    table_keep(memory->table, true, NULL);
    struct change *change = NULL, *back = NULL;
    struct layout *before = NULL;
    for (size_t t = 0; t < 2; t++)
        push_range(both[t], 0, ROWS, 1);
    assert_int_equal(layout_copy(f->layout, &before), DIMFIT_OK);
    change = halved(f, 3);
    assert_int_equal(change_undo(change, 3, &back), DIMFIT_OK);
    for (size_t t = 0; t < 2; t++)
        take(both[t], change, NULL);
    assert_int_equal(spills_open, 1);
    /* Some written ahead, some new, while nothing can be spilled for a while. */
    spill_room = 0;
    for (size_t t = 0; t < 2; t++)
        push_range(both[t], ROWS / 2, ROWS + 1000, 7);
    for (int i = 0; i < 50; i++)
        assert_true(table_move(f->table, 100000));
    assert_true(table_figures(f->table).moving_rows > 1);
    spill_room = SIZE_MAX;
    for (size_t t = 0; t < 2; t++)
        move_all(both[t]->table);
    push_range(f, ROWS, ROWS + 1000, 1);
    push_range(memory, ROWS, ROWS + 1000, 1);
    assert_same_tables(f, memory);
    const struct table_figures spilled = table_figures(f->table),
                               kept = table_figures(memory->table);
    assert_true(spilled.saved_bytes == kept.saved_bytes && spilled.saved_bytes >= ROWS * 150);
    assert_true(spilled.slab_bytes + spilled.saved_bytes <= kept.slab_bytes + (4 << 20));
    for (size_t t = 0; t < 2; t++) {
        take(both[t], back, before);
        (void)table_move(both[t]->table, t == 0 ? 3000000 : 100);
        push_range(both[t], 5, ROWS, 1001);
    }
    assert_same_tables(f, memory);
    for (size_t t = 0; t < 2; t++)
        move_all(both[t]->table);
    assert_same_tables(f, memory);
    assert_int_equal(table_figures(f->table).saved_bytes, 0);
    assert_int_equal(spills_open, 0);
    change_destroy(&change);
    change_destroy(&back);
    layout_destroy(&before);
    teardown(f);
    teardown(memory);
}

/* What is allocated beside what was there, all along, whatever is pushed. */
static void a_change_stays_below_its_peak(void **state) {
    for (uint32_t from = 0; from < 2; from++) {
        struct fixture *const f = setup(OPTIMIZER_ADAM);
        struct change *change = halved(f, 2);
        push_range(f, 0, ROWS, 1);
        if (from == 1) { /* the other way */
            struct change *wider = NULL;
            take(f, change, NULL);
            move_all(f->table);
            assert_int_equal(change_new(2, 3, 1, &wider), DIMFIT_OK);
            assert_int_equal(
                change_slot_alloc_added(&wider->slots[0], SLOT, DIM, 2, DIM, DIM - 2, false),
                DIMFIT_OK);
            wider->slots[0].keep[1] = 1;
            wider->slots[0].drawn = true;
            for (uint32_t k = 0; k < DIM - 2; k++)
                wider->slots[0].columns[k * (DIM - 2) + k] = 1;
            change_destroy(&change);
            change = wider;
        }
        const uint64_t peak = table_change_peak(f->table, change);
        const uint64_t there = table_figures(f->table).slab_bytes;
        take(f, change, NULL);
        uint64_t most = 0;
        for (uint64_t i = 0; table_in_motion(f->table); i++) {
            push_range(f, (i * 911) % ROWS, (i * 911) % ROWS + 700, 1);
            (void)table_move(f->table, 20000);
            const uint64_t now = table_figures(f->table).slab_bytes;
            most = now > there && now - there > most ? now - there : most;
        }
        assert_true(most <= peak);
        assert_true(peak <= (from == 0 ? 20 << 20 : 40 << 20));
        change_destroy(&change);
        teardown(f);
    }
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

static void a_change_waits_for_the_one_before_and_the_undone_one_must_be_saved(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAGRAD);
    struct err_detail detail;
    struct layout *before = NULL, *next = NULL;
    struct change *change = halved(f, 3), *back = NULL;
    assert_int_equal(layout_copy(f->layout, &before), DIMFIT_OK);
    assert_int_equal(change_undo(change, 3, &back), DIMFIT_OK);
    table_keep(f->table, true, NULL);
    train(f, f->slot);
    take(f, change, NULL);
    assert_int_equal(change_apply(back, f->layout, before, &next, &detail), DIMFIT_OK);
    assert_int_equal(table_change(f->table, back, next, &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, "rows of the change before are still to be moved"));
    assert_int_equal(table_forget(f->table, 2), DIMFIT_ERR_BUSY);
    move_all(f->table);
    assert_int_equal(table_change_check(f->table, back, next, &detail), DIMFIT_OK);
    assert_int_equal(table_forget(f->table, 2), DIMFIT_OK);
    assert_int_equal(table_change(f->table, back, next, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 7 has no rows saved"));
    assert_int_equal(table_slot_width(f->slot), 3);
    layout_destroy(&next);
    layout_destroy(&before);
    change_destroy(&change);
    change_destroy(&back);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_many_chunks_come_back_from_wherever_they_are_kept),
        cmocka_unit_test(a_change_stays_below_its_peak),
        cmocka_unit_test(a_change_waits_for_the_one_before_and_the_undone_one_must_be_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
