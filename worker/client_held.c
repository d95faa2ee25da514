#include "worker/client_rows.h"

#include <stdlib.h>

enum { FLUSH_RETRY_MS = 20 };

void held_destroy(struct held **held) {
    if (*held == NULL)
        return;
    for (size_t i = 0; i < (*held)->n; i++) {
        free((*held)->slots[i].key);
        free((*held)->slots[i].count);
        free((*held)->slots[i].values);
    }
    free((*held)->slots);
    free(*held);
    *held = NULL;
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
    for (size_t p = 0; p < x->n_parts; p++) {
        const size_t shard = x->parts[p].shard;
        if (x->parts[p].state != PART_HELD)
            continue;
        for (size_t u = keys->start[shard]; u < keys->start[shard + 1]; u++, out->n++) {
            out->key[out->n] = keys->key[u];
            out->count[out->n] = rows_count(c, call, i, u);
            memcpy(out->values + out->n * width, rows_at(c, call, i, u), width * sizeof(float));
        }
    }
    return true;
}

dimfit_err held_keep(struct dimfit *c, const struct rows_call *call, const struct exchange *x,
                     struct held **out) {
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
    err = rows_push(c, &call, false, &rest);
    held_destroy(&c->held);
    c->held = rest;

done:
    free(rows);
    free(counts);
    return err;
}

dimfit_err held_flush(struct dimfit *c, bool wait) {
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
    return err != DIMFIT_OK ? err : held_flush(c, true);
}
