#include "worker/train/tryout.h"
#include "worker/train/mem.h"
#include "worker/train/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PART = 1024 }; /* samples pulled and computed at a time */

/* Some samples with their rows. x is pooled from the rows as pulled whenever no trial is computed.
 */
struct part {
    struct batch batch;
    uint8_t *tiers; /* [occurrences] of the rows, as pulled */
    real *x, *count, *linear;
};

struct tryout {
    const struct dataset *data;
    const uint32_t *order;
    size_t n;
    uint64_t search, epoch;
    size_t n_parts;
    struct part *parts;
    real *weights[MODEL_GROUPS];
    float *mapped; /* rows of one slot of a part under a trial */
    size_t mapped_cap;
    /* [n] of the samples pulled so far, and of the trial */
    float *labels, *whole, *logits;
    size_t whole_n; /* samples that whole_auc is of */
    double whole_auc;
};

struct tryout *tryout_new(const struct dataset *data, const uint32_t *order, size_t n) {
    struct tryout *const t = mem_alloc(1, sizeof *t);
    t->data = data;
    t->order = order;
    t->n = n;
    t->parts = mem_alloc(n / PART + 1, sizeof *t->parts);
    t->labels = mem_alloc(n, sizeof *t->labels);
    t->whole = mem_alloc(n, sizeof *t->whole);
    t->logits = mem_alloc(n, sizeof *t->logits);
    return t;
}

static void drop(struct tryout *t) {
    for (size_t p = 0; p < t->n_parts; p++) {
        batch_fini(&t->parts[p].batch);
        free(t->parts[p].tiers);
        free(t->parts[p].x);
        free(t->parts[p].count);
        free(t->parts[p].linear);
    }
    t->n_parts = t->whole_n = 0;
    t->search = 0;
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        free(t->weights[g]);
        t->weights[g] = NULL;
    }
}

void tryout_destroy(struct tryout **tp) {
    struct tryout *const t = *tp;
    if (t == NULL)
        return;
    drop(t);
    free(t->parts);
    free(t->mapped);
    free(t->labels);
    free(t->whole);
    free(t->logits);
    free(t);
    *tp = NULL;
}

bool tryout_fits(const struct tryout *t, const struct dimfit_trial *trial, uint64_t epoch) {
    return t->search != 0 && t->search == trial->search && t->epoch == epoch;
}

void tryout_begin(struct tryout *t, const struct dimfit_trial *trial,
                  const struct tryout_model *model) {
    drop(t);
    t->search = trial->search;
    t->epoch = model->epoch;
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        const size_t n = model->weights->n[g];
        t->weights[g] = mem_alloc(n, sizeof *t->weights[g]);
        memcpy(t->weights[g], model->weights->values[g], n * sizeof *t->weights[g]);
    }
}

/* ---- the model as it is ---------------------------------------------------------------------- */

static const real *compute(struct tryout *t, const struct part *part,
                           const struct tryout_model *model, size_t n) {
    const struct model_batch input = {
        .n = n, .x = part->x, .count = part->count, .linear = part->linear};
    return model_forward(model->model, &input, t->weights);
}

/* A row's map depends on its tier, where the slot has any. */
static void ask_for_tiers(struct part *part, const struct tryout_model *model) {
    struct batch *const batch = &part->batch;
    part->tiers = mem_alloc(batch->occurrences, sizeof *part->tiers);
    for (size_t i = 0; i + 1 < batch->n_rows; i++) {
        struct dimfit_rows *const rows = &batch->rows[i];
        const struct dimfit_slot *const slot = dimfit_slot(model->cluster, rows->slot);
        if (slot != NULL && slot->n_tiers > 1)
            rows->tiers = part->tiers + (rows->keys - batch->keys);
    }
}

/* Pull the next part and compute what the whole model says of it. */
static dimfit_err pull_part(struct tryout *t, const struct tryout_model *model) {
    struct part *const part = &t->parts[t->n_parts];
    const size_t at = t->n_parts * PART, n = t->n - at < PART ? t->n - at : PART;
    const size_t input = model_input_width(model->model);
    *part = (struct part){0};
    batch_init(&part->batch, t->data);
    batch_fill(&part->batch, t->order + at, n, model->widths);
    ask_for_tiers(part, model);
    const dimfit_err err = dimfit_pull(model->cluster, model->view, part->batch.rows,
                                       part->batch.n_rows);
    if (err != DIMFIT_OK) {
        batch_fini(&part->batch);
        free(part->tiers);
        return err;
    }
    part->x = mem_alloc(n * input, sizeof *part->x);
    part->linear = mem_alloc(n, sizeof *part->linear);
    if (model->count)
        part->count = mem_alloc(n * t->data->n_slots, sizeof *part->count);
    batch_pool(&part->batch, part->x, part->count, part->linear);
    memcpy(t->labels + at, part->batch.labels, n * sizeof *t->labels);
    const real *const logits = compute(t, part, model, n);
    for (size_t i = 0; i < n; i++)
        t->whole[at + i] = (float)logits[i];
    t->n_parts++;
    return DIMFIT_OK;
}

static double whole_auc(struct tryout *t, size_t n) {
    if (t->whole_n != n) {
        t->whole_auc = metrics_auc(t->whole, t->labels, n);
        t->whole_n = n;
    }
    return t->whole_auc;
}

/* ---- under a trial --------------------------------------------------------------------------- */

static bool changes(const struct dimfit_trial *trial, uint32_t slot) {
    size_t low = 0, high = trial->n_slots;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (trial->slots[mid] < slot)
            low = mid + 1;
        else
            high = mid;
    }
    return low < trial->n_slots && trial->slots[low] == slot;
}

/* Map one slot's rows and pool them in the place of those that were pulled. */
static dimfit_err map_slot(struct tryout *t, const struct part *part,
                           const struct tryout_model *model, size_t s) {
    const struct batch *const batch = &part->batch;
    const size_t rows = batch->first[s + 1] - batch->first[s];
    const size_t values = rows * model->widths[s];
    if (values == 0)
        return DIMFIT_OK;
    if (values > t->mapped_cap) {
        t->mapped_cap = values;
        t->mapped = mem_resize(t->mapped, values, sizeof *t->mapped);
    }
    const uint32_t id = t->data->slots[s].id;
    const struct dimfit_slot *const slot = dimfit_slot(model->cluster, id);
    const uint8_t *const tiers = slot != NULL && slot->n_tiers > 1 ? part->tiers + batch->first[s]
                                                                   : NULL;
    const dimfit_err err = dimfit_trial_rows(model->cluster, model->view, id, tiers,
                                             batch->values + batch->at[s], rows, t->mapped);
    if (err == DIMFIT_OK)
        batch_pool_slot(batch, s, t->mapped, part->x);
    return err;
}

static dimfit_err try_part(struct tryout *t, const struct dimfit_trial *trial,
                           const struct tryout_model *model, size_t p, size_t n) {
    struct part *const part = &t->parts[p];
    const size_t S = t->data->n_slots;
    dimfit_err err = DIMFIT_OK;
    for (size_t s = 0; s < S && err == DIMFIT_OK; s++) {
        if (changes(trial, t->data->slots[s].id))
            err = map_slot(t, part, model, s);
    }
    if (err == DIMFIT_OK) {
        const real *const logits = compute(t, part, model, n);
        for (size_t i = 0; i < n; i++)
            t->logits[p * PART + i] = (float)logits[i];
    }
    for (size_t s = 0; s < S; s++) {
        if (changes(trial, t->data->slots[s].id))
            batch_pool_slot(&part->batch, s, part->batch.values + part->batch.at[s], part->x);
    }
    return err;
}

static double loss_of(struct calibration c, float logit, float label) {
    return metrics_logloss_one(c.scale * (double)logit + c.shift, (double)label);
}

/* Losses as calibrated on these samples, each model by itself: otherwise whatever makes the logits
 * of a model that is too sure of itself smaller would pass for a gain. */
static void measure(struct tryout *t, size_t n, struct dimfit_figures *out) {
    const struct calibration tried = metrics_calibrate(t->logits, t->labels, n);
    const struct calibration plain = metrics_calibrate(t->whole, t->labels, n);
    double loss = 0, whole = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        const double a = loss_of(tried, t->logits[i], t->labels[i]);
        const double b = loss_of(plain, t->whole[i], t->labels[i]);
        loss += a;
        whole += b;
        square += (a - b) * (a - b);
    }
    const double samples = (double)n, mean = (loss - whole) / samples;
    *out = (struct dimfit_figures){
        .loss = loss / samples,
        .auc = metrics_auc(t->logits, t->labels, n),
        .whole_loss = whole / samples,
        .whole_auc = whole_auc(t, n),
        .error = sqrt(fmax(square / samples - mean * mean, 0) / samples),
        .samples = n,
    };
}

dimfit_err tryout_evaluate(struct tryout *t, const struct dimfit_trial *trial,
                           const struct tryout_model *model, struct dimfit_figures *out) {
    const size_t n = trial->samples < t->n ? (size_t)trial->samples : t->n;
    base_assert(tryout_fits(t, trial, model->epoch));
    if (n == 0) {
        *out = (struct dimfit_figures){.auc = NAN, .whole_auc = NAN};
        return DIMFIT_OK;
    }
    for (size_t p = 0; p * PART < n; p++) {
        const size_t left = n - p * PART;
        dimfit_err err = p < t->n_parts ? DIMFIT_OK : pull_part(t, model);
        if (err == DIMFIT_OK)
            err = try_part(t, trial, model, p, left < PART ? left : PART);
        if (err != DIMFIT_OK)
            return err;
    }
    measure(t, n, out);
    return DIMFIT_OK;
}
