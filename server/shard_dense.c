#include "server/shard_internal.h"

#include <math.h>

static dimfit_err check_values(const uint8_t *bytes, size_t len, const char *name,
                               struct err_detail *detail) {
    if (len % sizeof(float) != 0)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "dense table '%s': %zu bytes are no floats",
                       name, len);
    for (size_t i = 0; i < len / sizeof(float); i++) {
        if (!isfinite(load_f32(bytes + i * sizeof(float))))
            return err_set(detail, DIMFIT_ERR_NOT_FINITE, "dense table '%s', value %zu", name, i);
    }
    return DIMFIT_OK;
}

static dimfit_err find(struct shard *shard, const struct wire_header *header,
                       struct dense_table **out, struct err_detail *detail) {
    struct dense_table *const table = dense_find(shard->dense, header->name, header->tag);
    if (table == NULL)
        return err_set(detail, DIMFIT_ERR_NOT_FOUND,
                       "no dense table '%s' of tag %llu; create it with a reset", header->name,
                       (unsigned long long)header->tag);
    *out = table;
    return DIMFIT_OK;
}

static bool at_least_zero(float v) {
    return isfinite(v) && v >= 0;
}

static bool optimizer_valid(const struct optimizer *o) {
    return optimizer_name(o->kind) != NULL && isfinite(o->lr) && o->lr > 0 && isfinite(o->eps) &&
           o->eps >= 0 && o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 &&
           at_least_zero(o->beta) && at_least_zero(o->l1) && at_least_zero(o->l2);
}

dimfit_err shard_dense_reset(struct shard *shard, const struct shard_message *in,
                             struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    const char *const name = in->header->name;
    struct reader r = reader_of(in->body, in->len);
    struct optimizer optimizer = {.kind = reader_u8(&r)};
    optimizer.lr = reader_f32(&r);
    optimizer.eps = reader_f32(&r);
    optimizer.beta1 = reader_f32(&r);
    optimizer.beta2 = reader_f32(&r);
    if (optimizer.kind == OPTIMIZER_FTRL) {
        optimizer.beta = reader_f32(&r);
        optimizer.l1 = reader_f32(&r);
        optimizer.l2 = reader_f32(&r);
    }
    if (r.failed || !optimizer_valid(&optimizer))
        return err_set(detail, DIMFIT_ERR_INVALID, "dense table '%s': no valid optimizer", name);
    if (name[0] == 0 || strlen(name) > DENSE_NAME_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "a dense table's name has 1 to %d bytes",
                       DENSE_NAME_MAX);
    dimfit_err err = check_values(r.data, r.left, name, detail);
    bool created = false;
    if (err == DIMFIT_OK && dense_find(shard->dense, name, in->header->tag) == NULL)
        err = shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK)
        return err;
    err = dense_create(shard->dense, name, in->header->tag, &optimizer, r.data,
                       r.left / sizeof(float), &created, detail);
    if (err != DIMFIT_OK && shard->logged)
        shard_unlog(shard);
    if (err != DIMFIT_OK)
        return err;
    reply->header.mode = created;
    shard->counters.dense_requests++;
    return DIMFIT_OK;
}

dimfit_err shard_dense_pull(struct shard *shard, const struct shard_message *in,
                            struct shard_reply *reply) {
    struct dense_table *table = NULL;
    dimfit_err err = find(shard, in->header, &table, &reply->header.detail);
    if (err != DIMFIT_OK)
        return err;
    uint8_t *body = NULL;
    err = shard_body(shard, table->n * sizeof(float), reply, &body);
    if (err != DIMFIT_OK)
        return err;
    memcpy(body, table->values, table->n * sizeof(float));
    shard->counters.dense_requests++;
    return DIMFIT_OK;
}

dimfit_err shard_dense_push(struct shard *shard, const struct shard_message *in,
                            struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    struct dense_table *table = NULL;
    dimfit_err err = find(shard, in->header, &table, detail);
    if (err == DIMFIT_OK && in->len != table->n * sizeof(float))
        err = err_set(detail, DIMFIT_ERR_WIDTH,
                      "dense table '%s' has %zu values, the push %zu bytes", table->name, table->n,
                      in->len);
    if (err == DIMFIT_OK)
        err = check_values(in->body, in->len, in->header->name, detail);
    if (err == DIMFIT_OK)
        err = shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK)
        return err;
    dense_push(table, in->body);
    shard->counters.dense_requests++;
    return DIMFIT_OK;
}
