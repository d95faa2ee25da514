/*
 * Chunks of memory made ready beforehand, so that a shard need not wait for the system.
 *
 * The system gives a page when it is first written, and zeroes it then: 2 MiB are 0.1 to 0.2 ms of
 * the thread that touches them, and some ms in a virtual machine whose host has to find them first.
 * One thread of the process writes to new chunks before anybody needs them, and slabs take what is
 * ready. A slab that finds nothing ready allocates for itself, as all do before stock_start(). The
 * first chunk is made when the first is asked for: small models cost nothing. Taking is one atomic
 * exchange a place, and never waits; any thread may.
 */
#ifndef SERVER_STOCK_H
#define SERVER_STOCK_H

#include "proto/base.h"

enum {
    STOCK_CHUNK = 2 << 20, /* bytes, and alignment: a huge page where there are any */
    STOCK_PLACES = 4,      /* chunks ready at most: what one push may need at once, and one more */
};

/* Once a process, before the threads that take. IO when there can be no thread. */
dimfit_err stock_start(struct err_detail *detail) MUST_CHECK;
/* After the threads that take have ended. What is ready is freed. */
void stock_stop(void);

/* A chunk that free() takes back, its content whatever it is; NULL: none is ready. */
void *stock_take(void);

/* A chunk that has its pages and is not needed any more, for the next who takes one: sooner than
 * what was made ready, which need then not be made anew. False: it is still the caller's. */
bool stock_give(void *chunk);

/* A new chunk, whose pages are yet to come. NULL out of memory. */
void *stock_chunk(void);

#endif
