#include "server/state_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make(void **state) {
    snprintf(folder, sizeof folder, "/tmp/dimfit-state-XXXXXX");
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int drop(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void what_was_written_last_is_read(void **state) {
    struct state_file *file;
    struct buf buf;
    buf_init(&buf);
    assert_int_equal(state_file_open(folder, &file, NULL), DIMFIT_OK);
    assert_int_equal(state_file_read(file, STATE_FILE_NAME, &buf, NULL), DIMFIT_ERR_NOT_FOUND);
    assert_int_equal(state_file_write(file, STATE_FILE_NAME, "first", 5, NULL), DIMFIT_OK);
    assert_int_equal(state_file_write(file, STATE_FILE_NAME, "second!", 7, NULL), DIMFIT_OK);
    assert_int_equal(state_file_read(file, STATE_FILE_NAME, &buf, NULL), DIMFIT_OK);
    assert_int_equal(buf.len, 7);
    assert_memory_equal(buf.data, "second!", 7);
    state_file_close(&file);
    buf_fini(&buf);
}

static void a_second_daemon_is_kept_out_by_name(void **state) {
    struct state_file *file, *other;
    struct err_detail detail;
    assert_int_equal(state_file_open(folder, &file, NULL), DIMFIT_OK);
    assert_int_equal(state_file_open(folder, &other, &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, folder));
    state_file_close(&file);
    assert_int_equal(state_file_open(folder, &other, NULL), DIMFIT_OK);
    state_file_close(&other);
}

static void the_file_is_the_owners_alone(void **state) {
    struct state_file *file;
    assert_int_equal(state_file_open(folder, &file, NULL), DIMFIT_OK);
    assert_int_equal(state_file_write(file, STATE_FILE_NAME, "x", 1, NULL), DIMFIT_OK);
    state_file_close(&file);
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/coordinator.state", folder);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_folder_that_cannot_be_made_is_named(void **state) {
    struct state_file *file;
    struct err_detail detail;
    assert_int_equal(state_file_open("/proc/nowhere", &file, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "/proc/nowhere"));
}

static void note(void *self, const char *name) {
    strcat(self, name);
    strcat(self, " ");
}

static void files_of_a_prefix_are_listed_and_removed(void **state) {
    struct state_file *file;
    char names[256] = "";
    assert_int_equal(state_file_open(folder, &file, NULL), DIMFIT_OK);
    assert_int_equal(state_file_write(file, STATE_FILE_NAME, "x", 1, NULL), DIMFIT_OK);
    assert_int_equal(state_file_write(file, "plan-3", "x", 1, NULL), DIMFIT_OK);
    assert_int_equal(state_file_write(file, "plan-4.next", "cut", 3, NULL), DIMFIT_OK);
    state_file_each(file, "plan-", note, names);
    assert_string_equal(names, "plan-3 ");
    assert_int_equal(state_file_remove(file, "plan-3", NULL), DIMFIT_OK);
    assert_int_equal(state_file_remove(file, "plan-3", NULL), DIMFIT_OK);
    names[0] = 0;
    state_file_each(file, "plan-", note, names);
    assert_string_equal(names, "");
    state_file_close(&file);
}

#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void) {
    const struct CMUnitTest tests[] = {
        FILE_TEST(what_was_written_last_is_read),
        FILE_TEST(a_second_daemon_is_kept_out_by_name),
        FILE_TEST(the_file_is_the_owners_alone),
        FILE_TEST(files_of_a_prefix_are_listed_and_removed),
        FILE_TEST(a_folder_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
