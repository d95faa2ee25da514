/*
 * Statistics as bytes, and back: what comes in is trusted in nothing.
 */
#include "server/stats.h"

enum {
    STATS_MAGIC = 0x32736664, /* "dfs2" */
    FLAG_MOMENTS = 1 << 0,
    FLAG_SCORED = 1 << 1,
    FLAG_CURVED = 1 << 2,
    /* Bytes of encoded entries with nothing in them. */
    SLOT_BYTES_MIN = 26,
    STEP_BYTES_MIN = 16,
    STEP_SLOT_BYTES_MIN = 10,
    WORKER_BYTES = 16,
};

static void put_sums(struct buf *out, const double *sums, size_t n) {
    buf_put(out, sums, n * sizeof *sums);
}

static void put_step(const struct step_stats *step, struct buf *out) {
    buf_put_u64(out, step->step);
    buf_put_u32(out, (uint32_t)step->n_slots);
    buf_put_u32(out, (uint32_t)step->n_workers);
    for (size_t i = 0; i < step->n_slots; i++) {
        const struct step_slot *const s = &step->slots[i];
        const size_t w = s->width;
        buf_put_u32(out, s->slot);
        buf_put_u8(out, (uint8_t)s->tier);
        buf_put_u32(out, s->width);
        buf_put_u8(out, s->C != NULL ? FLAG_MOMENTS : 0);
        put_sums(out, s->g, w);
        if (s->C != NULL) {
            put_sums(out, s->C, w * w);
            put_sums(out, s->b, w);
        }
    }
    for (size_t i = 0; i < step->n_workers; i++) {
        buf_put_u64(out, step->workers[i].worker);
        buf_put_u64(out, step->workers[i].samples);
    }
}

void stats_encode(const struct stats *stats, struct buf *out) {
    buf_put_u32(out, STATS_MAGIC);
    buf_put_u64(out, stats->epoch);
    buf_put_u32(out, (uint32_t)stats->n_slots);
    buf_put_u32(out, (uint32_t)stats->n_steps);
    buf_put_u32(out, (uint32_t)stats->n_evicted);
    for (size_t i = 0; i < stats->n_slots; i++) {
        const struct slot_stats *const s = &stats->slots[i];
        const size_t w = s->width;
        buf_put_u32(out, s->slot);
        buf_put_u8(out, (uint8_t)s->tier);
        buf_put_u32(out, s->width);
        buf_put_u64(out, s->rows);
        buf_put_f64(out, s->lookups);
        buf_put_u8(out, (uint8_t)((s->sum != NULL ? FLAG_MOMENTS : 0) |
                                  (s->row_score != NULL ? FLAG_SCORED : 0) |
                                  (s->curvature != NULL ? FLAG_CURVED : 0)));
        if (s->sum != NULL) {
            put_sums(out, s->sum, w);
            put_sums(out, s->second, w * w);
            put_sums(out, s->looked_sum, w);
            put_sums(out, s->looked_second, w * w);
        }
        if (s->row_score != NULL)
            put_sums(out, s->row_score, w);
        if (s->curvature != NULL) {
            put_sums(out, s->curvature, w * w);
            buf_put_f64(out, s->curved);
        }
    }
    for (size_t i = 0; i < stats->n_steps; i++)
        put_step(&stats->steps[i], out);
    buf_put(out, stats->evicted, stats->n_evicted * sizeof *stats->evicted);
}

/* Slots, and a slot's tiers, ascend. */
static bool ascends(uint32_t last_slot, uint32_t last_tier, uint32_t slot, uint32_t tier) {
    return slot != last_slot ? slot > last_slot : tier > last_tier;
}

/* The decoders below return PROTOCOL for whatever is wrong; the one at the end says where. */

static dimfit_err read_slot(struct reader *in, struct stats *stats) {
    const uint32_t slot = reader_u32(in);
    const uint32_t tier = reader_u8(in);
    const size_t w = reader_u32(in);
    const uint64_t rows = reader_u64(in);
    const double lookups = reader_f64(in);
    const uint8_t flags = reader_u8(in);
    const bool moments = (flags & FLAG_MOMENTS) != 0, scored = (flags & FLAG_SCORED) != 0;
    const bool curved = (flags & FLAG_CURVED) != 0;
    const size_t n = stats->n_slots;
    if (in->failed || flags > (FLAG_MOMENTS | FLAG_SCORED | FLAG_CURVED) || w > LAYOUT_DIM_MAX ||
        tier >= LAYOUT_TIERS_MAX ||
        (n > 0 && !ascends(stats->slots[n - 1].slot, stats->slots[n - 1].tier, slot, tier)) ||
        !reader_has(in,
                    (moments ? 2 * (w + w * w) : 0) + (scored ? w : 0) + (curved ? w * w + 1 : 0),
                    sizeof(double)))
        return DIMFIT_ERR_PROTOCOL;
    struct slot_stats *const s = stats_add_slot(stats, slot, tier, (uint32_t)w, moments);
    if (s == NULL)
        return DIMFIT_ERR_NOMEM;
    s->rows = rows;
    s->lookups = lookups;
    if (moments)
        reader_copy(in, s->sum, 2 * (w + w * w) * sizeof *s->sum);
    if (scored) {
        if (!stats_add_row_score(s))
            return DIMFIT_ERR_NOMEM;
        reader_copy(in, s->row_score, w * sizeof *s->row_score);
    }
    if (curved) {
        if (!stats_add_curvature(s))
            return DIMFIT_ERR_NOMEM;
        reader_copy(in, s->curvature, w * w * sizeof *s->curvature);
        s->curved = reader_f64(in);
    }
    return DIMFIT_OK;
}

static dimfit_err read_step_slot(struct reader *in, struct step_stats *step) {
    const uint32_t slot = reader_u32(in);
    const uint32_t tier = reader_u8(in);
    const size_t w = reader_u32(in);
    const uint8_t flags = reader_u8(in);
    const bool moments = (flags & FLAG_MOMENTS) != 0;
    const size_t n = step->n_slots, sums = moments ? 2 * w + w * w : w;
    if (in->failed || flags > FLAG_MOMENTS || w > LAYOUT_DIM_MAX || tier >= LAYOUT_TIERS_MAX ||
        (n > 0 && !ascends(step->slots[n - 1].slot, step->slots[n - 1].tier, slot, tier)) ||
        !reader_has(in, sums, sizeof(double)))
        return DIMFIT_ERR_PROTOCOL;
    struct step_slot *const s = step_add_slot(step, slot, tier, (uint32_t)w, moments);
    if (s == NULL)
        return DIMFIT_ERR_NOMEM;
    reader_copy(in, s->g, sums * sizeof *s->g);
    return DIMFIT_OK;
}

static dimfit_err read_step(struct reader *in, struct stats *stats) {
    const uint64_t id = reader_u64(in);
    const uint32_t n_slots = reader_u32(in);
    const uint32_t n_workers = reader_u32(in);
    const size_t n = stats->n_steps;
    if (in->failed || (n > 0 && stats->steps[n - 1].step >= id) ||
        !reader_has(in, n_slots, STEP_SLOT_BYTES_MIN))
        return DIMFIT_ERR_PROTOCOL;
    struct step_stats *const step = stats_add_step(stats, id);
    dimfit_err err = step == NULL ? DIMFIT_ERR_NOMEM : DIMFIT_OK;
    for (uint32_t i = 0; i < n_slots && err == DIMFIT_OK; i++)
        err = read_step_slot(in, step);
    if (err == DIMFIT_OK && !reader_has(in, n_workers, WORKER_BYTES))
        err = DIMFIT_ERR_PROTOCOL;
    for (uint32_t i = 0; i < n_workers && err == DIMFIT_OK; i++) {
        const uint64_t worker = reader_u64(in);
        const uint64_t samples = reader_u64(in);
        if (i > 0 && step->workers[i - 1].worker >= worker)
            err = DIMFIT_ERR_PROTOCOL;
        else
            err = step_add_worker(step, worker, samples);
    }
    return err;
}

dimfit_err stats_decode(const void *bytes, size_t len, struct stats **out,
                        struct err_detail *detail) {
    struct reader in = reader_of(bytes, len);
    const uint32_t magic = reader_u32(&in);
    const uint64_t epoch = reader_u64(&in);
    const uint32_t n_slots = reader_u32(&in);
    const uint32_t n_steps = reader_u32(&in);
    const uint32_t n_evicted = reader_u32(&in);
    if (magic != STATS_MAGIC || n_slots > LAYOUT_SLOTS_MAX * LAYOUT_TIERS_MAX ||
        !reader_has(&in, n_slots, SLOT_BYTES_MIN) || !reader_has(&in, n_steps, STEP_BYTES_MIN) ||
        !reader_has(&in, n_evicted, sizeof(uint64_t)))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "these %zu bytes are no statistics", len);
    struct stats *stats = NULL;
    dimfit_err err = stats_new(epoch, &stats);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for statistics");
    for (uint32_t i = 0; i < n_slots && err == DIMFIT_OK; i++)
        err = read_slot(&in, stats);
    for (uint32_t i = 0; i < n_steps && err == DIMFIT_OK; i++)
        err = read_step(&in, stats);
    for (uint32_t i = 0; i < n_evicted && err == DIMFIT_OK; i++)
        err = stats_add_evicted(stats, reader_u64(&in));
    if (err == DIMFIT_OK && !reader_done(&in))
        err = DIMFIT_ERR_PROTOCOL;
    if (err != DIMFIT_OK) {
        err_set(detail, err, "statistics of %zu bytes are malformed or too large, at byte %zu", len,
                len - in.left);
        stats_destroy(&stats);
        return err;
    }
    stats_order_evicted(stats);
    *out = stats;
    return DIMFIT_OK;
}
