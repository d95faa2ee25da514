#include "worker/client_internal.h"

#include <math.h>
#include <stdlib.h>

enum { FLUSH_RETRY_MS = 20 };

/* What pull and push work on: the caller's arrays, and their distinct keys in c->keys[i]. */
struct rows_call {
    enum dimfit_view view;
    uint64_t epoch; /* compact: of the arrays */
    size_t n;
    const struct dimfit_rows *rows;
    const uint32_t *const *counts; /* push of held rows: how often each was looked up; else NULL */
    float **sums;                  /* push: [n] gradients of the distinct keys */
    struct section *sections;      /* [n] scratch of make() */
    struct dimfit_push push;
};

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

/* x * 0 is 0 for every finite x and NaN for the others, and adds up without a branch. */
static bool all_finite(const float *values, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i] * 0.0f;
    return sum == 0;
}

static dimfit_err check_finite(struct dimfit *c, const struct dimfit_rows *rows) {
    const size_t width = rows->width;
    if (all_finite(rows->values, rows->n * width))
        return DIMFIT_OK;
    for (size_t i = 0; i < rows->n; i++) {
        if (!all_finite(rows->values + i * width, width))
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

/* One section for each slot that has rows on the shard. */
static size_t list_sections(const struct dimfit *c, const struct rows_call *call,
                            const struct part *part, uint64_t *rows, uint64_t *values) {
    size_t n = 0;
    *rows = *values = 0;
    for (size_t i = 0; i < call->n; i++) {
        const struct keys *const keys = &c->keys[i];
        uint32_t count = 0;
        for (size_t u = 0; u < keys->n; u++)
            count += keys->shard[u] == part->shard;
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
        const struct keys *const keys = &c->keys[i];
        for (size_t u = 0; u < keys->n; u++) {
            if (keys->shard[u] != part->shard)
                continue;
            memcpy(at, &keys->key[u], sizeof keys->key[u]);
            at += sizeof keys->key[u];
        }
    }
    return at;
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
        for (size_t u = 0; u < c->keys[i].n; u++)
            used[c->keys[i].shard[u]] = true;
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
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct keys *const keys = &c->keys[i];
        const struct view_slot *const slot = map_of(part->view, rows->slot);
        for (size_t u = 0; u < keys->n; u++) {
            if (keys->shard[u] != part->shard)
                continue;
            float *const out = rows->values + (size_t)keys->first[u] * rows->width;
            const size_t bytes = slot->width * sizeof *out;
            if (call->view == DIMFIT_COMPACT || slot->kind == VIEW_SAME) {
                memcpy(out, at, bytes);
            } else {
                memcpy(r, at, bytes);
                view_rows(slot, r, out);
            }
            at += bytes;
        }
    }
}

static void fill_repeats(const struct dimfit *c, const struct rows_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct keys *const keys = &c->keys[i];
        const size_t width = rows->width;
        for (size_t j = 0; keys->n < rows->n && j < rows->n; j++) {
            const size_t first = keys->first[keys->index[j]];
            if (first != j)
                memcpy(rows->values + j * width, rows->values + first * width,
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

static dimfit_err map_grads(const struct dimfit *c, const struct rows_call *call, struct part *part,
                            uint8_t *at) {
    const struct view *const now = part->view;
    const bool carried = call->view == DIMFIT_COMPACT && call->epoch != now->shown.epoch;
    if (carried && (c->before == NULL || c->before->shown.epoch != call->epoch))
        return stale(call, part);
    float out[LAYOUT_DIM_MAX], scratch[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct keys *const keys = &c->keys[i];
        const struct view_slot *const slot = map_of(now, rows->slot);
        const struct view_slot *const old = carried ? map_of(c->before, rows->slot) : NULL;
        if (carried && (old == NULL || old->width != rows->width))
            return stale(call, part);
        const size_t bytes = slot->width * sizeof(float);
        for (size_t u = 0; u < keys->n; u++) {
            if (keys->shard[u] != part->shard)
                continue;
            const float *const g = call->sums[i] + u * rows->width;
            if (call->view == DIMFIT_FULL)
                view_grads(slot, g, out);
            else if (carried)
                view_carry(old, slot, g, scratch, out);
            memcpy(at, call->view == DIMFIT_FULL || carried ? out : g, bytes);
            at += bytes;
        }
    }
    return DIMFIT_OK;
}

static uint32_t count_of(const struct dimfit *c, const struct rows_call *call, size_t i, size_t u) {
    return call->counts != NULL ? call->counts[i][u] : c->keys[i].count[u];
}

/* Lookups travel only where some key occurred more than once. */
static bool any_repeats(const struct dimfit *c, const struct rows_call *call,
                        const struct part *part) {
    for (size_t i = 0; i < call->n; i++) {
        for (size_t u = 0; u < c->keys[i].n; u++) {
            if (c->keys[i].shard[u] == part->shard && count_of(c, call, i, u) != 1)
                return true;
        }
    }
    return false;
}

static void put_lookups(const struct dimfit *c, const struct rows_call *call,
                        const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        for (size_t u = 0; u < c->keys[i].n; u++) {
            if (c->keys[i].shard[u] != part->shard)
                continue;
            const uint32_t count = count_of(c, call, i, u);
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

/* Gradients of equal keys are summed; where there are none the caller's array is used as it is. */
static dimfit_err sum_grads(struct dimfit *c, struct rows_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct keys *const keys = &c->keys[i];
        const size_t width = rows->width;
        call->sums[i] = rows->values;
        if (keys->n == rows->n)
            continue;
        call->sums[i] = calloc(keys->n * width + 1, sizeof(float));
        if (call->sums[i] == NULL)
            return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for %zu gradients", keys->n);
        for (size_t j = 0; j < rows->n; j++) {
            float *const sum = call->sums[i] + (size_t)keys->index[j] * width;
            const float *const g = rows->values + j * width;
            for (size_t k = 0; k < width; k++)
                sum[k] += g[k];
        }
        /* Finite numbers may add up to one that isn't. */
        if (!all_finite(call->sums[i], keys->n * width))
            return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u: the summed gradient of a repeated feasign is not finite",
                           rows->slot);
    }
    return DIMFIT_OK;
}

/* ---- a push that a freeze turned away -------------------------------------------------------- */

static bool is_held(const struct exchange *x, size_t shard) {
    for (size_t p = 0; p < x->n_parts; p++) {
        if (x->parts[p].shard == shard)
            return x->parts[p].state == PART_HELD;
    }
    return false;
}

static bool keep_slot(const struct dimfit *c, const struct rows_call *call,
                      const struct exchange *x, size_t i, struct grads *out) {
    const struct keys *const keys = &c->keys[i];
    const size_t width = call->rows[i].width;
    *out = (struct grads){
        .slot = call->rows[i].slot,
        .width = call->rows[i].width,
        .key = malloc((keys->n + 1) * sizeof *out->key),
        .count = malloc((keys->n + 1) * sizeof *out->count),
        .values = malloc((keys->n * width + 1) * sizeof *out->values),
    };
    if (out->key == NULL || out->count == NULL || out->values == NULL)
        return false;
    for (size_t u = 0; u < keys->n; u++) {
        if (!is_held(x, keys->shard[u]))
            continue;
        out->key[out->n] = keys->key[u];
        out->count[out->n] = count_of(c, call, i, u);
        memcpy(out->values + out->n * width, call->sums[i] + u * width, width * sizeof(float));
        out->n++;
    }
    return true;
}

static dimfit_err keep_held(struct dimfit *c, const struct rows_call *call,
                            const struct exchange *x, struct held **out) {
    struct held *held = calloc(1, sizeof *held);
    bool whole = held != NULL;
    if (whole) {
        held->view = call->view;
        held->push = call->push;
        held->push.epoch = call->epoch;
        held->slots = calloc(call->n + 1, sizeof *held->slots);
        whole = held->slots != NULL;
    }
    for (size_t i = 0; whole && i < call->n; i++) {
        whole = keep_slot(c, call, x, i, &held->slots[i]);
        held->n = i + 1;
    }
    if (!whole) {
        held_destroy(&held);
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory to hold a push; it is lost");
    }
    *out = held;
    return DIMFIT_OK;
}

/* The widths are checked by the caller: held rows keep those they were pushed with. */
static dimfit_err push_rows(struct dimfit *c, struct rows_call *call, bool hold,
                            struct held **held) {
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
        const dimfit_err kept = keep_held(c, call, &x, held);
        err = kept != DIMFIT_OK ? kept : err;
    }
    end_rows(call, &x);
    for (size_t i = 0; i < call->n; i++) {
        if (call->sums[i] != call->rows[i].values)
            free(call->sums[i]);
    }
    free(call->sums);
    return err;
}

/* A step of its own for a push that names none: the same for all its parts, and no other push's. */
static uint64_t own_step(struct dimfit *c) {
    const uint64_t mix[2] = {c->client ^ c->incarnation, ++c->next_step};
    return XXH3_64bits(mix, sizeof mix) | (uint64_t)1 << 63;
}

/* Deliver what the shards take now; the rest stays held. */
static dimfit_err flush_once(struct dimfit *c) {
    struct held *const held = c->held;
    struct held *rest = NULL;
    struct dimfit_rows *const rows = calloc(held->n + 1, sizeof *rows);
    const uint32_t **const counts = calloc(held->n + 1, sizeof *counts);
    dimfit_err err = DIMFIT_ERR_NOMEM;
    if (rows == NULL || counts == NULL) {
        err_set(&c->detail, err, "no memory to deliver a held push; it stays held");
        goto done;
    }
    for (size_t i = 0; i < held->n; i++) {
        const struct grads *const g = &held->slots[i];
        rows[i] = (struct dimfit_rows){
            .slot = g->slot, .n = g->n, .keys = g->key, .values = g->values, .width = g->width};
        counts[i] = g->count;
    }
    struct rows_call call = {
        .view = held->view,
        .epoch = held->push.epoch,
        .n = held->n,
        .rows = rows,
        .counts = counts,
        .push = held->push,
    };
    err = push_rows(c, &call, false, &rest);
    held_destroy(&c->held);
    c->held = rest;

done:
    free(rows);
    free(counts);
    return err;
}

static dimfit_err flush(struct dimfit *c, bool wait) {
    dimfit_err err = DIMFIT_OK;
    while (c->held != NULL) {
        err = flush_once(c);
        if (err != DIMFIT_ERR_FROZEN || !wait || client_now_ms() + FLUSH_RETRY_MS >= c->deadline_ms)
            return err;
        client_sleep_ms(FLUSH_RETRY_MS);
    }
    return err;
}

dimfit_err dimfit_flush(struct dimfit *c) {
    const dimfit_err err = client_begin(c);
    return err != DIMFIT_OK ? err : flush(c, true);
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
        err = flush(c, !call.push.no_hold);
    if (err == DIMFIT_ERR_FROZEN)
        err = err_set(&c->detail, DIMFIT_ERR_STATE,
                      "an earlier push is still held by the freeze; score, then flush it");
    if (err == DIMFIT_OK)
        err = push_rows(c, &call, !(train && call.push.no_hold), &c->held);
    free(sorted);
    return err;
}
