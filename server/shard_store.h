/*
 * A shard's folder: what makes it again when its process has ended.
 *
 *     identity       whose rows these are: cluster, number, of how many shards
 *     snapshot-P     the shard as it was after record P (snapshot.h); the newest two are kept
 *     wal-POSITION   the log (wal.h), from the first record, or behind the older snapshot, on
 *     spare-N        files that the log will write over
 *
 * The store hands the shard its log (shard_io.log), has a snapshot made each time the log has grown
 * by so much, and makes the shard from both. It never waits for a disk once the shard works, and
 * never blocks what is not written: a record that can't be written is refused, and tried again with
 * the next one. Of the shard's thread.
 */
#ifndef SERVER_SHARD_STORE_H
#define SERVER_SHARD_STORE_H

#include "server/snapshot.h"
#include "server/wal.h"

struct shard_identity {
    uint64_t cluster;        /* which one, by a number drawn when it began */
    uint64_t shard;          /* the shard's own, so that it is known again */
    uint32_t number, shards; /* its place, of so many */
};

struct shard_store;

enum shard_store_step {
    STORE_REPLAYS, /* a record */
    STORE_MOVES,   /* a slice of rows */
    STORE_WAITS,   /* for rows that are being saved */
};

struct shard_store_options {
    bool synced;             /* what is not durable is promised to nobody */
    uint64_t segment_bytes;  /* 0: the usual */
    uint64_t snapshot_bytes; /* of log, after which a snapshot is due; 0: none ever is */
    uint64_t random;         /* of this process */
    /* Asked in a replay, whether to go on with it; to wait a little first where rows can't be
     * moved, or others write what the next record needs. May be NULL. */
    bool (*go_on)(void *self, enum shard_store_step step);
    void *self;
};

/* Takes the disk, and reads who the shard is. DATA for a folder that has a log and no identity;
 * VERSION, IO. */
dimfit_err shard_store_open(struct disk **disk, const struct shard_store_options *options,
                            struct shard_store **out, struct err_detail *detail) MUST_CHECK;
void shard_store_close(struct shard_store **store); /* after the shard */

/* NULL: the folder is new. */
const struct shard_identity *shard_store_identity(const struct shard_store *store);

/* A new shard's folder. From here on the shard, whose io must have these for log and unlog, can be
 * made again. */
dimfit_err shard_store_begin(struct shard_store *store, const struct shard_identity *identity,
                             struct shard *shard, struct err_detail *detail) MUST_CHECK;
dimfit_err shard_store_log(struct shard_store *store, const struct wire_header *header,
                           const void *body, size_t len, struct err_detail *detail) MUST_CHECK;
void shard_store_unlog(struct shard_store *store);

/* The shard as the newest snapshot that is whole and the log behind it have it. options and io as
 * of shard_new(). STATE when go_on() said no. *end: where the log ended. */
dimfit_err shard_store_recover(struct shard_store *store, const struct shard_options *options,
                               const struct shard_io *io, struct shard **out, struct wal_end *end,
                               struct err_detail *detail) MUST_CHECK;

/* Between messages: begin a snapshot where one is due and the shard can be saved, and see what came
 * of one that was begun. OK with made->bytes above 0 when it has just become whole, by which older
 * ones and the log before them go; an error when it failed: the next try is after some more log. */
dimfit_err shard_store_snapshot(struct shard_store *store, struct shard *shard,
                                struct snapshot_result *made, struct err_detail *detail) MUST_CHECK;

/* What was done so far is to be told to nobody before shard_store_kept() has come to this. */
uint64_t shard_store_position(const struct shard_store *store);
uint64_t shard_store_kept(const struct shard_store *store);
/* Records can't be written: the last attempt failed. */
bool shard_store_failing(const struct shard_store *store);
struct wal *shard_store_wal(struct shard_store *store);

#endif
