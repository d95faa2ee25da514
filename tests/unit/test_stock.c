#include "server/stock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void *take_soon(void) {
    const struct timespec moment = {0, 1000000};
    for (int i = 0; i < 20000; i++) {
        void *const chunk = stock_take();
        if (chunk != NULL)
            return chunk;
        nanosleep(&moment, NULL);
    }
    return NULL;
}

static void nothing_is_ready_before_the_start_nor_after_the_stop(void **state) {
    assert_null(stock_take());
    assert_int_equal(stock_start(NULL), DIMFIT_OK);
    stock_stop();
    assert_null(stock_take());
    stock_stop();
}

static void what_was_asked_for_becomes_ready_and_is_aligned(void **state) {
    for (int round = 0; round < 3; round++) {
        assert_int_equal(stock_start(NULL), DIMFIT_OK);
        void *chunks[3 * STOCK_PLACES];
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            chunks[i] = take_soon();
            assert_non_null(chunks[i]);
            assert_int_equal((uintptr_t)chunks[i] % STOCK_CHUNK, 0);
            memset(chunks[i], (int)i, STOCK_CHUNK);
        }
        stock_stop();
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            assert_int_equal(((unsigned char *)chunks[i])[STOCK_CHUNK - 1], i);
            free(chunks[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_ready_before_the_start_nor_after_the_stop),
        cmocka_unit_test(what_was_asked_for_becomes_ready_and_is_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
