#include "tests/unit/numpy_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define PYTHON "/usr/bin/python3"

void numpy_reference(const char *script, void (*put)(FILE *file, void *self), void *self) {
    char name[] = "/tmp/dimfit-reference-XXXXXX", command[1024];
    if (system(PYTHON " -c 'import numpy' 2>/dev/null") != 0)
        skip();
    const int fd = mkstemp(name);
    assert_true(fd >= 0);
    FILE *const file = fdopen(fd, "w");
    assert_non_null(file);
    put(file, self);
    assert_int_equal(fclose(file), 0);
    snprintf(command, sizeof command, PYTHON " -B '" UNIT_SOURCES "/%s' %s", script, name);
    const int result = system(command);
    unlink(name);
    assert_int_equal(result, 0);
}
