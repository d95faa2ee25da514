#include "server/audit_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

static char folder[64], path[96], moved[96];

static int make(void **state) {
    snprintf(folder, sizeof folder, "/tmp/dimfit-audit-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/audit", folder);
    snprintf(moved, sizeof moved, "%s/audit.1", folder);
    return 0;
}

static int drop(void **state) {
    unlink(path);
    unlink(moved);
    return rmdir(folder);
}

static void has(const char *file, const char *expected) {
    char text[4096] = "";
    FILE *const in = fopen(file, "r");
    assert_non_null(in);
    text[fread(text, 1, sizeof text - 1, in)] = 0;
    fclose(in);
    assert_string_equal(text, expected);
}

static void write_lines(const char *one, const char *other) {
    zactor_t *log = NULL;
    assert_int_equal(audit_log_start(path, &log, NULL), DIMFIT_OK);
    audit_log_send(log, one);
    audit_log_send(log, other);
    zactor_destroy(&log); /* returns when all is written */
}

static void lines_are_appended_in_order_and_the_owners_alone(void **state) {
    struct stat st;
    write_lines("{\"a\":1}", "{\"b\":2}");
    write_lines("{\"c\":3}", "{}");
    has(path, "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n{}\n");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_renamed_file_is_followed_by_a_new_one(void **state) {
    zactor_t *log = NULL;
    struct stat st = {0};
    assert_int_equal(audit_log_start(path, &log, NULL), DIMFIT_OK);
    audit_log_send(log, "{\"a\":1}");
    while (stat(path, &st) != 0 || st.st_size == 0)
        zclock_sleep(1);
    assert_int_equal(rename(path, moved), 0);
    audit_log_send(log, "{\"b\":2}");
    zactor_destroy(&log);
    has(moved, "{\"a\":1}\n");
    has(path, "{\"b\":2}\n");
}

static void a_file_that_cannot_be_opened_is_named(void **state) {
    zactor_t *log = NULL;
    struct err_detail detail;
    assert_int_equal(audit_log_start("/proc/nowhere/audit", &log, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "/proc/nowhere/audit"));
}

#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void) {
    const struct CMUnitTest tests[] = {
        FILE_TEST(lines_are_appended_in_order_and_the_owners_alone),
        FILE_TEST(a_renamed_file_is_followed_by_a_new_one),
        cmocka_unit_test(a_file_that_cannot_be_opened_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
