/* A layout that decodes encodes to the same bytes, and can be copied and looked into. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"

#include <stdlib.h>

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct layout *layout = NULL, *copy = NULL;
    struct err_detail detail;
    if (layout_decode(bytes, len, &layout, &detail) != DIMFIT_OK)
        return false;
    struct buf buf;
    buf_init(&buf);
    REQUIRE(layout_copy(layout, &copy) == DIMFIT_OK);
    layout_encode(copy, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    for (size_t i = 0; i < layout->n_slots; i++) {
        const struct layout_slot *const slot = &layout->slots[i];
        double mean[LAYOUT_DIM_MAX];
        double *const M = malloc((size_t)slot->dim * slot->width * sizeof *M + 1);
        REQUIRE(M != NULL && layout_find(layout, slot->id) == slot);
        layout_slot_basis(slot, M);
        layout_slot_mean(slot, mean);
        REQUIRE(layout_orthonormal_error(M, slot->dim, slot->width) <= 1e-6);
        free(M);
    }
    buf_fini(&buf);
    layout_destroy(&layout);
    layout_destroy(&copy);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct buf buf;
    buf_init(&buf);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        struct layout *layout = scene_layout(epoch);
        layout_encode(layout, &buf);
        fuzz_put_buf(sink, &buf);
        layout_destroy(&layout);
    }
    struct layout *empty;
    REQUIRE(layout_new(3, 4, &empty) == DIMFIT_OK);
    layout_encode(empty, &buf);
    fuzz_put_buf(sink, &buf);
    layout_destroy(&empty);
    buf_fini(&buf);
}
