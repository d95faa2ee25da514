#include "server/optim_variants.h"

/* The reference first, then ever wider ones. */
static const struct optim_kernels *runs[] = {
    &optim_reference,
    &optim_baseline,
    NULL,
    NULL,
};
static size_t n_runs = 2;

/* Before main(), and not by a resolver: that would run before the sanitizers are there. */
__attribute__((constructor)) static void find_variants(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        runs[n_runs++] = &optim_avx2;
    if (__builtin_cpu_supports("avx512f"))
        runs[n_runs++] = &optim_avx512;
#endif
}

const struct optim_kernels *optim_kernels(void) {
    return runs[n_runs - 1];
}

const struct optim_kernels *const *optim_variants(size_t *n) {
    *n = n_runs;
    return runs;
}
