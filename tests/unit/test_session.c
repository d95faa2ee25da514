#include "server/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static enum session_verdict check(struct sessions *s, uint64_t client, uint64_t incarnation,
                                  uint64_t seq, struct session_answer *answer) {
    enum session_verdict verdict;
    assert_int_equal(session_check(s, client, incarnation, seq, &verdict, answer), DIMFIT_OK);
    return verdict;
}

static int make(void **state) {
    struct sessions *sessions;
    assert_int_equal(sessions_new(&sessions), DIMFIT_OK);
    *state = sessions;
    return 0;
}

static int drop(void **state) {
    struct sessions *sessions = *state;
    sessions_destroy(&sessions);
    return 0;
}

static void the_next_number_is_applied_and_its_repeat_answered(void **state) {
    struct session_answer answer;
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_NEXT);
    session_record(*state, 1, 1, 1, DIMFIT_OK, NULL);
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_REPEAT);
    assert_int_equal(answer.status, DIMFIT_OK);
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_NEXT);
    assert_int_equal(check(*state, 2, 1, 1, &answer), SESSION_NEXT); /* another client's own */
}

static void a_number_checked_but_not_recorded_stays_the_next(void **state) {
    struct session_answer answer;
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_NEXT);
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_NEXT);
}

static void a_gap_tells_the_number_expected(void **state) {
    struct session_answer answer;
    assert_int_equal(check(*state, 1, 1, 5, &answer), SESSION_GAP);
    assert_int_equal(answer.expected, 1);
}

static void a_refusal_is_repeated_with_its_reason(void **state) {
    struct session_answer answer;
    const struct err_detail why = {"slot 3, feasign 4"};
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_NEXT);
    session_record(*state, 1, 1, 1, DIMFIT_ERR_NOT_FINITE, &why);
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_REPEAT);
    assert_int_equal(answer.status, DIMFIT_ERR_NOT_FINITE);
    assert_string_equal(answer.detail.text, "slot 3, feasign 4");
}

static void a_later_incarnation_starts_anew_and_fences_the_earlier(void **state) {
    struct session_answer answer;
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_NEXT);
    session_record(*state, 1, 1, 1, DIMFIT_OK, NULL);
    assert_int_equal(check(*state, 1, 2, 1, &answer), SESSION_NEXT);
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_NEXT); /* nothing came of it yet */
    session_record(*state, 1, 2, 1, DIMFIT_OK, NULL);
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_FENCED);
    assert_int_equal(check(*state, 1, 2, 1, &answer), SESSION_REPEAT);
}

static void results_older_than_the_window_count_as_done(void **state) {
    struct session_answer answer;
    const struct err_detail why = {"x"};
    for (uint64_t seq = 1; seq <= SESSION_WINDOW + 1; seq++) {
        assert_int_equal(check(*state, 1, 1, seq, &answer), SESSION_NEXT);
        session_record(*state, 1, 1, seq, seq == 1 ? DIMFIT_ERR_NOMEM : DIMFIT_OK, &why);
    }
    assert_int_equal(check(*state, 1, 1, 1, &answer), SESSION_REPEAT);
    assert_int_equal(answer.status, DIMFIT_OK);
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_REPEAT);
    assert_int_equal(answer.status, DIMFIT_OK);
}

static void the_least_recently_used_client_makes_room(void **state) {
    struct session_answer answer;
    for (uint64_t client = 1; client <= SESSION_CLIENTS_MAX; client++) {
        assert_int_equal(check(*state, client, 1, 1, &answer), SESSION_NEXT);
        session_record(*state, client, 1, 1, DIMFIT_OK, NULL);
    }
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_NEXT);
    session_record(*state, 1, 1, 2, DIMFIT_OK, NULL); /* used again */
    assert_int_equal(check(*state, SESSION_CLIENTS_MAX + 1, 1, 1, &answer), SESSION_NEXT);
    session_record(*state, SESSION_CLIENTS_MAX + 1, 1, 1, DIMFIT_OK, NULL);
    assert_int_equal(sessions_count(*state), SESSION_CLIENTS_MAX);
    assert_int_equal(check(*state, 1, 1, 2, &answer), SESSION_REPEAT);
    for (uint64_t client = 3; client <= SESSION_CLIENTS_MAX + 1; client++)
        assert_int_equal(check(*state, client, 1, 1, &answer), SESSION_REPEAT);
    assert_int_equal(check(*state, 2, 1, 1, &answer), SESSION_NEXT); /* the oldest was forgotten */
}

#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void) {
    const struct CMUnitTest tests[] = {
        SESSION_TEST(the_next_number_is_applied_and_its_repeat_answered),
        SESSION_TEST(a_number_checked_but_not_recorded_stays_the_next),
        SESSION_TEST(a_gap_tells_the_number_expected),
        SESSION_TEST(a_refusal_is_repeated_with_its_reason),
        SESSION_TEST(a_later_incarnation_starts_anew_and_fences_the_earlier),
        SESSION_TEST(results_older_than_the_window_count_as_done),
        SESSION_TEST(the_least_recently_used_client_makes_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
