/*
 * The log of evicted rows: a thread that appends what shrinks evict to a file, as lines of CSV.
 *
 *     slot,feasign,shows,clicks,day
 *     3,8412098113,1.25,0,20771
 *
 * Counts are those of the row's last push, its day in days since 1970-01-01 (0: unknown). A new
 * file begins with the line of names; it is readable by its owner alone. An actor (czmq), one a
 * process: shards send it batches over inproc, each through a socket of its own, and hold their
 * slices back while its queue is full, so that no line is lost and no request waits for the disk.
 * What cannot be written is lost; the first such failure is logged.
 */
#ifndef SERVER_EVICTION_LOG_H
#define SERVER_EVICTION_LOG_H

#include "server/table_expire.h"

#include <czmq.h>

/* Open the file and start the thread: IO naming the file when it can't be opened. zactor_destroy()
 * writes what was sent and ends it. */
dimfit_err eviction_log_start(const char *path, zactor_t **out,
                              struct err_detail *detail) MUST_CHECK;

/* A shard's end, to be closed by zmq_close() before the log ends. NULL: no memory or no log. */
void *eviction_log_connect(void);
/* There is room for a batch. */
bool eviction_log_ready(void *socket);
/* False: it was not taken. */
bool eviction_log_send(void *socket, uint32_t slot, const struct expired_row *rows, size_t n);

#endif
