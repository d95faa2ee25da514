/*
 * What the process uses and how it gives memory back: the one module that sees jemalloc.
 *
 * A build with sanitizers brings its own allocator; it reports jemalloc's version as "none" and
 * zeros. Any thread may call; reading costs some microseconds.
 */
#ifndef SERVER_MEMORY_H
#define SERVER_MEMORY_H

#include "server/figures.h"

void memory_process_figures(struct process_figures *out);

/* Return the memory of freed slabs to the system now, rather than over the next seconds. */
void memory_purge(void);

#endif
