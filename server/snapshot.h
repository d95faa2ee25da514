/*
 * A snapshot: one shard's whole state at one position of its log, in one file.
 *
 *     header   magic, version, whose it is, its position and epoch, their checksum
 *     blocks   up to 1 MiB of the state each, as it is or packed by LZ4, each with its checksum
 *     trailer  how many blocks and bytes there were, checksum over all of the file before it
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

#include "server/shard.h"

struct disk; /* server/disk.h */

struct snapshot_info {
    uint64_t cluster;  /* the seed of its layout */
    uint32_t shard;    /* its number, */
    uint32_t shards;   /* of so many */
    uint64_t position; /* of its log: what stands up to there, and nothing after it, is in here */
    uint64_t epoch;    /* filled in from the shard */
};

struct snapshot_result {
    uint64_t bytes;    /* of the file */
    uint64_t checksum; /* the trailer's */
    uint64_t rows;
    double seconds;
};

/* Whether shard_save() would do it now: BUSY while rows move, a shrink goes on or rows before a
 * change are still being saved; there is nothing to do but to try again later. */
dimfit_err snapshot_ready(const struct shard *shard, struct err_detail *detail) MUST_CHECK;

/* Write it in this thread, to the end. On an error no file of that name was made or replaced. */
dimfit_err snapshot_write(const struct shard *shard, const struct snapshot_info *info,
                          const struct disk *disk, const char *path, struct snapshot_result *result,
                          struct err_detail *detail) MUST_CHECK;

/* Have it written by a child. On DIMFIT_OK *out is under way. */
struct snapshot;
dimfit_err snapshot_start(const struct shard *shard, const struct snapshot_info *info,
                          const struct disk *disk, const char *path, struct snapshot **out,
                          struct err_detail *detail) MUST_CHECK;
/* A descriptor that becomes readable when there is something for snapshot_poll() to see. */
int snapshot_fd(const struct snapshot *snapshot);
/* Never blocks. BUSY: it is being written. Anything else is how it ended, and stays so: OK with the
 * result, the file durable under its name; or what went wrong, and there is none. */
dimfit_err snapshot_poll(struct snapshot *snapshot, struct snapshot_result *result,
                         struct err_detail *detail) MUST_CHECK;
/* Ends a child that is still writing; waits for that, some ms. */
void snapshot_destroy(struct snapshot **snapshot);

/* A shard as the file has it. options and io as for shard_new(). Reads 1 MiB at a time, in order.
 * The caller compares *info with what he looks for. */
dimfit_err snapshot_restore(const struct disk *disk, const char *path,
                            const struct shard_options *options, const struct shard_io *io,
                            struct snapshot_info *info, struct shard **out,
                            struct err_detail *detail) MUST_CHECK;
/* Nothing but the header. */
dimfit_err snapshot_look(const struct disk *disk, const char *path, struct snapshot_info *info,
                         struct err_detail *detail) MUST_CHECK;
/* Every byte's checksum. */
dimfit_err snapshot_verify(const struct disk *disk, const char *path, struct snapshot_info *info,
                           struct snapshot_result *result, struct err_detail *detail) MUST_CHECK;

#endif
