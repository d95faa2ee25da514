/* A kept plan that decodes encodes to bytes that decode to the same. */
#include "server/kept_plan.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"
#include "tests/fuzz/sealed.h"

#include <stdlib.h>

#define PLAN_MAGIC 0x316e616c50646400ull /* as in server/kept_plan.c; a seed says if it is not */

static bool decodes(const struct buf *file) {
    struct kept_plan *plan = NULL, *again = NULL;
    struct err_detail detail;
    if (kept_plan_decode(file->data, file->len, &plan, &detail) != DIMFIT_OK)
        return false;
    struct buf first, second;
    buf_init(&first);
    buf_init(&second);
    kept_plan_encode(plan, &first);
    REQUIRE(buf_status(&first) == DIMFIT_OK);
    REQUIRE(kept_plan_decode(first.data, first.len, &again, &detail) == DIMFIT_OK);
    kept_plan_encode(again, &second);
    REQUIRE(fuzz_same(&second, first.data, first.len));
    buf_fini(&first);
    buf_fini(&second);
    kept_plan_destroy(&plan);
    kept_plan_destroy(&again);
    return true;
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct buf file;
    buf_init(&file);
    const bool taken = sealed_open(bytes, len, PLAN_MAGIC, &file) && decodes(&file);
    buf_fini(&file);
    return taken;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    struct layout *layout = scene_layout(0);
    struct buf buf;
    buf_init(&buf);
    for (unsigned bits = 1; bits <= SCENE_ALL; bits += 2) {
        struct kept_plan *plan = calloc(1, sizeof *plan);
        REQUIRE(plan != NULL);
        plan->id = bits;
        plan->applied = bits == 1 ? 0 : 1;
        plan->undone = bits > 1;
        plan->change = scene_change(layout, bits);
        plan->report = json_pack("{s:f, s:s, s:[i,i], s:n}", "kappa", 0.25, "strategy", "sseds",
                                 "slots", 1, 2, "none");
        REQUIRE(plan->change != NULL && plan->report != NULL);
        kept_plan_encode(plan, &buf);
        sealed_input(&buf);
        fuzz_put_buf(sink, &buf);
        kept_plan_destroy(&plan);
    }
    layout_destroy(&layout);
    buf_fini(&buf);
}
