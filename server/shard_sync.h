/*
 * Group commit: a thread that makes a shard's log durable, and the answers that wait for it.
 *
 * While the disk syncs, the shard goes on: what it writes meanwhile is covered by the next sync,
 * together. An answer that tells of something not yet durable is held back until it is. The shard's
 * thread never waits for a disk. Where a sync fails nobody knows what is durable: the shard has to
 * be started again from what is.
 */
#ifndef SERVER_SHARD_SYNC_H
#define SERVER_SHARD_SYNC_H

#include "server/frames.h"
#include "server/wal.h"

#include <czmq.h>

struct shard_sync;

/* Starts the thread; the log is borrowed. */
dimfit_err shard_sync_new(struct wal *wal, struct shard_sync **out,
                          struct err_detail *detail) MUST_CHECK;
/* Waits for the disk, if need be; answers held back are not sent. */
void shard_sync_destroy(struct shard_sync **sync);

/* To be polled for input, then shard_sync_hear(). */
zsock_t *shard_sync_socket(struct shard_sync *sync);

/* Hold an answer until all that the log has now is durable; the body is taken (NULL: none). NOMEM:
 * the answer is lost, the asker asks again. */
dimfit_err shard_sync_hold(struct shard_sync *sync, void *socket, const struct route *to,
                           const struct wire_header *header, zmq_msg_t *body) MUST_CHECK;
/* Have what was written since made durable, unless that is under way. */
void shard_sync_begin(struct shard_sync *sync);
/* The thread has something to say: send what need not wait any more. IO: the sync failed. */
dimfit_err shard_sync_hear(struct shard_sync *sync, struct err_detail *detail) MUST_CHECK;

#endif
