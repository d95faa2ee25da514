#include "proto/finite.h"
#include "worker/client_rows.h"

#include <stdlib.h>

/* ---- checks ---------------------------------------------------------------------------------- */

/* All parts of a call must fit one message, so that the largest of them does. */
static dimfit_err check_call(struct dimfit *c, enum dimfit_view view,
                             const struct dimfit_rows *rows, size_t n) {
    if (view != DIMFIT_FULL && view != DIMFIT_COMPACT)
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "view %d is none of 0, 1", (int)view);
    size_t bytes = n * SECTION_ENTRY;
    bool fits = n <= SECTIONS_MAX;
    for (size_t i = 0; fits && i < n; i++) {
        const size_t row = rows[i].width * sizeof(float) + sizeof(uint64_t) + sizeof(uint32_t);
        size_t more;
        fits = size_mul(rows[i].n, row, &more) &&
               more <= (size_t)WIRE_BODY_MAX - SECTION_HEAD - bytes;
        bytes += fits ? more : 0;
    }
    if (fits)
        return DIMFIT_OK;
    return err_set(&c->detail, DIMFIT_ERR_LIMIT,
                   "a call may have %d slots and %zu bytes of keys and values; split it",
                   SECTIONS_MAX, (size_t)WIRE_BODY_MAX);
}

static dimfit_err check_width(struct dimfit *c, enum dimfit_view view,
                              const struct dimfit_rows *rows) {
    const struct view_slot *const slot = &c->view->maps[view_find(c->view, rows->slot)];
    const uint32_t width = view == DIMFIT_FULL ? slot->dim : slot->width;
    if (rows->width == width)
        return DIMFIT_OK;
    return err_set(&c->detail, DIMFIT_ERR_WIDTH, "slot %u: rows are %u wide in the %s view, not %u",
                   rows->slot, width, view == DIMFIT_FULL ? "full" : "compact", rows->width);
}

static dimfit_err check_finite(struct dimfit *c, const struct dimfit_rows *rows) {
    const size_t width = rows->width;
    if (floats_finite(rows->values, rows->n * width))
        return DIMFIT_OK;
    for (size_t i = 0; i < rows->n; i++) {
        if (!floats_finite(rows->values + i * width, width))
            return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u, feasign %llu: the gradient is not finite", rows->slot,
                           (unsigned long long)rows->keys[i]);
    }
    return DIMFIT_OK;
}

static dimfit_err reserve_keys(struct dimfit *c, size_t n) {
    if (n <= c->n_keys)
        return DIMFIT_OK;
    struct keys *const keys = realloc(c->keys, n * sizeof *keys);
    if (keys == NULL)
        return DIMFIT_ERR_NOMEM;
    memset(keys + c->n_keys, 0, (n - c->n_keys) * sizeof *keys);
    c->keys = keys;
    c->n_keys = n;
    return DIMFIT_OK;
}

/* Distinct keys of every slot. Slots come first: asking for an unknown one may bring a new layout.
 */
static dimfit_err split(struct dimfit *c, const struct rows_call *call) {
    dimfit_err err = reserve_keys(c, call->n);
    size_t ignored;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++)
        err = client_slot(c, call->rows[i].slot, &ignored);
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        err = keys_split(&c->keys[i], rows->slot, rows->keys, rows->n, c->map);
    }
    if (err != DIMFIT_OK && c->detail.text[0] == 0)
        err_set(&c->detail, err, "no memory for the keys of %zu slots", call->n);
    return err;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static const struct view_slot *map_of(const struct view *view, uint32_t slot) {
    const size_t i = view_find(view, slot);
    return i == SIZE_MAX ? NULL : &view->maps[i];
}

/* The distinct keys of a slot that live on a shard: from `at` to `end`. */
struct span {
    size_t at, end;
};

static struct span span_of(const struct keys *keys, size_t shard) {
    return (struct span){keys->start[shard], keys->start[shard + 1]};
}

/* One section for each slot that has rows on the shard. */
static size_t list_sections(const struct dimfit *c, const struct rows_call *call,
                            const struct part *part, uint64_t *rows, uint64_t *values) {
    size_t n = 0;
    *rows = *values = 0;
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = span_of(&c->keys[i], part->shard);
        const uint32_t count = (uint32_t)(span.end - span.at);
        if (count == 0)
            continue;
        const uint32_t slot = call->rows[i].slot, width = map_of(part->view, slot)->width;
        call->sections[n++] = (struct section){.slot = slot, .rows = count, .width = width};
        *rows += count;
        *values += (uint64_t)count * width;
    }
    return n;
}

static uint8_t *put_keys(const struct dimfit *c, const struct rows_call *call,
                         const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = span_of(&c->keys[i], part->shard);
        const size_t bytes = (span.end - span.at) * sizeof *c->keys[i].key;
        if (bytes > 0)
            memcpy(at, c->keys[i].key + span.at, bytes);
        at += bytes;
    }
    return at;
}

/* How many rows from key `at` on stand side by side in memory: they are copied as one. */
static size_t run_of(const struct dimfit *c, const struct rows_call *call, size_t i,
                     struct span span) {
    const size_t width = call->rows[i].width;
    const float *const first = rows_at(c, call, i, span.at);
    size_t n = 1;
    while (span.at + n < span.end && rows_at(c, call, i, span.at + n) == first + n * width)
        n++;
    return n;
}

/* Rows look the same on the wire as in the caller's arrays. */
static bool is_same(const struct rows_call *call, const struct view_slot *slot) {
    return call->view == DIMFIT_COMPACT || slot->kind == VIEW_SAME;
}

static bool covers(const struct view *view, const struct rows_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        if (map_of(view, call->rows[i].slot) == NULL)
            return false;
    }
    return true;
}

static dimfit_err check_layout(const struct rows_call *call, struct part *part) {
    if (!covers(part->view, call))
        return err_set(&part->detail, DIMFIT_ERR_UNKNOWN_SLOT,
                       "the shard's layout lacks a slot of this call");
    return DIMFIT_OK;
}

static dimfit_err stale(const struct rows_call *call, struct part *part) {
    return err_set(&part->detail, DIMFIT_ERR_STALE_EPOCH,
                   "the arrays are of epoch %llu, the cluster is at %llu; take the new widths from "
                   "the layout",
                   (unsigned long long)call->epoch, (unsigned long long)part->view->shown.epoch);
}

static dimfit_err no_body(struct part *part, size_t size) {
    zmq_msg_init(&part->body);
    return err_set(&part->detail, DIMFIT_ERR_NOMEM, "no memory for a message of %zu bytes", size);
}

/* Prepare one part per shard that has any of the keys. */
static size_t list_parts(const struct dimfit *c, const struct rows_call *call, struct part *parts) {
    bool used[CLUSTER_SHARDS_MAX] = {false};
    for (size_t i = 0; i < call->n; i++) {
        for (size_t s = 0; s < c->keys[i].n_shards; s++)
            used[s] |= c->keys[i].start[s] < c->keys[i].start[s + 1];
    }
    size_t n = 0;
    for (size_t s = 0; s < c->map->n_shards; s++) {
        if (used[s])
            parts[n++] = (struct part){.shard = s};
    }
    return n;
}

/* ---- pull ------------------------------------------------------------------------------------ */

static dimfit_err make_pull(struct dimfit *c, struct exchange *x, struct part *part) {
    const struct rows_call *const call = x->self;
    const dimfit_err err = check_layout(call, part);
    if (err != DIMFIT_OK)
        return err;
    if (call->view == DIMFIT_COMPACT && part->view->shown.epoch != call->epoch)
        return stale(call, part);
    uint64_t rows, values;
    const size_t n = list_sections(c, call, part, &rows, &values);
    const size_t size = section_body_size(n, rows, 0, false, false);
    if (zmq_msg_init_size(&part->body, size) != 0)
        return no_body(part, size);
    uint8_t *const body = zmq_msg_data(&part->body);
    put_keys(c, call, part, body + section_put_head(body, call->sections, n, 0));
    part->header.kind = WIRE_PULL;
    return DIMFIT_OK;
}

static size_t answer_size(const struct dimfit *c, const struct rows_call *call,
                          const struct part *part) {
    uint64_t rows, values;
    list_sections(c, call, part, &rows, &values);
    return values * sizeof(float);
}

static dimfit_err take_pull(struct dimfit *c, struct exchange *x, struct part *part,
                            const struct wire_header *header) {
    const struct rows_call *const call = x->self;
    const size_t expected = answer_size(c, call, part), len = zmq_msg_size(&part->answer);
    if (len != expected)
        return err_set(&part->detail, DIMFIT_ERR_PROTOCOL, "an answer of %zu bytes, not %zu", len,
                       expected);
    return DIMFIT_OK;
}

/* Each row goes to where its key occurred first; repeats are filled in at the end. Received bytes
 * may lie at any address: a row that is computed with is copied first. */
static void put_rows(const struct dimfit *c, const struct rows_call *call, struct part *part) {
    const uint8_t *at = zmq_msg_data(&part->answer);
    float r[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < call->n; i++) {
        const struct view_slot *const slot = map_of(part->view, call->rows[i].slot);
        const size_t bytes = slot->width * sizeof(float);
        const bool same = is_same(call, slot);
        struct span span = span_of(&c->keys[i], part->shard);
        while (span.at < span.end) {
            float *const out = rows_at(c, call, i, span.at);
            const size_t run = same ? run_of(c, call, i, span) : 1;
            memcpy(same ? out : r, at, run * bytes);
            if (!same)
                view_rows(slot, r, out);
            at += run * bytes;
            span.at += run;
        }
    }
}

static void fill_repeats(const struct dimfit *c, const struct rows_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct keys *const keys = &c->keys[i];
        const size_t width = call->rows[i].width;
        for (size_t j = 0; j < keys->n_repeats; j++) {
            const struct key_repeat *const repeat = &keys->repeats[j];
            memcpy(call->rows[i].values + repeat->at * width, rows_at(c, call, i, repeat->of),
                   width * sizeof(float));
        }
    }
}

static dimfit_err run_rows(struct dimfit *c, struct rows_call *call, struct exchange *x) {
    call->sections = calloc(call->n + 1, sizeof *call->sections);
    x->parts = calloc(c->map->n_shards, sizeof *x->parts);
    x->self = call;
    if (call->sections == NULL || x->parts == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a %s", x->what);
    x->n_parts = list_parts(c, call, x->parts);
    return exchange_run(c, x);
}

static void end_rows(struct rows_call *call, struct exchange *x) {
    exchange_fini(x);
    free(x->parts);
    free(call->sections);
}

dimfit_err dimfit_pull(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                       size_t n) {
    struct rows_call call = {.view = view, .n = n, .rows = rows};
    dimfit_err err = client_begin(c);
    if (err == DIMFIT_OK)
        err = check_call(c, view, rows, n);
    if (err == DIMFIT_OK)
        err = split(c, &call);
    for (size_t i = 0; err == DIMFIT_OK && i < n; i++)
        err = check_width(c, view, &rows[i]);
    if (err != DIMFIT_OK)
        return err;
    call.epoch = c->view->shown.epoch;
    struct exchange x = {.what = "pull", .make = make_pull, .take = take_pull};
    err = run_rows(c, &call, &x);
    for (size_t p = 0; err == DIMFIT_OK && p < x.n_parts; p++)
        put_rows(c, &call, &x.parts[p]);
    if (err == DIMFIT_OK)
        fill_repeats(c, &call);
    if (err == DIMFIT_OK && view == DIMFIT_COMPACT)
        c->compact_epoch = call.epoch;
    end_rows(&call, &x);
    return err;
}

/* ---- push ------------------------------------------------------------------------------------ */

/* How gradients of the i-th slot get to the wire: compact ones of an older layout through both. */
struct mapping {
    size_t i;
    const struct view_slot *old, *now; /* old NULL: none */
};

static uint8_t *map_slot(const struct dimfit *c, const struct rows_call *call,
                         struct mapping mapping, struct span span, uint8_t *at) {
    const size_t bytes = mapping.now->width * sizeof(float);
    const bool same = mapping.old == NULL && is_same(call, mapping.now);
    float out[LAYOUT_DIM_MAX], scratch[LAYOUT_DIM_MAX];
    while (span.at < span.end) {
        const float *const g = rows_at(c, call, mapping.i, span.at);
        const size_t run = same ? run_of(c, call, mapping.i, span) : 1;
        if (mapping.old != NULL)
            view_carry(mapping.old, mapping.now, g, scratch, out);
        else if (!same)
            view_grads(mapping.now, g, out);
        memcpy(at, same ? g : out, run * bytes);
        at += run * bytes;
        span.at += run;
    }
    return at;
}

static dimfit_err map_grads(const struct dimfit *c, const struct rows_call *call, struct part *part,
                            uint8_t *at) {
    const struct view *const now = part->view;
    const bool carried = call->view == DIMFIT_COMPACT && call->epoch != now->shown.epoch;
    if (carried && (c->before == NULL || c->before->shown.epoch != call->epoch))
        return stale(call, part);
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct view_slot *const slot = map_of(now, rows->slot);
        const struct view_slot *const old = carried ? map_of(c->before, rows->slot) : NULL;
        if (carried && (old == NULL || old->width != rows->width))
            return stale(call, part);
        at = map_slot(c, call, (struct mapping){i, old, slot}, span_of(&c->keys[i], part->shard),
                      at);
    }
    return DIMFIT_OK;
}

/* Lookups travel only where some key occurred more than once. */
static bool any_repeats(const struct dimfit *c, const struct rows_call *call,
                        const struct part *part) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = span_of(&c->keys[i], part->shard);
        if (call->counts == NULL && c->keys[i].n_sums == 0)
            continue;
        for (size_t u = span.at; u < span.end; u++) {
            if (rows_count(c, call, i, u) != 1)
                return true;
        }
    }
    return false;
}

static void put_lookups(const struct dimfit *c, const struct rows_call *call,
                        const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = span_of(&c->keys[i], part->shard);
        for (size_t u = span.at; u < span.end; u++) {
            const uint32_t count = rows_count(c, call, i, u);
            memcpy(at, &count, sizeof count);
            at += sizeof count;
        }
    }
}

static dimfit_err make_push(struct dimfit *c, struct exchange *x, struct part *part) {
    const struct rows_call *const call = x->self;
    dimfit_err err = check_layout(call, part);
    if (err != DIMFIT_OK)
        return err;
    uint64_t rows, values;
    const size_t n = list_sections(c, call, part, &rows, &values);
    const bool lookups = any_repeats(c, call, part);
    const size_t size = section_body_size(n, rows, values, true, lookups);
    if (zmq_msg_init_size(&part->body, size) != 0)
        return no_body(part, size);
    uint8_t *const body = zmq_msg_data(&part->body);
    uint8_t *const keys = body +
                          section_put_head(body, call->sections, n, lookups ? SECTION_LOOKUPS : 0);
    uint8_t *const grads = put_keys(c, call, part, keys);
    err = map_grads(c, call, part, grads);
    if (err == DIMFIT_OK && lookups)
        put_lookups(c, call, part, grads + values * sizeof(float));
    part->header.kind = WIRE_PUSH;
    part->header.mode = (uint32_t)call->push.mode;
    part->header.step = call->push.step;
    part->header.samples = call->push.samples;
    return err;
}

static dimfit_err take_push(struct dimfit *c, struct exchange *x, struct part *part,
                            const struct wire_header *header) {
    return DIMFIT_OK;
}

static void sum_slot(const struct dimfit_rows *rows, const struct keys *keys, float *sums) {
    const size_t width = rows->width;
    for (size_t u = 0; u < keys->n; u++) {
        const struct key_use *const use = &keys->use[u];
        if (use->sum != KEY_NO_SUM)
            memcpy(sums + use->sum * width, rows->values + use->first * width,
                   width * sizeof *sums);
    }
    for (size_t j = 0; j < keys->n_repeats; j++) {
        float *const sum = sums + keys->use[keys->repeats[j].of].sum * width;
        const float *const g = rows->values + keys->repeats[j].at * width;
        for (size_t k = 0; k < width; k++)
            sum[k] += g[k];
    }
}

/* Gradients of equal keys are summed; all others are taken from the caller's array. */
static dimfit_err sum_grads(struct dimfit *c, struct rows_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct keys *const keys = &c->keys[i];
        const size_t n = keys->n_sums * rows->width;
        if (n == 0)
            continue;
        call->sums[i] = malloc(n * sizeof(float));
        if (call->sums[i] == NULL)
            return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for %zu gradients",
                           keys->n_sums);
        sum_slot(rows, keys, call->sums[i]);
        /* Finite numbers may add up to one that isn't. */
        if (!floats_finite(call->sums[i], n))
            return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u: the summed gradient of a repeated feasign is not finite",
                           rows->slot);
    }
    return DIMFIT_OK;
}

dimfit_err rows_push(struct dimfit *c, struct rows_call *call, bool hold, struct held **held) {
    dimfit_err err = split(c, call);
    if (err != DIMFIT_OK)
        return err;
    call->sums = calloc(call->n + 1, sizeof *call->sums);
    if (call->sums == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a push");
    struct exchange x = {
        .what = "push",
        .recorded = true,
        .hold = hold,
        .make = make_push,
        .take = take_push,
    };
    err = sum_grads(c, call);
    if (err == DIMFIT_OK)
        err = run_rows(c, call, &x);
    if (err == DIMFIT_ERR_FROZEN && !hold) {
        const dimfit_err kept = held_keep(c, call, &x, held);
        err = kept != DIMFIT_OK ? kept : err;
    }
    end_rows(call, &x);
    for (size_t i = 0; i < call->n; i++)
        free(call->sums[i]);
    free(call->sums);
    return err;
}

/* A step of its own for a push that names none: the same for all its parts, and no other push's. */
static uint64_t own_step(struct dimfit *c) {
    const uint64_t mix[2] = {c->client ^ c->incarnation, ++c->next_step};
    return XXH3_64bits(mix, sizeof mix) | (uint64_t)1 << 63;
}

static int compare_slots(const void *x, const void *y) {
    const struct dimfit_rows *const a = x, *const b = y;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

/* The wire wants each slot once, ascending. */
static dimfit_err sort_slots(struct dimfit *c, const struct dimfit_rows *rows, size_t n,
                             struct dimfit_rows **out) {
    struct dimfit_rows *const sorted = malloc((n + 1) * sizeof *sorted);
    if (sorted == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a push of %zu slots", n);
    if (n > 0)
        memcpy(sorted, rows, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_slots);
    for (size_t i = 1; i < n; i++) {
        if (sorted[i].slot == sorted[i - 1].slot) {
            err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u is named twice in one push",
                    sorted[i].slot);
            free(sorted);
            return DIMFIT_ERR_INVALID;
        }
    }
    *out = sorted;
    return DIMFIT_OK;
}

/* Everything that can be known to be wrong is refused before anything is sent. */
static dimfit_err check_push(struct dimfit *c, struct rows_call *call) {
    dimfit_err err = DIMFIT_OK;
    size_t ignored;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++)
        err = client_slot(c, call->rows[i].slot, &ignored);
    const uint64_t epoch = c->view->shown.epoch;
    if (call->view == DIMFIT_FULL)
        call->epoch = epoch;
    else
        call->epoch = call->push.epoch != 0 ? call->push.epoch : c->compact_epoch;
    const bool current = call->epoch == epoch;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++) {
        if (current)
            err = check_width(c, call->view, &call->rows[i]);
        if (err == DIMFIT_OK)
            err = check_finite(c, &call->rows[i]);
    }
    return err;
}

dimfit_err dimfit_push(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                       size_t n, const struct dimfit_push *push) {
    dimfit_err err = client_begin(c);
    if (err == DIMFIT_OK)
        err = check_call(c, view, rows, n);
    if (err != DIMFIT_OK)
        return err;
    const struct dimfit_push plain = {.mode = DIMFIT_TRAIN};
    struct rows_call call = {.view = view, .n = n, .push = push != NULL ? *push : plain};
    const bool train = (call.push.mode & DIMFIT_TRAIN) != 0;
    if (call.push.mode < DIMFIT_TRAIN || call.push.mode > DIMFIT_TRAIN_SCORE)
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "push mode %d is none of 1, 2, 3",
                       (int)call.push.mode);
    call.push.step = call.push.step != 0 ? call.push.step : own_step(c);
    call.push.samples = call.push.samples != 0 ? call.push.samples : 1;
    struct dimfit_rows *sorted = NULL;
    err = sort_slots(c, rows, n, &sorted);
    if (err != DIMFIT_OK)
        return err;
    call.rows = sorted;
    err = check_push(c, &call);
    if (err == DIMFIT_OK && train)
        err = held_flush(c, !call.push.no_hold);
    if (err == DIMFIT_ERR_FROZEN)
        err = err_set(&c->detail, DIMFIT_ERR_STATE,
                      "an earlier push is still held by the freeze; score, then flush it");
    if (err == DIMFIT_OK)
        err = rows_push(c, &call, !(train && call.push.no_hold), &c->held);
    free(sorted);
    return err;
}
