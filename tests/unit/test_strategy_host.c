#include "server/strategy_host.h"

#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static int plan_nothing(const struct dimfit_strategy_host *host,
                        const struct dimfit_strategy_input *input, uint8_t *const *keep) {
    return 0;
}

static struct dimfit_strategy sound(void) {
    return (struct dimfit_strategy){
        .magic = DIMFIT_STRATEGY_MAGIC,
        .abi_major = DIMFIT_STRATEGY_ABI_MAJOR,
        .abi_minor = DIMFIT_STRATEGY_ABI_MINOR,
        .size = sizeof(struct dimfit_strategy),
        .name = "mine_2",
        .version = "1",
        .summary = "a strategy",
        .needs = DIMFIT_NEEDS_SCORES | DIMFIT_NEEDS_NORMS,
        .plan = plan_nothing,
    };
}

static void refused(const struct dimfit_strategy *s, dimfit_err err, const char *why) {
    struct err_detail detail = {""};
    assert_int_equal(strategy_check(s, &detail), err);
    assert_string_equal(detail.text, why);
}

static void a_sound_descriptor_passes(void **state) {
    struct dimfit_strategy s = sound();
    assert_int_equal(strategy_check(&s, NULL), DIMFIT_OK);
    s.size += 100; /* fields of a later minor version come after these */
    assert_int_equal(strategy_check(&s, NULL), DIMFIT_OK);
}

static void no_descriptor_is_refused(void **state) {
    refused(NULL, DIMFIT_ERR_PLUGIN, "dimfit_strategy() returned no descriptor");
}

static void a_wrong_magic_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.magic = 1;
    refused(&s, DIMFIT_ERR_PLUGIN, "the descriptor's magic is 0x1, not 0x64665374");
}

static void another_major_version_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.abi_major = 1;
    refused(&s, DIMFIT_ERR_VERSION,
            "built for ABI 1.1, this dimfit has 2.1: the major number must be equal");
}

static void a_newer_minor_version_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.abi_minor = 3;
    refused(&s, DIMFIT_ERR_VERSION, "built for the newer ABI 2.3, this dimfit has 2.1");
}

static void a_short_descriptor_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.size = 16;
    char why[128];
    snprintf(why, sizeof why, "the descriptor has 16 bytes, ABI 2.1 takes at least %zu", sizeof s);
    refused(&s, DIMFIT_ERR_PLUGIN, why);
}

static void names_that_no_option_could_say_are_refused(void **state) {
    const char *const bad[] = {NULL,  "",      "Mine", "a b",
                               "a-b", "../up", "\xff", "a23456789012345678901234567890_2"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct dimfit_strategy s = sound();
        s.name = bad[i];
        refused(&s, DIMFIT_ERR_PLUGIN,
                "the strategy's name must be 1 to 31 of the characters a-z 0-9 _");
    }
    struct dimfit_strategy s = sound();
    s.name = "a23456789012345678901234567890_";
    assert_int_equal(strategy_check(&s, NULL), DIMFIT_OK);
}

static void a_descriptor_without_its_texts_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.version = NULL;
    refused(&s, DIMFIT_ERR_PLUGIN, "strategy 'mine_2' does not say its version");
    s = sound();
    s.summary = NULL;
    refused(&s, DIMFIT_ERR_PLUGIN, "strategy 'mine_2' does not say its summary");
}

static void needs_that_nobody_meets_are_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.needs |= 1 << 7;
    refused(&s, DIMFIT_ERR_PLUGIN,
            "strategy 'mine_2' needs inputs (bits 0x80) that this dimfit does not have");
}

static void a_descriptor_without_a_plan_is_refused(void **state) {
    struct dimfit_strategy s = sound();
    s.plan = NULL;
    refused(&s, DIMFIT_ERR_PLUGIN, "strategy 'mine_2' has no plan()");
}

/* ---- folders --------------------------------------------------------------------------------- */

static int make_folder(void **state) {
    char *const folder = strdup("/tmp/dimfit-strategies-XXXXXX");
    assert_non_null(mkdtemp(folder));
    *state = folder;
    return 0;
}

static int drop_folder(void **state) {
    static const char *const files[] = {"a.so", "b.so", "c.so", "d.txt", ".so"};
    char path[128];
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", (char *)*state, files[i]);
        unlink(path);
    }
    rmdir(*state);
    free(*state);
    return 0;
}

static void put_file(const char *folder, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *const file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void put_link(const char *folder, const char *name, const char *target) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(symlink(target, path), 0);
}

static struct strategies *load(const char *folder) {
    struct strategies *all;
    assert_int_equal(strategies_load(folder, &all, NULL), DIMFIT_OK);
    return all;
}

static void a_folder_that_is_not_there_is_an_error(void **state) {
    struct strategies *all = NULL;
    struct err_detail detail;
    assert_int_equal(strategies_load("/nonexistent/strategies", &all, &detail), DIMFIT_ERR_IO);
    assert_string_equal(detail.text, "the strategies' folder /nonexistent/strategies can't be "
                                     "read: No such file or directory");
    assert_null(all);
}

static void an_empty_folder_has_no_strategies(void **state) {
    put_file(*state, "d.txt", "not looked at");
    put_file(*state, ".so", "not looked at");
    struct strategies *all = load(*state);
    assert_int_equal(strategies_count(all), 0);
    assert_int_equal(strategies_refused(all), 0);
    assert_null(strategies_find(all, "sseds"));
    strategies_destroy(&all);
    assert_null(all);
}

static void a_file_that_is_no_shared_object_is_refused(void **state) {
    char text[4096];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    put_file(*state, "a.so", text);
    put_file(*state, "b.so", "");
    struct strategies *all = load(*state);
    assert_int_equal(strategies_refused(all), 2);
    assert_string_equal(strategies_refusal(all, 0), "a.so: it can't be loaded: invalid ELF header");
    assert_string_equal(strategies_refusal(all, 1), "b.so: it can't be loaded: file too short");
    strategies_destroy(&all);
}

static void a_library_without_the_function_is_refused_and_the_others_go_on(void **state) {
    void *const libm = dlopen("libm.so.6", RTLD_NOW);
    struct link_map *map;
    assert_non_null(libm);
    assert_int_equal(dlinfo(libm, RTLD_DI_LINKMAP, &map), 0);
    put_link(*state, "a.so", map->l_name);
    put_link(*state, "b.so", STRATEGIES_BUILT "/uniform.so");
    struct strategies *all = load(*state);
    assert_int_equal(strategies_refused(all), 1);
    assert_string_equal(strategies_refusal(all, 0),
                        "a.so: it exports no function dimfit_strategy()");
    assert_int_equal(strategies_count(all), 1);
    assert_non_null(strategies_find(all, "uniform"));
    strategies_destroy(&all);
    dlclose(libm);
}

static void a_name_belongs_to_the_first_file_that_claims_it(void **state) {
    put_link(*state, "c.so", STRATEGIES_BUILT "/random.so");
    put_link(*state, "b.so", STRATEGIES_BUILT "/random.so");
    struct strategies *all = load(*state);
    assert_int_equal(strategies_count(all), 1);
    assert_int_equal(strategies_refused(all), 1);
    assert_string_equal(strategies_refusal(all, 0),
                        "c.so: the name 'random' is that of the strategy in b.so");
    strategies_destroy(&all);
}

static void the_shipped_strategies_load_in_name_order(void **state) {
    static const char *const names[] = {"auto",  "frequency", "hpo",    "magnitude",
                                        "mask",  "measured",  "random", "spectrum",
                                        "sseds", "uniform"};
    struct strategies *all = load(STRATEGIES_BUILT);
    assert_int_equal(strategies_refused(all), 0);
    assert_int_equal(strategies_count(all), ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_string_equal(strategies_at(all, i)->name, names[i]);
        assert_ptr_equal(strategies_find(all, names[i]), strategies_at(all, i));
    }
    strategies_destroy(&all);
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, drop_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_descriptor_passes),
        cmocka_unit_test(no_descriptor_is_refused),
        cmocka_unit_test(a_wrong_magic_is_refused),
        cmocka_unit_test(another_major_version_is_refused),
        cmocka_unit_test(a_newer_minor_version_is_refused),
        cmocka_unit_test(a_short_descriptor_is_refused),
        cmocka_unit_test(names_that_no_option_could_say_are_refused),
        cmocka_unit_test(a_descriptor_without_its_texts_is_refused),
        cmocka_unit_test(needs_that_nobody_meets_are_refused),
        cmocka_unit_test(a_descriptor_without_a_plan_is_refused),
        cmocka_unit_test(a_folder_that_is_not_there_is_an_error),
        FOLDER_TEST(an_empty_folder_has_no_strategies),
        FOLDER_TEST(a_file_that_is_no_shared_object_is_refused),
        FOLDER_TEST(a_library_without_the_function_is_refused_and_the_others_go_on),
        FOLDER_TEST(a_name_belongs_to_the_first_file_that_claims_it),
        cmocka_unit_test(the_shipped_strategies_load_in_name_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
