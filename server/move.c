#include "server/move_variants.h"

#include "proto/kernel.h"
#include "proto/layout.h"

#include <stdlib.h>

#pragma GCC optimize("O3", "fp-contract=off") /* see kernel.h and move.h */

#define ENTRY(name) &move_##name,
static const struct move_kernels *const variants[] = {VARIANTS(ENTRY)};

void move_cells(const struct move_run *run, size_t n) {
    for (size_t i = 0; i < run->n; i++)
        memcpy(run->to + i * run->to_stride, run->from + i * run->from_stride, n * sizeof(float));
}

KERNEL void move_kept(const struct move_run *run, const uint16_t *keep, size_t n) {
    const float *from = run->from;
    float *to = run->to;
    for (size_t i = 0; i < run->n; i++, from += run->from_stride, to += run->to_stride) {
        for (size_t k = 0; k < n; k++)
            to[k] = from[keep[k]];
    }
}

void move_kept_some(const struct move_run *run, const uint16_t *keep, size_t n) {
    for (size_t i = 0; i < run->n; i++) {
        const float *const from = run->from + i * run->from_stride;
        float *const to = run->to + i * run->to_stride;
        for (size_t k = 0; k < n; k++)
            to[k] = keep[k] == MOVE_NONE ? 0 : from[keep[k]];
    }
}

void move_back_kept(const struct move_back *back, const uint16_t *keep, size_t n, size_t width) {
    for (size_t i = 0; i < back->n; i++) {
        const float *const now = back->now + i * back->now_stride;
        float *const to = back->to + i * back->to_stride;
        memcpy(to, back->saved + i * back->saved_stride, width * sizeof *to);
        for (size_t k = 0; k < n; k++) {
            if (keep[k] != MOVE_NONE)
                to[keep[k]] = now[k];
        }
    }
}

KERNEL static void add_back(double x, const double *row, size_t n, double *sum) {
    for (size_t i = 0; i < n; i++)
        sum[i] += x * row[i];
}

void move_back_dense(const struct move_back *back, const double *matrix, size_t from, size_t to,
                     bool positive) {
    double sum[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < back->n; i++) {
        const float *const now = back->now + i * back->now_stride;
        const float *const moved = back->moved + i * back->moved_stride;
        const float *const saved = back->saved + i * back->saved_stride;
        float *const out = back->to + i * back->to_stride;
        for (size_t k = 0; k < to; k++)
            sum[k] = saved[k];
        for (size_t k = 0; k < from; k++)
            add_back((double)now[k] - moved[k], matrix + k * to, to, sum);
        for (size_t k = 0; k < to; k++)
            out[k] = positive && !(sum[k] > 0) ? 0 : (float)sum[k];
    }
}

static size_t blocks_of(size_t columns) {
    return (columns + MOVE_COLUMNS - 1) / MOVE_COLUMNS;
}

static double cell_of(const struct move_source *s, size_t i, size_t k, bool squared) {
    const double x = s->matrix[i * s->columns + k];
    return squared ? x * x : x;
}

dimfit_err move_matrix_init(struct move_matrix *m, const struct move_source *source, bool squared) {
    const size_t from = source->from, to = source->to, block = (from + 1) * MOVE_COLUMNS;
    base_assert(from <= source->rows && to <= source->columns);
    *m = (struct move_matrix){.from = from, .to = to};
    m->cells = calloc(blocks_of(to) * block + 1, sizeof *m->cells);
    if (m->cells == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t k = 0; k < to; k++) {
        double *const column = m->cells + k / MOVE_COLUMNS * block + k % MOVE_COLUMNS;
        for (size_t i = 0; i < from; i++)
            column[(i + 1) * MOVE_COLUMNS] = cell_of(source, i, k, squared);
        for (size_t i = 0; i < source->rows && source->shift != NULL; i++)
            column[0] -= source->shift[i] * cell_of(source, i, k, squared);
    }
    return DIMFIT_OK;
}
void move_matrix_fini(struct move_matrix *m) {
    free(m->cells);
    *m = (struct move_matrix){0};
}

const struct move_kernels *const *move_variants(size_t *n) {
    *n = variants_run();
    return variants;
}

void move_dense(const struct move_run *run, const struct move_matrix *m) {
    variants[variants_run() - 1]->dense(run, m);
}
