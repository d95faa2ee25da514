/*
 * A test's results held against a program in numpy beside it: what the test writes into a file goes
 * to the program, which ends with 0 when it comes to the same. Skips the test where numpy is
 * absent.
 */
#ifndef TESTS_NUMPY_REFERENCE_H
#define TESTS_NUMPY_REFERENCE_H

#include <stdio.h>

/* script: its name in tests/unit. */
void numpy_reference(const char *script, void (*put)(FILE *file, void *self), void *self);

#endif
