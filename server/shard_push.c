#include "server/shard_internal.h"

#include <stdlib.h>

/* Everything that can fail comes before the first row is touched: a refused push changes nothing.
 */
static dimfit_err check_grads(const struct section_list *sections, struct table_slot **slots,
                              struct err_detail *detail) {
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        const dimfit_err err = table_check_grads(slots[i], s->keys, s->grads, s->rows, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

/* Zeros for a slot that counts no clicks are none: one push may have slots of both kinds. */
static dimfit_err check_counts(const struct shard *shard, const struct wire_header *header,
                               struct err_detail *detail) {
    if (header->day > COUNTERS_DAY_MAX)
        return err_set(detail, DIMFIT_ERR_INVALID, "day %u is after day %d, the last there is",
                       header->day, COUNTERS_DAY_MAX);
    for (size_t i = 0; i < shard->sections.n; i++) {
        const struct section *const s = &shard->sections.items[i];
        if (s->clicks == NULL || layout_find(shard->layout, s->slot)->retention.clicks)
            continue;
        for (size_t k = 0; k < s->rows; k++) {
            if (load_u32(s->clicks + k * sizeof(uint32_t)) != 0)
                return err_set(detail, DIMFIT_ERR_INVALID,
                               "slot %u counts no clicks, the push has some", s->slot);
        }
    }
    return DIMFIT_OK;
}

static dimfit_err reserve_rows(const struct section_list *sections, struct table_slot **slots,
                               struct err_detail *detail) {
    for (size_t i = 0; i < sections->n; i++) {
        const dimfit_err err = table_reserve(slots[i], sections->items[i].rows);
        if (err != DIMFIT_OK)
            return err_set(detail, err, "no memory for %u more rows of slot %u",
                           sections->items[i].rows, sections->items[i].slot);
    }
    return DIMFIT_OK;
}

/* The slots that a search looks at; the others' gradients leave no score. */
static bool is_scored(const struct shard *shard, uint32_t slot) {
    const struct layout_slot *const spec = layout_find(shard->layout, slot);
    return spec != NULL && spec->search;
}

static dimfit_err open_scores(struct shard *shard, const struct wire_header *header,
                              struct score_step **out, struct err_detail *detail) {
    const struct section_list *const sections = &shard->sections;
    uint32_t *const ids = malloc((2 * sections->n + 1) * sizeof *ids);
    if (ids == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %zu sections", sections->n);
    uint32_t *const widths = ids + sections->n;
    size_t n = 0;
    for (size_t i = 0; i < sections->n; i++) {
        if (!is_scored(shard, sections->items[i].slot))
            continue;
        ids[n] = sections->items[i].slot;
        widths[n++] = sections->items[i].width;
    }
    const uint64_t samples = header->samples == 0 ? 1 : header->samples;
    const dimfit_err err = score_open(shard->score, header->step, header->client, samples, ids,
                                      widths, n, out, detail);
    free(ids);
    return err;
}

/* Training goes on when there is no room for scores: the step counts nowhere, and the coordinator
 * hears of it. */
static dimfit_err leave_out(struct shard *shard, uint64_t step) {
    shard->full = true;
    return score_leave_out(shard->score, step);
}

static void apply(struct shard *shard, const struct wire_header *header, bool train,
                  struct table_slot **slots, struct score_step *step) {
    const struct section_list *const sections = &shard->sections;
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        const bool scored = step != NULL && is_scored(shard, s->slot);
        if (!train && !scored)
            continue; /* a slot outside the search, in a push for scores alone */
        struct score_sums sums = {0};
        if (scored) {
            sums = score_slot(shard->score, step, s->slot);
            sums.scale = header->samples == 0 ? 1 : (double)header->samples;
            shard->counters.keys_scored += s->rows;
        }
        const struct table_counts counts = {s->lookups, s->clicks, header->day};
        table_push(slots[i], s->keys, s->grads, &counts, s->rows, train, scored ? &sums : NULL);
    }
}

/* Gradients of several slots: scores from the values before, then the optimizer (design 2.1, 4). */
dimfit_err shard_push(struct shard *shard, const struct shard_message *in,
                      struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    const struct wire_header *const header = in->header;
    const bool train = (header->mode & PUSH_TRAIN) != 0;
    const bool score = (header->mode & PUSH_SCORE) != 0 || (train && shard->live);
    if ((header->mode & ~(uint32_t)(PUSH_TRAIN | PUSH_SCORE)) != 0 || !(train || score))
        return err_set(detail, DIMFIT_ERR_INVALID, "push mode %u is none of 1, 2, 3", header->mode);
    if (score && header->step == 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "a scored push needs a step id");

    struct section_list *const sections = &shard->sections;
    dimfit_err err = section_parse(sections, in->body, in->len, true, detail);
    if (err != DIMFIT_OK)
        return err;
    struct table_slot **const slots = malloc((sections->n + 1) * sizeof *slots);
    if (slots == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %zu sections", sections->n);

    struct score_step *step = NULL;
    err = shard_resolve(shard, true, slots, detail);
    if (err == DIMFIT_OK)
        err = check_counts(shard, header, detail);
    if (err == DIMFIT_OK)
        err = check_grads(sections, slots, detail);
    if (err == DIMFIT_OK && train)
        err = reserve_rows(sections, slots, detail);
    if (err == DIMFIT_OK && score)
        err = open_scores(shard, header, &step, detail);
    if (err == DIMFIT_ERR_LIMIT && train)
        err = leave_out(shard, header->step);
    if (err != DIMFIT_OK)
        goto done;

    apply(shard, header, train, slots, step);
    shard->counters.push_requests++;
    shard->counters.keys_pushed += sections->rows;

done:
    free(slots);
    return err;
}
