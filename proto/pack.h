/*
 * LZ4 for message bodies, where a sample says that it pays.
 *
 * Rows and gradients of dense models do not compress (0.996 of their size), sparse gradients and
 * small ids do. A body is packed as one LZ4 block; its plain length travels in the header. Pure;
 * any thread.
 */
#ifndef PROTO_PACK_H
#define PROTO_PACK_H

#include "proto/base.h"

enum {
    PACK_LEAST = 1024,  /* bytes; a smaller body is not worth the trouble */
    PACK_SAMPLE = 4096, /* bytes from the middle that are tried first */
};

/* Most bytes that a packed body of len can take; 0: a body of that length is never packed. */
size_t pack_bound(size_t len);

/* Pack into out[pack_bound(len)]. Returns the length, or 0 when it would not be an eighth less. */
size_t pack(const void *body, size_t len, void *out);

/* PROTOCOL for a plain length that so many bytes can't have (LZ4 makes at most 255 of one) or that
 * is over `most`. To be asked before memory for it is found. */
dimfit_err unpack_check(size_t len, uint64_t plain, uint64_t most,
                        struct err_detail *detail) MUST_CHECK;
/* PROTOCOL unless the bytes unpack to exactly plain bytes. */
dimfit_err unpack(const void *bytes, size_t len, void *out, size_t plain,
                  struct err_detail *detail) MUST_CHECK;

#endif
