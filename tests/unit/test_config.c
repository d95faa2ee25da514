#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int make_file(void **state) {
    strcpy(path, "/tmp/dimfit-config-XXXXXX");
    const int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
    return unlink(path);
}

static void write_file(const char *text) {
    FILE *const out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static dimfit_err read_text(const char *text, struct config *config, struct err_detail *detail) {
    write_file(text);
    config_init(config);
    return config_read_file(config, path, detail);
}

/* The file is refused with "PATH:LINE: why". */
static void refused(const char *text, int line, const char *why) {
    struct config config;
    struct err_detail detail = {""};
    char expected[400];
    snprintf(expected, sizeof expected, "%s:%d: %s", path, line, why);
    assert_int_equal(read_text(text, &config, &detail), DIMFIT_ERR_CONFIG);
    assert_string_equal(detail.text, expected);
    config_fini(&config);
}

static void defaults_are_the_documented_ones(void **state) {
    struct config config;
    config_init(&config);
    assert_string_equal(config.bind, "tcp://127.0.0.1:7700");
    assert_int_equal(config.shards, 1);
    assert_false(config.auto_slots);
    assert_int_equal(config.score_memory, 1u << 30);
    assert_int_equal(config.defaults.dim, 16);
    assert_int_equal(config.defaults.optimizer.kind, OPTIMIZER_ROWWISE_ADAGRAD);
    assert_float_equal(config.defaults.optimizer.lr, 0.05, 1e-9);
    assert_float_equal(config.defaults.optimizer.eps, 1e-8, 1e-15);
    assert_int_equal(config.defaults.init, INIT_NORMAL);
    assert_float_equal(config.defaults.init_scale, 0.01, 1e-9);
    assert_true(config.defaults.search);
    assert_int_equal(config.defaults.retention.admit, 1);
    assert_int_equal(config.defaults.retention.expire_days, 0);
    assert_true(config.defaults.retention.expire_shows == 0);
    assert_true(config.defaults.retention.decay == 1);
    assert_false(config.defaults.retention.clicks || config.defaults.retention.last_seen);
    assert_int_equal(config.shrink_at, 4 * 60);
    config_fini(&config);
}

static void a_full_file_is_read(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("slots:\n"
                               "  - {id: 7, name: hour, dim: 8, optimizer: adam, lr: 1e-3}\n"
                               "  - id: 3\n"
                               "    width: 4\n"
                               "    init: uniform\n"
                               "    search: false\n"
                               "shards: 4\n"
                               "bind: ipc:///tmp/x\n"
                               "score_memory: 512M\n"
                               "score_sample: 16\n"
                               "seed: 18446744073709551615\n"
                               "auto_slots: true\n"
                               "scoring_timeout: 12.5\n"
                               "log_level: debug\n"
                               "defaults: {dim: 32, init_scale: 0.5}\n",
                               &config, &detail),
                     DIMFIT_OK);
    assert_int_equal(config.shards, 4);
    assert_string_equal(config.bind, "ipc:///tmp/x");
    assert_int_equal(config.score_memory, 512u << 20);
    assert_int_equal(config.score_sample, 16);
    assert_true(config.seed == UINT64_MAX);
    assert_true(config.auto_slots);
    assert_true(config.scoring_timeout == 12.5);
    assert_int_equal(config.log_level, LEVEL_DEBUG);
    assert_int_equal(config.n_slots, 2);

    const struct layout_slot *const a = &config.slots[0], *const b = &config.slots[1];
    assert_int_equal(a->id, 3);
    assert_string_equal(a->name, "slot3");
    assert_int_equal(a->dim, 32);
    assert_int_equal(a->width, 4);
    assert_int_equal(a->init, INIT_UNIFORM);
    assert_true(a->init_scale == 0.5f);
    assert_false(a->search);
    assert_int_equal(b->id, 7);
    assert_string_equal(b->name, "hour");
    assert_int_equal(b->dim, 8);
    assert_int_equal(b->width, 8);
    assert_int_equal(b->optimizer.kind, OPTIMIZER_ADAM);
    assert_true(b->optimizer.lr == 1e-3f);
    config_fini(&config);
}

static void the_settings_of_ftrl_are_read(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("defaults: {optimizer: ftrl, l1: 0.5}\n"
                               "slots: [{id: 1}, {id: 2, ftrl_beta: 0.25, l1: 2, l2: 3}]\n",
                               &config, &detail),
                     DIMFIT_OK);
    const struct optimizer *const a = &config.slots[0].optimizer, *const b =
                                                                      &config.slots[1].optimizer;
    assert_int_equal(a->kind, OPTIMIZER_FTRL);
    assert_true(a->beta == 1 && a->l1 == 0.5f && a->l2 == 0);
    assert_true(b->beta == 0.25f && b->l1 == 2 && b->l2 == 3);
    config_fini(&config);
    refused("defaults: {l1: -1}\n", 1, "l1: -1 is out of range: 0 to 1e+06");
    refused("score_sample: 0\n", 1, "score_sample: \"0\" is not a whole number from 1 to 1000000");
}

static void an_empty_file_changes_nothing(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("# nothing\n", &config, &detail), DIMFIT_OK);
    assert_int_equal(config.shards, 1);
    assert_int_equal(config.n_slots, 0);
    config_fini(&config);
}

static void unknown_keys_are_refused_with_their_line_and_the_nearest_key(void **state) {
    refused("shards: 1\nshard: 2\n", 2, "shard: no key of the configuration, did you mean shards?");
    refused("slots:\n  - id: 1\n    naem: x\n", 3, "naem: no key of a slot, did you mean name?");
    refused("defaults:\n  id: 1\n", 2,
            "id: no key of defaults; it takes dim, width, optimizer, lr, eps, beta1, beta2, "
            "ftrl_beta, l1, l2, init, init_scale, search, admit, expire_days, expire_shows, decay, "
            "clicks, last_seen or tiers");
}

static void wrong_types_are_refused(void **state) {
    refused("\nshards: two\n", 2, "shards: \"two\" is not a whole number from 1 to 512");
    refused("shards: -1\n", 1, "shards: \"-1\" is not a whole number from 1 to 512");
    refused("shards: 1.5\n", 1, "shards: \"1.5\" is not a whole number from 1 to 512");
    refused("shards: [1]\n", 1, "shards: takes one value, not a list");
    refused("shards:\n", 1, "shards: has no value");
    refused("auto_slots: maybe\n", 1, "auto_slots: \"maybe\" is not true or false");
    refused("score_memory: 1Q\n", 1, "score_memory: \"1Q\" is not a size such as 4096, 512M or 2G");
    refused("defaults: {lr: 0.1x}\n", 1, "lr: \"0.1x\" is not a number");
    refused("defaults: {lr: .inf}\n", 1, "lr: \".inf\" is not a number");
    refused("defaults: {optimizer: adamw}\n", 1,
            "optimizer: \"adamw\" is not one of sgd, adagrad, rowwise_adagrad, adam or ftrl");
    refused("bind: 7700\n", 1,
            "bind: \"7700\" is not an endpoint such as tcp://10.0.0.5:7700 or ipc://PATH");
    refused("slots: {id: 1}\n", 1, "slots: takes a list such as [{id: 1, name: user}]");
    refused("slots:\n- 3\n", 2, "a slot must be a mapping of keys and values");
    refused("- 1\n", 1, "must be a mapping of keys and values");
}

static void values_out_of_range_are_refused(void **state) {
    refused("shards: 0\n", 1, "shards: \"0\" is not a whole number from 1 to 512");
    refused("shards: 99999999999999999999999\n", 1,
            "shards: \"99999999999999999999999\" is not a whole number from 1 to 512");
    refused("defaults:\n  lr: 0\n", 2, "lr: 0 is out of range: 1e-12 to 1e+06");
    refused("score_memory: 1K\n", 1,
            "score_memory: 1K is out of range: 1048576 to 1125899906842624 bytes");
    refused("defaults: {dim: 513}\n", 1, "dim: \"513\" is not a whole number from 1 to 512");
    refused("defaults:\n  dim: 8\n  width: 9\n", 3, "width: 9 is more than dim, which is 8");
    refused("slots:\n  - id: 5\n    width: 17\n", 3, "width: 17 is more than slot 5's dim, 16");
    refused("slots:\n  - {id: 1, name: \"\"}\n", 2, "name: a name must not be empty");
}

static void a_slot_narrower_than_the_default_width_takes_its_dim(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(
        read_text("defaults: {width: 8}\nslots: [{id: 1, dim: 1}, {id: 2}]\n", &config, &detail),
        DIMFIT_OK);
    assert_int_equal(config.slots[0].width, 1);
    assert_int_equal(config.slots[1].width, 8);
    config_fini(&config);
}

static void retention_is_read_by_slot_over_the_defaults(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("defaults: {admit: 3, expire_days: 30, clicks: true}\n"
                               "slots:\n"
                               "  - {id: 1}\n"
                               "  - {id: 2, admit: 1, expire_days: 0, clicks: false}\n"
                               "  - {id: 3, expire_days: 0, expire_shows: 2.5, decay: 0.98}\n"
                               "  - {id: 4, expire_days: 0, last_seen: true}\n",
                               &config, &detail),
                     DIMFIT_OK);
    const struct retention expected[] = {
        {.admit = 3, .expire_days = 30, .decay = 1, .clicks = true, .last_seen = true},
        {.admit = 1, .decay = 1},
        {.admit = 3, .expire_shows = 2.5f, .decay = 0.98f, .clicks = true, .last_seen = true},
        {.admit = 3, .decay = 1, .clicks = true, .last_seen = true},
    };
    for (size_t i = 0; i < ARRAY_LEN(expected); i++)
        assert_null(retention_difference(&config.slots[i].retention, &expected[i]));
    assert_null(retention_difference(&config.defaults.retention, &expected[0]));
    config_fini(&config);
}

static void retention_out_of_range_is_refused(void **state) {
    refused("defaults: {admit: 0}\n", 1, "admit: \"0\" is not a whole number from 1 to 4095");
    refused("defaults: {admit: 4096}\n", 1, "admit: \"4096\" is not a whole number from 1 to 4095");
    refused("defaults: {expire_days: 36501}\n", 1,
            "expire_days: \"36501\" is not a whole number from 0 to 36500");
    refused("defaults: {expire_shows: -1}\n", 1, "expire_shows: -1 is out of range: 0 to 1e+09");
    refused("defaults: {decay: 0}\n", 1, "decay: 0 is out of range: 1e-06 to 1");
    refused("defaults: {decay: 1.1}\n", 1, "decay: 1.1 is out of range: 1e-06 to 1");
    refused("defaults: {clicks: 1}\n", 1, "clicks: \"1\" is not true or false");
}

static void a_last_seen_day_that_is_needed_cannot_be_turned_off(void **state) {
    refused("defaults:\n  last_seen: false\n  decay: 0.9\n", 2,
            "last_seen: false, but decay needs it");
    refused("defaults: {expire_days: 7}\nslots:\n- {id: 1}\n- {id: 2, last_seen: false}\n", 4,
            "last_seen: false, but expire_days needs it");
}

static void tiers_are_a_list_of_show_counts(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("defaults: {tiers: [10, 100]}\n"
                               "slots: [{id: 1}, {id: 2, tiers: []}, {id: 3, tiers: [7]}]\n",
                               &config, &detail),
                     DIMFIT_OK);
    const struct layout_slot *const s = config.slots;
    assert_int_equal(s[0].n_tiers, 3);
    assert_memory_equal(s[0].tier_shows, ((uint32_t[]){0, 10, 100}), 3 * sizeof(uint32_t));
    assert_int_equal(s[1].n_tiers, 1);
    assert_int_equal(s[2].n_tiers, 2);
    assert_int_equal(s[2].tier_shows[1], 7);
    config_fini(&config);
    const char *const bad[] = {"10",       "[10, 10]", "[0]",        "[-1]",
                               "[1, [2]]", "[x]",      "[16777217]", "[1, 2, 3, 4, 5, 6, 7, 8]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64], why[160];
        snprintf(text, sizeof text, "slots:\n- id: 1\n  tiers: %s\n", bad[i]);
        snprintf(why, sizeof why,
                 "tiers: \"%s\" is not a list such as [10, 100]: at most 7 show counts within "
                 "1..16777216, ascending",
                 i == 4 ? "[1, a list or mapping]" : bad[i]);
        refused(text, 3, why);
    }
}

static void the_daily_shrink_takes_a_time_or_off(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(read_text("shrink_at: 23:59\n", &config, &detail), DIMFIT_OK);
    assert_int_equal(config.shrink_at, 23 * 60 + 59);
    config_fini(&config);
    assert_int_equal(read_text("shrink_at: off\n", &config, &detail), DIMFIT_OK);
    assert_int_equal(config.shrink_at, -1);
    config_fini(&config);
    const char *const bad[] = {"24:00", "12:60", "4:00", "04:0x", "0400", "never"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64], why[128];
        snprintf(text, sizeof text, "shrink_at: \"%s\"\n", bad[i]);
        snprintf(why, sizeof why, "shrink_at: \"%s\" is not a time such as 04:00, nor off", bad[i]);
        refused(text, 1, why);
    }
}

static void things_given_twice_are_refused(void **state) {
    refused("shards: 1\nseed: 2\nshards: 3\n", 3, "shards: given before, on line 1");
    refused("slots:\n- {id: 4}\n- {id: 1}\n- {id: 4, name: x}\n", 4,
            "id: 4 is there already, on line 2");
    refused("slots:\n- {id: 4, name: u}\n- {id: 1, name: u}\n", 3,
            "name: \"u\" is slot 4's already, on line 2");
    refused("slots:\n- name: u\n", 2, "id: every slot needs one");
    refused("---\nshards: 1\n---\nshards: 2\n", 4, "a second document; one is read");
}

static void broken_yaml_is_refused_with_its_line(void **state) {
    refused("shards: 1\nslots: [{id: 1\n", 3, "not YAML: did not find expected ',' or '}'");
    refused("a: b: c\n", 1, "not YAML: mapping values are not allowed in this context");
}

static void a_missing_file_is_an_io_error(void **state) {
    struct config config;
    struct err_detail detail = {""};
    config_init(&config);
    assert_int_equal(config_read_file(&config, "/nowhere/dimfit.yaml", &detail), DIMFIT_ERR_IO);
    assert_string_equal(detail.text, "/nowhere/dimfit.yaml: No such file or directory");
    config_fini(&config);
}

/* config_parse_args() over a NULL-terminated list. */
static dimfit_err parse(struct config *config, struct err_detail *detail, ...) {
    const char *argv[16] = {"dimfitd"};
    int argc = 1;
    va_list args;
    va_start(args, detail);
    while ((argv[argc] = va_arg(args, const char *)) != NULL)
        argc++;
    va_end(args);
    return config_parse_args(argc, (char **)argv, config, detail);
}

static void options_win_over_the_file(void **state) {
    struct config config;
    struct err_detail detail = {""};
    write_file("shards: 2\nseed: 5\nauto_slots: true\n");
    assert_int_equal(parse(&config, &detail, "--shards", "8", "coordinator", "--config", path,
                           "--auto-slots=false", "--score-memory=2G", NULL),
                     DIMFIT_OK);
    assert_int_equal(config.role, ROLE_COORDINATOR);
    assert_int_equal(config.shards, 8);
    assert_int_equal(config.seed, 5);
    assert_false(config.auto_slots);
    assert_true(config.score_memory == UINT64_C(2) << 30);
    config_fini(&config);
}

static void a_bad_option_is_named(void **state) {
    struct config config;
    struct err_detail detail = {""};
    assert_int_equal(parse(&config, &detail, "standalone", "--shards", "0", NULL),
                     DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text, "--shards: \"0\" is not a whole number from 1 to 512");
    assert_int_equal(parse(&config, &detail, "alone", NULL), DIMFIT_ERR_INVALID);
    assert_string_equal(detail.text,
                        "\"alone\" is no role. Roles are standalone, coordinator or shard.");
}

static int exit_code(const char *const *argv, int argc) {
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct config config;
        struct err_detail detail;
        assert_non_null(freopen("/dev/null", "w", stderr));
        assert_non_null(freopen("/dev/null", "w", stdout));
        _exit(config_parse_args(argc, (char **)argv, &config, &detail) == DIMFIT_OK ? 100 : 101);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void unknown_options_and_a_missing_role_exit_with_2(void **state) {
    assert_int_equal(exit_code((const char *[]){"dimfitd", "standalone", "--shrads", "1", NULL}, 4),
                     2);
    assert_int_equal(exit_code((const char *[]){"dimfitd", "--shards", "1", NULL}, 3), 2);
    assert_int_equal(exit_code((const char *[]){"dimfitd", "shard", "shard", NULL}, 3), 2);
    assert_int_equal(exit_code((const char *[]){"dimfitd", "--help", NULL}, 2), 0);
    assert_int_equal(exit_code((const char *[]){"dimfitd", "--version", NULL}, 2), 0);
}

static char *printed(const struct config *config) {
    char *text = NULL;
    size_t len;
    FILE *const out = open_memstream(&text, &len);
    assert_non_null(out);
    config_print(config, out);
    fclose(out);
    return text;
}

static void the_printed_configuration_tells_where_values_came_from(void **state) {
    struct config config;
    struct err_detail detail = {""};
    char line[128];
    write_file("shards: 2\nslots:\n- {id: 1, name: 'a \"b\"'}\n");
    assert_int_equal(parse(&config, &detail, "standalone", "--seed=9", "--config", path, NULL),
                     DIMFIT_OK);
    char *const text = printed(&config);
    snprintf(line, sizeof line, "\nshards: 2  # %s:1\n", path);
    assert_non_null(strstr(text, line));
    assert_non_null(strstr(text, "\nseed: 9  # option --seed\n"));
    assert_non_null(strstr(text, "\nscore_memory: 1G  # default\n"));
    assert_non_null(strstr(text, "\n  lr: 0.05  # default\n"));
    snprintf(line, sizeof line, "tiers: []}  # %s:3\n", path);
    assert_non_null(strstr(text, line));
    free(text);
    config_fini(&config);
}

static void the_printed_configuration_reads_back_the_same(void **state) {
    struct config first, second;
    struct err_detail detail = {""};
    assert_int_equal(
        read_text(
            "shards: 2\nmax_memory: 3000\nover_memory: skip\ndata_dir: \"/a \\\"q\\\\\"\n"
            "audit_log: \"/a\\x85 \\u2028 \\P \\xe9\"\nshrink_at: 00:30\n"
            "defaults: {dim: 4, lr: 0.3, width: 2, decay: 0.97}\n"
            "slots: [{id: 1}, {id: 2, dim: 64, width: 33, init_scale: 0.1,\n"
            "         admit: 4, decay: 1, expire_shows: 1.5, clicks: true, tiers: [3, 40]}]\n",
            &first, &detail),
        DIMFIT_OK);
    char *const text = printed(&first);
    assert_int_equal(read_text(text, &second, &detail), DIMFIT_OK);
    assert_int_equal(second.shards, 2);
    assert_int_equal(second.max_memory, 3000);
    assert_int_equal(second.over_memory, OVER_SKIP);
    assert_string_equal(second.data_dir, "/a \"q\\");
    assert_string_equal(second.audit_log, "/a\xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9 \xc3\xa9");
    assert_int_equal(second.n_slots, 2);
    assert_true(second.defaults.optimizer.lr == 0.3f);
    assert_int_equal(second.defaults.width, 2);
    assert_int_equal(second.slots[0].width, 2);
    assert_int_equal(second.slots[1].width, 33);
    assert_true(second.slots[1].init_scale == 0.1f);
    assert_int_equal(second.shrink_at, 30);
    assert_int_equal(second.slots[0].n_tiers, 1);
    assert_int_equal(second.slots[1].n_tiers, 3);
    assert_memory_equal(second.slots[1].tier_shows, first.slots[1].tier_shows,
                        sizeof first.slots[1].tier_shows);
    assert_null(retention_difference(&second.defaults.retention, &first.defaults.retention));
    for (size_t i = 0; i < 2; i++)
        assert_null(retention_difference(&second.slots[i].retention, &first.slots[i].retention));
    free(text);
    config_fini(&first);
    config_fini(&second);
}

static void the_strategies_folder_can_come_from_the_environment(void **state) {
    struct config config;
    setenv("DIMFIT_STRATEGIES", "/some/plugins", 1);
    config_init(&config);
    assert_string_equal(config.strategies, "/some/plugins");
    config_fini(&config);
    unsetenv("DIMFIT_STRATEGIES");
    config_init(&config);
    assert_true(strlen(config.strategies) > 0);
    assert_string_not_equal(config.strategies, "/some/plugins");
    config_fini(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(a_full_file_is_read),
        cmocka_unit_test(the_settings_of_ftrl_are_read),
        cmocka_unit_test(an_empty_file_changes_nothing),
        cmocka_unit_test(unknown_keys_are_refused_with_their_line_and_the_nearest_key),
        cmocka_unit_test(wrong_types_are_refused),
        cmocka_unit_test(values_out_of_range_are_refused),
        cmocka_unit_test(a_slot_narrower_than_the_default_width_takes_its_dim),
        cmocka_unit_test(retention_is_read_by_slot_over_the_defaults),
        cmocka_unit_test(retention_out_of_range_is_refused),
        cmocka_unit_test(a_last_seen_day_that_is_needed_cannot_be_turned_off),
        cmocka_unit_test(tiers_are_a_list_of_show_counts),
        cmocka_unit_test(the_daily_shrink_takes_a_time_or_off),
        cmocka_unit_test(things_given_twice_are_refused),
        cmocka_unit_test(broken_yaml_is_refused_with_its_line),
        cmocka_unit_test(a_missing_file_is_an_io_error),
        cmocka_unit_test(options_win_over_the_file),
        cmocka_unit_test(a_bad_option_is_named),
        cmocka_unit_test(unknown_options_and_a_missing_role_exit_with_2),
        cmocka_unit_test(the_printed_configuration_tells_where_values_came_from),
        cmocka_unit_test(the_printed_configuration_reads_back_the_same),
        cmocka_unit_test(the_strategies_folder_can_come_from_the_environment),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
