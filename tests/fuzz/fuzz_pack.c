/* Eight bytes of a plain length, then packed bytes: they unpack to exactly so many or are refused.
 * The same bytes, packed, unpack to themselves. */
#include "proto/pack.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

enum { MOST = 1 << 20 };

static bool unpacks(const uint8_t *bytes, size_t len, uint64_t plain) {
    struct err_detail detail;
    if (unpack_check(len, plain, MOST, &detail) != DIMFIT_OK)
        return false;
    uint8_t *const in = fuzz_copy(bytes, len), *const out = malloc(plain > 0 ? plain : 1);
    REQUIRE(out != NULL);
    const bool good = unpack(in, len, out, plain, &detail) == DIMFIT_OK;
    uint64_t sum = 0;
    for (size_t i = 0; i < plain && good; i++)
        sum += out[i]; /* all of it was written */
    REQUIRE(sum <= 255 * plain);
    free(out);
    free(in);
    return good;
}

static void round_trip(const uint8_t *bytes, size_t len) {
    const size_t bound = pack_bound(len);
    if (bound == 0)
        return;
    uint8_t *const packed = malloc(bound), *const out = malloc(len);
    struct err_detail detail;
    REQUIRE(packed != NULL && out != NULL);
    const size_t n = pack(bytes, len, packed);
    REQUIRE(n <= len - len / 8);
    if (n > 0)
        REQUIRE(unpack_check(n, len, MOST, &detail) == DIMFIT_OK &&
                unpack(packed, n, out, len, &detail) == DIMFIT_OK && memcmp(out, bytes, len) == 0);
    free(out);
    free(packed);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    if (len < sizeof(uint64_t))
        return false;
    round_trip(bytes, len);
    return unpacks(bytes + sizeof(uint64_t), len - sizeof(uint64_t), load_u64(bytes));
}

static void put(struct fuzz_sink *sink, const uint8_t *body, size_t len) {
    struct buf buf;
    buf_init(&buf);
    buf_put_u64(&buf, len);
    uint8_t *const packed = buf_extend(&buf, pack_bound(len));
    REQUIRE(packed != NULL);
    const size_t n = pack(body, len, packed);
    REQUIRE(n > 0);
    buf.len = sizeof(uint64_t) + n;
    fuzz_put_buf(sink, &buf);
    buf_fini(&buf);
}

void fuzz_seeds(struct fuzz_sink *sink) {
    uint8_t body[2 * PACK_LEAST];
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = i % 8 == 0 ? (uint8_t)(i / 8) : 0; /* small numbers */
    put(sink, body, PACK_LEAST);
    put(sink, body, sizeof body);
    memset(body, 0, sizeof body);
    put(sink, body, sizeof body);
}
