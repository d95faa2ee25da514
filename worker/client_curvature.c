#include "worker/client_curvature.h"

#include "proto/kernel.h"

#include <stdlib.h>

#pragma GCC optimize("O3") /* see kernel.h */

/* Eight rows at a time: that many terms go into a sum while it is in a register. Columns begin at a
 * multiple of eight, for whole vectors. */
KERNEL static void add_rows(const double *restrict x, size_t w, double *restrict H) {
    _Static_assert(CURVATURE_ROWS == 8, "the sum below has so many terms");
    const double *const a = x, *const b = x + w, *const c = x + 2 * w, *const d = x + 3 * w;
    const double *const e = x + 4 * w, *const f = x + 5 * w, *const g = x + 6 * w,
                        *const h = x + 7 * w;
    for (size_t i = 0; i < w; i++) {
        for (size_t k = i & ~(size_t)7; k < w; k++)
            H[i * w + k] += ((a[i] * a[k] + b[i] * b[k]) + (c[i] * c[k] + d[i] * d[k])) +
                            ((e[i] * e[k] + f[i] * f[k]) + (g[i] * g[k] + h[i] * h[k]));
    }
}

KERNEL static void widen(const float *restrict g, size_t n, double *restrict out) {
    for (size_t i = 0; i < n; i++)
        out[i] = g[i];
}

void curvature_add(const float *g, size_t n, size_t w, double *rows, double *H) {
    for (size_t first = 0; first < n; first += CURVATURE_ROWS) {
        const size_t m = n - first < CURVATURE_ROWS ? n - first : CURVATURE_ROWS;
        widen(g + first * w, m * w, rows);
        memset(rows + m * w, 0, (CURVATURE_ROWS - m) * w * sizeof *rows);
        add_rows(rows, w, H);
    }
}

/* Room for H[w][w] and the scratch rows behind it. */
static bool reserve(struct call_slot *slot, size_t w) {
    const size_t n = w * w + CURVATURE_ROWS * w;
    if (n <= slot->cap_curvature)
        return true;
    double *const curvature = malloc(n * sizeof *curvature);
    if (curvature == NULL)
        return false;
    free(slot->curvature);
    slot->curvature = curvature;
    slot->cap_curvature = n;
    return true;
}

static bool wanted(const struct dimfit *c, const struct dimfit_call *call) {
    return c->curvature && ((call->push.mode & DIMFIT_SCORE) != 0 || !c->frozen);
}

dimfit_err curvature_form(struct dimfit *c, struct dimfit_call *call) {
    if (!wanted(c, call))
        return DIMFIT_OK;
    uint64_t bytes = SECTION_HEAD;
    for (size_t i = 0; i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        struct call_slot *const slot = &call->slots[i];
        const size_t w = rows->width;
        if (!layout_find(c->view->source, rows->slot)->search || slot->counts != NULL || w == 0)
            continue;
        bytes += rows->n * (w * sizeof(float) + sizeof(uint64_t) + 2 * sizeof(uint32_t)) +
                 section_triangle(w) * sizeof(double) + SECTION_ENTRY;
        if (bytes > (uint64_t)WIRE_BODY_MAX)
            return err_set(&c->detail, DIMFIT_ERR_LIMIT,
                           "a push of these slots is over %zu bytes with the second moments of its "
                           "gradients, which the search wants; split it",
                           (size_t)WIRE_BODY_MAX);
        if (!reserve(slot, w))
            return err_set(&c->detail, DIMFIT_ERR_NOMEM,
                           "no memory for the second moments of slot %u's gradients", rows->slot);
        memset(slot->curvature, 0, w * w * sizeof *slot->curvature);
        curvature_add(rows->values, rows->n, w, slot->curvature + w * w, slot->curvature);
        slot->curved = (uint32_t)rows->n;
    }
    return DIMFIT_OK;
}

uint32_t curvature_lookups(const struct dimfit_call *call, size_t i, size_t shard) {
    const struct span span = call_span(call, i, shard);
    return span.at == 0 && span.end > 0 ? call->slots[i].curved : 0;
}

/* ---- to stored coordinates ------------------------------------------------------------------- */

/* B[from][to] takes a gradient to stored coordinates: M, or M_old^T M through model width. */
static void fill_map(const struct view_slot *old, const struct view_slot *now, double *B) {
    const size_t d = now->dim, to = now->width;
    if (old == NULL) {
        for (size_t i = 0; i < d * to; i++)
            B[i] = now->M[i];
        return;
    }
    memset(B, 0, old->width * to * sizeof *B);
    for (size_t j = 0; j < d; j++) {
        for (size_t i = 0; i < old->width; i++) {
            for (size_t k = 0; k < to; k++)
                B[i * to + k] += (double)old->M[j * old->width + i] * now->M[j * to + k];
        }
    }
}

static double symmetric(const double *H, size_t w, size_t i, size_t k) {
    return i <= k ? H[i * w + k] : H[k * w + i];
}

/* out[to][to] = B^T H B, the upper triangle; half[to] is scratch. */
static void congruent(const double *restrict H, size_t from, const double *restrict B, size_t to,
                      double *restrict half, double *restrict out) {
    memset(out, 0, to * to * sizeof *out);
    for (size_t i = 0; i < from; i++) {
        memset(half, 0, to * sizeof *half);
        for (size_t j = 0; j < from; j++) {
            const double h = symmetric(H, from, i, j);
            for (size_t k = 0; k < to; k++)
                half[k] += h * B[j * to + k];
        }
        for (size_t a = 0; a < to; a++) {
            for (size_t b = a; b < to; b++)
                out[a * to + b] += B[i * to + a] * half[b];
        }
    }
}

static void put_triangle(const double *H, size_t w, uint8_t **at) {
    for (size_t i = 0; i < w; i++) {
        memcpy(*at, H + i * w + i, (w - i) * sizeof *H);
        *at += (w - i) * sizeof *H;
    }
}

dimfit_err curvature_put(const struct dimfit_call *call, size_t i, const struct view_slot *old,
                         const struct view_slot *now, uint8_t **at) {
    const double *const H = call->slots[i].curvature;
    const size_t from = call->rows[i].width, to = now->width;
    if (old == NULL && call_is_same(call, now)) {
        put_triangle(H, to, at);
        return DIMFIT_OK;
    }
    double *const memory = malloc((from * to + to + to * to + 1) * sizeof *memory);
    if (memory == NULL)
        return DIMFIT_ERR_NOMEM;
    double *const B = memory, *const half = B + from * to, *const out = half + to;
    fill_map(old, now, B);
    congruent(H, from, B, to, half, out);
    put_triangle(out, to, at);
    free(memory);
    return DIMFIT_OK;
}
