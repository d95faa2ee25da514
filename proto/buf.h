/*
 * A growable byte buffer to write encodings into, and a bounded reader to take them apart.
 *
 * The writer remembers an allocation failure and reports it once, at buf_status(): an encoder is a
 * plain list of buf_put_* calls. The reader never runs past its end: a short read sets `failed`,
 * yields zeros, and every later read does the same, so that a decoder checks once at the end (and
 * before it allocates from a count). All integers are little-endian.
 */
#ifndef PROTO_BUF_H
#define PROTO_BUF_H

#include "proto/base.h"

struct buf {
    uint8_t *data;
    size_t len, cap;
    bool failed; /* an allocation failed; the content is incomplete */
};

void buf_init(struct buf *buf);
void buf_fini(struct buf *buf);
dimfit_err buf_status(const struct buf *buf) MUST_CHECK;

void buf_put(struct buf *buf, const void *bytes, size_t len);
void buf_put_u8(struct buf *buf, uint8_t v);
void buf_put_u16(struct buf *buf, uint16_t v);
void buf_put_u32(struct buf *buf, uint32_t v);
void buf_put_u64(struct buf *buf, uint64_t v);
void buf_put_f32(struct buf *buf, float v);
void buf_put_f64(struct buf *buf, double v);
void buf_put_str(struct buf *buf, const char *s); /* u16 length + bytes, no terminator */

/* The part's length, u64, and its bytes; the part is emptied. */
void buf_put_part(struct buf *buf, struct buf *part);

/* Make room for len bytes and return where they go, NULL out of memory. The bytes are not set. */
uint8_t *buf_extend(struct buf *buf, size_t len);

struct reader {
    const uint8_t *data;
    size_t left;
    bool failed;
};

static inline struct reader reader_of(const void *data, size_t len) {
    return (struct reader){.data = data, .left = len};
}

const uint8_t *reader_take(struct reader *r, size_t len); /* NULL when fewer are left */
bool reader_copy(struct reader *r, void *out, size_t len);
uint8_t reader_u8(struct reader *r);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
float reader_f32(struct reader *r);
double reader_f64(struct reader *r);
/* Reads a buf_put_str() string into out[cap], terminated; fails when it does not fit or holds NUL.
 */
bool reader_str(struct reader *r, char *out, size_t cap);

/* True when count items of size bytes each can still be there: ask before allocating for them. */
bool reader_has(struct reader *r, size_t count, size_t size);

/* A decoder's last line: everything read, nothing left over. */
static inline bool reader_done(const struct reader *r) {
    return !r->failed && r->left == 0;
}

#endif
