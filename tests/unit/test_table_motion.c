/* Rows on their way through changes, and from tier to tier, against a plain model: whatever the
 * schedule of slices. */
#include "server/init.h"
#include "server/optim.h"
#include "server/table_expire.h"
#include "tests/unit/buf_archive.h"
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

/* Values end in zeros where the row's tier is narrower than the slot. */
struct row {
    bool there;
    uint32_t pending; /* shown so often without a row */
    uint32_t tier, day;
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
    uint32_t n_tiers, today;
    uint64_t promoted, demoted; /* rows so far */
};

static const uint32_t tier_shows[] = {0, 2, 3, 5, 6, 8, 9, 10}; /* where tiers begin */

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

static uint32_t width_of(const struct scene *s, const struct row *row) {
    return spec_now(s)->tier_widths[row->tier];
}

static void read_row(const struct fixture *f, const struct scene *s, size_t i, struct row *out) {
    struct table_row row;
    *out = (struct row){.there = table_row(f->slot, key_at(i), &row)};
    if (!out->there)
        return;
    out->tier = row.tier;
    out->day = row.day;
    out->shows = row.shows;
    assert_int_equal(row.width, width_of(s, out));
    memcpy(out->values, row.values, row.width * sizeof(float));
    memcpy(out->state, row.state, optimizer_state_width(s->kind, row.width) * sizeof(float));
}

static void assert_row(const struct row *got, const struct row *want) {
    assert_int_equal(got->there, want->there);
    assert_int_equal(got->tier, want->tier);
    assert_true(!got->there || got->day == want->day);
    assert_memory_equal(got->values, want->values, sizeof got->values);
    assert_memory_equal(got->state, want->state, sizeof got->state);
    assert_true(got->shows == want->shows);
}

/* A feasign's row to begin with, as wide as the first tier. */
static void initial_row(const struct scene *s, size_t i, float out[DIM]) {
    init_row(spec_now(s), 99, key_at(i), out);
    for (size_t k = spec_now(s)->tier_widths[0]; k < DIM; k++)
        out[k] = 0;
}

/* Bit for bit what the model says, by look-ups and by pulls. */
static void assert_as_model(struct scene *s, struct fixture *f) {
    const size_t w = spec_now(s)->width;
    static float pulled[UNIVERSE * DIM];
    static uint8_t tiers[UNIVERSE];
    for (size_t i = 0; i < UNIVERSE; i++)
        set_key(f, i, key_at(i));
    table_pull_tiers(f->slot, keys_of(f), UNIVERSE, pulled, tiers);
    for (size_t i = 0; i < UNIVERSE; i++) {
        struct row row;
        float initial[DIM];
        read_row(f, s, i, &row);
        assert_row(&row, &s->model.rows[i]);
        initial_row(s, i, initial);
        assert_int_equal(tiers[i], row.tier);
        assert_memory_equal(pulled + i * w, row.there ? row.values : initial, w * sizeof(float));
    }
}

/* What stands in one part of a row: values, first moments, second moments. */
enum part { VALUES, FIRST, SECOND };

/* The parts of a state: where they begin at a width, and how many there are. */
static size_t parts_of(enum optimizer_kind kind, size_t w, size_t at[2], enum part part[2]) {
    const size_t first = kind == OPTIMIZER_ADAM;
    at[0] = first;
    at[1] = first + w;
    part[0] = kind == OPTIMIZER_ADAGRAD ? SECOND : FIRST;
    part[1] = kind == OPTIMIZER_ADAM ? SECOND : FIRST;
    return kind == OPTIMIZER_ADAGRAD ? 1 : kind == OPTIMIZER_ADAM || kind == OPTIMIZER_FTRL ? 2 : 0;
}

/* ---- pushes -----------------------------------------------------------------------------------
 */

/* n shows more, of what the earlier ones have decayed to. */
static void model_show(const struct scene *s, struct row *row, uint32_t n) {
    if (s->today > row->day) {
        for (uint32_t day = row->day; day != 0 && day < s->today && s->n_tiers > 1; day++)
            row->shows /= 2;
        row->day = s->today;
    }
    row->shows += (float)n;
}

static void model_push(struct scene *s, const size_t *picked, const uint32_t *shown, size_t n,
                       double g[LAYOUT_TIERS_MAX][DIM]) {
    const struct layout_slot *const spec = spec_now(s);
    size_t variants;
    const struct optim_kernels *const reference = optim_variants(&variants)[0];
    for (size_t k = 0; k < n; k++) {
        struct row *const row = &s->model.rows[picked[k]];
        const uint8_t *const grad = grads_of(s->eager) + k * spec->width * sizeof(float);
        float initial[DIM];
        initial_row(s, picked[k], initial);
        for (size_t j = 0; j < width_of(s, row); j++)
            g[row->tier][j] += (double)(row->there ? row->values : initial)[j] *
                               (double)grad_at(s->eager, k * spec->width + j);
        if (!row->there && row->pending + shown[k] < s->admit) {
            row->pending += shown[k];
            row->day = s->today;
            continue;
        }
        if (!row->there) {
            row->there = true;
            row->shows = (float)row->pending;
            memcpy(row->values, initial, sizeof initial);
            row->pending = 0;
        }
        model_show(s, row, shown[k]);
        float *const values = row->values, *const state = row->state;
        const struct optim_rows rows = {&values, &state, grad, 1, width_of(s, row)};
        reference->train(&spec->optimizer, &rows, NULL);
    }
}

static void push_some(struct scene *s, bool train) {
    size_t picked[UNIVERSE];
    uint32_t shown[UNIVERSE];
    const size_t n = 1 + draw(s, UNIVERSE / 3), w = spec_now(s)->width;
    struct fixture *const both[] = {s->eager, s->lazy};
    double g[3][LAYOUT_TIERS_MAX][DIM] = {{{0}}}, by_row[2][LAYOUT_TIERS_MAX][DIM] = {{{0}}};
    const uint64_t first = s->n_tiers > 1 ? draw(s, 20) : draw(s, UNIVERSE);
    s->today += s->n_tiers > 1 && draw(s, 4) == 0;
    for (size_t k = 0; k < n; k++) {
        picked[k] = (first + k * 7) % UNIVERSE; /* distinct: 7 does not divide it */
        shown[k] = s->n_tiers > 1 ? 1 + (uint32_t)draw(s, 4) : 1;
    }
    const uint64_t noise_of = draw(s, UINT64_MAX);
    for (size_t t = 0; t < 2; t++) {
        const struct table_counts counts = {.lookups = (const uint8_t *)shown, .day = s->today};
        struct score_sums sums[LAYOUT_TIERS_MAX];
        for (size_t k = 0; k < n; k++)
            set_key(both[t], k, key_at(picked[k]));
        for (size_t k = 0; k < n * w; k++)
            set_grad(both[t], k, (float)noise(noise_of + k));
        for (uint32_t i = 0; i < s->n_tiers; i++)
            sums[i] = (struct score_sums){
                .scale = 1, .g = g[t][i], .row = by_row[t][i], .sample = 1};
        if (train)
            assert_int_equal(table_reserve(both[t]->slot, n), DIMFIT_OK);
        table_push(both[t]->slot, keys_of(both[t]), grads_of(both[t]), &counts, n, train, sums);
    }
    assert_memory_equal(g[0], g[1], sizeof g[0]);
    assert_memory_equal(by_row[0], by_row[1], sizeof by_row[0]);
    if (!train)
        return;
    model_push(s, picked, shown, n, g[2]);
    for (size_t i = 0; i < (size_t)LAYOUT_TIERS_MAX * DIM; i++)
        assert_true(fabs(g[0][i / DIM][i % DIM] - g[2][i / DIM][i % DIM]) < 1e-9);
}

/* A row at another width: values and each part of its state cut, or zeros added. */
static void model_retier(const struct scene *s, struct row *row, uint32_t tier) {
    const size_t from = width_of(s, row), to = spec_now(s)->tier_widths[tier];
    const size_t common = from < to ? from : to;
    struct row moved = {.there = true, .tier = tier, .day = row->day, .shows = row->shows};
    memcpy(moved.values, row->values, common * sizeof(float));
    size_t old[2], new[2];
    enum part part[2];
    const size_t n = parts_of(s->kind, from, old, part);
    (void)parts_of(s->kind, to, new, part);
    if (s->kind == OPTIMIZER_ROWWISE_ADAGRAD || s->kind == OPTIMIZER_ADAM)
        moved.state[0] = row->state[0];
    for (size_t p = 0; p < n; p++)
        memcpy(moved.state + new[p], row->state + old[p], common * sizeof(float));
    *row = moved;
}

static void model_sweep(struct scene *s, struct row *row, float least, uint32_t today) {
    float shows = row->shows;
    for (uint32_t day = row->day; day != 0 && day < today && s->n_tiers > 1; day++)
        shows /= 2;
    if (row->there && shows < least)
        *row = (struct row){0};
    if (!row->there || s->model.last != NULL)
        return; /* what is kept for an undo stays in its tier */
    uint32_t tier = row->tier;
    while (tier + 1 < s->n_tiers && shows >= (float)tier_shows[tier + 1])
        tier++;
    while (tier > 0 && shows * 2 < (float)tier_shows[tier])
        tier--;
    s->promoted += tier > row->tier;
    s->demoted += tier < row->tier;
    if (tier != row->tier)
        model_retier(s, row, tier);
}

/* Rows shown least go, their numbers serve the next; others change their tier. Never while rows
 * move. */
static void sweep(struct scene *s, float shows) {
    struct fixture *const both[] = {s->eager, s->lazy};
    static struct expiry_slice slice;
    const uint32_t today = s->n_tiers > 1 ? s->today + (uint32_t)draw(s, 4) : 1;
    const uint64_t promoted = s->promoted, demoted = s->demoted;
    for (size_t t = 0; t < 2; t++) {
        struct expiry_walk walk = {0};
        move_all(both[t]->table);
        const bool retier = table_may_retier(both[t]->slot);
        const struct expiry_rule rule = {.today = today, .shows = shows, .retier = retier};
        assert_int_equal(retier, s->n_tiers > 1 && s->model.last == NULL);
        do {
            if (retier)
                assert_int_equal(table_reserve_retier(both[t]->slot), DIMFIT_OK);
        } while (table_expire(both[t]->slot, &rule, &walk, &slice));
    }
    for (size_t i = 0; i < UNIVERSE; i++) {
        struct row *const row = &s->model.rows[i];
        const bool was_there = row->there;
        model_sweep(s, row, shows, today);
        if (was_there && !row->there)
            s->model.saved[i].there = false;
        if (!was_there && (float)row->pending < shows)
            *row = (struct row){0};
    }
    for (size_t t = 0; t < 2; t++) {
        const struct table_figures figures = table_figures(both[t]->table);
        assert_int_equal(figures.promoted, s->promoted - promoted);
        assert_int_equal(figures.demoted, s->demoted - demoted);
    }
}

/* One of the tables goes on as what becomes of its bytes. */
static void save_and_restore(struct scene *s) {
    struct fixture *const f = draw(s, 2) == 0 ? s->eager : s->lazy;
    struct table *restored = NULL;
    struct err_detail detail = {{0}};
    struct buf saved, again;
    buf_init(&saved);
    buf_init(&again);
    move_all(f->table);
    assert_int_equal(table_save_check(f->table, true, &detail), DIMFIT_OK);
    buf_archive_save_table(f->table, &saved);
    assert_int_equal(table_new(99, &restored), DIMFIT_OK);
    table_keep(restored, true, NULL);
    assert_int_equal(table_add_slot(restored, spec_now(s)), DIMFIT_OK);
    if (buf_archive_restore_table(&saved, restored, s->model.before, &detail) != DIMFIT_OK)
        fail_msg("%s", detail.text);
    buf_archive_save_table(restored, &again);
    assert_int_equal(saved.len, again.len);
    assert_memory_equal(saved.data, again.data, saved.len);
    buf_fini(&saved);
    buf_fini(&again);
    table_destroy(&f->table);
    f->table = restored;
    f->slot = table_find(restored, SLOT);
}

/* The last change can't be undone any more. */
static void forget(struct scene *s) {
    struct fixture *const both[] = {s->eager, s->lazy};
    for (size_t t = 0; t < 2; t++) {
        move_all(both[t]->table);
        assert_int_equal(table_forget(both[t]->table, both[t]->layout->epoch), DIMFIT_OK);
    }
    layout_destroy(&s->model.before);
    change_destroy(&s->model.last);
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

/* Of each tier, the last one as wide as the slot. */
static void draw_widths(struct scene *s, struct change_slot *slot) {
    slot->n_tiers = s->n_tiers;
    for (uint32_t t = s->n_tiers; t-- > 0;) {
        const bool last = t + 1 == s->n_tiers;
        slot->tier_from[t] = spec_now(s)->tier_widths[t];
        slot->tier_to[t] = last ? slot->to : (uint32_t)draw(s, slot->tier_to[t + 1] + 1);
    }
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
    draw_widths(s, slot);
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

/* Of rows that have the first `have` coordinates after the change. */
static void part_back(const struct change_slot *c, enum part part, const float *saved,
                      const double *moved, const float *now, size_t have, double *to) {
    const size_t kept = c->to - c->added;
    for (size_t i = 0; i < c->from; i++) {
        to[i] = saved[i];
        for (size_t k = 0; k < kept && k < have; k++) {
            if (c->keep != NULL && c->keep[k] == i)
                to[i] = now[k];
            else if (c->keep == NULL)
                to[i] += (now[k] - moved[k]) * weight(c, part == SECOND ? SECOND : FIRST, i, k);
        }
        if (part == SECOND && c->keep == NULL && to[i] < 0)
            to[i] = 0;
    }
}

/* n cells of a row, and zeros behind them. */
static const float *padded(const float *cells, size_t n, float out[DIM]) {
    memset(out, 0, DIM * sizeof *out);
    memcpy(out, cells, n * sizeof *out);
    return out;
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

static void check_one_of_a_row(const struct scene *s, const struct row *was,
                               const struct row *now) {
    if (s->kind == OPTIMIZER_ROWWISE_ADAGRAD || s->kind == OPTIMIZER_ADAM)
        assert_true(now->state[0] == was->state[0]);
    assert_true(now->shows == was->shows && now->tier == was->tier && now->day == was->day);
}

static void check_forth(struct scene *s, const struct change_slot *c, const struct row *was,
                        const struct row *now) {
    double want[DIM];
    float cells[DIM];
    const bool exact = c->keep != NULL;
    const size_t from = c->tier_from[was->tier], to = c->tier_to[was->tier],
                 most = c->to - c->added;
    const size_t kept = to < most ? to : most;
    part_forth(c, VALUES, was->values, want);
    if (c->drawn && to > kept) {
        float drawn[DIM];
        init_row(spec_now(s), 99, XXH3_64bits(was->values, from * sizeof(float)), drawn);
        for (size_t k = kept; k < to; k++) {
            assert_true(now->values[k] == drawn[k]);
            want[k] = drawn[k];
        }
    }
    assert_cells(now->values, want, kept, exact);
    assert_cells(now->values + kept, want + kept, to - kept, exact && c->mix == NULL);
    size_t from_at[2], to_at[2];
    enum part part[2];
    const size_t n = parts_of(s->kind, from, from_at, part);
    (void)parts_of(s->kind, to, to_at, part);
    for (size_t p = 0; p < n; p++) {
        part_forth(c, part[p], padded(was->state + from_at[p], from, cells), want);
        assert_cells(now->state + to_at[p], want, to, exact);
    }
    check_one_of_a_row(s, was, now);
}

static void check_back(struct scene *s, const struct change_slot *c, size_t i,
                       const struct row *was, const struct row *now) {
    const struct model *const m = &s->model;
    const bool exact = c->keep != NULL;
    const size_t from = c->tier_from[was->tier], to = c->tier_to[was->tier];
    struct row saved = {0};
    float then[DIM], cells[DIM];
    double moved[DIM], want[DIM];
    if (m->saved[i].there)
        saved = m->saved[i];
    else
        initial_row(s, i, saved.values);
    size_t narrow[2], wide[2];
    enum part part[2];
    const size_t n = parts_of(s->kind, to, narrow, part);
    (void)parts_of(s->kind, from, wide, part);
    part_forth(c, VALUES, saved.values, moved);
    part_back(c, VALUES, saved.values, moved, was->values, to, want);
    assert_cells(now->values, want, from, exact);
    for (size_t p = 0; p < n; p++) {
        part_forth(c, part[p], padded(saved.state + wide[p], from, then), moved);
        part_back(c, part[p], then, moved, padded(was->state + narrow[p], to, cells), to, want);
        assert_cells(now->state + wide[p], want, from, exact);
    }
    check_one_of_a_row(s, was, now);
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
        if (!rows[i].there)
            rows[i].day = m->rows[i].day;
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

static struct scene *scene_new(enum optimizer_kind kind, uint32_t n_tiers, uint64_t seed) {
    struct scene *const s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->kind = kind;
    s->random = seed * 1000003;
    s->axes = kind == OPTIMIZER_FTRL || draw(s, 3) == 0;
    s->admit = (uint32_t)(1 + draw(s, 2));
    s->n_tiers = n_tiers;
    s->today = n_tiers > 1 ? 10 : 0;
    struct layout_slot spec = spec_of(SLOT, kind);
    spec.retention = (struct retention){
        .admit = s->admit, .clicks = s->admit > 1, .decay = n_tiers > 1 ? 0.5f : 1};
    spec.n_tiers = n_tiers;
    memcpy(spec.tier_shows, tier_shows, n_tiers * sizeof *tier_shows);
    s->eager = setup_spec(&spec);
    s->lazy = setup_spec(&spec);
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
        if (s->n_tiers > 1 && draw(s, 2) == 0)
            forget(s);
        sweep(s, s->n_tiers > 1 ? 0.25f : (float)(1 + draw(s, 3)));
        break;
    case 3:
        push_some(s, false);
        break;
    case 4:
        if (draw(s, 2) == 0)
            save_and_restore(s);
        push_some(s, true);
        break;
    default:
        push_some(s, true);
        break;
    }
    for (uint64_t slices = draw(s, 4); slices > 0; slices--)
        (void)table_move(s->lazy->table, 1 + draw(s, 1500));
}

/* How many rows went to another tier, half of the rows looked at while they were on their way. */
struct seen {
    uint64_t half_way, promoted, demoted, tiers[LAYOUT_TIERS_MAX];
};

static void play(struct scene *s, struct seen *seen) {
    for (size_t step = 0; step < STEPS; step++) {
        one_step(s);
        seen->half_way += table_in_motion(s->lazy->table);
        assert_as_model(s, s->eager);
        assert_as_model(s, s->lazy);
    }
    move_all(s->lazy->table);
    assert_as_model(s, s->lazy);
    assert_int_equal(table_figures(s->lazy->table).moving_rows, 0);
    seen->promoted += s->promoted;
    seen->demoted += s->demoted;
    for (size_t i = 0; i < UNIVERSE; i++)
        seen->tiers[s->model.rows[i].tier] += s->model.rows[i].there;
}

static void any_sequence_of_changes_is_what_a_plain_model_says(void **state) {
    struct seen seen = {0};
    for (uint64_t seed = 0; seed < SEQUENCES; seed++) {
        struct scene *const s = scene_new((enum optimizer_kind)(seed % 5), 1, seed);
        play(s, &seen);
        scene_free(s);
    }
    assert_true(seen.half_way > SEQUENCES); /* the lazy one was looked at with rows under way */
    assert_int_equal(seen.promoted + seen.demoted, 0);
}

static void so_is_any_of_slots_with_tiers(void **state) {
    struct seen seen = {0};
    for (uint64_t seed = 0; seed < SEQUENCES; seed++) {
        const uint32_t n_tiers = 2 + (uint32_t)(seed / 5 % (LAYOUT_TIERS_MAX - 1));
        struct scene *const s = scene_new((enum optimizer_kind)(seed % 5), n_tiers, seed);
        play(s, &seen);
        scene_free(s);
    }
    assert_true(seen.half_way > SEQUENCES);
    assert_true(seen.promoted > SEQUENCES && seen.demoted > SEQUENCES / 4);
    for (size_t t = 0; t < LAYOUT_TIERS_MAX; t++)
        assert_true(seen.tiers[t] > 0);
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
    struct scene *const s = scene_new(OPTIMIZER_ROWWISE_ADAGRAD, 1, 1);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_sequence_of_changes_is_what_a_plain_model_says),
        cmocka_unit_test(a_hundred_changes_of_basis_do_not_drift),
        cmocka_unit_test(so_is_any_of_slots_with_tiers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
