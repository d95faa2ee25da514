#include "server/eviction_log.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

static char folder[] = "/tmp/dimfit-eviction-XXXXXX";
static char path[64];

static int make_folder(void **state) {
    snprintf(path, sizeof path, "%s/log.csv", mkdtemp(folder) != NULL ? folder : "");
    return 0;
}

static int drop_folder(void **state) {
    unlink(path);
    return rmdir(folder);
}

static zactor_t *start(const char *file) {
    zactor_t *log = NULL;
    struct err_detail detail;
    assert_int_equal(eviction_log_start(file, &log, &detail), DIMFIT_OK);
    return log;
}

static void assert_content(const char *want) {
    char got[1000] = "";
    FILE *const file = fopen(path, "r");
    assert_non_null(file);
    got[fread(got, 1, sizeof got - 1, file)] = 0;
    fclose(file);
    assert_string_equal(got, want);
}

static const char names[] = "slot,feasign,shows,clicks,day\n";

static const struct expired_row rows[] = {
    {UINT64_MAX, {1.25f, 0, 20771}},
    {0, {16777216, 3, 0}},
};

static void evicted_rows_are_appended_under_one_line_of_names(void **state) {
    for (int times = 0; times < 2; times++) {
        zactor_t *log = start(path);
        void *const a = eviction_log_connect(), *const b = eviction_log_connect();
        assert_true(eviction_log_ready(a) && eviction_log_ready(b));
        if (times == 0)
            assert_true(eviction_log_send(a, 3, rows, 2));
        else
            assert_true(eviction_log_send(b, 4000000000, rows, 1));
        zmq_close(a);
        zmq_close(b);
        zactor_destroy(&log);
        assert_content(times == 0 ? "slot,feasign,shows,clicks,day\n"
                                    "3,18446744073709551615,1.25,0,20771\n3,0,16777216,3,0\n"
                                  : "slot,feasign,shows,clicks,day\n"
                                    "3,18446744073709551615,1.25,0,20771\n3,0,16777216,3,0\n"
                                    "4000000000,18446744073709551615,1.25,0,20771\n");
    }
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
}

static void a_file_that_cannot_be_opened_is_named(void **state) {
    zactor_t *log = NULL;
    struct err_detail detail;
    assert_int_equal(eviction_log_start("/nowhere/at/all.csv", &log, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "/nowhere/at/all.csv"));
    assert_null(log);
}

static void a_full_disk_is_an_error_at_the_start(void **state) {
    zactor_t *log = NULL;
    struct err_detail detail;
    assert_int_equal(eviction_log_start("/dev/full", &log, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "/dev/full"));
    assert_null(log);
}

/* Nothing may be written past what is there. */
static void a_disk_that_fills_up_later_stops_nobody(void **state) {
    struct rlimit before, full;
    assert_int_equal(unlink(path), 0);
    zactor_t *log = start(path);
    void *const socket = eviction_log_connect();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    full = before;
    full.rlim_cur = sizeof names - 1;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    for (int i = 0; i < 1000; i++) {
        while (!eviction_log_ready(socket))
            continue;
        assert_true(eviction_log_send(socket, 3, rows, 2));
    }
    zmq_close(socket);
    zactor_destroy(&log);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_content(names);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evicted_rows_are_appended_under_one_line_of_names),
        cmocka_unit_test(a_file_that_cannot_be_opened_is_named),
        cmocka_unit_test(a_full_disk_is_an_error_at_the_start),
        cmocka_unit_test(a_disk_that_fills_up_later_stops_nobody),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
