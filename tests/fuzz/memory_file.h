/* Bytes as a file that has a path but no place on a disk, for parsers that open what they read. */
#ifndef TESTS_FUZZ_MEMORY_FILE_H
#define TESTS_FUZZ_MEMORY_FILE_H

#include <stddef.h>

struct memory_file {
    int fd;
    char path[32];
};

void memory_file_open(struct memory_file *file, const void *bytes, size_t len);
void memory_file_close(struct memory_file *file);

#endif
