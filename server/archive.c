#include "server/archive.h"

#include <stdarg.h>
#include <stdio.h>

void archive_put(struct archive_writer *w, const void *bytes, size_t len) {
    const uint8_t *from = bytes;
    while (len > 0 && w->err == DIMFIT_OK) {
        if (w->at == w->end)
            w->err = w->flush(w);
        const size_t room = (size_t)(w->end - w->at), n = len < room ? len : room;
        if (w->err != DIMFIT_OK)
            return;
        memcpy(w->at, from, n);
        w->at += n;
        from += n;
        len -= n;
    }
}

void archive_put_buf(struct archive_writer *w, const struct buf *buf) {
    archive_put_u64(w, buf->len);
    archive_put(w, buf->data, buf->len);
}

void archive_get(struct archive_reader *r, void *out, size_t len) {
    uint8_t *to = out;
    while (len > 0) {
        if (r->at == r->end && r->err == DIMFIT_OK)
            r->err = r->refill(r);
        if (r->err != DIMFIT_OK) {
            memset(out, 0, (size_t)(to - (uint8_t *)out) + len);
            return;
        }
        const size_t left = (size_t)(r->end - r->at), n = len < left ? len : left;
        memcpy(to, r->at, n);
        r->at += n;
        to += n;
        len -= n;
    }
}

uint8_t archive_get_u8(struct archive_reader *r) {
    uint8_t v;
    archive_get(r, &v, sizeof v);
    return v;
}

uint32_t archive_get_u32(struct archive_reader *r) {
    uint32_t v;
    archive_get(r, &v, sizeof v);
    return v;
}

uint64_t archive_get_u64(struct archive_reader *r) {
    uint64_t v;
    archive_get(r, &v, sizeof v);
    return v;
}

void archive_get_buf(struct archive_reader *r, uint64_t most, struct buf *out) {
    enum { PIECE = 65536 };
    uint64_t left = archive_get_u64(r);
    if (left > most)
        archive_refuse(r, "a part of %llu bytes where %llu are the most", (unsigned long long)left,
                       (unsigned long long)most);
    while (left > 0 && r->err == DIMFIT_OK) {
        const size_t n = left < PIECE ? (size_t)left : PIECE;
        uint8_t *const to = buf_extend(out, n);
        if (to == NULL)
            archive_no_memory(r);
        else
            archive_get(r, to, n);
        left -= n;
    }
}

void archive_refuse(struct archive_reader *r, const char *fmt, ...) {
    if (r->err != DIMFIT_OK)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->detail.text, sizeof r->detail.text, fmt, args);
    va_end(args);
    r->err = DIMFIT_ERR_IO;
}

void archive_no_memory(struct archive_reader *r) {
    if (r->err == DIMFIT_OK)
        r->err = err_set(&r->detail, DIMFIT_ERR_NOMEM, "no memory for what was saved");
}

void archive_put_mark(struct archive_writer *w, uint32_t mark) {
    archive_put_u32(w, mark);
}

void archive_get_mark(struct archive_reader *r, uint32_t mark, const char *part) {
    const uint32_t got = archive_get_u32(r);
    if (got != mark)
        archive_refuse(r, "the %s should begin here, but %08x stands there", part, got);
}
