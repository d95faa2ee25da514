#include "server/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* What the calls between begin() and end() write to standard error. */
static FILE *caught;
static int kept;

static void begin(void) {
    caught = tmpfile();
    assert_non_null(caught);
    kept = dup(STDERR_FILENO);
    dup2(fileno(caught), STDERR_FILENO);
}

static size_t end(char *out, size_t cap) {
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(caught);
    const size_t len = fread(out, 1, cap - 1, caught);
    out[len] = '\0';
    fclose(caught);
    return len;
}

static void a_line_has_time_level_component_and_text(void **state) {
    char text[256];
    unsigned year, month, day, hour, minute, second, ms;
    begin();
    log_warn("coordinator", "shard %d is silent", 3);
    end(text, sizeof text);
    assert_int_equal(sscanf(text, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ ", &year, &month, &day, &hour,
                            &minute, &second, &ms),
                     7);
    assert_string_equal(text + 24, " warn  coordinator: shard 3 is silent\n");
}

static void lines_below_the_level_are_not_written(void **state) {
    char text[256];
    begin();
    log_set_level(LEVEL_WARN);
    log_info("x", "not this");
    log_error("x", "this");
    log_set_level(LEVEL_INFO);
    end(text, sizeof text);
    assert_null(strstr(text, "not this"));
    assert_non_null(strstr(text, " error x: this\n"));
}

static void control_characters_do_not_break_the_line(void **state) {
    char text[256];
    begin();
    log_info("x", "a\nb\033[2Jc");
    end(text, sizeof text);
    assert_string_equal(text + 24, " info  x: a b [2Jc\n");
}

static void a_long_text_is_cut_and_still_ends_its_line(void **state) {
    char text[2048], big[1500];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    begin();
    log_info("x", "%s", big);
    const size_t len = end(text, sizeof text);
    assert_int_equal(len, 24 + strlen(" info  x: ") + 1000 + 1);
    assert_int_equal(text[len - 1], '\n');
}

static void levels_are_read_by_name(void **state) {
    enum log_level level = LEVEL_INFO;
    assert_true(log_level_parse("debug", &level));
    assert_int_equal(level, LEVEL_DEBUG);
    assert_false(log_level_parse("verbose", &level));
    assert_int_equal(level, LEVEL_DEBUG);
    assert_string_equal(log_level_name(LEVEL_ERROR), "error");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_time_level_component_and_text),
        cmocka_unit_test(lines_below_the_level_are_not_written),
        cmocka_unit_test(control_characters_do_not_break_the_line),
        cmocka_unit_test(a_long_text_is_cut_and_still_ends_its_line),
        cmocka_unit_test(levels_are_read_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
