#include "server/trials.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

enum { MANY = 1000 };

static struct trial_key key_of(uint64_t number) {
    return trials_key(&number, sizeof number);
}

static void ask(struct trials *trials, uint64_t number) {
    struct change *change = NULL;
    struct trial *trial;
    assert_int_equal(change_new(0, 1, 0, &change), DIMFIT_OK);
    assert_int_equal(trials_add(trials, key_of(number), 10 + number, &change, &trial), DIMFIT_OK);
    assert_null(change);
}

static void answer(struct trials *trials, uint64_t number) {
    struct trial *const trial = trials_find(trials, key_of(number));
    const double x = (double)number;
    trials_answer(trials, trial, &(struct trial_figures){x, NAN, x / 2, 0.5, 0.25}, 7 + number);
    assert_null(trial->change);
}

static void a_question_is_found_again_by_what_it_asks(void **state) {
    struct trials trials;
    trials_init(&trials);
    assert_null(trials_find(&trials, key_of(0)));
    for (uint64_t i = 0; i < MANY; i++)
        ask(&trials, i);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(trials_find(&trials, key_of(i))->samples, 10 + i);
    assert_null(trials_find(&trials, key_of(MANY)));
    trials_fini(&trials);
}

static void known_ones_outlive_and_open_ones_do_not(void **state) {
    struct trials trials, back;
    struct buf bytes;
    buf_init(&bytes);
    trials_init(&trials);
    for (uint64_t i = 0; i < MANY; i++)
        ask(&trials, i);
    for (uint64_t i = 0; i < MANY; i += 3)
        answer(&trials, i);
    trials_encode(&trials, key_of(77), 5000, &bytes);
    trials_init(&back);
    assert_int_equal(trials_decode(&back, bytes.data, bytes.len, key_of(77), 5100, 3600),
                     DIMFIT_OK);
    assert_int_equal(back.n, trials.n_known);
    for (uint64_t i = 0; i < MANY; i++) {
        const struct trial *const trial = trials_find(&back, key_of(i));
        assert_true((trial != NULL) == (i % 3 == 0));
        if (trial == NULL)
            continue;
        assert_true(trial->known && trial->result.loss == (double)i && isnan(trial->result.auc));
        assert_true(trial->result.samples == 7 + i && trial->result.error == 0.25);
    }
    trials_fini(&back);
    trials_fini(&trials);
    buf_fini(&bytes);
}

static void another_question_and_old_or_damaged_bytes_are_of_no_use(void **state) {
    struct trials trials;
    struct buf bytes;
    buf_init(&bytes);
    trials_init(&trials);
    ask(&trials, 1);
    answer(&trials, 1);
    trials_encode(&trials, key_of(77), 5000, &bytes);
    trials_fini(&trials);
    assert_int_equal(trials_decode(&trials, bytes.data, bytes.len, key_of(78), 5000, 3600),
                     DIMFIT_ERR_NOT_FOUND);
    assert_int_equal(trials_decode(&trials, bytes.data, bytes.len, key_of(77), 8601, 3600),
                     DIMFIT_ERR_NOT_FOUND);
    assert_int_equal(trials_decode(&trials, bytes.data, bytes.len, key_of(77), 4999, 3600),
                     DIMFIT_ERR_NOT_FOUND);
    bytes.len = 0;
    trials_encode(&trials, key_of(77), INT64_MIN, &bytes);
    assert_int_equal(trials_decode(&trials, bytes.data, bytes.len, key_of(77), 5000, 3600),
                     DIMFIT_ERR_NOT_FOUND);
    for (size_t len = 0; len < bytes.len; len++)
        assert_int_equal(trials_decode(&trials, bytes.data, len, key_of(77), 5000, 3600),
                         DIMFIT_ERR_IO);
    for (size_t i = 0; i < bytes.len; i++) {
        bytes.data[i] ^= 0x10;
        assert_int_equal(trials_decode(&trials, bytes.data, bytes.len, key_of(77), 5000, 3600),
                         DIMFIT_ERR_IO);
        bytes.data[i] ^= 0x10;
    }
    assert_int_equal(trials.n, 0);
    buf_fini(&bytes);
}

static void figures_are_refused_unless_finite_and_in_range(void **state) {
    const struct trial_figures sound = {0.5, NAN, 0.4, 0.7, 0.01};
    struct trial_figures wrong[] = {sound, sound, sound, sound, sound, sound}, out;
    wrong[0].loss = NAN;
    wrong[1].whole_loss = INFINITY;
    wrong[2].error = -1;
    wrong[3].auc = 1.01;
    wrong[4].whole_auc = -0.01;
    wrong[5].error = NAN;
    struct buf bytes;
    buf_init(&bytes);
    trial_encode(&sound, &bytes);
    assert_int_equal(trial_decode(bytes.data, bytes.len, &out, NULL), DIMFIT_OK);
    assert_true(out.loss == 0.5 && isnan(out.auc) && out.whole_auc == 0.7);
    for (size_t len = 0; len < bytes.len; len++)
        assert_int_equal(trial_decode(bytes.data, len, &out, NULL), DIMFIT_ERR_PROTOCOL);
    buf_put_u8(&bytes, 0);
    assert_int_equal(trial_decode(bytes.data, bytes.len, &out, NULL), DIMFIT_ERR_PROTOCOL);
    buf_fini(&bytes);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        buf_init(&bytes);
        trial_encode(&wrong[i], &bytes);
        assert_int_equal(trial_decode(bytes.data, bytes.len, &out, NULL), DIMFIT_ERR_NOT_FINITE);
        buf_fini(&bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_question_is_found_again_by_what_it_asks),
        cmocka_unit_test(known_ones_outlive_and_open_ones_do_not),
        cmocka_unit_test(another_question_and_old_or_damaged_bytes_are_of_no_use),
        cmocka_unit_test(figures_are_refused_unless_finite_and_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
