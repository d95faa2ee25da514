#include "server/metrics_page.h"

#include "proto/wire.h"

#include <stdarg.h>
#include <stdio.h>

struct metric {
    const char *field; /* of the answer; a dot goes one object down */
    const char *name, *type, *help;
    const char *labels; /* besides those of the row, NULL for none */
};

static const struct metric of_status[] = {
    {"epoch", "dimfit_epoch", "gauge", "Number of the layout in force.", NULL},
    {"uptime", "dimfit_uptime_seconds", "gauge", "Since the coordinator started.", NULL},
    {"shards_wanted", "dimfit_shards_wanted", "gauge", "Shards the cluster is made of.", NULL},
    {"slots", "dimfit_slots", "gauge", "Slots of the layout.", NULL},
};

static const struct metric of_member[] = {
    {"epoch", "dimfit_shard_epoch", "gauge", "Number of the layout that the shard has.", NULL},
    {"seen_seconds_ago", "dimfit_shard_silence_seconds", "gauge",
     "Since the coordinator last heard of the shard; -1: never.", NULL},
};

static const struct metric of_stats[] = {
    {"layout_bytes", "dimfit_layout_bytes", "gauge", "Bytes of bases, means and initial maps.",
     NULL},
    {"params", "dimfit_parameters", "gauge", "Stored embedding parameters.", "kind=\"searched\""},
    {"params_linear", "dimfit_parameters", "gauge", "Stored embedding parameters.",
     "kind=\"linear\""},
};

#define BYTES_HELP  "Bytes of a shard's tables, by what they hold."
#define MALLOC_HELP "What jemalloc says of the shard's process; shards of one process say the same."

static const struct metric of_shard[] = {
    {"rows", "dimfit_shard_rows", "gauge", "Rows stored.", NULL},
    {"pending", "dimfit_shard_pending_feasigns", "gauge", "Feasigns seen too seldom for a row.",
     NULL},
    {"moving_rows", "dimfit_shard_moving_rows", "gauge",
     "Rows that the last layout change has yet to move.", NULL},
    {"value_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"values\""},
    {"state_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"optimizer\""},
    {"counter_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"counters\""},
    {"index_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"index\""},
    {"saved_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"saved\""},
    {"dense_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"dense\""},
    {"score_bytes", "dimfit_shard_bytes", "gauge", BYTES_HELP, "kind=\"scores\""},
    {"slab_bytes", "dimfit_shard_allocated_bytes", "gauge", "Bytes of slabs and spare rows.", NULL},
    {"resident_bytes", "dimfit_process_resident_bytes", "gauge",
     "Resident memory of the shard's process; shards of one process say the same.", NULL},
    {"jemalloc.allocated", "dimfit_jemalloc_bytes", "gauge", MALLOC_HELP, "kind=\"allocated\""},
    {"jemalloc.active", "dimfit_jemalloc_bytes", "gauge", MALLOC_HELP, "kind=\"active\""},
    {"jemalloc.resident", "dimfit_jemalloc_bytes", "gauge", MALLOC_HELP, "kind=\"resident\""},
    {"clients", "dimfit_shard_clients", "gauge", "Clients whose pushes are numbered.", NULL},
    {"score_steps", "dimfit_shard_score_steps", "gauge", "Scoring steps that sums are kept of.",
     NULL},
    {"score_samples", "dimfit_shard_score_samples", "gauge", "Samples scored in these.", NULL},
    {"pull_requests", "dimfit_requests_total", "counter", "Requests answered.", "kind=\"pull\""},
    {"push_requests", "dimfit_requests_total", "counter", "Requests answered.", "kind=\"push\""},
    {"dense_requests", "dimfit_requests_total", "counter", "Requests answered.", "kind=\"dense\""},
    {"keys_pulled", "dimfit_keys_total", "counter", "Keys of requests.", "kind=\"pulled\""},
    {"keys_pushed", "dimfit_keys_total", "counter", "Keys of requests.", "kind=\"pushed\""},
    {"keys_scored", "dimfit_keys_total", "counter", "Keys of requests.", "kind=\"scored\""},
    {"keys_skipped", "dimfit_keys_total", "counter", "Keys of requests.", "kind=\"skipped\""},
    {"keys_pending", "dimfit_keys_total", "counter", "Keys of requests.", "kind=\"pending\""},
    {"rows_evicted", "dimfit_evicted_total", "counter", "What shrinks let go.", "kind=\"row\""},
    {"pending_evicted", "dimfit_evicted_total", "counter", "What shrinks let go.",
     "kind=\"pending\""},
    {"repeats", "dimfit_repeated_requests_total", "counter",
     "Pushes that came again and were answered from the record.", NULL},
    {"stale", "dimfit_stale_requests_total", "counter",
     "Requests of an older epoch, answered with the layout.", NULL},
    {"frozen", "dimfit_frozen_requests_total", "counter",
     "Training pushes turned away while a search scored.", NULL},
    {"refused", "dimfit_refused_requests_total", "counter", "Requests refused for what they held.",
     NULL},
    {"malformed", "dimfit_malformed_messages_total", "counter",
     "Messages that were no request at all.", NULL},
};

static const struct metric of_slot[] = {
    {"width", "dimfit_slot_width", "gauge", "Coordinates that a row is stored at.", NULL},
    {"dim", "dimfit_slot_dim", "gauge", "The model's width.", NULL},
    {"rows", "dimfit_slot_rows", "gauge", "Rows stored, of all shards.", NULL},
    {"bytes", "dimfit_slot_bytes", "gauge", "Bytes of values and optimizer state.", NULL},
};

static const struct metric of_search[] = {
    {"search", "dimfit_search_number", "gauge", "The last search; 0: none yet.", NULL},
    {"samples", "dimfit_search_samples", "gauge", "Samples that it has scored.", NULL},
    {"samples_wanted", "dimfit_search_samples_wanted", "gauge", "Samples that it is to score.",
     NULL},
    {"seconds_left", "dimfit_search_left_seconds", "gauge", "Until it has them.", NULL},
    {"seconds.scoring", "dimfit_search_seconds", "gauge", "What it took.", "part=\"scoring\""},
    {"seconds.planning", "dimfit_search_seconds", "gauge", "What it took.", "part=\"planning\""},
    {"seconds.apply", "dimfit_search_seconds", "gauge", "What it took.", "part=\"apply\""},
};

static const struct metric of_shrink[] = {
    {"shrink", "dimfit_shrink_number", "gauge", "The last shrink; 0: none yet.", NULL},
};

/* ---- lines ----------------------------------------------------------------------------------- */

static void put(struct buf *out, const char *format, ...) PRINTF_LIKE(2, 3);
static void put(struct buf *out, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    base_assert(n >= 0 && (size_t)n < sizeof line);
    buf_put(out, line, (size_t)n);
}

static void put_head(struct buf *out, const char *name, const char *type, const char *help) {
    put(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Backslash, quote and newline as the format wants them; other control characters go. */
static void put_escaped(const char *text, char *out, size_t cap) {
    size_t n = 0;
    for (; *text != 0 && n + 3 < cap; text++) {
        if (*text == '\\' || *text == '"')
            out[n++] = '\\';
        if ((unsigned char)*text >= 0x20)
            out[n++] = *text;
    }
    out[n] = 0;
}

static const json_t *field_of(const json_t *object, const char *field) {
    char first[64];
    const char *const dot = strchr(field, '.');
    if (dot == NULL)
        return json_object_get(object, field);
    snprintf(first, sizeof first, "%.*s", (int)(dot - field), field);
    return field_of(json_object_get(object, first), dot + 1);
}

static void put_value(struct buf *out, const struct metric *metric, const char *row,
                      const json_t *object) {
    const json_t *const value = field_of(object, metric->field);
    if (!json_is_number(value))
        return;
    const char *const own = metric->labels != NULL ? metric->labels : "";
    const char *const comma = row[0] != 0 && own[0] != 0 ? "," : "";
    if (row[0] == 0 && own[0] == 0)
        put(out, "%s", metric->name);
    else
        put(out, "%s{%s%s%s}", metric->name, row, comma, own);
    if (json_is_integer(value))
        put(out, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
    else
        put(out, " %.17g\n", json_real_value(value));
}

/* A row of an answer's array, or the answer itself: what tells it from others. */
typedef void labels_of(const json_t *row, char *out, size_t cap);

static void no_labels(const json_t *row, char *out, size_t cap) {
    out[0] = 0;
}

static void shard_labels(const json_t *row, char *out, size_t cap) {
    snprintf(out, cap, "shard=\"%" JSON_INTEGER_FORMAT "\"",
             json_integer_value(json_object_get(row, "id")));
}

static void slot_labels(const json_t *row, char *out, size_t cap) {
    char name[160];
    const char *const given = json_string_value(json_object_get(row, "name"));
    put_escaped(given != NULL ? given : "", name, sizeof name);
    snprintf(out, cap, "slot=\"%" JSON_INTEGER_FORMAT "\",name=\"%s\"",
             json_integer_value(json_object_get(row, "id")), name);
}

/* All samples of a metric stand together, under one head, which lines of one name share. */
static void put_metrics(struct buf *out, const struct metric *metrics, size_t n, const json_t *rows,
                        labels_of *label) {
    const json_t *const one = json_is_array(rows) ? NULL : rows;
    const size_t n_rows = one != NULL ? 1 : json_array_size(rows);
    for (size_t first = 0, end; n_rows > 0 && first < n; first = end) {
        end = first + 1;
        while (end < n && strcmp(metrics[end].name, metrics[first].name) == 0)
            end++;
        put_head(out, metrics[first].name, metrics[first].type, metrics[first].help);
        for (size_t i = 0; i < n_rows; i++) {
            const json_t *const row = one != NULL ? one : json_array_get(rows, i);
            char labels[256];
            label(row, labels, sizeof labels);
            for (size_t m = first; m < end; m++)
                put_value(out, &metrics[m], labels, row);
        }
    }
}

/* ---- what is no plain number ----------------------------------------------------------------- */

static void put_build(struct buf *out, const json_t *status) {
    char version[64];
    const char *const given = json_string_value(json_object_get(status, "version"));
    put_escaped(given != NULL ? given : "", version, sizeof version);
    put_head(out, "dimfit_build_info", "gauge", "The coordinator's version; always 1.");
    put(out, "dimfit_build_info{version=\"%s\"} 1\n", version);
}

static void put_up(struct buf *out, const json_t *members) {
    put_head(out, "dimfit_shard_up", "gauge", "1: the coordinator hears of the shard.");
    for (size_t i = 0; i < json_array_size(members); i++) {
        const json_t *const member = json_array_get(members, i);
        const char *const state = json_string_value(json_object_get(member, "state"));
        char labels[64];
        shard_labels(member, labels, sizeof labels);
        put(out, "dimfit_shard_up{%s} %d\n", labels, state != NULL && strcmp(state, "up") == 0);
    }
}

static void put_phase(struct buf *out, const json_t *status) {
    static const char *const phases[] = {
#define PHASE_NAME(num, name, text) text,
        WIRE_PHASE_MAP(PHASE_NAME)
#undef PHASE_NAME
    };
    const char *const phase = json_string_value(json_object_get(status, "phase"));
    put_head(out, "dimfit_search_phase", "gauge", "1 for the phase that the last search is in.");
    for (size_t i = 0; phase != NULL && i < ARRAY_LEN(phases); i++)
        put(out, "dimfit_search_phase{phase=\"%s\"} %d\n", phases[i],
            strcmp(phase, phases[i]) == 0);
}

static void put_histogram(struct buf *out, const char *shard, const char *kind,
                          const json_t *latency) {
    const json_t *const bounds = json_object_get(latency, "bounds"), *const counts =
                                                                         json_object_get(latency,
                                                                                         "counts");
    json_int_t seen = 0;
    for (size_t i = 0; i < json_array_size(counts); i++) {
        char bound[32] = "+Inf";
        if (i < json_array_size(bounds))
            snprintf(bound, sizeof bound, "%.9g", json_number_value(json_array_get(bounds, i)));
        seen += json_integer_value(json_array_get(counts, i));
        put(out,
            "dimfit_request_seconds_bucket{%s,kind=\"%s\",le=\"%s\"} %" JSON_INTEGER_FORMAT "\n",
            shard, kind, bound, seen);
    }
    put(out, "dimfit_request_seconds_sum{%s,kind=\"%s\"} %.9g\n", shard, kind,
        json_number_value(json_object_get(latency, "sum")));
    put(out, "dimfit_request_seconds_count{%s,kind=\"%s\"} %" JSON_INTEGER_FORMAT "\n", shard, kind,
        seen);
}

static void put_latencies(struct buf *out, const json_t *shards) {
    put_head(out, "dimfit_request_seconds", "histogram",
             "From having a request whole to having given its answer away.");
    for (size_t i = 0; i < json_array_size(shards); i++) {
        const json_t *const shard = json_array_get(shards, i);
        char labels[64];
        shard_labels(shard, labels, sizeof labels);
        put_histogram(out, labels, "pull", json_object_get(shard, "pull_seconds"));
        put_histogram(out, labels, "push", json_object_get(shard, "push_seconds"));
    }
}

static void put_shrink(struct buf *out, const json_t *shrink) {
    static const char *const states[] = {"none", "starting", "running", "done", "failed"};
    const char *const state = json_string_value(json_object_get(shrink, "state"));
    put_head(out, "dimfit_shrink_state", "gauge", "1 for the state that the last shrink is in.");
    for (size_t i = 0; state != NULL && i < ARRAY_LEN(states); i++)
        put(out, "dimfit_shrink_state{state=\"%s\"} %d\n", states[i],
            strcmp(state, states[i]) == 0);
}

void metrics_page(const struct metrics_answers *answers, struct buf *out) {
    if (answers->status != NULL) {
        const json_t *const members = json_object_get(answers->status, "shards");
        put_build(out, answers->status);
        put_metrics(out, of_status, ARRAY_LEN(of_status), answers->status, no_labels);
        put_up(out, members);
        put_metrics(out, of_member, ARRAY_LEN(of_member), members, shard_labels);
        put_phase(out, answers->status);
    }
    if (answers->search != NULL)
        put_metrics(out, of_search, ARRAY_LEN(of_search), answers->search, no_labels);
    if (answers->shrink != NULL) {
        put_metrics(out, of_shrink, ARRAY_LEN(of_shrink), answers->shrink, no_labels);
        put_shrink(out, answers->shrink);
    }
    if (answers->stats != NULL) {
        const json_t *const shards = json_object_get(answers->stats, "shards");
        put_metrics(out, of_stats, ARRAY_LEN(of_stats), answers->stats, no_labels);
        put_metrics(out, of_shard, ARRAY_LEN(of_shard), shards, shard_labels);
        put_latencies(out, shards);
    }
    const json_t *const slots = json_object_get(answers->slots, "slots");
    if (json_array_size(slots) <= METRICS_SLOTS_MAX)
        put_metrics(out, of_slot, ARRAY_LEN(of_slot), slots, slot_labels);
}
