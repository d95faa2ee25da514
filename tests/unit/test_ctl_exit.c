/* The commands against a coordinator that answers from a list: what is asked, printed and returned.
 */
#include "proto/rpc.h"
#include "server/ctl/ctl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the other end --------------------------------------------------------------------------- */

struct answer {
    const char *command; /* the one expected */
    dimfit_err err;
    const char *body; /* JSON reply, or the detail of an error */
    const char *args; /* JSON expected, NULL: not looked at */
};

static const struct answer *script; /* ends with a NULL command */

dimfit_err rpc_open(const char *endpoint, struct rpc **out, struct err_detail *detail) {
    if (strncmp(endpoint, "tcp://", 6) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "%s", endpoint);
    *out = (struct rpc *)&script;
    return DIMFIT_OK;
}

void rpc_close(struct rpc **rpc) {
    *rpc = NULL;
}

static bool same_json(const void *body, size_t len, const char *expected) {
    json_error_t error;
    json_t *const got = json_loadb(body, len, 0, &error), *const want = json_loads(expected, 0,
                                                                                   &error);
    const bool same = json_equal(got, want) == 1;
    json_decref(got);
    json_decref(want);
    return same;
}

/* Exit codes over 100 are this double's own complaints. */
dimfit_err rpc_call(struct rpc *rpc, struct wire_header *request, const void *body, size_t len,
                    int64_t timeout_ms, struct rpc_reply *out, struct err_detail *detail) {
    const struct answer *const answer = script;
    if (answer->command == NULL || strcmp(answer->command, request->name) != 0 ||
        request->kind != WIRE_ADMIN || timeout_ms <= 0)
        _exit(101);
    if (answer->args != NULL && !same_json(body, len, answer->args))
        _exit(102);
    script++;
    if (answer->err != DIMFIT_OK)
        return err_set(detail, answer->err, "%s", answer->body);
    *out = (struct rpc_reply){.body = (const uint8_t *)answer->body, .len = strlen(answer->body)};
    return DIMFIT_OK;
}

/* ---- running a command ----------------------------------------------------------------------- */

struct run {
    int code;
    char out[4096], err[4096];
};

static void slurp(FILE *from, char *to, size_t cap) {
    rewind(from);
    to[fread(to, 1, cap - 1, from)] = '\0';
    fclose(from);
}

static int run_child(const char *const *words, int argc, const struct answer *answers) {
    static const struct ctl_entry commands[] = {
        {"status", cmd_status},     {"stats", cmd_stats},   {"slots", cmd_slots},
        {"scores", cmd_scores},     {"search", cmd_search}, {"strategies", cmd_strategies},
        {"shutdown", cmd_shutdown}, {"shrink", cmd_shrink},
    };
    struct ctl ctl;
    script = answers;
    ctl_init(&ctl);
    const int code = ctl_dispatch(&ctl, "dimfitctl", "", commands, ARRAY_LEN(commands), argc,
                                  (char **)words);
    ctl_fini(&ctl);
    fflush(NULL);
    return script != NULL && script->command != NULL ? 103 : code;
}

static struct run run(const struct answer *answers, ...) {
    static const struct answer none[] = {{0}};
    const char *words[24] = {"dimfitctl"};
    int argc = 1, status;
    va_list args;
    va_start(args, answers);
    while ((words[argc] = va_arg(args, const char *)) != NULL)
        argc++;
    va_end(args);

    FILE *const out = tmpfile(), *const err = tmpfile();
    assert_non_null(out);
    assert_non_null(err);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(fileno(out), STDOUT_FILENO);
        dup2(fileno(err), STDERR_FILENO);
        _exit(run_child(words, argc, answers != NULL ? answers : none));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    struct run result = {.code = WEXITSTATUS(status)};
    slurp(out, result.out, sizeof result.out);
    slurp(err, result.err, sizeof result.err);
    return result;
}

#define ANSWERS(...) ((const struct answer[]){__VA_ARGS__, {0}})

static void fails_with(const struct run *result, int code, const char *err) {
    assert_string_equal(result->err, err);
    assert_int_equal(result->code, code);
    assert_string_equal(result->out, "");
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void json_is_printed_as_it_came(void **state) {
    static const char body[] = "{\"b\":1,\"a\":[0.1,1e-300],\"new_field\":null}";
    const struct run result = run(ANSWERS({"status", DIMFIT_OK, body, NULL}), "status", "--json",
                                  NULL);
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "{\"b\":1,\"a\":[0.1,1e-300],\"new_field\":null}\n");
    assert_string_equal(result.err, "");
}

static void common_options_stand_before_or_after_the_command(void **state) {
    assert_int_equal(
        run(ANSWERS({"slots", DIMFIT_OK, "{}", NULL}), "--json", "--timeout", "2", "slots", NULL)
            .code,
        EXIT_DONE);
    assert_int_equal(
        run(ANSWERS({"slots", DIMFIT_OK, "{}", NULL}), "slots", "--timeout=2", "--json", NULL).code,
        EXIT_DONE);
}

static void an_unreachable_coordinator_is_exit_3(void **state) {
    const struct run result = run(ANSWERS({"status", DIMFIT_ERR_UNREACHABLE, "", NULL}), "status",
                                  "--coordinator", "tcp://10.0.0.1:1", NULL);
    fails_with(
        &result, EXIT_UNREACHABLE,
        "dimfitctl: tcp://10.0.0.1:1: no answer within 10 s. Is the coordinator running there? "
        "--coordinator or DIMFIT_COORDINATOR name another place.\n");
}

static void a_change_is_sent_only_to_a_coordinator_that_answers(void **state) {
    assert_int_equal(
        run(ANSWERS({"status", DIMFIT_ERR_UNREACHABLE, "", NULL}), "shutdown", NULL).code,
        EXIT_UNREACHABLE);
    assert_int_equal(
        run(ANSWERS({"status", DIMFIT_OK, "{}", NULL}, {"shutdown", DIMFIT_OK, "", NULL}),
            "shutdown", NULL)
            .code,
        EXIT_DONE);
}

static void a_lost_answer_to_a_change_is_exit_5(void **state) {
    const struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL}, {"search apply", DIMFIT_ERR_MAYBE, "", NULL}),
        "search", "apply", "--timeout", "1.5", NULL);
    fails_with(
        &result, EXIT_MAYBE,
        "dimfitctl: search apply: no answer from tcp://127.0.0.1:7700 within 1.5 s. It may have "
        "happened: see `dimfitctl status`.\n");
}

static void a_denied_command_is_exit_4_and_a_refused_one_exit_1(void **state) {
    struct run result = run(ANSWERS({"status", DIMFIT_ERR_DENIED, "not with a worker's key", NULL}),
                            "status", NULL);
    fails_with(&result, EXIT_DENIED, "dimfitctl: status: not with a worker's key.\n");
    result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                         {"search start", DIMFIT_ERR_BUSY, "search 3 is scoring", NULL}),
                 "search", "start", "--kappa", "0.5", NULL);
    fails_with(&result, EXIT_FAILED, "dimfitctl: search start: search 3 is scoring.\n");
    result = run(ANSWERS({"stats", DIMFIT_OK, "[1]", NULL}), "stats", NULL);
    fails_with(&result, EXIT_FAILED,
               "dimfitctl: stats: the answer is no JSON object. Is dimfitctl as new as the "
               "coordinator?\n");
}

static void kappa_must_be_a_positive_number(void **state) {
    static const struct {
        const char *kappa, *why;
    } cases[] = {
        {"0", "0 is not more than 0"},        {"-1", "-1 is not more than 0"},
        {"nan", "\"nan\" is not a number"},   {"inf", "\"inf\" is not a number"},
        {"0.5x", "\"0.5x\" is not a number"}, {"", "\"\" is not a number"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char expected[200];
        const struct run result = run(NULL, "search", "start", "--kappa", cases[i].kappa, NULL);
        snprintf(expected, sizeof expected, "dimfitctl: --kappa: %s. --help lists the options.\n",
                 cases[i].why);
        fails_with(&result, EXIT_USAGE, expected);
    }
    const struct run result = run(NULL, "search", "start", NULL);
    fails_with(
        &result, EXIT_USAGE,
        "dimfitctl: --kappa: is needed: the share of parameters to keep, such as 0.25. --help "
        "lists the options.\n");
}

static void an_unknown_word_is_refused_with_the_choices(void **state) {
    struct run result = run(NULL, "search", "start", "--kappa=1", "--basis", "round", NULL);
    fails_with(
        &result, EXIT_USAGE,
        "dimfitctl: --basis: \"round\" is not one of axis, rotated or kfac. --help lists the "
        "options.\n");
    result = run(NULL, "scores", "--estimator", "steps", NULL);
    fails_with(
        &result, EXIT_USAGE,
        "dimfitctl: --estimator: \"steps\" is not one of single, step, fisher, row, curvature, "
        "taylor or guarded. --help lists the options.\n");
    result = run(NULL, "serach", NULL);
    fails_with(&result, EXIT_USAGE,
               "dimfitctl: command: there is no command \"serach\", did you mean search? --help "
               "lists the options.\n");
}

static void usage_errors_are_exit_2(void **state) {
    assert_int_equal(run(NULL, "status", "--jsno", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "status", "extra", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, NULL, NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "search", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "status", "--timeout", "0", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "status", "--coordinator", "nonsense", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "scores", "--csv", "--svg", "x", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "scores", "--plan", NULL).code, EXIT_USAGE);
    assert_int_equal(
        run(NULL, "search", "start", "--kappa=1", "--strategy-options", "a", NULL).code,
        EXIT_USAGE);
    assert_int_equal(run(NULL, "search", "start", "--kappa=1", "--min-dim=-1", NULL).code,
                     EXIT_USAGE);
    assert_int_equal(run(NULL, "search", "start", "--help", NULL).code, EXIT_DONE);
}

static void every_option_of_search_start_reaches_the_coordinator(void **state) {
    const struct run result = run(
        ANSWERS(
            {"status", DIMFIT_OK, "{}", NULL},
            {"search start", DIMFIT_OK, "{\"search\":1,\"phase\":\"scoring\",\"epoch\":0}",
             "{\"kappa\":0.25,\"strategy\":\"uniform\",\"estimator\":\"row\",\"basis\":\"axis\","
             "\"count\":\"dims\",\"rank\":\"density\",\"min_dim\":0,\"mode\":\"freeze\","
             "\"samples\":100,\"seed\":7,\"options\":\"a=1,b=\",\"timeout\":5.0,"
             "\"plan_only\":true}"}),
        "search", "start", "--kappa", ".25", "--strategy", "uniform", "--estimator=row",
        "--basis=axis", "--count=dims", "--rank=density", "--min-dim=0", "--mode=freeze",
        "--samples=100", "--seed=7", "--strategy-options=a=1,b=", "--timeout=5", "--plan-only",
        NULL);
    assert_string_equal(result.err, "");
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "search 1: scoring, - samples; epoch 0\n");
}

static void waiting_ends_at_the_commit(void **state) {
    const struct run result = run(
        ANSWERS(
            {"status", DIMFIT_OK, "{}", NULL},
            {"search start", DIMFIT_OK, "{\"search\":1,\"phase\":\"scoring\"}", "{\"kappa\":0.5}"},
            {"search status", DIMFIT_OK, "{\"search\":1,\"phase\":\"preparing\"}", NULL},
            {"search status", DIMFIT_OK, "{\"search\":1,\"phase\":\"committed\",\"epoch\":1}",
             NULL}),
        "search", "start", "--kappa", "0.5", "--wait", NULL);
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "search 1: committed; epoch 1\n");
}

static void plans_are_named_tried_and_taken_back_by_their_options(void **state) {
    struct run result = run(
        ANSWERS(
            {"status", DIMFIT_OK, "{}", NULL},
            {"search apply", DIMFIT_OK, "{\"search\":3,\"phase\":\"preparing\"}", "{\"plan\":3}"},
            {"search status", DIMFIT_OK, "{\"search\":3,\"phase\":\"committed\"}", NULL}),
        "search", "apply", "--plan", "3", "--wait", "--json", NULL);
    assert_string_equal(result.out, "{\"search\":3,\"phase\":\"committed\"}\n");
    result = run(
        ANSWERS({"search apply", DIMFIT_OK, "{\"dry_run\":true}", "{\"plan\":3,\"dry_run\":true}"}),
        "search", "apply", "--plan", "3", "--dry-run", "--json", NULL);
    assert_string_equal(result.out, "{\"dry_run\":true}\n");
    result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                         {"search rollback", DIMFIT_OK,
                          "{\"search\":3,\"phase\":\"rolled back\",\"epoch\":2}", "{}"}),
                 "search", "rollback", NULL);
    assert_string_equal(result.out, "search 3: rolled back; epoch 2\n");
    result = run(ANSWERS({"search plans", DIMFIT_OK, "{\"plans\":[]}", NULL}), "search", "plans",
                 "--json", NULL);
    assert_string_equal(result.out, "{\"plans\":[]}\n");
    result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                         {"search discard", DIMFIT_OK, "{}", "{\"saved\":true}"}),
                 "search", "discard", "--saved", "--json", NULL);
    assert_string_equal(result.out, "{}\n");
    assert_int_equal(run(NULL, "search", "discard", NULL).code, EXIT_USAGE);
    assert_int_equal(run(NULL, "search", "discard", "--saved", "--plan", "1", NULL).code,
                     EXIT_USAGE);
    assert_int_equal(run(NULL, "search", "apply", "--plan", "0", NULL).code, EXIT_USAGE);
}

static void waiting_for_a_plan_shows_it(void **state) {
    const struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                {"search start", DIMFIT_OK, "{\"search\":1,\"phase\":\"scoring\"}", NULL},
                {"search status", DIMFIT_OK, "{\"search\":1,\"phase\":\"planned\"}", NULL},
                {"search plan", DIMFIT_OK, "{\"search\":1,\"slots\":[]}", NULL}),
        "search", "start", "--kappa", "0.5", "--plan-only", "--wait", "--json", NULL);
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "{\"search\":1,\"slots\":[]}\n");
}

static void waiting_for_a_search_that_is_aborted_is_exit_1(void **state) {
    const struct run result = run(
        ANSWERS({"search status", DIMFIT_OK, "{\"search\":2,\"phase\":\"scoring\"}", NULL},
                {"search status", DIMFIT_OK,
                 "{\"search\":2,\"phase\":\"aborted\",\"error\":\"nobody scores\"}", NULL}),
        "search", "status", "--wait", NULL);
    assert_int_equal(result.code, EXIT_FAILED);
    assert_string_equal(result.err, "dimfitctl: search: nobody scores.\n");
}

static void losing_the_coordinator_while_waiting_is_exit_5(void **state) {
    const struct run result = run(
        ANSWERS({"search status", DIMFIT_OK, "{\"search\":2,\"phase\":\"scoring\"}", NULL},
                {"search status", DIMFIT_ERR_MAYBE, "", NULL}),
        "search", "status", "--wait", NULL);
    assert_int_equal(result.code, EXIT_MAYBE);
}

static void a_new_search_ends_the_wait_for_the_old_one(void **state) {
    const struct run result = run(
        ANSWERS({"search status", DIMFIT_OK, "{\"search\":2,\"phase\":\"scoring\"}", NULL},
                {"search status", DIMFIT_OK, "{\"search\":3,\"phase\":\"scoring\"}", NULL}),
        "search", "status", "--wait", NULL);
    fails_with(&result, EXIT_FAILED,
               "dimfitctl: --wait: another search took the place of search 2. `dimfitctl search "
               "status` shows it.\n");
}

static void a_heat_map_of_the_plan_does_not_end_scoring(void **state) {
    const struct run result = run(
        ANSWERS({"search status", DIMFIT_OK, "{\"search\":2,\"phase\":\"scoring\"}", NULL}),
        "scores", "--svg=-", "--plan", NULL);
    fails_with(
        &result, EXIT_FAILED,
        "dimfitctl: --plan: the search is still scoring. `dimfitctl search plan` ends scoring "
        "and plans.\n");
}

static void scores_go_to_a_file_or_to_standard_output(void **state) {
    static const char body[] =
        "{\"slots\":[{\"id\":1,\"name\":\"u\",\"rows\":2,\"g\":[1],\"s\":[1]}]}";
    static const char csv[] = "slot,name,tier,rows,dim,g,s\n1,u,0,2,0,1,1\n";
    char path[] = "/tmp/dimfit-scores-XXXXXX", text[128];
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct run result = run(ANSWERS({"scores", DIMFIT_OK, body, "{\"estimator\":\"row\"}"}),
                            "scores", "--csv", "-e", "row", NULL);
    assert_string_equal(result.out, csv);
    result = run(ANSWERS({"scores", DIMFIT_OK, body, "{}"}), "scores", "--csv", path, NULL);
    assert_int_equal(result.code, EXIT_DONE);
    slurp(fdopen(fd, "r"), text, sizeof text);
    assert_string_equal(text, csv);
    unlink(path);
    result = run(ANSWERS({"scores", DIMFIT_OK, body, NULL}), "scores", "--svg", "/nowhere/x", NULL);
    fails_with(&result, EXIT_FAILED, "dimfitctl: /nowhere/x: No such file or directory.\n");
}

static void every_option_of_shrink_reaches_the_coordinator(void **state) {
    const struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                {"shrink", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}",
                 "{\"slots\":[\"user\",\"7\"],\"unseen_days\":30,\"shows\":1.5,\"day\":20000,"
                 "\"dry_run\":true}"}),
        "shrink", "--slot", "user", "-s7", "--unseen-days=30", "--shows=1.5", "--day=2024-10-04",
        "--dry-run", "--no-wait", "--json", NULL);
    assert_string_equal(result.err, "");
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "{\"shrink\":4,\"state\":\"running\"}\n");
}

static void a_day_is_a_date_or_a_number_of_days(void **state) {
    assert_int_equal(run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                                 {"shrink", DIMFIT_OK, "{\"state\":\"done\"}", "{\"day\":20000}"}),
                         "shrink", "--day=20000", "--json", NULL)
                         .code,
                     EXIT_DONE);
    static const struct {
        const char *day, *why;
    } cases[] = {
        {"yesterday", "\"yesterday\" is not a whole number"},
        {"2024-13-01", "\"2024-13-01\" is not a whole number"},
        {"1969-12-31", "1969-12-31 is not after 1970-01-01"},
        {"0", "0 is not from 1 to 4294967295"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char expected[200];
        const struct run result = run(NULL, "shrink", "--day", cases[i].day, NULL);
        snprintf(expected, sizeof expected, "dimfitctl: --day: %s. --help lists the options.\n",
                 cases[i].why);
        fails_with(&result, EXIT_USAGE, expected);
    }
}

static void shrink_waits_for_the_end_and_shows_it(void **state) {
    static const char done[] = "{\"shrink\":4,\"state\":\"done\",\"evicted\":3}";
    const struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                {"shrink", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}", "{}"},
                {"shrink status", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}", NULL},
                {"shrink status", DIMFIT_OK, done, NULL}),
        "shrink", "--json", NULL);
    assert_string_equal(result.err, "");
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "{\"shrink\":4,\"state\":\"done\",\"evicted\":3}\n");
}

static void a_shrink_that_fails_is_exit_1(void **state) {
    const struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                {"shrink", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}", NULL},
                {"shrink status", DIMFIT_OK,
                 "{\"shrink\":4,\"state\":\"failed\",\"error\":\"shard 1 is gone\"}", NULL}),
        "shrink", "--shows=2", NULL);
    assert_int_equal(result.code, EXIT_FAILED);
    assert_string_equal(result.err, "dimfitctl: shrink: shard 1 is gone.\n");
}

static void a_shrink_that_is_refused_says_why(void **state) {
    struct run result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                                    {"shrink", DIMFIT_ERR_BUSY, "shrink 3 is under way", NULL}),
                            "shrink", NULL);
    fails_with(&result, EXIT_FAILED, "dimfitctl: shrink: shrink 3 is under way.\n");
    result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                         {"shrink", DIMFIT_ERR_INVALID, "give --shows", NULL}),
                 "shrink", NULL);
    fails_with(&result, EXIT_USAGE, "dimfitctl: shrink: give --shows.\n");
}

static void losing_sight_of_a_shrink_is_exit_5_or_1(void **state) {
    struct run result = run(
        ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                {"shrink", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}", NULL},
                {"shrink status", DIMFIT_ERR_MAYBE, "", NULL}),
        "shrink", NULL);
    assert_int_equal(result.code, EXIT_MAYBE);
    result = run(ANSWERS({"status", DIMFIT_OK, "{}", NULL},
                         {"shrink", DIMFIT_OK, "{\"shrink\":4,\"state\":\"running\"}", NULL},
                         {"shrink status", DIMFIT_OK, "{\"shrink\":5,\"state\":\"done\"}", NULL}),
                 "shrink", NULL);
    fails_with(&result, EXIT_FAILED,
               "dimfitctl: shrink: another one took the place of shrink 4. `dimfitctl shrink "
               "--status` shows it.\n");
}

static void the_status_of_a_shrink_starts_none(void **state) {
    const struct run result = run(
        ANSWERS({"shrink status", DIMFIT_OK, "{\"shrink\":0,\"state\":\"none\"}", NULL}), "shrink",
        "--status", NULL);
    assert_int_equal(result.code, EXIT_DONE);
    assert_string_equal(result.out, "no shrink since the coordinator started\n");
    assert_int_equal(run(NULL, "shrink", "--status", "--shows=1", NULL).code, EXIT_USAGE);
}

int main(void) {
    unsetenv("DIMFIT_COORDINATOR");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_is_printed_as_it_came),
        cmocka_unit_test(common_options_stand_before_or_after_the_command),
        cmocka_unit_test(an_unreachable_coordinator_is_exit_3),
        cmocka_unit_test(a_change_is_sent_only_to_a_coordinator_that_answers),
        cmocka_unit_test(a_lost_answer_to_a_change_is_exit_5),
        cmocka_unit_test(a_denied_command_is_exit_4_and_a_refused_one_exit_1),
        cmocka_unit_test(kappa_must_be_a_positive_number),
        cmocka_unit_test(an_unknown_word_is_refused_with_the_choices),
        cmocka_unit_test(usage_errors_are_exit_2),
        cmocka_unit_test(every_option_of_search_start_reaches_the_coordinator),
        cmocka_unit_test(waiting_ends_at_the_commit),
        cmocka_unit_test(plans_are_named_tried_and_taken_back_by_their_options),
        cmocka_unit_test(waiting_for_a_plan_shows_it),
        cmocka_unit_test(waiting_for_a_search_that_is_aborted_is_exit_1),
        cmocka_unit_test(losing_the_coordinator_while_waiting_is_exit_5),
        cmocka_unit_test(a_new_search_ends_the_wait_for_the_old_one),
        cmocka_unit_test(a_heat_map_of_the_plan_does_not_end_scoring),
        cmocka_unit_test(scores_go_to_a_file_or_to_standard_output),
        cmocka_unit_test(every_option_of_shrink_reaches_the_coordinator),
        cmocka_unit_test(a_day_is_a_date_or_a_number_of_days),
        cmocka_unit_test(shrink_waits_for_the_end_and_shows_it),
        cmocka_unit_test(a_shrink_that_fails_is_exit_1),
        cmocka_unit_test(a_shrink_that_is_refused_says_why),
        cmocka_unit_test(losing_sight_of_a_shrink_is_exit_5_or_1),
        cmocka_unit_test(the_status_of_a_shrink_starts_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
