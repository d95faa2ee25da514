/* The coordinator's state file: what is taken is saved again as a state that is taken, and saved as
 * the same bytes. */
#include "server/coordinator.h"
#include "server/log.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"
#include "tests/fuzz/sealed.h"

#define STATE_MAGIC                                                                                \
    0x3374536d69646400ull /* as in server/coordinator_state.c; a seed says if not                  \
                           */

static int64_t no_time(void *self) {
    return 0;
}

static void no_send(void *self, const struct route *to, const struct wire_header *header,
                    const void *body, size_t len) {
}

static dimfit_err save(void *self, const void *bytes, size_t len, struct err_detail *detail) {
    struct buf *const saved = self;
    saved->len = 0;
    buf_put(saved, bytes, len);
    return buf_status(saved);
}

/* A coordinator begun from a state saves it at once. */
static bool begins(const struct buf *state, struct buf *saved) {
    const struct coordinator_io io = {
        .self = saved, .send = no_send, .now_ms = no_time, .wall_s = no_time, .save = save};
    const struct coordinator_options options = {.shards = 1, .seed = 7, .shrink_at = -1};
    struct coordinator *coordinator = NULL;
    struct err_detail detail;
    if (coordinator_new(&options, &io, state->data, state->len, &coordinator, &detail) != DIMFIT_OK)
        return false;
    coordinator_destroy(&coordinator);
    return true;
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct buf file, first, second;
    log_set_level(LEVEL_ERROR);
    buf_init(&file);
    buf_init(&first);
    buf_init(&second);
    const bool taken = sealed_open(bytes, len, STATE_MAGIC, &file) && begins(&file, &first);
    if (taken)
        REQUIRE(begins(&first, &second) && fuzz_same(&second, first.data, first.len));
    buf_fini(&file);
    buf_fini(&first);
    buf_fini(&second);
    return taken;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct buf state, part;
    buf_init(&state);
    buf_init(&part);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        struct layout *layout = scene_layout(epoch), *before = scene_layout(0);
        struct change *change = scene_change(before, SCENE_ALL);
        buf_put_u8(&state, 1);
        buf_put_u64(&state, 77); /* the cluster, */
        buf_put_u32(&state, 1);  /* of so many shards; */
        buf_put_u8(&state, 1);   /* which of them keep their rows */
        buf_put_u64(&state, 9);  /* the next search */
        layout_encode(layout, &part);
        buf_put_part(&state, &part);
        buf_put_u64(&state, 8); /* the search that made the change */
        buf_put_u8(&state, 0);
        buf_put_u8(&state, epoch > 0);
        if (epoch > 0) {
            change_encode(change, &part);
            buf_put_part(&state, &part);
            layout_encode(before, &part);
            buf_put_part(&state, &part);
        }
        fuzz_put_buf(sink, &state);
        change_destroy(&change);
        layout_destroy(&layout);
        layout_destroy(&before);
    }
    buf_fini(&state);
    buf_fini(&part);
}
