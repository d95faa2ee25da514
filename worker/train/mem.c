#include "worker/train/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noreturn)) static void out_of_memory(size_t n, size_t size) {
    fprintf(stderr, "dimfit-train: out of memory (%zu x %zu bytes)\n", n, size);
    exit(1);
}

void *mem_alloc(size_t n, size_t size) {
    void *const p = calloc(n > 0 ? n : 1, size > 0 ? size : 1);
    if (p == NULL)
        out_of_memory(n, size);
    return p;
}

void *mem_resize(void *p, size_t n, size_t size) {
    void *const q = reallocarray(p, n > 0 ? n : 1, size > 0 ? size : 1);
    if (q == NULL)
        out_of_memory(n, size);
    return q;
}

char *mem_copy_text(const char *text) {
    char *const copy = strdup(text);
    if (copy == NULL)
        out_of_memory(1, strlen(text) + 1);
    return copy;
}
