#include "worker/client_call.h"

#include <stdlib.h>

enum { FLUSH_RETRY_MS = 20 };

void held_destroy(struct held **held) {
    if (*held == NULL)
        return;
    for (size_t i = 0; i < (*held)->n; i++) {
        free((*held)->slots[i].key);
        free((*held)->slots[i].count);
        free((*held)->slots[i].clicks);
        free((*held)->slots[i].values);
    }
    free((*held)->slots);
    free(*held);
    *held = NULL;
}

static bool keep_slot(const struct dimfit_call *call, size_t i, struct grads *out) {
    const struct exchange *const x = &call->exchange;
    const struct keys *const keys = &call->slots[i].keys;
    const size_t width = call->rows[i].width;
    *out = (struct grads){
        .slot = call->rows[i].slot,
        .width = call->rows[i].width,
        .key = malloc((keys->n + 1) * sizeof *out->key),
        .count = malloc((keys->n + 1) * sizeof *out->count),
        .values = malloc((keys->n * width + 1) * sizeof *out->values),
    };
    const uint32_t *const clicks = call->rows[i].clicks != NULL ? call->slots[i].clicks : NULL;
    if (clicks != NULL)
        out->clicks = malloc((keys->n + 1) * sizeof *out->clicks);
    if (out->key == NULL || out->count == NULL || out->values == NULL ||
        (clicks != NULL && out->clicks == NULL))
        return false;
    for (size_t p = 0; p < x->n_parts; p++) {
        const size_t shard = x->parts[p].shard;
        if (x->parts[p].state != PART_HELD)
            continue;
        for (size_t u = keys->start[shard]; u < keys->start[shard + 1]; u++, out->n++) {
            out->key[out->n] = keys->key[u];
            out->count[out->n] = call_count(call, i, u);
            if (clicks != NULL)
                out->clicks[out->n] = clicks[u];
            memcpy(out->values + out->n * width, call_row(call, i, u), width * sizeof(float));
        }
    }
    return true;
}

dimfit_err held_keep(struct dimfit *c, const struct dimfit_call *call) {
    base_assert(c->held == NULL);
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
        whole = keep_slot(call, i, &held->slots[i]);
        held->n = i + 1;
    }
    if (!whole) {
        held_destroy(&held);
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory to hold a push; it is lost");
    }
    c->held = held;
    return DIMFIT_OK;
}

static struct dimfit_rows rows_of(const struct grads *g) {
    return (struct dimfit_rows){
        .slot = g->slot,
        .n = g->n,
        .keys = g->key,
        .values = g->values,
        .width = g->width,
        .clicks = g->clicks,
    };
}

/* Deliver what the shards take now; the rest stays held. */
static dimfit_err flush_once(struct dimfit *c) {
    struct held *held = c->held;
    struct dimfit_rows *const rows = calloc(held->n + 1, sizeof *rows);
    if (rows == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM,
                       "no memory to deliver a held push; it stays held");
    for (size_t i = 0; i < held->n; i++)
        rows[i] = rows_of(&held->slots[i]);
    struct dimfit_call *call;
    dimfit_err err = call_new(c, held->view, rows, held->n, &call);
    free(rows);
    if (err != DIMFIT_OK)
        return err;
    call->push = held->push;
    call->epoch = held->push.epoch;
    for (size_t i = 0; i < held->n; i++)
        call->slots[i].counts = held->slots[i].count;
    c->held = NULL;
    err = push_start(c, call, false);
    if (err == DIMFIT_OK)
        err = call_wait(c, call);
    else
        call_end(c, call);
    held_destroy(&held);
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
