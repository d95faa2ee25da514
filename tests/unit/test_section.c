#include "proto/section.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* Two sections, 2 rows of 3 and 1 row of 1: keys 10 11 12, gradients 0..6, lookups 1 2 3, clicks 7
 * 8
 * 9, a curvature of the first slot 0, .5 .. 2.5 of 40 lookups. Allocated to its exact length, so
 * that a read past the end is seen. */
static uint8_t *body_of(bool push, uint32_t flags, size_t *len) {
    static const struct section items[2] =
        {
            {.slot = 5, .rows = 2, .width = 3},
            {.slot = 9, .rows = 1, .width = 1},
        },
                                curved[2] = {
                                    {.slot = 5, .rows = 2, .width = 3, .curved = 40},
                                    {.slot = 9, .rows = 1, .width = 1},
                                };
    const bool curvature = (flags & SECTION_CURVATURE) != 0;
    *len = section_body_size(2, 3, push ? 7 : 0, push, flags) + (curvature ? 6 * 8 : 0);
    uint8_t *const body = malloc(*len);
    assert_non_null(body);
    uint8_t *at = body + section_put_head(body, curvature ? curved : items, 2, flags);
    for (uint64_t i = 0; i < 3; i++, at += 8)
        memcpy(at, &(uint64_t){10 + i}, 8);
    for (int i = 0; push && i < 7; i++, at += 4)
        memcpy(at, &(float){(float)i}, 4);
    for (uint32_t i = 0; (flags & SECTION_LOOKUPS) != 0 && i < 3; i++, at += 4)
        memcpy(at, &(uint32_t){i + 1}, 4);
    for (uint32_t i = 0; (flags & SECTION_CLICKS) != 0 && i < 3; i++, at += 4)
        memcpy(at, &(uint32_t){i + 7}, 4);
    for (int i = 0; curvature && i < 6; i++, at += 8)
        memcpy(at, &(double){0.5 * i}, 8);
    assert_ptr_equal(at, body + *len);
    return body;
}

static void parsed_push_points_at_what_was_written(void **state) {
    size_t len;
    uint8_t *const body = body_of(true, SECTION_LOOKUPS, &len);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.rows, 3);
    assert_int_equal(list.values, 7);
    const struct section *const a = &list.items[0], *const b = &list.items[1];
    assert_true(a->slot == 5 && a->rows == 2 && a->width == 3);
    assert_true(b->slot == 9 && b->rows == 1 && b->width == 1);
    assert_int_equal(load_u64(a->keys + 8), 11);
    assert_int_equal(load_u64(b->keys), 12);
    assert_true(load_f32(a->grads + 20) == 5 && load_f32(b->grads) == 6);
    assert_int_equal(load_u32(a->lookups + 4), 2);
    assert_int_equal(load_u32(b->lookups), 3);
    section_list_fini(&list);
    free(body);
}

static void a_pull_has_keys_alone(void **state) {
    size_t len;
    uint8_t *const body = body_of(false, 0, &len);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, len, false, NULL), DIMFIT_OK);
    assert_int_equal(load_u64(list.items[1].keys), 12);
    assert_null(list.items[0].grads);
    assert_null(list.items[0].lookups);
    section_list_fini(&list);
    free(body);
}

static void lookups_left_out_are_one_each(void **state) {
    size_t len;
    uint8_t *const body = body_of(true, 0, &len);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
    assert_null(list.items[0].lookups);
    assert_null(list.items[0].clicks);
    section_list_fini(&list);
    free(body);
}

static void clicks_come_with_lookups_or_alone(void **state) {
    static const uint32_t flags[] = {SECTION_CLICKS, SECTION_CLICKS | SECTION_LOOKUPS};
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        size_t len;
        uint8_t *const body = body_of(true, flags[i], &len);
        struct section_list list = {0};
        assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
        const struct section *const a = &list.items[0], *const b = &list.items[1];
        assert_int_equal(load_u32(a->clicks), 7);
        assert_int_equal(load_u32(b->clicks), 9);
        assert_true(load_f32(b->grads) == 6);
        if (i == 0)
            assert_null(a->lookups);
        else
            assert_int_equal(load_u32(b->lookups), 3);
        assert_int_equal(section_parse(&list, body, len - 1, true, NULL), DIMFIT_ERR_PROTOCOL);
        section_list_fini(&list);
        free(body);
    }
}

static void a_curvature_comes_with_the_slots_that_say_so(void **state) {
    static const uint32_t flags[] = {0, SECTION_LOOKUPS, SECTION_CLICKS | SECTION_LOOKUPS};
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        size_t len;
        uint8_t *const body = body_of(true, SECTION_CURVATURE | flags[i], &len);
        struct section_list list = {0};
        assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
        assert_int_equal(list.items[0].curved, 40);
        assert_true(load_f64(list.items[0].curvature + 5 * 8) == 2.5);
        assert_null(list.items[1].curvature);
        assert_true(load_f32(list.items[1].grads) == 6);
        for (size_t cut = 0; cut < len; cut++) {
            uint8_t *const part = malloc(cut > 0 ? cut : 1);
            memcpy(part, body, cut);
            assert_int_equal(section_parse(&list, part, cut, true, NULL), DIMFIT_ERR_PROTOCOL);
            free(part);
        }
        section_list_fini(&list);
        free(body);
    }
}

static dimfit_err parse_with(size_t offset, uint32_t value, bool push) {
    size_t len;
    uint8_t *const body = body_of(push, 0, &len);
    memcpy(body + offset, &value, sizeof value);
    struct section_list list = {0};
    const dimfit_err err = section_parse(&list, body, len, push, NULL);
    section_list_fini(&list);
    free(body);
    return err;
}

static dimfit_err parse_curved(size_t offset, uint32_t value) {
    size_t len;
    uint8_t *const body = body_of(true, SECTION_CURVATURE, &len);
    memcpy(body + offset, &value, sizeof value);
    struct section_list list = {0};
    const dimfit_err err = section_parse(&list, body, len, true, NULL);
    section_list_fini(&list);
    free(body);
    return err;
}

static void curvatures_that_cannot_be_are_refused(void **state) {
    assert_int_equal(parse_curved(8 + 12, 1), DIMFIT_OK);
    assert_int_equal(parse_curved(8 + 12, 0), DIMFIT_ERR_PROTOCOL);  /* bytes of nobody */
    assert_int_equal(parse_curved(24 + 12, 1), DIMFIT_ERR_PROTOCOL); /* more than there are */
    static const uint32_t widths[] = {UINT32_MAX, 1u << 31, 65536, 4, 2};
    for (size_t i = 0; i < ARRAY_LEN(widths); i++)
        assert_int_equal(parse_curved(8 + 8, widths[i]), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(parse_with(8 + 12, 1, true), DIMFIT_ERR_PROTOCOL);  /* without the flag */
    assert_int_equal(parse_with(8 + 12, 1, false), DIMFIT_ERR_PROTOCOL); /* of a pull */
    /* Rows without values, so that width alone is hostile. */
    uint8_t body[SECTION_HEAD + SECTION_ENTRY];
    const struct section wide = {.slot = 1, .width = UINT32_MAX, .curved = 1};
    section_put_head(body, &wide, 1, SECTION_CURVATURE);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, sizeof body, true, NULL), DIMFIT_ERR_PROTOCOL);
    section_list_fini(&list);
}

static void no_sections_are_a_body_too(void **state) {
    uint8_t body[SECTION_HEAD];
    assert_int_equal(section_put_head(body, NULL, 0, 0), sizeof body);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, sizeof body, true, NULL), DIMFIT_OK);
    assert_int_equal(list.n, 0);
    section_list_fini(&list);
}

static void every_other_length_is_refused(void **state) {
    size_t len;
    uint8_t *const body = body_of(true, SECTION_LOOKUPS, &len);
    struct section_list list = {0};
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *const part = malloc(cut > 0 ? cut : 1);
        memcpy(part, body, cut);
        assert_int_equal(section_parse(&list, part, cut, true, NULL), DIMFIT_ERR_PROTOCOL);
        free(part);
    }
    uint8_t *const more = calloc(1, len + 1);
    memcpy(more, body, len);
    struct err_detail detail;
    assert_int_equal(section_parse(&list, more, len + 1, true, &detail), DIMFIT_ERR_PROTOCOL);
    assert_non_null(strstr(detail.text, "the sections add up to"));
    free(more);
    section_list_fini(&list);
    free(body);
}

static void counts_that_cannot_be_are_refused(void **state) {
    static const uint32_t bad[] = {UINT32_MAX, 1u << 31, SECTIONS_MAX + 1, 1000};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(parse_with(0, bad[i], true), DIMFIT_ERR_PROTOCOL);      /* sections */
        assert_int_equal(parse_with(8 + 4, bad[i], true), DIMFIT_ERR_PROTOCOL);  /* rows */
        assert_int_equal(parse_with(8 + 8, bad[i], true), DIMFIT_ERR_PROTOCOL);  /* width */
        assert_int_equal(parse_with(24 + 8, bad[i], true), DIMFIT_ERR_PROTOCOL); /* the last's */
    }
}

static void unknown_flags_are_refused(void **state) {
    assert_int_equal(parse_with(4, 8, true), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(parse_with(4, 1u << 31, true), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(parse_with(4, SECTION_LOOKUPS, false), DIMFIT_ERR_PROTOCOL); /* of a pull */
    assert_int_equal(parse_with(4, SECTION_CLICKS, false), DIMFIT_ERR_PROTOCOL);
}

static void a_list_is_used_again(void **state) {
    size_t len;
    uint8_t *const body = body_of(true, SECTION_LOOKUPS, &len);
    struct section_list list = {0};
    assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
    const struct section *const items = list.items;
    assert_int_equal(section_parse(&list, body, len, true, NULL), DIMFIT_OK);
    assert_ptr_equal(list.items, items);
    section_list_fini(&list);
    free(body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parsed_push_points_at_what_was_written),
        cmocka_unit_test(a_pull_has_keys_alone),
        cmocka_unit_test(lookups_left_out_are_one_each),
        cmocka_unit_test(clicks_come_with_lookups_or_alone),
        cmocka_unit_test(a_curvature_comes_with_the_slots_that_say_so),
        cmocka_unit_test(curvatures_that_cannot_be_are_refused),
        cmocka_unit_test(no_sections_are_a_body_too),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(counts_that_cannot_be_are_refused),
        cmocka_unit_test(unknown_flags_are_refused),
        cmocka_unit_test(a_list_is_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
