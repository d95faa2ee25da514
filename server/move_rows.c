/*
 * The kernel of a dense move, compiled once an instruction set with its flags: VARIANT names what
 * comes out.
 *
 * Some rows and some columns are a tile, whose sums stay in registers. The sums are fused
 * multiply-adds whatever the instruction set: where the machine has none, a slow function of the C
 * library gives their bits.
 */
#include "proto/layout.h"
#include "server/move_variants.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#pragma GCC optimize("O3") /* the build's -O2 leaves loops of unknown length rolled */

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
enum { LANES = 8, TILE_ROWS = 8 };
#else
enum { LANES = 4, TILE_ROWS = 4 };
#endif

enum {
    VECTORS = MOVE_COLUMNS / LANES,
    USUAL = 16, /* columns before the move */
};

typedef double lanes __attribute__((vector_size(LANES * sizeof(double))));
typedef float floats __attribute__((vector_size(LANES * sizeof(float))));

/* sum + x y, rounded once. */
INLINE void add_product(lanes *sum, double x, const lanes *y) {
#if defined(__AVX512F__)
    *sum = (lanes)_mm512_fmadd_pd(_mm512_set1_pd(x), (__m512d)*y, (__m512d)*sum);
#elif defined(__FMA__)
    *sum = (lanes)_mm256_fmadd_pd(_mm256_set1_pd(x), (__m256d)*y, (__m256d)*sum);
#else
    for (size_t i = 0; i < LANES; i++)
        (*sum)[i] = __builtin_fma(x, (*y)[i], (*sum)[i]);
#endif
}

INLINE void store(float *to, const float *from, size_t n) {
    for (; n >= 4; n -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (; n > 0; n--)
        *to++ = *from++;
}

/* A block's first columns of some rows: a constant number of rows, of vectors, which hold the
 * columns, and of columns in a full block. */
INLINE void tile(const double *x, size_t rows, const double *block, size_t from, float *to,
                 size_t to_stride, size_t columns, size_t vectors) {
    lanes sums[TILE_ROWS][VECTORS], cells[VECTORS];
    memcpy(cells, block, vectors * sizeof *cells);
    for (size_t r = 0; r < rows; r++) {
        for (size_t v = 0; v < vectors; v++)
            sums[r][v] = cells[v];
    }
    for (size_t i = 0; i < from; i++) {
        block += MOVE_COLUMNS;
        memcpy(cells, block, vectors * sizeof *cells);
        for (size_t r = 0; r < rows; r++) {
            for (size_t v = 0; v < vectors; v++)
                add_product(&sums[r][v], x[r * from + i], &cells[v]);
        }
    }
    for (size_t r = 0; r < rows; r++) {
        floats rounded[VECTORS];
        for (size_t v = 0; v < vectors; v++)
            rounded[v] = __builtin_convertvector(sums[r][v], floats);
        store(to + r * to_stride, (const float *)rounded, columns);
    }
}

/* n is m->from. */
INLINE void tile_rows(const struct move_run *run, size_t first, size_t rows,
                      const struct move_matrix *m, size_t n) {
    const size_t block = (n + 1) * MOVE_COLUMNS;
    double x[TILE_ROWS * LAYOUT_DIM_MAX];
    for (size_t r = 0; r < rows; r++) {
        const float *const from = run->from + (first + r) * run->from_stride;
        for (size_t i = 0; i < n; i++)
            x[r * n + i] = from[i];
    }
    float *to = run->to + first * run->to_stride;
    const double *cells = m->cells;
    size_t left = m->to;
    for (; left >= MOVE_COLUMNS; left -= MOVE_COLUMNS, cells += block, to += MOVE_COLUMNS)
        tile(x, rows, cells, n, to, run->to_stride, MOVE_COLUMNS, VECTORS);
    if (left > LANES)
        tile(x, rows, cells, n, to, run->to_stride, left, VECTORS);
    else if (left > 0)
        tile(x, rows, cells, n, to, run->to_stride, left, 1);
}

INLINE void all_rows(const struct move_run *run, const struct move_matrix *m, size_t n) {
    size_t i = 0;
    for (; i + TILE_ROWS <= run->n; i += TILE_ROWS)
        tile_rows(run, i, TILE_ROWS, m, n);
    for (; i < run->n; i++)
        tile_rows(run, i, 1, m, n);
}

/* Once more for the usual width: loops of a known length, without branches to mistake. */
static void dense(const struct move_run *run, const struct move_matrix *m) {
    if (m->from == USUAL)
        all_rows(run, m, USUAL);
    else
        all_rows(run, m, m->from);
}

const struct move_kernels VARIANT_NAME(move, VARIANT) = {VARIANT_TEXT(VARIANT), dense};
