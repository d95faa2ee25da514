#include "server/metrics_page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static json_t *parsed(const char *text) {
    json_error_t error;
    json_t *const json = json_loads(text, 0, &error);
    if (json == NULL)
        fail_msg("%s", error.text);
    return json;
}

/* The page as text; the caller's to free. */
static char *page_of(const struct metrics_answers *answers) {
    struct buf out;
    buf_init(&out);
    metrics_page(answers, &out);
    buf_put_u8(&out, 0);
    assert_int_equal(buf_status(&out), DIMFIT_OK);
    char *const text = strdup((const char *)out.data);
    buf_fini(&out);
    assert_non_null(text);
    return text;
}

static size_t times(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = strstr(text, part); at != NULL; at = strstr(at + 1, part))
        n++;
    return n;
}

static void assert_has(const char *text, const char *line) {
    if (strstr(text, line) == NULL)
        fail_msg("no '%s' in\n%s", line, text);
}

static void a_slot_has_a_line_a_metric_under_one_head(void **state) {
    json_t *const slots = parsed(
        "{\"slots\": [{\"id\": 3, \"name\": \"us\\\"er\\\\\\n\", \"width\": 4, \"rows\": 7},"
        " {\"id\": 9, \"name\": \"b\", \"width\": 0, \"rows\": 5000000000}]}");
    char *const text = page_of(&(struct metrics_answers){.slots = slots});
    assert_has(text, "# TYPE dimfit_slot_width gauge\n"
                     "dimfit_slot_width{slot=\"3\",name=\"us\\\"er\\\\\"} 4\n"
                     "dimfit_slot_width{slot=\"9\",name=\"b\"} 0\n");
    assert_has(text, "dimfit_slot_rows{slot=\"9\",name=\"b\"} 5000000000\n");
    assert_int_equal(times(text, "# TYPE dimfit_slot_rows "), 1);
    free(text);
    json_decref(slots);
}

static void too_many_slots_have_no_lines(void **state) {
    json_t *const slots = parsed("{\"slots\": []}"), *const list = json_object_get(slots, "slots");
    for (int i = 0; i <= METRICS_SLOTS_MAX; i++)
        json_array_append_new(list, json_pack("{s:i, s:i}", "id", i, "width", 1));
    char *text = page_of(&(struct metrics_answers){.slots = slots});
    assert_string_equal(text, "");
    free(text);
    json_array_remove(list, 0);
    text = page_of(&(struct metrics_answers){.slots = slots});
    assert_int_equal(times(text, "\ndimfit_slot_width{"), METRICS_SLOTS_MAX);
    free(text);
    json_decref(slots);
}

static void a_histogram_adds_up(void **state) {
    json_t *const stats = parsed(
        "{\"shards\": [{\"id\": 1, \"pull_seconds\": {\"bounds\": [0.5, 1],"
        " \"counts\": [3, 0, 2], \"sum\": 4.5}, \"push_seconds\": {}}]}");
    char *const text = page_of(&(struct metrics_answers){.stats = stats});
    assert_has(text, "dimfit_request_seconds_bucket{shard=\"1\",kind=\"pull\",le=\"0.5\"} 3\n"
                     "dimfit_request_seconds_bucket{shard=\"1\",kind=\"pull\",le=\"1\"} 3\n"
                     "dimfit_request_seconds_bucket{shard=\"1\",kind=\"pull\",le=\"+Inf\"} 5\n"
                     "dimfit_request_seconds_sum{shard=\"1\",kind=\"pull\"} 4.5\n"
                     "dimfit_request_seconds_count{shard=\"1\",kind=\"pull\"} 5\n");
    free(text);
    json_decref(stats);
}

static void what_is_not_known_is_left_out(void **state) {
    json_t *const search = parsed("{\"search\": 2, \"samples\": 10, \"seconds_left\": null,"
                                  " \"seconds\": {\"planning\": 0.5}}");
    char *const text = page_of(&(struct metrics_answers){.search = search});
    assert_has(text, "dimfit_search_number 2\n");
    assert_has(text, "dimfit_search_seconds{part=\"planning\"} 0.5\n");
    assert_int_equal(times(text, "\ndimfit_search_left_seconds "), 0);
    assert_int_equal(times(text, "part=\"scoring\""), 0);
    free(text);
    json_decref(search);
}

static void one_phase_and_the_shards_that_are_up_are_told(void **state) {
    json_t *const status = parsed(
        "{\"version\": \"1\", \"epoch\": 4, \"phase\": \"rolled back\", \"shards\": "
        "[{\"id\": 0, \"state\": \"up\", \"epoch\": 4}, {\"id\": 1, \"state\": \"silent\"}]}");
    char *const text = page_of(&(struct metrics_answers){.status = status});
    assert_has(text, "dimfit_epoch 4\n");
    assert_has(text, "dimfit_shard_up{shard=\"0\"} 1\ndimfit_shard_up{shard=\"1\"} 0\n");
    assert_has(text, "dimfit_search_phase{phase=\"rolled back\"} 1\n");
    assert_int_equal(times(text, "\"} 1\n"), 3); /* the version's, too */
    free(text);
    json_decref(status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_has_a_line_a_metric_under_one_head),
        cmocka_unit_test(too_many_slots_have_no_lines),
        cmocka_unit_test(a_histogram_adds_up),
        cmocka_unit_test(what_is_not_known_is_left_out),
        cmocka_unit_test(one_phase_and_the_shards_that_are_up_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
