#include "worker/train/pass.h"
#include "worker/train/mem.h"

#include <stdlib.h>

void pass_fit(struct pass *pass, const struct model *model, size_t max_batch) {
    const size_t input = model_input_width(model);
    pass->x = mem_resize(pass->x, max_batch * input, sizeof(real));
    pass->dx = mem_resize(pass->dx, max_batch * input, sizeof(real));
    pass->dweights[MODEL_PROJ] = mem_resize(pass->dweights[MODEL_PROJ],
                                            model_group_size(model, MODEL_PROJ), sizeof(real));
}

void pass_init(struct pass *pass, const struct dataset *data, const struct model *model,
               size_t max_batch, bool count) {
    *pass = (struct pass){0};
    batch_init(&pass->batch, data);
    if (count)
        pass->count = mem_alloc(max_batch * data->n_slots, sizeof(real));
    pass->linear = mem_alloc(max_batch, sizeof(real));
    pass->dlogit = mem_alloc(max_batch, sizeof(real));
    for (enum model_group g = 0; g < MODEL_PROJ; g++)
        pass->dweights[g] = mem_alloc(model_group_size(model, g), sizeof(real));
    pass_fit(pass, model, max_batch);
}

void pass_fini(struct pass *pass) {
    batch_fini(&pass->batch);
    free(pass->x);
    free(pass->dx);
    free(pass->count);
    free(pass->linear);
    free(pass->dlogit);
    for (enum model_group g = 0; g < MODEL_GROUPS; g++)
        free(pass->dweights[g]);
    *pass = (struct pass){0};
}

dimfit_err pass_start(struct pass *pass, struct dimfit *cluster, enum dimfit_view view,
                      const uint32_t *samples, size_t n, const uint32_t *widths, uint64_t epoch) {
    base_assert(pass->call == NULL);
    batch_fill(&pass->batch, samples, n, widths);
    pass->samples = samples;
    pass->epoch = epoch;
    return dimfit_pull_async(cluster, view, pass->batch.rows, pass->batch.n_rows, &pass->call);
}

dimfit_err pass_wait(struct pass *pass, struct dimfit *cluster) {
    return dimfit_wait(cluster, &pass->call);
}

void pass_pool(struct pass *pass) {
    batch_pool(&pass->batch, pass->x, pass->count, pass->linear);
    pass->input = (struct model_batch){.n = pass->batch.n,
                                       .x = pass->x,
                                       .count = pass->count,
                                       .linear = pass->linear,
                                       .label = pass->batch.labels};
}
