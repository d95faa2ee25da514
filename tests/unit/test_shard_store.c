/* A shard made again from its folder is the one that was: whatever it had done, wherever it ended.
 */
#include "server/shard_store.h"

#include "tests/unit/mem_disk.h"
#include "tests/unit/shard_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEGMENT = 1 << 16 };

/* The first shard of a scene has a folder; the second one, that is told the same, never ends. */
struct life {
    struct fixture *f;
    struct mem_disk *mem;
    uint64_t snapshot_bytes, opened, snapshots, ends;
    struct shard_options options; /* of the process that makes it again */
};

static void open_store(struct life *l) {
    const struct shard_store_options options = {
        .segment_bytes = SEGMENT, .snapshot_bytes = l->snapshot_bytes, .random = ++l->opened};
    struct disk *disk = mem_disk_open(l->mem);
    struct err_detail detail;
    assert_int_equal(shard_store_open(&disk, &options, &l->f->store, &detail), DIMFIT_OK);
}

static struct life life_new(uint64_t seed, uint64_t snapshot_bytes) {
    struct life l = {.f = setup(seed),
                     .mem = mem_disk_new(seed),
                     .snapshot_bytes = snapshot_bytes,
                     .options = scene_options};
    struct fixture *const f = l.f;
    const struct shard_identity identity = {77, 5, 0, 1};
    open_store(&l);
    shard_destroy(&f->shards[0]);
    for (size_t i = 0; i < 2; i++) {
        const struct shard_io io = io_of(f, i);
        assert_int_equal(shard_new(f->layout, &scene_options, &io, &f->shards[i]), DIMFIT_OK);
    }
    f->n = 2;
    assert_int_equal(shard_store_begin(f->store, &identity, f->shards[0], NULL), DIMFIT_OK);
    return l;
}

static void life_end(struct life *l) {
    shard_destroy(&l->f->shards[0]);
    shard_store_close(&l->f->store);
    teardown(l->f);
    mem_disk_free(l->mem);
}

/* Until there is nothing to begin and nothing under way. */
static void snapshot(struct life *l) {
    for (int i = 0; i < 2; i++) {
        struct snapshot_result made;
        assert_int_equal(shard_store_snapshot(l->f->store, l->f->shards[0], &made, NULL),
                         DIMFIT_OK);
        l->snapshots += made.bytes > 0;
    }
}

/* The process ends and another one takes the folder. */
static dimfit_err end_and_recover(struct life *l, struct err_detail *detail) {
    struct fixture *const f = l->f;
    struct wal_end end;
    shard_destroy(&f->shards[0]);
    shard_store_close(&f->store);
    mem_disk_crash(l->mem, false);
    open_store(l);
    l->ends++;
    const struct shard_io io = io_of(f, 0);
    return shard_store_recover(f->store, &l->options, &io, &f->shards[0], &end, detail);
}

static void is_as_it_was(struct life *l) {
    struct err_detail detail = {{0}};
    if (end_and_recover(l, &detail) != DIMFIT_OK)
        fail_msg("%s", detail.text);
    work(l->f);
    forget_what_is_not_logged(l->f);
    assert_same_state(l->f);
}

/* One thing that changes a shard, drawn; rows may be on their way after it. */
static void do_something(struct life *l) {
    struct fixture *const f = l->f;
    switch (draw(f, 12)) {
    case 0:
        send_scoring(f, draw(f, 2) == 0);
        break;
    case 1:
        send_shrink(f, draw(f, 2) == 0);
        f->day += 2;
        break;
    case 2:
        change_to(f, narrowing(f, (uint32_t)draw(f, SLOTS)));
        break;
    case 3:
        if (f->last != NULL && f->last->undoes == 0)
            roll_back(f);
        break;
    default:
        live_a_little(f, 1 + (int)draw(f, 4));
    }
}

static bool too_narrow(const struct fixture *f) {
    for (size_t i = 0; i < SLOTS; i++) {
        if (f->layout->slots[i].width < 2)
            return true;
    }
    return false;
}

static void live(struct life *l, int things, int every) {
    for (int i = 1; i <= things && !too_narrow(l->f); i++) {
        do_something(l);
        snapshot(l);
        if (i % every == 0)
            is_as_it_was(l);
    }
    is_as_it_was(l);
    send_gather(l->f);
}

static void a_shard_is_as_it_was_by_its_log_after_whatever_it_did(void **state) {
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct life l = life_new(seed, 0);
        live(&l, 40, 1 + (int)(seed % 3));
        assert_int_equal(l.snapshots, 0);
        life_end(&l);
    }
}

static void and_by_its_newest_snapshot_and_the_log_behind_it(void **state) {
    uint64_t snapshots = 0;
    for (uint64_t seed = 11; seed <= 18; seed++) {
        struct life l = life_new(seed, 20000);
        live(&l, 60, 1 + (int)(seed % 4));
        snapshots += l.snapshots;
        life_end(&l);
    }
    assert_true(snapshots > 40);
}

/* Options that what pushes do depends on are in the log, not the new process's. */
static void options_that_changed_count_from_the_restart_on(void **state) {
    for (uint64_t seed = 21; seed <= 24; seed++) {
        struct life l = life_new(seed, seed % 2 * 50000);
        send_scoring(l.f, true);
        for (int i = 0; i < 60; i++) { /* more scores than its memory takes */
            live_a_little(l.f, 1);
            snapshot(&l);
        }
        l.options.score_memory = 1 << 24;
        l.options.score_sample = 3;
        l.options.row_memory = 1; /* no new row */
        is_as_it_was(&l);
        l.options = scene_options;
        is_as_it_was(&l);
        live(&l, 5, 2);
        life_end(&l);
    }
}

static uint64_t disk_bytes(struct life *l) {
    uint64_t sum = 0;
    for (uint64_t position = 1; position < 3000; position++) {
        char name[64];
        size_t len = 0;
        snprintf(name, sizeof name, "wal-%llu", (unsigned long long)position);
        sum += mem_disk_bytes(l->mem, name, &len) != NULL ? len : 0;
        snprintf(name, sizeof name, "spare-%llu", (unsigned long long)position);
        sum += mem_disk_bytes(l->mem, name, &len) != NULL ? len : 0;
    }
    return sum;
}

static void the_log_does_not_grow_for_ever(void **state) {
    struct life l = life_new(31, 30000);
    uint64_t most = 0;
    for (int i = 0; i < 600; i++) {
        live_a_little(l.f, 1);
        snapshot(&l);
        const uint64_t now = disk_bytes(&l);
        most = i > 300 && now > most ? now : most;
    }
    assert_true(l.snapshots > 8);
    assert_true(most <= 4 * SEGMENT); /* two snapshots' worth, and a spare */
    is_as_it_was(&l);
    life_end(&l);
}

/* The name of the n-th newest snapshot. */
static bool newest(struct life *l, int n, char name[64]) {
    for (uint64_t position = 3000; position > 0; position--) {
        size_t len;
        snprintf(name, 64, "snapshot-%llu", (unsigned long long)position);
        if (mem_disk_bytes(l->mem, name, &len) != NULL && n-- == 0)
            return true;
    }
    return false;
}

static void flip(struct life *l, const char *name, uint64_t at) {
    size_t len;
    uint8_t *const bytes = mem_disk_bytes(l->mem, name, &len);
    assert_non_null(bytes);
    bytes[at % len] ^= 0x10;
}

static void a_damaged_snapshot_is_passed_over_for_the_one_before(void **state) {
    struct life l = life_new(41, 60000);
    char first[64], second[64];
    while (l.snapshots < 3) {
        live_a_little(l.f, 1);
        snapshot(&l);
    }
    live_a_little(l.f, 3);
    assert_true(newest(&l, 0, first) && newest(&l, 1, second));
    for (uint64_t i = 0; i < 12; i++) {
        const uint64_t at = draw(l.f, 1 << 20);
        flip(&l, first, at);
        is_as_it_was(&l);
        flip(&l, first, at); /* whole again */
    }
    flip(&l, first, 20);
    flip(&l, second, 9999);
    struct err_detail detail = {{0}};
    assert_int_equal(end_and_recover(&l, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "the log lacks record 1"));
    assert_null(l.f->shards[0]);
    flip(&l, second, 9999);
    is_as_it_was(&l);
    life_end(&l);
}

static void a_snapshot_that_fails_is_tried_again_and_costs_nothing(void **state) {
    struct life l = life_new(51, 6000);
    struct snapshot_result made;
    uint64_t failed = 0;
    for (int i = 0; i < 150; i++) {
        live_a_little(l.f, 1);
        mem_disk_fail(l.mem, i % 3 == 0 ? 1 + draw(l.f, 6) : 0, 0);
        for (int k = 0; k < 2; k++)
            failed += shard_store_snapshot(l.f->store, l.f->shards[0], &made, NULL) != DIMFIT_OK;
        mem_disk_fail(l.mem, 0, 0);
        if (i % 10 == 0)
            is_as_it_was(&l);
    }
    assert_true(failed > 3);
    snapshot(&l);
    is_as_it_was(&l);
    life_end(&l);
}

/* Part of it may be there, or all: nobody was told, and it is sent again. */
static void a_command_whose_record_was_torn_is_sent_again(void **state) {
    for (uint64_t seed = 61; seed <= 66; seed++) {
        struct life l = life_new(seed, seed % 2 * 80000);
        struct fixture *const f = l.f;
        for (int i = 0; i < 15; i++) {
            live_a_little(f, 3);
            snapshot(&l);
            const struct wire_header header = {.kind = WIRE_SCORE_START,
                                               .tag = 7 + (uint64_t)i,
                                               .mode = SCORE_WANT_MOMENTS,
                                               .phase = PHASE_SCORING};
            f->n = 1;
            mem_disk_tear(l.mem, 1);
            assert_int_equal(ask(f, &header, NULL, 0), DIMFIT_ERR_LOG);
            assert_int_equal(end_and_recover(&l, NULL), DIMFIT_OK);
            f->n = 2;
            assert_int_equal(ask(f, &header, NULL, 0), DIMFIT_OK);
            is_as_it_was(&l);
        }
        life_end(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shard_is_as_it_was_by_its_log_after_whatever_it_did),
        cmocka_unit_test(and_by_its_newest_snapshot_and_the_log_behind_it),
        cmocka_unit_test(options_that_changed_count_from_the_restart_on),
        cmocka_unit_test(the_log_does_not_grow_for_ever),
        cmocka_unit_test(a_damaged_snapshot_is_passed_over_for_the_one_before),
        cmocka_unit_test(a_snapshot_that_fails_is_tried_again_and_costs_nothing),
        cmocka_unit_test(a_command_whose_record_was_torn_is_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
