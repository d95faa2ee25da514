#include "worker/train/learner_internal.h"
#include "worker/train/carry.h"
#include "worker/train/mem.h"
#include "worker/train/metrics.h"
#include "worker/train/tryout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    EVALUATE_BATCH = 4096,
    LAYOUT_CHASES = 16,     /* layout changes met by one batch before it is given up */
    BARRIER_SECONDS = 3600, /* a dead worker ends the job long before */
    THAW_SECONDS = 900,
    THAW_POLL_MS = 50,
};

/* Purposes of the seed. */
enum { SEED_FIRST = 1, SEED_REST, SEED_SCORE_ORDER };

static void set_score_batch(struct learner *l) {
    enum { MOST = 512, LEAST = 16, STEPS = 32 };
    const size_t n = learner_n_scored(l) / STEPS;
    if (l->spec.score_batch == 0)
        l->spec.score_batch = n < LEAST ? LEAST : n < MOST ? n : MOST;
}

/* ---- the layout the model computes in -------------------------------------------------------- */

static void feed_init(struct feed *feed, const struct learner *l) {
    for (size_t i = 0; i < 2; i++)
        pass_init(&feed->passes[i], l->data, l->model, l->max_batch,
                  learner_compact(l) && l->data->slot != NULL);
}

static void feed_fit(struct feed *feed, const struct learner *l) {
    for (size_t i = 0; i < 2; i++)
        pass_fit(&feed->passes[i], l->model, l->max_batch);
}

static void feed_fini(struct feed *feed) {
    for (size_t i = 0; i < 2; i++)
        pass_fini(&feed->passes[i]);
}

static dimfit_err read_layout(struct learner *l, struct carry_slot *layout,
                              struct err_detail *detail) {
    for (size_t s = 0; s < l->data->n_slots; s++) {
        const struct dimfit_slot *const slot = dimfit_slot(l->cluster, l->data->slots[s].id);
        if (slot == NULL || slot->dim != l->spec.shape.dim)
            return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT,
                           "slot %" PRIu32 " (%s) is not in the cluster's layout at dim %zu",
                           l->data->slots[s].id, l->data->slots[s].name, l->spec.shape.dim);
        l->widths[s] = learner_compact(l) ? slot->width : slot->dim;
        if (layout != NULL)
            carry_slot_set(&layout[s], slot);
    }
    l->epoch = dimfit_layout(l->cluster)->epoch;
    return DIMFIT_OK;
}

static void build(struct learner *l) {
    struct model_shape shape = l->spec.shape;
    shape.n_slots = l->data->n_slots;
    shape.widths = learner_compact(l) ? l->widths : NULL;
    l->model = model_new(&shape, l->max_batch);
}

static void free_layout(struct learner *l) {
    for (size_t s = 0; l->layout != NULL && s < l->data->n_slots; s++)
        carry_slot_fini(&l->layout[s]);
    free(l->layout);
    l->layout = NULL;
}

static void start_transforms(struct learner *l) {
    const size_t D = l->spec.shape.dim, input = model_input_width(l->model);
    real *const proj = l->weights.values[MODEL_PROJ];
    for (size_t s = 0; s < l->data->n_slots; s++)
        carry_start(&l->layout[s], proj + model_slot_offset(l->model, s) * D,
                    proj + (input + s) * D);
}

/* Move to the widths of a new layout with everything the old model had learnt. */
static dimfit_err adopt_compact(struct learner *l, struct err_detail *detail) {
    const size_t S = l->data->n_slots, D = l->spec.shape.dim;
    struct model *old_model = l->model;
    struct weights old = l->weights;
    struct carry_slot *const old_layout = l->layout;
    struct carry_slot *const layout = mem_alloc(S, sizeof *layout);
    l->layout = layout;
    const dimfit_err err = read_layout(l, layout, detail);
    if (err == DIMFIT_OK) {
        build(l);
        feed_fit(&l->train, l);
        feed_fit(&l->score, l);
        weights_init(&l->weights, l->model, l->spec.dense_lr);
        for (enum model_group g = 0; g < MODEL_PROJ; g++)
            memcpy(l->weights.values[g], old.values[g], old.n[g] * sizeof(real));
        const real *const from = old.values[MODEL_PROJ];
        real *const to = l->weights.values[MODEL_PROJ];
        const size_t old_input = model_input_width(old_model), input = model_input_width(l->model);
        for (size_t s = 0; s < S; s++)
            carry_over(&old_layout[s], &layout[s], from + model_slot_offset(old_model, s) * D,
                       from + (old_input + s) * D, to + model_slot_offset(l->model, s) * D,
                       to + (input + s) * D);
        weights_fini(&old);
        model_destroy(&old_model);
    }
    for (size_t s = 0; s < S; s++)
        carry_slot_fini(&old_layout[s]);
    free(old_layout);
    return err;
}

dimfit_err learner_adopt(struct learner *l, struct err_detail *detail) {
    dimfit_err err = DIMFIT_OK;
    if (dimfit_state(l->cluster).epoch != dimfit_layout(l->cluster)->epoch)
        err = dimfit_refresh(l->cluster);
    if (err != DIMFIT_OK)
        return learner_fail(l, err, "fetching the new layout", detail);
    if (dimfit_layout(l->cluster)->epoch == l->epoch)
        return DIMFIT_OK;
    /* The last tag's tables are read for the last time; gone two commits later, when this worker's
     * own copy is the newest there is. */
    if (l->weights.shared) {
        err = weights_pull(&l->weights, l->cluster);
        if (err != DIMFIT_OK && err != DIMFIT_ERR_NOT_FOUND)
            return learner_fail(l, err, "dense weights", detail);
    }
    l->weights.shared = false;
    return learner_compact(l) ? adopt_compact(l, detail) : read_layout(l, NULL, detail);
}

dimfit_err learner_restart(struct learner *l, bool cold, double pace, struct err_detail *detail) {
    if (l->weights.shared)
        return DIMFIT_OK;
    if (cold && !learner_compact(l) && l->weights.n[MODEL_FIRST] > 0) {
        struct rng rng = rng_of(l->spec.seed, SEED_FIRST);
        model_init_group(l->model, MODEL_FIRST, &rng, l->weights.values[MODEL_FIRST]);
    }
    l->pace = pace;
    l->weights.lr = l->spec.dense_lr * pace;
    const dimfit_err err = weights_create(&l->weights, l->cluster, l->epoch);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "dense weights", detail);
}

dimfit_err learner_follow(struct learner *l, struct err_detail *detail) {
    if (dimfit_state(l->cluster).epoch == l->epoch && dimfit_layout(l->cluster)->epoch == l->epoch)
        return DIMFIT_OK;
    const dimfit_err err = learner_adopt(l, detail);
    return err == DIMFIT_OK ? learner_restart(l, false, l->pace, detail) : err;
}

/* ---- opening --------------------------------------------------------------------------------- */

static dimfit_err declare_slots(struct learner *l, struct err_detail *detail) {
    const size_t S = l->data->n_slots;
    struct dimfit_declare *const slots = mem_alloc(S + 1, sizeof *slots);
    for (size_t s = 0; s < S; s++)
        slots[s] = (struct dimfit_declare){.slot = l->data->slots[s].id,
                                           .dim = (uint32_t)l->spec.shape.dim,
                                           .name = l->data->slots[s].name,
                                           .search = 1,
                                           .lr = l->spec.lr,
                                           .tiers = l->spec.n_tiers > 0 ? l->spec.tiers : NULL,
                                           .n_tiers = (uint32_t)l->spec.n_tiers};
    slots[S] = (struct dimfit_declare){
        .slot = SAMPLE_SLOT_LINEAR, .dim = 1, .name = "linear", .lr = l->spec.lr, .init = "zero"};
    const dimfit_err err = dimfit_declare(l->cluster, slots, S + 1);
    free(slots);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "declaring slots", detail);
}

/* The log odds of the training part, so that the first steps need not find them. */
static double base_rate_logit(const struct dataset *data) {
    double positives = 0.5;
    const double n = (double)data->n_part[DATASET_TRAIN] + 1;
    for (size_t i = 0; i < data->n_part[DATASET_TRAIN]; i++)
        positives += (double)data->labels[data->part[DATASET_TRAIN][i]];
    return log(positives / (n - positives));
}

static dimfit_err start_weights(struct learner *l, struct err_detail *detail) {
    weights_init(&l->weights, l->model, l->spec.dense_lr);
    l->weights.values[MODEL_BIAS][0] = (real)base_rate_logit(l->data);
    if (l->weights.n[MODEL_FIRST] > 0) {
        struct rng first = rng_of(l->spec.seed, SEED_FIRST), rest = rng_of(l->spec.seed, SEED_REST);
        model_init_group(l->model, MODEL_FIRST, &first, l->weights.values[MODEL_FIRST]);
        model_init_group(l->model, MODEL_REST, &rest, l->weights.values[MODEL_REST]);
    }
    if (learner_compact(l))
        start_transforms(l);
    const dimfit_err err = weights_create(&l->weights, l->cluster, l->epoch);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "dense weights", detail);
}

static void shuffle_scoring(struct learner *l) {
    const size_t n = l->data->n_part[DATASET_VALID];
    struct rng rng = rng_of(l->spec.seed, SEED_SCORE_ORDER);
    l->score_order = mem_alloc(n, sizeof *l->score_order);
    memcpy(l->score_order, l->data->part[DATASET_VALID], n * sizeof *l->score_order);
    rng_shuffle(&rng, l->score_order, n);
}

dimfit_err learner_open(const struct learner_spec *spec, const struct dataset *data,
                        struct learner **out, struct err_detail *detail) {
    const struct dimfit_options options = {.size = sizeof options, .timeout = spec->timeout};
    struct learner *l = mem_alloc(1, sizeof *l);
    l->spec = *spec;
    l->data = data;
    l->pace = 1;
    l->max_batch = EVALUATE_BATCH;
    if (spec->batch > l->max_batch)
        l->max_batch = spec->batch;
    set_score_batch(l);
    if (l->spec.score_batch > l->max_batch)
        l->max_batch = l->spec.score_batch;
    l->widths = mem_alloc(data->n_slots, sizeof *l->widths);
    shuffle_scoring(l);
    l->tryout = tryout_new(data, l->score_order + learner_n_scored(l),
                           data->n_part[DATASET_VALID] - learner_n_scored(l));
    dimfit_err err = dimfit_connect(spec->endpoint, &options, &l->cluster);
    if (err != DIMFIT_OK)
        learner_fail(l, err, spec->endpoint, detail);
    if (err == DIMFIT_OK)
        err = declare_slots(l, detail);
    if (err == DIMFIT_OK) {
        if (learner_compact(l))
            l->layout = mem_alloc(data->n_slots, sizeof *l->layout);
        err = read_layout(l, l->layout, detail);
    }
    if (err == DIMFIT_OK) {
        build(l);
        feed_init(&l->train, l);
        feed_init(&l->score, l);
        err = start_weights(l, detail);
    }
    if (err == DIMFIT_OK)
        *out = l;
    else
        learner_close(&l);
    return err;
}

void learner_close(struct learner **lp) {
    struct learner *const l = *lp;
    if (l == NULL)
        return;
    if (l->cluster != NULL)
        dimfit_close(&l->cluster);
    if (l->model != NULL) {
        feed_fini(&l->train);
        feed_fini(&l->score);
    }
    model_destroy(&l->model);
    weights_fini(&l->weights);
    free_layout(l);
    free(l->widths);
    tryout_destroy(&l->tryout);
    free(l->score_order);
    free(l);
    *lp = NULL;
}

struct dimfit *learner_cluster(struct learner *l) {
    return l->cluster;
}

uint64_t learner_epoch(const struct learner *l) {
    return l->epoch;
}

/* ---- one batch ------------------------------------------------------------------------------- */

static dimfit_err start_rows(struct learner *l, struct pass *pass, struct samples of,
                             struct err_detail *detail) {
    const dimfit_err err = pass_start(pass, l->cluster, l->spec.view, of.rows, of.n, l->widths,
                                      l->epoch);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "pulling rows", detail);
}

/* The rows of a batch in the layout in force by then: those that were sent for, if they still are
 * of it. */
static dimfit_err rows_of(struct learner *l, struct pass *pass, struct samples of,
                          struct err_detail *detail) {
    for (int chase = 0; chase < LAYOUT_CHASES; chase++) {
        dimfit_err err = DIMFIT_OK;
        bool fits = pass->call != NULL && pass->samples == of.rows;
        if (pass->call == NULL) {
            err = start_rows(l, pass, of, detail);
            if (err != DIMFIT_OK)
                return err;
            fits = true;
        }
        err = pass_wait(pass, l->cluster);
        if (err == DIMFIT_OK && fits && (!learner_compact(l) || pass->epoch == l->epoch))
            return err;
        if (err != DIMFIT_OK)
            learner_fail(l, err, "pulling rows", detail);
        if (err != DIMFIT_OK && err != DIMFIT_ERR_STALE_EPOCH)
            return err;
        const bool shared = l->weights.shared;
        err = learner_adopt(l, detail);
        if (err == DIMFIT_OK && shared)
            err = learner_restart(l, false, l->pace, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    return err_set(detail, DIMFIT_ERR_STALE_EPOCH, "the layout changed %d times under one batch",
                   LAYOUT_CHASES);
}

dimfit_err learner_forward(struct learner *l, struct feed *feed, struct samples of,
                           struct samples next, bool pull_weights, const real **logits,
                           struct err_detail *detail) {
    struct pass *const pass = &feed->passes[feed->now], *const ahead = &feed->passes[!feed->now];
    dimfit_err err = pull_weights && l->weights.shared ? learner_follow(l, detail) : DIMFIT_OK;
    if (err == DIMFIT_OK)
        err = rows_of(l, pass, of, detail);
    if (err == DIMFIT_OK && next.n > 0 && ahead->call == NULL)
        err = start_rows(l, ahead, next, detail);
    if (err == DIMFIT_OK && pull_weights && l->weights.shared &&
        (err = weights_pull(&l->weights, l->cluster)) != DIMFIT_OK)
        learner_fail(l, err, "dense weights", detail);
    if (err != DIMFIT_OK)
        return err;
    pass_pool(pass);
    *logits = model_forward(l->model, &pass->input, l->weights.values);
    return DIMFIT_OK;
}

/* AdaGrad's step is about gradient / root of the sum of squares so far: a smaller gradient shortens
 * the steps of rows with a history by as much, and leaves those of new rows as long as they are. */
static void slow_down(struct pass *pass, size_t input, double pace) {
    for (size_t i = 0; i < pass->batch.n * input; i++)
        pass->dx[i] *= (real)pace;
    for (size_t i = 0; i < pass->batch.n; i++)
        pass->dlogit[i] *= (real)pace;
}

void learner_backward(struct learner *l, struct pass *pass, double pace) {
    model_backward(l->model, &pass->input, l->weights.values, pass->dweights, pass->dx,
                   pass->dlogit);
    if (pace != 1)
        slow_down(pass, model_input_width(l->model), pace);
    batch_unpool(&pass->batch, pass->dx, pass->dlogit);
}

static double mean_logloss(const real *logits, const float *labels, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += metrics_logloss_one((double)logits[i], (double)labels[i]);
    return sum / (double)n;
}

/* Wait out a freeze, scoring meanwhile. */
static dimfit_err sit_out_freeze(struct learner *l, struct err_detail *detail) {
    const struct timespec poll = {.tv_nsec = THAW_POLL_MS * 1000000L};
    dimfit_err err = learner_score(l, detail);
    if (err == DIMFIT_OK)
        err = learner_try(l, true, detail);
    for (int i = 0; err == DIMFIT_OK && dimfit_state(l->cluster).frozen; i++) {
        if (i > THAW_SECONDS * 1000 / THAW_POLL_MS)
            return err_set(detail, DIMFIT_ERR_TIMEOUT,
                           "the search has held training for %d seconds", THAW_SECONDS);
        nanosleep(&poll, NULL);
        if ((err = dimfit_refresh(l->cluster)) != DIMFIT_OK)
            learner_fail(l, err, "waiting for the search", detail);
    }
    return err;
}

static dimfit_err start_push(struct learner *l, struct pass *pass, struct dimfit_call **out,
                             struct err_detail *detail) {
    const struct dimfit_state state = dimfit_state(l->cluster);
    const struct dimfit_push push = {
        .mode = state.scoring && !state.frozen ? DIMFIT_TRAIN_SCORE : DIMFIT_TRAIN,
        .samples = pass->batch.n,
        .epoch = learner_compact(l) ? l->epoch : 0,
        .no_hold = 1,
    };
    const dimfit_err err = dimfit_push_async(l->cluster, l->spec.view, pass->batch.rows,
                                             pass->batch.n_rows, &push, out);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "pushing gradients", detail);
}

static dimfit_err finish_push(struct learner *l, struct dimfit_call *call,
                              struct err_detail *detail) {
    dimfit_err err = dimfit_wait(l->cluster, &call);
    while (err == DIMFIT_ERR_FROZEN) {
        err = sit_out_freeze(l, detail);
        if (err != DIMFIT_OK)
            return err;
        err = dimfit_flush(l->cluster);
    }
    return err == DIMFIT_OK ? err : learner_fail(l, err, "pushing gradients", detail);
}

/* Push a batch's gradients and, behind them, send for the next one's rows: shards take both in this
 * order, so that the rows are those after the step. */
static dimfit_err push_rows(struct learner *l, struct pass *pass, struct samples next,
                            struct err_detail *detail) {
    struct pass *const ahead = &l->train.passes[!l->train.now];
    struct dimfit_call *call;
    dimfit_err err = start_push(l, pass, &call, detail);
    if (err != DIMFIT_OK)
        return err;
    if (next.n > 0 && ahead->call == NULL)
        err = start_rows(l, ahead, next, detail);
    return err == DIMFIT_OK ? finish_push(l, call, detail) : err;
}

/* One group's gradients, again and again while a freeze turns them away. */
static dimfit_err push_group(struct learner *l, enum model_group g, real *dweights,
                             struct dimfit_call **call, struct err_detail *detail) {
    dimfit_err err = dimfit_wait(l->cluster, call);
    while (err == DIMFIT_ERR_FROZEN) {
        err = sit_out_freeze(l, detail);
        if (err != DIMFIT_OK)
            return err;
        err = weights_push(&l->weights, l->cluster, g, dweights, call);
        if (err == DIMFIT_OK)
            err = dimfit_wait(l->cluster, call);
    }
    return err == DIMFIT_OK ? err : learner_fail(l, err, "pushing dense gradients", detail);
}

/* A layout may have come into force since the batch was pulled: the dense gradients then go to the
 * new tables, but for the transforms', which have other shapes now. */
static dimfit_err push_weights(struct learner *l, const struct pass *pass, uint64_t epoch,
                               struct err_detail *detail) {
    struct dimfit_call *calls[MODEL_GROUPS] = {NULL};
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        if (l->weights.n[g] == 0 || (g == MODEL_PROJ && l->epoch != epoch))
            continue;
        const dimfit_err err = weights_push(&l->weights, l->cluster, g, pass->dweights[g],
                                            &calls[g]);
        if (err != DIMFIT_OK)
            return learner_fail(l, err, "pushing dense gradients", detail);
    }
    dimfit_err err = DIMFIT_OK;
    for (enum model_group g = 0; err == DIMFIT_OK && g < MODEL_GROUPS; g++) {
        if (calls[g] != NULL)
            err = push_group(l, g, pass->dweights[g], &calls[g], detail);
    }
    return err;
}

dimfit_err learner_train(struct learner *l, struct samples of, struct samples next, double *loss,
                         struct err_detail *detail) {
    struct pass *const pass = &l->train.passes[l->train.now];
    const real *logits = NULL;
    const struct samples ahead = l->spec.stale ? next : (struct samples){0};
    dimfit_err err = learner_forward(l, &l->train, of, ahead, true, &logits, detail);
    if (err != DIMFIT_OK)
        return err;
    *loss = mean_logloss(logits, pass->batch.labels, of.n);
    learner_backward(l, pass, l->pace);
    const uint64_t epoch = l->epoch;
    err = push_rows(l, pass, next, detail);
    if (err == DIMFIT_OK)
        err = learner_follow(l, detail);
    if (err == DIMFIT_OK)
        err = push_weights(l, pass, epoch, detail);
    l->train.now = !l->train.now;
    return err == DIMFIT_OK ? learner_try(l, false, detail) : err;
}

static struct samples batch_at(struct samples all, size_t at) {
    const size_t left = at < all.n ? all.n - at : 0;
    return (struct samples){all.rows + at, left < EVALUATE_BATCH ? left : EVALUATE_BATCH};
}

dimfit_err learner_predict(struct learner *l, struct samples of, float *all, float *labels,
                           struct err_detail *detail) {
    dimfit_err err = DIMFIT_OK;
    for (size_t at = 0; at < of.n && err == DIMFIT_OK; at += EVALUATE_BATCH) {
        const struct samples now = batch_at(of, at), next = batch_at(of, at + EVALUATE_BATCH);
        const struct pass *const pass = &l->score.passes[l->score.now];
        const real *logits = NULL;
        err = learner_forward(l, &l->score, now, next, at == 0, &logits, detail);
        for (size_t i = 0; err == DIMFIT_OK && i < now.n; i++) {
            all[at + i] = (float)logits[i];
            labels[at + i] = pass->batch.labels[i];
        }
        l->score.now = !l->score.now;
    }
    return err;
}

dimfit_err learner_evaluate(struct learner *l, struct samples of, struct figures *out,
                            struct err_detail *detail) {
    float *const all = mem_alloc(of.n, sizeof *all);
    float *const labels = mem_alloc(of.n, sizeof *labels);
    const dimfit_err err = learner_predict(l, of, all, labels, detail);
    if (err == DIMFIT_OK)
        *out = (struct figures){metrics_auc(all, labels, of.n), metrics_logloss(all, labels, of.n)};
    free(all);
    free(labels);
    return err;
}

/* ---- working together ------------------------------------------------------------------------ */

dimfit_err learner_barrier(struct learner *l, struct err_detail *detail) {
    char name[64];
    if (l->spec.workers == 1)
        return DIMFIT_OK;
    snprintf(name, sizeof name, "train.%016" PRIx64 ".%" PRIu64, l->spec.run, l->meetings++);
    const dimfit_err err = dimfit_barrier(l->cluster, name, l->spec.workers, BARRIER_SECONDS);
    return err == DIMFIT_OK ? err : learner_fail(l, err, "waiting for the other workers", detail);
}

dimfit_err learner_share(struct learner *l, double *number, struct err_detail *detail) {
    if (l->spec.workers == 1)
        return DIMFIT_OK;
    char name[64];
    float value = 0;
    snprintf(name, sizeof name, "train.%016" PRIx64, l->spec.run);
    /* One table a job, told to the number by a step of SGD. Tag 0 rather than an epoch's: workers
     * may hear of a commit at different moments; rank 0 makes it again where a commit has dropped
     * it. */
    struct dimfit_dense table = {
        .name = name, .optimizer = "sgd", .lr = 1, .n = 1, .values = &value};
    dimfit_err err = DIMFIT_OK;
    if (l->spec.rank == 0) {
        err = dimfit_dense_reset(l->cluster, &table, NULL);
        if (err == DIMFIT_OK)
            err = dimfit_dense_pull(l->cluster, &table);
        value -= (float)*number;
        if (err == DIMFIT_OK)
            err = dimfit_dense_push(l->cluster, &table);
    }
    if (err != DIMFIT_OK)
        return learner_fail(l, err, "sharing a decision", detail);
    err = learner_barrier(l, detail);
    if (err == DIMFIT_OK && (err = dimfit_dense_pull(l->cluster, &table)) != DIMFIT_OK)
        learner_fail(l, err, "sharing a decision", detail);
    /* Nobody may write the next number before everyone has read this one. */
    if (err == DIMFIT_OK)
        err = learner_barrier(l, detail);
    if (err == DIMFIT_OK)
        *number = (double)value;
    return err;
}
