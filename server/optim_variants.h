/*
 * What the row kernels are compiled into. Only optim*.c includes this.
 */
#ifndef SERVER_OPTIM_VARIANTS_H
#define SERVER_OPTIM_VARIANTS_H

#include "server/optim.h"

extern const struct optim_kernels optim_reference;
extern const struct optim_kernels optim_baseline; /* whatever the compiler takes for granted */
#ifdef __x86_64__
extern const struct optim_kernels optim_avx2;
extern const struct optim_kernels optim_avx512;
#endif

#endif
