/*
 * Lines of a file that is plain text, gzip or LZ4 frames; which one is told by its first bytes.
 *
 * Compressed files may consist of several members or frames one after another. A file that ends
 * inside one, fails its checksum or is followed by something else is an error, never a short read.
 * Lines end with \n or \r\n; the last one needs no line break. A stream belongs to one thread.
 */
#ifndef TRAIN_STREAM_H
#define TRAIN_STREAM_H

#include "proto/base.h"

enum {
    STREAM_LINE_MAX = 64 << 20, /* bytes; a longer line is refused */
};

struct stream;

/* IO when it can't be opened or read. path is borrowed for the stream's life. */
dimfit_err stream_open(const char *path, struct stream **out, struct err_detail *detail) MUST_CHECK;
void stream_close(struct stream **s);

/* The next line without its line break, NUL-terminated behind its len bytes, writable and valid
 * until the next call; *line = NULL at the end. DATA or IO with "FILE:LINE: why" otherwise. */
dimfit_err stream_line(struct stream *s, char **line, size_t *len,
                       struct err_detail *detail) MUST_CHECK;

/* Number of the line returned last, from 1. */
uint64_t stream_line_number(const struct stream *s);

#endif
