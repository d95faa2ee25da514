/*
 * Rows before a layout change on their way to a file, so that the change can be undone: a thread
 * that writes chunks of them, and where they are read from.
 *
 * A change has one file a shard, in a folder that the operator names. It has no name itself, so
 * that it goes with the process or with the next change, whichever comes first. Chunks are handed
 * over with their memory: a shard sends them over inproc through a socket of its own (an actor,
 * czmq; one a process), and the writer frees them. Its queue holds QUEUE_CHUNKS a shard; while it
 * is full a shard moves no further rows, so that no request ever waits for the disk. What was
 * written is read through a mapping of the file: a page that the system has dropped meanwhile is a
 * read from the disk, on the shard's thread, some 0.1 ms on flash. So undoing a change reads back
 * in time what it read, mostly in the order it was written in.
 *
 * A file that can't be written to the end is good for nothing; that is logged once, and said to
 * whoever wants to undo the change.
 */
#ifndef SERVER_SPILL_H
#define SERVER_SPILL_H

#include "server/table.h"

#include <czmq.h>

/* Start the thread; IO naming the folder when no file can be made there. zactor_destroy() ends it,
 * after the shards: what it has not written by then is dropped. */
dimfit_err spill_start(const char *folder, zactor_t **out, struct err_detail *detail) MUST_CHECK;

/* A shard's end: what struct table_spill asks for. */
struct spill_end;
dimfit_err spill_end_new(const char *folder, struct spill_end **out,
                         struct err_detail *detail) MUST_CHECK;
void spill_end_destroy(struct spill_end **end); /* after the table that uses it */
const struct table_spill *spill_end_io(const struct spill_end *end);
/* There is room for a chunk. */
bool spill_end_ready(const struct spill_end *end);

#endif
