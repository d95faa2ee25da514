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

static void a_chunk_given_is_taken_first(void **state) {
    void *given[STOCK_PLACES + 1];
    for (size_t i = 0; i <= STOCK_PLACES; i++)
        given[i] = stock_chunk();
    assert_false(stock_give(given[0])); /* there is no stock */
    assert_int_equal(stock_start(NULL), DIMFIT_OK);
    for (size_t i = 0; i < STOCK_PLACES; i++)
        assert_true(stock_give(given[i]));
    assert_false(stock_give(given[STOCK_PLACES])); /* nor more room */
    free(given[STOCK_PLACES]);
    for (size_t i = 0; i < STOCK_PLACES / 2; i++) {
        void *const chunk = stock_take();
        assert_true(chunk == given[i]);
        free(chunk);
    }
    stock_stop(); /* frees the others */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_ready_before_the_start_nor_after_the_stop),
        cmocka_unit_test(what_was_asked_for_becomes_ready_and_is_aligned),
        cmocka_unit_test(a_chunk_given_is_taken_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
