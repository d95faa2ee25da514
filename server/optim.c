#include "server/optim_variants.h"

/* The reference first, then ever wider ones. */
#define ENTRY(name) &optim_##name,
static const struct optim_kernels *const variants[] = {&optim_reference, VARIANTS(ENTRY)};

const struct optim_kernels *optim_kernels(void) {
    return variants[variants_run()];
}

const struct optim_kernels *const *optim_variants(size_t *n) {
    *n = 1 + variants_run();
    return variants;
}
