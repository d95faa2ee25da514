/* A shard's state as bytes: a restored shard goes on like the one that was saved, to the bit. */
#include "server/shard_state.h"

#include "proto/shrink.h"
#include "tests/unit/buf_archive.h"
#include "tests/unit/shard_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { BLOCK = 1000 };

/* The second shard is what becomes of the first one's bytes. */
static void restore(struct fixture *f, uint32_t parts) {
    struct err_detail detail = {{0}};
    struct buf saved, again;
    const struct shard_io io = io_of(f, 1);
    buf_init(&saved);
    buf_init(&again);
    assert_int_equal(shard_save_check(f->shards[0], &detail), DIMFIT_OK);
    buf_archive_save(f->shards[0], parts, &saved);
    assert_int_equal(buf_archive_restore(saved.data, saved.len, BLOCK, &scene_options, &io,
                                         &f->shards[1], &detail),
                     DIMFIT_OK);
    buf_archive_save(f->shards[1], parts, &again);
    assert_int_equal(saved.len, again.len);
    assert_memory_equal(saved.data, again.data, saved.len);
    buf_fini(&saved);
    buf_fini(&again);
    f->n = 2;
    f->evicted[0].len = 0;
}

static void go_on_side_by_side(struct fixture *f) {
    send_gather(f);
    live_a_little(f, 40);
    send_shrink(f, true);
    send_gather(f);
    live_a_little(f, 10);
    send_scoring(f, true);
    live_a_little(f, 40);
    send_gather(f);
    send_scoring(f, false);
    change_to(f, narrowing(f, 3));
    live_a_little(f, 20);
    send_shrink(f, false);
    roll_back(f);
    live_a_little(f, 20);
    send_gather(f);
    assert_same_state(f);
}

static void a_restored_shard_goes_on_to_the_same_bits(void **state) {
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct fixture *const f = setup(seed);
        live_a_little(f, 60);
        f->day += 4;
        live_a_little(f, 30);
        send_shrink(f, true);
        change_to(f, narrowing(f, (uint32_t)draw(f, SLOTS)));
        live_a_little(f, 30);
        send_scoring(f, seed % 2 == 0);
        live_a_little(f, 30);
        restore(f, SHARD_SAVE_UNDO);
        go_on_side_by_side(f);
        teardown(f);
    }
}

static void an_empty_shard_is_saved_and_restored(void **state) {
    struct fixture *const f = setup(3);
    restore(f, SHARD_SAVE_UNDO);
    go_on_side_by_side(f);
    teardown(f);
}

static void a_change_that_is_prepared_is_committed_after_a_restore(void **state) {
    struct fixture *const f = setup(5);
    live_a_little(f, 40);
    struct change *const change = narrowing(f, 0);
    struct layout *const next = layout_after(f, change);
    assert_int_equal(prepare(f, change, next), DIMFIT_OK);
    restore(f, SHARD_SAVE_UNDO);
    assert_int_equal(shard_prepared_epoch(f->shards[1]), next->epoch);
    assert_int_equal(commit(f, next), DIMFIT_OK);
    switched(f, change, next);
    work(f);
    send_gather(f);
    assert_same_state(f);
    teardown(f);
}

static void the_last_change_is_rolled_back_after_a_restore(void **state) {
    struct fixture *const f = setup(6);
    live_a_little(f, 60);
    change_to(f, narrowing(f, 1));
    change_to(f, narrowing(f, 0));
    live_a_little(f, 30);
    restore(f, SHARD_SAVE_UNDO);
    roll_back(f);
    live_a_little(f, 10);
    send_gather(f);
    assert_same_state(f);
    teardown(f);
}

static void without_what_undoes_it_the_last_change_stays(void **state) {
    struct fixture *const f = setup(7);
    live_a_little(f, 60);
    change_to(f, narrowing(f, 0));
    restore(f, 0);
    struct change *undo = NULL;
    assert_int_equal(change_undo(f->last, f->layout->epoch + 1, &undo), DIMFIT_OK);
    struct layout *next = layout_after(f, undo);
    f->shards[0] = (shard_destroy(&f->shards[0]), f->shards[1]);
    f->shards[1] = NULL;
    f->n = 1;
    f->outsides[1].which = 0;
    assert_int_equal(prepare(f, undo, next), DIMFIT_ERR_STATE);
    assert_non_null(strstr(f->replies[0].header.detail.text, "are not saved"));
    layout_destroy(&next);
    change_destroy(&undo);
    teardown(f);
}

static void a_shard_whose_rows_move_or_go_is_not_saved_yet(void **state) {
    struct fixture *const f = setup(8);
    struct err_detail detail = {{0}};
    live_a_little(f, 60);
    struct change *const change = narrowing(f, 1);
    struct layout *const next = layout_after(f, change);
    assert_int_equal(prepare(f, change, next), DIMFIT_OK);
    assert_int_equal(commit(f, next), DIMFIT_OK);
    switched(f, change, next);
    assert_int_equal(shard_save_check(f->shards[0], &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, "still to be moved"));
    work(f);
    assert_int_equal(shard_save_check(f->shards[0], &detail), DIMFIT_OK);
    const struct shrink_rule rule = {.slot = 0, .expire_days = 1};
    struct buf body;
    buf_init(&body);
    shrink_encode(&rule, 1, &body);
    const struct wire_header header = {.kind = WIRE_SHRINK, .tag = 1, .step = f->day};
    assert_int_equal(ask(f, &header, body.data, body.len), DIMFIT_OK);
    buf_fini(&body);
    assert_int_equal(shard_save_check(f->shards[0], &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, "shrink 1 is under way"));
    teardown(f);
}

/* Without checksums around it much of the damage is another state; what matters is that it is one,
 * or refused. */
static void damaged_bytes_are_refused_or_make_a_whole_shard(void **state) {
    struct fixture *const f = setup(9);
    struct err_detail detail = {{0}};
    struct shard *shard = NULL;
    struct buf saved;
    const struct shard_io io = io_of(f, 1);
    live_a_little(f, 25);
    change_to(f, narrowing(f, 0));
    send_shrink(f, false);
    live_a_little(f, 5);
    buf_init(&saved);
    buf_archive_save(f->shards[0], SHARD_SAVE_UNDO, &saved);
    size_t refused = 0, tried = 0;
    for (size_t i = 0; i < saved.len; i += 1 + draw(f, saved.len / 1500), tried++) {
        const uint8_t was = saved.data[i];
        saved.data[i] ^= (uint8_t)(1u << draw(f, 8));
        if (buf_archive_restore(saved.data, saved.len, BLOCK, &scene_options, &io, &shard,
                                &detail) != DIMFIT_OK) {
            assert_null(shard);
            refused++;
        } else {
            f->shards[1] = shard;
            shard = NULL;
            while (shard_work(f->shards[1]))
                ;
            shard_destroy(&f->shards[1]);
        }
        saved.data[i] = was;
    }
    assert_true(tried > 1000 && refused > tried / 10);
    for (size_t len = 0; len < saved.len; len += 1 + draw(f, saved.len / 500)) {
        assert_int_equal(
            buf_archive_restore(saved.data, len, BLOCK, &scene_options, &io, &shard, &detail),
            DIMFIT_ERR_IO);
        assert_null(shard);
    }
    buf_fini(&saved);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_restored_shard_goes_on_to_the_same_bits),
        cmocka_unit_test(an_empty_shard_is_saved_and_restored),
        cmocka_unit_test(a_change_that_is_prepared_is_committed_after_a_restore),
        cmocka_unit_test(the_last_change_is_rolled_back_after_a_restore),
        cmocka_unit_test(without_what_undoes_it_the_last_change_stays),
        cmocka_unit_test(a_shard_whose_rows_move_or_go_is_not_saved_yet),
        cmocka_unit_test(damaged_bytes_are_refused_or_make_a_whole_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
