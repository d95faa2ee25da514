#include "server/move.h"

#include "proto/kernel.h"
#include "proto/layout.h"

#include <stdlib.h>

#pragma GCC optimize("O3", "fp-contract=off") /* see kernel.h and move.h */

#define INLINE static inline __attribute__((always_inline))

enum {
    TILE_ROWS = 8,
    TILE_COLUMNS = 8, /* 8 x 8 sums stay in AVX-512's registers */
};

typedef double lanes8 __attribute__((vector_size(TILE_COLUMNS * sizeof(double))));
typedef double lanes4 __attribute__((vector_size(4 * sizeof(double))));
typedef float floats4 __attribute__((vector_size(4 * sizeof(float))));
typedef float floats8 __attribute__((vector_size(TILE_COLUMNS * sizeof(float))));

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

static size_t blocks_of(size_t columns) {
    return (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
}

dimfit_err move_matrix_init(struct move_matrix *m, const double *matrix, const double *shift,
                            bool squared, size_t from, size_t to) {
    const size_t block = (from + 1) * TILE_COLUMNS;
    *m = (struct move_matrix){.from = from, .to = to};
    m->cells = calloc(blocks_of(to) * block + 1, sizeof *m->cells);
    if (m->cells == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t k = 0; k < to; k++) {
        double *const column = m->cells + k / TILE_COLUMNS * block + k % TILE_COLUMNS;
        for (size_t i = 0; i < from; i++) {
            const double x = matrix[i * to + k], cell = squared ? x * x : x;
            column[(i + 1) * TILE_COLUMNS] = cell;
            column[0] -= shift != NULL ? shift[i] * cell : 0;
        }
    }
    return DIMFIT_OK;
}

void move_matrix_fini(struct move_matrix *m) {
    free(m->cells);
    *m = (struct move_matrix){0};
}

INLINE void store(float *to, const float *from, size_t n) {
    for (; n >= 4; n -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (; n > 0; n--)
        *to++ = *from++;
}

/* A block's first columns of some rows: a constant number of rows, and of columns in a full block.
 */
#define TILE(name, lanes, floats)                                                                  \
    INLINE void name(const double *x, size_t rows, const double *block, size_t from, float *to,    \
                     size_t to_stride, size_t columns) {                                           \
        lanes sums[TILE_ROWS], cells;                                                              \
        memcpy(&cells, block, sizeof cells);                                                       \
        for (size_t r = 0; r < rows; r++)                                                          \
            sums[r] = cells;                                                                       \
        for (size_t i = 0; i < from; i++) {                                                        \
            block += TILE_COLUMNS;                                                                 \
            memcpy(&cells, block, sizeof cells);                                                   \
            for (size_t r = 0; r < rows; r++)                                                      \
                sums[r] += x[r * from + i] * cells;                                                \
        }                                                                                          \
        for (size_t r = 0; r < rows; r++) {                                                        \
            const floats rounded = __builtin_convertvector(sums[r], floats);                       \
            store(to + r * to_stride, (const float *)&rounded, columns);                           \
        }                                                                                          \
    }

TILE(tile8, lanes8, floats8)
TILE(tile4, lanes4, floats4)

INLINE void rows_dense(const struct move_run *run, size_t first, size_t rows,
                       const struct move_matrix *m) {
    const size_t n = m->from, block = (n + 1) * TILE_COLUMNS;
    double x[TILE_ROWS * LAYOUT_DIM_MAX];
    for (size_t r = 0; r < rows; r++) {
        const float *const from = run->from + (first + r) * run->from_stride;
        for (size_t i = 0; i < n; i++)
            x[r * n + i] = from[i];
    }
    float *to = run->to + first * run->to_stride;
    const double *cells = m->cells;
    size_t left = m->to;
    for (; left >= TILE_COLUMNS; left -= TILE_COLUMNS, cells += block, to += TILE_COLUMNS)
        tile8(x, rows, cells, n, to, run->to_stride, TILE_COLUMNS);
    if (left > 4)
        tile8(x, rows, cells, n, to, run->to_stride, left);
    else if (left > 0)
        tile4(x, rows, cells, n, to, run->to_stride, left);
}

KERNEL void move_dense(const struct move_run *run, const struct move_matrix *m) {
    size_t i = 0;
    for (; i + TILE_ROWS <= run->n; i += TILE_ROWS)
        rows_dense(run, i, TILE_ROWS, m);
    for (; i < run->n; i++)
        rows_dense(run, i, 1, m);
}
