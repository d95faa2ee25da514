#include "server/shard_internal.h"

#include <stdlib.h>

/* Whether a slot is new; EXISTS when it is there as something else. */
static dimfit_err check_slot(const struct shard *shard, const struct layout_slot *slot,
                             bool *is_new, struct err_detail *detail) {
    const struct layout_slot *const there = layout_find(shard->layout, slot->id);
    *is_new |= there == NULL;
    if (there == NULL || (there->dim == slot->dim && there->optimizer.kind == slot->optimizer.kind))
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_EXISTS, "slot %u has rows of dim %u %s here, not dim %u %s",
                   slot->id, there->dim, optimizer_name(there->optimizer.kind), slot->dim,
                   optimizer_name(slot->optimizer.kind));
}

/* New slots join the layout in force; a repeated command finds them there and is done. */
static dimfit_err add_slot(struct shard *shard, const struct layout_slot *slot,
                           struct err_detail *detail) {
    if (layout_find(shard->layout, slot->id) != NULL)
        return DIMFIT_OK;
    const dimfit_err err = table_add_slot(shard->table, slot);
    return err == DIMFIT_OK || err == DIMFIT_ERR_EXISTS
               ? layout_add_slot(shard->layout, slot, detail)
               : err_set(detail, err, "no memory for slot %u", slot->id);
}

/* Every slot of the command, in order: looked at, or added. */
static dimfit_err each_slot(struct shard *shard, const struct shard_message *in, bool add,
                            bool *is_new, struct err_detail *detail) {
    struct reader r = reader_of(in->body, in->len);
    const uint32_t n = reader_u32(&r);
    for (uint32_t i = 0; i < n; i++) {
        struct layout_slot slot;
        dimfit_err err = layout_slot_decode(&r, &slot, detail);
        if (err != DIMFIT_OK)
            return err;
        err = add ? add_slot(shard, &slot, detail) : check_slot(shard, &slot, is_new, detail);
        layout_slot_fini(&slot);
        if (err != DIMFIT_OK)
            return err;
    }
    return reader_done(&r)
               ? DIMFIT_OK
               : err_set(detail, DIMFIT_ERR_PROTOCOL, "bytes left over after the slots");
}

/* What finds no memory behind the record is added by the command's repeat: the record stays. */
dimfit_err shard_add_slots(struct shard *shard, const struct shard_message *in,
                           struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    bool is_new = false;
    dimfit_err err = each_slot(shard, in, false, &is_new, detail);
    if (err != DIMFIT_OK || !is_new)
        return err;
    err = shard_log_message(shard, in, detail);
    return err == DIMFIT_OK ? each_slot(shard, in, true, &is_new, detail) : err;
}

dimfit_err shard_score_start(struct shard *shard, const struct shard_message *in,
                             struct shard_reply *reply) {
    const uint32_t mode = in->header->mode;
    const bool curvature = (mode & SCORE_WANT_CURVATURE) != 0;
    const dimfit_err err = shard_log_message(shard, in, &reply->header.detail);
    if (err != DIMFIT_OK)
        return err;
    score_restart(shard->score,
                  ((mode & SCORE_WANT_MOMENTS) != 0 ? SCORE_KEEP_MOMENTS : 0u) |
                      (curvature ? SCORE_KEEP_CURVATURE : 0u),
                  true);
    score_window(shard->score, in->header->step);
    shard->curvature = curvature;
    shard->search = in->header->tag;
    shard->frozen = (mode & SCORE_WANT_FREEZE) != 0;
    shard->live = (mode & SCORE_WANT_LIVE) != 0;
    shard->full = false;
    return DIMFIT_OK;
}

/* Pushes are again what they are outside a search. */
static void end_scoring(struct shard *shard) {
    shard->frozen = false;
    shard->live = false;
    shard->curvature = false;
}

dimfit_err shard_score_stop(struct shard *shard, const struct shard_message *in,
                            struct shard_reply *reply) {
    const dimfit_err err = shard_log_message(shard, in, &reply->header.detail);
    if (err != DIMFIT_OK)
        return err;
    score_stop(shard->score);
    end_scoring(shard);
    return DIMFIT_OK;
}

static void forget_prepared(struct shard *shard) {
    change_destroy(&shard->prepared_change);
    layout_destroy(&shard->prepared_layout);
    shard->prepared_epoch = 0;
}

static dimfit_err check_memory(struct shard *shard, const struct change *change,
                               struct err_detail *detail) {
    if (shard->max_memory == 0 || shard->io.process == NULL || shard->replaying)
        return DIMFIT_OK;
    struct process_figures process;
    shard->io.process(shard->io.self, &process);
    const uint64_t peak = process.resident_bytes + table_change_peak(shard->table, change);
    if (peak <= shard->max_memory)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_LIMIT,
                   "the change would take the process to %llu MiB, --max-memory is %llu MiB",
                   (unsigned long long)(peak >> 20), (unsigned long long)(shard->max_memory >> 20));
}

/* Only the last change can be undone, and only while the rows before it are saved. */
static dimfit_err check_undone(const struct shard *shard, const struct change *change,
                               struct err_detail *detail) {
    if (change->undoes == 0 || (shard->before != NULL && change->undoes == shard->layout->epoch))
        return DIMFIT_OK;
    return err_set(
        detail, DIMFIT_ERR_STATE,
        "the change to epoch %llu can't be undone here: the rows before it are not saved",
        (unsigned long long)change->undoes);
}

/* First step of a change: take change and layout in, check them against what is here, move nothing.
 */
dimfit_err shard_prepare(struct shard *shard, const struct shard_message *in,
                         struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    struct reader r = reader_of(in->body, in->len);
    const uint64_t change_len = reader_u64(&r);
    const uint8_t *const change_bytes = reader_take(&r, change_len);
    if (change_bytes == NULL)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "the change is cut short");

    struct change *change = NULL;
    struct layout *layout = NULL, *expected = NULL;
    dimfit_err err = change_decode(change_bytes, change_len, &change, detail);
    if (err == DIMFIT_OK)
        err = layout_decode(r.data, r.left, &layout, detail);
    if (err == DIMFIT_OK)
        err = check_undone(shard, change, detail);
    if (err == DIMFIT_OK)
        err = change_apply(change, shard->layout, change->undoes != 0 ? shard->before : NULL,
                           &expected, detail);
    if (err == DIMFIT_OK &&
        (layout->epoch != in->header->tag || layout->n_slots != expected->n_slots))
        err = err_set(detail, DIMFIT_ERR_PROTOCOL, "change and layout do not belong together");
    for (size_t i = 0; err == DIMFIT_OK && i < layout->n_slots; i++) {
        if (layout->slots[i].id != expected->slots[i].id ||
            layout->slots[i].width != expected->slots[i].width)
            err = err_set(detail, DIMFIT_ERR_PROTOCOL, "slot %u: change and layout disagree",
                          layout->slots[i].id);
    }
    layout_destroy(&expected);
    if (err == DIMFIT_OK)
        err = table_change_check(shard->table, change, layout, detail);
    if (err == DIMFIT_OK)
        err = check_memory(shard, change, detail);
    if (err == DIMFIT_OK)
        err = shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK) {
        change_destroy(&change);
        layout_destroy(&layout);
        return err;
    }
    forget_prepared(shard);
    shard->prepared_change = change;
    shard->prepared_layout = layout;
    shard->prepared_epoch = layout->epoch;
    return DIMFIT_OK;
}

/* The layout in force gives way; what it was is needed to undo the change. */
static void take_layout(struct shard *shard, const struct change *change) {
    layout_destroy(&shard->before);
    if (shard->keep && change->undoes == 0)
        shard->before = shard->layout;
    else
        layout_destroy(&shard->layout);
    shard->layout = shard->prepared_layout;
    shard->prepared_layout = NULL;
    shard_gather_anew(shard);
}

/* Second step: switch. Rows move from now on, in slices. Repeated after success it is done already.
 */
dimfit_err shard_commit(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    const uint64_t epoch = in->header->tag;
    if (shard->layout->epoch == epoch)
        return DIMFIT_OK;
    if (shard->prepared_epoch != epoch)
        return err_set(detail, DIMFIT_ERR_STATE, "epoch %llu was never prepared here",
                       (unsigned long long)epoch);
    dimfit_err err = shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK)
        return err;
    err = table_change(shard->table, shard->prepared_change, shard->prepared_layout, detail);
    if (err != DIMFIT_OK) {
        shard_unlog(shard);
        return err;
    }
    take_layout(shard, shard->prepared_change);
    forget_prepared(shard);
    dense_drop_old(shard->dense, epoch);
    score_restart(shard->score, 0, false);
    end_scoring(shard);
    return DIMFIT_OK;
}

dimfit_err shard_discard(struct shard *shard, const struct shard_message *in,
                         struct shard_reply *reply) {
    const dimfit_err err = shard_log_message(shard, in, &reply->header.detail);
    if (err != DIMFIT_OK)
        return err;
    /* Another epoch's may be committed already. */
    if (shard->prepared_epoch == in->header->tag)
        forget_prepared(shard);
    score_stop(shard->score);
    end_scoring(shard);
    return DIMFIT_OK;
}

/* The last change stays: what it could be undone with goes. */
dimfit_err shard_forget(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) {
    const uint64_t epoch = in->header->tag;
    if (shard->before == NULL || shard->layout->epoch != epoch)
        return DIMFIT_OK; /* nothing of it is there */
    dimfit_err err = shard_log_message(shard, in, &reply->header.detail);
    if (err != DIMFIT_OK)
        return err;
    err = table_forget(shard->table, epoch);
    if (err != DIMFIT_OK)
        shard_unlog(shard);
    if (err != DIMFIT_OK)
        return err_set(&reply->header.detail, err,
                       "rows of the change to epoch %llu are still being moved; try again",
                       (unsigned long long)epoch);
    layout_destroy(&shard->before);
    return DIMFIT_OK;
}
