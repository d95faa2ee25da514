/*
 * A shard's thread: its sockets, its place in the cluster, its clock.
 *
 * An actor (czmq): a thread and a pipe. It binds a ROUTER of its own for workers, joins the
 * coordinator over a DEALER, and from then on feeds its shard one message at a time. It ends when
 * the pipe says $TERM, when the coordinator says STOP, or when it can't join within the time limit.
 */
#ifndef SERVER_SHARD_HOST_H
#define SERVER_SHARD_HOST_H

#include "server/shard.h"

#include <czmq.h>

struct shard_host_options {
    const char *bind;        /* where workers reach it; port * is a free one */
    const char *coordinator; /* endpoint */
    struct shard_options shard;
    int64_t join_timeout_ms;
    bool eviction_log;    /* the process has one (eviction_log.h) */
    const char *spill;    /* folder for rows before a change (spill.h); NULL: not there */
    _Atomic bool *failed; /* set when a shard ends without having been told to */
};

/* Start the thread. Returns when it has bound its socket; IO naming the endpoint when it can't.
 * options and its texts are borrowed until the actor is destroyed. zactor_destroy() stops it. */
dimfit_err shard_host_start(const struct shard_host_options *options, zactor_t **out,
                            struct err_detail *detail) MUST_CHECK;

#endif
