#include "tests/fuzz/scene.h"

#include "tests/fuzz/fuzz.h"

static const struct layout_slot specifications[SCENE_SLOTS] = {
    {.id = 1,
     .dim = 4,
     .width = 4,
     .search = true,
     .name = "user",
     .optimizer = {.kind = OPTIMIZER_ROWWISE_ADAGRAD, .lr = 0.05f, .eps = 1e-8f},
     .init = INIT_NORMAL,
     .init_scale = 0.01f},
    {.id = 2,
     .dim = 3,
     .width = 3,
     .search = true,
     .name = "item",
     .optimizer = {.kind = OPTIMIZER_ADAM, .lr = 0.1f, .eps = 1e-8f, .beta1 = 0.9f, .beta2 = 0.99f},
     .init = INIT_UNIFORM,
     .init_scale = 0.1f,
     .retention = {.admit = 2,
                   .expire_days = 7,
                   .expire_shows = 0.5f,
                   .decay = 0.9f,
                   .clicks = true,
                   .last_seen = true}},
    {.id = 3,
     .dim = 3,
     .width = 2,
     .search = true,
     .name = "hour",
     .optimizer = {.kind = OPTIMIZER_FTRL, .lr = 0.1f, .beta = 1, .l1 = 0.1f, .l2 = 0.1f},
     .init = INIT_ZERO},
    {.id = 4,
     .dim = 1,
     .width = 1,
     .name = "linear",
     .optimizer = {.kind = OPTIMIZER_SGD, .lr = 0.1f},
     .init = INIT_ZERO},
};

const struct layout_slot *scene_slots(void) {
    return specifications;
}

struct layout *scene_layout(uint64_t epoch) {
    struct layout *layout = NULL, *after = NULL;
    REQUIRE(layout_new(0, 7, &layout) == DIMFIT_OK);
    for (size_t i = 0; i < SCENE_SLOTS; i++)
        REQUIRE(layout_add_slot(layout, &specifications[i], NULL) == DIMFIT_OK);
    if (epoch == 0)
        return layout;
    struct change *change = scene_change(layout, SCENE_ALL);
    REQUIRE(change != NULL && change_apply(change, layout, NULL, &after, NULL) == DIMFIT_OK);
    change_destroy(&change);
    layout_destroy(&layout);
    return after;
}

/* Turned by a right angle in the first two coordinates, the last one left out. */
static void turn(struct change_slot *slot, uint32_t width, bool shift) {
    REQUIRE(change_slot_alloc(slot, 1, width, width - 1, true) == DIMFIT_OK);
    for (uint32_t k = 0; k + 1 < width; k++) {
        const uint32_t from = k == 0 && width > 2 ? 1 : k == 1 ? 0 : k;
        slot->T[from * (width - 1) + k] = slot->N[from * (width - 1) + k] = k == 1 ? -1 : 1;
    }
    if (shift)
        slot->shift[0] = 0.25;
}

/* Rows of lower tiers keep one coordinate. */
static void keep(struct change_slot *slot, const struct layout_slot *is) {
    const uint32_t width = is->width;
    uint32_t to[LAYOUT_TIERS_MAX];
    for (uint32_t t = 0; t < is->n_tiers; t++)
        to[t] = t + 1 < is->n_tiers ? 1 : width - 1;
    REQUIRE(change_slot_alloc(slot, 2, width, width - 1, false) == DIMFIT_OK);
    change_slot_tiers(slot, is->n_tiers, is->tier_widths, to);
    for (uint32_t k = 0; k + 1 < width; k++)
        slot->keep[k] = (uint16_t)(width - 1 - k);
}

static void grow(struct change_slot *slot, const struct layout_slot *is) {
    REQUIRE(change_slot_alloc_added(slot, is->id, is->dim, is->width, is->width + 1, 1, false) ==
            DIMFIT_OK);
    bool taken[LAYOUT_DIM_MAX] = {false};
    for (uint32_t k = 0; k < is->width; k++) {
        slot->keep[k] = (uint16_t)k;
        taken[is->axes[k]] = true;
    }
    uint32_t axis = 0;
    while (taken[axis])
        axis++;
    slot->columns[axis] = 1;
    slot->drawn = true;
}

struct change *scene_change(const struct layout *layout, unsigned bits) {
    const struct layout_slot *const user = layout_find(layout, 1),
                                    *const item = layout_find(layout, 2),
                                    *const hour = layout_find(layout, 3);
    const bool turns = (bits & SCENE_TURN) != 0 && user->width > 1;
    const bool keeps = (bits & SCENE_KEEP) != 0 && item->width > 1;
    const bool grows = (bits & SCENE_GROW) != 0 && hour->width < hour->dim;
    const size_t n = (size_t)turns + keeps + grows;
    struct change *change = NULL;
    if (n == 0)
        return NULL;
    REQUIRE(change_new(layout->epoch, layout->epoch + 1, n, &change) == DIMFIT_OK);
    size_t i = 0;
    if (turns)
        turn(&change->slots[i++], user->width, (bits & SCENE_SHIFT) != 0);
    if (keeps)
        keep(&change->slots[i++], item);
    if (grows)
        grow(&change->slots[i++], hour);
    return change;
}
