#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

void fuzz_put_buf(struct fuzz_sink *sink, struct buf *buf) {
    REQUIRE(buf_status(buf) == DIMFIT_OK);
    fuzz_put(sink, buf->data, buf->len);
    buf->len = 0;
}

bool fuzz_same(const struct buf *buf, const void *bytes, size_t len) {
    return !buf->failed && buf->len == len && (len == 0 || memcmp(buf->data, bytes, len) == 0);
}

uint8_t *fuzz_copy(const void *bytes, size_t len) {
    uint8_t *const copy = malloc(len > 0 ? len : 1);
    REQUIRE(copy != NULL);
    if (len > 0)
        memcpy(copy, bytes, len);
    return copy;
}
