/* A header that decodes encodes to bytes that decode to the same header. */
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct wire_header header, again;
    struct err_detail detail;
    if (wire_decode(bytes, len, &header, &detail) != DIMFIT_OK)
        return false;
    uint8_t first[WIRE_HEADER_MAX], second[WIRE_HEADER_MAX];
    const size_t n = wire_encode(&header, first);
    REQUIRE(n <= sizeof first && wire_decode(first, n, &again, &detail) == DIMFIT_OK);
    REQUIRE(wire_encode(&again, second) == n && memcmp(first, second, n) == 0);
    REQUIRE(wire_kind_name(header.kind)[0] != 0 && wire_phase_name(header.phase)[0] != '?');
    REQUIRE(err_name(header.status)[0] != 0 && err_text(header.status)[0] != 0);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct wire_header header = {
        .kind = WIRE_PUSH,
        .mode = PUSH_TRAIN | PUSH_SCORE,
        .timeout_ms = 10000,
        .day = 20000,
        .request = 1ull << 40,
        .client = 0xfedcba9876543210ull,
        .incarnation = 3,
        .seq = 77,
        .epoch = 2,
        .step = 9,
        .samples = 512,
        .plain = 4096,
        .name = "table",
    };
    uint8_t bytes[WIRE_HEADER_MAX];
    fuzz_put(sink, bytes, wire_encode(&header, bytes));
    header = (struct wire_header){
        .kind = WIRE_PULL,
        .reply = true,
        .frozen = true,
        .curvature = true,
        .phase = PHASE_SCORING,
        .status = DIMFIT_ERR_STALE_EPOCH,
        .tag = 5,
        .moving = 100,
    };
    snprintf(header.detail.text, sizeof header.detail.text, "the cluster is at another epoch");
    fuzz_put(sink, bytes, wire_encode(&header, bytes));
    memset(header.detail.text, 'x', sizeof header.detail.text - 1);
    memset(header.name, 'y', sizeof header.name - 1);
    fuzz_put(sink, bytes, wire_encode(&header, bytes));
    header = (struct wire_header){.kind = WIRE_STOP};
    fuzz_put(sink, bytes, wire_encode(&header, bytes));
}
