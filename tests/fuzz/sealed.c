#include "tests/fuzz/sealed.h"

#include "tests/fuzz/fuzz.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

bool sealed_open(const uint8_t *bytes, size_t len, uint64_t magic, struct buf *out) {
    if (len == 0)
        return false;
    if ((bytes[0] & 1) != 0) {
        buf_put_u64(out, magic);
        buf_put_u64(out, XXH3_64bits(bytes + 1, len - 1));
    }
    buf_put(out, bytes + 1, len - 1);
    REQUIRE(buf_status(out) == DIMFIT_OK);
    return true;
}

void sealed_input(struct buf *encoding) {
    REQUIRE(buf_status(encoding) == DIMFIT_OK && encoding->len >= SEALED_HEAD);
    memmove(encoding->data + 1, encoding->data + SEALED_HEAD, encoding->len - SEALED_HEAD);
    encoding->data[0] = 1;
    encoding->len -= SEALED_HEAD - 1;
}
