#include "proto/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LEN = 100000 };

static uint8_t *body_new(size_t zeros_of_ten) {
    uint8_t *const body = malloc(LEN);
    assert_non_null(body);
    uint64_t x = 1;
    for (size_t i = 0; i < LEN; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        body[i] = i / 64 % 10 < zeros_of_ten ? 0 : (uint8_t)(x >> 56);
    }
    return body;
}

static void a_sparse_body_is_packed_and_comes_back(void **state) {
    uint8_t *const body = body_new(8), *const packed = malloc(pack_bound(LEN));
    uint8_t *const back = malloc(LEN);
    const size_t len = pack(body, LEN, packed);
    assert_true(len > 0 && len < LEN / 3);
    assert_int_equal(unpack_check(len, LEN, LEN, NULL), DIMFIT_OK);
    assert_int_equal(unpack(packed, len, back, LEN, NULL), DIMFIT_OK);
    assert_memory_equal(back, body, LEN);
    free(body);
    free(packed);
    free(back);
}

static void noise_and_short_bodies_stay_as_they_are(void **state) {
    uint8_t *const noise = body_new(0), *const packed = malloc(pack_bound(LEN));
    assert_int_equal(pack(noise, LEN, packed), 0);
    assert_int_equal(pack_bound(PACK_LEAST - 1), 0);
    memset(noise, 0, LEN);
    assert_int_equal(pack(noise, PACK_LEAST - 1, packed), 0);
    assert_true(pack(noise, PACK_LEAST, packed) > 0);
    free(noise);
    free(packed);
}

static void a_length_that_cannot_be_is_refused_before_memory_is_found(void **state) {
    struct err_detail detail;
    assert_int_equal(unpack_check(100, 100 * 255 + 16, 1 << 30, &detail), DIMFIT_OK);
    assert_int_equal(unpack_check(100, 100 * 255 + 17, 1 << 30, &detail), DIMFIT_ERR_PROTOCOL);
    assert_non_null(strstr(detail.text, "25517"));
    assert_int_equal(unpack_check(100, 5000, 4999, &detail), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(unpack_check(SIZE_MAX, UINT64_MAX, UINT64_MAX, &detail), DIMFIT_ERR_PROTOCOL);
}

static void cut_and_longer_bodies_are_refused(void **state) {
    uint8_t *const body = body_new(9), *const packed = malloc(pack_bound(LEN));
    uint8_t *const back = malloc(LEN + 1);
    const size_t len = pack(body, LEN, packed);
    assert_true(len > 0);
    assert_int_equal(unpack(packed, len, back, LEN - 1, NULL), DIMFIT_ERR_PROTOCOL);
    assert_int_equal(unpack(packed, len, back, LEN + 1, NULL), DIMFIT_ERR_PROTOCOL);
    for (size_t cut = 0; cut < len; cut += 1 + len / 50)
        assert_int_equal(unpack(packed, cut, back, LEN, NULL), DIMFIT_ERR_PROTOCOL);
    free(body);
    free(packed);
    free(back);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sparse_body_is_packed_and_comes_back),
        cmocka_unit_test(noise_and_short_bodies_stay_as_they_are),
        cmocka_unit_test(a_length_that_cannot_be_is_refused_before_memory_is_found),
        cmocka_unit_test(cut_and_longer_bodies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
