#include "proto/shrink.h"

#include "proto/layout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct shrink_rule RULES[] = {
    {.slot = 0, .expire_days = 30},
    {.slot = 7, .expire_shows = 1.5f},
    {.slot = UINT32_MAX, .expire_days = RETENTION_DAYS_MAX, .expire_shows = 3},
};

/* On the heap at its exact size, so that a sanitizer sees one byte too far. */
static dimfit_err decode_exact(const uint8_t *bytes, size_t len, struct err_detail *detail) {
    uint8_t *const exact = malloc(len > 0 ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    struct shrink_rule *rules = NULL;
    size_t n = 0;
    *detail = (struct err_detail){""};
    const dimfit_err err = shrink_decode(exact, len, &rules, &n, detail);
    assert_true(err == DIMFIT_OK || (err == DIMFIT_ERR_PROTOCOL && detail->text[0] != 0));
    assert_true((err == DIMFIT_OK) == (rules != NULL) && (rules != NULL) == (n > 0));
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || rules[i - 1].slot < rules[i].slot);
        assert_true(isfinite(rules[i].expire_shows) && rules[i].expire_shows >= 0);
        assert_true(rules[i].expire_days <= RETENTION_DAYS_MAX);
    }
    free(rules);
    free(exact);
    return err;
}

static void rules_survive_their_bytes(void **state) {
    struct buf bytes;
    buf_init(&bytes);
    shrink_encode(RULES, ARRAY_LEN(RULES), &bytes);
    assert_int_equal(buf_status(&bytes), DIMFIT_OK);
    struct shrink_rule *rules = NULL;
    size_t n = 0;
    assert_int_equal(shrink_decode(bytes.data, bytes.len, &rules, &n, NULL), DIMFIT_OK);
    assert_int_equal(n, ARRAY_LEN(RULES));
    assert_memory_equal(rules, RULES, sizeof RULES);
    free(rules);
    buf_fini(&bytes);
}

static void every_truncation_is_refused(void **state) {
    struct err_detail detail;
    struct buf bytes;
    buf_init(&bytes);
    shrink_encode(RULES, ARRAY_LEN(RULES), &bytes);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(decode_exact(bytes.data, n, &detail), DIMFIT_ERR_PROTOCOL);
    buf_put_u8(&bytes, 0);
    assert_int_equal(decode_exact(bytes.data, bytes.len, &detail), DIMFIT_ERR_PROTOCOL);
    buf_fini(&bytes);
}

static void any_changed_byte_is_refused_or_gives_sound_rules(void **state) {
    struct err_detail detail;
    struct buf bytes;
    buf_init(&bytes);
    shrink_encode(RULES, ARRAY_LEN(RULES), &bytes);
    size_t refused = 0;
    for (size_t i = 0; i < bytes.len; i++) {
        for (int flip = 1; flip < 256; flip++) {
            bytes.data[i] ^= (uint8_t)flip;
            refused += decode_exact(bytes.data, bytes.len, &detail) != DIMFIT_OK;
            bytes.data[i] ^= (uint8_t)flip;
        }
    }
    assert_true(refused >= 4 * 255); /* another count, at the least */
    buf_fini(&bytes);
}

static void refused(const struct shrink_rule *rules, size_t n, const char *what) {
    struct err_detail detail;
    struct buf bytes;
    buf_init(&bytes);
    shrink_encode(rules, n, &bytes);
    assert_int_equal(decode_exact(bytes.data, bytes.len, &detail), DIMFIT_ERR_PROTOCOL);
    if (strstr(detail.text, what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", detail.text, what);
    buf_fini(&bytes);
}

static void rules_that_are_none_are_refused_by_slot(void **state) {
    const struct shrink_rule good = {.slot = 4, .expire_days = 3, .expire_shows = 2};
    struct shrink_rule rules[2] = {{.slot = 1, .expire_days = 1}, good};
    rules[1].expire_days = RETENTION_DAYS_MAX + 1;
    refused(rules, 2, "slot 4: 36501 days");
    rules[1] = good;
    rules[1].expire_shows = NAN;
    refused(rules, 2, "slot 4: nan shows");
    rules[1].expire_shows = -INFINITY;
    refused(rules, 2, "slot 4: -inf shows");
    rules[1].expire_shows = -1;
    refused(rules, 2, "slot 4: -1 shows");
    rules[1] = good;
    rules[1].slot = 1;
    refused(rules, 2, "slot 1 of a shrink is out of order");
    rules[1].slot = 0;
    refused(rules, 2, "slot 0 of a shrink is out of order");
}

static void counts_that_do_not_fit_cost_no_memory(void **state) {
    static const uint32_t counts[] = {0, 2, LAYOUT_SLOTS_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct err_detail detail;
        uint8_t bytes[4 + 12] = {0};
        memcpy(bytes, &counts[i], sizeof counts[i]);
        bytes[8] = 1; /* a sound rule */
        assert_int_equal(decode_exact(bytes, sizeof bytes, &detail), DIMFIT_ERR_PROTOCOL);
        assert_string_equal(detail.text, "16 bytes are no rules of a shrink");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_survive_their_bytes),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(any_changed_byte_is_refused_or_gives_sound_rules),
        cmocka_unit_test(rules_that_are_none_are_refused_by_slot),
        cmocka_unit_test(counts_that_do_not_fit_cost_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
