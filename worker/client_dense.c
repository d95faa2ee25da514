#include "worker/client_internal.h"

#include <math.h>
#include <stdlib.h>

enum { NAME_MAX_BYTES = 100 };

struct dense_call {
    enum wire_kind kind;
    const struct dimfit_dense *table;
    struct optimizer optimizer;
    int created;
};

static dimfit_err make(struct dimfit *c, struct exchange *x, struct part *part) {
    const struct dense_call *const call = x->self;
    const struct dimfit_dense *const t = call->table;
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
    struct dense_call *const call = x->self;
    call->created = header->mode != 0;
    if (call->kind != WIRE_DENSE_PULL)
        return DIMFIT_OK;
    const size_t len = zmq_msg_size(&part->answer);
    if (len != call->table->n * sizeof *call->table->values)
        return err_set(&part->detail, DIMFIT_ERR_WIDTH, "dense table '%s' has %zu values, not %zu",
                       call->table->name, len / sizeof *call->table->values, call->table->n);
    if (len > 0)
        memcpy(call->table->values, zmq_msg_data(&part->answer), len);
    return DIMFIT_OK;
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

static dimfit_err run(struct dimfit *c, struct dense_call *call) {
    const char *const name = call->table->name;
    struct part part = {.shard = cluster_map_shard(c->map, XXH3_64bits(name, strlen(name)))};
    struct exchange x = {
        .what = "dense table request",
        .recorded = call->kind == WIRE_DENSE_PUSH,
        .hold = true,
        .n_parts = 1,
        .parts = &part,
        .make = make,
        .take = take,
        .self = call,
    };
    const dimfit_err err = exchange_run(c, &x);
    exchange_fini(&x);
    return err;
}

dimfit_err dimfit_dense_reset(struct dimfit *c, const struct dimfit_dense *table, int *created) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct dense_call call = {
        .kind = WIRE_DENSE_RESET,
        .table = table,
        .optimizer =
            {
                .kind = OPTIMIZER_ADAM,
                .lr = table->lr > 0 ? (float)table->lr : 0.001f,
                .eps = 1e-8f,
                .beta1 = 0.9f,
                .beta2 = 0.999f,
            },
    };
    if (table->optimizer != NULL && !optimizer_parse(table->optimizer, &call.optimizer.kind))
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "'%s' is no optimizer", table->optimizer);
    err = check(c, table, true);
    if (err == DIMFIT_OK)
        err = run(c, &call);
    if (err == DIMFIT_OK && created != NULL)
        *created = call.created;
    return err;
}

dimfit_err dimfit_dense_pull(struct dimfit *c, const struct dimfit_dense *table) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct dense_call call = {.kind = WIRE_DENSE_PULL, .table = table};
    err = check(c, table, false);
    return err != DIMFIT_OK ? err : run(c, &call);
}

dimfit_err dimfit_dense_push(struct dimfit *c, const struct dimfit_dense *table) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct dense_call call = {.kind = WIRE_DENSE_PUSH, .table = table};
    err = check(c, table, true);
    return err != DIMFIT_OK ? err : run(c, &call);
}
