#include "proto/finite.h"
#include "worker/client_curvature.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <time.h>
#include <xxhash.h>

enum { DAY_SECONDS = 86400 };

/* ---- messages -------------------------------------------------------------------------------- */

/* How gradients of the i-th slot get to the wire: compact ones of an older layout through both. */
struct mapping {
    size_t i;
    const struct view_slot *old, *now; /* old NULL: none */
};

static uint8_t *map_slot(const struct dimfit_call *call, struct mapping mapping, struct span span,
                         uint8_t *at) {
    const size_t bytes = mapping.now->width * sizeof(float);
    const bool same = mapping.old == NULL && call_is_same(call, mapping.now);
    float out[LAYOUT_DIM_MAX], scratch[LAYOUT_DIM_MAX];
    while (span.at < span.end) {
        const float *const g = call_row(call, mapping.i, span.at);
        const size_t run = same ? call_run(call, mapping.i, span) : 1;
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

/* Gradients to `at`, curvatures of those slots whose part this is to `curvature`. */
static dimfit_err map_grads(const struct dimfit *c, const struct dimfit_call *call,
                            struct part *part, uint8_t *at, uint8_t *curvature) {
    const struct view *const now = part->view;
    const bool carried = call->view == DIMFIT_COMPACT && call->epoch != now->shown.epoch;
    if (carried && (c->before == NULL || c->before->shown.epoch != call->epoch))
        return call_stale(call, part);
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        const struct view_slot *const slot = call_map(now, rows->slot);
        const struct view_slot *const old = carried ? call_map(c->before, rows->slot) : NULL;
        if (carried && (old == NULL || old->width != rows->width))
            return call_stale(call, part);
        at = map_slot(call, (struct mapping){i, old, slot}, call_span(call, i, part->shard), at);
        if (curvature_lookups(call, i, part->shard) > 0 &&
            curvature_put(call, i, old, slot, &curvature) != DIMFIT_OK)
            return err_set(&part->detail, DIMFIT_ERR_NOMEM,
                           "no memory for the second moments of slot %u's gradients", rows->slot);
    }
    return DIMFIT_OK;
}

/* Lookups travel only where some key occurred more than once. */
static bool any_repeats(const struct dimfit_call *call, const struct part *part) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        if (call->slots[i].counts == NULL && call->slots[i].keys.n_sums == 0)
            continue;
        for (size_t u = span.at; u < span.end; u++) {
            if (call_count(call, i, u) != 1)
                return true;
        }
    }
    return false;
}

static void put_lookups(const struct dimfit_call *call, const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        for (size_t u = span.at; u < span.end; u++) {
            const uint32_t count = call_count(call, i, u);
            memcpy(at, &count, sizeof count);
            at += sizeof count;
        }
    }
}

static bool any_clicks(const struct dimfit_call *call, const struct part *part) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        for (size_t u = span.at; call->rows[i].clicks != NULL && u < span.end; u++) {
            if (call->slots[i].clicks[u] != 0)
                return true;
        }
    }
    return false;
}

static void put_clicks(const struct dimfit_call *call, const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        const size_t bytes = (span.end - span.at) * sizeof(uint32_t);
        if (call->rows[i].clicks == NULL)
            memset(at, 0, bytes);
        else if (bytes > 0)
            memcpy(at, call->slots[i].clicks + span.at, bytes);
        at += bytes;
    }
}

static dimfit_err make(struct dimfit *c, struct exchange *x, struct part *part) {
    struct dimfit_call *const call = x->self;
    struct part_size size;
    dimfit_err err = call_sections(call, part, &size);
    if (err != DIMFIT_OK)
        return err;
    const uint32_t lookups = any_repeats(call, part) ? SECTION_LOOKUPS : 0;
    const uint32_t clicks = any_clicks(call, part) ? SECTION_CLICKS : 0;
    const uint32_t curvature = size.curvature > 0 ? SECTION_CURVATURE : 0;
    uint8_t *grads;
    err = call_body(call, part, &size, true, lookups | clicks | curvature, &grads);
    if (err == DIMFIT_OK) {
        const size_t counts_size = size.rows * sizeof(uint32_t);
        uint8_t *const counts = grads + size.values * sizeof(float);
        uint8_t *const second = counts + (lookups != 0 ? counts_size : 0);
        if (lookups != 0)
            put_lookups(call, part, counts);
        if (clicks != 0)
            put_clicks(call, part, second);
        err = map_grads(c, call, part, grads, second + (clicks != 0 ? counts_size : 0));
    }
    part->header.kind = WIRE_PUSH;
    part->header.mode = (uint32_t)call->push.mode;
    part->header.step = call->push.step;
    part->header.samples = call->push.samples;
    part->header.day = call->push.day;
    return err;
}

static dimfit_err take(struct dimfit *c, struct exchange *x, struct part *part,
                       const struct wire_header *header) {
    return DIMFIT_OK;
}

/* ---- gradients of equal keys ------------------------------------------------------------------
 */

static void sum_slot(const struct dimfit_rows *rows, const struct call_slot *slot) {
    const size_t width = rows->width;
    const struct keys *const keys = &slot->keys;
    for (size_t u = 0; u < keys->n; u++) {
        const struct key_use *const use = &keys->use[u];
        if (use->sum != KEY_NO_SUM)
            memcpy(slot->sums + use->sum * width, rows->values + use->first * width,
                   width * sizeof *slot->sums);
    }
    for (size_t j = 0; j < keys->n_repeats; j++) {
        float *const sum = slot->sums + keys->use[keys->repeats[j].of].sum * width;
        const float *const g = rows->values + keys->repeats[j].at * width;
        for (size_t k = 0; k < width; k++)
            sum[k] += g[k];
    }
}

static bool reserve_sums(struct call_slot *slot, size_t n) {
    if (n <= slot->cap_sums)
        return true;
    float *const sums = malloc(n * sizeof *sums);
    if (sums == NULL)
        return false;
    free(slot->sums);
    slot->sums = sums;
    slot->cap_sums = n;
    return true;
}

/* Gradients of equal keys are summed; all others are taken from the caller's array. */
static dimfit_err sum_grads(struct dimfit *c, struct dimfit_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        struct call_slot *const slot = &call->slots[i];
        const size_t n = slot->keys.n_sums * rows->width;
        if (n == 0)
            continue;
        if (!reserve_sums(slot, n))
            return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for %zu gradients",
                           slot->keys.n_sums);
        sum_slot(rows, slot);
        /* Finite numbers may add up to one that isn't. */
        if (!floats_finite(slot->sums, n))
            return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u: the summed gradient of a repeated feasign is not finite",
                           rows->slot);
    }
    call->summed = true;
    return DIMFIT_OK;
}

static bool reserve_clicks(struct call_slot *slot, size_t n) {
    if (n <= slot->cap_clicks)
        return true;
    uint32_t *const clicks = malloc(n * sizeof *clicks);
    if (clicks == NULL)
        return false;
    free(slot->clicks);
    slot->clicks = clicks;
    slot->cap_clicks = n;
    return true;
}

static dimfit_err sum_clicks(struct dimfit *c, struct dimfit_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const uint32_t *const given = call->rows[i].clicks;
        struct call_slot *const slot = &call->slots[i];
        const struct keys *const keys = &slot->keys;
        if (given == NULL)
            continue;
        if (!reserve_clicks(slot, keys->n + 1))
            return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for %zu clicks", keys->n);
        for (size_t u = 0; u < keys->n; u++)
            slot->clicks[u] = given[keys->use[u].first];
        for (size_t j = 0; j < keys->n_repeats; j++) {
            uint32_t *const sum = &slot->clicks[keys->repeats[j].of];
            if (__builtin_add_overflow(*sum, given[keys->repeats[j].at], sum))
                *sum = UINT32_MAX;
        }
    }
    return DIMFIT_OK;
}

/* ---- checks ---------------------------------------------------------------------------------- */

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

/* Shards refuse the same, but one that gets none of the clicks would not. */
static dimfit_err check_clicks(struct dimfit *c, const struct dimfit_rows *rows) {
    if (rows->clicks == NULL || layout_find(c->view->source, rows->slot)->retention.clicks)
        return DIMFIT_OK;
    for (size_t i = 0; i < rows->n; i++) {
        if (rows->clicks[i] != 0)
            return err_set(&c->detail, DIMFIT_ERR_INVALID,
                           "slot %u counts no clicks, feasign %llu has some", rows->slot,
                           (unsigned long long)rows->keys[i]);
    }
    return DIMFIT_OK;
}

static int compare_slots(const void *x, const void *y) {
    const struct dimfit_rows *const a = x, *const b = y;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

/* The wire wants each slot once, ascending. */
static dimfit_err sort_slots(struct dimfit *c, struct dimfit_call *call) {
    qsort(call->rows, call->n, sizeof *call->rows, compare_slots);
    for (size_t i = 1; i < call->n; i++) {
        if (call->rows[i].slot == call->rows[i - 1].slot)
            return err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u is named twice in one push",
                           call->rows[i].slot);
    }
    return DIMFIT_OK;
}

/* Everything that can be known to be wrong is refused before anything is sent. */
static dimfit_err check_arrays(struct dimfit *c, struct dimfit_call *call) {
    dimfit_err err = sort_slots(c, call);
    size_t ignored;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++)
        err = client_slot(c, call->rows[i].slot, &ignored);
    const uint64_t epoch = c->view->shown.epoch;
    if (call->view == DIMFIT_FULL)
        call->epoch = epoch;
    else if (call->push.epoch != 0 || call->push.of_epoch_0)
        call->epoch = call->push.epoch;
    else
        call->epoch = c->compact_epoch;
    const bool current = call->epoch == epoch;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++) {
        if (current)
            err = call_check_width(c, call->view, &call->rows[i]);
        if (err == DIMFIT_OK)
            err = check_finite(c, &call->rows[i]);
        if (err == DIMFIT_OK)
            err = check_clicks(c, &call->rows[i]);
    }
    return err;
}

/* A step of its own for a push that names none: the same for all its parts, and no other push's.
 * Ids ascend with time, from whatever handle they come: a search tells old steps by it. 51 bits of
 * microseconds are enough until 2041. */
uint64_t push_own_step(struct dimfit *c) {
    const uint64_t whose[2] = {c->client, c->incarnation};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    c->last_step_us = us > c->last_step_us ? us : c->last_step_us + 1;
    return (uint64_t)1 << 63 | c->last_step_us << 12 | (XXH3_64bits(whose, sizeof whose) & 0xfff);
}

static dimfit_err check_push(struct dimfit *c, const struct dimfit_push *push,
                             struct dimfit_push *out) {
    *out = push != NULL ? *push : (struct dimfit_push){.mode = DIMFIT_TRAIN};
    if (out->mode < DIMFIT_TRAIN || out->mode > DIMFIT_TRAIN_SCORE)
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "push mode %d is none of 1, 2, 3",
                       (int)out->mode);
    out->step = out->step != 0 ? out->step : push_own_step(c);
    out->samples = out->samples != 0 ? out->samples : 1;
    out->day = out->day != 0 ? out->day : (uint32_t)(time(NULL) / DAY_SECONDS);
    return DIMFIT_OK;
}

/* ---- running ----------------------------------------------------------------------------------
 */

dimfit_err push_start(struct dimfit *c, struct dimfit_call *call, bool hold) {
    call->exchange.what = "push";
    call->exchange.recorded = true;
    call->exchange.hold = hold;
    call->exchange.make = make;
    call->exchange.take = take;
    dimfit_err err = call_split(c, call);
    if (err == DIMFIT_OK)
        err = sum_grads(c, call);
    if (err == DIMFIT_OK)
        err = sum_clicks(c, call);
    if (err == DIMFIT_OK)
        err = curvature_form(c, call);
    if (err == DIMFIT_OK)
        err = call_start(c, call);
    return err;
}

/* What a freeze turns away of a push that is not to wait is kept by the handle, of one at a time.
 */
static dimfit_err check_held(struct dimfit *c, const struct dimfit_push *push) {
    for (const struct dimfit_call *call = c->calls; push->no_hold && call; call = call->next) {
        if (call->exchange.recorded && !call->exchange.hold)
            return err_set(&c->detail, DIMFIT_ERR_STATE,
                           "a push with no_hold is under way; wait for it first");
    }
    const dimfit_err err = held_flush(c, !push->no_hold);
    if (err == DIMFIT_ERR_FROZEN)
        return err_set(&c->detail, DIMFIT_ERR_STATE,
                       "an earlier push is still held by the freeze; score, then flush it");
    return err;
}

dimfit_err dimfit_push_async(struct dimfit *c, enum dimfit_view view,
                             const struct dimfit_rows *rows, size_t n,
                             const struct dimfit_push *push, struct dimfit_call **out) {
    struct dimfit_push how;
    struct dimfit_call *call = NULL;
    dimfit_err err = client_begin(c);
    if (err == DIMFIT_OK)
        err = check_push(c, push, &how);
    if (err == DIMFIT_OK)
        err = call_new(c, view, rows, n, &call);
    if (err != DIMFIT_OK)
        return err;
    call->push = how;
    const bool train = (how.mode & DIMFIT_TRAIN) != 0;
    err = check_arrays(c, call);
    if (err == DIMFIT_OK && train)
        err = check_held(c, &how);
    if (err == DIMFIT_OK)
        err = push_start(c, call, !(train && how.no_hold));
    if (err == DIMFIT_OK)
        *out = call;
    else
        call_end(c, call);
    return err;
}

dimfit_err dimfit_push(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                       size_t n, const struct dimfit_push *push) {
    struct dimfit_call *call;
    const dimfit_err err = dimfit_push_async(c, view, rows, n, push, &call);
    return err != DIMFIT_OK ? err : call_wait(c, call);
}
