#include "proto/sums.h"
#include "worker/client_call.h"

#include <math.h>
#include <stdlib.h>

/* All of them go to one shard, so that it knows all rows there are of a slot: the same one whoever
 * asks, whatever the step. */
enum { SUMS_BUCKET_HASH = 0 };

static dimfit_err make(struct dimfit *c, struct exchange *x, struct part *part) {
    const struct dimfit_call *const call = x->self;
    const struct view *const now = part->view;
    struct buf body;
    buf_init(&body);
    for (size_t i = 0; i < call->n_sums; i++) {
        const struct view_slot *const slot = call_map(now, call->sums[i].slot);
        if (slot == NULL || slot->width != call->sums[i].width)
            return err_set(&part->detail, DIMFIT_ERR_WIDTH,
                           "slot %u is %u wide in epoch %llu, its score sums are of %u",
                           call->sums[i].slot, slot != NULL ? slot->width : 0,
                           (unsigned long long)now->shown.epoch, call->sums[i].width);
    }
    sums_encode(call->sums, call->n_sums, &body);
    dimfit_err err = buf_status(&body);
    if (err == DIMFIT_OK && zmq_msg_init_size(&part->body, body.len) != 0) {
        zmq_msg_init(&part->body);
        err = DIMFIT_ERR_NOMEM;
    }
    if (err == DIMFIT_OK)
        memcpy(zmq_msg_data(&part->body), body.data, body.len);
    buf_fini(&body);
    part->header.kind = WIRE_SCORE_SUMS;
    part->header.step = call->push.step;
    part->header.samples = call->push.samples;
    return err;
}

static dimfit_err take(struct dimfit *c, struct exchange *x, struct part *part,
                       const struct wire_header *header) {
    return DIMFIT_OK;
}

static int compare_slots(const void *x, const void *y) {
    const struct sums *const a = x, *const b = y;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

static dimfit_err check(struct dimfit *c, const struct dimfit_sums *given, size_t n,
                        struct sums *out) {
    for (size_t i = 0; i < n; i++) {
        const struct dimfit_sums *const s = &given[i];
        size_t ignored;
        const dimfit_err err = client_slot(c, s->slot, &ignored);
        if (err != DIMFIT_OK)
            return err;
        for (uint32_t k = 0; k < s->width; k++) {
            if (!isfinite(s->g[k]))
                return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE,
                               "slot %u: the score sum of dimension %u is not finite", s->slot, k);
        }
        out[i] = (struct sums){s->slot, s->width, s->rows, (const uint8_t *)s->g};
    }
    qsort(out, n, sizeof *out, compare_slots);
    for (size_t i = 1; i < n; i++) {
        if (out[i].slot == out[i - 1].slot)
            return err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u is named twice", out[i].slot);
    }
    return DIMFIT_OK;
}

static dimfit_err run(struct dimfit *c, const struct sums *sums, size_t n, uint64_t step,
                      uint64_t samples) {
    struct dimfit_call *call;
    const dimfit_err err = call_new(c, DIMFIT_FULL, NULL, 0, &call);
    if (err != DIMFIT_OK)
        return err;
    call->sums = sums;
    call->n_sums = n;
    call->push.step = step != 0 ? step : push_own_step(c);
    call->push.samples = samples != 0 ? samples : 1;
    call->exchange.what = "report of score sums";
    call->exchange.recorded = true;
    call->exchange.hold = true;
    call->exchange.make = make;
    call->exchange.take = take;
    const dimfit_err sent = call_start_one(c, call, cluster_map_shard(c->map, SUMS_BUCKET_HASH));
    if (sent == DIMFIT_OK)
        return call_wait(c, call);
    call_end(c, call);
    return sent;
}

dimfit_err dimfit_score_sums(struct dimfit *c, const struct dimfit_sums *sums, size_t n,
                             uint64_t step, uint64_t samples) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct sums *const checked = malloc((n + 1) * sizeof *checked);
    if (checked == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for the score sums of %zu slots",
                       n);
    err = check(c, sums, n, checked);
    if (err == DIMFIT_OK)
        err = run(c, checked, n, step, samples);
    free(checked);
    return err;
}
