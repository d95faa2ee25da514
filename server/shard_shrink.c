#include "server/shard_internal.h"

#include <stdlib.h>

static dimfit_err check_shrink(struct shard *shard, const struct wire_header *header,
                               const struct shrink_rule *rules, size_t n, uint64_t *keys,
                               struct err_detail *detail) {
    if (header->step == 0 || header->step > COUNTERS_DAY_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "day %llu of a shrink is not within 1..%d",
                       (unsigned long long)header->step, COUNTERS_DAY_MAX);
    if ((header->mode & ~(uint32_t)SHRINK_DRY_RUN) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "mode %u of a shrink is not known",
                       header->mode);
    for (size_t i = 0; i < n; i++) {
        const struct table_slot *const slot = table_find(shard->table, rules[i].slot);
        if (slot == NULL)
            return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT, "slot %u is not in the layout",
                           rules[i].slot);
        const struct table_figures figures = table_slot_figures(slot);
        *keys += figures.rows + figures.pending;
    }
    return DIMFIT_OK;
}

/* The rows go later, in shard_work(). A number that is known is under way or done; another takes
 * the place of what is under way, which stops between two slices. */
dimfit_err shard_shrink(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    const struct wire_header *const header = in->header;
    struct shrink *const shrink = &shard->shrink;
    if (header->tag == 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "a shrink has a number above 0");
    if (header->tag == shrink->figures.number)
        return DIMFIT_OK;
    struct shrink_rule *rules = NULL;
    size_t n = 0;
    uint64_t keys = 0;
    dimfit_err err = shrink_decode(in->body, in->len, &rules, &n, detail);
    if (err != DIMFIT_OK)
        return err;
    err = check_shrink(shard, header, rules, n, &keys, detail);
    if (err == DIMFIT_OK)
        err = shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK) {
        free(rules);
        return err;
    }
    free(shrink->rules);
    *shrink = (struct shrink){.rules = rules, .today = (uint32_t)header->step};
    shrink->figures.number = header->tag;
    shrink->figures.running = 1;
    shrink->figures.dry_run = (header->mode & SHRINK_DRY_RUN) != 0;
    shrink->figures.slots = n;
    shrink->figures.keys = keys;
    return DIMFIT_OK;
}

bool shard_shrinks(const struct shard *shard) {
    return shard->shrink.rules != NULL;
}

static void finish(struct shard *shard) {
    struct shrink *const shrink = &shard->shrink;
    free(shrink->rules);
    shrink->rules = NULL;
    shrink->figures.running = 0;
}

static void note_slice(struct shard *shard, uint32_t slot, const struct expiry_slice *slice) {
    struct shrink_figures *const figures = &shard->shrink.figures;
    figures->keys_done += slice->keys;
    figures->rows_evicted += slice->n_rows;
    figures->pending_evicted += slice->pending;
    if (figures->dry_run)
        return;
    shard->counters.rows_evicted += slice->n_rows;
    shard->counters.pending_evicted += slice->pending;
    if (slice->n_rows > 0 && shard->io.evicted != NULL && !shard->replaying)
        shard->io.evicted(shard->io.self, slot, slice->rows, slice->n_rows);
}

/* The slot that the shrink is at. */
static struct table_slot *slot_now(const struct shard *shard) {
    const struct shrink *const shrink = &shard->shrink;
    struct table_slot *const slot = table_find(shard->table,
                                               shrink->rules[shrink->figures.slots_done].slot);
    base_assert(slot != NULL);
    return slot;
}

static void make_slice(struct shard *shard, bool retier) {
    struct shrink *const shrink = &shard->shrink;
    const struct shrink_rule *const rule = &shrink->rules[shrink->figures.slots_done];
    struct table_slot *const slot = slot_now(shard);
    const struct expiry_rule expiry = {
        .today = shrink->today,
        .days = rule->expire_days,
        .shows = rule->expire_shows,
        .retier = retier,
        .dry = shrink->figures.dry_run != 0,
    };
    struct expiry_slice slice;
    const bool more = table_expire(slot, &expiry, &shrink->walk, &slice);
    note_slice(shard, rule->slot, &slice);
    if (!more) {
        shrink->walk = (struct expiry_walk){0};
        if (++shrink->figures.slots_done == shrink->figures.slots)
            finish(shard);
    }
}

/* Whether rows change their tier stands in the log: it depends on memory, and on what is left of
 * the rows before a change. */
void shard_work_shrink(struct shard *shard) {
    struct table_slot *const slot = slot_now(shard);
    const bool dry = shard->shrink.figures.dry_run != 0;
    const bool retier = table_may_retier(slot) && (dry || table_reserve_retier(slot) == DIMFIT_OK);
    const struct wire_header record = {.kind = WIRE_LOG_SLICE,
                                       .tag = shard->shrink.figures.number,
                                       .mode = retier ? SLICE_RETIER : 0};
    if (shard_log(shard, &record, NULL, 0, NULL) == DIMFIT_OK)
        make_slice(shard, retier);
}

dimfit_err shard_replay_slice(struct shard *shard, const struct wire_header *header,
                              struct err_detail *detail) {
    if (!shard_shrinks(shard) || shard->shrink.figures.number != header->tag)
        return err_set(detail, DIMFIT_ERR_DATA, "shrink %llu does not go on here",
                       (unsigned long long)header->tag);
    const bool retier = header->mode == SLICE_RETIER;
    if (header->mode > SLICE_RETIER)
        return err_set(detail, DIMFIT_ERR_DATA, "mode %u of a slice of shrink %llu is not known",
                       header->mode, (unsigned long long)header->tag);
    if (retier && table_reserve_retier(slot_now(shard)) != DIMFIT_OK)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to take rows to their tiers");
    make_slice(shard, retier);
    return DIMFIT_OK;
}
