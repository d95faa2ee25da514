#include "server/wal.h"
#include "tests/unit/mem_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SEGMENT = 4096, BODY_MAX = 6000 };

/* ---- a log and what should be in it ---------------------------------------------------------- */

struct scene {
    struct mem_disk *mem;
    struct disk *disk;
    struct wal *wal;
    struct wal_end end;
    uint64_t taken; /* by the last replay */
    bool synced;
    uint64_t openings;
};

/* Record p is the same in every test. */
static size_t body_of(uint64_t position, uint8_t *out) {
    const size_t len = position % 11 == 3 ? BODY_MAX - position % 700 : position * 37 % 300;
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(position * 7 + i);
    return len;
}

static size_t header_of(uint64_t position, char *out) {
    return (size_t)snprintf(out, 64, "record %llu", (unsigned long long)position);
}

static dimfit_err take(void *self, uint64_t position, const uint8_t *header, size_t header_len,
                       const uint8_t *body, size_t body_len, struct err_detail *detail) {
    struct scene *const s = self;
    uint8_t expected[BODY_MAX];
    char name[64];
    s->taken++;
    assert_int_equal(header_len, header_of(position, name));
    assert_memory_equal(header, name, header_len);
    assert_int_equal(body_len, body_of(position, expected));
    assert_memory_equal(body, expected, body_len);
    return DIMFIT_OK;
}

static dimfit_err open_log(struct scene *s, uint64_t from, struct err_detail *detail) {
    const struct wal_options options = {
        .segment_bytes = SEGMENT, .random = 99 + s->openings++, .spares = 4, .synced = s->synced};
    s->disk = mem_disk_open(s->mem);
    s->taken = 0;
    assert_int_equal(wal_open(s->disk, &options, &s->wal, NULL), DIMFIT_OK);
    return wal_replay(s->wal, from, take, s, &s->end, detail);
}

static void close_log(struct scene *s) {
    wal_close(&s->wal);
    disk_close(&s->disk);
}

static struct scene begin(bool synced) {
    struct scene s = {.mem = mem_disk_new(5), .synced = synced};
    assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
    assert_int_equal(s.end.position, 0);
    return s;
}

static void finish(struct scene *s) {
    close_log(s);
    mem_disk_free(s->mem);
}

static dimfit_err append(struct scene *s) {
    uint8_t body[BODY_MAX];
    char name[64];
    const uint64_t position = wal_position(s->wal) + 1;
    const size_t header_len = header_of(position, name), len = body_of(position, body);
    const dimfit_err err = wal_append(s->wal, name, header_len, body, len, NULL);
    assert_int_equal(wal_position(s->wal), err == DIMFIT_OK ? position : position - 1);
    return err;
}

static void append_many(struct scene *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        assert_int_equal(append(s), DIMFIT_OK);
}

static void reopen(struct scene *s, uint64_t from, uint64_t position) {
    struct err_detail detail = {{0}};
    close_log(s);
    const dimfit_err err = open_log(s, from, &detail);
    if (err != DIMFIT_OK)
        print_message("%s\n", detail.text);
    assert_int_equal(err, DIMFIT_OK);
    assert_int_equal(s->end.position, position);
    assert_int_equal(s->taken, position - from);
}

static void sync_now(struct scene *s) {
    struct wal_sync job;
    while (wal_sync_begin(s->wal, &job)) {
        assert_int_equal(wal_sync_run(&job, NULL), DIMFIT_OK);
        wal_sync_end(s->wal, &job);
    }
    assert_int_equal(wal_synced(s->wal), wal_position(s->wal));
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void what_was_appended_is_replayed_and_followed_on(void **state) {
    struct scene s = begin(false);
    for (uint64_t n = 1; n < 100; n += 9) {
        append_many(&s, 9);
        reopen(&s, 0, n + 8);
        assert_false(s.end.torn);
    }
    reopen(&s, 42, 99);
    finish(&s);
}

static void a_record_taken_back_is_replaced(void **state) {
    struct scene s = begin(false);
    append_many(&s, 4);
    assert_int_equal(wal_append(s.wal, "wrong", 5, "body", 4, NULL), DIMFIT_OK);
    wal_take_back(s.wal);
    append_many(&s, 3);
    reopen(&s, 0, 7);
    finish(&s);
}

/* Whatever the last write left, whatever a file was used for before. */
static void a_torn_record_ends_the_log(void **state) {
    size_t torn = 0;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct scene s = {.mem = mem_disk_new(seed), .synced = seed % 2 == 0};
        assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
        append_many(&s, 40);
        sync_now(&s);
        wal_forget(s.wal, 30);
        append_many(&s, seed % 23);
        mem_disk_tear(s.mem, 1 + seed % 3);
        while (append(&s) == DIMFIT_OK)
            ;
        uint64_t position = wal_position(s.wal);
        mem_disk_crash(s.mem, false);
        close_log(&s);
        assert_int_equal(open_log(&s, 30, NULL), DIMFIT_OK);
        /* The write may have been whole when the process ended. */
        assert_true(s.end.position == position || s.end.position == position + 1);
        torn += s.end.torn;
        position = s.end.position;
        append_many(&s, 20);
        reopen(&s, 30, position + 20);
        finish(&s);
    }
    assert_in_range(torn, 50, 299);
}

/* Of what was not synced anything may be there after a power cut; of the rest everything is. */
static void a_power_cut_takes_nothing_that_was_synced(void **state) {
    size_t lost = 0;
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct scene s = {.mem = mem_disk_new(seed), .synced = true};
        assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
        for (int life = 0; life < 4; life++) {
            append_many(&s, 1 + seed % 17);
            sync_now(&s);
            const uint64_t synced = wal_position(s.wal);
            wal_forget(s.wal, synced / 2);
            append_many(&s, seed % 29);
            const uint64_t position = wal_position(s.wal);
            mem_disk_crash(s.mem, true);
            close_log(&s);
            struct err_detail detail = {{0}};
            const dimfit_err err = open_log(&s, synced / 2, &detail);
            if (err != DIMFIT_OK)
                print_message("seed %llu: %s\n", (unsigned long long)seed, detail.text);
            assert_int_equal(err, DIMFIT_OK);
            assert_in_range(s.end.position, synced, position);
            lost += position - s.end.position;
        }
        finish(&s);
    }
    assert_true(lost > 1000);
}

static void a_sync_covers_what_was_appended_before_it(void **state) {
    struct scene s = begin(true);
    struct wal_sync job, none;
    assert_false(wal_sync_begin(s.wal, &job));
    append_many(&s, 3);
    assert_true(wal_sync_begin(s.wal, &job));
    append_many(&s, 2);
    assert_false(wal_sync_begin(s.wal, &none));
    assert_int_equal(wal_synced(s.wal), 0);
    assert_int_equal(wal_sync_run(&job, NULL), DIMFIT_OK);
    wal_sync_end(s.wal, &job);
    assert_int_equal(wal_synced(s.wal), 3);
    sync_now(&s);
    mem_disk_fail(s.mem, 2, 0);
    append_many(&s, 1);
    assert_true(wal_sync_begin(s.wal, &job));
    assert_int_equal(wal_sync_run(&job, NULL), DIMFIT_ERR_IO);
    finish(&s);
}

static const char *newest(struct scene *s, char *name) {
    for (uint64_t p = wal_position(s->wal); p > 0; p--) {
        size_t len;
        snprintf(name, 32, "wal-%llu", (unsigned long long)p);
        if (mem_disk_bytes(s->mem, name, &len) != NULL)
            return name;
    }
    return NULL;
}

/* Every byte of the records of one segment flipped, and of its head. */
static void a_damaged_byte_is_found_and_never_replayed(void **state) {
    struct scene s = begin(false);
    append_many(&s, 60);
    const uint64_t position = wal_position(s.wal);
    char name[32];
    size_t len = 0;
    assert_non_null(newest(&s, name));
    const uint64_t first = strtoull(name + 4, NULL, 10);
    for (size_t at = 0; at < SEGMENT; at++) {
        uint8_t *const bytes = mem_disk_bytes(s.mem, "wal-1", &len);
        close_log(&s);
        bytes[at] ^= 0x40;
        struct err_detail detail = {{0}};
        const dimfit_err err = open_log(&s, 0, &detail);
        /* Zeros behind a record are nobody's. */
        assert_true(err == DIMFIT_ERR_IO || (err == DIMFIT_OK && s.end.position == position));
        if (err != DIMFIT_OK)
            assert_non_null(strstr(detail.text, "wal-1 is damaged at byte"));
        bytes[at] ^= 0x40;
    }
    /* In the last record it looks like one that was never whole. */
    close_log(&s);
    uint8_t *const last = mem_disk_bytes(s.mem, name, &len);
    assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
    const size_t end = (size_t)s.end.offset;
    close_log(&s);
    last[end - 20] ^= 1;
    assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
    assert_int_equal(s.end.position, position - 1);
    assert_true(first > 1 && s.end.torn);
    finish(&s);
}

static void a_segment_that_is_gone_is_missed(void **state) {
    struct scene s = begin(false);
    struct err_detail detail = {{0}};
    append_many(&s, 60);
    wal_forget(s.wal, 20);
    close_log(&s);
    assert_int_equal(open_log(&s, 20, NULL), DIMFIT_OK);
    close_log(&s);
    assert_int_equal(open_log(&s, 3, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "lacks record 4"));
    finish(&s);
}

/* Bytes behind the end that look like records by all but their check: descending numbers. A look at
 * all that each of them says it has would never end. */
static void the_end_is_found_before_a_sea_of_numbers(void **state) {
    enum { SEA = 4 << 20 };
    struct scene s = begin(false);
    append_many(&s, 2);
    close_log(&s);
    struct disk_file *file = NULL;
    s.disk = mem_disk_open(s.mem);
    assert_int_equal(disk_open(s.disk, "wal-1", DISK_WRITE, &file, NULL), DIMFIT_OK);
    uint64_t *const numbers = malloc(SEA);
    assert_non_null(numbers);
    for (size_t i = 0; i < SEA / sizeof *numbers; i++)
        numbers[i] = SEA / 2 - 4 * i; /* as many bytes are there */
    const struct iovec part = {numbers, SEA};
    assert_int_equal(disk_file_write(file, &part, 1, SEGMENT, NULL), DIMFIT_OK);
    disk_file_close(&file);
    disk_close(&s.disk);
    free(numbers);
    assert_int_equal(open_log(&s, 0, NULL), DIMFIT_OK);
    assert_int_equal(s.end.position, 2);
    finish(&s);
}

/* The snapshot was durable, the log's last records went with the power. */
static void a_log_that_ends_before_a_snapshot_goes_on_behind_it(void **state) {
    struct scene s = begin(false);
    struct err_detail detail = {{0}};
    append_many(&s, 60);
    close_log(&s);
    assert_int_equal(open_log(&s, 100, &detail), DIMFIT_OK);
    assert_int_equal(s.end.position, 100);
    assert_int_equal(wal_position(s.wal), 100);
    append_many(&s, 5);
    close_log(&s);
    assert_int_equal(open_log(&s, 100, &detail), DIMFIT_OK);
    assert_int_equal(wal_position(s.wal), 105);
    wal_forget(s.wal, 100);
    close_log(&s);
    assert_int_equal(open_log(&s, 100, &detail), DIMFIT_OK);
    close_log(&s);
    assert_int_equal(open_log(&s, 60, &detail), DIMFIT_ERR_IO); /* what is between is gone */
    assert_non_null(strstr(detail.text, "lacks record 61"));
    finish(&s);
}

static void count_files(void *self, const char *name) {
    ++*(size_t *)self;
}

static void segments_before_a_snapshot_are_written_over(void **state) {
    struct scene s = begin(false);
    size_t most = 0;
    for (int i = 0; i < 200; i++) {
        append_many(&s, 5);
        if (wal_position(s.wal) > 20)
            wal_forget(s.wal, wal_position(s.wal) - 20);
        size_t files = 0;
        assert_int_equal(disk_list(s.disk, count_files, &files, NULL), DIMFIT_OK);
        most = files > most ? files : most;
    }
    assert_in_range(most, 4, 12);
    const uint64_t position = wal_position(s.wal);
    reopen(&s, position - 20, position);
    finish(&s);
}

static void a_full_disk_refuses_a_record_until_there_is_room(void **state) {
    struct scene s = begin(false);
    append_many(&s, 2);
    mem_disk_limit(s.mem, 5 * SEGMENT + 100);
    size_t n = 0;
    while (append(&s) == DIMFIT_OK)
        n++;
    assert_true(n > 0);
    assert_int_equal(append(&s), DIMFIT_ERR_IO);
    mem_disk_limit(s.mem, SIZE_MAX);
    append_many(&s, 20);
    reopen(&s, 0, 22 + n);
    finish(&s);
}

/* Each operation of a run fails once, and then the next three with it. */
static void an_append_that_failed_leaves_no_trace(void **state) {
    for (uint64_t nth = 1; nth < 120; nth++) {
        for (uint64_t more = 0; more < 4; more += 3) {
            struct scene s = begin(false);
            mem_disk_fail(s.mem, nth, more);
            size_t failed = 0;
            for (int i = 0; i < 60; i++) {
                failed += append(&s) != DIMFIT_OK;
                if (i % 10 == 9)
                    wal_forget(s.wal, wal_position(s.wal) / 2);
            }
            assert_in_range(failed, 0, more + 1);
            mem_disk_fail(s.mem, 0, 0);
            const uint64_t position = wal_position(s.wal);
            reopen(&s, position / 2, position);
            finish(&s);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_appended_is_replayed_and_followed_on),
        cmocka_unit_test(a_record_taken_back_is_replaced),
        cmocka_unit_test(a_torn_record_ends_the_log),
        cmocka_unit_test(a_power_cut_takes_nothing_that_was_synced),
        cmocka_unit_test(a_sync_covers_what_was_appended_before_it),
        cmocka_unit_test(a_damaged_byte_is_found_and_never_replayed),
        cmocka_unit_test(a_segment_that_is_gone_is_missed),
        cmocka_unit_test(the_end_is_found_before_a_sea_of_numbers),
        cmocka_unit_test(a_log_that_ends_before_a_snapshot_goes_on_behind_it),
        cmocka_unit_test(segments_before_a_snapshot_are_written_over),
        cmocka_unit_test(a_full_disk_refuses_a_record_until_there_is_room),
        cmocka_unit_test(an_append_that_failed_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
