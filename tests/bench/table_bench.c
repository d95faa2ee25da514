/*
 * dimfit-bench-table: the table and the planner alone, by turns with what bounds them.
 *
 *     dimfit-bench-table STRATEGIES-FOLDER ROUNDS [NAME...]
 *
 * gather    table_pull() of random rows, beside copies of rows whose place is known
 * gather_16m   the same of 16 times as many rows, 2.6 GB of them
 * update    table_push() of the same rows with axis scores, beside the same without; and with what
 *           a fitted basis needs of all rows (update_moments) and of one in 8
 *           (update_moments_sampled)
 * insert    rows stored for the first time
 * growth    the longest and the thousandth longest push of 100 keys while a table grows from
 *           nothing to 10 M rows, chunks made ready as in the daemon: milliseconds of the thread,
 *           beside those of the clock on the wall, which has other programs in it
 * change    a layout change from 16 to 8 floats until all rows have moved, as a selection and
 *           through a rotation, beside memcpy() of the same bytes, whose pages are there already
 * change_10m   10 M rows from 16 floats to 4 and back, chunks made ready as in the daemon, beside
 *           memcpy() of the same bytes, whose pages are there already; what slabs have at most
 *           meanwhile; the longest slice of a hundred, by the thread's clock
 * decision  plan_make() for 10,000 slots of 64 dimensions
 *
 * Prints one line of JSON a series (bench.h).
 */
#include "proto/change.h"
#include "server/plan.h"
#include "server/stock.h"
#include "server/table.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    SLOT = 1,
    BATCHES = 64, /* a measurement */
    AHEAD = 32,   /* of the bare gather: more than that gains nothing */
    NARROW = BENCH_WIDTH / 2,
    SAMPLE = 8,
    SLICE = 50000, /* of moving, as a shard does it */
    SEED = 1,
    MANY = 16, /* times BENCH_ROWS */
};

struct bench {
    struct layout *layout;
    struct table *table;
    struct table_slot *slot;
    uint64_t n_rows;
    uint32_t *rows; /* [BATCHES][BENCH_BATCH] row numbers, */
    uint64_t *keys; /* and their feasigns */
    float *values, *grads;
};

static const uint8_t *bytes_of(const void *array) {
    return array;
}

static void must(dimfit_err err, const struct err_detail *detail) {
    if (err != DIMFIT_OK)
        bench_die("%d %s", err, detail->text);
}

/* The rows in order of their numbers, so that a bare gather can know their places. */
static void table_fill(struct bench *b) {
    struct err_detail detail = {{0}};
    must(table_new(SEED, &b->table), &detail);
    must(table_add_slot(b->table, layout_find(b->layout, SLOT)), &detail);
    b->slot = table_find(b->table, SLOT);
    uint64_t *const keys = bench_alloc(BENCH_BATCH * sizeof *keys);
    for (uint64_t first = 0; first < b->n_rows; first += BENCH_BATCH) {
        for (uint64_t i = 0; i < BENCH_BATCH; i++)
            keys[i] = bench_key(first + i);
        table_push(b->slot, bytes_of(keys), bytes_of(b->grads), NULL, BENCH_BATCH, true, NULL);
    }
    free(keys);
}

static void set_up(struct bench *b, uint64_t n_rows, enum init_kind init) {
    struct err_detail detail = {{0}};
    const struct layout_slot spec = {
        .id = SLOT,
        .dim = BENCH_WIDTH,
        .width = BENCH_WIDTH,
        .search = true,
        .name = "bench",
        .optimizer = {OPTIMIZER_ROWWISE_ADAGRAD, 0.05f, 1e-8f, 0, 0},
        .init = init,
        .init_scale = 0.01f,
    };
    b->n_rows = n_rows;
    must(layout_new(1, SEED, &b->layout), &detail);
    must(layout_add_slot(b->layout, &spec, &detail), &detail);
    const size_t n = (size_t)BATCHES * BENCH_BATCH;
    b->rows = bench_alloc(n * sizeof *b->rows);
    b->keys = bench_alloc(n * sizeof *b->keys);
    b->values = bench_alloc(BENCH_BATCH * BENCH_WIDTH * sizeof *b->values);
    b->grads = bench_alloc(BENCH_BATCH * BENCH_WIDTH * sizeof *b->grads);
    uint64_t random = 1;
    for (size_t i = 0; i < n; i++) {
        b->rows[i] = (uint32_t)(bench_draw(&random) + bench_mix(i) % MANY * BENCH_ROWS % n_rows);
        b->keys[i] = bench_key(b->rows[i]);
    }
    bench_noise(b->grads, BENCH_BATCH * BENCH_WIDTH);
    table_fill(b);
}

static void tear_down(struct bench *b) {
    table_destroy(&b->table);
    layout_destroy(&b->layout);
    free(b->rows);
    free(b->keys);
    free(b->values);
    free(b->grads);
}

/* ---- gather, update, insert ------------------------------------------------------------------ */

static double gather_table(const struct bench *b) {
    const double begun = bench_seconds();
    for (size_t i = 0; i < BATCHES; i++)
        table_pull(b->slot, bytes_of(b->keys + i * BENCH_BATCH), BENCH_BATCH, b->values);
    return BATCHES * BENCH_BATCH / (bench_seconds() - begun);
}

typedef float row[BENCH_WIDTH];

static double gather_bare(const struct bench *b, const row *rows) {
    row *const values = (row *)b->values;
    const double begun = bench_seconds();
    for (size_t i = 0; i < BATCHES; i++) {
        const uint32_t *const numbers = b->rows + i * BENCH_BATCH;
        for (size_t j = 0; j < BENCH_BATCH; j++) {
            if (j + AHEAD < BENCH_BATCH)
                __builtin_prefetch(&rows[numbers[j + AHEAD]]);
            memcpy(values[j], rows[numbers[j]], sizeof(row));
        }
        __asm__ volatile("" : : "r"(values) : "memory"); /* every batch is wanted */
    }
    return BATCHES * BENCH_BATCH / (bench_seconds() - begun);
}

/* On huge pages where there are any; a power of two above what is asked. */
static void *pages_new(size_t bytes) {
    const size_t page = (size_t)2 << 20, whole = (bytes + page - 1) / page * page;
    void *const pages = aligned_alloc(page, whole);
    if (pages == NULL)
        bench_die("no memory for %zu bytes", whole);
    (void)madvise(pages, whole, MADV_HUGEPAGE);
    return pages;
}

static void bench_gather(const struct bench *b, const char *name, int rounds) {
    struct series gather = {name, "rows/s", "bare prefetched gather", 0, {0}, {0}};
    row *const rows = pages_new(b->n_rows * sizeof *rows);
    memset(rows, 0, b->n_rows * sizeof *rows);
    for (int i = 0; i < rounds; i++) {
        const double ours = gather_table(b);
        series_add(&gather, ours, gather_bare(b, rows));
    }
    free(rows);
    series_print(&gather);
}

/* Initial values are of no interest here, and take longer than the rest. */
static void bench_gather_many(int rounds) {
    struct bench b = {0};
    set_up(&b, (uint64_t)MANY * BENCH_ROWS, INIT_ZERO);
    bench_gather(&b, "gather_16m", rounds);
    tear_down(&b);
}

static double update(const struct bench *b, const struct score_sums *sums) {
    const double begun = bench_seconds();
    for (size_t i = 0; i < BATCHES; i++)
        table_push(b->slot, bytes_of(b->keys + i * BENCH_BATCH), bytes_of(b->grads), NULL,
                   BENCH_BATCH, true, sums);
    return 1e9 * (bench_seconds() - begun) / (BATCHES * BENCH_BATCH);
}

/* sample 0: axis scores alone. */
static void bench_update(const struct bench *b, int rounds, const char *name, uint32_t sample) {
    struct series series = {name, "ns/row", "the same without scores", 0, {0}, {0}};
    double g[BENCH_WIDTH] __attribute__((aligned(64))) = {0};
    double by_row[BENCH_WIDTH] __attribute__((aligned(64))) = {0};
    double C[BENCH_WIDTH * BENCH_WIDTH] __attribute__((aligned(64))) = {0};
    double b_sums[BENCH_WIDTH] __attribute__((aligned(64))) = {0};
    const struct score_sums sums = {BENCH_BATCH, g, by_row, sample > 0 ? C : NULL,
                                    b_sums,      1, sample};
    for (int i = 0; i < rounds; i++) {
        const double scored = update(b, &sums);
        series_add(&series, scored, update(b, NULL));
    }
    series_print(&series);
}

static void bench_insert(struct bench *b, int rounds) {
    struct series series = {.name = "insert", .unit = "ns/row"};
    for (int i = 0; i < rounds; i++) {
        table_destroy(&b->table);
        const double begun = bench_seconds();
        table_fill(b);
        series_add(&series, 1e9 * (bench_seconds() - begun) / BENCH_ROWS, 0);
    }
    series_print(&series);
}

/* ---- growth ---------------------------------------------------------------------------------- */

enum {
    GROWTH_ROWS = 10000000,
    GROWTH_BATCH = 100,
    GROWTH_PUSHES = GROWTH_ROWS / GROWTH_BATCH,
};

static double thread_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Milliseconds of each push, ascending. */
static void grow(const struct bench *b, double *thread, double *wall) {
    struct err_detail detail = {{0}};
    struct table *table;
    must(table_new(SEED, &table), &detail);
    must(table_add_slot(table, layout_find(b->layout, SLOT)), &detail);
    struct table_slot *const slot = table_find(table, SLOT);
    uint64_t keys[GROWTH_BATCH];
    for (size_t i = 0; i < GROWTH_PUSHES; i++) {
        for (size_t k = 0; k < GROWTH_BATCH; k++)
            keys[k] = bench_key(i * GROWTH_BATCH + k);
        const double by_wall = bench_seconds(), by_thread = thread_seconds();
        table_push(slot, bytes_of(keys), bytes_of(b->grads), NULL, GROWTH_BATCH, true, NULL);
        thread[i] = 1e3 * (thread_seconds() - by_thread);
        wall[i] = 1e3 * (bench_seconds() - by_wall);
    }
    table_destroy(&table);
    qsort(thread, GROWTH_PUSHES, sizeof *thread, by_size);
    qsort(wall, GROWTH_PUSHES, sizeof *wall, by_size);
}

static void bench_growth(const struct bench *b, int rounds) {
    struct series longest = {"growth_stop", "ms", "the clock on the wall", 0, {0}, {0}};
    struct series thousandth = {"growth_p999", "ms", "the clock on the wall", 0, {0}, {0}};
    double *const thread = bench_alloc(GROWTH_PUSHES * sizeof *thread);
    double *const wall = bench_alloc(GROWTH_PUSHES * sizeof *wall);
    struct err_detail detail = {{0}};
    must(stock_start(&detail), &detail);
    for (int i = 0; i < rounds; i++) {
        const size_t last = GROWTH_PUSHES - 1, rare = GROWTH_PUSHES - GROWTH_PUSHES / 1000;
        grow(b, thread, wall);
        series_add(&longest, thread[last], wall[last]);
        series_add(&thousandth, thread[rare], wall[rare]);
    }
    stock_stop();
    free(thread);
    free(wall);
    series_print(&longest);
    series_print(&thousandth);
}

/* ---- layout change --------------------------------------------------------------------------- */

/* Half of the coordinates: the even ones, or those of a reflection I - 2 u u^T. */
static struct change *change_make(bool rotated) {
    struct err_detail detail = {{0}};
    struct change *change;
    must(change_new(1, 2, 1, &change), &detail);
    struct change_slot *const slot = &change->slots[0];
    must(change_slot_alloc(slot, SLOT, BENCH_WIDTH, NARROW, rotated), &detail);
    for (uint32_t k = 0; k < NARROW; k++) {
        if (!rotated)
            slot->keep[k] = (uint16_t)(2 * k);
        for (uint32_t i = 0; rotated && i < BENCH_WIDTH; i++)
            slot->T[i * NARROW + k] = slot->N[i * NARROW + k] = (i == k) - 2.0 / BENCH_WIDTH;
    }
    return change;
}

/* What a change reads or writes: sides of row-wise AdaGrad stay where they are. */
static size_t moved_bytes(const struct bench *b) {
    return table_slot_figures(b->slot).value_bytes;
}

static double change_rate(struct bench *b, const struct change *change) {
    struct err_detail detail = {{0}};
    struct layout *after;
    must(change_apply(change, b->layout, NULL, &after, &detail), &detail);
    table_destroy(&b->table);
    table_fill(b);
    const size_t before = moved_bytes(b);
    const double begun = bench_seconds();
    must(table_change(b->table, change, after, &detail), &detail);
    while (table_move(b->table, SLICE))
        ;
    const double seconds = bench_seconds() - begun;
    const double rate = (double)(before + moved_bytes(b)) / seconds;
    layout_destroy(&after);
    return rate;
}

/* Read and written, as those of a change. */
static double memcpy_rate(size_t bytes) {
    void *const from = pages_new(bytes), *const to = pages_new(bytes);
    memset(from, 1, bytes);
    memset(to, 1, bytes);
    const double begun = bench_seconds();
    memcpy(to, from, bytes);
    __asm__ volatile("" : : "r"(to) : "memory");
    const double seconds = bench_seconds() - begun;
    free(from);
    free(to);
    return (double)(2 * bytes) / seconds;
}

static void bench_change(struct bench *b, int rounds) {
    struct series axis = {"change_axis", "bytes/s", "memcpy", 0, {0}, {0}};
    struct series rotated = {"change_rotated", "bytes/s", "memcpy", 0, {0}, {0}};
    struct change *selection = change_make(false), *reflection = change_make(true);
    const size_t bytes = moved_bytes(b);
    for (int i = 0; i < rounds; i++) {
        const double copied = memcpy_rate(bytes);
        series_add(&axis, change_rate(b, selection), copied);
        series_add(&rotated, change_rate(b, reflection), copied);
    }
    change_destroy(&selection);
    change_destroy(&reflection);
    series_print(&axis);
    series_print(&rotated);
}

/* ---- ten million rows to a quarter and back ---------------------------------------------------
 */

enum { MANY_ROWS = 10000000, QUARTER = BENCH_WIDTH / 4 };

/* The first coordinates stay; or the others come behind them, with initial values. */
static struct change *resize_make(uint64_t epoch, uint32_t from, uint32_t to) {
    const uint32_t kept = from < to ? from : to, added = to - kept;
    struct err_detail detail = {{0}};
    struct change *change;
    must(change_new(epoch, epoch + 1, 1, &change), &detail);
    struct change_slot *const slot = &change->slots[0];
    must(change_slot_alloc_added(slot, SLOT, BENCH_WIDTH, from, to, added, false), &detail);
    slot->drawn = added > 0;
    for (uint32_t k = 0; k < kept; k++)
        slot->keep[k] = (uint16_t)k;
    for (uint32_t k = 0; k < added; k++)
        slot->columns[(kept + k) * added + k] = 1;
    return change;
}

struct resize {
    double rate;    /* rows a second */
    double peak;    /* most bytes that slabs have */
    double *slices; /* milliseconds of the thread, */
    size_t n_slices;
};

enum { SLICES_MAX = 1 << 20 };

static void resize(struct bench *b, uint32_t from, uint32_t to, struct resize *out) {
    struct err_detail detail = {{0}};
    struct layout *after;
    struct change *change = resize_make(b->layout->epoch, from, to);
    must(change_apply(change, b->layout, NULL, &after, &detail), &detail);
    out->peak = 0;
    out->n_slices = 0;
    const double begun = bench_seconds();
    must(table_change(b->table, change, after, &detail), &detail);
    for (bool more = true; more;) {
        const double thread = thread_seconds();
        more = table_move(b->table, SLICE);
        if (out->n_slices < SLICES_MAX)
            out->slices[out->n_slices++] = 1e3 * (thread_seconds() - thread);
        const double now = (double)table_figures(b->table).slab_bytes;
        out->peak = now > out->peak ? now : out->peak;
    }
    out->rate = (double)b->n_rows / (bench_seconds() - begun);
    qsort(out->slices, out->n_slices, sizeof *out->slices, by_size);
    change_destroy(&change);
    layout_destroy(&b->layout);
    b->layout = after;
}

/* One way: how fast, how much memory, and how long a slice takes. */
struct resize_series {
    struct series rate, peak, slice;
};

static void resize_add(struct resize_series *to, const struct resize *r, double copied,
                       double bytes) {
    const double longest = r->slices[r->n_slices - 1];
    series_add(&to->rate, r->rate, copied);
    series_add(&to->peak, r->peak, bytes);
    series_add(&to->slice, r->slices[r->n_slices - 1 - r->n_slices / 100], longest);
}

static void resize_print(const struct resize_series *s) {
    series_print(&s->rate);
    series_print(&s->peak);
    series_print(&s->slice);
}

static void bench_resize(int rounds) {
    struct resize_series narrow = {
        .rate = {"change_shrink_10m", "rows/s", "memcpy of the same bytes", 0, {0}, {0}},
        .peak = {"change_shrink_10m_peak", "bytes", "before", 0, {0}, {0}},
        .slice = {"change_shrink_10m_slice", "ms", "the longest", 0, {0}, {0}},
    };
    struct resize_series wide = {
        .rate = {"change_grow_10m", "rows/s", "memcpy of the same bytes", 0, {0}, {0}},
        .peak = {"change_grow_10m_peak", "bytes", "after", 0, {0}, {0}},
        .slice = {"change_grow_10m_slice", "ms", "the longest", 0, {0}, {0}},
    };
    struct bench b = {0};
    struct resize r = {.slices = bench_alloc(SLICES_MAX * sizeof *r.slices)};
    struct err_detail detail = {{0}};
    must(stock_start(&detail), &detail);
    set_up(&b, MANY_ROWS, INIT_ZERO);
    const size_t bytes = (size_t)MANY_ROWS * (BENCH_WIDTH + QUARTER) * sizeof(float);
    for (int i = 0; i < rounds; i++) {
        const double copied = memcpy_rate(bytes / 2) / (double)bytes * MANY_ROWS;
        const double full = (double)table_figures(b.table).slab_bytes;
        resize(&b, BENCH_WIDTH, QUARTER, &r);
        resize_add(&narrow, &r, copied, full);
        resize(&b, QUARTER, BENCH_WIDTH, &r);
        resize_add(&wide, &r, copied, full);
    }
    tear_down(&b);
    stock_stop();
    free(r.slices);
    resize_print(&narrow);
    resize_print(&wide);
}

/* ---- decision -------------------------------------------------------------------------------- */

enum { DECISION_SLOTS = 10000, DECISION_WIDTH = 64 };

static struct layout *decision_layout(void) {
    struct err_detail detail = {{0}};
    struct layout *layout;
    must(layout_new(1, SEED, &layout), &detail);
    for (uint32_t i = 0; i < DECISION_SLOTS; i++) {
        struct layout_slot slot = {
            .id = i,
            .dim = DECISION_WIDTH,
            .width = DECISION_WIDTH,
            .search = true,
            .optimizer = {OPTIMIZER_ROWWISE_ADAGRAD, 0.05f, 1e-8f, 0, 0},
        };
        snprintf(slot.name, sizeof slot.name, "slot%u", i);
        must(layout_add_slot(layout, &slot, &detail), &detail);
    }
    return layout;
}

static struct stats *decision_stats(void) {
    struct err_detail detail = {{0}};
    struct stats *stats;
    must(stats_new(1, &stats), &detail);
    struct step_stats *const step = stats_add_step(stats, 1);
    if (step == NULL)
        bench_die("no memory for the statistics");
    must(step_add_worker(step, 1, BENCH_BATCH), &detail);
    for (uint32_t i = 0; i < DECISION_SLOTS; i++) {
        struct slot_stats *const slot = stats_add_slot(stats, i, 0, DECISION_WIDTH, false);
        struct step_slot *const part = step_add_slot(step, i, 0, DECISION_WIDTH, false);
        if (slot == NULL || part == NULL)
            bench_die("no memory for the statistics");
        slot->rows = 1 + bench_mix(i) % 10000;
        for (uint32_t k = 0; k < DECISION_WIDTH; k++)
            part->g[k] = (double)(int64_t)bench_mix((uint64_t)i * DECISION_WIDTH + k);
    }
    return stats;
}

static void bench_decision(const char *folder, int rounds) {
    struct series series = {.name = "decision", .unit = "ms"};
    struct err_detail detail = {{0}};
    struct strategies *strategies;
    must(strategies_load(folder, &strategies, &detail), &detail);
    struct layout *layout = decision_layout();
    struct stats *stats = decision_stats();
    struct plan_request request;
    plan_request_init(&request);
    request.kappa = 0.25;
    request.basis = BASIS_AXIS;
    for (int i = 0; i < rounds; i++) {
        struct plan *plan;
        const double begun = bench_seconds();
        must(plan_make(layout, stats, &request, strategies, &plan, &detail), &detail);
        series_add(&series, 1e3 * (bench_seconds() - begun), 0);
        plan_destroy(&plan);
    }
    stats_destroy(&stats);
    layout_destroy(&layout);
    strategies_destroy(&strategies);
    series_print(&series);
}

int main(int argc, char **argv) {
    if (argc < 3)
        bench_die("usage: dimfit-bench-table STRATEGIES-FOLDER ROUNDS [NAME...]");
    const int rounds = atoi(argv[2]), n_names = argc - 3;
    char *const *const names = argv + 3;
    struct bench b = {0};
    if (bench_wanted("gather_16m", names, n_names))
        bench_gather_many(rounds);
    set_up(&b, BENCH_ROWS, INIT_NORMAL);
    if (bench_wanted("gather", names, n_names))
        bench_gather(&b, "gather", rounds);
    if (bench_wanted("update", names, n_names))
        bench_update(&b, rounds, "update", 0);
    if (bench_wanted("update_moments", names, n_names))
        bench_update(&b, rounds, "update_moments", 1);
    if (bench_wanted("update_moments_sampled", names, n_names))
        bench_update(&b, rounds, "update_moments_sampled", SAMPLE);
    if (bench_wanted("insert", names, n_names))
        bench_insert(&b, rounds);
    if (bench_wanted("growth", names, n_names))
        bench_growth(&b, rounds);
    if (bench_wanted("change", names, n_names))
        bench_change(&b, rounds);
    if (bench_wanted("change_10m", names, n_names))
        bench_resize(rounds);
    if (bench_wanted("decision", names, n_names))
        bench_decision(argv[1], rounds);
    tear_down(&b);
    return 0;
}
