/*
 * What the kernel of a dense move is compiled into. Only move*.c includes this.
 */
#ifndef SERVER_MOVE_VARIANTS_H
#define SERVER_MOVE_VARIANTS_H

#include "server/move.h"
#include "server/variants.h"

enum {
    MOVE_COLUMNS = 8, /* a block of a matrix; 8 x 8 sums stay in AVX-512's registers */
};

#define DECLARE(name) extern const struct move_kernels move_##name;
VARIANTS(DECLARE)
#undef DECLARE

#endif
