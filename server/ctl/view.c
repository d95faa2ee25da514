#include "server/ctl/view.h"

#include "server/ctl/grid.h"
#include "server/ctl/human.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static void row(struct grid *grid, const char *const *cells, size_t n) {
    for (size_t i = 0; i < n; i++)
        grid_cell(grid, cells[i]);
}

#define ROW(grid, ...)                                                                             \
    row(grid, (const char *const[]){__VA_ARGS__},                                                  \
        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static int finish(struct grid *grid, FILE *out) {
    const int failed = grid_print(grid, out);
    grid_destroy(&grid);
    return failed;
}

static struct human cell_share(double v) {
    return isnan(v) ? (struct human){"-"} : human_share(v, 1);
}

/* A number as it is: ids, process numbers, rates. */
static struct human cell_plain(const json_t *object, const char *key) {
    struct human out = {"-"};
    const double v = get_number(object, key, NAN);
    if (!isnan(v))
        snprintf(out.text, sizeof out.text, v == floor(v) && fabs(v) < 1e15 ? "%.0f" : "%.6g", v);
    return out;
}

static double sum_of(const json_t *list) {
    double sum = 0;
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) {
        sum += json_number_value(v);
    }
    return sum;
}

/* "name" or "name/2" for a tier of a slot that has several. */
static void slot_label(const json_t *slot, char *out, size_t cap) {
    const double tier = get_number(slot, "tier", 0);
    const char *const name = get_text(slot, "name", "-");
    if (tier > 0)
        snprintf(out, cap, "%s/%.0f", name, tier);
    else
        snprintf(out, cap, "%s", name);
}

static size_t count_up(const json_t *shards) {
    const json_t *shard;
    size_t i, n = 0;
    json_array_foreach(shards, i, shard) {
        n += strcmp(get_text(shard, "state", ""), "up") == 0;
    }
    return n;
}

int view_status(const json_t *reply, FILE *out) {
    const json_t *const shards = json_object_get(reply, "shards");
    const json_t *shard;
    size_t i;
    const double uptime = get_number(reply, "uptime", NAN);
    fprintf(out, "dimfit %s, up %s\n", get_text(reply, "version", "-"),
            isnan(uptime) ? "-" : human_seconds(uptime).text);
    fprintf(out, "epoch %s, %s; %s slots; %zu of %s shards up\n\n", cell_count(reply, "epoch").text,
            get_text(reply, "phase", "-"), cell_count(reply, "slots").text, count_up(shards),
            cell_count(reply, "shards_wanted").text);

    struct grid *const grid = grid_new("rlrll");
    ROW(grid, "SHARD", "ENDPOINT", "PID", "STATE", "SEEN");
    json_array_foreach(shards, i, shard) {
        const double seen = get_number(shard, "seen_seconds_ago", NAN);
        char ago[64] = "-";
        if (!isnan(seen))
            snprintf(ago, sizeof ago, "%s ago", human_seconds(seen).text);
        ROW(grid, cell_plain(shard, "id").text, get_text(shard, "endpoint", "-"),
            cell_plain(shard, "pid").text, get_text(shard, "state", "-"), ago);
    }
    return finish(grid, out);
}

static int view_totals(const json_t *reply, FILE *out) {
    static const struct {
        const char *label, *key;
        struct human (*cell)(const json_t *, const char *);
    } lines[] = {
        {"rows", "rows", cell_count},
        {"values", "value_bytes", cell_bytes},
        {"optimizer state", "state_bytes", cell_bytes},
        {"counters", "counter_bytes", cell_bytes},
        {"index", "index_bytes", cell_bytes},
        {"slabs allocated", "slab_bytes", cell_bytes},
        {"resident", "resident_bytes", cell_bytes},
    };
    const json_t *const totals = json_object_get(reply, "totals");
    struct grid *const grid = grid_new("lr");
    ROW(grid, "parameters", cell_count(reply, "params").text);
    ROW(grid, "first-order parameters", cell_count(reply, "params_linear").text);
    ROW(grid, "layout", cell_bytes(reply, "layout_bytes").text);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        ROW(grid, lines[i].label, lines[i].cell(totals, lines[i].key).text);
    if (get_number(totals, "moving_rows", 0) > 0)
        ROW(grid, "rows yet to move", cell_count(totals, "moving_rows").text);
    if (get_number(totals, "saved_bytes", 0) > 0)
        ROW(grid, "saved to roll back", cell_bytes(totals, "saved_bytes").text);
    if (get_number(totals, "pending", 0) > 0)
        ROW(grid, "feasigns waiting for a row", cell_count(totals, "pending").text);
    if (get_number(totals, "evicted", 0) > 0)
        ROW(grid, "rows evicted", cell_count(totals, "evicted").text);
    return finish(grid, out);
}

int view_stats(const json_t *reply, FILE *out) {
    const json_t *shard;
    size_t i;
    fprintf(out, "epoch %s, %s\n\n", cell_count(reply, "epoch").text,
            get_text(reply, "phase", "-"));
    if (view_totals(reply, out) != 0)
        return -1;
    fputc('\n', out);

    struct grid *const grid = grid_new("rrrrrrrrrr");
    ROW(grid, "SHARD", "ROWS", "VALUES", "RESIDENT", "PULLS", "PUSHES", "KEYS PULLED",
        "KEYS PUSHED", "SCORED", "REFUSED");
    json_array_foreach(json_object_get(reply, "shards"), i, shard) {
        ROW(grid, cell_plain(shard, "id").text, cell_count(shard, "rows").text,
            cell_bytes(shard, "value_bytes").text, cell_bytes(shard, "resident_bytes").text,
            cell_count(shard, "pull_requests").text, cell_count(shard, "push_requests").text,
            cell_count(shard, "keys_pulled").text, cell_count(shard, "keys_pushed").text,
            cell_count(shard, "keys_scored").text, cell_count(shard, "refused").text);
    }
    return finish(grid, out);
}

static const char *yes_or_no(const json_t *v) {
    return json_is_true(v) ? "yes" : json_is_false(v) ? "no" : "-";
}

/* What only slots of some settings have is a column when one of them has it. */
struct extra_column {
    const char *heading, *key;
    bool shown;
};

static size_t choose_columns(const json_t *slots, struct extra_column *columns, size_t n) {
    const json_t *slot;
    size_t i, shown = 0;
    for (size_t k = 0; k < n; k++) {
        json_array_foreach(slots, i, slot) {
            const json_t *const v = json_object_get(slot, columns[k].key);
            columns[k].shown |= json_is_true(v) || json_number_value(v) > 0;
        }
        shown += columns[k].shown;
    }
    return shown;
}

/* Where tiers of rows begin, and how wide each is: "0:4 10:8 100:16". */
static const char *tiers_text(const json_t *slot, char *out, size_t cap) {
    const json_t *const tiers = json_object_get(slot, "tiers"), *tier;
    size_t i, used = 0;
    snprintf(out, cap, "-");
    json_array_foreach(tiers, i, tier) {
        if (json_array_size(tiers) > 1 && used < cap)
            used += (size_t)snprintf(out + used, cap - used, "%s%.0f:%.0f", i == 0 ? "" : " ",
                                     get_number(tier, "shows", 0), get_number(tier, "width", 0));
    }
    return out;
}

static bool any_tiers(const json_t *slots) {
    const json_t *slot;
    size_t i;
    json_array_foreach(slots, i, slot) {
        if (json_array_size(json_object_get(slot, "tiers")) > 1)
            return true;
    }
    return false;
}

int view_slots(const json_t *reply, FILE *out) {
    struct extra_column extra[] = {
        {"PENDING", "pending", false}, {"EVICTED", "evicted", false}, {"CLICKS", "clicks", false}};
    const size_t n_extra = sizeof extra / sizeof *extra;
    const json_t *const slots = json_object_get(reply, "slots"), *slot;
    const bool tiers = any_tiers(slots);
    size_t i;
    char columns[] = "rlrrrrlllrrrrr", text[128];
    size_t n_columns = sizeof columns - 2 - n_extra + choose_columns(slots, extra, n_extra);
    if (tiers)
        columns[n_columns++] = 'l';
    columns[n_columns] = 0;
    fprintf(out, "epoch %s\n\n", cell_count(reply, "epoch").text);
    struct grid *const grid = grid_new(columns);
    ROW(grid, "SLOT", "NAME", "DIM", "WIDTH", "ROWS", "BYTES", "SEARCH", "BASIS", "OPTIMIZER",
        "LR");
    for (size_t k = 0; k < n_extra; k++) {
        if (extra[k].shown)
            grid_cell(grid, extra[k].heading);
    }
    if (tiers)
        grid_cell(grid, "TIERS");
    json_array_foreach(slots, i, slot) {
        ROW(grid, cell_plain(slot, "id").text, get_text(slot, "name", "-"),
            cell_count(slot, "dim").text, cell_count(slot, "width").text,
            cell_count(slot, "rows").text, cell_bytes(slot, "bytes").text,
            yes_or_no(json_object_get(slot, "search")), get_text(slot, "basis", "-"),
            get_text(slot, "optimizer", "-"), cell_plain(slot, "lr").text);
        for (size_t k = 0; k < n_extra; k++) {
            const json_t *const v = json_object_get(slot, extra[k].key);
            if (extra[k].shown)
                grid_cell(grid,
                          json_is_number(v) ? cell_count(slot, extra[k].key).text : yes_or_no(v));
        }
        if (tiers)
            grid_cell(grid, tiers_text(slot, text, sizeof text));
    }
    return finish(grid, out);
}

/* The words of a list of texts, commas between. */
static void join(const json_t *list, char *out, size_t cap) {
    const json_t *v;
    size_t i, used = 0;
    snprintf(out, cap, "-");
    json_array_foreach(list, i, v) {
        const char *const word = json_string_value(v);
        if (word != NULL && used < cap)
            used += (size_t)snprintf(out + used, cap - used, "%s%s", used == 0 ? "" : ", ", word);
    }
}

int view_strategies(const json_t *reply, FILE *out) {
    const json_t *const refused = json_object_get(reply, "refused"), *strategy, *text;
    size_t i;
    struct grid *const grid = grid_new("llll");
    ROW(grid, "STRATEGY", "VERSION", "NEEDS", "SUMMARY");
    json_array_foreach(json_object_get(reply, "strategies"), i, strategy) {
        char needs[96];
        join(json_object_get(strategy, "needs"), needs, sizeof needs);
        ROW(grid, get_text(strategy, "name", "-"), get_text(strategy, "version", "-"), needs,
            get_text(strategy, "summary", "-"));
    }
    if (finish(grid, out) != 0)
        return -1;
    if (json_array_size(refused) > 0)
        fputs("\nrefused:\n", out);
    json_array_foreach(refused, i, text) {
        fputs("  ", out);
        print_clean(json_is_string(text) ? json_string_value(text) : "-", out);
        fputc('\n', out);
    }
    return 0;
}

int view_scores(const json_t *reply, FILE *out) {
    const json_t *slot;
    size_t i;
    fprintf(out, "epoch %s, estimator %s, %s samples\n\n", cell_count(reply, "epoch").text,
            get_text(reply, "estimator", "-"), cell_count(reply, "samples").text);
    struct grid *const grid = grid_new("rlrrrrr");
    ROW(grid, "SLOT", "NAME", "ROWS", "WIDTH", "SHARE", "BEST UNIT", "WORST UNIT");
    json_array_foreach(json_object_get(reply, "slots"), i, slot) {
        const json_t *const s = json_object_get(slot, "s"), *v;
        double least = NAN, most = NAN;
        char name[128];
        size_t k;
        json_array_foreach(s, k, v) {
            const double this = json_number_value(v);
            least = isnan(least) || this < least ? this : least;
            most = isnan(most) || this > most ? this : most;
        }
        slot_label(slot, name, sizeof name);
        ROW(grid, cell_plain(slot, "id").text, name, cell_count(slot, "rows").text,
            human_count((double)json_array_size(s)).text, cell_share(sum_of(s)).text,
            cell_share(most).text, cell_share(least).text);
    }
    return finish(grid, out);
}

/* RFC 4180: a name with a comma, quote or line break is quoted, quotes doubled. */
static void print_csv_text(const char *text, FILE *out) {
    if (strpbrk(text, ",\"\r\n") == NULL) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

void view_scores_csv(const json_t *reply, FILE *out) {
    const json_t *slot, *v;
    size_t i, k;
    fputs("slot,name,tier,rows,dim,g,s\n", out);
    json_array_foreach(json_object_get(reply, "slots"), i, slot) {
        const json_t *const g = json_object_get(slot, "g");
        json_array_foreach(json_object_get(slot, "s"), k, v) {
            fprintf(out, "%.0f,", get_number(slot, "id", 0));
            print_csv_text(get_text(slot, "name", ""), out);
            fprintf(out, ",%.0f,%.0f,%zu,%.17g,%.17g\n", get_number(slot, "tier", 0),
                    get_number(slot, "rows", 0), k, json_number_value(json_array_get(g, k)),
                    json_number_value(v));
        }
    }
}

static void print_trials(const json_t *trials, FILE *out) {
    const double left = get_number(trials, "seconds_left", NAN);
    if (!json_is_object(trials))
        return;
    fprintf(out, ", %s of %s trials", cell_count(trials, "done").text,
            cell_count(trials, "asked").text);
    if (!isnan(left))
        fprintf(out, ", %s left", human_seconds(left).text);
}

void view_progress(const json_t *reply, FILE *out) {
    const double wanted = get_number(reply, "samples_wanted", 0);
    const double rate = get_number(reply, "samples_per_second", 0);
    const double left = get_number(reply, "seconds_left", NAN);
    const char *const waiting = get_text(reply, "waiting", NULL);
    fprintf(out, "search %s: %s", cell_plain(reply, "search").text, get_text(reply, "phase", "-"));
    if (waiting != NULL) {
        fputs(", ", out);
        print_clean(waiting, out);
    }
    if (strcmp(get_text(reply, "phase", ""), "planning") == 0)
        print_trials(json_object_get(reply, "trials"), out);
    if (strcmp(get_text(reply, "phase", ""), "scoring") != 0)
        return;
    fprintf(out, ", %s", cell_count(reply, "samples").text);
    if (wanted > 0)
        fprintf(out, " of %s", human_count(wanted).text);
    fputs(" samples", out);
    if (wanted > 0)
        fprintf(out, " (%s)", human_share(get_number(reply, "samples", 0), wanted).text);
    if (rate > 0)
        fprintf(out, ", %s/s", human_count(floor(rate + 0.5)).text);
    if (!isnan(left))
        fprintf(out, ", %s left", human_seconds(left).text);
}

static void print_request(const json_t *request, FILE *out) {
    static const char *const words[] = {"strategy", "estimator", "basis", "count", "rank"};
    fprintf(out, "asked for: kappa %s", cell_plain(request, "kappa").text);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *const word = get_text(request, words[i], NULL);
        if (word != NULL)
            fprintf(out, ", %s %s", words[i], word);
    }
    fputc('\n', out);
}

static void print_seconds(const json_t *seconds, FILE *out) {
    static const char *const words[] = {"scoring", "planning", "apply"};
    const char *join_with = "took: ";
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const double s = get_number(seconds, words[i], NAN);
        if (isnan(s))
            continue;
        fprintf(out, "%s%s %s", join_with, words[i], human_seconds(s).text);
        join_with = ", ";
    }
    if (join_with[0] == ',')
        fputc('\n', out);
}

int view_search(const json_t *reply, FILE *out) {
    const char *const error = get_text(reply, "error", NULL);
    const double before = get_number(reply, "params_before", 0);
    view_progress(reply, out);
    fprintf(out, "; epoch %s", cell_count(reply, "epoch").text);
    if (get_text(reply, "mode", NULL) != NULL)
        fprintf(out, "; mode %s", get_text(reply, "mode", "-"));
    fputc('\n', out);
    if (json_is_object(json_object_get(reply, "request")))
        print_request(json_object_get(reply, "request"), out);
    if (get_number(reply, "steps", 0) > 0)
        fprintf(out, "scored: %s samples in %s steps\n", cell_count(reply, "samples").text,
                cell_count(reply, "steps").text);
    if (before > 0) {
        const double after = get_number(reply, "params_after", 0);
        fprintf(out, "parameters: %s -> %s (%s)\n", human_count(before).text,
                human_count(after).text, human_share(after, before).text);
    }
    print_seconds(json_object_get(reply, "seconds"), out);
    if (get_number(reply, "moving_rows", 0) > 0)
        fprintf(out, "rows still to move: %s\n", cell_count(reply, "moving_rows").text);
    if (json_is_object(json_object_get(reply, "saved")))
        fprintf(out, "can be rolled back to the layout of epoch %s\n",
                cell_count(json_object_get(reply, "saved"), "epoch").text);
    if (error != NULL) {
        fputs("error: ", out);
        print_clean(error, out);
        fputc('\n', out);
    }
    return 0;
}

static void print_plan_head(const json_t *reply, FILE *out) {
    const double before = get_number(reply, "params_before", 0);
    const double after = get_number(reply, "params_after", 0);
    fprintf(out, "search %s: %s; epoch %s -> %s\n", cell_plain(reply, "search").text,
            get_text(reply, "phase", "-"), cell_count(reply, "epoch").text,
            cell_count(reply, "to_epoch").text);
    print_request(reply, out);
    fprintf(out, "parameters: %s -> %s (%s)\n", human_count(before).text, human_count(after).text,
            human_share(after, before).text);
    if (strcmp(get_text(reply, "count", "params"), "params") != 0)
        fprintf(out, "dimensions: %s -> %s\n", cell_count(reply, "cost_before").text,
                cell_count(reply, "cost_after").text);
    fprintf(out, "score kept: %s, from %s samples; layout: %s\n\n",
            cell_share(get_number(reply, "kept_score", NAN)).text,
            cell_count(reply, "samples").text, cell_bytes(reply, "layout_bytes").text);
}

/* What the strategy tried, and what each costs. */
static int print_candidates(const json_t *candidates, FILE *out) {
    const json_t *c;
    size_t i;
    if (json_array_size(candidates) == 0)
        return 0;
    struct grid *const grid = grid_new("lllllrrrl");
    ROW(grid, "TRIED", "BASIS", "ESTIMATOR", "RANK", "OPTIONS", "LOSS ADDED", "ERROR", "AUC", "");
    json_array_foreach(candidates, i, c) {
        const bool chosen = json_is_true(json_object_get(c, "chosen"));
        ROW(grid, get_text(c, "strategy", "-"), get_text(c, "basis", "-"),
            get_text(c, "estimator", "-"), get_text(c, "rank", "-"), get_text(c, "options", "-"),
            cell_plain(c, "loss_added").text, cell_plain(c, "error").text,
            cell_plain(c, "auc").text, chosen ? "<- chosen" : get_text(c, "why", ""));
    }
    const int failed = finish(grid, out);
    fputc('\n', out);
    return failed;
}

int view_compare(const json_t *reply, FILE *out) {
    const json_t *s;
    size_t i;
    struct grid *const grid = grid_new("lrrrr");
    ROW(grid, "STRATEGY", "SECONDS", "SCORING", "PLANNING", "TRIALS");
    json_array_foreach(json_object_get(reply, "strategies"), i, s) {
        ROW(grid, get_text(s, "strategy", "-"), cell_plain(s, "seconds").text,
            cell_plain(s, "seconds_scoring").text, cell_plain(s, "seconds_planning").text,
            cell_count(json_object_get(s, "trials"), "done").text);
    }
    const int failed = finish(grid, out);
    fprintf(out, "\n%s units: rank correlation %s (Spearman), %s (Kendall); time ratio %s\n",
            cell_count(reply, "units").text, cell_plain(reply, "spearman").text,
            cell_plain(reply, "kendall").text, cell_plain(reply, "ratio").text);
    return failed;
}

int view_plan(const json_t *reply, FILE *out) {
    const json_t *slot;
    size_t i;
    print_plan_head(reply, out);
    if (print_candidates(json_object_get(reply, "candidates"), out) != 0)
        return -1;
    struct grid *const grid = grid_new("rlrrrrrrrr");
    ROW(grid, "SLOT", "NAME", "ROWS", "DIM", "BEFORE", "AFTER", "BYTES", "BYTES AFTER", "SCORE",
        "KEPT");
    json_array_foreach(json_object_get(reply, "slots"), i, slot) {
        const json_t *const keep = json_object_get(slot, "keep"), *v;
        double kept = 0;
        size_t k;
        json_array_foreach(json_object_get(slot, "s"), k, v) {
            kept += json_integer_value(json_array_get(keep, k)) != 0 ? json_number_value(v) : 0;
        }
        ROW(grid, cell_plain(slot, "id").text, get_text(slot, "name", "-"),
            cell_count(slot, "rows").text, cell_count(slot, "dim").text,
            cell_count(slot, "before").text, cell_count(slot, "after").text,
            cell_bytes(slot, "bytes_before").text, cell_bytes(slot, "bytes_after").text,
            cell_share(get_number(slot, "score", NAN)).text,
            human_share(kept, get_number(slot, "score", 0)).text);
    }
    return finish(grid, out);
}

int view_plans(const json_t *reply, FILE *out) {
    const json_t *plan;
    size_t i;
    fprintf(out, "epoch %s\n\n", cell_count(reply, "epoch").text);
    struct grid *const grid = grid_new("rlllrrrrr");
    ROW(grid, "PLAN", "STATE", "STRATEGY", "BASIS", "KAPPA", "EPOCH", "PARAMETERS", "AFTER",
        "SCORE KEPT");
    json_array_foreach(json_object_get(reply, "plans"), i, plan) {
        ROW(grid, cell_plain(plan, "plan").text, get_text(plan, "state", "-"),
            get_text(plan, "strategy", "-"), get_text(plan, "basis", "-"),
            cell_plain(plan, "kappa").text, cell_count(plan, "epoch").text,
            cell_count(plan, "params_before").text, cell_count(plan, "params_after").text,
            cell_share(get_number(plan, "kept_score", NAN)).text);
    }
    return finish(grid, out);
}

int view_dry_run(const json_t *reply, FILE *out) {
    const json_t *slot;
    size_t i;
    fprintf(out,
            "search %s: a dry run of its %s: all %s shards could; nothing was changed\n"
            "epoch %s -> %s; layout: %s\n\n",
            cell_plain(reply, "search").text, get_text(reply, "step", "-"),
            cell_count(reply, "shards").text, cell_count(reply, "epoch").text,
            cell_count(reply, "to_epoch").text, cell_bytes(reply, "layout_bytes").text);
    struct grid *const grid = grid_new("rlrr");
    ROW(grid, "SLOT", "NAME", "BEFORE", "AFTER");
    json_array_foreach(json_object_get(reply, "slots"), i, slot) {
        ROW(grid, cell_plain(slot, "id").text, get_text(slot, "name", "-"),
            cell_count(slot, "before").text, cell_count(slot, "after").text);
    }
    return finish(grid, out);
}

/* ---- shrink ---------------------------------------------------------------------------------- */

void view_shrink_progress(const json_t *reply, FILE *out) {
    const double seen = get_number(reply, "seen", 0), all = get_number(reply, "to_see", 0);
    fprintf(out, "shrink %s: %s", cell_plain(reply, "shrink").text, get_text(reply, "state", "-"));
    if (all > 0)
        fprintf(out, ", %s of %s feasigns looked at (%s), %s rows %s", human_count(seen).text,
                human_count(all).text, human_share(seen < all ? seen : all, all).text,
                cell_count(reply, "evicted").text,
                json_is_true(json_object_get(reply, "dry_run")) ? "would go" : "gone");
}

/* "30 days", "2 shows" or both. */
static void print_thresholds(const json_t *slot, char *out, size_t cap) {
    const double days = get_number(slot, "expire_days", 0);
    const double shows = get_number(slot, "expire_shows", 0);
    char age[48] = "", count[48] = "";
    if (days > 0)
        snprintf(age, sizeof age, "%.0f days", days);
    if (shows > 0)
        snprintf(count, sizeof count, "%g shows", shows);
    snprintf(out, cap, "%s%s%s", age, days > 0 && shows > 0 ? ", " : "", count);
}

static void print_ageless(const json_t *slots, FILE *out) {
    const json_t *slot;
    size_t i;
    if (json_array_size(slots) == 0)
        return;
    fputs("not by age, since no last-seen day is kept:", out);
    json_array_foreach(slots, i, slot) {
        fputs(i == 0 ? " " : ", ", out);
        print_clean(get_text(slot, "name", "-"), out);
    }
    fputc('\n', out);
}

static struct human cell_after(const json_t *object, bool dry_run) {
    const double after = get_number(object, "rows_after", NAN);
    return isnan(after) ? (struct human){"-"}
                        : human_count(after - (dry_run ? get_number(object, "evicted", 0) : 0));
}

int view_shrink(const json_t *reply, FILE *out) {
    const json_t *const slots = json_object_get(reply, "slots"), *slot;
    const bool dry_run = json_is_true(json_object_get(reply, "dry_run"));
    size_t i;
    if (strcmp(get_text(reply, "state", "none"), "none") == 0)
        return fputs("no shrink since the coordinator started\n", out) < 0 ? -1 : 0;
    view_shrink_progress(reply, out);
    fprintf(out, "%s; day %s; %s\n", dry_run ? "; a dry run" : "", cell_plain(reply, "day").text,
            human_seconds(get_number(reply, "seconds", 0)).text);
    if (get_text(reply, "error", NULL) != NULL) {
        fputs("error: ", out);
        print_clean(get_text(reply, "error", "-"), out);
        fputc('\n', out);
    }
    print_ageless(json_object_get(reply, "not_by_age"), out);
    fputc('\n', out);

    struct grid *const grid = grid_new("rllrrr");
    ROW(grid, "SLOT", "NAME", "BY", "BEFORE", dry_run ? "WOULD GO" : "EVICTED",
        dry_run ? "WOULD STAY" : "AFTER");
    json_array_foreach(slots, i, slot) {
        char by[100];
        print_thresholds(slot, by, sizeof by);
        ROW(grid, cell_plain(slot, "id").text, get_text(slot, "name", "-"), by,
            cell_count(slot, "rows_before").text, cell_count(slot, "evicted").text,
            cell_after(slot, dry_run).text);
    }
    ROW(grid, "", "in all", "", cell_count(reply, "rows_before").text,
        cell_count(reply, "evicted").text, cell_after(reply, dry_run).text);
    if (finish(grid, out) != 0)
        return -1;
    if (get_number(reply, "promoted", 0) + get_number(reply, "demoted", 0) > 0)
        fprintf(out, "\n%s rows %sto a higher tier, %s to a lower one\n",
                cell_count(reply, "promoted").text, dry_run ? "would go " : "",
                cell_count(reply, "demoted").text);
    if (get_number(reply, "pending_evicted", 0) > 0)
        fprintf(out, "\n%s feasigns that wait%s for a row %s forgotten too\n",
                cell_count(reply, "pending_evicted").text, dry_run ? "" : "ed",
                dry_run ? "would be" : "were");
    return 0;
}
