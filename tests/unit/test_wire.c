#include "proto/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct wire_header full(void) {
    struct wire_header h = {
        .kind = WIRE_PUSH,
        .reply = true,
        .frozen = true,
        .curvature = true,
        .phase = PHASE_PREPARING,
        .status = DIMFIT_ERR_STALE_EPOCH,
        .mode = PUSH_TRAIN | PUSH_SCORE,
        .timeout_ms = 1234,
        .day = UINT32_MAX,
        .request = UINT64_MAX,
        .client = 0x0123456789abcdef,
        .incarnation = UINT64_MAX - 1,
        .seq = UINT64_MAX - 2,
        .epoch = UINT64_MAX - 3,
        .step = UINT64_MAX - 4,
        .samples = UINT64_MAX - 5,
        .tag = UINT64_MAX - 6,
        .plain = UINT64_MAX - 7,
        .moving = UINT64_MAX - 8,
    };
    memset(h.name, 'n', sizeof h.name - 1);
    memset(h.detail.text, 'd', sizeof h.detail.text - 1);
    return h;
}

static void a_header_with_every_field_at_its_longest_survives(void **state) {
    const struct wire_header in = full();
    struct wire_header out;
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t len = wire_encode(&in, bytes);
    assert_true(len <= WIRE_HEADER_MAX);
    assert_int_equal(wire_decode(bytes, len, &out, NULL), DIMFIT_OK);
    assert_memory_equal(&in, &out, sizeof in);
}

static void every_truncation_is_refused_or_decodes_and_never_crashes(void **state) {
    const struct wire_header in = full();
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t len = wire_encode(&in, bytes);
    for (size_t n = 0; n < len; n++) {
        uint8_t *const exact = malloc(n + 1); /* so that a sanitizer sees one byte too far */
        memcpy(exact, bytes, n);
        struct wire_header out = {.request = 42};
        if (wire_decode(exact, n, &out, NULL) != DIMFIT_OK)
            assert_int_equal(out.request, 42); /* untouched */
        free(exact);
    }
}

static void every_flipped_byte_is_refused_or_decodes_and_never_crashes(void **state) {
    const struct wire_header in = full();
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t len = wire_encode(&in, bytes);
    for (size_t i = 0; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1 << bit);
            struct wire_header out;
            (void)!wire_decode(bytes, len, &out, NULL);
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
}

static void another_version_is_told_apart(void **state) {
    const uint8_t version_9[] = {0x08, 9};
    struct wire_header out;
    struct err_detail detail;
    assert_int_equal(wire_decode(version_9, sizeof version_9, &out, &detail), DIMFIT_ERR_VERSION);
    assert_non_null(strstr(detail.text, "version 9"));
}

static void a_header_over_the_limit_is_refused(void **state) {
    uint8_t *const bytes = calloc(1, WIRE_HEADER_MAX + 1);
    struct wire_header out;
    assert_int_equal(wire_decode(bytes, WIRE_HEADER_MAX + 1, &out, NULL), DIMFIT_ERR_PROTOCOL);
    free(bytes);
}

static void many_unknown_fields_are_refused_not_stored(void **state) {
    uint8_t bytes[WIRE_HEADER_MAX];
    for (size_t i = 0; i + 3 <= sizeof bytes; i += 3) {
        bytes[i] = 0xf8; /* field 31, varint */
        bytes[i + 1] = 0x01;
        bytes[i + 2] = 1;
    }
    struct wire_header out;
    assert_int_not_equal(wire_decode(bytes, sizeof bytes - sizeof bytes % 3, &out, NULL),
                         DIMFIT_OK);
}

static void an_unknown_kind_decodes_for_the_receiver_to_refuse(void **state) {
    const struct wire_header in = {.kind = (enum wire_kind)9999};
    struct wire_header out;
    uint8_t bytes[WIRE_HEADER_MAX];
    assert_int_equal(wire_decode(bytes, wire_encode(&in, bytes), &out, NULL), DIMFIT_OK);
    assert_string_equal(wire_kind_name(out.kind), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_with_every_field_at_its_longest_survives),
        cmocka_unit_test(every_truncation_is_refused_or_decodes_and_never_crashes),
        cmocka_unit_test(every_flipped_byte_is_refused_or_decodes_and_never_crashes),
        cmocka_unit_test(another_version_is_told_apart),
        cmocka_unit_test(a_header_over_the_limit_is_refused),
        cmocka_unit_test(many_unknown_fields_are_refused_not_stored),
        cmocka_unit_test(an_unknown_kind_decodes_for_the_receiver_to_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
