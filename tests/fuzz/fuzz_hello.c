/* How a shard introduces itself: what decodes encodes to the same bytes. */
#include "server/hello.h"
#include "tests/fuzz/fuzz.h"

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct hello hello;
    if (hello_decode(bytes, len, &hello) != DIMFIT_OK)
        return false;
    struct buf buf;
    buf_init(&buf);
    hello_encode(&hello, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    buf_fini(&buf);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const struct hello hellos[] = {
        {.endpoint = "tcp://10.0.0.2:41000", .pid = 99, .number = HELLO_NO_NUMBER},
        {.endpoint = "", .number = 3, .epoch = 5, .prepared_epoch = 6, .search = 7}};
    struct buf buf;
    buf_init(&buf);
    for (size_t i = 0; i < ARRAY_LEN(hellos); i++) {
        hello_encode(&hellos[i], &buf);
        fuzz_put_buf(sink, &buf);
    }
    buf_fini(&buf);
}
