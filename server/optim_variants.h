/*
 * What the row kernels are compiled into. Only optim*.c includes this.
 */
#ifndef SERVER_OPTIM_VARIANTS_H
#define SERVER_OPTIM_VARIANTS_H

#include "server/optim.h"
#include "server/variants.h"

extern const struct optim_kernels optim_reference;
#define DECLARE(name) extern const struct optim_kernels optim_##name;
VARIANTS(DECLARE)
#undef DECLARE

#endif
