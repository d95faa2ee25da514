/*
 * Are all of these floats finite? Both ends ask before a gradient is let in.
 *
 * Looks at the exponent bits, so that it does not depend on the compiler's floating-point options.
 * Pure; any thread.
 */
#ifndef PROTO_FINITE_H
#define PROTO_FINITE_H

#include <stdbool.h>
#include <stddef.h>

/* False when any of floats[n], little-endian f32 at any address, is NaN or infinite. */
bool floats_finite(const void *floats, size_t n);

#endif
