#include "server/recast.h"

#include "server/init.h"
#include "server/row_counters.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { BACK_ROWS = 16 }; /* moved forth at a time on the way back */

size_t recast_side(const struct layout_slot *spec, size_t width) {
    return counters_cells(&spec->retention) + optimizer_state_width(spec->optimizer.kind, width);
}

/* What a row has one of, whatever its width, before what it has by the dimension. */
static size_t leading_cells(const struct layout_slot *spec) {
    const enum optimizer_kind kind = spec->optimizer.kind;
    return counters_cells(&spec->retention) +
           (kind == OPTIMIZER_ADAM || kind == OPTIMIZER_ROWWISE_ADAGRAD);
}

void recast_cut_side(const struct layout_slot *spec, const uint32_t *from, size_t from_width,
                     uint32_t *to, size_t to_width) {
    const size_t lead = leading_cells(spec), n = from_width < to_width ? from_width : to_width;
    memcpy(to, from, lead * sizeof *to);
    from += lead;
    to += lead;
    for (size_t left = recast_side(spec, to_width) - lead; left > 0; left -= to_width) {
        memcpy(to, from, n * sizeof *to);
        memset(to + n, 0, (to_width - n) * sizeof *to);
        from += from_width;
        to += to_width;
    }
}

static void add_part(struct recast *r, struct recast_part part) {
    r->sides[r->n_sides++] = part;
}

/* Of each optimizer's state; those that have no cells by the dimension leave sides alone. */
static void plan_sides(struct recast *r, const struct layout_slot *spec) {
    const size_t cells = leading_cells(spec), b = r->before, a = r->after;
    r->side_before = recast_side(spec, b);
    r->side_after = recast_side(spec, a);
    r->sides_move = recast_side(spec, 0) != recast_side(spec, 1);
    if (!r->sides_move)
        return;
    add_part(r, (struct recast_part){.kind = RECAST_CELLS, .cells = cells});
    switch (spec->optimizer.kind) {
    case OPTIMIZER_SGD:
    case OPTIMIZER_ROWWISE_ADAGRAD:
        break;
    case OPTIMIZER_ADAGRAD:
        add_part(r, (struct recast_part){cells, cells, RECAST_SECOND, 0});
        break;
    case OPTIMIZER_ADAM:
        add_part(r, (struct recast_part){cells, cells, RECAST_FIRST, 0});
        add_part(r, (struct recast_part){cells + b, cells + a, RECAST_SECOND, 0});
        break;
    case OPTIMIZER_FTRL: /* z, then n: selected only (change.c) */
        add_part(r, (struct recast_part){cells, cells, RECAST_FIRST, 0});
        add_part(r, (struct recast_part){cells + b, cells + a, RECAST_FIRST, 0});
        break;
    }
}

/* [to][from] of the source, or of its squares. NULL out of memory. */
static double *transposed(const struct move_source *s, bool squared) {
    double *const out = calloc(s->from * s->to + 1, sizeof *out);
    for (size_t i = 0; out != NULL && i < s->from; i++) {
        for (size_t k = 0; k < s->to; k++) {
            const double x = s->matrix[i * s->columns + k];
            out[k * s->from + i] = squared ? x * x : x;
        }
    }
    return out;
}

static dimfit_err take_kept(struct recast *r, const struct change_slot *slot) {
    r->keep = calloc(r->kept + 1, sizeof *r->keep);
    if (r->keep == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t k = 0; k < r->kept; k++) {
        r->keep[k] = slot->keep[k] < r->wide ? slot->keep[k] : MOVE_NONE;
        r->blanks |= r->keep[k] == MOVE_NONE;
    }
    return DIMFIT_OK;
}

static dimfit_err take_matrices(struct recast *r, const struct change_slot *slot) {
    if (slot->keep != NULL)
        return take_kept(r, slot);
    const struct move_source T = {slot->T,           slot->shift, slot->from,
                                  change_kept(slot), r->wide,     r->kept};
    const struct move_source N = {slot->N, NULL, slot->from, change_kept(slot), r->wide, r->kept};
    dimfit_err err = move_matrix_init(&r->T, &T, false);
    if (err == DIMFIT_OK && r->back && (r->N_back = transposed(&N, false)) == NULL)
        err = DIMFIT_ERR_NOMEM;
    if (err != DIMFIT_OK || !r->sides_move)
        return err;
    err = move_matrix_init(&r->N, &N, false);
    if (err == DIMFIT_OK)
        err = move_matrix_init(&r->squares, &N, true);
    if (err != DIMFIT_OK || !r->back)
        return err;
    r->squares_back = transposed(&N, true);
    return r->squares_back != NULL ? DIMFIT_OK : DIMFIT_ERR_NOMEM;
}

static dimfit_err take_mix(struct recast *r, const struct change_slot *slot) {
    const struct move_source mix = {slot->mix,   slot->centre, slot->from,
                                    slot->added, r->wide,      r->added};
    return move_matrix_init(&r->mix, &mix, false);
}

dimfit_err recast_init(struct recast *recast, const struct change *change,
                       const struct change_slot *slot, uint32_t tier,
                       const struct layout_slot *before, const struct layout_slot *after,
                       uint64_t seed) {
    const uint32_t to = slot->tier_to[tier], most = change_kept(slot);
    struct recast r = {
        .back = change->undoes != 0,
        .before = change_tier_before(change, slot, tier),
        .after = change_tier_after(change, slot, tier),
        .wide = slot->tier_from[tier],
        .kept = to < most ? to : most,
        .added = to < most ? 0 : to - most,
        .seed = seed,
    };
    r.drawn = slot->drawn && r.added > 0 && !r.back;
    plan_sides(&r, before);
    dimfit_err err = take_matrices(&r, slot);
    if (err == DIMFIT_OK && slot->mix != NULL && r.added > 0 && !r.back)
        err = take_mix(&r, slot);
    if (err == DIMFIT_OK && r.drawn)
        err = layout_slot_copy(after, &r.after_spec);
    if (err != DIMFIT_OK) {
        recast_fini(&r);
        return err;
    }
    *recast = r;
    return DIMFIT_OK;
}

void recast_fini(struct recast *recast) {
    free(recast->keep);
    free(recast->N_back);
    free(recast->squares_back);
    move_matrix_fini(&recast->mix);
    move_matrix_fini(&recast->T);
    move_matrix_fini(&recast->N);
    move_matrix_fini(&recast->squares);
    layout_slot_fini(&recast->after_spec);
    *recast = (struct recast){0};
}

/* The row's own bits stand for a feasign: what is drawn depends on no shard, order or time. */
static void draw_added(const struct recast *r, const struct move_run *run) {
    float drawn[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < run->n; i++) {
        const uint64_t feasign = XXH3_64bits(run->from + i * run->from_stride,
                                             r->before * sizeof(float));
        init_row(&r->after_spec, r->seed, feasign, drawn);
        memcpy(run->to + i * run->to_stride + r->kept, drawn + r->kept, r->added * sizeof *drawn);
    }
}

static void zero_added(const struct recast *r, const struct move_run *run) {
    for (size_t i = 0; i < run->n; i++)
        memset(run->to + i * run->to_stride + r->kept, 0, r->added * sizeof *run->to);
}

static void mix_added(const struct recast *r, const struct move_run *run) {
    const struct move_run added = {run->from, run->to + r->kept, run->from_stride, run->to_stride,
                                   run->n};
    move_dense(&added, &r->mix);
}

static const struct move_matrix *matrix_of(const struct recast *r, int kind) {
    return kind == RECAST_VALUES ? &r->T : kind == RECAST_FIRST ? &r->N : &r->squares;
}

static void part_forth(const struct recast *r, const struct recast_part *part,
                       const struct move_run *run) {
    if (r->keep == NULL)
        move_dense(run, matrix_of(r, part->kind));
    else if (r->blanks)
        move_kept_some(run, r->keep, r->kept);
    else
        move_kept(run, r->keep, r->kept);
    if (r->added == 0)
        return;
    if (r->drawn && part->kind == RECAST_VALUES)
        draw_added(r, run);
    else if (r->mix.cells != NULL && part->kind == RECAST_VALUES)
        mix_added(r, run);
    else
        zero_added(r, run);
}

static void part_back(const struct recast *r, const struct recast_part *part,
                      const struct move_run *run, const float *saved) {
    float moved[BACK_ROWS * LAYOUT_DIM_MAX];
    const bool second = part->kind == RECAST_SECOND;
    const double *const matrix = second ? r->squares_back : r->N_back;
    for (size_t i = 0, n; i < run->n; i += n) {
        n = run->n - i < BACK_ROWS ? run->n - i : BACK_ROWS;
        const float *const was = saved + i * run->to_stride;
        const struct move_back back = {run->from + i * run->from_stride,
                                       moved,
                                       was,
                                       run->to + i * run->to_stride,
                                       run->from_stride,
                                       r->kept,
                                       run->to_stride,
                                       run->to_stride,
                                       n};
        if (r->keep != NULL) {
            move_back_kept(&back, r->keep, r->kept, r->wide);
            continue;
        }
        const struct move_run forth = {was, moved, run->to_stride, r->kept, n};
        move_dense(&forth, matrix_of(r, part->kind));
        move_back_dense(&back, matrix, r->kept, r->wide, second);
    }
}

static void recast_part(const struct recast *r, const struct recast_part *part, struct move_run run,
                        const float *saved) {
    run.from += part->from;
    run.to += part->to;
    if (part->kind == RECAST_CELLS)
        move_cells(&run, part->cells);
    else if (r->back)
        part_back(r, part, &run, saved + part->to);
    else
        part_forth(r, part, &run);
}

void recast_values(const struct recast *recast, const struct move_run *run, const float *saved) {
    static const struct recast_part values = {.kind = RECAST_VALUES};
    if (recast->after > 0)
        recast_part(recast, &values, *run, saved);
}

void recast_sides(const struct recast *recast, const struct move_run *run, const float *saved) {
    for (size_t i = 0; i < recast->n_sides; i++)
        recast_part(recast, &recast->sides[i], *run, saved);
}

/* Three cells a nanosecond, sixteen products; a slow machine's budgets last longer. */
size_t recast_cost(const struct recast *recast) {
    const size_t cells = recast->before + recast->after +
                         (recast->sides_move ? recast->side_before + recast->side_after : 0);
    const size_t products = recast->keep == NULL ? (size_t)recast->wide * recast->kept : 0;
    const size_t parts = recast->sides_move ? recast->n_sides : 1;
    const size_t mixed = recast->mix.cells != NULL ? (size_t)recast->wide * recast->added : 0;
    return 2 + cells / 3 + (recast->back ? 4 : 1) * products * parts / 16 + mixed / 16 +
           (recast->drawn ? 20 + recast->after * (size_t)recast->after_spec.dim / 8 : 0);
}
