#include "tests/unit/buf_archive.h"

#include <stdlib.h>

enum { BLOCK = 4099 };

struct sink {
    struct buf *out;
    uint8_t block[BLOCK];
};

static dimfit_err flush(struct archive_writer *w) {
    struct sink *const sink = w->self;
    buf_put(sink->out, w->begin, (size_t)(w->at - w->begin));
    w->begin = w->at = sink->block;
    w->end = sink->block + BLOCK;
    return buf_status(sink->out);
}

void buf_archive_save(const struct shard *shard, uint32_t parts, struct buf *out) {
    struct sink sink = {.out = out};
    struct buf head;
    struct archive_writer w = {.self = &sink, .flush = flush};
    buf_init(&head);
    if (shard_save_head(shard, parts, &head, NULL) != DIMFIT_OK)
        abort();
    shard_save(shard, &head, &w);
    if (w.err != DIMFIT_OK || flush(&w) != DIMFIT_OK)
        abort();
    buf_fini(&head);
}

void buf_archive_save_table(const struct table *table, struct buf *out) {
    struct sink sink = {.out = out};
    struct archive_writer w = {.self = &sink, .flush = flush};
    table_save(table, true, &w);
    if (w.err != DIMFIT_OK || flush(&w) != DIMFIT_OK)
        abort();
}

struct source {
    const uint8_t *at;
    size_t left, block;
};

static dimfit_err refill(struct archive_reader *r) {
    struct source *const source = r->self;
    const size_t n = source->left < source->block ? source->left : source->block;
    if (n == 0)
        return err_set(&r->detail, DIMFIT_ERR_IO, "the bytes end here");
    r->at = source->at;
    r->end = source->at + n;
    source->at += n;
    source->left -= n;
    return DIMFIT_OK;
}

dimfit_err buf_archive_restore(const uint8_t *bytes, size_t len, size_t block,
                               const struct shard_options *options, const struct shard_io *io,
                               struct shard **out, struct err_detail *detail) {
    struct source source = {bytes, len, block};
    struct archive_reader r = {.self = &source, .refill = refill};
    return shard_restore(&r, options, io, out, detail);
}

dimfit_err buf_archive_restore_table(const struct buf *saved, struct table *into,
                                     const struct layout *before, struct err_detail *detail) {
    struct source source = {saved->data, saved->len, BLOCK};
    struct archive_reader r = {.self = &source, .refill = refill};
    table_restore(into, before, &r);
    if (r.err == DIMFIT_OK && (r.at != r.end || source.left > 0))
        archive_refuse(&r, "bytes are left over");
    *detail = r.detail;
    return r.err;
}
