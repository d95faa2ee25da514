#include "proto/finite.h"
#include "server/init.h"
#include "server/optim.h"
#include "server/table_motion.h"
#include "server/walk.h"

#include <stdlib.h>

enum {
    PUSH_ROWS = 16,       /* rows that the kernels take at a time */
    MOMENT_ROWS = 64,     /* rows a product of C takes, */
    MOMENT_VALUES = 4096, /* and values: two buffers of 32 KiB on the stack */
};

dimfit_err table_new(uint64_t seed, struct table **out) {
    struct table *const table = calloc(1, sizeof *table);
    if (table == NULL)
        return DIMFIT_ERR_NOMEM;
    table->magic = TABLE_MAGIC;
    table->seed = seed;
    *out = table;
    return DIMFIT_OK;
}

static void slot_free(struct table_slot *slot) {
    if (slot->motion != NULL)
        former_destroy(&slot->motion->saved, slot->table->spill);
    motion_destroy(&slot->motion);
    former_destroy(&slot->former, slot->table->spill);
    index_fini(&slot->index);
    slab_fini(&slot->values);
    slab_fini(&slot->sides);
    slab_fini(&slot->sink_values);
    slab_fini(&slot->sink_sides);
    layout_slot_fini(&slot->spec);
    slot->magic = 0;
    free(slot);
}

void table_destroy(struct table **table) {
    struct table *const t = *table;
    if (t == NULL)
        return;
    CHECK_OBJ_NOTNULL(t, TABLE_MAGIC);
    for (size_t i = 0; i < t->n_slots; i++)
        slot_free(t->slots[i]);
    free(t->slots);
    free(t->read);
    t->magic = 0;
    free(t);
    *table = NULL;
}

static size_t slot_position(const struct table *table, uint32_t id) {
    size_t low = 0, high = table->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (table->slots[mid]->spec.id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct table_slot *table_find(struct table *table, uint32_t slot) {
    CHECK_OBJ_NOTNULL(table, TABLE_MAGIC);
    const size_t i = slot_position(table, slot);
    return i < table->n_slots && table->slots[i]->spec.id == slot ? table->slots[i] : NULL;
}

uint32_t table_slot_width(const struct table_slot *slot) {
    return slot->spec.width;
}

static bool copy_array(const void *from, size_t bytes, void *out) {
    if (from == NULL)
        return true;
    void *const copy = malloc(bytes ? bytes : 1);
    if (copy == NULL)
        return false;
    memcpy(copy, from, bytes);
    memcpy(out, &copy, sizeof copy);
    return true;
}

dimfit_err table_spec_copy(const struct layout_slot *spec, struct layout_slot *out) {
    const size_t w = spec->width, d = spec->dim;
    struct layout_slot copy = *spec;
    copy.axes = NULL;
    copy.basis = copy.mean = copy.init_map = copy.init_shift = NULL;
    if (!copy_array(spec->axes, w * sizeof *spec->axes, &copy.axes) ||
        !copy_array(spec->init_map, d * w * sizeof *spec->init_map, &copy.init_map) ||
        !copy_array(spec->init_shift, w * sizeof *spec->init_shift, &copy.init_shift)) {
        layout_slot_fini(&copy);
        return DIMFIT_ERR_NOMEM;
    }
    *out = copy;
    return DIMFIT_OK;
}

static dimfit_err slots_reserve(struct table *table) {
    if (table->n_slots < table->cap_slots)
        return DIMFIT_OK;
    const size_t cap = table->cap_slots ? 2 * table->cap_slots : 16;
    struct table_slot **const slots = realloc(table->slots, cap * sizeof(struct table_slot *));
    if (slots == NULL)
        return DIMFIT_ERR_NOMEM;
    table->slots = slots;
    table->cap_slots = cap;
    return DIMFIT_OK;
}

dimfit_err table_add_slot(struct table *table, const struct layout_slot *spec) {
    if (table_find(table, spec->id) != NULL)
        return DIMFIT_ERR_EXISTS;
    dimfit_err err = slots_reserve(table);
    if (err != DIMFIT_OK)
        return err;
    struct table_slot *const slot = calloc(1, sizeof *slot);
    if (slot == NULL)
        return DIMFIT_ERR_NOMEM;
    err = table_spec_copy(spec, &slot->spec);
    if (err != DIMFIT_OK) {
        free(slot);
        return err;
    }
    slot->magic = TABLE_SLOT_MAGIC;
    slot->table = table;
    slot->seed = table->seed;
    index_init(&slot->index, spec->id);
    slab_init(&slot->values, spec->width);
    slab_init(&slot->sides, recast_side(spec, spec->width));
    slot_sinks_init(slot);
    const size_t at = slot_position(table, spec->id);
    memmove(&table->slots[at + 1], &table->slots[at],
            (table->n_slots - at) * sizeof(struct table_slot *));
    table->slots[at] = slot;
    table->n_slots++;
    return DIMFIT_OK;
}

/* Rows are short: a call of memcpy() costs as much as the copy. */
static inline void row_copy(float *to, const float *from, size_t w) {
    for (; w >= 16; w -= 16, to += 16, from += 16)
        memcpy(to, from, 16 * sizeof *to);
    for (; w >= 4; w -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (; w > 0; w--)
        *to++ = *from++;
}

static inline __attribute__((always_inline)) void
pull_rows(const struct table_slot *slot, const uint8_t *keys, size_t n, size_t w, float *values) {
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, keys, n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++, values += w) {
            if (block->values[i] != NULL)
                row_copy(values, block->values[i], w);
            else
                init_row(&slot->spec, slot->seed, walk_key(&walk, block->first + i), values);
        }
    }
}

/* Once more for the usual width, whose copy is then a few moves. */
static void pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values) {
    if (slot->spec.width == 16)
        pull_rows(slot, keys, n, 16, values);
    else
        pull_rows(slot, keys, n, slot->spec.width, values);
}

void table_pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    if (slot->spec.width > 0)
        pull(slot, keys, n, values);
}

dimfit_err table_check_grads(const struct table_slot *slot, const uint8_t *keys,
                             const uint8_t *grads, size_t n, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const size_t w = slot->spec.width;
    if (floats_finite(grads, n * w))
        return DIMFIT_OK;
    for (size_t i = 0; i < n * w; i++) {
        if (!floats_finite(grads + i * sizeof(float), 1))
            return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                           "slot %u (%s), feasign %llu: gradient of coordinate %zu is %g",
                           slot->spec.id, slot->spec.name,
                           (unsigned long long)load_u64(keys + i / w * 8), i % w,
                           (double)load_f32(grads + i * sizeof(float)));
    }
    base_assert(!"a gradient is not finite and none is found");
}

dimfit_err table_reserve(struct table_slot *slot, size_t n) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const uint64_t rows = slot->rows + (uint64_t)(n > slot->n_free ? n - slot->n_free : 0);
    const uint64_t sinks = slot->spec.retention.admit > 1 ? WALK_SINKS : 0;
    if (slot_over_limit(slot, n))
        return DIMFIT_ERR_LIMIT;
    if (n >= INDEX_PENDING || rows > INDEX_PENDING)
        return DIMFIT_ERR_NOMEM;
    dimfit_err err = slot->motion != NULL ? motion_reserve(slot, n)
                                          : slab_reserve(&slot->values, rows);
    if (err == DIMFIT_OK && (slot->motion == NULL || !slot->motion->recast.sides_move))
        err = slab_reserve(&slot->sides, rows);
    if (err == DIMFIT_OK)
        err = slab_reserve(&slot->sink_values, sinks);
    if (err == DIMFIT_OK)
        err = slab_reserve(&slot->sink_sides, sinks);
    if (err == DIMFIT_OK)
        err = index_reserve(&slot->index, n);
    return err;
}

size_t table_missing(const struct table_slot *slot, const uint8_t *keys, size_t n, bool *missing) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    size_t count = 0;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, keys, n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++) {
            const bool absent = block->values[i] == NULL;
            count += absent;
            if (missing != NULL)
                missing[block->first + i] = absent;
        }
    }
    return count;
}

/* Rows and gradients on their way into C and b. */
struct moments {
    const struct optim_kernels *kernels;
    struct optim_moments sums;
    size_t cap;
    uint64_t seed, highest;                                    /* of a hash that takes part */
    double values[MOMENT_VALUES] __attribute__((aligned(64))); /* a vector, a cache line */
    double grads[MOMENT_VALUES] __attribute__((aligned(64)));
};

static void moments_init(struct moments *m, const struct score_sums *sums, size_t width) {
    const size_t stride = (width + OPTIM_STRIDE - 1) / OPTIM_STRIDE * OPTIM_STRIDE;
    base_assert(sums->sample > 0);
    m->kernels = optim_kernels();
    m->sums = (struct optim_moments){
        .values = m->values,
        .grads = m->grads,
        .n = width,
        .stride = stride,
        .scale = sums->scale * sums->sample,
        .C = sums->C,
        .b = sums->b,
    };
    m->seed = key_hash(0, sums->step);
    m->highest = UINT64_MAX / sums->sample;
    m->cap = stride > 0 ? MOMENT_VALUES / stride : 1;
    if (m->cap > MOMENT_ROWS)
        m->cap = MOMENT_ROWS;
    if (width < stride) {
        memset(m->values, 0, m->cap * stride * sizeof *m->values);
        memset(m->grads, 0, m->cap * stride * sizeof *m->grads);
    }
}

/* C += scale R^T G; b += scale sum of g (design 2.4). */
static void moments_flush(struct moments *m) {
    m->kernels->moments(&m->sums);
    m->sums.rows = 0;
}

/* The choice is the feasign's and the step's own: no shard, batch or order has a say in it. */
static bool moments_take(const struct moments *m, uint64_t key) {
    return m->highest == UINT64_MAX || key_hash(0, key ^ m->seed) <= m->highest;
}

static void moments_add(struct moments *m, const float *values, const uint8_t *grads) {
    const size_t at = m->sums.rows * m->sums.stride;
    m->kernels->widen(values, m->sums.n, m->values + at);
    m->kernels->widen(grads, m->sums.n, m->grads + at);
    if (++m->sums.rows == m->cap)
        moments_flush(m);
}

/* One call's gradients, and where their scores go. */
struct push {
    struct table_slot *slot;
    const uint8_t *keys, *grads;
    const struct table_counts *counts;
    size_t n;
    const struct score_sums *sums; /* NULL: none */
    struct optim_sums axis;        /* of them, */
    struct moments *moments;       /* NULL: none */
    const struct optim_kernels *kernels;
};

/* Before the optimizer: a score takes the values that the gradient was computed with. */
static void add_moments(const struct push *push, size_t first, const struct optim_rows *rows) {
    const uint8_t *const grads = rows->grads;
    for (size_t i = 0; push->moments != NULL && i < rows->rows; i++) {
        if (moments_take(push->moments, load_u64(push->keys + (first + i) * sizeof(uint64_t))))
            moments_add(push->moments, rows->values[i], grads + i * rows->n * sizeof(float));
    }
}

/* The block's rows from the i-th on. */
static void push_rows(const struct push *push, const struct walk_block *block, size_t i, size_t n) {
    const struct table_slot *const slot = push->slot;
    const size_t at = block->first + i, w = slot->spec.width;
    const uint32_t cells = counters_cells(&slot->spec.retention);
    float *states[PUSH_ROWS];
    for (size_t j = 0; j < n; j++)
        states[j] = (float *)block->sides[i + j] + cells;
    counters_add(&slot->spec.retention, block->sides + i, push->counts, at, n);
    const struct optim_rows rows = {block->values + i, states, push->grads + at * w * sizeof(float),
                                    n, w};
    add_moments(push, at, &rows);
    push->kernels->train(&slot->spec.optimizer, &rows, push->sums != NULL ? &push->axis : NULL);
}

static void push_train(const struct push *push) {
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), push->slot, push->slot, push->counts, push->keys, push->n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0, n; i < block->n; i += n) {
            n = block->n - i < PUSH_ROWS ? block->n - i : PUSH_ROWS;
            push_rows(push, block, i, n);
        }
    }
}

static void push_score(const struct push *push) {
    const struct table_slot *const slot = push->slot;
    const size_t w = slot->spec.width;
    float unknown[LAYOUT_DIM_MAX], *const missing = unknown;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, push->keys, push->n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++) {
            const size_t at = block->first + i;
            const bool stored = block->values[i] != NULL;
            if (!stored)
                init_row(&slot->spec, slot->seed, walk_key(&walk, at), unknown);
            const struct optim_rows rows = {stored ? &block->values[i] : &missing, NULL,
                                            push->grads + at * w * sizeof(float), 1, w};
            add_moments(push, at, &rows);
            push->kernels->score(&rows, &push->axis);
        }
    }
}

void table_push(struct table_slot *slot, const uint8_t *keys, const uint8_t *grads,
                const struct table_counts *counts, size_t n, bool train,
                const struct score_sums *sums) {
    static const struct table_counts plain = {0};
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    base_assert(train || sums != NULL);
    struct moments moments;
    struct push push = {
        .slot = slot,
        .keys = keys,
        .grads = grads,
        .counts = counts != NULL ? counts : &plain,
        .n = n,
        .sums = sums,
        .kernels = optim_kernels(),
    };
    if (sums != NULL)
        push.axis = (struct optim_sums){sums->scale, sums->g, sums->row};
    if (sums != NULL && sums->C != NULL) {
        moments_init(&moments, sums, slot->spec.width);
        push.moments = &moments;
    }
    if (train) {
        /* Nothing to do unless two pushes were reserved one before the other. */
        dimfit_err err = table_reserve(slot, n);
        if (err == DIMFIT_ERR_LIMIT)
            err = table_reserve(slot, table_missing(slot, keys, n, NULL));
        base_assert(err == DIMFIT_OK);
        push_train(&push);
        if (slot->motion != NULL)
            motion_keep_pace(slot);
    } else {
        push_score(&push);
    }
    if (push.moments != NULL)
        moments_flush(push.moments);
}

bool table_row(const struct table_slot *slot, uint64_t feasign, struct table_row *out) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const uint32_t row = index_find(&slot->index, feasign, index_hash(&slot->index, feasign));
    if (row >= INDEX_PENDING)
        return false;
    const struct retention *const retention = &slot->spec.retention;
    const struct motion *const m = slot->motion;
    const uint32_t *const side = m == NULL ? slot_side(slot, row)
                                           : motion_read_side(slot, row, feasign);
    const struct row_counters counters = counters_read(retention, side);
    *out = (struct table_row){
        .values = m == NULL ? slot_values(slot, row)
                            : motion_values(slot, row, feasign, slot->table->read),
        .state = (const float *)side + counters_cells(retention),
        .shows = counters.shows,
        .clicks = counters.clicks,
        .day = counters.day,
    };
    return true;
}
