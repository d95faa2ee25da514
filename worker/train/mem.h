/*
 * Allocation for programs: memory that is not there ends the process with a message and status 1.
 * The trainer has nothing to give up in exchange for memory; the library never uses these.
 */
#ifndef TRAIN_MEM_H
#define TRAIN_MEM_H

#include <stddef.h>

void *mem_alloc(size_t n, size_t size);           /* zeroed; never NULL, also for n = 0 */
void *mem_resize(void *p, size_t n, size_t size); /* contents beyond the old size are undefined */
char *mem_copy_text(const char *text);

#endif
