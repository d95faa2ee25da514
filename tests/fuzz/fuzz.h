/*
 * What a fuzz target is made of: one program a parser, which is fed arbitrary bytes.
 *
 * A target defines fuzz_one(), which parses the bytes and REQUIREs what must hold of the result,
 * and fuzz_seeds(), which makes inputs by the project's own encoders: they follow every change of a
 * format, so that a corpus can't go stale unnoticed. Two drivers call these: replay.c, a plain
 * program that `make check` runs, and libfuzzer.c, which scripts/fuzz builds with clang.
 *
 * Targets trust nothing of their input, and leave nothing behind: no memory, file or thread.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "proto/buf.h"

/* Ends the process with the place, as a sanitizer's finding does. */
#define REQUIRE(cond) base_assert(cond)

/* One input. True: it was taken whole, as every seed must be. */
bool fuzz_one(const uint8_t *bytes, size_t len);

struct fuzz_sink {
    void (*put)(struct fuzz_sink *sink, const void *bytes, size_t len);
};

/* Put each input to begin with. */
void fuzz_seeds(struct fuzz_sink *sink);

static inline void fuzz_put(struct fuzz_sink *sink, const void *bytes, size_t len) {
    sink->put(sink, bytes, len);
}

/* The buffer is put, and emptied for the next. */
void fuzz_put_buf(struct fuzz_sink *sink, struct buf *buf);

/* The same bytes, and none more or less. */
bool fuzz_same(const struct buf *buf, const void *bytes, size_t len);

/* A copy of exactly so many bytes, so that the address sanitizer sees the first one read beyond.
 * free() it. */
uint8_t *fuzz_copy(const void *bytes, size_t len);

#endif
