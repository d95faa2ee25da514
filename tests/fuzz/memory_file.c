#include "tests/fuzz/memory_file.h"

#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

void memory_file_open(struct memory_file *file, const void *bytes, size_t len) {
    file->fd = memfd_create("fuzz", MFD_CLOEXEC);
    REQUIRE(file->fd >= 0 && (len == 0 || write(file->fd, bytes, len) == (ssize_t)len));
    snprintf(file->path, sizeof file->path, "/proc/self/fd/%d", file->fd);
}

void memory_file_close(struct memory_file *file) {
    close(file->fd);
    file->fd = -1;
}
