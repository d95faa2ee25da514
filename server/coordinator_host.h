/*
 * The coordinator's thread: its socket, its state file, and the planner beside it.
 *
 * An actor (czmq): a thread and a pipe. Plans are made on a thread of their own, so that barriers
 * and heartbeats go on while matrices are decomposed. It ends when the pipe says $TERM or an admin
 * asked for a shutdown; either way every shard is told to stop first.
 */
#ifndef SERVER_COORDINATOR_HOST_H
#define SERVER_COORDINATOR_HOST_H

#include "server/coordinator.h"

#include <czmq.h>

struct coordinator_host_options {
    const char *bind;      /* port * is a free one */
    const char *data_dir;  /* "" keeps nothing */
    const char *audit_log; /* "": none */
    struct coordinator_options coordinator;
};

/* Start the thread. Returns when it listens: endpoint[cap] is the address bound. IO, BUSY or CONFIG
 * with the next step when it can't. options are borrowed until the actor is destroyed. */
dimfit_err coordinator_host_start(const struct coordinator_host_options *options, char *endpoint,
                                  size_t cap, zactor_t **out, struct err_detail *detail) MUST_CHECK;

#endif
