#include "server/ctl/grid.h"
#include "server/ctl/heatmap.h"
#include "server/ctl/human.h"
#include "server/ctl/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text) {
    json_error_t error;
    json_t *const json = json_loads(text, 0, &error);
    if (json == NULL)
        fail_msg("%s", error.text);
    return json;
}

static char *text_of(int (*view)(const json_t *, FILE *), const char *json) {
    char *text = NULL;
    size_t len;
    json_t *const reply = parse(json);
    FILE *const out = open_memstream(&text, &len);
    assert_non_null(out);
    assert_int_equal(view(reply, out), 0);
    fclose(out);
    json_decref(reply);
    return text;
}

static void shows(int (*view)(const json_t *, FILE *), const char *json, const char *expected) {
    char *const text = text_of(view, json);
    assert_string_equal(text, expected);
    free(text);
}

static int as_csv(const json_t *reply, FILE *out) {
    view_scores_csv(reply, out);
    return 0;
}

static int as_heatmap(const json_t *reply, FILE *out) {
    heatmap_write(reply, out);
    return 0;
}

static int as_progress(const json_t *reply, FILE *out) {
    view_progress(reply, out);
    return 0;
}

static void numbers_read_as_people_write_them(void **state) {
    assert_string_equal(human_bytes(0).text, "0 B");
    assert_string_equal(human_bytes(1023).text, "1023 B");
    assert_string_equal(human_bytes(1024).text, "1.0 KiB");
    assert_string_equal(human_bytes(1024 * 1024 - 1).text, "1.0 MiB");
    assert_string_equal(human_bytes(3.5 * 1024 * 1024 * 1024).text, "3.5 GiB");
    assert_string_equal(human_count(0).text, "0");
    assert_string_equal(human_count(999).text, "999");
    assert_string_equal(human_count(1000).text, "1,000");
    assert_string_equal(human_count(-1234567).text, "-1,234,567");
    assert_string_equal(human_seconds(0.25).text, "0.25 s");
    assert_string_equal(human_seconds(9.996).text, "10 s");
    assert_string_equal(human_seconds(59.7).text, "1 min 0 s");
    assert_string_equal(human_seconds(3725).text, "1 h 2 min");
    assert_string_equal(human_seconds(100000).text, "1 d 3 h");
    assert_string_equal(human_share(1, 4).text, "25.0 %");
    assert_string_equal(human_share(1, 0).text, "-");
}

static void columns_line_up_by_characters_not_bytes(void **state) {
    char *text = NULL;
    size_t len;
    FILE *const out = open_memstream(&text, &len);
    struct grid *grid = grid_new("lrl");
    const char *const cells[] = {"A",
                                 "N",
                                 "LAST",
                                 "gr\xc3\xb6\xc3\x9f"
                                 "e",
                                 "7",
                                 "x",
                                 "b\n",
                                 "12345",
                                 ""};
    for (size_t i = 0; i < 9; i++)
        grid_cell(grid, cells[i]);
    assert_int_equal(grid_print(grid, out), 0);
    fclose(out);
    assert_string_equal(text, "A          N  LAST\n"
                              "gr\xc3\xb6\xc3\x9f"
                              "e      7  x\n"
                              "b?     12345  \n");
    grid_destroy(&grid);
    free(text);
}

static void status_names_every_shard(void **state) {
    shows(
        view_status,
        "{\"version\":\"0.1.0\",\"epoch\":3,\"phase\":\"idle\",\"shards_wanted\":2,\"slots\":26,"
        "\"uptime\":3725.4,\"shards\":["
        "{\"id\":0,\"endpoint\":\"tcp://127.0.0.1:41231\",\"pid\":4242,\"state\":\"up\","
        "\"seen_seconds_ago\":0.25},"
        "{\"id\":1,\"endpoint\":\"\",\"pid\":0,\"state\":\"missing\",\"seen_seconds_ago\":null}]}",
        "dimfit 0.1.0, up 1 h 2 min\n"
        "epoch 3, idle; 26 slots; 1 of 2 shards up\n"
        "\n"
        "SHARD  ENDPOINT                PID  STATE    SEEN\n"
        "    0  tcp://127.0.0.1:41231  4242  up       0.25 s ago\n"
        "    1                            0  missing  -\n");
}

static void stats_show_totals_and_shards(void **state) {
    shows(view_stats,
          "{\"epoch\":1,\"phase\":\"scoring\",\"layout_bytes\":2048,\"params\":16000,"
          "\"params_linear\":1000,\"totals\":{\"rows\":2000,\"value_bytes\":68000,"
          "\"state_bytes\":8000,\"counter_bytes\":8000,\"index_bytes\":65536,"
          "\"slab_bytes\":131072,\"resident_bytes\":20971520},"
          "\"shards\":[{\"id\":0,\"rows\":2000,\"value_bytes\":68000,\"resident_bytes\":20971520,"
          "\"pull_requests\":12,\"push_requests\":10,\"keys_pulled\":120000,"
          "\"keys_pushed\":100000,\"keys_scored\":0,\"refused\":0}]}",
          "epoch 1, scoring\n"
          "\n"
          "parameters                 16,000\n"
          "first-order parameters      1,000\n"
          "layout                    2.0 KiB\n"
          "rows                        2,000\n"
          "values                   66.4 KiB\n"
          "optimizer state           7.8 KiB\n"
          "counters                  7.8 KiB\n"
          "index                    64.0 KiB\n"
          "slabs allocated         128.0 KiB\n"
          "resident                 20.0 MiB\n"
          "\n"
          "SHARD   ROWS    VALUES  RESIDENT  PULLS  PUSHES  KEYS PULLED  KEYS PUSHED  SCORED  "
          "REFUSED\n"
          "    0  2,000  66.4 KiB  20.0 MiB     12      10      120,000      100,000       0  "
          "      0\n");
}

static void slots_show_width_and_optimizer(void **state) {
    shows(view_slots,
          "{\"epoch\":2,\"slots\":[{\"id\":1,\"name\":\"user\",\"dim\":16,\"width\":4,"
          "\"rows\":1234567,\"bytes\":24691340,\"search\":true,\"basis\":\"dense\","
          "\"optimizer\":\"rowwise_adagrad\",\"lr\":0.0500000007},"
          "{\"id\":900,\"name\":\"linear\",\"dim\":1,\"width\":1,\"rows\":10,\"bytes\":80,"
          "\"search\":false,\"basis\":\"axis\",\"optimizer\":\"sgd\",\"lr\":1}]}",
          "epoch 2\n"
          "\n"
          "SLOT  NAME    DIM  WIDTH       ROWS     BYTES  SEARCH  BASIS  OPTIMIZER          LR\n"
          "   1  user     16      4  1,234,567  23.5 MiB  yes     dense  rowwise_adagrad  0.05\n"
          " 900  linear    1      1         10      80 B  no      axis   sgd                 1\n");
}

static void slots_show_what_retention_does_where_a_slot_has_it(void **state) {
    shows(
        view_slots,
        "{\"epoch\":2,\"slots\":[{\"id\":1,\"name\":\"user\",\"dim\":16,\"width\":4,"
        "\"rows\":1234567,\"bytes\":24691340,\"search\":true,\"basis\":\"dense\","
        "\"optimizer\":\"rowwise_adagrad\",\"lr\":0.0500000007,\"pending\":5000,\"evicted\":0,"
        "\"clicks\":true},"
        "{\"id\":2,\"name\":\"hour\",\"dim\":1,\"width\":1,\"rows\":10,\"bytes\":80,"
        "\"search\":false,\"basis\":\"axis\",\"optimizer\":\"sgd\",\"lr\":1,\"pending\":0,"
        "\"evicted\":0,\"clicks\":false}]}",
        "epoch 2\n"
        "\n"
        "SLOT  NAME  DIM  WIDTH       ROWS     BYTES  SEARCH  BASIS  OPTIMIZER          LR  "
        "PENDING  CLICKS\n"
        "   1  user   16      4  1,234,567  23.5 MiB  yes     dense  rowwise_adagrad  0.05    "
        "5,000     yes\n"
        "   2  hour    1      1         10      80 B  no      axis   sgd                 1        "
        "0      no\n");
}

static void slots_show_tiers_where_a_slot_has_them(void **state) {
    shows(view_slots,
          "{\"epoch\":2,\"slots\":[{\"id\":1,\"name\":\"user\",\"dim\":16,\"width\":4,"
          "\"rows\":12,\"bytes\":80,\"search\":true,\"basis\":\"axis\","
          "\"optimizer\":\"sgd\",\"lr\":1,\"tiers\":[{\"shows\":0,\"width\":0},"
          "{\"shows\":10,\"width\":2},{\"shows\":100,\"width\":4}]},"
          "{\"id\":2,\"name\":\"hour\",\"dim\":1,\"width\":1,\"rows\":10,\"bytes\":80,"
          "\"search\":false,\"basis\":\"axis\",\"optimizer\":\"sgd\",\"lr\":1,"
          "\"tiers\":[{\"shows\":0,\"width\":1}]}]}",
          "epoch 2\n"
          "\n"
          "SLOT  NAME  DIM  WIDTH  ROWS  BYTES  SEARCH  BASIS  OPTIMIZER  LR  TIERS\n"
          "   1  user   16      4    12   80 B  yes     axis   sgd         1  0:0 10:2 100:4\n"
          "   2  hour    1      1    10   80 B  no      axis   sgd         1  -\n");
}

static const char shrunk[] =
    "{\"shrink\":4,\"state\":\"done\",\"day\":20000,\"seconds\":2.5,\"dry_run\":%s,"
    "\"pending_evicted\":40,\"promoted\":1200,\"demoted\":3,\"seen\":1500,\"to_see\":1500,\"rows_"
    "before\":1500,\"evicted\":250,"
    "\"rows_after\":1250,"
    "\"slots\":[{\"id\":1,\"name\":\"user\",\"expire_days\":30,\"expire_shows\":1.5,"
    "\"rows_before\":1400,\"evicted\":250,\"rows_after\":1150},"
    "{\"id\":7,\"name\":\"a\\nd\",\"expire_days\":0,\"expire_shows\":2,"
    "\"rows_before\":100,\"evicted\":0,\"rows_after\":100}],"
    "\"not_by_age\":[{\"id\":7,\"name\":\"a\\nd\"},{\"id\":9,\"name\":\"hour\"}]}";

static void a_shrink_shows_rows_before_evicted_and_after(void **state) {
    char json[1024];
    snprintf(json, sizeof json, shrunk, "false");
    shows(view_shrink, json,
          "shrink 4: done, 1,500 of 1,500 feasigns looked at (100.0 %), 250 rows gone; day 20000; "
          "2.50 s\n"
          "not by age, since no last-seen day is kept: a?d, hour\n"
          "\n"
          "SLOT  NAME    BY                  BEFORE  EVICTED  AFTER\n"
          "   1  user    30 days, 1.5 shows   1,400      250  1,150\n"
          "   7  a?d     2 shows                100        0    100\n"
          "      in all                       1,500      250  1,250\n"
          "\n"
          "1,200 rows to a higher tier, 3 to a lower one\n"
          "\n"
          "40 feasigns that waited for a row were forgotten too\n");
}

static void a_dry_run_shows_what_would_go_and_stay(void **state) {
    char json[1024];
    snprintf(json, sizeof json, shrunk, "true");
    char *const text = text_of(view_shrink, json);
    assert_non_null(strstr(text, "250 rows would go; a dry run; day 20000"));
    assert_non_null(strstr(text, "BEFORE  WOULD GO  WOULD STAY\n"));
    assert_non_null(strstr(text, " 1,400       250         900\n"));
    assert_non_null(strstr(text, "1,200 rows would go to a higher tier, 3 to a lower one\n"));
    assert_non_null(strstr(text, "40 feasigns that wait for a row would be forgotten too\n"));
    free(text);
}

static void strategies_list_refusals_with_their_reason(void **state) {
    shows(view_strategies,
          "{\"strategies\":[{\"name\":\"sseds\",\"version\":\"1.0\",\"needs\":[\"scores\"],"
          "\"summary\":\"keep what scores best\"},{\"name\":\"random\",\"version\":\"1.0\","
          "\"needs\":[],\"summary\":\"a baseline\"}],\"refused\":[\"x.so: no\\nstrategy\"]}",
          "STRATEGY  VERSION  NEEDS   SUMMARY\n"
          "sseds     1.0      scores  keep what scores best\n"
          "random    1.0      -       a baseline\n"
          "\n"
          "refused:\n"
          "  x.so: no?strategy\n");
}

static const char scores[] =
    "{\"epoch\":1,\"strategy\":\"sseds\",\"estimator\":\"step\",\"samples\":65536,\"slots\":["
    "{\"id\":1,\"name\":\"a,\\\"b\\\"\",\"tier\":0,\"rows\":1000,\"g\":[3,-1],\"s\":[0.6,0.2]},"
    "{\"id\":2,\"name\":\"<hour>\",\"tier\":1,\"rows\":24,\"g\":[1],\"s\":[0.2]}]}";

static void scores_show_each_slots_share(void **state) {
    shows(view_scores, scores,
          "epoch 1, estimator step, 65,536 samples\n"
          "\n"
          "SLOT  NAME       ROWS  WIDTH   SHARE  BEST UNIT  WORST UNIT\n"
          "   1  a,\"b\"     1,000      2  80.0 %     60.0 %      20.0 %\n"
          "   2  <hour>/1     24      1  20.0 %     20.0 %      20.0 %\n");
}

static void csv_quotes_what_needs_it_and_keeps_every_digit(void **state) {
    shows(as_csv, scores,
          "slot,name,tier,rows,dim,g,s\n"
          "1,\"a,\"\"b\"\"\",0,1000,0,3,0.59999999999999998\n"
          "1,\"a,\"\"b\"\"\",0,1000,1,-1,0.20000000000000001\n"
          "2,<hour>,1,24,0,1,0.20000000000000001\n");
}

static void search_status_tells_phase_request_and_outcome(void **state) {
    shows(view_search,
          "{\"search\":3,\"phase\":\"committed\",\"mode\":\"live\",\"samples\":65536,"
          "\"samples_wanted\":65536,\"steps\":128,\"request\":{\"kappa\":0.25,"
          "\"strategy\":\"sseds\",\"estimator\":\"step\",\"basis\":\"rotated\","
          "\"count\":\"params\",\"rank\":\"score\"},\"epoch\":2,\"error\":null,"
          "\"seconds\":{\"scoring\":3.5,\"planning\":0.02,\"apply\":1},\"params_before\":16000,"
          "\"params_after\":4000}",
          "search 3: committed; epoch 2; mode live\n"
          "asked for: kappa 0.25, strategy sseds, estimator step, basis rotated, count params, "
          "rank score\n"
          "scored: 65,536 samples in 128 steps\n"
          "parameters: 16,000 -> 4,000 (25.0 %)\n"
          "took: scoring 3.50 s, planning 0.02 s, apply 1.00 s\n");
    shows(view_search,
          "{\"search\":4,\"phase\":\"aborted\",\"epoch\":2,\"error\":\"no scorer\\u0007\"}",
          "search 4: aborted; epoch 2\n"
          "error: no scorer?\n");
}

static void progress_counts_samples_while_scoring(void **state) {
    shows(as_progress,
          "{\"search\":3,\"phase\":\"scoring\",\"samples\":12000,\"samples_wanted\":65536}",
          "search 3: scoring, 12,000 of 65,536 samples (18.3 %)");
    shows(as_progress, "{\"search\":3,\"phase\":\"scoring\",\"samples\":5,\"samples_wanted\":0}",
          "search 3: scoring, 5 samples");
    shows(as_progress, "{\"search\":3,\"phase\":\"preparing\"}", "search 3: preparing");
    shows(as_progress,
          "{\"search\":3,\"phase\":\"scoring\",\"samples\":12000,\"samples_wanted\":65536,"
          "\"samples_per_second\":4000.4,\"seconds_left\":13.5}",
          "search 3: scoring, 12,000 of 65,536 samples (18.3 %), 4,000/s, 14 s left");
    shows(as_progress, "{\"search\":3,\"phase\":\"preparing\",\"waiting\":\"waiting for 7 rows\"}",
          "search 3: preparing, waiting for 7 rows");
}

static void kept_plans_and_dry_runs_are_tables(void **state) {
    shows(view_plans,
          "{\"epoch\":1,\"plans\":[{\"plan\":1,\"state\":\"rolled back\",\"strategy\":\"sseds\","
          "\"basis\":\"axis\",\"kappa\":0.5,\"epoch\":0,\"params_before\":2100,"
          "\"params_after\":1100,\"kept_score\":0.75},{\"plan\":12}]}",
          "epoch 1\n"
          "\n"
          "PLAN  STATE        STRATEGY  BASIS  KAPPA  EPOCH  PARAMETERS  AFTER  SCORE KEPT\n"
          "   1  rolled back  sseds     axis     0.5      0       2,100  1,100      75.0 %\n"
          "  12  -            -         -          -      -           -      -           -\n");
    shows(view_dry_run,
          "{\"dry_run\":true,\"step\":\"apply\",\"search\":3,\"epoch\":1,\"to_epoch\":2,"
          "\"shards\":4,\"layout_bytes\":512,\"slots\":[{\"id\":1,\"name\":\"user\",\"before\":8,"
          "\"after\":4}]}",
          "search 3: a dry run of its apply: all 4 shards could; nothing was changed\n"
          "epoch 1 -> 2; layout: 512 B\n"
          "\n"
          "SLOT  NAME  BEFORE  AFTER\n"
          "   1  user       8      4\n");
}

static const char plan[] =
    "{\"search\":1,\"phase\":\"planned\",\"epoch\":0,\"to_epoch\":1,\"strategy\":\"sseds\","
    "\"estimator\":\"step\",\"basis\":\"rotated\",\"count\":\"dims\",\"rank\":\"score\","
    "\"kappa\":0.5,\"samples\":512,\"cost_before\":4,\"cost_after\":2,\"params_before\":2100,"
    "\"params_after\":1100,\"kept_score\":0.75,\"layout_bytes\":512,\"slots\":["
    "{\"id\":1,\"name\":\"user\",\"rows\":1000,\"dim\":2,\"before\":2,\"after\":1,"
    "\"bytes_before\":12000,\"bytes_after\":8000,\"score\":0.75,\"g\":[6,1.5],\"s\":[0.6,0.15],"
    "\"keep\":[1,0],\"eigenvalues\":null},"
    "{\"id\":2,\"name\":\"hour\",\"rows\":50,\"dim\":2,\"before\":2,\"after\":1,"
    "\"bytes_before\":600,\"bytes_after\":400,\"score\":0.25,\"g\":[1.5,1],\"s\":[0.15,0.1],"
    "\"keep\":[1,0],\"eigenvalues\":null}]}";

static void a_plan_shows_widths_and_what_is_kept(void **state) {
    shows(view_plan, plan,
          "search 1: planned; epoch 0 -> 1\n"
          "asked for: kappa 0.5, strategy sseds, estimator step, basis rotated, count dims, rank "
          "score\n"
          "parameters: 2,100 -> 1,100 (52.4 %)\n"
          "dimensions: 4 -> 2\n"
          "score kept: 75.0 %, from 512 samples; layout: 512 B\n"
          "\n"
          "SLOT  NAME   ROWS  DIM  BEFORE  AFTER     BYTES  BYTES AFTER   SCORE    KEPT\n"
          "   1  user  1,000    2       2      1  11.7 KiB      7.8 KiB  75.0 %  80.0 %\n"
          "   2  hour     50    2       2      1     600 B        400 B  25.0 %  60.0 %\n");
}

static void missing_fields_are_shown_as_such(void **state) {
    shows(view_status, "{}",
          "dimfit -, up -\nepoch -, -; - slots; 0 of - shards up\n\nSHARD  ENDPOINT  PID  STATE  "
          "SEEN\n");
    free(text_of(view_stats, "{}"));
    free(text_of(view_slots, "{\"slots\":[{}]}"));
    free(text_of(view_scores, "{\"slots\":[{\"s\":[]}, {}]}"));
    free(text_of(view_search, "{}"));
    free(text_of(view_shrink, "{}"));
    free(text_of(view_shrink, "{\"state\":\"done\",\"slots\":[{}],\"not_by_age\":[1]}"));
    free(text_of(view_plan, "{\"slots\":[{}]}"));
    free(text_of(view_plans, "{\"plans\":[1]}"));
    free(text_of(view_dry_run, "{}"));
    free(text_of(view_strategies, "{\"refused\":[1]}"));
    free(text_of(as_csv, "{}"));
    free(text_of(as_heatmap, "{}"));
    free(text_of(as_heatmap, "{\"slots\":[{},{\"s\":[0]}]}"));
}

static size_t occurrences(const char *text, const char *word) {
    size_t n = 0;
    while ((text = strstr(text, word)) != NULL) {
        n++;
        text += strlen(word);
    }
    return n;
}

static void the_heat_map_has_a_cell_a_unit_and_escapes_names(void **state) {
    char *const text = text_of(as_heatmap, scores);
    assert_int_equal(occurrences(text, "<title>"), 3);
    assert_non_null(strstr(text, "<title>&lt;hour&gt;, unit 0: s 20 %, g 1</title>"));
    assert_non_null(strstr(text, "a,&quot;b&quot;"));
    assert_non_null(strstr(text, "epoch 1, strategy sseds, estimator step, 65,536 samples"));
    assert_null(strstr(text, "dropped"));
    assert_null(strstr(text, "<hour>"));
    free(text);
}

static void the_heat_map_of_a_plan_marks_dropped_units(void **state) {
    char *const text = text_of(as_heatmap, plan);
    assert_int_equal(occurrences(text, ", dropped</title>"), 2);
    assert_int_equal(occurrences(text, ", kept</title>"), 2);
    assert_int_equal(occurrences(text, "2 \xe2\x86\x92 1"), 2);
    assert_non_null(strstr(text, "kappa 0.5"));
    free(text);
}

static void the_largest_score_has_the_last_colour_and_zero_the_first(void **state) {
    char *const text = text_of(as_heatmap, "{\"slots\":[{\"name\":\"x\",\"s\":[1,0]}]}");
    assert_non_null(strstr(text, "fill=\"#fde725\"/><title>x, unit 0"));
    assert_non_null(strstr(text, "fill=\"#440154\"/><title>x, unit 1"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_read_as_people_write_them),
        cmocka_unit_test(columns_line_up_by_characters_not_bytes),
        cmocka_unit_test(status_names_every_shard),
        cmocka_unit_test(stats_show_totals_and_shards),
        cmocka_unit_test(slots_show_width_and_optimizer),
        cmocka_unit_test(slots_show_tiers_where_a_slot_has_them),
        cmocka_unit_test(slots_show_what_retention_does_where_a_slot_has_it),
        cmocka_unit_test(a_shrink_shows_rows_before_evicted_and_after),
        cmocka_unit_test(a_dry_run_shows_what_would_go_and_stay),
        cmocka_unit_test(strategies_list_refusals_with_their_reason),
        cmocka_unit_test(scores_show_each_slots_share),
        cmocka_unit_test(csv_quotes_what_needs_it_and_keeps_every_digit),
        cmocka_unit_test(search_status_tells_phase_request_and_outcome),
        cmocka_unit_test(progress_counts_samples_while_scoring),
        cmocka_unit_test(kept_plans_and_dry_runs_are_tables),
        cmocka_unit_test(a_plan_shows_widths_and_what_is_kept),
        cmocka_unit_test(missing_fields_are_shown_as_such),
        cmocka_unit_test(the_heat_map_has_a_cell_a_unit_and_escapes_names),
        cmocka_unit_test(the_heat_map_of_a_plan_marks_dropped_units),
        cmocka_unit_test(the_largest_score_has_the_last_colour_and_zero_the_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
