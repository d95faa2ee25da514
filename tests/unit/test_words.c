#include "server/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const char *const words[] = {"shards", "seed", "slots", "search", "score_memory"};

static void one_edit_away_is_found(void **state) {
    assert_string_equal(words_closest("shard", words, 5), "shards");
    assert_string_equal(words_closest("shardss", words, 5), "shards");
    assert_string_equal(words_closest("sead", words, 5), "seed");
    assert_string_equal(words_closest("slost", words, 5), "slots");
    assert_string_equal(words_closest("seed", words, 5), "seed");
}

static void two_edits_are_found_for_long_words_only(void **state) {
    assert_string_equal(words_closest("scoremem0ry", words, 5), "score_memory");
    assert_null(words_closest("slt", words, 5));
    assert_null(words_closest("bind", words, 5));
    assert_null(words_closest("", words, 5));
}

static void the_nearest_word_wins(void **state) {
    static const char *const near[] = {"epochs", "epoch_s", "epoch"};
    assert_string_equal(words_closest("epochss", near, 3), "epochs");
    assert_string_equal(words_closest("epoch", near, 3), "epoch");
}

static void a_word_longer_than_any_key_is_near_to_none(void **state) {
    assert_null(words_closest("shardsshardsshardsshardsshardsshardsshards", words, 5));
}

static void lists_read_as_sentences(void **state) {
    char text[32];
    assert_string_equal(words_list(words, 1, text, sizeof text), "shards");
    assert_string_equal(words_list(words, 2, text, sizeof text), "shards or seed");
    assert_string_equal(words_list(words, 3, text, sizeof text), "shards, seed or slots");
    assert_string_equal(words_list(words, 0, text, sizeof text), "");
    assert_string_equal(words_list(words, 5, text, 12), "shards, see");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_edit_away_is_found),
        cmocka_unit_test(two_edits_are_found_for_long_words_only),
        cmocka_unit_test(the_nearest_word_wins),
        cmocka_unit_test(a_word_longer_than_any_key_is_near_to_none),
        cmocka_unit_test(lists_read_as_sentences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
