#include "proto/finite.h"

#include "proto/kernel.h"

#include <stdint.h>

#pragma GCC optimize("O3") /* see kernel.h */

typedef uint32_t wire_u32 __attribute__((aligned(1)));

/* Adding 1 to an exponent of all ones carries into the sign's place, which is clear. */
KERNEL static uint32_t carries(const wire_u32 *bits, size_t n) {
    uint32_t carry = 0;
    for (size_t i = 0; i < n; i++)
        carry |= (bits[i] & 0x7fffffffu) + 0x00800000u;
    return carry >> 31;
}

bool floats_finite(const void *floats, size_t n) {
    return carries(floats, n) == 0;
}
