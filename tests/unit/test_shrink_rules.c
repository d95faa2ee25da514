#include "server/shrink_rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { TODAY = 20000 };

static void add(struct layout *layout, uint32_t id, const char *name, struct retention retention) {
    struct layout_slot slot = {.id = id, .dim = 2, .width = 2, .retention = retention};
    snprintf(slot.name, sizeof slot.name, "%s", name);
    assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
}

/* A slot that expires by both, one by shows, one that keeps the day, and a plain one. */
static struct layout *scene(void) {
    struct layout *layout;
    assert_int_equal(layout_new(0, 1, &layout), DIMFIT_OK);
    add(layout, 1, "user", (struct retention){.expire_days = 30, .expire_shows = 2});
    add(layout, 2, "ad", (struct retention){.expire_shows = 1.5f});
    add(layout, 3, "hour", (struct retention){.last_seen = true});
    add(layout, 7, "2", (struct retention){0}); /* named like another's id */
    return layout;
}

static dimfit_err make(const char *text, struct shrink_rules *out, struct err_detail *detail) {
    struct layout *layout = scene();
    json_error_t error;
    json_t *const args = json_loads(text, 0, &error);
    assert_non_null(args);
    const dimfit_err err = shrink_rules_make(layout, args, TODAY, out, detail);
    json_decref(args);
    layout_destroy(&layout);
    return err;
}

static void gives(const char *args, const struct shrink_rule *rules, size_t n,
                  const char *ageless) {
    struct shrink_rules made;
    struct err_detail detail = {""};
    char list[64] = "";
    if (make(args, &made, &detail) != DIMFIT_OK)
        fail_msg("%s: %s", args, detail.text);
    assert_int_equal(made.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(made.rules[i].slot, rules[i].slot);
        assert_int_equal(made.rules[i].expire_days, rules[i].expire_days);
        assert_true(made.rules[i].expire_shows == rules[i].expire_shows);
    }
    for (size_t i = 0; i < made.n_ageless; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%u ", made.ageless[i]);
    assert_string_equal(list, ageless);
    shrink_rules_fini(&made);
}

#define GIVES(args, ageless, ...)                                                                  \
    gives(args, (const struct shrink_rule[]){__VA_ARGS__},                                         \
          ARRAY_LEN(((const struct shrink_rule[]){__VA_ARGS__})), ageless)

static void refused(const char *args, dimfit_err err, const char *why) {
    struct shrink_rules made = {.n = 42};
    struct err_detail detail = {""};
    assert_int_equal(make(args, &made, &detail), err);
    assert_string_equal(detail.text, why);
    assert_int_equal(made.n, 42); /* untouched */
}

static void without_thresholds_each_slot_goes_by_its_own(void **state) {
    GIVES("{}", "", {1, 30, 2}, {2, 0, 1.5f});
    GIVES("{\"slots\": [\"ad\"]}", "", {2, 0, 1.5f});
}

static void a_threshold_given_counts_alone_and_for_all(void **state) {
    GIVES("{\"shows\": 3}", "", {1, 0, 3}, {2, 0, 3}, {3, 0, 3}, {7, 0, 3});
    GIVES("{\"unseen_days\": 7, \"slots\": [\"user\", \"hour\"]}", "", {1, 7, 0}, {3, 7, 0});
}

static void slots_without_a_day_are_passed_over_by_age_and_said(void **state) {
    GIVES("{\"unseen_days\": 7}", "2 7 ", {1, 7, 0}, {3, 7, 0});
    GIVES("{\"unseen_days\": 7, \"shows\": 1}", "2 7 ", {1, 7, 1}, {2, 0, 1}, {3, 7, 1}, {7, 0, 1});
}

static void a_slot_is_named_by_id_or_by_name_the_id_first(void **state) {
    GIVES("{\"shows\": 1, \"slots\": [\"2\", \"1\", \"1\"]}", "", {1, 0, 1}, {2, 0, 1});
    GIVES("{\"shows\": 1, \"slots\": [\"7\"]}", "", {7, 0, 1});
    refused("{\"slots\": [\"usr\"]}", DIMFIT_ERR_UNKNOWN_SLOT,
            "there is no slot 'usr'; `dimfitctl slots` lists them");
    refused("{\"slots\": [\"4294967297\"]}", DIMFIT_ERR_UNKNOWN_SLOT,
            "there is no slot '4294967297'; `dimfitctl slots` lists them");
}

static void a_named_slot_that_cannot_be_shrunk_like_this_is_refused(void **state) {
    refused(
        "{\"unseen_days\": 7, \"slots\": [\"ad\"]}", DIMFIT_ERR_INVALID,
        "slot 2 ('ad') keeps no last-seen day, so age says nothing there; shrink it by --shows, "
        "or add a slot with `last_seen: true`");
    refused(
        "{\"slots\": [\"user\", \"hour\"]}", DIMFIT_ERR_INVALID,
        "slot 3 ('hour') is configured without expire_days and expire_shows; give --unseen-days "
        "or --shows");
}

static void nothing_to_go_by_is_refused_with_what_to_give(void **state) {
    struct layout *layout;
    struct shrink_rules made;
    struct err_detail detail;
    assert_int_equal(layout_new(0, 1, &layout), DIMFIT_OK);
    add(layout, 1, "plain", (struct retention){0});
    json_t *const args = json_object();
    assert_int_equal(shrink_rules_make(layout, args, TODAY, &made, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "no slot is configured with expire_days or expire_shows; give "
                                     "--unseen-days or --shows");
    json_object_set_new(args, "unseen_days", json_integer(3));
    assert_int_equal(shrink_rules_make(layout, args, TODAY, &made, &detail), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text,
                        "no slot keeps a last-seen day, so age says nothing; give --shows");
    json_decref(args);
    layout_destroy(&layout);
}

static void slots_with_tiers_take_part_whatever_the_thresholds(void **state) {
    struct layout *layout = scene();
    struct layout_slot tiered = {
        .id = 9, .dim = 2, .width = 2, .n_tiers = 2, .tier_shows = {0, 5}, .name = "tiered"};
    assert_int_equal(layout_add_slot(layout, &tiered, NULL), DIMFIT_OK);
    static const struct {
        const char *args;
        size_t n;
        float shows; /* of the rule for slot 9, the last one */
    } cases[] = {{"{}", 3, 0}, {"{\"shows\": 3}", 5, 3}, {"{\"retier\": true}", 1, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct shrink_rules made;
        json_t *const args = json_loads(cases[i].args, 0, NULL);
        assert_int_equal(shrink_rules_make(layout, args, TODAY, &made, NULL), DIMFIT_OK);
        assert_int_equal(made.n, cases[i].n);
        assert_int_equal(made.rules[made.n - 1].slot, 9);
        assert_true(made.rules[made.n - 1].expire_shows == cases[i].shows);
        shrink_rules_fini(&made);
        json_decref(args);
    }
    layout_destroy(&layout);
}

static void arguments_that_are_none_are_refused(void **state) {
    refused("{\"retier\": true}", DIMFIT_ERR_INVALID, "no slot is configured with tiers");
    refused("{\"retier\": true, \"slots\": [\"ad\"]}", DIMFIT_ERR_INVALID,
            "slot 2 ('ad') has no tiers");
    refused("{\"retier\": true, \"shows\": 2}", DIMFIT_ERR_INVALID,
            "retier evicts nothing, so it takes neither unseen_days nor shows");
    refused("{\"retier\": 1}", DIMFIT_ERR_INVALID, "retier is true or false");

    refused("{\"unseen_days\": 0}", DIMFIT_ERR_INVALID,
            "unseen_days is a whole number from 1 to 36500");
    refused("{\"unseen_days\": 2.5}", DIMFIT_ERR_INVALID,
            "unseen_days is a whole number from 1 to 36500");
    refused("{\"day\": -1}", DIMFIT_ERR_INVALID, "day is a whole number from 1 to 524287");
    refused("{\"shows\": 0}", DIMFIT_ERR_INVALID, "shows is a number above 0");
    refused("{\"shows\": 1e60}", DIMFIT_ERR_INVALID, "shows is a number above 0");
    refused("{\"shows\": 1e-60}", DIMFIT_ERR_INVALID, "shows is a number above 0");
    refused("{\"shows\": \"2\"}", DIMFIT_ERR_INVALID, "shows is a number above 0");
    refused("{\"dry_run\": 1}", DIMFIT_ERR_INVALID, "dry_run is true or false");
    refused("{\"slots\": \"user\"}", DIMFIT_ERR_INVALID,
            "slots is a list of at most 1024 ids and names");
    refused("{\"slots\": [1]}", DIMFIT_ERR_INVALID, "slots: \"3\" or \"user\", as texts");
    refused("{\"unseen_day\": 3}", DIMFIT_ERR_INVALID,
            "shrink: 1 object item(s) left unpacked: unseen_day");
}

static void day_and_dry_run_are_taken_and_the_text_says_by_what(void **state) {
    static const struct {
        const char *args, *text;
        uint32_t day;
        bool dry_run;
    } cases[] = {
        {"{}", "rows by their slot's settings", TODAY, false},
        {"{\"day\": 19000, \"dry_run\": true, \"unseen_days\": 30}",
         "rows unseen for more than 30 days", 19000, true},
        {"{\"shows\": 2.5, \"dry_run\": false}", "rows with fewer than 2.5 shows", TODAY, false},
        {"{\"shows\": 2, \"unseen_days\": 1}",
         "rows unseen for more than 1 day or with fewer than 2 shows", TODAY, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct shrink_rules made;
        struct err_detail detail;
        char text[160];
        assert_int_equal(make(cases[i].args, &made, &detail), DIMFIT_OK);
        assert_string_equal(shrink_rules_text(&made, text, sizeof text), cases[i].text);
        assert_int_equal(made.day, cases[i].day);
        assert_true(made.dry_run == cases[i].dry_run);
        shrink_rules_fini(&made);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_thresholds_each_slot_goes_by_its_own),
        cmocka_unit_test(a_threshold_given_counts_alone_and_for_all),
        cmocka_unit_test(slots_without_a_day_are_passed_over_by_age_and_said),
        cmocka_unit_test(a_slot_is_named_by_id_or_by_name_the_id_first),
        cmocka_unit_test(a_named_slot_that_cannot_be_shrunk_like_this_is_refused),
        cmocka_unit_test(nothing_to_go_by_is_refused_with_what_to_give),
        cmocka_unit_test(slots_with_tiers_take_part_whatever_the_thresholds),
        cmocka_unit_test(arguments_that_are_none_are_refused),
        cmocka_unit_test(day_and_dry_run_are_taken_and_the_text_says_by_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
