#include "server/score_internal.h"

#include <stdlib.h>

static dimfit_err export_step(const struct score *score, const struct score_step *step,
                              struct stats *stats) {
    struct step_stats *const to = stats_add_step(stats, step->id);
    if (to == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t i = 0; i < step->n_parts; i++) {
        const struct score_sum *const part = &step->parts[i];
        const size_t w = part->width;
        struct step_slot *const slot = step_add_slot(
            to, (uint32_t)(part->key >> 32), (uint32_t)part->key, part->width, score->moments);
        if (slot == NULL)
            return DIMFIT_ERR_NOMEM;
        if (w == 0)
            continue;
        memcpy(slot->g, part->sums, w * sizeof(double));
        if (score->moments) {
            memcpy(slot->C, part->sums + w, w * w * sizeof(double));
            memcpy(slot->b, part->sums + w + w * w, w * sizeof(double));
        }
    }
    for (size_t i = 0; i < step->n_workers; i++) {
        const dimfit_err err = step_add_worker(to, step->workers[i].worker,
                                               step->workers[i].samples);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

static int by_id(const void *a, const void *b) {
    const uint64_t x = (*(struct score_step *const *)a)->id,
                   y = (*(struct score_step *const *)b)->id;
    return (x > y) - (x < y);
}

static dimfit_err export_steps(const struct score *score, struct stats *stats) {
    struct score_step **const steps = malloc((score->n_steps + 1) * sizeof(struct score_step *));
    if (steps == NULL)
        return DIMFIT_ERR_NOMEM;
    size_t n = 0;
    for (struct score_step *s = score->oldest; s != NULL; s = s->newer)
        steps[n++] = s;
    qsort(steps, n, sizeof(struct score_step *), by_id);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < n && err == DIMFIT_OK; i++)
        err = export_step(score, steps[i], stats);
    free(steps);
    return err;
}

static void export_curvature(const struct score_rows *rows, struct slot_stats *slot) {
    const size_t w = rows->width;
    const double *from = rows->curvature;
    for (size_t i = 0; i < w; i++) {
        for (size_t k = i; k < w; k++)
            slot->curvature[i * w + k] = slot->curvature[k * w + i] = *from++;
    }
    slot->curved = (double)rows->lookups;
}

static dimfit_err export_rows(const struct score *score, struct stats *stats) {
    for (size_t i = 0; i < stats->n_slots; i++) {
        struct slot_stats *const slot = &stats->slots[i];
        const struct score_rows *const rows = score_rows_find(score,
                                                              score_key(slot->slot, slot->tier));
        if (rows == NULL)
            continue;
        base_assert(rows->width == slot->width);
        if (!stats_add_row_score(slot))
            return DIMFIT_ERR_NOMEM;
        memcpy(slot->row_score, rows->row, slot->width * sizeof *slot->row_score);
        if (rows->curvature == NULL)
            continue;
        if (!stats_add_curvature(slot))
            return DIMFIT_ERR_NOMEM;
        export_curvature(rows, slot);
    }
    return DIMFIT_OK;
}

dimfit_err score_export(const struct score *score, struct stats *stats) {
    dimfit_err err = export_steps(score, stats);
    for (size_t i = 0; i < score->n_evicted && err == DIMFIT_OK; i++)
        err = stats_add_evicted(stats, score->evicted[i]);
    if (err == DIMFIT_OK)
        err = export_rows(score, stats);
    return err;
}
