#include "server/stats.h"

#include "proto/layout.h"

#include <stdlib.h>

enum {
    STATS_MAGIC = 0x31736664, /* "dfs1" */
    FLAG_MOMENTS = 1 << 0,
    FLAG_SCORED = 1 << 1,
    FLAG_CURVED = 1 << 2,
    /* Bytes of encoded entries with nothing in them. */
    SLOT_BYTES_MIN = 25,
    STEP_BYTES_MIN = 16,
    STEP_SLOT_BYTES_MIN = 9,
    WORKER_BYTES = 16,
};

/* Arrays hold a power of two of items, so that their count alone says when they are full. */
static dimfit_err reserve(void **items, size_t n, size_t size) {
    if ((n & (n - 1)) != 0)
        return DIMFIT_OK;
    void *const grown = realloc(*items, (n > 0 ? 2 * n : 1) * size);
    if (grown == NULL)
        return DIMFIT_ERR_NOMEM;
    *items = grown;
    return DIMFIT_OK;
}

static double *new_sums(size_t n) {
    return calloc(n > 0 ? n : 1, sizeof(double));
}

dimfit_err stats_new(uint64_t epoch, struct stats **out) {
    struct stats *const stats = calloc(1, sizeof *stats);
    if (stats == NULL)
        return DIMFIT_ERR_NOMEM;
    stats->epoch = epoch;
    stats->evicted_ascending = true;
    *out = stats;
    return DIMFIT_OK;
}

/* The four moments of a slot lie in one block that begins with `sum`; g, C and b of a step's slot
 * in one that begins with `g`. */
static void moments_drop(struct slot_stats *slot) {
    free(slot->sum);
    slot->sum = slot->second = slot->looked_sum = slot->looked_second = NULL;
}

static void step_fini(struct step_stats *step) {
    for (size_t i = 0; i < step->n_slots; i++)
        free(step->slots[i].g);
    free(step->slots);
    free(step->workers);
}

void stats_destroy(struct stats **stats) {
    struct stats *const s = *stats;
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n_slots; i++) {
        moments_drop(&s->slots[i]);
        free(s->slots[i].row_score);
        free(s->slots[i].curvature);
    }
    for (size_t i = 0; i < s->n_steps; i++)
        step_fini(&s->steps[i]);
    free(s->slots);
    free(s->steps);
    free(s->evicted);
    free(s);
    *stats = NULL;
}

/* ---- entries --------------------------------------------------------------------------------- */

/* Every kind of entry begins with what it is ordered by. */
static size_t position_u32(const void *items, size_t n, size_t size, uint32_t key) {
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (load_u32((const char *)items + mid * size) < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static size_t position_u64(const void *items, size_t n, size_t size, uint64_t key) {
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (load_u64((const char *)items + mid * size) < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void open_gap(void *items, size_t n, size_t at, size_t size) {
    char *const gap = (char *)items + at * size;
    memmove(gap + size, gap, (n - at) * size);
}

static struct slot_stats *slot_insert(struct stats *stats, size_t at, uint32_t slot, uint32_t width,
                                      bool moments) {
    const size_t w = width;
    double *const block = moments ? new_sums(2 * (w + w * w)) : NULL;
    if ((moments && block == NULL) ||
        reserve((void **)&stats->slots, stats->n_slots, sizeof *stats->slots) != DIMFIT_OK) {
        free(block);
        return NULL;
    }
    open_gap(stats->slots, stats->n_slots, at, sizeof *stats->slots);
    stats->n_slots++;
    struct slot_stats *const s = &stats->slots[at];
    *s = (struct slot_stats){.slot = slot, .width = width};
    if (moments) {
        s->sum = block;
        s->second = s->sum + w;
        s->looked_sum = s->second + w * w;
        s->looked_second = s->looked_sum + w;
    }
    return s;
}

struct slot_stats *stats_add_slot(struct stats *stats, uint32_t slot, uint32_t width,
                                  bool moments) {
    return slot_insert(stats, stats->n_slots, slot, width, moments);
}

bool stats_add_curvature(struct slot_stats *slot) {
    if (slot->curvature == NULL)
        slot->curvature = new_sums((size_t)slot->width * slot->width);
    return slot->curvature != NULL;
}

static struct step_stats *step_insert(struct stats *stats, size_t at, uint64_t step) {
    if (reserve((void **)&stats->steps, stats->n_steps, sizeof *stats->steps) != DIMFIT_OK)
        return NULL;
    open_gap(stats->steps, stats->n_steps, at, sizeof *stats->steps);
    stats->n_steps++;
    stats->steps[at] = (struct step_stats){.step = step};
    return &stats->steps[at];
}

struct step_stats *stats_add_step(struct stats *stats, uint64_t step) {
    return step_insert(stats, stats->n_steps, step);
}

static struct step_slot *step_slot_insert(struct step_stats *step, size_t at, uint32_t slot,
                                          uint32_t width, bool C) {
    const size_t w = width;
    double *const block = new_sums(C ? 2 * w + w * w : w);
    if (block == NULL ||
        reserve((void **)&step->slots, step->n_slots, sizeof *step->slots) != DIMFIT_OK) {
        free(block);
        return NULL;
    }
    open_gap(step->slots, step->n_slots, at, sizeof *step->slots);
    step->n_slots++;
    step->slots[at] = (struct step_slot){
        .slot = slot,
        .width = width,
        .g = block,
        .C = C ? block + w : NULL,
        .b = C ? block + w + w * w : NULL,
    };
    return &step->slots[at];
}

struct step_slot *step_add_slot(struct step_stats *step, uint32_t slot, uint32_t width, bool C) {
    return step_slot_insert(step, step->n_slots, slot, width, C);
}

dimfit_err step_add_worker(struct step_stats *step, uint64_t worker, uint64_t samples) {
    const size_t at = position_u64(step->workers, step->n_workers, sizeof *step->workers, worker);
    if (at < step->n_workers && step->workers[at].worker == worker) {
        if (samples > step->workers[at].samples)
            step->workers[at].samples = samples;
        return DIMFIT_OK;
    }
    if (reserve((void **)&step->workers, step->n_workers, sizeof *step->workers) != DIMFIT_OK)
        return DIMFIT_ERR_NOMEM;
    open_gap(step->workers, step->n_workers, at, sizeof *step->workers);
    step->n_workers++;
    step->workers[at] = (struct step_samples){worker, samples};
    return DIMFIT_OK;
}

dimfit_err stats_add_evicted(struct stats *stats, uint64_t step) {
    const size_t n = stats->n_evicted;
    if (reserve((void **)&stats->evicted, n, sizeof *stats->evicted) != DIMFIT_OK)
        return DIMFIT_ERR_NOMEM;
    if (n > 0 && stats->evicted[n - 1] >= step)
        stats->evicted_ascending = false;
    stats->evicted[n] = step;
    stats->n_evicted++;
    return DIMFIT_OK;
}

const struct slot_stats *stats_find(const struct stats *stats, uint32_t slot) {
    const size_t i = position_u32(stats->slots, stats->n_slots, sizeof *stats->slots, slot);
    return i < stats->n_slots && stats->slots[i].slot == slot ? &stats->slots[i] : NULL;
}

bool stats_step_evicted(const struct stats *stats, uint64_t step) {
    const size_t n = stats->n_evicted;
    if (stats->evicted_ascending) {
        const size_t i = position_u64(stats->evicted, n, sizeof *stats->evicted, step);
        return i < n && stats->evicted[i] == step;
    }
    for (size_t i = 0; i < n; i++) {
        if (stats->evicted[i] == step)
            return true;
    }
    return false;
}

uint64_t stats_samples(const struct stats *stats) {
    uint64_t samples = 0;
    for (size_t i = 0; i < stats->n_steps; i++) {
        const struct step_stats *const step = &stats->steps[i];
        if (stats_step_evicted(stats, step->step))
            continue;
        for (size_t k = 0; k < step->n_workers; k++)
            samples += step->workers[k].samples;
    }
    return samples;
}

/* ---- the sum --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const uint64_t x = load_u64(a), y = load_u64(b);
    return (x > y) - (x < y);
}

static void evicted_order(struct stats *stats) {
    if (stats->evicted_ascending)
        return;
    qsort(stats->evicted, stats->n_evicted, sizeof *stats->evicted, by_value);
    size_t n = 1;
    for (size_t i = 1; i < stats->n_evicted; i++) {
        if (stats->evicted[i] != stats->evicted[n - 1])
            stats->evicted[n++] = stats->evicted[i];
    }
    stats->n_evicted = n;
    stats->evicted_ascending = true;
}

static struct step_stats *step_find(const struct stats *stats, uint64_t step, size_t *at) {
    *at = position_u64(stats->steps, stats->n_steps, sizeof *stats->steps, step);
    return *at < stats->n_steps && stats->steps[*at].step == step ? &stats->steps[*at] : NULL;
}

static struct step_slot *step_slot_find(const struct step_stats *step, uint32_t slot, size_t *at) {
    *at = position_u32(step->slots, step->n_slots, sizeof *step->slots, slot);
    return *at < step->n_slots && step->slots[*at].slot == slot ? &step->slots[*at] : NULL;
}

static dimfit_err widths_differ(uint32_t slot, uint32_t a, uint32_t b, struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_PROTOCOL,
                   "slot %u: statistics of shards are %u and %u wide in the same epoch", slot, a,
                   b);
}

static dimfit_err check_widths(const struct stats *into, const struct stats *part,
                               struct err_detail *detail) {
    for (size_t i = 0; i < part->n_slots; i++) {
        const struct slot_stats *const from = &part->slots[i];
        const struct slot_stats *const to = stats_find(into, from->slot);
        if (to != NULL && to->width != from->width)
            return widths_differ(from->slot, to->width, from->width, detail);
    }
    for (size_t i = 0; i < part->n_steps; i++) {
        size_t at;
        const struct step_stats *const to = step_find(into, part->steps[i].step, &at);
        for (size_t k = 0; to != NULL && k < part->steps[i].n_slots; k++) {
            const struct step_slot *const from = &part->steps[i].slots[k];
            const struct step_slot *const there = step_slot_find(to, from->slot, &at);
            if (there != NULL && there->width != from->width)
                return widths_differ(from->slot, there->width, from->width, detail);
        }
    }
    return DIMFIT_OK;
}

static dimfit_err open_slots(struct stats *into, const struct stats *part) {
    for (size_t i = 0; i < part->n_slots; i++) {
        const struct slot_stats *const from = &part->slots[i];
        const size_t at = position_u32(into->slots, into->n_slots, sizeof *into->slots, from->slot);
        if ((at == into->n_slots || into->slots[at].slot != from->slot) &&
            slot_insert(into, at, from->slot, from->width, from->sum != NULL) == NULL)
            return DIMFIT_ERR_NOMEM;
        struct slot_stats *const to = &into->slots[at];
        if (from->row_score != NULL && to->row_score == NULL) {
            to->row_score = new_sums(to->width);
            if (to->row_score == NULL)
                return DIMFIT_ERR_NOMEM;
        }
        if (from->curvature != NULL && !stats_add_curvature(to))
            return DIMFIT_ERR_NOMEM;
    }
    return DIMFIT_OK;
}

static dimfit_err open_step(struct stats *into, const struct step_stats *from) {
    size_t at;
    struct step_stats *to = step_find(into, from->step, &at);
    if (to == NULL)
        to = step_insert(into, at, from->step);
    if (to == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t i = 0; i < from->n_slots; i++) {
        const struct step_slot *const slot = &from->slots[i];
        if (step_slot_find(to, slot->slot, &at) == NULL &&
            step_slot_insert(to, at, slot->slot, slot->width, slot->C != NULL) == NULL)
            return DIMFIT_ERR_NOMEM;
    }
    for (size_t i = 0; i < from->n_workers; i++) {
        const dimfit_err err = step_add_worker(to, from->workers[i].worker, 0);
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

/* All that a merge needs memory for, with sums of zero: adding cannot fail after this. */
static dimfit_err open_entries(struct stats *into, const struct stats *part) {
    dimfit_err err = open_slots(into, part);
    for (size_t i = 0; i < part->n_steps && err == DIMFIT_OK; i++)
        err = open_step(into, &part->steps[i]);
    for (size_t i = 0; i < part->n_evicted && err == DIMFIT_OK; i++)
        err = stats_add_evicted(into, part->evicted[i]);
    return err;
}

static void add(double *into, const double *part, size_t n) {
    for (size_t i = 0; i < n; i++)
        into[i] += part[i];
}

static void add_slot(struct slot_stats *to, const struct slot_stats *from) {
    const size_t w = from->width;
    to->rows += from->rows;
    to->lookups += from->lookups;
    if (from->sum == NULL)
        moments_drop(to);
    if (to->sum != NULL) {
        add(to->sum, from->sum, w);
        add(to->second, from->second, w * w);
        add(to->looked_sum, from->looked_sum, w);
        add(to->looked_second, from->looked_second, w * w);
    }
    if (from->row_score != NULL)
        add(to->row_score, from->row_score, w);
    if (from->curvature != NULL)
        add(to->curvature, from->curvature, w * w);
    to->curved += from->curved;
}

static void add_step(struct step_stats *to, const struct step_stats *from) {
    size_t at;
    for (size_t i = 0; i < from->n_slots; i++) {
        const struct step_slot *const part = &from->slots[i];
        struct step_slot *const slot = step_slot_find(to, part->slot, &at);
        const size_t w = part->width;
        add(slot->g, part->g, w);
        if (part->C == NULL)
            slot->C = slot->b = NULL;
        if (slot->C != NULL) {
            add(slot->C, part->C, w * w);
            add(slot->b, part->b, w);
        }
    }
    for (size_t i = 0; i < from->n_workers; i++) {
        const struct step_samples *const part = &from->workers[i];
        at = position_u64(to->workers, to->n_workers, sizeof *to->workers, part->worker);
        if (part->samples > to->workers[at].samples)
            to->workers[at].samples = part->samples;
    }
}

dimfit_err stats_merge(struct stats *into, const struct stats *part, struct err_detail *detail) {
    if (into->epoch != part->epoch)
        return err_set(detail, DIMFIT_ERR_STALE_EPOCH,
                       "statistics of epoch %llu do not add up with those of epoch %llu",
                       (unsigned long long)part->epoch, (unsigned long long)into->epoch);
    dimfit_err err = check_widths(into, part, detail);
    if (err != DIMFIT_OK)
        return err;
    err = open_entries(into, part);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory to add up the shards' statistics");
    for (size_t i = 0; i < part->n_slots; i++) {
        const uint32_t slot = part->slots[i].slot;
        const size_t at = position_u32(into->slots, into->n_slots, sizeof *into->slots, slot);
        add_slot(&into->slots[at], &part->slots[i]);
    }
    for (size_t i = 0; i < part->n_steps; i++) {
        size_t at;
        add_step(step_find(into, part->steps[i].step, &at), &part->steps[i]);
    }
    evicted_order(into);
    return DIMFIT_OK;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

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

/* The decoders below return PROTOCOL for whatever is wrong; the one at the end says where. */

static dimfit_err read_slot(struct reader *in, struct stats *stats) {
    const uint32_t id = reader_u32(in);
    const size_t w = reader_u32(in);
    const uint64_t rows = reader_u64(in);
    const double lookups = reader_f64(in);
    const uint8_t flags = reader_u8(in);
    const bool moments = (flags & FLAG_MOMENTS) != 0, scored = (flags & FLAG_SCORED) != 0;
    const bool curved = (flags & FLAG_CURVED) != 0;
    const size_t n = stats->n_slots;
    if (in->failed || flags > (FLAG_MOMENTS | FLAG_SCORED | FLAG_CURVED) || w > LAYOUT_DIM_MAX ||
        (n > 0 && stats->slots[n - 1].slot >= id) ||
        !reader_has(in,
                    (moments ? 2 * (w + w * w) : 0) + (scored ? w : 0) + (curved ? w * w + 1 : 0),
                    sizeof(double)))
        return DIMFIT_ERR_PROTOCOL;
    struct slot_stats *const s = stats_add_slot(stats, id, (uint32_t)w, moments);
    if (s == NULL)
        return DIMFIT_ERR_NOMEM;
    s->rows = rows;
    s->lookups = lookups;
    if (moments)
        reader_copy(in, s->sum, 2 * (w + w * w) * sizeof *s->sum);
    if (scored) {
        s->row_score = new_sums(w);
        if (s->row_score == NULL)
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
    const uint32_t id = reader_u32(in);
    const size_t w = reader_u32(in);
    const uint8_t flags = reader_u8(in);
    const bool moments = (flags & FLAG_MOMENTS) != 0;
    const size_t n = step->n_slots, sums = moments ? 2 * w + w * w : w;
    if (in->failed || flags > FLAG_MOMENTS || w > LAYOUT_DIM_MAX ||
        (n > 0 && step->slots[n - 1].slot >= id) || !reader_has(in, sums, sizeof(double)))
        return DIMFIT_ERR_PROTOCOL;
    struct step_slot *const s = step_add_slot(step, id, (uint32_t)w, moments);
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
    if (magic != STATS_MAGIC || n_slots > LAYOUT_SLOTS_MAX ||
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
    evicted_order(stats);
    *out = stats;
    return DIMFIT_OK;
}
