#include "worker/train/weights.h"
#include "worker/train/mem.h"

#include <stdlib.h>

static const char *const names[MODEL_GROUPS] = {
    [MODEL_BIAS] = "bias",
    [MODEL_FIRST] = "mlp.0",
    [MODEL_REST] = "mlp.rest",
    [MODEL_PROJ] = "proj",
};

void weights_init(struct weights *w, const struct model *m, double lr) {
    *w = (struct weights){.lr = lr};
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        w->n[g] = model_group_size(m, g);
        w->values[g] = mem_alloc(w->n[g], sizeof(real));
    }
}

void weights_fini(struct weights *w) {
    for (enum model_group g = 0; g < MODEL_GROUPS; g++)
        free(w->values[g]);
    *w = (struct weights){0};
}

static struct dimfit_dense table(const struct weights *w, enum model_group group, real *values) {
    return (struct dimfit_dense){.name = names[group],
                                 .tag = w->tag,
                                 .optimizer = "adam",
                                 .lr = w->lr,
                                 .n = w->n[group],
                                 .values = values};
}

dimfit_err weights_create(struct weights *w, struct dimfit *c, uint64_t tag) {
    w->tag = tag;
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        if (w->n[g] == 0)
            continue;
        const struct dimfit_dense t = table(w, g, w->values[g]);
        int created = 0;
        dimfit_err err = dimfit_dense_reset(c, &t, &created);
        if (err == DIMFIT_OK && !created)
            err = dimfit_dense_pull(c, &t);
        if (err != DIMFIT_OK)
            return err;
    }
    w->shared = true;
    return DIMFIT_OK;
}

dimfit_err weights_pull(struct weights *w, struct dimfit *c) {
    struct dimfit_call *calls[MODEL_GROUPS] = {NULL};
    dimfit_err err = DIMFIT_OK;
    for (enum model_group g = 0; err == DIMFIT_OK && g < MODEL_GROUPS; g++) {
        const struct dimfit_dense t = table(w, g, w->values[g]);
        if (w->n[g] > 0)
            err = dimfit_dense_pull_async(c, &t, &calls[g]);
    }
    for (enum model_group g = 0; g < MODEL_GROUPS; g++) {
        const dimfit_err one = calls[g] != NULL ? dimfit_wait(c, &calls[g]) : DIMFIT_OK;
        err = err == DIMFIT_OK ? one : err;
    }
    return err;
}

dimfit_err weights_push(const struct weights *w, struct dimfit *c, enum model_group group,
                        real *grads, struct dimfit_call **out) {
    const struct dimfit_dense t = table(w, group, grads);
    return dimfit_dense_push_async(c, &t, out);
}
