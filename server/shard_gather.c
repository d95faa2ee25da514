#include "server/shard_internal.h"

#include <stdlib.h>

/* ---- at once ----------------------------------------------------------------------------------
 */

static dimfit_err figures_collect(struct shard *shard, struct shard_figures *out) {
    struct shard_figures f = {
        .epoch = shard->layout->epoch,
        .shrink = shard->shrink.figures,
        .counters = shard->counters,
    };
    f.counters.clients = sessions_count(shard->sessions);
    f.counters.dense_tables = dense_count(shard->dense);
    f.counters.dense_bytes = dense_bytes(shard->dense);
    f.counters.score_steps = score_steps(shard->score);
    f.counters.score_samples = score_samples(shard->score);
    f.counters.score_bytes = score_bytes(shard->score);
    if (shard->io.process != NULL)
        shard->io.process(shard->io.self, &f.process);
    if (shard->io.service != NULL)
        shard->io.service(shard->io.self, &f.service);
    f.slots = calloc(shard->layout->n_slots + 1, sizeof *f.slots);
    if (f.slots == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t i = 0; i < shard->layout->n_slots; i++) {
        const uint32_t id = shard->layout->slots[i].id;
        const struct table_slot *const slot = table_find(shard->table, id);
        base_assert(slot != NULL);
        const struct table_figures table = table_slot_figures(slot);
        f.counters.keys_pending += table.keys_pending;
        f.slots[f.n_slots++] = (struct slot_figures){.slot = id, .table = table};
    }
    *out = f;
    return DIMFIT_OK;
}

static dimfit_err gather_figures(struct shard *shard, struct buf *buf) {
    struct shard_figures figures;
    const dimfit_err err = figures_collect(shard, &figures);
    if (err != DIMFIT_OK)
        return err;
    shard_figures_encode(&figures, buf);
    shard_figures_fini(&figures);
    return DIMFIT_OK;
}

static enum table_sums sums_of(uint32_t mode) {
    return (mode & GATHER_MOMENTS) != 0   ? TABLE_MOMENTS
           : (mode & GATHER_LOOKUPS) != 0 ? TABLE_LOOKUPS
                                          : TABLE_ROWS;
}

static dimfit_err gather_scores(struct shard *shard, uint32_t mode, struct buf *buf) {
    struct stats *stats = NULL;
    dimfit_err err = stats_new(shard->layout->epoch, &stats);
    if (err == DIMFIT_OK)
        err = table_export(shard->table, TABLE_ROWS, stats);
    if (err == DIMFIT_OK && (mode & GATHER_SCORES) != 0)
        err = score_export(shard->score, stats);
    if (err == DIMFIT_OK)
        shard_add_elsewhere(shard, stats);
    if (err == DIMFIT_OK)
        stats_encode(stats, buf);
    stats_destroy(&stats);
    return err;
}

/* ---- in slices --------------------------------------------------------------------------------
 */

/* A request that comes again is answered once. */
static dimfit_err join(struct shard *shard, const struct wire_header *header,
                       struct shard_reply *reply) {
    struct gather *const gather = &shard->gather;
    reply->later = true;
    for (size_t i = 0; i < gather->n; i++) {
        if (gather->requests[i] == header->request)
            return DIMFIT_OK;
    }
    if (gather->n == GATHERS_MAX) {
        reply->later = false;
        return err_set(&reply->header.detail, DIMFIT_ERR_BUSY,
                       "%d requests wait for the sums over the rows already", GATHERS_MAX);
    }
    if (gather->n == 0)
        gather->mode = 0;
    const bool wider = sums_of(header->mode) > sums_of(gather->mode);
    gather->mode |= header->mode;
    gather->requests[gather->n++] = header->request;
    if (wider)
        shard_gather_anew(shard);
    return DIMFIT_OK;
}

dimfit_err shard_gather(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) {
    const uint32_t mode = in->header->mode;
    if ((mode & GATHER_FIGURES) == 0 && sums_of(mode) != TABLE_ROWS)
        return join(shard, in->header, reply);
    struct buf buf;
    buf_init(&buf);
    dimfit_err err = (mode & GATHER_FIGURES) != 0 ? gather_figures(shard, &buf)
                                                  : gather_scores(shard, mode, &buf);
    if (err == DIMFIT_OK)
        err = shard_body_from(shard, &buf, reply);
    else
        err_set(&reply->header.detail, err, "no memory for the statistics");
    buf_fini(&buf);
    return err;
}

void shard_gather_anew(struct shard *shard) {
    struct gather *const gather = &shard->gather;
    stats_destroy(&gather->stats);
    gather->walk = (struct export_walk){0};
    gather->done = false;
    gather->err = DIMFIT_OK;
}

bool shard_gathers(const struct shard *shard) {
    return shard->gather.n > 0;
}

/* Scores join the sums at the end, of one moment. */
void shard_work_gather(struct shard *shard) {
    struct gather *const gather = &shard->gather;
    if (gather->done)
        return;
    bool more = false;
    dimfit_err err = gather->stats != NULL ? DIMFIT_OK
                                           : stats_new(shard->layout->epoch, &gather->stats);
    if (err == DIMFIT_OK)
        err = table_export_slice(shard->table, sums_of(gather->mode), &gather->walk, gather->stats,
                                 &more);
    if (err == DIMFIT_OK && !more && (gather->mode & GATHER_SCORES) != 0)
        err = score_export(shard->score, gather->stats);
    if (err == DIMFIT_OK && !more)
        shard_add_elsewhere(shard, gather->stats);
    gather->err = err;
    gather->done = err != DIMFIT_OK || !more;
}

bool shard_gather_answer(struct shard *shard, struct shard_reply *reply, dimfit_err *status) {
    struct gather *const gather = &shard->gather;
    if (gather->n == 0 || !gather->done)
        return false;
    struct buf buf;
    buf_init(&buf);
    reply->header.request = gather->requests[--gather->n];
    *status = gather->err;
    if (gather->err == DIMFIT_OK) {
        stats_encode(gather->stats, &buf);
        *status = shard_body_from(shard, &buf, reply);
    } else {
        err_set(&reply->header.detail, gather->err, "no memory for the statistics");
    }
    buf_fini(&buf);
    if (gather->n == 0)
        shard_gather_anew(shard);
    return true;
}
