#include "server/basis.h"

#include "proto/layout.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

static bool all_finite(const double *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return false;
    }
    return true;
}

void basis_identity(double *N, size_t w) {
    memset(N, 0, w * w * sizeof *N);
    for (size_t k = 0; k < w; k++)
        N[k * w + k] = 1;
}

static double trace(const double *matrix, size_t w) {
    double sum = 0;
    for (size_t k = 0; k < w; k++)
        sum += matrix[k * w + k];
    return sum;
}

/* Ascending order -> descending, and a sign that does not depend on the library: of components that
 * rounding alone tells apart, the first counts as the largest. vectors[k] is the k-th one. */
static void arrange(const double *vectors, const double *values, size_t w, double *N,
                    double *eigenvalue) {
    for (size_t k = 0; k < w; k++) {
        const double *const vector = vectors + (w - 1 - k) * w;
        double largest = 0;
        for (size_t j = 0; j < w; j++) {
            if (fabs(vector[j]) > fabs(largest) * (1 + 1e-9))
                largest = vector[j];
        }
        const double sign = largest < 0 ? -1 : 1;
        for (size_t j = 0; j < w; j++)
            N[j * w + k] = sign * vector[j];
        /* Rounding may take a zero below zero. */
        eigenvalue[k] = values[w - 1 - k] > 0 ? values[w - 1 - k] : 0;
    }
}

static dimfit_err decompose(uint32_t slot, double *A, size_t w, double *N, double *eigenvalue,
                            struct err_detail *detail) {
    double *const values = malloc(w * sizeof *values);
    if (values == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the basis of slot %u", slot);
    /* A is symmetric; column-major order leaves each eigenvector contiguous. */
    const lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)w, A,
                                           (lapack_int)w, values);
    dimfit_err err = DIMFIT_OK;
    if (info == 0)
        arrange(A, values, w, N, eigenvalue);
    else if (info == LAPACK_WORK_MEMORY_ERROR)
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the basis of slot %u", slot);
    else
        err = err_set(detail, DIMFIT_ERR_NOT_FINITE,
                      "slot %u: its eigenvectors were not found (LAPACK dsyevd: %d)", slot,
                      (int)info);
    free(values);
    return err;
}

dimfit_err basis_rotated(const struct slot_stats *stats, double *mean, double *N,
                         double *eigenvalue, struct err_detail *detail) {
    const size_t w = stats->width;
    const bool looked = stats->lookups > 0;
    const double n = looked ? stats->lookups : (double)stats->rows;
    const double *const sum = looked ? stats->looked_sum : stats->sum;
    const double *const second = looked ? stats->looked_second : stats->second;
    base_assert(sum != NULL && second != NULL);
    if (!isfinite(stats->lookups) || !all_finite(sum, w) || !all_finite(second, w * w))
        return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                       "slot %u: the sums over its rows are not finite; has its training diverged?",
                       stats->slot);
    for (size_t k = 0; k < w; k++)
        mean[k] = n > 0 ? sum[k] / n : 0;
    memset(eigenvalue, 0, w * sizeof *eigenvalue);
    basis_identity(N, w);
    if (stats->rows < 2 || w == 0)
        return DIMFIT_OK;

    double *const A = malloc(w * w * sizeof *A);
    if (A == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the basis of slot %u", stats->slot);
    for (size_t a = 0; a < w; a++) {
        for (size_t b = 0; b < w; b++)
            A[a * w + b] = (second[a * w + b] + second[b * w + a]) / (2 * n) - mean[a] * mean[b];
    }
    dimfit_err err = DIMFIT_OK;
    if (!all_finite(A, w * w))
        err = err_set(detail, DIMFIT_ERR_NOT_FINITE,
                      "slot %u: the second moments of its rows are not finite", stats->slot);
    /* Equal rows leave only the rounding of the difference, and no direction in that means
     * anything.
     */
    else if (trace(A, w) > 1e-14 * trace(second, w) / n)
        err = decompose(stats->slot, A, w, N, eigenvalue, detail);
    free(A);
    return err;
}

/* out[k] = N[:, k]^T S N[:, k]. */
static void quadratic(const double *S, const double *N, size_t w, double *out) {
    double row[LAYOUT_DIM_MAX];
    memset(out, 0, w * sizeof *out);
    for (size_t a = 0; a < w; a++) {
        memset(row, 0, w * sizeof *row);
        for (size_t b = 0; b < w; b++) {
            for (size_t k = 0; k < w; k++)
                row[k] += S[a * w + b] * N[b * w + k];
        }
        for (size_t k = 0; k < w; k++)
            out[k] += N[a * w + k] * row[k];
    }
}

/* out = x N. */
static void turn(const double *x, const double *N, size_t w, double *out) {
    memset(out, 0, w * sizeof *out);
    for (size_t j = 0; j < w; j++) {
        for (size_t k = 0; k < w; k++)
            out[k] += x[j] * N[j * w + k];
    }
}

void basis_score(const struct step_slot *step, const double *mean, const double *N, double *g) {
    const size_t w = step->width;
    double m[LAYOUT_DIM_MAX], b[LAYOUT_DIM_MAX];
    base_assert(step->C != NULL && step->b != NULL && w <= LAYOUT_DIM_MAX);
    quadratic(step->C, N, w, g);
    turn(mean, N, w, m);
    turn(step->b, N, w, b);
    double size = 0;
    for (size_t i = 0; i < w * w; i++)
        size += fabs(step->C[i]);
    for (size_t k = 0; k < w; k++) {
        g[k] -= m[k] * b[k];
        /* Where rows do not vary along a unit only rounding is left, and the order of shards must
         * not decide which of such units stay. */
        if (fabs(g[k]) <= 1e-12 * (size + fabs(m[k] * b[k])))
            g[k] = 0;
    }
}

void basis_norm(const struct slot_stats *stats, const double *mean, const double *N, double *norm) {
    const size_t w = stats->width;
    const double rows = (double)stats->rows;
    double m[LAYOUT_DIM_MAX], sum[LAYOUT_DIM_MAX];
    base_assert(stats->second != NULL && w <= LAYOUT_DIM_MAX);
    quadratic(stats->second, N, w, norm);
    turn(mean, N, w, m);
    turn(stats->sum, N, w, sum);
    for (size_t k = 0; k < w; k++) {
        const double square = norm[k] - 2 * m[k] * sum[k] + rows * m[k] * m[k];
        norm[k] = square > 0 ? sqrt(square) : 0;
    }
}
