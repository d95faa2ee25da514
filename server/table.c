#include "proto/finite.h"
#include "server/init.h"
#include "server/optim.h"
#include "server/table_slot.h"

#include <cblas.h>
#include <stdlib.h>

enum {
    AHEAD = 16,           /* keys between two stages of a walk */
    RING = 64,            /* > 3 AHEAD */
    PUSH_ROWS = 8,        /* rows that the kernels take at a time */
    MOMENT_ROWS = 256,    /* rows a product of C takes, */
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
    slab_init(&slot->sides, side_stride(spec, spec->width));
    slot_sinks_init(slot);
    const size_t at = slot_position(table, spec->id);
    memmove(&table->slots[at + 1], &table->slots[at],
            (table->n_slots - at) * sizeof(struct table_slot *));
    table->slots[at] = slot;
    table->n_slots++;
    return DIMFIT_OK;
}

#define INLINE static inline __attribute__((always_inline))

/*
 * The keys of one call, in order, each through four stages, AHEAD keys apart: its home bucket is
 * fetched; it is looked for there; if it was not there, it is looked for on and stored if need be;
 * its row is used. What each stage needs the one before has begun to load. Key by key and not block
 * by block, which bunches the loads and costs a third of the speed. Room for new rows is made
 * beforehand, so that rows keep their place meanwhile.
 */
struct walk {
    const struct table_slot *slot;
    struct table_slot *grow; /* takes the keys that are not there; NULL: they are not stored */
    const struct table_counts *counts; /* with grow: what admits them */
    const uint8_t *keys;
    size_t n, fetched, found, settled, used;
    size_t moved; /* buckets of keys before this one may have moved since they were fetched */
    struct walk_step {
        uint64_t hash;
        const struct index_bucket *home;
        float *values;   /* NULL: not stored; in a walk that stores rows, of a sink then */
        uint32_t *sides; /* in a walk that stores rows */
    } ring[RING];
};

INLINE uint64_t walk_key(const struct walk *walk, size_t i) {
    return load_u64(walk->keys + i * sizeof(uint64_t));
}

INLINE void fetch_home(struct walk *walk) {
    const size_t i = walk->fetched++;
    struct walk_step *const step = &walk->ring[i % RING];
    step->hash = index_hash(&walk->slot->index, walk_key(walk, i));
    step->home = index_fetch(&walk->slot->index, step->hash);
}

INLINE void fetch_row(const struct walk *walk, struct walk_step *step, uint32_t row) {
    step->values = slot_values(walk->slot, row);
    slab_prefetch(&walk->slot->values, step->values);
    if (walk->grow == NULL)
        return;
    step->sides = slot_side(walk->slot, row);
    slab_prefetch(&walk->slot->sides, step->sides);
}

INLINE void find_row(struct walk *walk) {
    const struct index *const index = &walk->slot->index;
    const size_t i = walk->found++;
    struct walk_step *const step = &walk->ring[i % RING];
    const struct index_bucket *const home = i < walk->moved ? index_fetch(index, step->hash)
                                                            : step->home;
    const uint32_t row = index_find_home(home, walk_key(walk, i));
    step->values = NULL;
    if (row < INDEX_PENDING)
        fetch_row(walk, step, row);
    else
        index_fetch_far(index, step->hash);
}

/* A gradient that is not applied finds an initial row all the same; each step has one of its own.
 */
static void use_sink(const struct walk *walk, struct walk_step *step, size_t i) {
    const struct table_slot *const slot = walk->grow;
    step->values = slab_row(&slot->sink_values, i % RING);
    step->sides = slab_row(&slot->sink_sides, i % RING);
    init_row(&slot->spec, slot->seed, walk_key(walk, i), step->values);
    memset(step->sides, 0, slot->sink_sides.stride * sizeof(float));
}

static void find_far(struct walk *walk, size_t i) {
    struct walk_step *const step = &walk->ring[i % RING];
    const uint64_t key = walk_key(walk, i);
    uint32_t row = index_find(&walk->slot->index, key, step->hash);
    if (row >= INDEX_PENDING && walk->grow != NULL) {
        row = row_admit(walk->grow, key, step->hash, row, walk->counts, i);
        walk->moved = walk->fetched;
    }
    if (row < INDEX_PENDING)
        fetch_row(walk, step, row);
    else if (walk->grow != NULL)
        use_sink(walk, step, i);
}

INLINE void settle_row(struct walk *walk) {
    const size_t i = walk->settled++;
    if (walk->ring[i % RING].values == NULL)
        find_far(walk, i);
}

static void walk_init(struct walk *walk, const struct table_slot *slot, struct table_slot *grow,
                      const struct table_counts *counts, const uint8_t *keys, size_t n) {
    walk->slot = slot;
    walk->grow = grow;
    walk->counts = counts;
    walk->keys = keys;
    walk->n = n;
    walk->fetched = walk->found = walk->settled = walk->used = walk->moved = 0;
    while (walk->fetched < n && walk->fetched < 3 * AHEAD)
        fetch_home(walk);
    while (walk->found < n && walk->found < 2 * AHEAD)
        find_row(walk);
    while (walk->settled < n && walk->settled < AHEAD)
        settle_row(walk);
}

/* The next key's row. One call a key. */
INLINE const struct walk_step *walk_next(struct walk *walk) {
    if (walk->fetched < walk->n)
        fetch_home(walk);
    if (walk->found < walk->n)
        find_row(walk);
    if (walk->settled < walk->n)
        settle_row(walk);
    return &walk->ring[walk->used++ % RING];
}

/* Rows are short: a call of memcpy() costs as much as the copy. */
INLINE void row_copy(float *to, const float *from, size_t w) {
    for (; w >= 16; w -= 16, to += 16, from += 16)
        memcpy(to, from, 16 * sizeof *to);
    for (; w >= 4; w -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (; w > 0; w--)
        *to++ = *from++;
}

void table_pull(const struct table_slot *slot, const uint8_t *keys, size_t n, float *values) {
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    const size_t w = slot->spec.width;
    if (w == 0)
        return;
    struct walk walk;
    walk_init(&walk, slot, NULL, NULL, keys, n);
    for (size_t i = 0; i < n; i++, values += w) {
        const struct walk_step *const step = walk_next(&walk);
        if (step->values != NULL)
            row_copy(values, step->values, w);
        else
            init_row(&slot->spec, slot->seed, walk_key(&walk, i), values);
    }
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
    const uint64_t sinks = slot->spec.retention.admit > 1 ? RING : 0;
    if (slot_over_limit(slot, n))
        return DIMFIT_ERR_LIMIT;
    dimfit_err err = n < INDEX_PENDING && rows <= INDEX_PENDING ? slab_reserve(&slot->values, rows)
                                                                : DIMFIT_ERR_NOMEM;
    if (err == DIMFIT_OK)
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
    struct walk walk;
    walk_init(&walk, slot, NULL, NULL, keys, n);
    for (size_t i = 0; i < n; i++) {
        const bool absent = walk_next(&walk)->values == NULL;
        count += absent;
        if (missing != NULL)
            missing[i] = absent;
    }
    return count;
}

/* Rows and gradients on their way into C and b. */
struct moments {
    double *C, *b;
    double scale;
    size_t width, n, cap;
    double rows[MOMENT_VALUES], grads[MOMENT_VALUES];
};

static void moments_init(struct moments *m, const struct score_sums *sums, size_t width) {
    m->C = sums->C;
    m->b = sums->b;
    m->scale = sums->scale;
    m->width = width;
    m->n = 0;
    m->cap = width > 0 ? MOMENT_VALUES / width : 1;
    if (m->cap > MOMENT_ROWS)
        m->cap = MOMENT_ROWS;
}

/* C += scale R^T G; b += scale sum of g (design 2.4). */
static void moments_flush(struct moments *m) {
    const int w = (int)m->width;
    if (w > 0 && m->n > 0) {
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, w, w, (int)m->n, m->scale, m->rows, w,
                    m->grads, w, 1, m->C, w);
        for (size_t i = 0; i < m->n; i++)
            cblas_daxpy(w, m->scale, m->grads + i * m->width, 1, m->b, 1);
    }
    m->n = 0;
}

static void moments_add(struct moments *m, const float *values, const uint8_t *grads) {
    const size_t at = m->n * m->width;
    for (size_t k = 0; k < m->width; k++) {
        m->rows[at + k] = values[k];
        m->grads[at + k] = load_f32(grads + k * sizeof(float));
    }
    if (++m->n == m->cap)
        moments_flush(m);
}

/* One call's gradients, and where their scores go. */
struct push {
    struct table_slot *slot;
    const uint8_t *keys, *grads;
    const struct table_counts *counts;
    size_t n;
    const struct score_sums *sums; /* NULL: none */
    struct moments *moments;       /* NULL: none */
};

/* Before the optimizer: a score takes the values that the gradient was computed with. */
static void score_rows(const struct push *push, float *const *values, const uint8_t *grads,
                       size_t n) {
    const struct score_sums *const sums = push->sums;
    const size_t w = push->slot->spec.width;
    optim_score(values, (const float *)(const void *)grads, n, w, sums->scale, sums->g, sums->row);
    for (size_t i = 0; push->moments != NULL && i < n; i++)
        moments_add(push->moments, values[i], grads + i * w * sizeof(float));
}

static void push_train(const struct push *push) {
    struct table_slot *const slot = push->slot;
    const size_t row_bytes = slot->spec.width * sizeof(float);
    const uint32_t cells = counters_cells(&slot->spec.retention);
    float *values[PUSH_ROWS], *states[PUSH_ROWS];
    uint32_t *sides[PUSH_ROWS];
    struct walk walk;
    walk_init(&walk, slot, slot, push->counts, push->keys, push->n);
    for (size_t done = 0, n; done < push->n; done += n) {
        const uint8_t *const grads = push->grads + done * row_bytes;
        n = push->n - done < PUSH_ROWS ? push->n - done : PUSH_ROWS;
        for (size_t i = 0; i < n; i++) {
            const struct walk_step *const step = walk_next(&walk);
            values[i] = step->values;
            sides[i] = step->sides;
            states[i] = (float *)step->sides + cells;
        }
        counters_add(&slot->spec.retention, sides, push->counts, done, n);
        if (push->sums != NULL)
            score_rows(push, values, grads, n);
        optim_step(&slot->spec.optimizer, values, states, (const float *)(const void *)grads, n,
                   slot->spec.width);
    }
}

static void push_score(const struct push *push) {
    const struct table_slot *const slot = push->slot;
    const size_t row_bytes = slot->spec.width * sizeof(float);
    float unknown[LAYOUT_DIM_MAX], *const missing = unknown;
    struct walk walk;
    walk_init(&walk, slot, NULL, NULL, push->keys, push->n);
    for (size_t i = 0; i < push->n; i++) {
        const struct walk_step *const step = walk_next(&walk);
        const bool stored = step->values != NULL;
        if (!stored)
            init_row(&slot->spec, slot->seed, walk_key(&walk, i), unknown);
        score_rows(push, stored ? &step->values : &missing, push->grads + i * row_bytes, 1);
    }
}

void table_push(struct table_slot *slot, const uint8_t *keys, const uint8_t *grads,
                const struct table_counts *counts, size_t n, bool train,
                const struct score_sums *sums) {
    static const struct table_counts plain = {0};
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    base_assert(train || sums != NULL);
    struct moments moments;
    struct push push = {slot, keys, grads, counts != NULL ? counts : &plain, n, sums, NULL};
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
    const struct row_counters counters = counters_read(retention, slot_side(slot, row));
    *out = (struct table_row){
        .values = slot_values(slot, row),
        .state = (const float *)slot_side(slot, row) + counters_cells(retention),
        .shows = counters.shows,
        .clicks = counters.clicks,
        .day = counters.day,
    };
    return true;
}
