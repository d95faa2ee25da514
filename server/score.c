#include "server/score_internal.h"

#include "proto/section.h"

#include <stdlib.h>

enum {
    HEADS_FIRST = 64,
};

dimfit_err score_new(uint64_t max_bytes, struct score **out) {
    struct score *const score = calloc(1, sizeof *score);
    if (score == NULL)
        return DIMFIT_ERR_NOMEM;
    score->heads = calloc(HEADS_FIRST, sizeof(struct score_step *));
    if (score->heads == NULL) {
        free(score);
        return DIMFIT_ERR_NOMEM;
    }
    score->n_heads = HEADS_FIRST;
    score->max_bytes = max_bytes;
    *out = score;
    return DIMFIT_OK;
}

static struct score_step **step_head(const struct score *score, uint64_t id) {
    /* Ids may be consecutive or multiples of anything: Fibonacci hashing spreads both. */
    return &score->heads[((id * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (score->n_heads - 1)];
}

struct score_step *score_step_find(const struct score *score, uint64_t id) {
    if (score->newest != NULL && score->newest->id == id)
        return score->newest;
    struct score_step *step = *step_head(score, id);
    while (step != NULL && step->id != id)
        step = step->chain;
    return step;
}

static void heads_grow(struct score *score) {
    if (score->n_steps < score->n_heads)
        return;
    struct score_step **const heads = calloc(2 * score->n_heads, sizeof(struct score_step *));
    if (heads == NULL)
        return; /* longer chains, nothing worse */
    free(score->heads);
    score->heads = heads;
    score->n_heads *= 2;
    for (struct score_step *s = score->oldest; s != NULL; s = s->newer) {
        struct score_step **const head = step_head(score, s->id);
        s->chain = *head;
        *head = s;
    }
}

void score_step_link(struct score *score, struct score_step *step) {
    heads_grow(score);
    struct score_step **const head = step_head(score, step->id);
    step->chain = *head;
    *head = step;
    step->older = score->newest;
    if (score->newest != NULL)
        score->newest->newer = step;
    else
        score->oldest = step;
    score->newest = step;
    score->n_steps++;
}

static void step_unlink(struct score *score, struct score_step *step) {
    struct score_step **at = step_head(score, step->id);
    while (*at != step)
        at = &(*at)->chain;
    *at = step->chain;
    *(step->older != NULL ? &step->older->newer : &score->oldest) = step->newer;
    *(step->newer != NULL ? &step->newer->older : &score->newest) = step->older;
    score->n_steps--;
}

static void step_free(struct score_step *step) {
    while (step->blocks != NULL) {
        struct score_block *const next = step->blocks->next;
        free(step->blocks);
        step->blocks = next;
    }
    free(step->parts);
    free(step->workers);
    free(step);
}

static void rows_clear(struct score *score) {
    for (size_t i = 0; i < score->n_rows; i++)
        free(score->rows[i].row); /* and the curvature behind it */
    score->n_rows = 0;
}

void score_restart(struct score *score, uint32_t keep, bool searching) {
    while (score->oldest != NULL) {
        struct score_step *const step = score->oldest;
        step_unlink(score, step);
        step_free(step);
    }
    rows_clear(score);
    score->bytes = 0;
    score->samples = 0;
    score->window = 0;
    score->n_evicted = 0;
    score->next_evicted = 0;
    score->moments = (keep & SCORE_KEEP_MOMENTS) != 0;
    score->curvature = (keep & SCORE_KEEP_CURVATURE) != 0;
    score->searching = searching;
}

void score_window(struct score *score, uint64_t steps) {
    score->window = steps;
}

void score_stop(struct score *score) {
    score->searching = false;
}

void score_limit(struct score *score, uint64_t max_bytes) {
    score->max_bytes = max_bytes;
}

uint64_t score_limit_bytes(const struct score *score) {
    return score->max_bytes;
}

void score_destroy(struct score **score) {
    if (*score == NULL)
        return;
    score_restart(*score, 0, false);
    free((*score)->heads);
    free((*score)->rows);
    free((*score)->evicted);
    free(*score);
    *score = NULL;
}

/* The evicted id must be remembered before its sums go: without that a partial step would count as
 * whole. */
static bool evicted_add(struct score *score, uint64_t id) {
    if (score->n_evicted == SCORE_EVICTED_MAX) {
        score->evicted[score->next_evicted] = id;
        score->next_evicted = (score->next_evicted + 1) % SCORE_EVICTED_MAX;
        return true;
    }
    if (score->n_evicted == score->cap_evicted) {
        const size_t cap = score->cap_evicted ? 2 * score->cap_evicted : 64;
        uint64_t *const evicted = realloc(score->evicted, cap * sizeof *evicted);
        if (evicted == NULL)
            return false;
        score->evicted = evicted;
        score->cap_evicted = cap;
    }
    score->evicted[score->n_evicted++] = id;
    return true;
}

static bool evict(struct score *score, struct score_step *step) {
    if (!evicted_add(score, step->id))
        return false;
    for (size_t i = 0; i < step->n_workers && !score->searching; i++)
        score->samples -= step->workers[i].samples;
    score->bytes -= step->bytes;
    step_unlink(score, step);
    step_free(step);
    return true;
}

dimfit_err score_leave_out(struct score *score, uint64_t id) {
    struct score_step *const step = score_step_find(score, id);
    const bool noted = step != NULL ? evict(score, step) : evicted_add(score, id);
    return noted ? DIMFIT_OK : DIMFIT_ERR_NOMEM;
}

/* Find room for so many bytes, giving up old steps but not `keep`. */
static dimfit_err make_room(struct score *score, uint64_t bytes, const struct score_step *keep,
                            struct err_detail *detail) {
    while (score->bytes + bytes > score->max_bytes) {
        struct score_step *victim = score->oldest;
        if (victim != NULL && victim == keep)
            victim = victim->newer;
        if (score->searching || victim == NULL)
            return err_set(detail, DIMFIT_ERR_LIMIT,
                           "score sums of %zu steps take %llu bytes, %llu more go over the limit "
                           "of %llu; end the scoring (search plan) or raise --score-memory",
                           score->n_steps, (unsigned long long)score->bytes,
                           (unsigned long long)bytes, (unsigned long long)score->max_bytes);
        if (!evict(score, victim))
            return DIMFIT_ERR_NOMEM;
    }
    return DIMFIT_OK;
}

/* Where a key stands in an ascending array of items that begin with theirs, or belongs. */
static size_t position(const void *items, size_t n, size_t size, uint64_t key) {
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

static struct score_sum *part_find(const struct score_step *step, uint64_t key) {
    const size_t i = position(step->parts, step->n_parts, sizeof *step->parts, key);
    return i < step->n_parts && step->parts[i].key == key ? &step->parts[i] : NULL;
}

struct score_rows *score_rows_find(const struct score *score, uint64_t key) {
    const size_t i = position(score->rows, score->n_rows, sizeof *score->rows, key);
    return i < score->n_rows && score->rows[i].key == key ? &score->rows[i] : NULL;
}

static size_t aligned_doubles(size_t n) {
    const size_t unit = SCORE_SUMS_ALIGN / sizeof(double);
    return (n + unit - 1) / unit * unit;
}

static size_t part_doubles(const struct score *score, size_t width) {
    return aligned_doubles(score->moments ? width * width + 2 * width : width);
}

void *score_sums_new(size_t bytes) {
    const size_t whole = (bytes / SCORE_SUMS_ALIGN + 1) * SCORE_SUMS_ALIGN;
    void *const sums = aligned_alloc(SCORE_SUMS_ALIGN, whole);
    if (sums != NULL)
        memset(sums, 0, whole);
    return sums;
}

dimfit_err score_reserve(void **items, size_t *cap, size_t n, size_t size) {
    if (n <= *cap)
        return DIMFIT_OK;
    const size_t want = n > 2 * *cap ? n : 2 * *cap;
    void *const grown = realloc(*items, want * size);
    if (grown == NULL)
        return DIMFIT_ERR_NOMEM;
    *items = grown;
    *cap = want;
    return DIMFIT_OK;
}

static uint64_t rows_bytes(const struct score *score, size_t width, bool curved) {
    const size_t doubles = width + (curved ? section_triangle(width) : 0);
    return sizeof *score->rows + doubles * sizeof(double);
}

/* The row sums that a score_open() made stay, or go. */
static void rows_settle(struct score *score, bool stay) {
    size_t kept = 0;
    for (size_t i = 0; i < score->n_rows; i++) {
        struct score_rows *const rows = &score->rows[i];
        if (!rows->fresh || stay) {
            rows->fresh = false;
            score->rows[kept++] = *rows;
            continue;
        }
        score->bytes -= rows_bytes(score, rows->width, rows->curvature != NULL);
        free(rows->row);
    }
    score->n_rows = kept;
}

static dimfit_err rows_open(struct score *score, const struct score_step *step,
                            const struct score_part *parts, size_t n, struct err_detail *detail) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = score_key(parts[i].slot, parts[i].tier);
        const struct score_rows *const there = score_rows_find(score, key);
        const size_t w = parts[i].width;
        if (there != NULL) {
            base_assert(there->width == w);
            continue;
        }
        const bool curved = score->curvature && parts[i].curved;
        const uint64_t bytes = rows_bytes(score, w, curved);
        dimfit_err err = make_room(score, bytes, step, detail);
        if (err != DIMFIT_OK)
            return err;
        err = score_reserve((void **)&score->rows, &score->cap_rows, score->n_rows + 1,
                            sizeof *score->rows);
        if (err != DIMFIT_OK)
            return err;
        double *const row = score_sums_new(bytes - sizeof *score->rows);
        if (row == NULL)
            return DIMFIT_ERR_NOMEM;
        const size_t at = position(score->rows, score->n_rows, sizeof *score->rows, key);
        memmove(&score->rows[at + 1], &score->rows[at], (score->n_rows - at) * sizeof *score->rows);
        score->rows[at] = (struct score_rows){
            .key = key,
            .width = parts[i].width,
            .row = row,
            .curvature = curved ? row + w : NULL,
            .fresh = true,
        };
        score->n_rows++;
        score->bytes += bytes;
    }
    return DIMFIT_OK;
}

static void parts_drop_empty(struct score_step *step) {
    size_t kept = 0;
    for (size_t i = 0; i < step->n_parts; i++) {
        if (step->parts[i].sums != NULL)
            step->parts[kept++] = step->parts[i];
    }
    step->n_parts = kept;
}

/* Name the parts that the step lacks, without sums; returns the doubles they need. A part may be
 * named twice. */
static size_t parts_name(const struct score *score, struct score_step *step,
                         const struct score_part *parts, size_t n) {
    size_t doubles = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = score_key(parts[i].slot, parts[i].tier);
        const size_t at = position(step->parts, step->n_parts, sizeof *step->parts, key);
        if (at < step->n_parts && step->parts[at].key == key) {
            base_assert(step->parts[at].width == parts[i].width);
            continue;
        }
        memmove(&step->parts[at + 1], &step->parts[at], (step->n_parts - at) * sizeof *step->parts);
        step->parts[at] = (struct score_sum){key, parts[i].width, NULL};
        step->n_parts++;
        doubles += part_doubles(score, parts[i].width);
    }
    return doubles;
}

static dimfit_err parts_open(struct score *score, struct score_step *step,
                             const struct score_part *parts, size_t n, struct err_detail *detail) {
    size_t missing = 0;
    for (size_t i = 0; i < n; i++)
        missing += part_find(step, score_key(parts[i].slot, parts[i].tier)) == NULL;
    if (missing == 0)
        return DIMFIT_OK;
    dimfit_err err = score_reserve((void **)&step->parts, &step->cap_parts, step->n_parts + missing,
                                   sizeof *step->parts);
    if (err != DIMFIT_OK)
        return err;
    const size_t before = step->n_parts;
    const size_t doubles = parts_name(score, step, parts, n);
    const uint64_t bytes = sizeof(struct score_block) + doubles * sizeof(double) +
                           (step->n_parts - before) * sizeof *step->parts;
    struct score_block *block = NULL;
    err = make_room(score, bytes, step, detail);
    if (err == DIMFIT_OK) {
        block = score_sums_new(sizeof *block + doubles * sizeof(double));
        if (block == NULL)
            err = DIMFIT_ERR_NOMEM;
    }
    if (err != DIMFIT_OK) {
        parts_drop_empty(step);
        return err;
    }
    block->next = step->blocks;
    step->blocks = block;
    double *sums = block->sums;
    for (size_t i = 0; i < step->n_parts; i++) {
        if (step->parts[i].sums == NULL) {
            step->parts[i].sums = sums;
            sums += part_doubles(score, step->parts[i].width);
        }
    }
    step->bytes += bytes;
    score->bytes += bytes;
    return DIMFIT_OK;
}

static dimfit_err worker_open(struct score *score, struct score_step *step, uint64_t worker,
                              size_t *at, struct err_detail *detail) {
    for (*at = 0; *at < step->n_workers; ++*at) {
        if (step->workers[*at].worker == worker)
            return DIMFIT_OK;
    }
    dimfit_err err = make_room(score, sizeof *step->workers, step, detail);
    if (err == DIMFIT_OK)
        err = score_reserve((void **)&step->workers, &step->cap_workers, step->n_workers + 1,
                            sizeof *step->workers);
    if (err != DIMFIT_OK)
        return err;
    step->workers[step->n_workers++] = (struct step_samples){worker, 0};
    step->bytes += sizeof *step->workers;
    score->bytes += sizeof *step->workers;
    return DIMFIT_OK;
}

static dimfit_err step_new(struct score *score, uint64_t id, struct score_step **out,
                           struct err_detail *detail) {
    const dimfit_err err = make_room(score, sizeof **out, NULL, detail);
    if (err != DIMFIT_OK)
        return err;
    struct score_step *const step = calloc(1, sizeof *step);
    if (step == NULL)
        return DIMFIT_ERR_NOMEM;
    step->id = id;
    step->bytes = sizeof *step;
    score->bytes += step->bytes;
    score_step_link(score, step);
    *out = step;
    return DIMFIT_OK;
}

/* What comes late finds no step to go to, and its id among the evicted ones. */
static void leave_window(struct score *score) {
    const uint64_t slack = score->window / 8 + 16;
    if (!score->searching || score->window == 0 || score->window > UINT64_MAX - slack)
        return;
    while (score->n_steps >= score->window + slack && evict(score, score->oldest))
        ;
}

dimfit_err score_open(struct score *score, uint64_t step, uint64_t worker, uint64_t samples,
                      const struct score_part *parts, size_t n, struct score_step **out,
                      struct err_detail *detail) {
    struct score_step *found = score_step_find(score, step);
    const bool made = found == NULL;
    if (made)
        leave_window(score);
    dimfit_err err = made ? step_new(score, step, &found, detail) : DIMFIT_OK;
    if (err != DIMFIT_OK)
        return err;
    size_t at = 0;
    const size_t n_rows = score->n_rows;
    err = rows_open(score, found, parts, n, detail);
    if (err == DIMFIT_OK)
        err = parts_open(score, found, parts, n, detail);
    if (err == DIMFIT_OK)
        err = worker_open(score, found, worker, &at, detail);
    if (score->n_rows != n_rows)
        rows_settle(score, err == DIMFIT_OK);
    if (err != DIMFIT_OK) {
        if (made) {
            score->bytes -= found->bytes;
            step_unlink(score, found);
            step_free(found);
        }
        return err;
    }
    struct step_samples *const seen = &found->workers[at];
    if (samples > seen->samples) {
        score->samples += samples - seen->samples;
        seen->samples = samples;
    }
    *out = found;
    return DIMFIT_OK;
}

struct score_sums score_sums_of(struct score *score, struct score_step *step, uint32_t slot,
                                uint32_t tier) {
    const struct score_sum *const part = part_find(step, score_key(slot, tier));
    const struct score_rows *const rows = score_rows_find(score, score_key(slot, tier));
    base_assert(part != NULL && rows != NULL);
    struct score_sums sums = {.scale = 1, .g = part->sums, .row = rows->row};
    if (score->moments) {
        const size_t w = part->width;
        sums.C = part->sums + w;
        sums.b = sums.C + w * w;
    }
    return sums;
}

void score_curvature(struct score *score, uint32_t slot, uint32_t tier, const uint8_t *curvature,
                     double scale, uint32_t lookups) {
    struct score_rows *const rows = score_rows_find(score, score_key(slot, tier));
    base_assert(rows != NULL);
    if (rows->curvature == NULL)
        return;
    const size_t n = section_triangle(rows->width);
    for (size_t i = 0; i < n; i++)
        rows->curvature[i] += scale * load_f64(curvature + i * sizeof(double));
    rows->lookups += lookups;
}

bool score_fits_bases(const struct score *score) {
    return score->moments;
}

uint64_t score_bytes(const struct score *score) {
    return score->bytes;
}

uint64_t score_steps(const struct score *score) {
    return score->n_steps;
}

uint64_t score_samples(const struct score *score) {
    return score->samples;
}
