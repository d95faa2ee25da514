#include "server/plan_grow.h"

#include "server/init.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

static const uint32_t candidates[] = {1, 4, 8, 16, 32, 64};

uint32_t grow_room(uint32_t width, uint32_t dim) {
    for (size_t i = 0; i < ARRAY_LEN(candidates); i++) {
        if (candidates[i] > width)
            return (candidates[i] < dim ? candidates[i] : dim) - width;
    }
    return 0;
}

/* ---- what units are expected to be worth ----------------------------------------------------- */

/* What a slot's k-th unit is worth at least, of what its unit at half that rank is. */
#define GROW_SHARE 0.5

static int descending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* Of a slot's units, those there and those not there yet: out[width + room]. False when there is
 * nothing to expect. */
static bool expect(const double *values, uint32_t width, uint32_t room, double *out) {
    double ranked[LAYOUT_DIM_MAX];
    memcpy(ranked, values, width * sizeof *ranked);
    qsort(ranked, width, sizeof *ranked, descending);
    for (uint32_t k = 0; k < width; k++) {
        size_t rank = 0;
        for (uint32_t j = 0; j < width; j++)
            rank += values[j] > values[k] || (values[j] == values[k] && j < k);
        out[k] = fmax(values[k], GROW_SHARE * ranked[rank / 2]);
    }
    for (uint32_t k = width; k < width + room && width > 0; k++)
        out[k] = GROW_SHARE * ranked[k / 2 < width ? k / 2 : width - 1];
    return width > 0 && out[width + room - 1] > 0;
}

static dimfit_err offer(struct plan_work *work, struct plan_slot *s, struct plan_fitted *f) {
    const uint32_t dim = layout_find(work->layout, s->slot)->dim;
    double norm[LAYOUT_DIM_MAX];
    s->room = s->rows > 0 && s->tier + 1 == s->n_tiers ? grow_room(s->units, dim) : 0;
    if (plan_needs(work, DIMFIT_NEEDS_SCORES)) {
        f->expected = calloc(dim, sizeof *f->expected);
        if (f->expected == NULL)
            return plan_nomem(work);
        if (!expect(s->s, s->units, s->room, f->expected))
            s->room = 0;
    }
    if (plan_needs(work, DIMFIT_NEEDS_SPECTRUM) && s->eigenvalue != NULL) {
        f->spectrum = calloc(dim, sizeof *f->spectrum);
        if (f->spectrum == NULL)
            return plan_nomem(work);
        if (!expect(s->eigenvalue, s->units, s->room, f->spectrum))
            s->room = 0;
    }
    if (f->norm != NULL) {
        memcpy(norm, f->norm, s->units * sizeof *norm);
        if (!expect(norm, s->units, s->room, f->norm))
            s->room = 0;
    }
    if (plan_needs(work, DIMFIT_NEEDS_SPECTRUM) && s->eigenvalue != NULL) {
        double eigen[LAYOUT_DIM_MAX];
        if (!expect(s->eigenvalue, s->units, s->room, eigen))
            s->room = 0;
        memcpy(s->eigenvalue + s->units, eigen + s->units, s->room * sizeof *eigen);
    }
    return DIMFIT_OK;
}

dimfit_err grow_offer(struct plan_work *work) {
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < work->plan->n_slots && err == DIMFIT_OK; i++)
        err = offer(work, &work->plan->slots[i], &work->fitted[i]);
    return err;
}

/* ---- directions ------------------------------------------------------------------------------ */

/* E += weight m^T m for the slot's kept unit k: m is its direction at model width. */
static void add_unit(const double *M, const struct plan_fitted *f, const struct plan_slot *s,
                     size_t k, size_t d, double *m, double *E) {
    const size_t w = s->units;
    const size_t column = f->order != NULL ? f->order[k] : k;
    const double weight = s->eigenvalue != NULL ? s->eigenvalue[k] : 1;
    for (size_t i = 0; i < d; i++) {
        m[i] = f->basis == NULL ? M[i * w + column] : 0;
        for (size_t j = 0; j < w && f->basis != NULL; j++)
            m[i] += M[i * w + j] * f->basis->decode[j * w + k];
    }
    for (size_t i = 0; i < d; i++) {
        for (size_t j = 0; j < d && m[i] != 0; j++)
            E[i * d + j] += weight * m[i] * m[j];
    }
}

/* E[d][d]: how much the slots of model width d use each direction of those that they keep. */
static dimfit_err sum_use(const struct plan_work *work, uint32_t dim, double **out) {
    const size_t d = dim;
    double *const E = calloc(d * d, sizeof *E), *const M = malloc(d * d * sizeof *M);
    double m[LAYOUT_DIM_MAX];
    if (E == NULL || M == NULL) {
        free(E);
        free(M);
        return plan_nomem(work);
    }
    for (size_t i = 0; i < work->plan->n_slots; i++) {
        const struct plan_slot *const s = &work->plan->slots[i];
        const struct layout_slot *const slot = layout_find(work->layout, s->slot);
        /* Axes count once a slot: all that any of its tiers keeps, its last one does. */
        if (slot->dim != dim || (s->eigenvalue == NULL && s->tier + 1 < s->n_tiers))
            continue;
        layout_slot_basis(slot, M);
        for (size_t k = 0; k < s->units; k++) {
            if (s->keep[k])
                add_unit(M, &work->fitted[i], s, k, d, m, E);
        }
    }
    free(M);
    *out = E;
    return DIMFIT_OK;
}

/* Axes that the slot lacks by how much they are used, the first of equals first. */
static void choose_axes(const struct layout_slot *slot, const double *E, size_t n,
                        double *columns) {
    const size_t d = slot->dim;
    bool taken[LAYOUT_DIM_MAX] = {false};
    for (size_t k = 0; k < slot->width; k++)
        taken[slot->axes[k]] = true;
    memset(columns, 0, d * n * sizeof *columns);
    for (size_t k = 0; k < n; k++) {
        size_t best = d;
        for (size_t i = 0; i < d; i++) {
            if (!taken[i] && (best == d || E[i * d + i] > E[best * d + best]))
                best = i;
        }
        taken[best] = true;
        columns[best * n + k] = 1;
    }
}

/* What of the vector x is outside the first n columns of Q[d][stride]; returns its square. */
static double remainder_of(const double *Q, size_t d, size_t stride, size_t n, double *x) {
    double square = 0;
    for (size_t k = 0; k < n; k++) {
        double dot = 0;
        for (size_t i = 0; i < d; i++)
            dot += Q[i * stride + k] * x[i];
        for (size_t i = 0; i < d; i++)
            x[i] -= dot * Q[i * stride + k];
    }
    for (size_t i = 0; i < d; i++)
        square += x[i] * x[i];
    return square;
}

/* Columns n .. to of Q[d][stride] from plain axes: each time the one that the columns so far cover
 * least, the first of those that rounding alone tells apart. */
static void complete(double *Q, size_t d, size_t stride, size_t n, size_t to) {
    double x[LAYOUT_DIM_MAX];
    for (; n < to; n++) {
        size_t best = 0;
        double most = 0;
        for (size_t a = 0; a < d; a++) {
            double left = 1;
            for (size_t k = 0; k < n; k++)
                left -= Q[a * stride + k] * Q[a * stride + k];
            if (left > most * (1 + 1e-9)) {
                most = left;
                best = a;
            }
        }
        memset(x, 0, d * sizeof *x);
        x[best] = 1;
        remainder_of(Q, d, stride, n, x);
        const double size = sqrt(remainder_of(Q, d, stride, n, x)); /* rounding of the first */
        for (size_t i = 0; i < d; i++)
            Q[i * stride + n] = x[i] / size;
    }
}

/* B[c][c] = P^T E P of P, the last c columns of Q[d][d]. */
static void restrict_to(const double *Q, const double *E, size_t d, size_t c, double *B) {
    double Ep[LAYOUT_DIM_MAX];
    const double *const P = Q + (d - c);
    for (size_t k = 0; k < c; k++) {
        for (size_t i = 0; i < d; i++) {
            Ep[i] = 0;
            for (size_t j = 0; j < d; j++)
                Ep[i] += E[i * d + j] * P[j * d + k];
        }
        for (size_t l = 0; l < c; l++) {
            B[l * c + k] = 0;
            for (size_t i = 0; i < d; i++)
                B[l * c + k] += P[i * d + l] * Ep[i];
        }
    }
}

/* The k-th new column of Q is P u, u the eigenvector of the k-th largest eigenvalue; returns how
 * many there are that anyone uses. */
static size_t leading(const double *vectors, const double *values, const double *P, double used,
                      size_t d, size_t c, size_t n, double *columns) {
    size_t found = 0;
    for (; found < n && values[c - 1 - found] > used; found++) {
        const double *const u = vectors + (c - 1 - found) * c;
        double largest = 0;
        for (size_t i = 0; i < d; i++) {
            double x = 0;
            for (size_t k = 0; k < c; k++)
                x += P[i * d + k] * u[k];
            columns[i * n + found] = x;
            largest = fabs(x) > fabs(largest) * (1 + 1e-9) ? x : largest;
        }
        for (size_t i = 0; i < d && largest < 0; i++)
            columns[i * n + found] = -columns[i * n + found];
    }
    return found;
}

static double trace(const double *matrix, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += matrix[i * n + i];
    return sum;
}

static dimfit_err choose_directions(const struct layout_slot *slot, const double *E, size_t n,
                                    double *columns, struct err_detail *detail) {
    const size_t d = slot->dim, w = slot->width, c = d - w;
    double *const Q = calloc(d * d, sizeof *Q), *const M = calloc(d * w + 1, sizeof *M);
    double *const B = calloc(c * c, sizeof *B), *const values = calloc(c, sizeof *values);
    dimfit_err err = DIMFIT_OK;
    if (Q == NULL || M == NULL || B == NULL || values == NULL) {
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no memory for new directions of slot %u",
                      slot->id);
        goto done;
    }
    layout_slot_basis(slot, M);
    for (size_t i = 0; i < d; i++)
        memcpy(Q + i * d, M + i * w, w * sizeof *Q);
    complete(Q, d, d, w, d);
    restrict_to(Q, E, d, c, B);
    const lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)c, B,
                                           (lapack_int)c, values);
    if (info != 0) {
        err = err_set(
            detail, info == LAPACK_WORK_MEMORY_ERROR ? DIMFIT_ERR_NOMEM : DIMFIT_ERR_NOT_FINITE,
            "slot %u: its new directions were not found (LAPACK dsyevd: %d)", slot->id, (int)info);
        goto done;
    }
    const size_t found = leading(B, values, Q + w, 1e-9 * trace(E, d), d, c, n, columns);
    for (size_t i = 0; i < d; i++)
        memcpy(Q + i * d + w, columns + i * n, found * sizeof *Q);
    complete(Q, d, d, w + found, w + n);
    for (size_t i = 0; i < d; i++)
        memcpy(columns + i * n, Q + i * d + w, n * sizeof *columns);

done:
    free(Q);
    free(M);
    free(B);
    free(values);
    return err;
}

dimfit_err grow_columns(const struct layout_slot *slot, bool axes, const double *E, size_t n,
                        double *columns, struct err_detail *detail) {
    base_assert(n <= slot->dim - slot->width);
    if (!axes || slot->axes == NULL)
        return choose_directions(slot, E, n, columns, detail);
    choose_axes(slot, E, n, columns);
    return DIMFIT_OK;
}

/* ---- what rows have there -------------------------------------------------------------------- */

/* W[from][added]: row i is what a feasign made up of epoch and i would draw. */
static void draw_weights(const struct plan_work *work, const struct change_slot *c) {
    const struct layout_slot row = {
        .id = c->id, .dim = c->added, .init = INIT_NORMAL, .init_scale = 1};
    float drawn[LAYOUT_DIM_MAX];
    for (size_t i = 0; i < c->from; i++) {
        init_value(&row, work->plan->request.seed, work->layout->epoch * LAYOUT_DIM_MAX + i, drawn);
        for (size_t k = 0; k < c->added; k++)
            c->mix[i * c->added + k] = drawn[k];
    }
}

/* Column k of W becomes one of the standard deviation `scale`, given the rows' covariance A. */
static void normalise(const struct change_slot *c, size_t k, const double *A, double scale) {
    const size_t from = c->from, added = c->added;
    double variance = 0;
    for (size_t i = 0; i < from; i++) {
        for (size_t j = 0; j < from; j++)
            variance += c->mix[i * added + k] * A[i * from + j] * c->mix[j * added + k];
    }
    const double factor = variance > 0 ? scale / sqrt(variance) : 0;
    for (size_t i = 0; i < from; i++)
        c->mix[i * added + k] *= factor;
}

static dimfit_err fill_mix(const struct plan_work *work, const struct plan_fitted *f,
                           struct change_slot *c) {
    dimfit_err err = plan_check_moments(work, f->whole);
    if (err != DIMFIT_OK)
        return err;
    double *const A = calloc((size_t)c->from * c->from + 1, sizeof *A);
    if (A == NULL || change_slot_alloc_mix(c) != DIMFIT_OK) {
        free(A);
        return plan_nomem(work);
    }
    bool any;
    err = basis_moments(f->whole, c->centre, A, &any, work->detail);
    if (err == DIMFIT_OK && any) {
        draw_weights(work, c);
        for (size_t k = 0; k < c->added; k++)
            normalise(c, k, A, layout_find(work->layout, c->id)->init_scale);
    }
    free(A);
    return err;
}

static const struct plan_fitted *fitted_of(const struct plan_work *work, uint32_t slot) {
    size_t i = 0;
    while (work->plan->slots[i].slot != slot)
        i++;
    return &work->fitted[i];
}

static dimfit_err fill_rows(const struct plan_work *work, struct change_slot *c) {
    switch (work->plan->request.grow_init) {
    case GROW_INIT_DRAWN:
        c->drawn = true;
        break;
    case GROW_INIT_ZERO:
        break;
    case GROW_INIT_LINEAR:
        return fill_mix(work, fitted_of(work, c->id), c);
    }
    return DIMFIT_OK;
}

dimfit_err grow_fill(struct plan_work *work) {
    struct plan *const plan = work->plan;
    double *E = NULL;
    uint32_t dim = 0; /* of E */
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; i < plan->change->n_slots && err == DIMFIT_OK; i++) {
        struct change_slot *const c = &plan->change->slots[i];
        if (c->added == 0)
            continue;
        if (dim != c->dim) {
            free(E);
            E = NULL;
            dim = c->dim;
            err = sum_use(work, dim, &E);
        }
        if (err == DIMFIT_OK)
            err = fill_rows(work, c);
        if (err == DIMFIT_OK)
            err = grow_columns(layout_find(work->layout, c->id), c->keep != NULL, E, c->added,
                               c->columns, work->detail);
    }
    free(E);
    return err;
}
