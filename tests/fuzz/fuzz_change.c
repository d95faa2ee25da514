/* A change that decodes encodes to the same bytes; where it fits a layout, what it makes is one
 * that travels, and undoing it leads back. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"

static void require_travels(const struct layout *layout) {
    struct layout *copy = NULL;
    struct buf buf;
    buf_init(&buf);
    layout_encode(layout, &buf);
    REQUIRE(buf_status(&buf) == DIMFIT_OK);
    REQUIRE(layout_decode(buf.data, buf.len, &copy, NULL) == DIMFIT_OK);
    layout_destroy(&copy);
    buf_fini(&buf);
}

static void require_undone(const struct change *change, const struct layout *before,
                           const struct layout *after) {
    struct change *undo = NULL;
    struct layout *back = NULL;
    REQUIRE(change_undo(change, after->epoch + 1, &undo) == DIMFIT_OK);
    REQUIRE(change_apply(undo, after, before, &back, NULL) == DIMFIT_OK);
    for (size_t i = 0; i < back->n_slots; i++)
        REQUIRE(back->slots[i].width == before->slots[i].width);
    require_travels(back);
    change_destroy(&undo);
    layout_destroy(&back);
}

static void apply(const struct change *change, const struct layout *layout) {
    struct layout *after = NULL;
    struct err_detail detail;
    if (change->undoes != 0 || change_apply(change, layout, NULL, &after, &detail) != DIMFIT_OK)
        return;
    require_travels(after);
    if (change->to_epoch < UINT64_MAX)
        require_undone(change, layout, after);
    layout_destroy(&after);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct change *change = NULL;
    struct err_detail detail;
    if (change_decode(bytes, len, &change, &detail) != DIMFIT_OK)
        return false;
    struct buf buf;
    buf_init(&buf);
    change_encode(change, &buf);
    REQUIRE(fuzz_same(&buf, bytes, len));
    buf_fini(&buf);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        struct layout *layout = scene_layout(epoch);
        apply(change, layout);
        layout_destroy(&layout);
    }
    change_destroy(&change);
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct buf buf;
    buf_init(&buf);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        struct layout *layout = scene_layout(epoch);
        for (unsigned bits = 1; bits <= SCENE_ALL; bits++) {
            struct change *change = scene_change(layout, bits), *undo = NULL;
            if (change == NULL)
                continue;
            change_encode(change, &buf);
            fuzz_put_buf(sink, &buf);
            REQUIRE(change_undo(change, change->to_epoch + 1, &undo) == DIMFIT_OK);
            change_encode(undo, &buf);
            fuzz_put_buf(sink, &buf);
            change_destroy(&undo);
            change_destroy(&change);
        }
        layout_destroy(&layout);
    }
    buf_fini(&buf);
}
