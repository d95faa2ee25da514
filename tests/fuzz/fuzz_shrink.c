/* The rules of a shrink: what decodes has thresholds in range and encodes to the same bytes. */
#include "proto/retention.h"
#include "proto/shrink.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct shrink_rule *rules = NULL;
    struct err_detail detail;
    size_t n = 0;
    if (shrink_decode(bytes, len, &rules, &n, &detail) != DIMFIT_OK)
        return false;
    for (size_t i = 0; i < n; i++)
        REQUIRE(rules[i].expire_days <= RETENTION_DAYS_MAX && rules[i].expire_shows >= 0 &&
                (rules[i].expire_days > 0 || rules[i].expire_shows > 0));
    struct buf buf;
    buf_init(&buf);
    shrink_encode(rules, n, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    buf_fini(&buf);
    free(rules);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const struct shrink_rule rules[] = {{1, 7, 0}, {2, 0, 1.5f}, {900, 30, 2}};
    struct buf buf;
    buf_init(&buf);
    for (size_t n = 1; n <= ARRAY_LEN(rules); n++) {
        shrink_encode(rules, n, &buf);
        fuzz_put_buf(sink, &buf);
    }
    buf_fini(&buf);
}
