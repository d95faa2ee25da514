#include "worker/train/stream.h"
#include "worker/train/mem.h"

#include <errno.h>
#include <lz4frame.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

enum {
    RAW_SIZE = 256 << 10,
    TEXT_STEP = 1 << 20,
    GZIP_WITH_HEADER = 16 + MAX_WBITS,
};

enum kind { PLAIN, GZIP, LZ4 };

struct stream {
    const char *path;
    FILE *file;
    enum kind kind;
    uint64_t line;

    unsigned char raw[RAW_SIZE];
    size_t raw_at, raw_end;
    bool raw_eof;

    char *text; /* decoded bytes [at, end) are not returned yet */
    size_t at, end, cap;
    bool eof;

    bool inside; /* a gzip member or LZ4 frame has begun and not ended */
    z_stream zlib;
    LZ4F_dctx *lz4;
};

static dimfit_err fail(const struct stream *s, struct err_detail *detail, dimfit_err err,
                       const char *why) {
    return err_set(detail, err, "%s:%llu: %s", s->path, (unsigned long long)s->line + 1, why);
}

static dimfit_err read_raw(struct stream *s, struct err_detail *detail) {
    if (s->raw_at < s->raw_end || s->raw_eof)
        return DIMFIT_OK;
    s->raw_at = 0;
    s->raw_end = fread(s->raw, 1, sizeof s->raw, s->file);
    if (s->raw_end == 0) {
        if (ferror(s->file))
            return fail(s, detail, DIMFIT_ERR_IO, strerror(errno));
        s->raw_eof = true;
    }
    return DIMFIT_OK;
}

static dimfit_err decode_gzip(struct stream *s, struct err_detail *detail) {
    if (!s->inside) {
        if (inflateReset(&s->zlib) != Z_OK)
            return fail(s, detail, DIMFIT_ERR_NOMEM, "zlib could not be reset");
        s->inside = true;
    }
    s->zlib.next_in = s->raw + s->raw_at;
    s->zlib.avail_in = (uInt)(s->raw_end - s->raw_at);
    s->zlib.next_out = (Bytef *)s->text + s->end;
    s->zlib.avail_out = (uInt)(s->cap - s->end - 1);
    const int rc = inflate(&s->zlib, Z_NO_FLUSH);
    s->raw_at = s->raw_end - s->zlib.avail_in;
    s->end = s->cap - 1 - s->zlib.avail_out;
    if (rc == Z_STREAM_END)
        s->inside = false;
    else if (rc != Z_OK && rc != Z_BUF_ERROR)
        return fail(s, detail, DIMFIT_ERR_DATA,
                    s->zlib.msg != NULL ? s->zlib.msg : "the gzip stream is corrupt");
    return DIMFIT_OK;
}

static dimfit_err decode_lz4(struct stream *s, struct err_detail *detail) {
    size_t in = s->raw_end - s->raw_at, out = s->cap - s->end - 1;
    const size_t rc = LZ4F_decompress(s->lz4, s->text + s->end, &out, s->raw + s->raw_at, &in,
                                      NULL);
    if (LZ4F_isError(rc))
        return err_set(detail, DIMFIT_ERR_DATA, "%s:%llu: the LZ4 frame is corrupt (%s)", s->path,
                       (unsigned long long)s->line + 1, LZ4F_getErrorName(rc));
    s->raw_at += in;
    s->end += out;
    s->inside = rc != 0;
    return DIMFIT_OK;
}

static void copy_plain(struct stream *s) {
    const size_t room = s->cap - s->end - 1, have = s->raw_end - s->raw_at;
    const size_t n = room < have ? room : have;
    memcpy(s->text + s->end, s->raw + s->raw_at, n);
    s->end += n;
    s->raw_at += n;
}

/* Decode at least one more byte, or set eof. */
static dimfit_err fill(struct stream *s, struct err_detail *detail) {
    if (s->at > 0) {
        memmove(s->text, s->text + s->at, s->end - s->at);
        s->end -= s->at;
        s->at = 0;
    }
    if (s->end >= STREAM_LINE_MAX)
        return fail(s, detail, DIMFIT_ERR_DATA, "the line is longer than 64 MiB");
    if (s->cap - s->end < TEXT_STEP / 2 + 1)
        s->text = mem_resize(s->text, s->cap += TEXT_STEP, 1);
    const size_t before = s->end;
    while (s->end == before && !s->eof) {
        dimfit_err err = read_raw(s, detail);
        if (err != DIMFIT_OK)
            return err;
        if (s->raw_eof) {
            if (s->inside)
                return fail(s, detail, DIMFIT_ERR_DATA,
                            s->kind == GZIP ? "the gzip file is cut short"
                                            : "the LZ4 file is cut short");
            s->eof = true;
        } else if (s->kind == GZIP) {
            err = decode_gzip(s, detail);
        } else if (s->kind == LZ4) {
            err = decode_lz4(s, detail);
        } else {
            copy_plain(s);
        }
        if (err != DIMFIT_OK)
            return err;
    }
    return DIMFIT_OK;
}

dimfit_err stream_open(const char *path, struct stream **out, struct err_detail *detail) {
    static const unsigned char gzip_magic[] = {0x1f, 0x8b}, lz4_magic[] = {0x04, 0x22, 0x4d, 0x18};
    FILE *const file = fopen(path, "rb");
    if (file == NULL)
        return err_set(detail, DIMFIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    struct stream *s = mem_alloc(1, sizeof *s);
    s->path = path;
    s->file = file;
    s->text = mem_alloc(TEXT_STEP, 1);
    s->cap = TEXT_STEP;
    dimfit_err err = read_raw(s, detail);
    if (err == DIMFIT_OK && s->raw_end >= sizeof gzip_magic &&
        memcmp(s->raw, gzip_magic, sizeof gzip_magic) == 0) {
        s->kind = GZIP;
        if (inflateInit2(&s->zlib, GZIP_WITH_HEADER) != Z_OK)
            err = err_set(detail, DIMFIT_ERR_NOMEM, "%s: zlib could not start", path);
    } else if (err == DIMFIT_OK && s->raw_end >= sizeof lz4_magic &&
               memcmp(s->raw, lz4_magic, sizeof lz4_magic) == 0) {
        s->kind = LZ4;
        if (LZ4F_isError(LZ4F_createDecompressionContext(&s->lz4, LZ4F_VERSION)))
            err = err_set(detail, DIMFIT_ERR_NOMEM, "%s: LZ4 could not start", path);
    }
    if (err != DIMFIT_OK)
        stream_close(&s);
    else
        *out = s;
    return err;
}

void stream_close(struct stream **sp) {
    struct stream *const s = *sp;
    if (s == NULL)
        return;
    inflateEnd(&s->zlib);
    LZ4F_freeDecompressionContext(s->lz4);
    fclose(s->file);
    free(s->text);
    free(s);
    *sp = NULL;
}

dimfit_err stream_line(struct stream *s, char **line, size_t *len, struct err_detail *detail) {
    size_t seen = 0;
    char *newline;
    for (;;) {
        newline = memchr(s->text + s->at + seen, '\n', s->end - s->at - seen);
        if (newline != NULL || s->eof)
            break;
        seen = s->end - s->at;
        const dimfit_err err = fill(s, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    if (newline == NULL && s->at == s->end) {
        *line = NULL;
        *len = 0;
        return DIMFIT_OK;
    }
    char *const begin = s->text + s->at;
    size_t n = newline != NULL ? (size_t)(newline - begin) : s->end - s->at;
    s->at += n + (newline != NULL);
    if (n > 0 && begin[n - 1] == '\r')
        n--;
    begin[n] = '\0';
    s->line++;
    *line = begin;
    *len = n;
    return DIMFIT_OK;
}

uint64_t stream_line_number(const struct stream *s) {
    return s->line;
}
