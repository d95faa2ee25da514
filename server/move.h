/*
 * The kernels of a layout change: cells of many rows from one width to another.
 *
 * A run is rows that stand one after another in both slabs. Each row is worked out by itself, in
 * one order of additions, each fused with its product, so that the bits depend neither on which
 * rows are moved together nor on the instruction set. Pure; any thread may call.
 */
#ifndef SERVER_MOVE_H
#define SERVER_MOVE_H

#include "proto/base.h"

/* Rows [n] of from_stride and to_stride cells. The two do not overlap. */
struct move_run {
    const float *from;
    float *to;
    size_t from_stride, to_stride, n;
};

/* A matrix [from][to], and what to take off rows before it, ready for move_dense(). */
struct move_matrix {
    size_t from, to;
    double
        *cells; /* [blocks of columns][1 + from][block], first of all -shift matrix; NULL: none */
};

/* The first n cells as they are. */
void move_cells(const struct move_run *run, size_t n);

/* to[k] = from[keep[k]] for k < n. */
void move_kept(const struct move_run *run, const uint16_t *keep, size_t n);
/* The same where some are MOVE_NONE, and 0. */
#define MOVE_NONE UINT16_MAX
void move_kept_some(const struct move_run *run, const uint16_t *keep, size_t n);

/* What a matrix is made of: the first `from` rows and `to` columns of a larger one, as for rows
 * that have their first cells alone; what is taken off them is of all. */
struct move_source {
    const double *matrix; /* [rows][columns] */
    const double *shift;  /* [rows]; NULL: zeros */
    size_t rows, columns;
    size_t from, to; /* <= these */
};

/* Each cell squared if asked for. NOMEM. */
dimfit_err move_matrix_init(struct move_matrix *m, const struct move_source *source,
                            bool squared) MUST_CHECK;
void move_matrix_fini(struct move_matrix *m);

/* to = from matrix - shift matrix, in float64, rounded once. m->from <= LAYOUT_DIM_MAX. */
void move_dense(const struct move_run *run, const struct move_matrix *m);

/* Rows [n] on their way back through a change: `now`, which its kernel made of `saved` as `moved`
 * and which went on from there. */
struct move_back {
    const float *now, *moved, *saved;
    float *to;
    size_t now_stride, moved_stride, saved_stride, to_stride, n;
};

/* to[i] = saved[i] for i < width, but to[keep[k]] = now[k] for k < n, unless it is MOVE_NONE. */
void move_back_kept(const struct move_back *back, const uint16_t *keep, size_t n, size_t width);

/* to = saved + (now - moved) matrix, [from][to], in float64, rounded once; not below 0 if
 * `positive`. to <= LAYOUT_DIM_MAX. */
void move_back_dense(const struct move_back *back, const double *matrix, size_t from, size_t to,
                     bool positive);

/* What the machine runs of move_dense(), narrowest first; it is the last. */
struct move_kernels {
    const char *name;
    void (*dense)(const struct move_run *run, const struct move_matrix *m);
};
const struct move_kernels *const *move_variants(size_t *n);

#endif
