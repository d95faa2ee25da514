/*
 * Rows as float16 on the wire: half the bytes of a pull, where a client asks for it.
 *
 * IEEE 754 binary16: 11 significant bits, so a value of magnitude 2^-14 to 65504 keeps a relative
 * error of at most 2^-11; smaller ones an absolute error of at most 2^-25. Rounded to nearest, ties
 * to even; a value beyond the largest becomes the largest of its sign rather than infinite. The
 * machine's own conversion is used where it has one, with the same bits. Pure; any thread.
 */
#ifndef PROTO_HALF_H
#define PROTO_HALF_H

#include <stddef.h>
#include <stdint.h>

/* halves: n x 2 bytes, little-endian, at any address. */
void half_encode(const float *floats, size_t n, uint8_t *halves);
void half_decode(const uint8_t *halves, size_t n, float *floats);

/* The specification, and what machines without a conversion of their own use. */
uint16_t half_of(float x);
float half_value(uint16_t half);

#endif
