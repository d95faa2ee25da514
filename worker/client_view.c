#include "proto/kernel.h"
#include "worker/client_internal.h"

#include <stdlib.h>

#pragma GCC optimize("O3") /* see kernel.h */

static bool is_prefix(const uint16_t *axes, size_t n) {
    for (size_t k = 0; k < n; k++) {
        if (axes[k] != k)
            return false;
    }
    return true;
}

static size_t floats_of(const struct layout_slot *s) {
    const size_t dense = s->axes == NULL ? 2 : 1; /* M, and M^T where it is used */
    return dense * s->dim * s->width + s->dim;
}

/* Fill in one slot's matrices; returns where the next slot's go. */
static float *show_slot(const struct layout_slot *s, float *at, double *scratch,
                        struct dimfit_slot *shown, struct view_slot *map) {
    const size_t d = s->dim, w = s->width;
    float *const M = at, *const mean = M + d * w;
    layout_slot_basis(s, scratch);
    for (size_t i = 0; i < d * w; i++)
        M[i] = (float)scratch[i];
    layout_slot_mean(s, scratch);
    for (size_t j = 0; j < d; j++)
        mean[j] = (float)scratch[j];
    *shown = (struct dimfit_slot){
        .id = s->id,
        .dim = s->dim,
        .width = s->width,
        .search = s->search,
        .name = s->name,
        .basis = M,
        .mean = mean,
        .n_tiers = s->n_tiers,
        .tier_widths = s->tier_widths,
    };
    *map = (struct view_slot){
        .kind = s->axes == NULL                   ? VIEW_DENSE
                : w == d && is_prefix(s->axes, w) ? VIEW_SAME
                                                  : VIEW_AXES,
        .dim = s->dim,
        .width = s->width,
        .n_tiers = s->n_tiers,
        .axes = s->axes,
        .M = M,
        .mean = mean,
    };
    at = mean + d;
    if (map->kind != VIEW_DENSE)
        return at;
    for (size_t k = 0; k < w; k++) {
        for (size_t j = 0; j < d; j++)
            at[k * d + j] = M[j * w + k];
    }
    map->Mt = at;
    return at + d * w;
}

dimfit_err view_new(struct layout *source, struct view **out) {
    struct view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return DIMFIT_ERR_NOMEM;
    const size_t n = source->n_slots;
    size_t floats = 1, largest = 1;
    for (size_t i = 0; i < n; i++) {
        floats += floats_of(&source->slots[i]);
        const size_t matrix = (size_t)source->slots[i].dim * (source->slots[i].width + 1u);
        largest = matrix > largest ? matrix : largest;
    }
    view->users = 1;
    view->slots = calloc(n + 1, sizeof *view->slots);
    view->maps = calloc(n + 1, sizeof *view->maps);
    view->floats = calloc(floats, sizeof *view->floats);
    double *const scratch = calloc(largest, sizeof *scratch);
    if (view->slots == NULL || view->maps == NULL || view->floats == NULL || scratch == NULL) {
        free(scratch);
        view_drop(&view);
        return DIMFIT_ERR_NOMEM;
    }
    float *at = view->floats;
    for (size_t i = 0; i < n; i++)
        at = show_slot(&source->slots[i], at, scratch, &view->slots[i], &view->maps[i]);
    free(scratch);
    view->source = source;
    view->shown = (struct dimfit_layout){source->epoch, n, view->slots};
    *out = view;
    return DIMFIT_OK;
}

struct view *view_hold(struct view *view) {
    view->users++;
    return view;
}

void view_drop(struct view **view) {
    struct view *const v = *view;
    *view = NULL;
    if (v == NULL || --v->users > 0)
        return;
    layout_destroy(&v->source);
    free(v->slots);
    free(v->maps);
    free(v->floats);
    free(v);
}

size_t view_find(const struct view *view, uint32_t slot) {
    const struct layout_slot *const found = layout_find(view->source, slot);
    return found == NULL ? SIZE_MAX : (size_t)(found - view->source->slots);
}

/* v += r_k * (column k of M), column by column: the result of a row does not depend on which rows
 * are mapped with it, so nothing changes with batch or shard count. */
KERNEL static void dense_rows(const struct view_slot *slot, const float *restrict r,
                              float *restrict v) {
    const size_t d = slot->dim, w = slot->width;
    memcpy(v, slot->mean, d * sizeof *v);
    for (size_t k = 0; k < w; k++) {
        const float *restrict const column = slot->Mt + k * d;
        for (size_t j = 0; j < d; j++)
            v[j] += r[k] * column[j];
    }
}

KERNEL static void dense_grads(const struct view_slot *slot, const float *restrict dv,
                               float *restrict dr) {
    const size_t d = slot->dim, w = slot->width;
    memset(dr, 0, w * sizeof *dr);
    for (size_t j = 0; j < d; j++) {
        const float *restrict const row = slot->M + j * w;
        for (size_t k = 0; k < w; k++)
            dr[k] += dv[j] * row[k];
    }
}

void view_rows(const struct view_slot *slot, const float *r, float *v) {
    switch (slot->kind) {
    case VIEW_SAME:
        memcpy(v, r, slot->dim * sizeof *v);
        break;
    case VIEW_AXES:
        memset(v, 0, slot->dim * sizeof *v);
        for (size_t k = 0; k < slot->width; k++)
            v[slot->axes[k]] = r[k];
        break;
    case VIEW_DENSE:
        dense_rows(slot, r, v);
        break;
    }
}

void view_grads(const struct view_slot *slot, const float *dv, float *dr) {
    switch (slot->kind) {
    case VIEW_SAME:
        memcpy(dr, dv, slot->dim * sizeof *dr);
        break;
    case VIEW_AXES:
        for (size_t k = 0; k < slot->width; k++)
            dr[k] = dv[slot->axes[k]];
        break;
    case VIEW_DENSE:
        dense_grads(slot, dv, dr);
        break;
    }
}

void view_carry(const struct view_slot *from, const struct view_slot *to, const float *g,
                float *scratch, float *out) {
    const size_t d = from->dim, w = from->width;
    for (size_t j = 0; j < d; j++) {
        scratch[j] = 0;
        for (size_t k = 0; k < w; k++)
            scratch[j] += g[k] * from->M[j * w + k];
    }
    view_grads(to, scratch, out);
}
