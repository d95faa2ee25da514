#include "server/dense.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct optimizer SGD = {.kind = OPTIMIZER_SGD, .lr = 0.5f};

static int make(void **state) {
    struct dense *dense;
    assert_int_equal(dense_new(&dense), DIMFIT_OK);
    *state = dense;
    return 0;
}

static int drop(void **state) {
    struct dense *dense = *state;
    dense_destroy(&dense);
    return 0;
}

static bool create(struct dense *dense, uint64_t tag, const float *values, size_t n) {
    bool created;
    assert_int_equal(
        dense_create(dense, "mlp", tag, &SGD, (const uint8_t *)values, n, &created, NULL),
        DIMFIT_OK);
    return created;
}

static void the_first_creation_wins(void **state) {
    const float first[] = {1, 2}, second[] = {3, 4};
    assert_true(create(*state, 0, first, 2));
    assert_false(create(*state, 0, second, 2));
    assert_true(dense_find(*state, "mlp", 0)->values[0] == 1);
    assert_true(create(*state, 1, second, 2)); /* another tag is another table */
}

static void another_size_is_refused(void **state) {
    const float values[] = {1, 2, 3};
    bool created;
    create(*state, 0, values, 2);
    struct err_detail detail;
    assert_int_equal(
        dense_create(*state, "mlp", 0, &SGD, (const uint8_t *)values, 3, &created, &detail),
        DIMFIT_ERR_WIDTH);
    assert_non_null(strstr(detail.text, "'mlp'"));
}

static void a_push_takes_one_optimizer_step(void **state) {
    const float values[] = {1, 2}, grads[] = {2, -4};
    create(*state, 0, values, 2);
    struct dense_table *const table = dense_find(*state, "mlp", 0);
    dense_push(table, (const uint8_t *)grads);
    assert_true(table->values[0] == 0 && table->values[1] == 4);
}

static void a_commit_keeps_the_epoch_before_and_drops_what_is_older(void **state) {
    const float values[] = {1};
    for (uint64_t tag = 0; tag < 4; tag++)
        create(*state, tag, values, 1);
    dense_drop_old(*state, 3);
    assert_null(dense_find(*state, "mlp", 0));
    assert_null(dense_find(*state, "mlp", 1));
    assert_non_null(dense_find(*state, "mlp", 2));
    assert_non_null(dense_find(*state, "mlp", 3));
    assert_int_equal(dense_count(*state), 2);
    assert_int_equal(dense_bytes(*state), 2 * sizeof(float));
}

#define DENSE_TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void) {
    const struct CMUnitTest tests[] = {
        DENSE_TEST(the_first_creation_wins),
        DENSE_TEST(another_size_is_refused),
        DENSE_TEST(a_push_takes_one_optimizer_step),
        DENSE_TEST(a_commit_keeps_the_epoch_before_and_drops_what_is_older),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
