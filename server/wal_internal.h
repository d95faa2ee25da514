/*
 * What wal.c and wal_replay.c share: the format, and the segments that are there.
 */
#ifndef SERVER_WAL_INTERNAL_H
#define SERVER_WAL_INTERNAL_H

#include "server/wal.h"

#define WAL_MAGIC 0x324c4157666d6964ull /* "dimfWAL2" */

enum {
    WAL_HEAD = 32,    /* bytes of a segment before its first record */
    WAL_RECORD = 32,  /* bytes of a record before its header */
    WAL_CHECKED = 24, /* of these the first ones are under the checksum */
    WAL_NAME_MAX = 31,
};

struct wal_segment {
    uint64_t first;         /* position of its first record */
    struct disk_file *file; /* NULL: not open */
    bool synced;            /* in whole, or need not be; it is written to no more */
};

struct wal {
    uint32_t magic;
    struct disk *disk;
    struct wal_options options;
    bool replayed;

    struct wal_segment *segments; /* in the order of their positions, all but the current one */
    size_t n_segments, cap_segments;
    struct wal_segment current; /* file NULL: the next append makes one */
    uint64_t salt;              /* of the current one */
    uint64_t offset, last;      /* in it: the end, and where the last record begins */

    uint64_t position, bytes;
    uint64_t synced;
    bool new_names; /* since they were last made durable */
    bool syncing;

    size_t n_spares;
    uint64_t spares[WAL_SPARES_MAX]; /* the numbers in their names */
    uint64_t next_spare, salts;
};

struct wal_record {
    uint32_t body_len;
    uint16_t header_len;
    uint64_t position, kept, checksum;
};

size_t wal_record_size(size_t header_len, size_t body_len);
/* But for the checksum: out[WAL_CHECKED]. */
void wal_record_put(const struct wal_record *record, uint64_t salt, uint8_t *out);
/* What stands in these bytes, checksum included. False: they are no record's, as all but one in
 * 65,536 of those that merely look like one are told without a look at what follows. */
bool wal_record_get(const uint8_t *bytes, uint64_t salt, struct wal_record *out);
uint64_t wal_checksum(uint64_t salt, const uint8_t *record, const void *header, size_t header_len,
                      const void *body, size_t body_len);
void wal_head_put(uint64_t first, uint64_t salt, uint8_t *out); /* [WAL_HEAD] */
/* False: it is none. */
bool wal_head_get(const uint8_t *bytes, size_t len, uint64_t *first, uint64_t *salt);

void wal_segment_name(uint64_t first, char *out); /* [WAL_NAME_MAX + 1] */
/* NOMEM. */
dimfit_err wal_add_segment(struct wal *wal, const struct wal_segment *segment) MUST_CHECK;
/* Its file becomes a spare, or goes. False: it could not be. */
bool wal_retire(struct wal *wal, const char *name);

#endif
