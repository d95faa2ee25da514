#include "server/basis.h"

#include "proto/layout.h"

#include <cblas.h>
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

static void identity(double *matrix, size_t w) {
    memset(matrix, 0, w * w * sizeof *matrix);
    for (size_t k = 0; k < w; k++)
        matrix[k * w + k] = 1;
}

dimfit_err basis_init(struct basis_fit *basis, size_t width) {
    const size_t w = width;
    double *const memory = calloc(2 * w + w * w + 1, sizeof *memory);
    if (memory == NULL)
        return DIMFIT_ERR_NOMEM;
    *basis = (struct basis_fit){
        .width = w,
        .mean = memory,
        .eigenvalue = memory + w,
        .encode = memory + 2 * w,
        .decode = memory + 2 * w,
    };
    identity(basis->encode, w);
    return DIMFIT_OK;
}

void basis_fini(struct basis_fit *basis) {
    if (basis->decode != basis->encode)
        free(basis->decode);
    free(basis->mean);
    *basis = (struct basis_fit){0};
}

static dimfit_err nomem(uint32_t slot, struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the basis of slot %u", slot);
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
        return nomem(slot, detail);
    /* A is symmetric; column-major order leaves each eigenvector contiguous. */
    const lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)w, A,
                                           (lapack_int)w, values);
    dimfit_err err = DIMFIT_OK;
    if (info == 0)
        arrange(A, values, w, N, eigenvalue);
    else if (info == LAPACK_WORK_MEMORY_ERROR)
        err = nomem(slot, detail);
    else
        err = err_set(detail, DIMFIT_ERR_NOT_FINITE,
                      "slot %u: its eigenvectors were not found (LAPACK dsyevd: %d)", slot,
                      (int)info);
    free(values);
    return err;
}

/* ---- second moments ---------------------------------------------------------------------------
 */

/* Equal rows leave only the rounding of the difference, and no direction in that means anything. */
dimfit_err basis_moments(const struct slot_stats *stats, double *mean, double *A, bool *any,
                         struct err_detail *detail) {
    const size_t w = stats->width;
    const bool looked = stats->lookups > 0;
    const double n = looked ? stats->lookups : (double)stats->rows;
    const double *const sum = looked ? stats->looked_sum : stats->sum;
    const double *const second = looked ? stats->looked_second : stats->second;
    base_assert(sum != NULL && second != NULL);
    *any = false;
    if (!isfinite(stats->lookups) || !all_finite(sum, w) || !all_finite(second, w * w))
        return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                       "slot %u: the sums over its rows are not finite; has its training diverged?",
                       stats->slot);
    for (size_t k = 0; k < w; k++)
        mean[k] = n > 0 ? sum[k] / n : 0;
    if (stats->rows < 2 || w == 0)
        return DIMFIT_OK;
    for (size_t a = 0; a < w; a++) {
        for (size_t b = 0; b < w; b++)
            A[a * w + b] = (second[a * w + b] + second[b * w + a]) / (2 * n) - mean[a] * mean[b];
    }
    if (!all_finite(A, w * w))
        return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                       "slot %u: the second moments of its rows are not finite", stats->slot);
    *any = trace(A, w) > 1e-14 * trace(second, w) / n;
    return DIMFIT_OK;
}

/* ---- rotated ----------------------------------------------------------------------------------
 */

dimfit_err basis_rotated(const struct slot_stats *stats, struct basis_fit *basis,
                         struct err_detail *detail) {
    const size_t w = stats->width;
    base_assert(basis->width == w);
    double *const A = malloc((w * w + 1) * sizeof *A);
    if (A == NULL)
        return nomem(stats->slot, detail);
    bool any;
    dimfit_err err = basis_moments(stats, basis->mean, A, &any, detail);
    if (err == DIMFIT_OK && any)
        err = decompose(stats->slot, A, w, basis->encode, basis->eigenvalue, detail);
    free(A);
    return err;
}

/* ---- kfac -------------------------------------------------------------------------------------
 */

static void multiply(const double *a, const double *b, size_t w, double *out) {
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)w, (int)w, (int)w, 1, a, (int)w, b,
                (int)w, 0, out, (int)w);
}

/* root = U diag(values) U^T; columns is scratch. */
static void compose(const double *U, const double *values, size_t w, double *columns,
                    double *root) {
    for (size_t i = 0; i < w * w; i++)
        columns[i] = U[i] * values[i % w];
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)w, (int)w, (int)w, 1, columns, (int)w,
                U, (int)w, 0, root, (int)w);
}

/* The matrices of a fit, [w][w] each but h. */
struct matrices {
    double *A, *H, *U, *root, *inverse, *scratch;
    double *h; /* [w] */
};

static bool matrices_init(struct matrices *fit, size_t w) {
    double *const memory = malloc((6 * w * w + w + 1) * sizeof *memory);
    *fit = (struct matrices){
        .A = memory,
        .H = memory + w * w,
        .U = memory + 2 * w * w,
        .root = memory + 3 * w * w,
        .inverse = memory + 4 * w * w,
        .scratch = memory + 5 * w * w,
        .h = memory + 6 * w * w,
    };
    return memory != NULL;
}

/* H^1/2 and H^-1/2 of the slot's regularised H; *any: there is one. */
static dimfit_err take_roots(const struct slot_stats *stats, struct matrices *fit, bool *any,
                             struct err_detail *detail) {
    const size_t w = stats->width;
    *any = false;
    if (stats->curvature == NULL || !(stats->curved > 0))
        return DIMFIT_OK;
    for (size_t i = 0; i < w * w; i++)
        fit->H[i] = stats->curvature[i] / stats->curved;
    if (!all_finite(fit->H, w * w))
        return err_set(detail, DIMFIT_ERR_NOT_FINITE,
                       "slot %u: the second moments of its gradients are not finite; has its "
                       "training diverged?",
                       stats->slot);
    const dimfit_err err = decompose(stats->slot, fit->H, w, fit->U, fit->h, detail);
    if (err != DIMFIT_OK || fit->h[0] <= 0)
        return err;
    *any = true;
    const double added = 1e-3 * fit->h[0];
    for (size_t k = 0; k < w; k++)
        fit->h[k] = sqrt(fit->h[k] + added);
    compose(fit->U, fit->h, w, fit->scratch, fit->root);
    for (size_t k = 0; k < w; k++)
        fit->h[k] = 1 / fit->h[k];
    compose(fit->U, fit->h, w, fit->scratch, fit->inverse);
    return DIMFIT_OK;
}

static dimfit_err fit_kfac(const struct slot_stats *stats, struct matrices *fit,
                           struct basis_fit *basis, struct err_detail *detail) {
    const size_t w = stats->width;
    bool varies, curved;
    dimfit_err err = basis_moments(stats, basis->mean, fit->A, &varies, detail);
    if (err == DIMFIT_OK)
        err = take_roots(stats, fit, &curved, detail);
    if (err != DIMFIT_OK || !varies)
        return err;
    if (!curved) {
        err = decompose(stats->slot, fit->A, w, basis->encode, basis->eigenvalue, detail);
        memset(basis->eigenvalue, 0, w * sizeof *basis->eigenvalue);
        return err;
    }
    basis->decode = malloc(w * w * sizeof *basis->decode);
    if (basis->decode == NULL) {
        basis->decode = basis->encode;
        return nomem(stats->slot, detail);
    }
    multiply(fit->root, fit->A, w, fit->scratch);
    multiply(fit->scratch, fit->root, w, fit->H);
    err = decompose(stats->slot, fit->H, w, fit->U, basis->eigenvalue, detail);
    multiply(fit->root, fit->U, w, basis->encode);
    multiply(fit->inverse, fit->U, w, basis->decode);
    return err;
}

dimfit_err basis_kfac(const struct slot_stats *stats, struct basis_fit *basis,
                      struct err_detail *detail) {
    base_assert(basis->width == stats->width);
    struct matrices fit;
    if (!matrices_init(&fit, stats->width))
        return nomem(stats->slot, detail);
    const dimfit_err err = stats->width == 0 ? DIMFIT_OK : fit_kfac(stats, &fit, basis, detail);
    free(fit.A);
    return err;
}

/* ---- what becomes of rows ---------------------------------------------------------------------
 */

bool basis_is_identity(const struct basis_fit *basis) {
    const size_t w = basis->width;
    for (size_t j = 0; j < w; j++) {
        for (size_t k = 0; k < w; k++) {
            const double x = basis->decode[j * w + k];
            if (j == k ? !(x > 0) : x != 0)
                return false;
        }
    }
    return true;
}

static void take_columns(const double *matrix, const uint8_t *keep, size_t w, size_t n,
                         double *out) {
    size_t to = 0;
    for (size_t k = 0; k < w; k++) {
        for (size_t j = 0; keep[k] && j < w; j++)
            out[j * n + to] = matrix[j * w + k];
        to += keep[k] != 0;
    }
}

/* D[w][n] = N R: D becomes N, R[n][n] the upper triangle with a positive diagonal. */
static dimfit_err decompose_qr(double *D, size_t w, size_t n, double *R,
                               struct err_detail *detail) {
    double *const tau = malloc((n + 1) * sizeof *tau);
    lapack_int info = tau == NULL ? LAPACK_WORK_MEMORY_ERROR
                                  : LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, (lapack_int)w, (lapack_int)n,
                                                   D, (lapack_int)n, tau);
    for (size_t i = 0; info == 0 && i < n; i++) {
        for (size_t k = 0; k < n; k++)
            R[i * n + k] = k >= i ? D[i * n + k] : 0;
    }
    if (info == 0)
        info = LAPACKE_dorgqr(LAPACK_ROW_MAJOR, (lapack_int)w, (lapack_int)n, (lapack_int)n, D,
                              (lapack_int)n, tau);
    free(tau);
    if (info != 0) /* no other failure is there: the columns are finite and independent */
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a change of basis");
    for (size_t i = 0; i < n; i++) {
        if (R[i * n + i] >= 0)
            continue;
        for (size_t k = i; k < n; k++)
            R[i * n + k] = -R[i * n + k];
        for (size_t j = 0; j < w; j++)
            D[j * n + i] = -D[j * n + i];
    }
    return DIMFIT_OK;
}

dimfit_err basis_change(const struct basis_fit *basis, const uint8_t *keep, size_t n, double *T,
                        double *N, struct err_detail *detail) {
    const size_t w = basis->width;
    take_columns(basis->decode, keep, w, n, N);
    if (basis->decode == basis->encode || n == 0) {
        memcpy(T, N, w * n * sizeof *T);
        return DIMFIT_OK;
    }
    double *const R = malloc((n * n + w * n) * sizeof *R), *const E = R + n * n;
    dimfit_err err = R == NULL
                         ? err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a change of basis")
                         : decompose_qr(N, w, n, R, detail);
    if (err == DIMFIT_OK && n == w) {
        memcpy(T, N, w * n * sizeof *T);
    } else if (err == DIMFIT_OK) {
        take_columns(basis->encode, keep, w, n, E);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)w, (int)n, (int)n, 1, E, (int)n,
                    R, (int)n, 0, T, (int)n);
    }
    free(R);
    return err;
}

/* ---- scores and norms -------------------------------------------------------------------------
 */

/* out[k] = E[:, k]^T S D[:, k]. */
static void bilinear(const double *S, const double *E, const double *D, size_t w, double *out) {
    double row[LAYOUT_DIM_MAX];
    memset(out, 0, w * sizeof *out);
    for (size_t a = 0; a < w; a++) {
        memset(row, 0, w * sizeof *row);
        for (size_t b = 0; b < w; b++) {
            for (size_t k = 0; k < w; k++)
                row[k] += S[a * w + b] * D[b * w + k];
        }
        for (size_t k = 0; k < w; k++)
            out[k] += E[a * w + k] * row[k];
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

void basis_score(const struct step_slot *step, const struct basis_fit *basis, double *g) {
    const size_t w = step->width;
    double m[LAYOUT_DIM_MAX], b[LAYOUT_DIM_MAX];
    base_assert(step->C != NULL && step->b != NULL && w <= LAYOUT_DIM_MAX);
    bilinear(step->C, basis->encode, basis->decode, w, g);
    turn(basis->mean, basis->encode, w, m);
    turn(step->b, basis->decode, w, b);
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

/* Sums over n rows or lookups, of r and r^T r: squares[k] = sum of ((r - mean) e_k)^2. */
static void sum_squares(const double *sum, const double *second, double n,
                        const struct basis_fit *basis, double *squares) {
    const size_t w = basis->width;
    double m[LAYOUT_DIM_MAX], s[LAYOUT_DIM_MAX];
    base_assert(sum != NULL && second != NULL && w <= LAYOUT_DIM_MAX);
    bilinear(second, basis->encode, basis->encode, w, squares);
    turn(basis->mean, basis->encode, w, m);
    turn(sum, basis->encode, w, s);
    for (size_t k = 0; k < w; k++) {
        const double square = squares[k] - 2 * m[k] * s[k] + n * m[k] * m[k];
        squares[k] = square > 0 ? square : 0;
    }
}

void basis_share(const struct slot_stats *part, const struct slot_stats *whole,
                 const struct basis_fit *basis, double *share) {
    const bool looked = whole->lookups > 0;
    const double n = looked ? whole->lookups : (double)whole->rows;
    if (looked)
        sum_squares(part->looked_sum, part->looked_second, part->lookups, basis, share);
    else
        sum_squares(part->sum, part->second, (double)part->rows, basis, share);
    /* Where no direction was found, or all are worth nothing, none is worth anything here. */
    for (size_t k = 0; k < basis->width; k++)
        share[k] = basis->eigenvalue[k] > 0 ? share[k] / n : 0;
}

static double length(const double *D, size_t w, size_t k) {
    double square = 0;
    for (size_t j = 0; j < w; j++)
        square += D[j * w + k] * D[j * w + k];
    return sqrt(square);
}

void basis_norm(const struct slot_stats *stats, const struct basis_fit *basis, double *norm) {
    const size_t w = stats->width;
    sum_squares(stats->sum, stats->second, (double)stats->rows, basis, norm);
    for (size_t k = 0; k < w; k++) {
        norm[k] = sqrt(norm[k]);
        if (basis->decode != basis->encode)
            norm[k] *= length(basis->decode, w, k);
    }
}
