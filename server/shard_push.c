#include "server/shard_internal.h"

#include <math.h>
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

/* The one part of a body that the table does not look at. */
static dimfit_err check_curvature(const struct section_list *sections, struct err_detail *detail) {
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        const size_t n = s->curvature != NULL ? section_triangle(s->width) : 0;
        for (size_t k = 0; k < n; k++) {
            if (!isfinite(load_f64(s->curvature + k * sizeof(double))))
                return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                               "slot %u: the second moments of its gradients are not finite",
                               s->slot);
        }
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

/* The sections of one push as they are applied: without the keys that found no room. */
struct room {
    uint8_t *copies; /* of those shortened, one behind the other; NULL: none was */
    size_t len, used;
    uint64_t skipped;
};

static const uint8_t *keep(struct room *room, const uint8_t *items, size_t size, size_t n,
                           const bool *missing) {
    uint8_t *const copy = room->copies + room->used, *to = copy;
    if (items == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (missing[i])
            continue;
        memcpy(to, items + i * size, size);
        to += size;
    }
    room->used += (size_t)(to - copy);
    return copy;
}

static dimfit_err skip_missing(struct room *room, struct section *s, struct table_slot *slot) {
    bool *const missing = malloc(s->rows);
    if (room->copies == NULL)
        room->copies = malloc(room->len);
    if (missing == NULL || room->copies == NULL) {
        free(missing);
        return DIMFIT_ERR_NOMEM;
    }
    const size_t n = s->rows, skipped = table_missing(slot, s->keys, n, missing);
    s->keys = keep(room, s->keys, sizeof(uint64_t), n, missing);
    s->grads = keep(room, s->grads, s->width * sizeof(float), n, missing);
    s->lookups = keep(room, s->lookups, sizeof(uint32_t), n, missing);
    s->clicks = keep(room, s->clicks, sizeof(uint32_t), n, missing);
    s->rows -= (uint32_t)skipped;
    room->skipped += skipped;
    free(missing);
    return DIMFIT_OK;
}

/* As if every key were new; at the limit those are counted that are, which costs a look-up each. */
static dimfit_err reserve_section(const struct shard *shard, struct room *room, struct section *s,
                                  struct table_slot *slot) {
    dimfit_err err = table_reserve(slot, s->rows);
    if (err == DIMFIT_ERR_LIMIT)
        err = table_reserve(slot, table_missing(slot, s->keys, s->rows, NULL));
    if (err == DIMFIT_ERR_LIMIT && shard->skip_new)
        err = skip_missing(room, s, slot);
    return err;
}

static dimfit_err reserve_rows(struct shard *shard, struct table_slot **slots, struct room *room,
                               struct err_detail *detail) {
    for (size_t i = 0; i < shard->sections.n; i++) {
        struct section *const s = &shard->sections.items[i];
        const dimfit_err err = reserve_section(shard, room, s, slots[i]);
        if (err == DIMFIT_ERR_LIMIT)
            return err_set(detail, err,
                           "slot %u: the rows of this shard have %llu MiB, its part of max_memory "
                           "is %llu MiB; new rows are refused, stored ones go on; raise "
                           "--max-memory, shrink, or have new rows skipped (--over-memory)",
                           s->slot, (unsigned long long)(table_bytes(shard->table) >> 20),
                           (unsigned long long)(shard->row_memory >> 20));
        if (err != DIMFIT_OK)
            return err_set(detail, err, "no memory for %u more rows of slot %u", s->rows, s->slot);
    }
    return DIMFIT_OK;
}

/* The slots that a search looks at; the others' gradients leave no score. */
static bool is_scored(const struct shard *shard, uint32_t slot) {
    const struct layout_slot *const spec = layout_find(shard->layout, slot);
    return spec != NULL && spec->search;
}

static void name_tiers(const struct layout_slot *slot, struct score_part *parts) {
    for (uint32_t t = 0; t < slot->n_tiers; t++)
        parts[t] = (struct score_part){
            .slot = slot->id,
            .tier = t,
            .width = slot->tier_widths[t],
            .curved = t + 1 == slot->n_tiers,
        };
}

static dimfit_err open_scores(struct shard *shard, const struct wire_header *header,
                              struct score_step **out, struct err_detail *detail) {
    const struct section_list *const sections = &shard->sections;
    struct score_part *const parts = malloc((sections->n + 1) * LAYOUT_TIERS_MAX * sizeof *parts);
    if (parts == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %zu sections", sections->n);
    size_t n = 0;
    for (size_t i = 0; i < sections->n; i++) {
        const struct layout_slot *const slot = layout_find(shard->layout, sections->items[i].slot);
        if (!is_scored(shard, sections->items[i].slot))
            continue;
        name_tiers(slot, parts + n);
        n += slot->n_tiers;
    }
    const uint64_t samples = header->samples == 0 ? 1 : header->samples;
    const dimfit_err err = score_open(shard->score, header->step, header->client, samples, parts, n,
                                      out, detail);
    free(parts);
    return err;
}

/* Training goes on when there is no room for scores: the step counts nowhere, and the coordinator
 * hears of it. */
static dimfit_err leave_out(struct shard *shard, uint64_t step) {
    shard->full = true;
    return score_leave_out(shard->score, step);
}

static void put_counts(struct buf *out, const uint8_t *counts, uint32_t n) {
    if (counts != NULL)
        buf_put(out, counts, n * sizeof(uint32_t));
}

/* The push as it is applied, without the keys that found no room: a replay has room for all. */
static dimfit_err log_shortened(struct shard *shard, const struct shard_message *in,
                                uint64_t skipped, struct err_detail *detail) {
    const struct section_list *const sections = &shard->sections;
    struct wire_header header = *in->header;
    header.plain = 0;
    header.tag = skipped;
    struct buf body;
    buf_init(&body);
    uint8_t *const head = buf_extend(&body, SECTION_HEAD + sections->n * SECTION_ENTRY);
    if (head != NULL)
        section_put_head(head, sections->items, sections->n, load_u32(in->body + 4));
    for (size_t i = 0; i < sections->n; i++)
        buf_put(&body, sections->items[i].keys, sections->items[i].rows * sizeof(uint64_t));
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        buf_put(&body, s->grads, (size_t)s->rows * s->width * sizeof(float));
    }
    for (size_t i = 0; i < sections->n; i++)
        put_counts(&body, sections->items[i].lookups, sections->items[i].rows);
    for (size_t i = 0; i < sections->n; i++)
        put_counts(&body, sections->items[i].clicks, sections->items[i].rows);
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        if (s->curvature != NULL)
            buf_put(&body, s->curvature, section_triangle(s->width) * sizeof(double));
    }
    const dimfit_err err = body.failed ? err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a record")
                                       : shard_log(shard, &header, body.data, body.len, detail);
    buf_fini(&body);
    return err;
}

/* Everything but the push's form that can fail, and between the record and what it says only the
 * want of memory for scores. */
static dimfit_err prepare(struct shard *shard, const struct shard_message *in, bool train,
                          bool score, struct table_slot **slots, struct room *room,
                          struct score_step **step, struct err_detail *detail) {
    const struct wire_header *const header = in->header;
    dimfit_err err = shard_resolve(shard, true, slots, detail);
    if (err == DIMFIT_OK)
        err = check_counts(shard, header, detail);
    if (err == DIMFIT_OK)
        err = check_grads(&shard->sections, slots, detail);
    if (err == DIMFIT_OK)
        err = check_curvature(&shard->sections, detail);
    if (err == DIMFIT_OK && train)
        err = reserve_rows(shard, slots, room, detail);
    if (err == DIMFIT_OK)
        err = room->skipped > 0 ? log_shortened(shard, in, room->skipped, detail)
                                : shard_log_message(shard, in, detail);
    if (err != DIMFIT_OK || !score)
        return err;
    err = open_scores(shard, header, step, detail);
    return err == DIMFIT_ERR_LIMIT && train ? leave_out(shard, header->step) : err;
}

/* Where each of the slot's tiers is scored. */
static void open_sums(struct shard *shard, const struct wire_header *header,
                      const struct section *s, struct score_step *step, struct score_sums *sums) {
    const uint32_t n_tiers = layout_find(shard->layout, s->slot)->n_tiers;
    const double scale = header->samples == 0 ? 1 : (double)header->samples;
    for (uint32_t t = 0; t < n_tiers; t++) {
        sums[t] = score_sums_of(shard->score, step, s->slot, t);
        sums[t].scale = scale;
        sums[t].step = header->step;
        sums[t].sample = shard->score_sample;
    }
    shard->counters.keys_scored += s->rows;
    if (s->curvature != NULL)
        score_curvature(shard->score, s->slot, n_tiers - 1, s->curvature, scale * scale, s->curved);
}

static void apply(struct shard *shard, const struct wire_header *header, bool train,
                  struct table_slot **slots, struct score_step *step) {
    const struct section_list *const sections = &shard->sections;
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const s = &sections->items[i];
        const bool scored = step != NULL && is_scored(shard, s->slot);
        if (!train && !scored)
            continue; /* a slot outside the search, in a push for scores alone */
        struct score_sums sums[LAYOUT_TIERS_MAX];
        if (scored)
            open_sums(shard, header, s, step, sums);
        const struct table_counts counts = {s->lookups, s->clicks, header->day};
        table_push(slots[i], s->keys, s->grads, &counts, s->rows, train, scored ? sums : NULL);
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
    struct room room = {.len = in->len};
    err = prepare(shard, in, train, score, slots, &room, &step, detail);
    if (err != DIMFIT_OK)
        goto done;
    apply(shard, header, train, slots, step);
    shard->counters.push_requests++;
    shard->counters.keys_pushed += sections->rows - room.skipped;
    shard->counters.keys_skipped += shard->replaying ? header->tag : room.skipped;

done:
    free(room.copies);
    free(slots);
    return err;
}
