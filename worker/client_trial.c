/*
 * Trials of layout changes: what a search asks this worker to evaluate, and rows as they would be
 * right after such a change.
 *
 * In stored coordinates a change (proto/change.h) takes r to shift + (r - shift) T N^T, still at
 * the old width; at model width to the same through the basis. Both are affine maps of a row, made
 * when a slot is first asked for.
 */
#include "proto/change.h"
#include "proto/kernel.h"
#include "proto/trial.h"
#include "worker/client_internal.h"

#include <stdlib.h>

#pragma GCC optimize("O3") /* see kernel.h */

enum {
    POLL_MS = 1000, /* for who does not wait */
    HELD_MS = 2000, /* an answer that the coordinator holds back is here by then */
    PAUSE_MS = 20,
};

/* One slot's rows in one view: out = r A + b or, A NULL, r with some coordinates zeroed. */
struct trial_map {
    float *A;    /* [width][width] */
    float *b;    /* [width] */
    bool *keeps; /* [width] */
};

struct trial {
    struct dimfit_trial shown;
    struct change *change;
    uint32_t *slots; /* [n] as shown */
    /* [n] of a view and a tier; none in it until it is asked for */
    struct trial_map (*maps)[2][LAYOUT_TIERS_MAX];
};

void trial_destroy(struct trial **trial) {
    struct trial *const t = *trial;
    *trial = NULL;
    if (t == NULL)
        return;
    struct trial_map *const maps = t->maps == NULL ? NULL : &t->maps[0][0][0];
    for (size_t i = 0; maps != NULL && i < t->shown.n_slots * 2 * LAYOUT_TIERS_MAX; i++) {
        free(maps[i].A);
        free(maps[i].b);
        free(maps[i].keeps);
    }
    free(t->maps);
    free(t->slots);
    change_destroy(&t->change);
    free(t);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static dimfit_err check_change(struct dimfit *c, const struct change *change) {
    if (change->from_epoch != c->view->shown.epoch || change->undoes != 0)
        return err_set(&c->detail, DIMFIT_ERR_STALE_EPOCH,
                       "a trial of a change from epoch %llu, the layout is of %llu",
                       (unsigned long long)change->from_epoch,
                       (unsigned long long)c->view->shown.epoch);
    for (size_t i = 0; i < change->n_slots; i++) {
        const struct change_slot *const s = &change->slots[i];
        const size_t at = view_find(c->view, s->id);
        if (at == SIZE_MAX || c->view->maps[at].width != s->from ||
            c->view->maps[at].n_tiers != s->n_tiers)
            return err_set(&c->detail, DIMFIT_ERR_PROTOCOL,
                           "a trial of slot %u from width %u in %u tiers, which the layout does "
                           "not have",
                           s->id, s->from, s->n_tiers);
        if (s->added > 0)
            return err_set(&c->detail, DIMFIT_ERR_UNSUPPORTED,
                           "slot %u: a trial that adds directions tries nothing", s->id);
    }
    return DIMFIT_OK;
}

static dimfit_err make_trial(struct dimfit *c, const struct rpc_reply *reply, struct trial **out) {
    struct trial *t = calloc(1, sizeof *t);
    if (t == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a trial");
    dimfit_err err = change_decode(reply->body, reply->len, &t->change, &c->detail);
    if (err == DIMFIT_OK)
        err = check_change(c, t->change);
    if (err == DIMFIT_OK) {
        t->slots = calloc(t->change->n_slots + 1, sizeof *t->slots);
        t->maps = calloc(t->change->n_slots + 1, sizeof *t->maps);
        if (t->slots == NULL || t->maps == NULL)
            err = err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a trial");
    }
    if (err != DIMFIT_OK) {
        trial_destroy(&t);
        return err;
    }
    for (size_t i = 0; i < t->change->n_slots; i++)
        t->slots[i] = t->change->slots[i].id;
    t->shown = (struct dimfit_trial){
        .search = reply->header.tag,
        .number = reply->header.step,
        .samples = reply->header.samples,
        .n_slots = t->change->n_slots,
        .slots = t->slots,
    };
    *out = t;
    return DIMFIT_OK;
}

/* Ask once. A trial that was reported is done with as soon as the answer is here. */
static dimfit_err ask_trial(struct dimfit *c, const struct buf *report, uint64_t samples, bool wait,
                            struct trial **out, bool *over) {
    struct rpc_reply reply;
    struct wire_header request = {
        .kind = WIRE_TRIAL_NEXT,
        .mode = wait ? TRIAL_WAIT : 0,
        .tag = report->len > 0 ? c->trial->shown.search : 0,
        .step = report->len > 0 ? c->trial->shown.number : 0,
        .samples = samples,
    };
    dimfit_err err = client_ask(c, &request, report->data, report->len, &reply);
    if (err != DIMFIT_OK)
        return err;
    trial_destroy(&c->trial);
    *over = (reply.header.mode & TRIAL_OVER) != 0;
    *out = NULL;
    if ((reply.header.mode & (TRIAL_OVER | TRIAL_LATER)) != 0)
        return DIMFIT_OK;
    if (reply.header.step == 0 || reply.header.samples == 0)
        return err_set(&c->detail, DIMFIT_ERR_PROTOCOL, "a trial without a number or samples");
    if (reply.header.epoch != c->view->shown.epoch) {
        /* The same one comes again, to a handle that knows the layout it is of. */
        const int64_t deadline_ms = c->deadline_ms;
        err = dimfit_refresh(c);
        c->deadline_ms = deadline_ms;
        return err;
    }
    return make_trial(c, &reply, out);
}

static bool may_hold(const struct dimfit *c) {
    return c->deadline_ms - client_now_ms() > HELD_MS;
}

dimfit_err dimfit_trial_next(struct dimfit *c, const struct dimfit_figures *done, int wait,
                             const struct dimfit_trial **out) {
    static const struct dimfit_trial later = {0}, none = {.over = 1};
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    if (done != NULL && c->trial == NULL)
        return err_set(&c->detail, DIMFIT_ERR_STATE, "figures of a trial that was not handed out");
    if (!wait && c->deadline_ms > client_now_ms() + POLL_MS)
        c->deadline_ms = client_now_ms() + POLL_MS;
    struct buf report;
    buf_init(&report);
    if (done != NULL)
        trial_encode(&(struct trial_figures){done->loss, done->auc, done->whole_loss,
                                             done->whole_auc, done->error},
                     &report);
    struct trial *trial = NULL;
    bool over = false, asked = false;
    err = buf_status(&report);
    while (err == DIMFIT_OK && trial == NULL && !over && (!asked || (wait && may_hold(c)))) {
        const bool hold = wait && may_hold(c);
        if (wait && !hold)
            client_sleep_ms(PAUSE_MS); /* a handle too hasty to be made to wait */
        err = ask_trial(c, &report, done != NULL && !asked ? done->samples : 0, hold, &trial,
                        &over);
        buf_fini(&report); /* told once */
        asked = true;
    }
    buf_fini(&report);
    if (err != DIMFIT_OK)
        return err;
    c->trial = trial;
    *out = trial != NULL ? &trial->shown : over ? &none : &later;
    return DIMFIT_OK;
}

/* ---- maps ------------------------------------------------------------------------------------ */

/* A[w][w] = T N^T or the choice of kept coordinates, of the first `to` of them; b[w] = shift -
 * shift A. */
static void stored_map(const struct change_slot *s, uint32_t to, double *A, double *b) {
    const size_t w = s->from;
    memset(A, 0, w * w * sizeof *A);
    memset(b, 0, w * sizeof *b);
    for (size_t k = 0; k < to; k++) {
        if (s->keep != NULL) {
            A[s->keep[k] * w + s->keep[k]] = 1;
            continue;
        }
        for (size_t i = 0; i < w; i++) {
            for (size_t j = 0; j < w; j++)
                A[i * w + j] += s->T[i * s->to + k] * s->N[j * s->to + k];
        }
    }
    for (size_t j = 0; j < w && s->shift != NULL; j++) {
        b[j] = s->shift[j];
        for (size_t i = 0; i < w; i++)
            b[j] -= s->shift[i] * A[i * w + j];
    }
}

/* v = m + r M^T, so P = M A M^T and q = m - m P + b M^T; AM[w][d] is room for A M^T. */
static void model_map(const struct view_slot *slot, const double *A, const double *b, double *AM,
                      double *P, double *q) {
    const size_t d = slot->dim, w = slot->width;
    for (size_t i = 0; i < w; i++) {
        for (size_t j = 0; j < d; j++) {
            AM[i * d + j] = 0;
            for (size_t k = 0; k < w; k++)
                AM[i * d + j] += A[i * w + k] * (double)slot->M[j * w + k];
        }
    }
    memset(P, 0, d * d * sizeof *P);
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < w; k++) {
            for (size_t j = 0; j < d; j++)
                P[i * d + j] += (double)slot->M[i * w + k] * AM[k * d + j];
        }
    }
    for (size_t j = 0; j < d; j++) {
        q[j] = (double)slot->mean[j];
        for (size_t i = 0; i < d; i++)
            q[j] -= (double)slot->mean[i] * P[i * d + j];
        for (size_t k = 0; k < w; k++)
            q[j] += b[k] * (double)slot->M[j * w + k];
    }
}

static bool set_floats(const double *from, size_t n, float **out) {
    *out = malloc((n + 1) * sizeof **out);
    for (size_t i = 0; *out != NULL && i < n; i++)
        (*out)[i] = (float)from[i];
    return *out != NULL;
}

static dimfit_err make_dense(const struct view_slot *slot, const struct change_slot *s, uint32_t to,
                             enum dimfit_view view, struct trial_map *out) {
    const size_t d = slot->dim, w = slot->width, n = d > w ? d : w;
    double *const room = malloc((3 * n * n + 2 * n + 1) * sizeof *room);
    if (room == NULL)
        return DIMFIT_ERR_NOMEM;
    double *const A = room, *const P = A + n * n, *const AM = P + n * n, *const b = AM + n * n,
                  *const q = b + n;
    stored_map(s, to, A, b);
    bool whole;
    if (view == DIMFIT_COMPACT) {
        whole = set_floats(A, w * w, &out->A) && set_floats(b, w, &out->b);
    } else {
        model_map(slot, A, b, AM, P, q);
        whole = set_floats(P, d * d, &out->A) && set_floats(q, d, &out->b);
    }
    free(room);
    return whole ? DIMFIT_OK : DIMFIT_ERR_NOMEM;
}

/* Of axes, in either view: kept coordinates stay, bit for bit. */
static dimfit_err make_mask(const struct view_slot *slot, const struct change_slot *s, uint32_t to,
                            enum dimfit_view view, struct trial_map *out) {
    const size_t width = view == DIMFIT_FULL ? slot->dim : slot->width;
    out->keeps = calloc(width + 1, sizeof *out->keeps);
    if (out->keeps == NULL)
        return DIMFIT_ERR_NOMEM;
    for (size_t k = 0; k < to; k++)
        out->keeps[view == DIMFIT_FULL ? slot->axes[s->keep[k]] : s->keep[k]] = true;
    return DIMFIT_OK;
}

/* Of one tier, whose rows are those of the slot with zeros where they end. */
static dimfit_err make_map(const struct view_slot *slot, const struct change_slot *s, uint8_t tier,
                           enum dimfit_view view, struct trial_map *out) {
    const bool axes = slot->kind != VIEW_DENSE || view == DIMFIT_COMPACT;
    if (s->keep != NULL && axes)
        return make_mask(slot, s, s->tier_to[tier], view, out);
    return make_dense(slot, s, s->tier_to[tier], view, out);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* out += r_i * (row i of A); `out` may not be `r`. */
KERNEL static void map_row(const float *restrict A, const float *restrict b, size_t w,
                           const float *restrict r, float *restrict out) {
    memcpy(out, b, w * sizeof *out);
    for (size_t i = 0; i < w; i++) {
        const float *restrict const row = A + i * w;
        for (size_t j = 0; j < w; j++)
            out[j] += r[i] * row[j];
    }
}

static void mask_row(const bool *keeps, size_t w, const float *r, float *out) {
    for (size_t j = 0; j < w; j++)
        out[j] = keeps[j] ? r[j] : 0;
}

static void map_one(const struct trial_map *map, size_t w, const float *from, float *to) {
    float row[LAYOUT_DIM_MAX];
    if (map->keeps != NULL) {
        mask_row(map->keeps, w, from, to);
        return;
    }
    map_row(map->A, map->b, w, from, row);
    memcpy(to, row, w * sizeof *to);
}

/* The map of every tier that these rows are of. */
static dimfit_err open_maps(struct dimfit *c, const struct view_slot *slot,
                            const struct change_slot *s, enum dimfit_view view,
                            const uint8_t *tiers, size_t n, struct trial_map *maps) {
    bool wanted[LAYOUT_TIERS_MAX] = {tiers == NULL};
    if (tiers == NULL && s->n_tiers > 1)
        return err_set(&c->detail, DIMFIT_ERR_INVALID,
                       "slot %u has tiers; give those that were pulled with its rows", s->id);
    for (size_t i = 0; tiers != NULL && i < n; i++) {
        if (tiers[i] >= s->n_tiers)
            return err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u has no tier %u", s->id,
                           tiers[i]);
        wanted[tiers[i]] = true;
    }
    for (uint8_t t = 0; t < s->n_tiers; t++) {
        if (!wanted[t] || maps[t].b != NULL || maps[t].keeps != NULL)
            continue;
        if (make_map(slot, s, t, view, &maps[t]) != DIMFIT_OK)
            return err_set(&c->detail, DIMFIT_ERR_NOMEM,
                           "slot %u: no memory for its part of a trial", s->id);
    }
    return DIMFIT_OK;
}

dimfit_err dimfit_trial_rows(struct dimfit *c, enum dimfit_view view, uint32_t slot,
                             const uint8_t *tiers, const float *from, size_t n, float *to) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct trial *const t = c->trial;
    if (t == NULL)
        return err_set(&c->detail, DIMFIT_ERR_STATE, "no trial was handed out");
    if (t->change->from_epoch != c->view->shown.epoch)
        return err_set(&c->detail, DIMFIT_ERR_STALE_EPOCH,
                       "the layout has changed since the trial was handed out");
    const size_t at = view_find(c->view, slot);
    if (at == SIZE_MAX)
        return err_set(&c->detail, DIMFIT_ERR_UNKNOWN_SLOT, "slot %u is not in the layout", slot);
    const struct view_slot *const map = &c->view->maps[at];
    const size_t width = view == DIMFIT_FULL ? map->dim : map->width;
    const struct change_slot *const s = change_find(t->change, slot);
    if (s == NULL) {
        memmove(to, from, n * width * sizeof *to);
        return DIMFIT_OK;
    }
    struct trial_map *const maps = t->maps[s - t->change->slots][view == DIMFIT_COMPACT];
    err = open_maps(c, map, s, view, tiers, n, maps);
    for (size_t i = 0; err == DIMFIT_OK && i < n; i++)
        map_one(&maps[tiers != NULL ? tiers[i] : 0], width, from + i * width, to + i * width);
    return err;
}
