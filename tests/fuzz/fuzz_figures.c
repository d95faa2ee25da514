/* What a shard says of itself: what decodes encodes to the same bytes. */
#include "server/figures.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct shard_figures figures;
    if (shard_figures_decode(bytes, len, &figures) != DIMFIT_OK)
        return false;
    struct buf buf;
    buf_init(&buf);
    shard_figures_encode(&figures, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    for (size_t i = 0; i < figures.n_slots; i++)
        (void)shard_figures_find(&figures, figures.slots[i].slot);
    buf_fini(&buf);
    shard_figures_fini(&figures);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct slot_figures slots[2] = {{.slot = 3}, {.slot = 8}};
    struct shard_figures figures = {.epoch = 4};
    struct buf buf;
    buf_init(&buf);
    shard_figures_encode(&figures, &buf);
    fuzz_put_buf(sink, &buf);
    figures.n_slots = ARRAY_LEN(slots);
    figures.slots = slots;
    slots[1].table.rows = 1000;
    figures.counters.pull_requests = 17;
    snprintf(figures.process.jemalloc_version, sizeof figures.process.jemalloc_version, "5.3.0");
    shard_figures_encode(&figures, &buf);
    fuzz_put_buf(sink, &buf);
    buf_fini(&buf);
}
