/*
 * A snapshot: one shard's whole state at one position of its log, in one file.
 *
 *     header   magic, version, whose it is, its position and epoch, their checksum
 *     blocks   up to 1 MiB of the state each, as it is or packed by LZ4, each with its checksum
 *     trailer  how many blocks, bytes and rows there were, checksum over all of the file before it
 *
 * It is written beside, synced, and renamed to its name: a file of that name is whole, or was
 * damaged since. Integers are little-endian. What is read is not trusted: whatever is wrong with a
 * file, a byte or a length, is refused with IO or VERSION, naming file and offset.
 *
 * snapshot_start() writes from a forked child, which has the shard as it was at that moment while
 * the shard goes on: its thread is held up for the fork alone. The child has no descriptor but the
 * file's and a pipe's, dies with its parent, takes no lock and no memory. One at a time a shard.
 */
#ifndef SERVER_SNAPSHOT_H
#define SERVER_SNAPSHOT_H

#include "server/disk.h"
#include "server/shard_state.h"

struct snapshot_info {
    uint64_t cluster;  /* the seed of its layout: filled in from the shard */
    uint64_t epoch;    /* likewise */
    uint64_t position; /* of its log: what stands up to there, and nothing after it, is in here */
    uint32_t shard;    /* its number, */
    uint32_t shards;   /* of so many */
};

struct snapshot_result {
    uint64_t bytes;    /* of the file */
    uint64_t checksum; /* over all of it */
    uint64_t rows;
    double seconds;
};

/* What is saved, and how: parts as for shard_save_head(). */
struct snapshot_job {
    const struct shard *shard;
    uint32_t parts;
    struct snapshot_info info;
    struct disk *disk; /* the folder, */
    const char *name;  /* and the file's name there, up to SNAPSHOT_NAME_MAX bytes */
};
enum { SNAPSHOT_NAME_MAX = 200 };

/* Write it in this thread, to the end. BUSY: not now (shard_save_check()). On an error no file of
 * that name was made or replaced. */
dimfit_err snapshot_write(const struct snapshot_job *job, struct snapshot_result *result,
                          struct err_detail *detail) MUST_CHECK;

/* Have it written by a child; on a disk in memory it is written at once. On DIMFIT_OK *out is under
 * way. */
struct snapshot;
dimfit_err snapshot_start(const struct snapshot_job *job, struct snapshot **out,
                          struct err_detail *detail) MUST_CHECK;
/* A descriptor that becomes readable when there is something for snapshot_poll() to see; -1: there
 * is at once. */
int snapshot_fd(const struct snapshot *snapshot);
/* Never waits for the disk. BUSY: it is being written. Anything else is how it ended, and stays so:
 * OK with the result, the file durable under its name; or what went wrong, and there is none. */
dimfit_err snapshot_poll(struct snapshot *snapshot, struct snapshot_result *result,
                         struct err_detail *detail) MUST_CHECK;
/* Ends a child that is still writing; waits for that, some ms. */
void snapshot_destroy(struct snapshot **snapshot);

/* ---- reading (snapshot_read.c) ---- */

/* A shard as the file has it. options and io as for shard_new(). Reads 1 MiB at a time, in order.
 * NOT_FOUND: there is no such file. The caller compares *info with what he looks for. */
dimfit_err snapshot_restore(struct disk *disk, const char *name,
                            const struct shard_options *options, const struct shard_io *io,
                            struct snapshot_info *info, struct shard **out,
                            struct err_detail *detail) MUST_CHECK;
/* Every byte's checksum. */
dimfit_err snapshot_verify(struct disk *disk, const char *name, struct snapshot_info *info,
                           struct snapshot_result *result, struct err_detail *detail) MUST_CHECK;

#endif
