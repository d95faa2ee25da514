/*
 * A shard's write-ahead log: the messages that change its state, each written before it is
 * acknowledged, so that a shard that ends comes back as it was.
 *
 *     wal-1 [head|record 1|record 2|...]   wal-4711 [head|record 4711|...|    ]   spare-0
 *
 * A record is a message's header and body as it came, numbered by its position, from 1 without a
 * gap. Segments are files of a fixed size (a record larger than that has one of its own), named by
 * the position of their first record. Once a snapshot has made one unnecessary it is kept as a
 * spare and written over: its pages are in memory already, and fresh ones are dear.
 *
 *     head    magic, first position, salt, checksum                                 u64 each
 *     record  body length u32, header length u16, check u16, position, kept, checksum   u64 each,
 *             header, body, zeros up to a multiple of 8
 *
 * The checksum is XXH3 of the body, seeded with that of the header, seeded with that of the 24
 * bytes before the checksum, seeded with the segment's salt, which is random: what an earlier use
 * of the file has left, or what a body looks like, is never taken for a record. `kept` is the last
 * position that had been promised to somebody when the record was written. So the end of a log can
 * be told from damage: where a record is not whole, and none after it says that it had been
 * promised, there the log ends, as a process or a machine left it in the middle of a write.
 * Otherwise it is damaged, and nothing is made of it.
 *
 * What is promised is all that was appended, or with `synced` what was made durable. A sync is a
 * job that may run on another thread while records are appended, one at a time; records appended
 * meanwhile wait for the next one, together.
 *
 * An append that failed leaves no trace: the next one writes over it. One thread, but for the job.
 */
#ifndef SERVER_WAL_H
#define SERVER_WAL_H

#include "server/disk.h"

enum { WAL_SYNC_FILES = 8, WAL_SPARES_MAX = 64 };

struct wal;

struct wal_options {
    uint64_t segment_bytes;
    uint64_t random; /* of this opening of the log: salts are drawn from it */
    size_t spares;   /* files kept for further use, at most; <= WAL_SPARES_MAX */
    bool synced;     /* what is not durable is promised to nobody */
};

/* The disk is borrowed. Looks at no file yet. */
dimfit_err wal_open(struct disk *disk, const struct wal_options *options, struct wal **out,
                    struct err_detail *detail) MUST_CHECK;
void wal_close(struct wal **wal);

/* Where a log ends. */
struct wal_end {
    uint64_t position; /* of the last record, 0: there is none */
    bool torn;         /* a record after it was begun */
    char file[32];     /* where: file and offset */
    uint64_t offset;
};
typedef dimfit_err wal_take(void *self, uint64_t position, const uint8_t *header, size_t header_len,
                            const uint8_t *body, size_t body_len, struct err_detail *detail);
/* Hand every record after position `from` to take(), in order; what it answers other than DIMFIT_OK
 * ends the replay. To be called once, before the first append, which follows on the last record, or
 * on `from` where the log ends before that: a snapshot is durable by itself, and may have records
 * that a power cut took from the log. IO, naming file and offset, for a log that is damaged, or
 * that does not reach back to `from`. */
dimfit_err wal_replay(struct wal *wal, uint64_t from, wal_take *take, void *self,
                      struct wal_end *end, struct err_detail *detail) MUST_CHECK;

/* Write a record, by one writev() from where the bytes are. On an error the log is as it was; it
 * may be tried again. */
dimfit_err wal_append(struct wal *wal, const void *header, size_t header_len, const void *body,
                      size_t body_len, struct err_detail *detail) MUST_CHECK;
/* The record just appended, promised to nobody, was not to be: the next one takes its place. Until
 * then a replay may find it. */
void wal_take_back(struct wal *wal);

uint64_t wal_position(const struct wal *wal); /* of the last record */
uint64_t wal_bytes(const struct wal *wal);    /* of records replayed and appended so far */

/* Records up to here are in a snapshot: their segments become spares. A file that can't be renamed
 * or removed stays, and is tried again the next time. */
void wal_forget(struct wal *wal, uint64_t position);

/* What it takes to make the records so far durable. */
struct wal_sync {
    uint64_t position;
    size_t n;
    struct disk_file *files[WAL_SYNC_FILES];
    struct disk *names; /* NULL: they are durable */
};
/* False: everything is, or a job is under way. */
bool wal_sync_begin(struct wal *wal, struct wal_sync *job);
/* On any thread; blocks. */
dimfit_err wal_sync_run(const struct wal_sync *job, struct err_detail *detail) MUST_CHECK;
/* The job came to its end, well. After a failure nobody knows what is durable, and the log can't be
 * used any more: it is to be opened and replayed anew. */
void wal_sync_end(struct wal *wal, const struct wal_sync *job);
uint64_t wal_synced(const struct wal *wal); /* all up to this position is durable */

#endif
