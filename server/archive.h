/*
 * Saved state on its way to and from wherever it is kept: a stream of bytes, block by block.
 *
 * Whoever keeps it lends the writer a block to fill, and takes it when it is full; the reader is
 * given the next block when it has read one. So what is saved is copied once, a module's save is a
 * plain list of archive_put_*(), and nothing of it allocates. A failure stays, puts and gets do
 * nothing from then on (gets give zeros), and whoever began it asks once at the end. Integers are
 * little-endian.
 *
 * What is read is not trusted: a module checks all that it will rely on, and says what is wrong by
 * archive_refuse(). A count that is read tells nothing about how many bytes follow: memory is found
 * as they come.
 */
#ifndef SERVER_ARCHIVE_H
#define SERVER_ARCHIVE_H

#include "proto/buf.h"

struct archive_writer {
    void *self;
    uint8_t *begin, *at, *end; /* the block, what is filled of it */
    /* Take begin .. at and set all three anew, with some room. */
    dimfit_err (*flush)(struct archive_writer *writer);
    dimfit_err err;
    struct err_detail detail;
};

struct archive_reader {
    void *self;
    const uint8_t *at, *end; /* of the block, what is left */
    /* Set both anew, to at least one byte more. IO when there is none. */
    dimfit_err (*refill)(struct archive_reader *reader);
    dimfit_err err;
    struct err_detail detail;
};

void archive_put(struct archive_writer *w, const void *bytes, size_t len);
void archive_put_buf(struct archive_writer *w, const struct buf *buf); /* its length before it */

static inline void archive_put_u8(struct archive_writer *w, uint8_t v) {
    archive_put(w, &v, sizeof v);
}

static inline void archive_put_u32(struct archive_writer *w, uint32_t v) {
    archive_put(w, &v, sizeof v);
}

static inline void archive_put_u64(struct archive_writer *w, uint64_t v) {
    archive_put(w, &v, sizeof v);
}

void archive_get(struct archive_reader *r, void *out, size_t len);
uint8_t archive_get_u8(struct archive_reader *r);
uint32_t archive_get_u32(struct archive_reader *r);
uint64_t archive_get_u64(struct archive_reader *r);
/* archive_put_buf()'s bytes, at most `most` of them, into an empty buf. */
void archive_get_buf(struct archive_reader *r, uint64_t most, struct buf *out);

/* A failure, unless there was one before: IO with a text on what can't be, or NOMEM. */
void archive_refuse(struct archive_reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void archive_no_memory(struct archive_reader *r);

/* Marks where a part begins, so that a reader that is out of step is told so at once. */
void archive_put_mark(struct archive_writer *w, uint32_t mark);
void archive_get_mark(struct archive_reader *r, uint32_t mark, const char *part);

#endif
