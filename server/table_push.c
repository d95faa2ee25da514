/*
 * A push: rows are found by a walk, and the kernels take some of them at a time.
 *
 * In a slot of several tiers each block of the walk is taken apart, tier by tier, with its rows in
 * order and the gradients cut to their width.
 */
#include "server/init.h"
#include "server/optim.h"
#include "server/table_motion.h"
#include "server/walk.h"

enum {
    PUSH_ROWS = 16,       /* rows that the kernels take at a time */
    MOMENT_ROWS = 64,     /* rows a product of C takes, */
    MOMENT_VALUES = 4096, /* and values: two buffers of 32 KiB on the stack */
};
_Static_assert((int)PUSH_ROWS <= (int)OPTIM_ROWS, "the kernels take as many");

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
    const struct score_sums *sums;            /* [n_tiers]; NULL: none */
    struct optim_sums axis[LAYOUT_TIERS_MAX]; /* of them, */
    struct moments *moments;                  /* [n_tiers]; NULL: none */
    const struct optim_kernels *kernels;
};

static const uint8_t *grad_of(const struct push *push, size_t key) {
    return push->grads + key * push->slot->spec.width * sizeof(float);
}

/* Before the optimizer: a score takes the values that the gradient was computed with. */
static void add_moments(const struct push *push, uint32_t tier, size_t key, const float *values) {
    struct moments *const moments = &push->moments[tier];
    if (moments_take(moments, load_u64(push->keys + key * sizeof(uint64_t))))
        moments_add(moments, values, grad_of(push, key));
}

static void train_rows(const struct push *push, uint32_t tier, const struct optim_rows *rows) {
    push->kernels->train(&push->slot->spec.optimizer, rows,
                         push->sums != NULL ? &push->axis[tier] : NULL);
}

/* The block's rows from the i-th on, all of one tier. */
static void push_rows(const struct push *push, const struct walk_block *block, size_t i, size_t n) {
    const struct retention *const retention = &push->slot->spec.retention;
    const size_t at = block->first + i, w = push->slot->spec.width;
    const uint32_t cells = counters_cells(retention);
    float *states[PUSH_ROWS];
    for (size_t j = 0; j < n; j++)
        states[j] = (float *)block->sides[i + j] + cells;
    counters_add(retention, block->sides + i, push->counts, at, n);
    const struct optim_rows rows = {block->values + i, states, grad_of(push, at), n, w};
    for (size_t j = 0; push->moments != NULL && j < n; j++)
        add_moments(push, 0, at + j, rows.values[j]);
    train_rows(push, 0, &rows);
}

static void push_block(const struct push *push, const struct walk_block *block) {
    for (size_t i = 0, n; i < block->n; i += n) {
        n = block->n - i < PUSH_ROWS ? block->n - i : PUSH_ROWS;
        push_rows(push, block, i, n);
    }
}

/* The block's rows of one tier. */
static void push_tier(const struct push *push, const struct walk_block *block, uint32_t tier) {
    const uint32_t cells = counters_cells(&push->slot->spec.retention);
    const size_t w = push->slot->spec.tier_widths[tier];
    float *values[PUSH_ROWS], *states[PUSH_ROWS], grads[PUSH_ROWS * LAYOUT_DIM_MAX];
    struct optim_rows rows = {values, states, grads, 0, w};
    for (size_t i = 0; i < block->n; i++) {
        if (block->tiers[i] != tier)
            continue;
        values[rows.rows] = block->values[i];
        states[rows.rows] = (float *)block->sides[i] + cells;
        memcpy(grads + rows.rows * w, grad_of(push, block->first + i), w * sizeof *grads);
        if (push->moments != NULL)
            add_moments(push, tier, block->first + i, block->values[i]);
        if (++rows.rows < PUSH_ROWS)
            continue;
        train_rows(push, tier, &rows);
        rows.rows = 0;
    }
    if (rows.rows > 0)
        train_rows(push, tier, &rows);
}

static void push_tiers(const struct push *push, const struct walk_block *block) {
    counters_add(&push->slot->spec.retention, block->sides, push->counts, block->first, block->n);
    for (uint32_t t = 0; t < push->slot->spec.n_tiers; t++)
        push_tier(push, block, t);
}

static void push_train(const struct push *push) {
    const bool tiered = push->slot->spec.n_tiers > 1;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), push->slot, push->slot, push->counts, push->keys, push->n);
    while ((block = walk_next(&walk)) != NULL) {
        if (tiered)
            push_tiers(push, block);
        else
            push_block(push, block);
    }
}

static void push_score(const struct push *push) {
    const struct table_slot *const slot = push->slot;
    const bool tiered = slot->spec.n_tiers > 1;
    float unknown[LAYOUT_DIM_MAX], *const missing = unknown;
    const struct walk_block *block;
    struct walk walk;
    walk_init(&walk, walk_kernels(), slot, NULL, NULL, push->keys, push->n);
    while ((block = walk_next(&walk)) != NULL) {
        for (size_t i = 0; i < block->n; i++) {
            const size_t at = block->first + i;
            const uint32_t tier = tiered ? block->tiers[i] : 0;
            const bool stored = block->values[i] != NULL;
            if (!stored)
                init_new_row(&slot->spec, slot->seed, walk_key(&walk, at), unknown);
            const struct optim_rows rows = {stored ? &block->values[i] : &missing, NULL,
                                            grad_of(push, at), 1, slot->spec.tier_widths[tier]};
            if (push->moments != NULL)
                add_moments(push, tier, at, rows.values[0]);
            push->kernels->score(&rows, &push->axis[tier]);
        }
    }
}

static void push_all(const struct push *push, bool train) {
    if (!train) {
        push_score(push);
        return;
    }
    /* Nothing to do unless two pushes were reserved one before the other. */
    dimfit_err err = table_reserve(push->slot, push->n);
    if (err == DIMFIT_ERR_LIMIT)
        err = table_reserve(push->slot, table_missing(push->slot, push->keys, push->n, NULL));
    base_assert(err == DIMFIT_OK);
    push_train(push);
    if (push->slot->n_moving > 0)
        motion_keep_pace(push->slot);
}

/* moments[n_tiers] */
static void push_fitted(struct push *push, bool train, struct moments *moments) {
    const struct layout_slot *const spec = &push->slot->spec;
    for (uint32_t t = 0; t < spec->n_tiers; t++)
        moments_init(&moments[t], &push->sums[t], spec->tier_widths[t]);
    push->moments = moments;
    push_all(push, train);
    for (uint32_t t = 0; t < spec->n_tiers; t++)
        moments_flush(&moments[t]);
}

/* Half a megabyte of stack that others do without. */
static __attribute__((noinline)) void push_fitted_tiers(struct push *push, bool train) {
    struct moments moments[LAYOUT_TIERS_MAX];
    push_fitted(push, train, moments);
}

static __attribute__((noinline)) void push_fitted_slot(struct push *push, bool train) {
    struct moments moments;
    push_fitted(push, train, &moments);
}

void table_push(struct table_slot *slot, const uint8_t *keys, const uint8_t *grads,
                const struct table_counts *counts, size_t n, bool train,
                const struct score_sums *sums) {
    static const struct table_counts plain = {0};
    CHECK_OBJ_NOTNULL(slot, TABLE_SLOT_MAGIC);
    base_assert(train || sums != NULL);
    struct push push = {
        .slot = slot,
        .keys = keys,
        .grads = grads,
        .counts = counts != NULL ? counts : &plain,
        .n = n,
        .sums = sums,
        .kernels = optim_kernels(),
    };
    for (uint32_t t = 0; sums != NULL && t < slot->spec.n_tiers; t++)
        push.axis[t] = (struct optim_sums){sums[t].scale, sums[t].g, sums[t].row};
    if (sums == NULL || sums->C == NULL)
        push_all(&push, train);
    else if (slot->spec.n_tiers > 1)
        push_fitted_tiers(&push, train);
    else
        push_fitted_slot(&push, train);
}
