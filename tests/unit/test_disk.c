#include "server/disk.h"
#include "tests/unit/mem_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static char path[64];
static struct mem_disk *mem;

static int make_real(void **state) {
    struct disk *disk = NULL;
    snprintf(path, sizeof path, "/tmp/dimfit-disk-XXXXXX");
    if (mkdtemp(path) == NULL || disk_folder_open(path, &disk, NULL) != DIMFIT_OK)
        return -1;
    *state = disk;
    return 0;
}

static int drop_real(void **state) {
    struct disk *disk = *state;
    char command[128];
    disk_close(&disk);
    snprintf(command, sizeof command, "rm -rf %s", path);
    return system(command);
}

static int make_mem(void **state) {
    mem = mem_disk_new(7);
    *state = mem_disk_open(mem);
    return 0;
}

static int drop_mem(void **state) {
    struct disk *disk = *state;
    disk_close(&disk);
    mem_disk_free(mem);
    return 0;
}

static struct disk_file *open_file(struct disk *disk, const char *name) {
    struct disk_file *file = NULL;
    assert_int_equal(disk_open(disk, name, DISK_WRITE, &file, NULL), DIMFIT_OK);
    return file;
}

static dimfit_err put(struct disk_file *file, uint64_t at, const char *text) {
    const struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
    return disk_file_write(file, &part, 1, at, NULL);
}

static void assert_reads(struct disk *disk, const char *name, const char *text) {
    struct disk_file *file = NULL;
    char bytes[64];
    size_t got = 0;
    assert_int_equal(disk_open(disk, name, DISK_READ, &file, NULL), DIMFIT_OK);
    assert_int_equal(disk_file_read(file, bytes, sizeof bytes, 0, &got, NULL), DIMFIT_OK);
    assert_int_equal(got, strlen(text));
    assert_memory_equal(bytes, text, got);
    disk_file_close(&file);
}

static void count(void *self, const char *name) {
    assert_true(strcmp(name, "a") == 0 || strcmp(name, "b") == 0);
    ++*(size_t *)self;
}

static void parts_are_written_one_after_another_at_their_place(void **state) {
    struct disk *const disk = *state;
    struct disk_file *file = open_file(disk, "a");
    char one[] = "12", none[] = "", two[] = "345";
    const struct iovec parts[] = {{one, 2}, {none, 0}, {two, 3}};
    assert_int_equal(put(file, 0, "abcdefgh"), DIMFIT_OK);
    assert_int_equal(disk_file_write(file, parts, 3, 1, NULL), DIMFIT_OK);
    assert_int_equal(disk_file_sync(file, NULL), DIMFIT_OK);
    disk_file_close(&file);
    assert_reads(disk, "a", "a12345gh");
}

static void reserved_room_is_zeros_and_keeps_what_is_there(void **state) {
    struct disk *const disk = *state;
    struct disk_file *file = open_file(disk, "a");
    uint64_t size = 0;
    uint8_t byte = 1;
    size_t got = 0;
    assert_int_equal(put(file, 0, "abc"), DIMFIT_OK);
    assert_int_equal(disk_file_reserve(file, 5000, NULL), DIMFIT_OK);
    assert_int_equal(disk_file_size(file, &size, NULL), DIMFIT_OK);
    assert_int_equal(size, 5000);
    assert_int_equal(disk_file_read(file, &byte, 1, 4999, &got, NULL), DIMFIT_OK);
    assert_int_equal(got, 1);
    assert_int_equal(byte, 0);
    assert_int_equal(disk_file_truncate(file, 3, NULL), DIMFIT_OK);
    disk_file_close(&file);
    assert_reads(disk, "a", "abc");
}

static void names_change_and_open_files_stay(void **state) {
    struct disk *const disk = *state;
    struct disk_file *file = open_file(disk, "a"), *other = open_file(disk, "b");
    size_t n = 0;
    assert_int_equal(put(other, 0, "other"), DIMFIT_OK);
    disk_file_close(&other);
    assert_int_equal(disk_rename(disk, "a", "b", NULL), DIMFIT_OK);
    assert_int_equal(put(file, 0, "after"), DIMFIT_OK);
    disk_file_close(&file);
    assert_reads(disk, "b", "after");
    assert_int_equal(disk_open(disk, "a", DISK_READ, &file, NULL), DIMFIT_ERR_NOT_FOUND);
    assert_int_equal(disk_list(disk, count, &n, NULL), DIMFIT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(disk_remove(disk, "b", NULL), DIMFIT_OK);
    assert_int_equal(disk_remove(disk, "b", NULL), DIMFIT_OK);
    assert_int_equal(disk_sync(disk, NULL), DIMFIT_OK);
}

static void a_folder_has_one_owner(void **state) {
    struct disk *other = NULL;
    struct err_detail detail = {{0}};
    assert_int_equal(disk_folder_open(path, &other, &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, path));
}

static void a_power_cut_takes_only_what_was_not_synced(void **state) {
    size_t kept = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mem_disk *m = mem_disk_new(seed);
        struct disk *disk = mem_disk_open(m);
        struct disk_file *file = open_file(disk, "a");
        assert_int_equal(put(file, 0, "abc"), DIMFIT_OK);
        assert_int_equal(disk_file_sync(file, NULL), DIMFIT_OK);
        assert_int_equal(disk_sync(disk, NULL), DIMFIT_OK);
        assert_int_equal(put(file, 0, "xyz"), DIMFIT_OK);
        mem_disk_crash(m, true);
        assert_int_equal(put(file, 0, "late"), DIMFIT_ERR_IO);
        disk_file_close(&file);
        disk_close(&disk);
        size_t len = 0;
        const uint8_t *const bytes = mem_disk_bytes(m, "a", &len);
        assert_int_equal(len, 3);
        assert_true(memcmp(bytes, "abc", 3) == 0 || memcmp(bytes, "xyz", 3) == 0);
        kept += bytes[0] == 'x';
        mem_disk_free(m);
    }
    assert_in_range(kept, 5, 35);
}

static void a_torn_write_leaves_a_part_and_ends_the_process(void **state) {
    struct disk *const disk = *state;
    struct disk_file *file = open_file(disk, "a");
    assert_int_equal(put(file, 0, "aaaaaaaa"), DIMFIT_OK);
    mem_disk_tear(mem, 1);
    assert_int_equal(put(file, 0, "bbbbbbbb"), DIMFIT_ERR_IO);
    assert_true(mem_disk_torn(mem));
    assert_int_equal(disk_file_sync(file, NULL), DIMFIT_ERR_IO);
    disk_file_close(&file);
    mem_disk_crash(mem, false);
    size_t len = 0;
    const uint8_t *const bytes = mem_disk_bytes(mem, "a", &len);
    size_t n = 0;
    while (n < len && bytes[n] == 'b')
        n++;
    for (size_t i = n; i < len; i++)
        assert_int_equal(bytes[i], 'a');
}

static void a_full_disk_and_a_failing_one_say_so(void **state) {
    struct disk *const disk = *state;
    struct disk_file *file = open_file(disk, "a");
    mem_disk_limit(mem, 4);
    assert_int_equal(put(file, 0, "abcd"), DIMFIT_OK);
    assert_int_equal(put(file, 4, "e"), DIMFIT_ERR_IO);
    assert_int_equal(put(file, 2, "xy"), DIMFIT_OK);
    mem_disk_fail(mem, 2, 1);
    assert_int_equal(put(file, 0, "1"), DIMFIT_OK);
    assert_int_equal(put(file, 0, "2"), DIMFIT_ERR_IO);
    assert_int_equal(disk_file_sync(file, NULL), DIMFIT_ERR_IO);
    assert_int_equal(disk_file_sync(file, NULL), DIMFIT_OK);
    disk_file_close(&file);
    assert_reads(disk, "a", "1bxy");
}

int main(void) {
#define BOTH(test)                                                                                 \
    {#test " (real)", test, make_real, drop_real, NULL}, {                                         \
#test " (in memory)", test, make_mem, drop_mem, NULL                                       \
    }
    const struct CMUnitTest tests[] = {
        BOTH(parts_are_written_one_after_another_at_their_place),
        BOTH(reserved_room_is_zeros_and_keeps_what_is_there),
        BOTH(names_change_and_open_files_stay),
        cmocka_unit_test_setup_teardown(a_folder_has_one_owner, make_real, drop_real),
        cmocka_unit_test(a_power_cut_takes_only_what_was_not_synced),
        cmocka_unit_test_setup_teardown(a_torn_write_leaves_a_part_and_ends_the_process, make_mem,
                                        drop_mem),
        cmocka_unit_test_setup_teardown(a_full_disk_and_a_failing_one_say_so, make_mem, drop_mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
