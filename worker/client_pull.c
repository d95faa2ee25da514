#include "proto/half.h"
#include "worker/client_call.h"

#include <stdlib.h>

static size_t value_bytes(const struct dimfit *c) {
    return c->half ? sizeof(uint16_t) : sizeof(float);
}

static bool wants_tiers(const struct dimfit_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        if (call->rows[i].tiers != NULL)
            return true;
    }
    return false;
}

static dimfit_err make(struct dimfit *c, struct exchange *x, struct part *part) {
    struct dimfit_call *const call = x->self;
    struct part_size size;
    dimfit_err err = call_sections(call, part, &size);
    if (err != DIMFIT_OK)
        return err;
    if (call->view == DIMFIT_COMPACT && part->view->shown.epoch != call->epoch)
        return call_stale(call, part);
    part->header.kind = WIRE_PULL;
    part->header.mode = (c->half ? PULL_HALF : 0) | (wants_tiers(call) ? PULL_TIERS : 0);
    uint8_t *ignored;
    return call_body(call, part, &size, false, 0, &ignored);
}

static dimfit_err take(struct dimfit *c, struct exchange *x, struct part *part,
                       const struct wire_header *header) {
    struct part_size size;
    const dimfit_err err = call_sections(x->self, part, &size);
    const size_t tiers = err == DIMFIT_OK && wants_tiers(x->self) ? size.rows : 0;
    const size_t expected = size.values * value_bytes(c) + tiers;
    const size_t len = zmq_msg_size(&part->answer);
    if (err == DIMFIT_OK && len != expected)
        return err_set(&part->detail, DIMFIT_ERR_PROTOCOL, "an answer of %zu bytes, not %zu", len,
                       expected);
    return err;
}

/* Values as received, at any address, as floats. */
static void take_values(const struct dimfit *c, const uint8_t *from, size_t n, float *to) {
    if (c->half)
        half_decode(from, n, to);
    else
        memcpy(to, from, n * sizeof *to);
}

/* Each row goes to where its key occurred first; repeats are filled in at the end. */
static void put_rows(const struct dimfit *c, const struct dimfit_call *call, struct part *part) {
    const uint8_t *at = zmq_msg_data(&part->answer);
    float r[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < call->n; i++) {
        const struct view_slot *const slot = call_map(part->view, call->rows[i].slot);
        const bool same = call_is_same(call, slot);
        struct span span = call_span(call, i, part->shard);
        while (span.at < span.end) {
            float *const out = call_row(call, i, span.at);
            const size_t run = same ? call_run(call, i, span) : 1;
            take_values(c, at, run * slot->width, same ? out : r);
            if (!same)
                view_rows(slot, r, out);
            at += run * slot->width * value_bytes(c);
            span.at += run;
        }
    }
}

/* A part's tiers stand behind all of its values. */
static void put_tiers(const struct dimfit_call *call, struct part *part) {
    const uint8_t *at = zmq_msg_data(&part->answer);
    size_t rows = 0;
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        rows += span.end - span.at;
    }
    at += zmq_msg_size(&part->answer) - rows;
    for (size_t i = 0; i < call->n; i++) {
        uint8_t *const tiers = call->rows[i].tiers;
        const struct span span = call_span(call, i, part->shard);
        for (size_t u = span.at; u < span.end; u++, at++) {
            if (tiers != NULL)
                tiers[call->slots[i].keys.use[u].first] = *at;
        }
    }
}

static void fill_repeats(const struct dimfit_call *call) {
    for (size_t i = 0; i < call->n; i++) {
        const struct keys *const keys = &call->slots[i].keys;
        const size_t width = call->rows[i].width;
        for (size_t j = 0; j < keys->n_repeats; j++) {
            const struct key_repeat *const repeat = &keys->repeats[j];
            memcpy(call->rows[i].values + repeat->at * width, call_row(call, i, repeat->of),
                   width * sizeof(float));
            if (call->rows[i].tiers != NULL)
                call->rows[i].tiers[repeat->at] = call->rows[i].tiers[keys->use[repeat->of].first];
        }
    }
}

/* The caller's arrays are written once every part has been answered. */
static void finish(struct dimfit *c, struct dimfit_call *call) {
    const bool tiers = wants_tiers(call);
    for (size_t p = 0; p < call->exchange.n_parts; p++) {
        put_rows(c, call, &call->exchange.parts[p]);
        if (tiers)
            put_tiers(call, &call->exchange.parts[p]);
    }
    fill_repeats(call);
    if (call->view == DIMFIT_COMPACT)
        c->compact_epoch = call->epoch;
}

dimfit_err dimfit_pull_async(struct dimfit *c, enum dimfit_view view,
                             const struct dimfit_rows *rows, size_t n, struct dimfit_call **out) {
    struct dimfit_call *call = NULL;
    dimfit_err err = client_begin(c);
    if (err == DIMFIT_OK)
        err = call_new(c, view, rows, n, &call);
    if (err != DIMFIT_OK)
        return err;
    err = call_split(c, call);
    for (size_t i = 0; err == DIMFIT_OK && i < n; i++)
        err = call_check_width(c, view, &rows[i]);
    call->epoch = c->view->shown.epoch;
    call->exchange.what = "pull";
    call->exchange.make = make;
    call->exchange.take = take;
    call->finish = finish;
    if (err == DIMFIT_OK)
        err = call_start(c, call);
    if (err == DIMFIT_OK)
        *out = call;
    else
        call_end(c, call);
    return err;
}

dimfit_err dimfit_pull(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                       size_t n) {
    struct dimfit_call *call;
    const dimfit_err err = dimfit_pull_async(c, view, rows, n, &call);
    return err != DIMFIT_OK ? err : call_wait(c, call);
}
