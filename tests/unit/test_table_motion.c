/* Rows on their way through changes, against a plain model: whatever the schedule of slices. */
#include "server/init.h"
#include "server/optim.h"
#include "server/slab.h"
#include "server/table_expire.h"
#include "tests/unit/table_scene.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    UNIVERSE = 120, /* keys */
    STATE_MAX = 2 * DIM + 1,
    SEQUENCES = 1000,
    STEPS = 14,
};

/* ---- the model: a row a key, changed as a whole -------------------------------------------------
 */

struct row {
    bool there;
    uint32_t pending; /* shown so often without a row */
    float values[DIM], state[STATE_MAX];
    float shows;
};

struct model {
    struct row rows[UNIVERSE];
    struct row saved[UNIVERSE], moved[UNIVERSE]; /* before the last change, and after it */
    struct layout *before;                       /* the last change, NULL: it can't be undone */
    struct change *last;
};

/* Two tables that go through the same: one moves all rows at once, the other some now and then. */
struct scene {
    enum optimizer_kind kind;
    struct fixture *eager, *lazy;
    struct model model;
    uint64_t random;
    bool axes;      /* changes keep to them */
    uint32_t admit; /* shows that a row takes */
};

static uint64_t draw(struct scene *s, uint64_t n) {
    s->random++;
    return mix(s->random) % n;
}

static uint64_t key_at(size_t i) {
    return mix(i * 7919 + 3);
}

static const struct layout_slot *spec_now(const struct scene *s) {
    return layout_find(s->eager->layout, SLOT);
}

static size_t state_now(const struct scene *s) {
    return optimizer_state_width(s->kind, spec_now(s)->width);
}

static void read_row(const struct fixture *f, const struct scene *s, size_t i, struct row *out) {
    struct table_row row;
    *out = (struct row){.there = table_row(f->slot, key_at(i), &row)};
    if (!out->there)
        return;
    memcpy(out->values, row.values, spec_now(s)->width * sizeof(float));
    memcpy(out->state, row.state, state_now(s) * sizeof(float));
    out->shows = row.shows;
}

static void assert_row(const struct row *got, const struct row *want) {
    assert_int_equal(got->there, want->there);
    assert_memory_equal(got->values, want->values, sizeof got->values);
    assert_memory_equal(got->state, want->state, sizeof got->state);
    assert_true(got->shows == want->shows);
}

/* Bit for bit what the model says, by look-ups and by pulls. */
static void assert_as_model(struct scene *s, struct fixture *f) {
    const size_t w = spec_now(s)->width;
    static float pulled[UNIVERSE * DIM];
    for (size_t i = 0; i < UNIVERSE; i++)
        set_key(f, i, key_at(i));
    table_pull(f->slot, keys_of(f), UNIVERSE, pulled);
    for (size_t i = 0; i < UNIVERSE; i++) {
        struct row row;
        float initial[DIM];
        read_row(f, s, i, &row);
        assert_row(&row, &s->model.rows[i]);
        init_row(spec_now(s), 99, key_at(i), initial);
        assert_memory_equal(pulled + i * w, row.there ? row.values : initial, w * sizeof(float));
    }
}

/* ---- pushes -----------------------------------------------------------------------------------
 */

static void model_push(struct scene *s, const size_t *picked, size_t n) {
    const struct layout_slot *const spec = spec_now(s);
    size_t variants;
    const struct optim_kernels *const reference = optim_variants(&variants)[0];
    for (size_t k = 0; k < n; k++) {
        struct row *const row = &s->model.rows[picked[k]];
        if (!row->there && ++row->pending < s->admit)
            continue;
        if (!row->there) {
            *row = (struct row){.there = true, .shows = (float)row->pending - 1};
            init_row(spec, 99, key_at(picked[k]), row->values);
        }
        row->shows += 1;
        float *const values = row->values, *const state = row->state;
        const struct optim_rows rows = {
            &values, &state, grads_of(s->eager) + k * spec->width * sizeof(float), 1, spec->width};
        reference->train(&spec->optimizer, &rows, NULL);
    }
}

static void push_some(struct scene *s, bool train) {
    size_t picked[UNIVERSE];
    const size_t n = 1 + draw(s, UNIVERSE / 3), w = spec_now(s)->width;
    struct fixture *const both[] = {s->eager, s->lazy};
    double g[2][DIM] = {{0}}, by_row[2][DIM] = {{0}};
    const uint64_t first = draw(s, UNIVERSE);
    for (size_t k = 0; k < n; k++)
        picked[k] = (first + k * 7) % UNIVERSE; /* distinct: 7 does not divide it */
    const uint64_t noise_of = draw(s, UINT64_MAX);
    for (size_t t = 0; t < 2; t++) {
        for (size_t k = 0; k < n; k++)
            set_key(both[t], k, key_at(picked[k]));
        for (size_t k = 0; k < n * w; k++)
            set_grad(both[t], k, (float)noise(noise_of + k));
        const struct score_sums sums = {.scale = 1, .g = g[t], .row = by_row[t], .sample = 1};
        if (train)
            assert_int_equal(table_reserve(both[t]->slot, n), DIMFIT_OK);
        table_push(both[t]->slot, keys_of(both[t]), grads_of(both[t]), NULL, n, train, &sums);
    }
    assert_memory_equal(g[0], g[1], sizeof g[0]);
    assert_memory_equal(by_row[0], by_row[1], sizeof by_row[0]);
    if (train)
        model_push(s, picked, n);
}

/* Rows shown least go; their numbers serve the next. Never while rows move. */
static void evict(struct scene *s, float shows) {
    struct fixture *const both[] = {s->eager, s->lazy};
    static struct expiry_slice slice;
    for (size_t t = 0; t < 2; t++) {
        struct expiry_walk walk = {0};
        const struct expiry_rule rule = {.today = 1, .shows = shows};
        move_all(both[t]->table);
        while (table_expire(both[t]->slot, &rule, &walk, &slice))
            ;
    }
    for (size_t i = 0; i < UNIVERSE; i++) {
        if (s->model.rows[i].there && s->model.rows[i].shows < shows) {
            s->model.rows[i] = (struct row){0};
            s->model.saved[i].there = false;
        }
        if ((float)s->model.rows[i].pending < shows)
            s->model.rows[i].pending = 0;
    }
}

/* ---- changes: drawn, and worked out in float64 -------------------------------------------------
 */

/* Columns first .. cols - 1 of A[rows][cols], drawn, made orthonormal among themselves and to those
 * before them. */
static void orthonormal(struct scene *s, double *A, size_t rows, size_t cols, size_t first) {
    for (size_t k = first; k < cols; k++) {
        for (size_t i = 0; i < rows; i++)
            A[i * cols + k] = noise(draw(s, UINT64_MAX));
        for (size_t twice = 0; twice < 2; twice++) {
            for (size_t j = 0; j <= k; j++) {
                double dot = 0;
                for (size_t i = 0; i < rows; i++)
                    dot += A[i * cols + k] * A[i * cols + j];
                for (size_t i = 0; i < rows; i++)
                    A[i * cols + k] = j < k ? A[i * cols + k] - dot * A[i * cols + j]
                                            : A[i * cols + k] / sqrt(dot);
            }
        }
    }
}

static void fill_keep(struct scene *s, struct change_slot *slot, uint32_t kept) {
    uint16_t all[DIM];
    for (uint16_t k = 0; k < slot->from; k++)
        all[k] = k;
    for (uint32_t k = 0; k < kept; k++) {
        const uint64_t other = k + draw(s, slot->from - k);
        const uint16_t swap = all[k];
        all[k] = all[other];
        all[other] = swap;
        slot->keep[k] = all[k];
    }
}

static void fill_dense(struct scene *s, struct change_slot *slot, uint32_t kept) {
    double N[DIM * DIM] = {0};
    orthonormal(s, N, slot->from, kept, 0);
    for (size_t i = 0; i < (size_t)slot->from * kept; i++) {
        slot->N[i] = N[i];
        slot->T[i] = N[i] + 0.1 * noise(draw(s, UINT64_MAX)); /* they differ in general */
    }
    for (size_t i = 0; i < slot->from; i++)
        slot->shift[i] = 0.1 * noise(draw(s, UINT64_MAX));
}

/* Axes that are free, or directions orthonormal to those that are kept. */
static void fill_columns(struct scene *s, struct change_slot *slot, uint32_t kept) {
    const struct layout_slot *const spec = spec_now(s);
    if (s->axes) {
        bool used[DIM] = {false};
        for (uint32_t k = 0; k < kept; k++)
            used[spec->axes[slot->keep[k]]] = true;
        size_t axis = 0;
        for (uint32_t k = 0; k < slot->added; k++, axis++) {
            while (used[axis])
                axis++;
            slot->columns[axis * slot->added + k] = 1;
        }
        return;
    }
    double M[DIM * DIM], A[DIM * DIM] = {0};
    layout_slot_basis(spec, M);
    for (size_t i = 0; i < DIM; i++) {
        for (size_t k = 0; k < kept; k++) {
            for (size_t j = 0; j < slot->from; j++) {
                const double n = slot->keep != NULL ? slot->keep[k] == j : slot->N[j * kept + k];
                A[i * slot->to + k] += M[i * slot->from + j] * n;
            }
        }
    }
    orthonormal(s, A, DIM, slot->to, kept);
    for (size_t i = 0; i < DIM; i++) {
        for (size_t k = 0; k < slot->added; k++)
            slot->columns[i * slot->added + k] = A[i * slot->to + kept + k];
    }
}

static void fill_mix(struct scene *s, struct change_slot *slot) {
    assert_int_equal(change_slot_alloc_mix(slot), DIMFIT_OK);
    for (size_t i = 0; i < (size_t)slot->from * slot->added; i++)
        slot->mix[i] = 0.4 * noise(draw(s, UINT64_MAX));
    for (size_t i = 0; i < slot->from; i++)
        slot->centre[i] = 0.1 * noise(draw(s, UINT64_MAX));
}

static struct change *draw_change(struct scene *s) {
    const uint32_t from = spec_now(s)->width, kept = (uint32_t)draw(s, from + 1);
    const uint32_t added = draw(s, 2) == 0 ? 0 : (uint32_t)draw(s, DIM - kept + 1);
    const bool dense = !s->axes && draw(s, 3) > 0;
    struct change *change = NULL;
    const uint64_t epoch = s->eager->layout->epoch;
    assert_int_equal(change_new(epoch, epoch + 1, 1, &change), DIMFIT_OK);
    struct change_slot *const slot = &change->slots[0];
    assert_int_equal(change_slot_alloc_added(slot, SLOT, DIM, from, kept + added, added, dense),
                     DIMFIT_OK);
    if (dense)
        fill_dense(s, slot, kept);
    else
        fill_keep(s, slot, kept);
    if (added > 0) {
        fill_columns(s, slot, kept);
        const uint64_t way = draw(s, 3);
        slot->drawn = s->axes || way == 0;
        if (!slot->drawn && way == 1)
            fill_mix(s, slot);
    }
    return change;
}

/* What stands in one part of a row: values, first moments, second moments. */
enum part { VALUES, FIRST, SECOND };

static double weight(const struct change_slot *c, enum part part, size_t i, size_t k) {
    const size_t kept = c->to - c->added;
    if (c->keep != NULL)
        return c->keep[k] == i;
    const double n = c->N[i * kept + k];
    return part == VALUES ? c->T[i * kept + k] : part == FIRST ? n : n * n;
}

static void part_forth(const struct change_slot *c, enum part part, const float *from, double *to) {
    for (size_t k = 0; k < c->to; k++) {
        to[k] = 0;
        for (size_t i = 0; k < c->to - c->added && i < c->from; i++) {
            const double shift = part == VALUES && c->shift != NULL ? c->shift[i] : 0;
            to[k] += (from[i] - shift) * weight(c, part, i, k);
        }
    }
    for (size_t k = 0; part == VALUES && c->mix != NULL && k < c->added; k++) {
        for (size_t i = 0; i < c->from; i++)
            to[c->to - c->added + k] += (from[i] - c->centre[i]) * c->mix[i * c->added + k];
    }
}

static void part_back(const struct change_slot *c, enum part part, const float *saved,
                      const double *moved, const float *now, double *to) {
    for (size_t i = 0; i < c->from; i++) {
        to[i] = saved[i];
        for (size_t k = 0; k < c->to - c->added; k++) {
            if (c->keep != NULL && c->keep[k] == i)
                to[i] = now[k];
            else if (c->keep == NULL)
                to[i] += (now[k] - moved[k]) * weight(c, part == SECOND ? SECOND : FIRST, i, k);
        }
        if (part == SECOND && c->keep == NULL && to[i] < 0)
            to[i] = 0;
    }
}

/* The parts of a state: where they begin at a width, and how many there are. */
static size_t parts_of(enum optimizer_kind kind, size_t w, size_t at[2], enum part part[2]) {
    const size_t first = kind == OPTIMIZER_ADAM;
    at[0] = first;
    at[1] = first + w;
    part[0] = kind == OPTIMIZER_ADAGRAD ? SECOND : FIRST;
    part[1] = kind == OPTIMIZER_ADAM ? SECOND : FIRST;
    return kind == OPTIMIZER_ADAGRAD ? 1 : kind == OPTIMIZER_ADAM || kind == OPTIMIZER_FTRL ? 2 : 0;
}

/* Bit for bit where coordinates are only selected, to float32's rounding otherwise. */
static void assert_cells(const float *got, const double *want, size_t n, bool exact) {
    double norm = 0;
    for (size_t k = 0; k < n; k++)
        norm += want[k] * want[k];
    for (size_t k = 0; k < n; k++) {
        if (exact)
            assert_true(got[k] == (float)want[k]);
        else
            assert_true(fabs(got[k] - want[k]) <= 4e-7 * (sqrt(norm) + fabs(want[k]) + 0.3));
    }
}

static void check_forth(struct scene *s, const struct change_slot *c, const struct row *was,
                        const struct row *now) {
    double want[DIM];
    const bool exact = c->keep != NULL;
    part_forth(c, VALUES, was->values, want);
    if (c->drawn) {
        float drawn[DIM];
        init_row(spec_now(s), 99, XXH3_64bits(was->values, c->from * sizeof(float)), drawn);
        for (size_t k = c->to - c->added; k < c->to; k++) {
            assert_true(now->values[k] == drawn[k]);
            want[k] = drawn[k];
        }
    }
    const size_t kept = c->to - c->added;
    assert_cells(now->values, want, kept, exact);
    assert_cells(now->values + kept, want + kept, c->added, exact && c->mix == NULL);
    size_t from_at[2], to_at[2];
    enum part part[2];
    const size_t n = parts_of(s->kind, c->from, from_at, part);
    (void)parts_of(s->kind, c->to, to_at, part);
    for (size_t p = 0; p < n; p++) {
        part_forth(c, part[p], was->state + from_at[p], want);
        assert_cells(now->state + to_at[p], want, c->to, exact);
    }
    if (s->kind == OPTIMIZER_ROWWISE_ADAGRAD || s->kind == OPTIMIZER_ADAM)
        assert_true(now->state[0] == was->state[0]);
    assert_true(now->shows == was->shows);
}

static void check_back(struct scene *s, const struct change_slot *c, size_t i,
                       const struct row *was, const struct row *now) {
    const struct model *const m = &s->model;
    const bool exact = c->keep != NULL;
    struct row saved = {0};
    double moved[DIM], want[DIM];
    if (m->saved[i].there)
        saved = m->saved[i];
    else
        init_row(spec_now(s), 99, key_at(i), saved.values);
    size_t narrow[2], wide[2];
    enum part part[2];
    const size_t n = parts_of(s->kind, c->to, narrow, part);
    (void)parts_of(s->kind, c->from, wide, part);
    part_forth(c, VALUES, saved.values, moved);
    part_back(c, VALUES, saved.values, moved, was->values, want);
    assert_cells(now->values, want, c->from, exact);
    for (size_t p = 0; p < n; p++) {
        part_forth(c, part[p], saved.state + wide[p], moved);
        part_back(c, part[p], saved.state + wide[p], moved, was->state + narrow[p], want);
        assert_cells(now->state + wide[p], want, c->from, exact);
    }
    if (s->kind == OPTIMIZER_ROWWISE_ADAGRAD || s->kind == OPTIMIZER_ADAM)
        assert_true(now->state[0] == was->state[0]);
    assert_true(now->shows == was->shows);
}

static void take(struct fixture *f, const struct change *change, const struct layout *before) {
    struct layout *next = NULL;
    struct err_detail detail = {{0}};
    move_all(f->table);
    const dimfit_err err = change_apply(change, f->layout, before, &next, &detail);
    if (err != DIMFIT_OK)
        fail_msg("%s", detail.text);
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_OK);
    layout_destroy(&f->layout);
    f->layout = next;
}

/* The model's rows become the eager table's, once they are what the change should have made. */
static void change_all(struct scene *s, struct change *change) {
    struct model *const m = &s->model;
    const bool back = change->undoes != 0;
    struct layout *was = NULL;
    assert_int_equal(layout_copy(s->eager->layout, &was), DIMFIT_OK);
    take(s->lazy, change, m->before);
    take(s->eager, change, m->before);
    move_all(s->eager->table);
    static struct row rows[UNIVERSE];
    for (size_t i = 0; i < UNIVERSE; i++) {
        read_row(s->eager, s, i, &rows[i]);
        rows[i].pending = m->rows[i].pending;
        assert_int_equal(rows[i].there, m->rows[i].there);
        if (rows[i].there && back)
            check_back(s, &change->slots[0], i, &m->rows[i], &rows[i]);
        else if (rows[i].there)
            check_forth(s, &change->slots[0], &m->rows[i], &rows[i]);
    }
    memcpy(m->saved, m->rows, sizeof m->saved);
    memcpy(m->rows, rows, sizeof m->rows);
    layout_destroy(&m->before);
    change_destroy(&m->last);
    if (back) {
        layout_destroy(&was);
        change_destroy(&change);
    } else {
        m->before = was;
        m->last = change;
    }
}

static void undo(struct scene *s) {
    struct change *change = NULL;
    assert_int_equal(change_undo(s->model.last, s->eager->layout->epoch + 1, &change), DIMFIT_OK);
    change_all(s, change);
}

/* ---- sequences ---------------------------------------------------------------------------------
 */

static struct scene *scene_new(enum optimizer_kind kind, uint64_t seed) {
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->kind = kind;
    s->random = seed * 1000003;
    s->axes = kind == OPTIMIZER_FTRL || draw(s, 3) == 0;
    s->admit = (uint32_t)(1 + draw(s, 2));
    const struct retention retention = {.admit = s->admit, .clicks = s->admit > 1};
    s->eager = setup_retaining(kind, retention);
    s->lazy = setup_retaining(kind, retention);
    table_keep(s->eager->table, true, NULL);
    table_keep(s->lazy->table, true, NULL);
    return s;
}

static void scene_free(struct scene *s) {
    teardown(s->eager);
    teardown(s->lazy);
    layout_destroy(&s->model.before);
    change_destroy(&s->model.last);
    free(s);
}

static void one_step(struct scene *s) {
    switch (draw(s, 8)) {
    case 0:
        change_all(s, draw_change(s));
        break;
    case 1:
        if (s->model.last != NULL)
            undo(s);
        break;
    case 2:
        evict(s, (float)(1 + draw(s, 3)));
        break;
    case 3:
        push_some(s, false);
        break;
    default:
        push_some(s, true);
        break;
    }
    for (uint64_t slices = draw(s, 4); slices > 0; slices--)
        (void)table_move(s->lazy->table, 1 + draw(s, 1500));
}

static void any_sequence_of_changes_is_what_a_plain_model_says(void **state) {
    size_t half_way = 0;
    for (uint64_t seed = 0; seed < SEQUENCES; seed++) {
        struct scene *const s = scene_new((enum optimizer_kind)(seed % 5), seed);
        for (size_t step = 0; step < STEPS; step++) {
            one_step(s);
            half_way += table_in_motion(s->lazy->table);
            assert_as_model(s, s->eager);
            assert_as_model(s, s->lazy);
        }
        move_all(s->lazy->table);
        assert_as_model(s, s->lazy);
        assert_int_equal(table_figures(s->lazy->table).moving_rows, 0);
        scene_free(s);
    }
    assert_true(half_way > SEQUENCES); /* the lazy one was looked at with rows under way */
}

/* v = mean + r M^T of what a pull reads. */
static void embed(struct fixture *f, double v[DIM]) {
    const struct layout_slot *const spec = layout_find(f->layout, SLOT);
    double M[DIM * DIM], mean[DIM];
    float r[DIM];
    table_pull(f->slot, keys_of(f), 1, r);
    layout_slot_basis(spec, M);
    layout_slot_mean(spec, mean);
    for (size_t i = 0; i < DIM; i++) {
        v[i] = mean[i];
        for (size_t k = 0; k < spec->width; k++)
            v[i] += r[k] * M[i * spec->width + k];
    }
}

static void a_hundred_changes_of_basis_do_not_drift(void **state) {
    struct scene *const s = scene_new(OPTIMIZER_ROWWISE_ADAGRAD, 1);
    struct fixture *const f = s->eager;
    double before[UNIVERSE][DIM], after[DIM];
    s->axes = false;
    for (size_t i = 0; i < 6; i++)
        push_some(s, true);
    for (size_t i = 0; i < UNIVERSE; i++) {
        set_key(f, 0, key_at(i)); /* some unknown */
        embed(f, before[i]);
    }
    for (size_t n = 0; n < 100; n++) {
        struct change *change = NULL;
        assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
        struct change_slot *const slot = &change->slots[0];
        assert_int_equal(change_slot_alloc(slot, SLOT, DIM, DIM, true), DIMFIT_OK);
        fill_dense(s, slot, DIM);
        memcpy(slot->T, slot->N, sizeof(double) * DIM * DIM);
        take(f, change, NULL);
        change_destroy(&change);
    }
    for (size_t i = 0; i < UNIVERSE; i++) {
        double norm = 0, error = 0;
        set_key(f, 0, key_at(i));
        embed(f, after);
        for (size_t k = 0; k < DIM; k++) {
            norm += before[i][k] * before[i][k];
            error += (after[k] - before[i][k]) * (after[k] - before[i][k]);
        }
        assert_true(sqrt(error) <= 5e-6 * sqrt(norm));
    }
    scene_free(s);
}

/* ---- many chunks -------------------------------------------------------------------------------
 */

enum { ROWS = 150000 };

/* A file of chunks, in memory: as much as `room` of them are taken. */
struct spill {
    size_t users, bytes;
    uint8_t *memory;
};
static size_t spill_room, spills_open;

static struct spill *spill_new(void *self, uint64_t epoch, uint64_t bytes) {
    struct spill *const spill = calloc(1, sizeof *spill);
    *spill = (struct spill){1, bytes, calloc(1, bytes)};
    spills_open++;
    return spill;
}

static const void *spill_put(void *self, struct spill *spill, float *chunk, size_t bytes,
                             uint64_t offset) {
    if (spill_room == 0)
        return NULL;
    spill_room--;
    assert_true(offset % 4096 == 0 && offset + bytes <= spill->bytes);
    memcpy(spill->memory + offset, chunk, bytes);
    slab_chunk_free(chunk, bytes);
    return spill->memory + offset;
}

static dimfit_err spill_checked(void *self, const struct spill *spill, struct err_detail *detail) {
    return DIMFIT_OK;
}

static void spill_share(void *self, struct spill *spill) {
    spill->users++;
}

static void spill_free(void *self, struct spill *spill) {
    if (--spill->users > 0)
        return;
    free(spill->memory);
    free(spill);
    spills_open--;
}

static const struct table_spill spill_io = {
    .open = spill_new,
    .write = spill_put,
    .check = spill_checked,
    .open_more = spill_share,
    .close = spill_free,
};

static void push_range(struct fixture *f, uint64_t first, uint64_t end, uint64_t step) {
    enum { BATCH = 1000 };
    const size_t w = table_slot_width(f->slot);
    for (size_t i = 0; i < BATCH * w; i++)
        set_grad(f, i, (float)noise(i + first));
    while (first < end) {
        size_t n = 0;
        for (; n < BATCH && first < end; n++, first += step)
            set_key(f, n, mix(first));
        push(f, f->slot, n, NULL);
    }
}

static struct change *halved(const struct fixture *f, uint32_t to) {
    struct change *change = NULL;
    assert_int_equal(change_new(f->layout->epoch, f->layout->epoch + 1, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, to, false), DIMFIT_OK);
    for (uint32_t k = 0; k < to; k++)
        change->slots[0].keep[k] = (uint16_t)(DIM - 1 - k);
    return change;
}

static void assert_same_tables(const struct fixture *a, const struct fixture *b) {
    const size_t w = table_slot_width(a->slot), state = optimizer_state_width(OPTIMIZER_ADAM, w);
    assert_int_equal(table_slot_width(b->slot), w);
    for (uint64_t i = 0; i < ROWS + 2000; i++) {
        struct table_row x, y;
        assert_true(table_row(a->slot, mix(i), &x) == table_row(b->slot, mix(i), &y));
        if (i >= ROWS + 1000)
            continue;
        assert_memory_equal(x.values, y.values, w * sizeof(float));
        assert_memory_equal(x.state, y.state, state * sizeof(float));
    }
}

/* Old chunks go on as the sweep passes them, into the new slabs, a file, or nowhere, and rows come
 * back from there. */
static void rows_of_many_chunks_come_back_from_wherever_they_are_kept(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAM), *const memory = setup(OPTIMIZER_ADAM);
    struct fixture *const both[] = {f, memory};
    spills_open = 0;
    table_keep(f->table, true, &spill_io);
    table_keep(memory->table, true, NULL);
    struct change *change = NULL, *back = NULL;
    struct layout *before = NULL;
    for (size_t t = 0; t < 2; t++)
        push_range(both[t], 0, ROWS, 1);
    assert_int_equal(layout_copy(f->layout, &before), DIMFIT_OK);
    change = halved(f, 3);
    assert_int_equal(change_undo(change, 3, &back), DIMFIT_OK);
    for (size_t t = 0; t < 2; t++)
        take(both[t], change, NULL);
    assert_int_equal(spills_open, 1);
    /* Some written ahead, some new, while nothing can be spilled for a while. */
    spill_room = 0;
    for (size_t t = 0; t < 2; t++)
        push_range(both[t], ROWS / 2, ROWS + 1000, 7);
    for (int i = 0; i < 50; i++)
        assert_true(table_move(f->table, 100000));
    assert_true(table_figures(f->table).moving_rows > 1);
    spill_room = SIZE_MAX;
    for (size_t t = 0; t < 2; t++)
        move_all(both[t]->table);
    push_range(f, ROWS, ROWS + 1000, 1);
    push_range(memory, ROWS, ROWS + 1000, 1);
    assert_same_tables(f, memory);
    const struct table_figures spilled = table_figures(f->table),
                               kept = table_figures(memory->table);
    assert_true(spilled.saved_bytes == kept.saved_bytes && spilled.saved_bytes >= ROWS * 150);
    assert_true(spilled.slab_bytes + spilled.saved_bytes <= kept.slab_bytes + (4 << 20));
    for (size_t t = 0; t < 2; t++) {
        take(both[t], back, before);
        (void)table_move(both[t]->table, t == 0 ? 3000000 : 100);
        push_range(both[t], 5, ROWS, 1001);
    }
    assert_same_tables(f, memory);
    for (size_t t = 0; t < 2; t++)
        move_all(both[t]->table);
    assert_same_tables(f, memory);
    assert_int_equal(table_figures(f->table).saved_bytes, 0);
    assert_int_equal(spills_open, 0);
    change_destroy(&change);
    change_destroy(&back);
    layout_destroy(&before);
    teardown(f);
    teardown(memory);
}

/* What is allocated beside what was there, all along, whatever is pushed. */
static void a_change_stays_below_its_peak(void **state) {
    for (uint32_t from = 0; from < 2; from++) {
        struct fixture *const f = setup(OPTIMIZER_ADAM);
        struct change *change = halved(f, 2);
        push_range(f, 0, ROWS, 1);
        if (from == 1) { /* the other way */
            struct change *wider = NULL;
            take(f, change, NULL);
            move_all(f->table);
            assert_int_equal(change_new(2, 3, 1, &wider), DIMFIT_OK);
            assert_int_equal(
                change_slot_alloc_added(&wider->slots[0], SLOT, DIM, 2, DIM, DIM - 2, false),
                DIMFIT_OK);
            wider->slots[0].keep[1] = 1;
            wider->slots[0].drawn = true;
            for (uint32_t k = 0; k < DIM - 2; k++)
                wider->slots[0].columns[k * (DIM - 2) + k] = 1;
            change_destroy(&change);
            change = wider;
        }
        const uint64_t peak = table_change_peak(f->table, change);
        const uint64_t there = table_figures(f->table).slab_bytes;
        take(f, change, NULL);
        uint64_t most = 0;
        for (uint64_t i = 0; table_in_motion(f->table); i++) {
            push_range(f, (i * 911) % ROWS, (i * 911) % ROWS + 700, 1);
            (void)table_move(f->table, 20000);
            const uint64_t now = table_figures(f->table).slab_bytes;
            most = now > there && now - there > most ? now - there : most;
        }
        assert_true(most <= peak);
        assert_true(peak <= (from == 0 ? 20 << 20 : 40 << 20));
        change_destroy(&change);
        teardown(f);
    }
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

static void a_change_waits_for_the_one_before_and_the_undone_one_must_be_saved(void **state) {
    struct fixture *const f = setup(OPTIMIZER_ADAGRAD);
    struct err_detail detail;
    struct layout *before = NULL, *next = NULL;
    struct change *change = halved(f, 3), *back = NULL;
    assert_int_equal(layout_copy(f->layout, &before), DIMFIT_OK);
    assert_int_equal(change_undo(change, 3, &back), DIMFIT_OK);
    table_keep(f->table, true, NULL);
    train(f, f->slot);
    take(f, change, NULL);
    assert_int_equal(change_apply(back, f->layout, before, &next, &detail), DIMFIT_OK);
    assert_int_equal(table_change(f->table, back, next, &detail), DIMFIT_ERR_BUSY);
    assert_non_null(strstr(detail.text, "rows of the change before are still to be moved"));
    assert_int_equal(table_forget(f->table, 2), DIMFIT_ERR_BUSY);
    move_all(f->table);
    assert_int_equal(table_change_check(f->table, back, next, &detail), DIMFIT_OK);
    assert_int_equal(table_forget(f->table, 2), DIMFIT_OK);
    assert_int_equal(table_change(f->table, back, next, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 7 has no rows saved"));
    assert_int_equal(table_slot_width(f->slot), 3);
    layout_destroy(&next);
    layout_destroy(&before);
    change_destroy(&change);
    change_destroy(&back);
    teardown(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_sequence_of_changes_is_what_a_plain_model_says),
        cmocka_unit_test(a_hundred_changes_of_basis_do_not_drift),
        cmocka_unit_test(rows_of_many_chunks_come_back_from_wherever_they_are_kept),
        cmocka_unit_test(a_change_stays_below_its_peak),
        cmocka_unit_test(a_change_waits_for_the_one_before_and_the_undone_one_must_be_saved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
