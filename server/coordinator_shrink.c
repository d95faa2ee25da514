/*
 * A shrink: every shard evicts the rows that its rules say, in slices between requests.
 *
 *      none, done, failed --start--> starting --all shards told--> running --all done--> done
 *                                        \______________________________\--> failed
 *
 * Starting counts the rows first; what comes back also tells the numbers of earlier shrinks, which
 * a coordinator that was started anew doesn't know and must not use again. While it runs the
 * shards' figures are looked at until each has done it. A failure leaves what was evicted evicted:
 * shards that were told go on by themselves, so the next one waits for them.
 */
#include "server/coordinator_internal.h"

#include "server/log.h"

#include <stdlib.h>

enum {
    DAY_S = 86400,
    RETRY_S = 600, /* a daily one that failed */
    POLL_MS = 100,
    POLL_MS_MAX = 2000,
};

static int64_t now_of(const struct coordinator *c) {
    return c->io.now_ms(c->io.self);
}

static int64_t wall_of(const struct coordinator *c) {
    return c->io.wall_s(c->io.self);
}

static bool under_way(const struct shrink *s) {
    return s->state == SHRINK_STARTING || s->state == SHRINK_RUNNING;
}

static struct shrink_count sum_of(const struct shrink *s) {
    struct shrink_count sum = {0};
    for (size_t i = 0; i < s->rules.n; i++) {
        sum.before += s->counts[i].before;
        sum.evicted += s->counts[i].evicted;
        sum.after += s->counts[i].after;
        sum.pending += s->counts[i].pending;
        sum.promoted += s->counts[i].promoted;
        sum.demoted += s->counts[i].demoted;
    }
    return sum;
}

/* ---- what it says of itself ------------------------------------------------------------------ */

static const char *state_name(enum shrink_state state) {
    switch (state) {
    case SHRINK_NONE:
        return "none";
    case SHRINK_STARTING:
        return "starting";
    case SHRINK_RUNNING:
        return "running";
    case SHRINK_DONE:
        return "done";
    case SHRINK_FAILED:
        return "failed";
    }
    return "?";
}

static const char *slot_name(const struct coordinator *c, uint32_t id) {
    const struct layout_slot *const slot = layout_find(c->layout, id);
    return slot != NULL ? slot->name : "";
}

static void set_counts(json_t *object, const struct shrink_count *n) {
    json_object_set_new(object, "rows_before", json_integer((json_int_t)n->before));
    json_object_set_new(object, "evicted", json_integer((json_int_t)n->evicted));
    json_object_set_new(object, "rows_after", json_integer((json_int_t)n->after));
    json_object_set_new(object, "pending_evicted", json_integer((json_int_t)n->pending));
    json_object_set_new(object, "promoted", json_integer((json_int_t)n->promoted));
    json_object_set_new(object, "demoted", json_integer((json_int_t)n->demoted));
}

static json_t *slots_json(const struct coordinator *c) {
    const struct shrink *const s = &c->shrink;
    json_t *const slots = json_array();
    for (size_t i = 0; i < s->rules.n; i++) {
        const struct shrink_rule *const rule = &s->rules.rules[i];
        json_t *const slot = json_pack("{s:I, s:s, s:I, s:f}", "id", (json_int_t)rule->slot, "name",
                                       slot_name(c, rule->slot), "expire_days",
                                       (json_int_t)rule->expire_days, "expire_shows",
                                       (double)rule->expire_shows);
        set_counts(slot, &s->counts[i]);
        json_array_append_new(slots, slot);
    }
    return slots;
}

static json_t *ageless_json(const struct coordinator *c) {
    const struct shrink_rules *const rules = &c->shrink.rules;
    json_t *const slots = json_array();
    for (size_t i = 0; i < rules->n_ageless; i++)
        json_array_append_new(slots, json_pack("{s:I, s:s}", "id", (json_int_t)rules->ageless[i],
                                               "name", slot_name(c, rules->ageless[i])));
    return slots;
}

json_t *shrink_status_json(const struct coordinator *c) {
    const struct shrink *const s = &c->shrink;
    if (s->state == SHRINK_NONE)
        return json_pack("{s:I, s:s}", "shrink", (json_int_t)0, "state", state_name(s->state));
    const struct shrink_count sum = sum_of(s);
    const double seconds = under_way(s) ? (double)(now_of(c) - s->started_ms) / 1000 : s->seconds;
    json_t *const json = json_pack(
        "{s:I, s:s, s:b, s:b, s:I, s:f, s:I, s:I, s:o, s:o}", "shrink", (json_int_t)s->number,
        "state", state_name(s->state), "daily", s->daily, "dry_run", s->rules.dry_run, "day",
        (json_int_t)s->rules.day, "seconds", seconds, "seen", (json_int_t)s->seen, "to_see",
        (json_int_t)s->total, "slots", slots_json(c), "not_by_age", ageless_json(c));
    set_counts(json, &sum);
    if (s->state != SHRINK_DONE)
        json_object_set_new(json, "evicted", json_integer((json_int_t)s->evicted));
    if (s->state == SHRINK_FAILED)
        json_object_set_new(json, "error", json_string(s->detail.text));
    return json;
}

/* ---- its end --------------------------------------------------------------------------------- */

static int64_t next_due(const struct coordinator *c) {
    const int64_t now = wall_of(c);
    const int64_t due = now - now % DAY_S + c->options.shrink_at * (int64_t)60;
    return due > now ? due : due + DAY_S;
}

/* The line that tells later who let rows go, and by which rule. */
static void audit(const struct coordinator *c) {
    const struct shrink *const s = &c->shrink;
    const bool done = s->state == SHRINK_DONE;
    const struct shrink_count sum = sum_of(s);
    char what[160], moved[80] = "", why[sizeof s->detail.text + 16] = "";
    if (s->number == 0) {
        log_warn("shrink", "a shrink did not begin: %s", s->detail.text);
        return;
    }
    shrink_rules_text(&s->rules, what, sizeof what);
    if (sum.promoted + sum.demoted > 0)
        snprintf(moved, sizeof moved, ", %llu to a higher tier, %llu to a lower one",
                 (unsigned long long)sum.promoted, (unsigned long long)sum.demoted);
    if (!done)
        snprintf(why, sizeof why, "; failed: %s", s->detail.text);
    log_line(done ? LEVEL_INFO : LEVEL_WARN, "shrink",
             "shrink %llu, %s: %s, as of day %u: %s%llu of %llu rows in %zu slots %s in %.1f s%s%s",
             (unsigned long long)s->number, s->daily ? "daily" : "asked for by an admin", what,
             s->rules.day, done ? "" : "at least ",
             (unsigned long long)(done ? sum.evicted : s->evicted), (unsigned long long)sum.before,
             s->rules.n, s->rules.dry_run ? "would be evicted" : "evicted", s->seconds, moved, why);
}

static void end(struct coordinator *c, enum shrink_state state) {
    struct shrink *const s = &c->shrink;
    s->state = state;
    s->seconds = (double)(now_of(c) - s->started_ms) / 1000;
    if (s->daily)
        c->shrink_due_s = state == SHRINK_DONE ? next_due(c) : wall_of(c) + RETRY_S;
    audit(c);
}

static void fail(struct coordinator *c, dimfit_err err, const struct err_detail *detail) {
    struct shrink *const s = &c->shrink;
    s->detail = *detail;
    if (s->detail.text[0] == 0)
        err_set(&s->detail, err, "%s", err_text(err));
    if (s->asked)
        coordinator_answer(c, &s->asker, err, &s->detail, NULL, 0);
    s->asked = false;
    end(c, SHRINK_FAILED);
}

/* ---- running --------------------------------------------------------------------------------- */

static void told(struct coordinator *c, struct op *op) {
    struct shrink *const s = &c->shrink;
    s->polling = false;
    if (op->err != DIMFIT_OK) {
        fail(c, op->err, &op->detail);
        return;
    }
    s->state = SHRINK_RUNNING;
    s->poll_ms = now_of(c) + POLL_MS;
    if (s->asked)
        admin_answer(c, &s->asker, shrink_status_json(c));
    s->asked = false;
}

/* To every shard; one that has the number already takes no notice. */
static void tell(struct coordinator *c) {
    struct shrink *const s = &c->shrink;
    struct buf body;
    buf_init(&body);
    shrink_encode(s->rules.rules, s->rules.n, &body);
    const struct wire_header command = {
        .kind = WIRE_SHRINK,
        .tag = s->number,
        .step = s->rules.day,
        .mode = s->rules.dry_run ? SHRINK_DRY_RUN : 0,
    };
    dimfit_err err = buf_status(&body);
    if (err == DIMFIT_OK)
        err = op_start(c, &command, body.data, body.len, told, NULL);
    buf_fini(&body);
    s->polling = err == DIMFIT_OK;
    if (err != DIMFIT_OK)
        fail(c, err, &(struct err_detail){"no memory to tell the shards"});
}

/* What every slot has of rows, and has lost: the shards' figures are of this shrink. */
static void take_counts(struct coordinator *c, const struct op *op) {
    struct shrink *const s = &c->shrink;
    for (size_t i = 0; i < s->rules.n; i++) {
        struct shrink_count *const n = &s->counts[i];
        n->evicted = n->after = n->pending = n->promoted = n->demoted = 0;
        for (size_t shard = 0; shard < c->options.shards; shard++) {
            const struct slot_figures *const f = shard_figures_find(&op->figures[shard],
                                                                    s->rules.rules[i].slot);
            if (f != NULL) {
                n->evicted += f->table.expired_rows;
                n->pending += f->table.expired_pending;
                n->promoted += f->table.promoted;
                n->demoted += f->table.demoted;
                n->after += f->table.rows;
            }
        }
    }
}

/* Feasigns seen so far; *working is a shard that has some left, *behind one that was not told (it
 * was started anew); the number of shards when there is none. */
static uint64_t look(struct coordinator *c, const struct op *op, size_t *working, size_t *behind) {
    struct shrink *const s = &c->shrink;
    uint64_t seen = 0;
    s->total = s->evicted = 0;
    *working = *behind = c->options.shards;
    for (size_t i = c->options.shards; i-- > 0;) {
        const struct shrink_figures *const f = &op->figures[i].shrink;
        if (f->number != s->number) {
            *behind = i;
            continue;
        }
        seen += f->keys_done;
        s->total += f->keys;
        s->evicted += f->rows_evicted;
        if (f->running != 0)
            *working = i;
    }
    return seen;
}

static void looked(struct coordinator *c, struct op *op) {
    struct shrink *const s = &c->shrink;
    s->polling = false;
    if (op->err != DIMFIT_OK) {
        fail(c, op->err, &op->detail);
        return;
    }
    const int64_t now = now_of(c);
    size_t working, behind;
    const uint64_t seen = look(c, op, &working, &behind);
    if (seen != s->seen)
        s->progress_ms = now;
    s->seen = seen;
    const size_t none = c->options.shards, late = working < none ? working : behind;
    if (late == none) {
        take_counts(c, op);
        end(c, SHRINK_DONE);
    } else if (now - s->progress_ms > c->options.step_timeout_ms) {
        struct err_detail detail;
        const dimfit_err err = err_set(
            &detail, DIMFIT_ERR_TIMEOUT, "shard %zu at %s has not gone on for %.0f s", late,
            c->map->endpoints[late], (double)(now - s->progress_ms) / 1000);
        fail(c, err, &detail);
    } else if (behind < none) {
        tell(c);
    } else {
        const int64_t pause = POLL_MS + (now - s->started_ms) / 8;
        s->poll_ms = now + (pause < POLL_MS_MAX ? pause : POLL_MS_MAX);
    }
}

/* ---- starting -------------------------------------------------------------------------------- */

static void counted(struct coordinator *c, struct op *op) {
    struct shrink *const s = &c->shrink;
    s->polling = false;
    struct err_detail detail = op->detail;
    dimfit_err err = op->err;
    uint64_t last = 0;
    for (size_t i = 0; err == DIMFIT_OK && i < c->options.shards; i++) {
        const struct shrink_figures *const f = &op->figures[i].shrink;
        if (f->running != 0)
            err = err_set(&detail, DIMFIT_ERR_BUSY, "shard %zu still works on shrink %llu", i,
                          (unsigned long long)f->number);
        last = f->number > last ? f->number : last;
    }
    if (err != DIMFIT_OK) {
        fail(c, err, &detail);
        return;
    }
    for (size_t i = 0; i < s->rules.n; i++) {
        struct shrink_count *const n = &s->counts[i];
        for (size_t shard = 0; shard < c->options.shards; shard++) {
            const struct slot_figures *const f = shard_figures_find(&op->figures[shard],
                                                                    s->rules.rules[i].slot);
            n->before += f != NULL ? f->table.rows : 0;
        }
        n->after = n->before;
    }
    s->number = last + 1;
    tell(c);
}

/* Ask for the figures of every shard. */
static dimfit_err poll(struct coordinator *c, op_done *done) {
    const struct wire_header command = {.kind = WIRE_GATHER, .mode = GATHER_FIGURES};
    const dimfit_err err = op_start(c, &command, NULL, 0, done, NULL);
    c->shrink.polling = err == DIMFIT_OK;
    return err;
}

static dimfit_err check_free(const struct coordinator *c, struct err_detail *detail) {
    const struct shrink *const s = &c->shrink;
    if (under_way(s) && s->number == 0)
        return err_set(detail, DIMFIT_ERR_BUSY, "another shrink is about to begin");
    if (under_way(s))
        return err_set(detail, DIMFIT_ERR_BUSY, "shrink %llu is under way, wait for its end",
                       (unsigned long long)s->number);
    if (!coordinator_answering(c, detail))
        return DIMFIT_ERR_TIMEOUT;
    if (c->adding > 0 || c->uneven)
        return err_set(detail, DIMFIT_ERR_BUSY, "slots are being added on every shard");
    return DIMFIT_OK;
}

dimfit_err shrink_start(struct coordinator *c, const struct asker *asker, const json_t *args,
                        struct err_detail *detail) {
    struct shrink_rules rules;
    dimfit_err err = check_free(c, detail);
    if (err == DIMFIT_OK)
        err = shrink_rules_make(c->layout, args, (uint32_t)(wall_of(c) / DAY_S), &rules, detail);
    if (err != DIMFIT_OK)
        return err;
    struct shrink_count *const counts = calloc(rules.n, sizeof *counts);
    err = counts != NULL ? poll(c, counted) : DIMFIT_ERR_NOMEM;
    if (err != DIMFIT_OK) {
        free(counts);
        shrink_rules_fini(&rules);
        return err_set(detail, err, "no memory for a shrink");
    }
    shrink_fini(c);
    c->shrink = (struct shrink){
        .state = SHRINK_STARTING,
        .daily = asker == NULL,
        .rules = rules,
        .counts = counts,
        .asked = asker != NULL,
        .polling = true,
        .started_ms = now_of(c),
        .progress_ms = now_of(c),
    };
    if (asker != NULL)
        c->shrink.asker = *asker;
    return DIMFIT_OK;
}

/* ---- time ------------------------------------------------------------------------------------ */

static bool has_work(const struct coordinator *c) {
    for (size_t i = 0; i < c->layout->n_slots; i++) {
        const struct layout_slot *const slot = &c->layout->slots[i];
        const struct retention *const kept = &slot->retention;
        if (kept->expire_days > 0 || kept->expire_shows > 0 || slot->n_tiers > 1)
            return true;
    }
    return false;
}

static void start_daily(struct coordinator *c) {
    struct err_detail detail = {{0}};
    if (!has_work(c)) {
        c->shrink_due_s = next_due(c);
        return;
    }
    json_t *const args = json_object();
    const dimfit_err err = args != NULL ? shrink_start(c, NULL, args, &detail)
                                        : err_set(&detail, DIMFIT_ERR_NOMEM, "no memory");
    json_decref(args);
    if (err == DIMFIT_OK)
        return;
    c->shrink_due_s = wall_of(c) + RETRY_S;
    log_warn("shrink", "the daily shrink is put off by %d s: %s", RETRY_S, detail.text);
}

void shrink_init(struct coordinator *c) {
    c->shrink_due_s = next_due(c);
}

void shrink_fini(struct coordinator *c) {
    shrink_rules_fini(&c->shrink.rules);
    free(c->shrink.counts);
    c->shrink.counts = NULL;
}

void shrink_tick(struct coordinator *c, int64_t now) {
    struct shrink *const s = &c->shrink;
    if (under_way(s)) {
        if (s->state == SHRINK_RUNNING && !s->polling && now >= s->poll_ms &&
            poll(c, looked) != DIMFIT_OK)
            fail(c, DIMFIT_ERR_NOMEM, &(struct err_detail){"no memory to look at the shards"});
    } else if (c->options.shrink_at >= 0 && wall_of(c) >= c->shrink_due_s) {
        start_daily(c);
    }
}
