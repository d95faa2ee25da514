#include "proto/sums.h"
#include "server/shard_internal.h"

#include <stdlib.h>

static size_t position(const struct elsewhere *e, uint32_t slot) {
    size_t i = 0;
    while (i < e->n && e->slots[i].slot < slot)
        i++;
    return i;
}

static bool knows(const struct elsewhere *e, size_t at, uint32_t slot) {
    return at < e->n && e->slots[at].slot == slot;
}

static dimfit_err reserve(struct elsewhere *e, size_t n) {
    if (n <= e->cap)
        return DIMFIT_OK;
    void *const slots = realloc(e->slots, n * sizeof *e->slots);
    if (slots == NULL)
        return DIMFIT_ERR_NOMEM;
    e->slots = slots;
    e->cap = n;
    return DIMFIT_OK;
}

/* Room was made. */
static void note_rows(struct elsewhere *e, uint32_t slot, uint64_t rows) {
    const size_t at = position(e, slot);
    if (!knows(e, at, slot)) {
        memmove(&e->slots[at + 1], &e->slots[at], (e->n - at) * sizeof *e->slots);
        e->slots[at].slot = slot;
        e->n++;
    }
    e->slots[at].rows = rows;
}

void elsewhere_encode(const struct elsewhere *elsewhere, struct buf *out) {
    buf_put_u64(out, elsewhere->n);
    for (size_t i = 0; i < elsewhere->n; i++) {
        buf_put_u32(out, elsewhere->slots[i].slot);
        buf_put_u64(out, elsewhere->slots[i].rows);
    }
}

dimfit_err elsewhere_decode(struct reader *in, struct elsewhere *out) {
    const uint64_t n = reader_u64(in);
    if (!reader_has(in, n, sizeof(uint32_t) + sizeof(uint64_t)))
        return DIMFIT_OK; /* the reader has failed */
    const dimfit_err err = reserve(out, n);
    for (; err == DIMFIT_OK && out->n < n; out->n++) {
        out->slots[out->n].slot = reader_u32(in);
        out->slots[out->n].rows = reader_u64(in);
        in->failed |= out->n > 0 && out->slots[out->n - 1].slot >= out->slots[out->n].slot;
    }
    return err;
}

static dimfit_err check(const struct shard *shard, const struct sums *sums, size_t n,
                        struct err_detail *detail) {
    if (score_fits_bases(shard->score))
        return err_set(detail, DIMFIT_ERR_STATE,
                       "the search fits bases, which takes rows, not their score sums alone; "
                       "start one with basis axis");
    for (size_t i = 0; i < n; i++) {
        const struct layout_slot *const slot = layout_find(shard->layout, sums[i].slot);
        if (slot == NULL)
            return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT, "slot %u is not in the layout",
                           sums[i].slot);
        if (slot->width != sums[i].width)
            return err_set(detail, DIMFIT_ERR_WIDTH, "slot %u is %u wide, its score sums are of %u",
                           slot->id, slot->width, sums[i].width);
        if (slot->n_tiers > 1)
            return err_set(detail, DIMFIT_ERR_INVALID,
                           "slot %u has tiers, its score sums do not say whose they are", slot->id);
        if (!slot->search)
            return err_set(detail, DIMFIT_ERR_INVALID, "slot %u is in no search (search: false)",
                           slot->id);
    }
    return DIMFIT_OK;
}

static dimfit_err open_step(struct shard *shard, const struct wire_header *header,
                            const struct sums *sums, size_t n, struct score_step **out,
                            struct err_detail *detail) {
    struct score_part *const parts = malloc((n + 1) * sizeof *parts);
    dimfit_err err = parts != NULL ? reserve(&shard->elsewhere, shard->elsewhere.n + n)
                                   : DIMFIT_ERR_NOMEM;
    if (err != DIMFIT_OK) {
        free(parts);
        return err_set(detail, err, "no memory for the score sums of %zu slots", n);
    }
    for (size_t i = 0; i < n; i++)
        parts[i] = (struct score_part){.slot = sums[i].slot, .width = sums[i].width};
    err = score_open(shard->score, header->step, header->client, header->samples, parts, n, out,
                     detail);
    free(parts);
    return err;
}

/* What a worker has added up of rows that live elsewhere. The rows' number is told each time, so
 * that whoever forgets it hears it again. */
dimfit_err shard_sums(struct shard *shard, const struct shard_message *in,
                      struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    const struct wire_header *const header = in->header;
    if (header->step == 0 || header->samples == 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "score sums need a step id and samples");
    struct sums *sums = NULL;
    size_t n = 0;
    struct score_step *step = NULL;
    dimfit_err err = sums_decode(in->body, in->len, &sums, &n, detail);
    if (err == DIMFIT_OK)
        err = check(shard, sums, n, detail);
    if (err == DIMFIT_OK)
        err = shard_log_message(shard, in, detail);
    if (err == DIMFIT_OK)
        err = open_step(shard, header, sums, n, &step, detail);
    for (size_t i = 0; i < n && err == DIMFIT_OK; i++) {
        double *const g = score_sums_of(shard->score, step, sums[i].slot, 0).g;
        for (uint32_t k = 0; k < sums[i].width; k++)
            g[k] += (double)header->samples * load_f64(sums[i].g + k * sizeof *g);
        note_rows(&shard->elsewhere, sums[i].slot, sums[i].rows);
    }
    free(sums);
    return err;
}

void shard_add_elsewhere(const struct shard *shard, struct stats *stats) {
    for (size_t i = 0; i < stats->n_slots; i++) {
        const size_t at = position(&shard->elsewhere, stats->slots[i].slot);
        if (stats->slots[i].tier == 0 && knows(&shard->elsewhere, at, stats->slots[i].slot))
            stats->slots[i].rows += shard->elsewhere.slots[at].rows;
    }
}
