/*
 * Files that begin with a magic number and an XXH3 checksum of what follows. A fuzzer does not find
 * checksums: the first byte of an input says whether the rest is sealed for it.
 */
#ifndef TESTS_FUZZ_SEALED_H
#define TESTS_FUZZ_SEALED_H

#include "proto/buf.h"

enum { SEALED_HEAD = 16 };

/* The bytes as the parser gets them: as they are or, odd first byte, with this magic number and the
 * checksum put right. Empty input: false. */
bool sealed_open(const uint8_t *bytes, size_t len, uint64_t magic, struct buf *out);

/* Turn an encoding into an input that sealed_open() makes the same of. */
void sealed_input(struct buf *encoding);

#endif
