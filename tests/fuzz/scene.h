/*
 * Layouts and changes that targets begin with: small, and of every form that the encodings know.
 *
 * Slots of scene_layout(0): 1 plain, 2 with everything retention has, 3 of ftrl, 4
 * outside searches of width 1. In epoch 1, made by scene_change(), slot 1 has a dense basis and one
 * direction less, slot 2 selected axes, slot 3 an added axis.
 */
#ifndef TESTS_FUZZ_SCENE_H
#define TESTS_FUZZ_SCENE_H

#include "proto/change.h"

enum { SCENE_SLOTS = 4 };

/* Specifications of the slots, as they are configured; [SCENE_SLOTS]. */
const struct layout_slot *scene_slots(void);

struct layout *scene_layout(uint64_t epoch); /* 0 or 1 */

/* From epoch `from` of a layout with the scene's slots, whatever their widths are. bits choose: */
enum scene_change_bits {
    SCENE_TURN = 1 << 0,  /* slot 1 becomes dense and loses a direction */
    SCENE_KEEP = 1 << 1,  /* slot 2 loses a coordinate */
    SCENE_GROW = 1 << 2,  /* slot 3 gains an axis, drawn */
    SCENE_SHIFT = 1 << 3, /* of the dense one */
    SCENE_ALL = 15,
};
/* NULL when nothing can change so. */
struct change *scene_change(const struct layout *layout, unsigned bits);

#endif
