#include "proto/buf.h"

#include <stdlib.h>

void buf_init(struct buf *buf) {
    *buf = (struct buf){0};
}

void buf_fini(struct buf *buf) {
    free(buf->data);
    *buf = (struct buf){0};
}

dimfit_err buf_status(const struct buf *buf) {
    return buf->failed ? DIMFIT_ERR_NOMEM : DIMFIT_OK;
}

void buf_put_part(struct buf *buf, struct buf *part) {
    buf_put_u64(buf, part->len);
    buf_put(buf, part->data, part->len);
    buf->failed |= part->failed;
    part->len = 0;
}

uint8_t *buf_extend(struct buf *buf, size_t len) {
    if (buf->failed)
        return NULL;
    if (len > buf->cap - buf->len) {
        size_t cap = buf->cap < 256 ? 256 : buf->cap;
        while (cap - buf->len < len) {
            if (!size_mul(cap, 2, &cap))
                goto failed;
        }
        uint8_t *const data = realloc(buf->data, cap);
        if (data == NULL)
            goto failed;
        buf->data = data;
        buf->cap = cap;
    }
    uint8_t *const at = buf->data + buf->len;
    buf->len += len;
    return at;

failed:
    buf->failed = true;
    return NULL;
}

void buf_put(struct buf *buf, const void *bytes, size_t len) {
    if (len == 0)
        return;
    uint8_t *const at = buf_extend(buf, len);
    if (at != NULL)
        memcpy(at, bytes, len);
}

void buf_put_u8(struct buf *buf, uint8_t v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_u16(struct buf *buf, uint16_t v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_u32(struct buf *buf, uint32_t v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_u64(struct buf *buf, uint64_t v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_f32(struct buf *buf, float v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_f64(struct buf *buf, double v) {
    buf_put(buf, &v, sizeof v);
}

void buf_put_str(struct buf *buf, const char *s) {
    const size_t len = strlen(s);
    base_assert(len <= UINT16_MAX);
    buf_put_u16(buf, (uint16_t)len);
    buf_put(buf, s, len);
}

bool reader_has(struct reader *r, size_t count, size_t size) {
    size_t bytes;
    if (!size_mul(count, size, &bytes) || bytes > r->left)
        r->failed = true;
    return !r->failed;
}

const uint8_t *reader_take(struct reader *r, size_t len) {
    if (!reader_has(r, len, 1))
        return NULL;
    const uint8_t *const at = r->data;
    r->data += len;
    r->left -= len;
    return at;
}

bool reader_copy(struct reader *r, void *out, size_t len) {
    const uint8_t *const at = reader_take(r, len);
    if (at == NULL)
        return false;
    if (len > 0)
        memcpy(out, at, len);
    return true;
}

#define READER_SCALAR(name, type)                                                                  \
    type reader_##name(struct reader *r) {                                                         \
        type v = 0;                                                                                \
        reader_copy(r, &v, sizeof v);                                                              \
        return v;                                                                                  \
    }
READER_SCALAR(u8, uint8_t)
READER_SCALAR(u16, uint16_t)
READER_SCALAR(u32, uint32_t)
READER_SCALAR(u64, uint64_t)
READER_SCALAR(f32, float)
READER_SCALAR(f64, double)

bool reader_str(struct reader *r, char *out, size_t cap) {
    const size_t len = reader_u16(r);
    const uint8_t *const at = reader_take(r, len);
    if (at == NULL || len >= cap || memchr(at, 0, len) != NULL) {
        r->failed = true;
        return false;
    }
    memcpy(out, at, len);
    out[len] = 0;
    return true;
}
