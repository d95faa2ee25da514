#include "server/stats.h"

#include <stdlib.h>

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
struct tier_id {
    uint32_t slot, tier;
};

static bool is_before(const void *item, struct tier_id id) {
    struct tier_id at;
    memcpy(&at, item, sizeof at);
    return at.slot != id.slot ? at.slot < id.slot : at.tier < id.tier;
}

static bool is_at(const void *items, size_t n, size_t size, size_t at, struct tier_id id) {
    return at < n && memcmp((const char *)items + at * size, &id, sizeof id) == 0;
}

static size_t position_tier(const void *items, size_t n, size_t size, struct tier_id id) {
    size_t low = 0, high = n;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (is_before((const char *)items + mid * size, id))
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

static struct slot_stats *slot_insert(struct stats *stats, size_t at, struct tier_id id,
                                      uint32_t width, bool moments) {
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
    *s = (struct slot_stats){.slot = id.slot, .tier = id.tier, .width = width};
    if (moments) {
        s->sum = block;
        s->second = s->sum + w;
        s->looked_sum = s->second + w * w;
        s->looked_second = s->looked_sum + w;
    }
    return s;
}

struct slot_stats *stats_add_slot(struct stats *stats, uint32_t slot, uint32_t tier, uint32_t width,
                                  bool moments) {
    return slot_insert(stats, stats->n_slots, (struct tier_id){slot, tier}, width, moments);
}

bool stats_add_row_score(struct slot_stats *slot) {
    if (slot->row_score == NULL)
        slot->row_score = new_sums(slot->width);
    return slot->row_score != NULL;
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

static struct step_slot *step_slot_insert(struct step_stats *step, size_t at, struct tier_id id,
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
        .slot = id.slot,
        .tier = id.tier,
        .width = width,
        .g = block,
        .C = C ? block + w : NULL,
        .b = C ? block + w + w * w : NULL,
    };
    return &step->slots[at];
}

struct step_slot *step_add_slot(struct step_stats *step, uint32_t slot, uint32_t tier,
                                uint32_t width, bool C) {
    return step_slot_insert(step, step->n_slots, (struct tier_id){slot, tier}, width, C);
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

static struct tier_id id_of(const struct slot_stats *slot) {
    return (struct tier_id){slot->slot, slot->tier};
}

static struct slot_stats *slot_find(const struct stats *stats, struct tier_id id, size_t *at) {
    *at = position_tier(stats->slots, stats->n_slots, sizeof *stats->slots, id);
    return is_at(stats->slots, stats->n_slots, sizeof *stats->slots, *at, id) ? &stats->slots[*at]
                                                                              : NULL;
}

const struct slot_stats *stats_find(const struct stats *stats, uint32_t slot, uint32_t tier) {
    size_t at;
    return slot_find(stats, (struct tier_id){slot, tier}, &at);
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

void stats_order_evicted(struct stats *stats) {
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

static struct step_slot *step_slot_find(const struct step_stats *step, const struct step_slot *like,
                                        size_t *at) {
    const struct tier_id id = {like->slot, like->tier};
    *at = position_tier(step->slots, step->n_slots, sizeof *step->slots, id);
    return is_at(step->slots, step->n_slots, sizeof *step->slots, *at, id) ? &step->slots[*at]
                                                                           : NULL;
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
        size_t at;
        const struct slot_stats *const to = slot_find(into, id_of(from), &at);
        if (to != NULL && to->width != from->width)
            return widths_differ(from->slot, to->width, from->width, detail);
    }
    for (size_t i = 0; i < part->n_steps; i++) {
        size_t at;
        const struct step_stats *const to = step_find(into, part->steps[i].step, &at);
        for (size_t k = 0; to != NULL && k < part->steps[i].n_slots; k++) {
            const struct step_slot *const from = &part->steps[i].slots[k];
            const struct step_slot *const there = step_slot_find(to, from, &at);
            if (there != NULL && there->width != from->width)
                return widths_differ(from->slot, there->width, from->width, detail);
        }
    }
    return DIMFIT_OK;
}

static dimfit_err open_slots(struct stats *into, const struct stats *part) {
    for (size_t i = 0; i < part->n_slots; i++) {
        const struct slot_stats *const from = &part->slots[i];
        size_t at;
        struct slot_stats *to = slot_find(into, id_of(from), &at);
        if (to == NULL)
            to = slot_insert(into, at, id_of(from), from->width, from->sum != NULL);
        if (to == NULL)
            return DIMFIT_ERR_NOMEM;
        if (from->row_score != NULL && !stats_add_row_score(to))
            return DIMFIT_ERR_NOMEM;
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
        const struct tier_id id = {slot->slot, slot->tier};
        if (step_slot_find(to, slot, &at) == NULL &&
            step_slot_insert(to, at, id, slot->width, slot->C != NULL) == NULL)
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
        struct step_slot *const slot = step_slot_find(to, part, &at);
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
        size_t at;
        add_slot(slot_find(into, id_of(&part->slots[i]), &at), &part->slots[i]);
    }
    for (size_t i = 0; i < part->n_steps; i++) {
        size_t at;
        add_step(step_find(into, part->steps[i].step, &at), &part->steps[i]);
    }
    stats_order_evicted(into);
    return DIMFIT_OK;
}
