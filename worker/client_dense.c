#include "worker/client_call.h"

#define XXH_INLINE_ALL
#include <math.h>
#include <stdlib.h>
#include <xxhash.h>

enum { NAME_MAX_BYTES = 100 };

static dimfit_err make(struct dimfit *c, struct exchange *x, struct part *part) {
    const struct call_dense *const call = &((const struct dimfit_call *)x->self)->dense;
    const struct dimfit_dense *const t = &call->table;
    part->header.kind = call->kind;
    part->header.tag = t->tag;
    memcpy(part->header.name, t->name, strlen(t->name) + 1);
    if (call->kind == WIRE_DENSE_PULL)
        return DIMFIT_OK;
    struct buf head;
    buf_init(&head);
    if (call->kind == WIRE_DENSE_RESET) {
        buf_put_u8(&head, (uint8_t)call->optimizer.kind);
        buf_put_f32(&head, call->optimizer.lr);
        buf_put_f32(&head, call->optimizer.eps);
        buf_put_f32(&head, call->optimizer.beta1);
        buf_put_f32(&head, call->optimizer.beta2);
        if (call->optimizer.kind == OPTIMIZER_FTRL) {
            buf_put_f32(&head, call->optimizer.beta);
            buf_put_f32(&head, call->optimizer.l1);
            buf_put_f32(&head, call->optimizer.l2);
        }
    }
    const size_t bytes = t->n * sizeof *t->values;
    dimfit_err err = buf_status(&head);
    if (err == DIMFIT_OK && zmq_msg_init_size(&part->body, head.len + bytes) != 0)
        err = DIMFIT_ERR_NOMEM;
    if (err == DIMFIT_OK) {
        uint8_t *const at = zmq_msg_data(&part->body);
        if (head.len > 0)
            memcpy(at, head.data, head.len);
        if (bytes > 0)
            memcpy(at + head.len, t->values, bytes);
    } else {
        zmq_msg_init(&part->body);
    }
    buf_fini(&head);
    return err;
}

static dimfit_err take(struct dimfit *c, struct exchange *x, struct part *part,
                       const struct wire_header *header) {
    struct call_dense *const call = &((struct dimfit_call *)x->self)->dense;
    call->created = header->mode != 0;
    const size_t len = zmq_msg_size(&part->answer);
    if (call->kind == WIRE_DENSE_PULL && len != call->table.n * sizeof *call->table.values)
        return err_set(&part->detail, DIMFIT_ERR_WIDTH, "dense table '%s' has %zu values, not %zu",
                       call->table.name, len / sizeof *call->table.values, call->table.n);
    return DIMFIT_OK;
}

static void finish(struct dimfit *c, struct dimfit_call *call) {
    const struct dimfit_dense *const t = &call->dense.table;
    if (call->dense.kind == WIRE_DENSE_PULL && t->n > 0)
        memcpy(t->values, zmq_msg_data(&call->exchange.parts[0].answer), t->n * sizeof *t->values);
}

static dimfit_err check(struct dimfit *c, const struct dimfit_dense *t, bool values) {
    const size_t len = t->name == NULL ? 0 : strlen(t->name);
    if (len == 0 || len > NAME_MAX_BYTES)
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "a dense table's name has 1 to %d bytes",
                       NAME_MAX_BYTES);
    for (size_t i = 0; values && i < t->n; i++) {
        if (!isfinite(t->values[i]))
            return err_set(&c->detail, DIMFIT_ERR_NOT_FINITE, "dense table '%s', value %zu",
                           t->name, i);
    }
    return DIMFIT_OK;
}

/* Check and send; *out is set on success. */
static dimfit_err begin(struct dimfit *c, const struct call_dense *dense,
                        struct dimfit_call **out) {
    const char *const name = dense->table.name;
    struct dimfit_call *call;
    dimfit_err err = check(c, &dense->table, dense->kind != WIRE_DENSE_PULL);
    if (err == DIMFIT_OK)
        err = call_new(c, DIMFIT_FULL, NULL, 0, &call);
    if (err != DIMFIT_OK)
        return err;
    call->dense = *dense;
    call->finish = finish;
    call->exchange.what = "dense table request";
    call->exchange.recorded = dense->kind == WIRE_DENSE_PUSH;
    call->exchange.hold = true;
    call->exchange.make = make;
    call->exchange.take = take;
    err = call_start_one(c, call, cluster_map_shard(c->map, XXH3_64bits(name, strlen(name))));
    if (err == DIMFIT_OK)
        *out = call;
    else
        call_end(c, call);
    return err;
}

static dimfit_err begin_kind(struct dimfit *c, enum wire_kind kind,
                             const struct dimfit_dense *table, struct dimfit_call **out) {
    const struct call_dense dense = {.kind = kind, .table = *table};
    const dimfit_err err = client_begin(c);
    return err != DIMFIT_OK ? err : begin(c, &dense, out);
}

dimfit_err dimfit_dense_reset(struct dimfit *c, const struct dimfit_dense *table, int *created) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct call_dense dense = {
        .kind = WIRE_DENSE_RESET,
        .table = *table,
        .optimizer =
            {
                .kind = OPTIMIZER_ADAM,
                .lr = table->lr > 0 ? (float)table->lr : 0.001f,
                .eps = 1e-8f,
                .beta1 = 0.9f,
                .beta2 = 0.999f,
                .beta = 1,
            },
    };
    if (table->optimizer != NULL && !optimizer_parse(table->optimizer, &dense.optimizer.kind))
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "'%s' is no optimizer", table->optimizer);
    struct dimfit_call *call;
    err = begin(c, &dense, &call);
    if (err != DIMFIT_OK)
        return err;
    err = exchange_finish(c, &call->exchange);
    if (err == DIMFIT_OK && created != NULL)
        *created = call->dense.created;
    call_end(c, call);
    return err;
}

dimfit_err dimfit_dense_pull_async(struct dimfit *c, const struct dimfit_dense *table,
                                   struct dimfit_call **out) {
    return begin_kind(c, WIRE_DENSE_PULL, table, out);
}

dimfit_err dimfit_dense_push_async(struct dimfit *c, const struct dimfit_dense *table,
                                   struct dimfit_call **out) {
    return begin_kind(c, WIRE_DENSE_PUSH, table, out);
}

static dimfit_err run(struct dimfit *c, enum wire_kind kind, const struct dimfit_dense *table) {
    struct dimfit_call *call;
    const dimfit_err err = begin_kind(c, kind, table, &call);
    return err != DIMFIT_OK ? err : call_wait(c, call);
}

dimfit_err dimfit_dense_pull(struct dimfit *c, const struct dimfit_dense *table) {
    return run(c, WIRE_DENSE_PULL, table);
}

dimfit_err dimfit_dense_push(struct dimfit *c, const struct dimfit_dense *table) {
    return run(c, WIRE_DENSE_PUSH, table);
}
