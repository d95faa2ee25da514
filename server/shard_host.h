/*
 * A shard's thread: its sockets, its place in the cluster, its clock.
 *
 * An actor (czmq): a thread and a pipe. It binds a ROUTER of its own for workers, joins the
 * coordinator over a DEALER, and from then on feeds its shard one message at a time. It ends when
 * the pipe says $TERM, when the coordinator says STOP, or when it can't join within the time limit.
 *
 * With a data folder the shard keeps a log there (shard_store.h), and one that finds its folder
 * makes the shard again before it joins. A new one gets its number first, makes the folder of that
 * number, and joins with it; from then on the place is for these rows alone.
 */
#ifndef SERVER_SHARD_HOST_H
#define SERVER_SHARD_HOST_H

#include "server/shard_store.h"

#include <czmq.h>

enum durability {
    DURABILITY_NONE,    /* rows go with the process */
    DURABILITY_PROCESS, /* what was acknowledged survives it */
    DURABILITY_DISK,    /* and a power cut */
};

struct shard_host_options {
    const char *bind;        /* where workers reach it; port * is a free one */
    const char *coordinator; /* endpoint */
    struct shard_options shard;
    int64_t join_timeout_ms;
    bool eviction_log; /* the process has one (eviction_log.h) */
    const char *spill; /* folder for rows before a change (spill.h); NULL: not there */
    enum durability durability;
    uint64_t snapshot_bytes; /* of log, after which a snapshot is made; 0: never */
    const char *data_dir;    /* where shards have their folders, unless durability is none */
    _Atomic bool *failed;    /* set when a shard ends without having been told to */
};

/* A folder of data_dir that a shard left and that nobody has now, the first from number *from on;
 * *from is the next. NULL, DIMFIT_OK: there is no further one. */
dimfit_err shard_host_find_folder(const char *data_dir, uint32_t *from, struct disk **out,
                                  struct err_detail *detail) MUST_CHECK;

/* Start the thread. folder: of the shard that it is to be again, taken; NULL: a new one. Returns
 * when it has bound its socket; IO naming the endpoint when it can't. options and its texts are
 * borrowed until the actor is destroyed. zactor_destroy() stops it. */
dimfit_err shard_host_start(const struct shard_host_options *options, struct disk **folder,
                            zactor_t **out, struct err_detail *detail) MUST_CHECK;

#endif
