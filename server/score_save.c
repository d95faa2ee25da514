#include "server/archive.h"
#include "server/score_internal.h"

#include "proto/section.h"

#include <stdlib.h>

enum {
    MARK = 0x524f4353, /* "SCOR" */
    STEP_MARK = 0x50455453,
};

enum score_flags {
    MOMENTS = 1 << 0,
    CURVED = 1 << 1,
    SEARCHING = 1 << 2,
};

/* g, then C and b where moments are kept. */
static size_t sum_doubles(const struct score *score, size_t w) {
    return score->moments ? w * w + 2 * w : w;
}

static size_t row_doubles(const struct score *score, size_t w) {
    return w + (score->curvature ? section_triangle(w) : 0);
}

static void save_step(const struct score *score, const struct score_step *step,
                      struct archive_writer *out) {
    archive_put_mark(out, STEP_MARK);
    archive_put_u64(out, step->id);
    archive_put_u64(out, step->bytes);
    archive_put_u64(out, step->n_workers);
    for (size_t i = 0; i < step->n_workers; i++) {
        archive_put_u64(out, step->workers[i].worker);
        archive_put_u64(out, step->workers[i].samples);
    }
    archive_put_u64(out, step->n_parts);
    for (size_t i = 0; i < step->n_parts; i++) {
        const struct score_sum *const part = &step->parts[i];
        archive_put_u64(out, part->key);
        archive_put_u32(out, part->width);
        archive_put(out, part->sums, sum_doubles(score, part->width) * sizeof(double));
    }
}

void score_save(const struct score *score, struct archive_writer *out) {
    archive_put_mark(out, MARK);
    archive_put_u8(out, (score->moments ? MOMENTS : 0) | (score->curvature ? CURVED : 0) |
                            (score->searching ? SEARCHING : 0));
    archive_put_u64(out, score->bytes);
    archive_put_u64(out, score->window);
    archive_put_u64(out, score->samples);
    archive_put_u64(out, score->n_evicted);
    archive_put_u64(out, score->next_evicted);
    archive_put(out, score->evicted, score->n_evicted * sizeof *score->evicted);
    archive_put_u64(out, score->n_rows);
    for (size_t i = 0; i < score->n_rows; i++) {
        const struct score_rows *const rows = &score->rows[i];
        archive_put_u64(out, rows->key);
        archive_put_u32(out, rows->width);
        archive_put_u64(out, rows->lookups);
        archive_put(out, rows->row, row_doubles(score, rows->width) * sizeof(double));
    }
    archive_put_u64(out, score->n_steps);
    for (const struct score_step *s = score->oldest; s != NULL; s = s->newer)
        save_step(score, s, out);
}

/* ---- and back -------------------------------------------------------------------------------- */

/* What a (slot, tier) is summed up in: as wide as its rows. */
static bool fits(const struct layout *layout, uint64_t key, uint32_t width) {
    const struct layout_slot *const slot = layout_find(layout, (uint32_t)(key >> 32));
    const uint32_t tier = (uint32_t)key;
    return slot != NULL && tier < slot->n_tiers && width == slot->tier_widths[tier];
}

static double *restore_doubles(size_t n, struct archive_reader *in) {
    double *const sums = in->err == DIMFIT_OK ? score_sums_new(n * sizeof *sums) : NULL;
    if (sums == NULL)
        archive_no_memory(in);
    else
        archive_get(in, sums, n * sizeof *sums);
    return sums;
}

static void restore_rows(struct score *score, const struct layout *layout,
                         struct archive_reader *in) {
    const uint64_t n = archive_get_u64(in);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++) {
        struct score_rows rows = {.key = archive_get_u64(in), .width = archive_get_u32(in)};
        rows.lookups = archive_get_u64(in);
        if (!fits(layout, rows.key, rows.width) || (i > 0 && rows.key <= score->rows[i - 1].key))
            archive_refuse(in, "score sums of slot %u, which has none", (uint32_t)(rows.key >> 32));
        if (in->err == DIMFIT_OK &&
            score_reserve((void **)&score->rows, &score->cap_rows, score->n_rows + 1,
                          sizeof *score->rows) != DIMFIT_OK)
            archive_no_memory(in);
        rows.row = restore_doubles(row_doubles(score, rows.width), in);
        if (rows.row == NULL)
            return;
        rows.curvature = score->curvature ? rows.row + rows.width : NULL;
        score->rows[score->n_rows++] = rows;
    }
}

static void restore_workers(struct score_step *step, struct archive_reader *in) {
    const uint64_t n = archive_get_u64(in);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++) {
        if (score_reserve((void **)&step->workers, &step->cap_workers, step->n_workers + 1,
                          sizeof *step->workers) != DIMFIT_OK) {
            archive_no_memory(in);
            return;
        }
        step->workers[step->n_workers++] = (struct step_samples){archive_get_u64(in),
                                                                 archive_get_u64(in)};
    }
}

/* A block a part: where one stands is nobody's business but its cache lines'. */
static void restore_part(const struct score *score, const struct layout *layout,
                         struct score_step *step, struct archive_reader *in) {
    struct score_sum part = {.key = archive_get_u64(in), .width = archive_get_u32(in)};
    if (!fits(layout, part.key, part.width) ||
        (step->n_parts > 0 && part.key <= step->parts[step->n_parts - 1].key))
        archive_refuse(in, "score sums of slot %u, which has none", (uint32_t)(part.key >> 32));
    if (in->err != DIMFIT_OK)
        return;
    const size_t bytes = sum_doubles(score, part.width) * sizeof(double);
    struct score_block *const block = score_sums_new(sizeof *block + bytes);
    if (block == NULL || score_reserve((void **)&step->parts, &step->cap_parts, step->n_parts + 1,
                                       sizeof *step->parts) != DIMFIT_OK) {
        free(block);
        archive_no_memory(in);
        return;
    }
    block->next = step->blocks;
    step->blocks = block;
    part.sums = block->sums;
    archive_get(in, part.sums, bytes);
    step->parts[step->n_parts++] = part;
}

static void restore_step(struct score *score, const struct layout *layout,
                         struct archive_reader *in) {
    archive_get_mark(in, STEP_MARK, "next step");
    const uint64_t id = archive_get_u64(in), bytes = archive_get_u64(in);
    if (in->err == DIMFIT_OK && score_step_find(score, id) != NULL)
        archive_refuse(in, "step %llu is there twice", (unsigned long long)id);
    if (in->err != DIMFIT_OK)
        return;
    struct score_step *const step = calloc(1, sizeof *step);
    if (step == NULL) {
        archive_no_memory(in);
        return;
    }
    step->id = id;
    step->bytes = bytes;
    score_step_link(score, step);
    restore_workers(step, in);
    const uint64_t n = archive_get_u64(in);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++)
        restore_part(score, layout, step, in);
}

static void restore_evicted(struct score *score, struct archive_reader *in) {
    const uint64_t n = archive_get_u64(in);
    score->next_evicted = archive_get_u64(in);
    if (n > SCORE_EVICTED_MAX || (score->next_evicted != 0 && score->next_evicted >= n))
        archive_refuse(in, "%llu steps that were dropped", (unsigned long long)n);
    if (in->err == DIMFIT_OK && score_reserve((void **)&score->evicted, &score->cap_evicted, n,
                                              sizeof *score->evicted) != DIMFIT_OK)
        archive_no_memory(in);
    if (in->err != DIMFIT_OK)
        return;
    archive_get(in, score->evicted, n * sizeof *score->evicted);
    score->n_evicted = n;
}

void score_restore(struct score *score, const struct layout *layout, struct archive_reader *in) {
    archive_get_mark(in, MARK, "score sums");
    const uint8_t flags = archive_get_u8(in);
    score->moments = (flags & MOMENTS) != 0;
    score->curvature = (flags & CURVED) != 0;
    score->searching = (flags & SEARCHING) != 0;
    score->bytes = archive_get_u64(in);
    score->window = archive_get_u64(in);
    score->samples = archive_get_u64(in);
    restore_evicted(score, in);
    if (in->err == DIMFIT_OK)
        restore_rows(score, layout, in);
    const uint64_t n = archive_get_u64(in);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++)
        restore_step(score, layout, in);
    uint64_t bytes = 0;
    for (const struct score_step *s = score->oldest; s != NULL; s = s->newer)
        bytes += s->bytes;
    if (bytes > score->bytes)
        archive_refuse(in, "score sums of %llu bytes, whose steps take %llu",
                       (unsigned long long)score->bytes, (unsigned long long)bytes);
}
