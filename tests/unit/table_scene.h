/*
 * A layout of one slot, a table of it, and keys and gradients to push: what tests of the table
 * start from.
 */
#ifndef TESTS_TABLE_SCENE_H
#define TESTS_TABLE_SCENE_H

#include "server/table.h"

enum {
    SLOT = 7,
    DIM = 12,
    KEYS_MAX = 4000,
};

/* Keys and gradients lie one byte past their alignment. */
struct fixture {
    struct layout *layout;
    struct table *table;
    struct table_slot *slot;
    uint8_t keys[KEYS_MAX * 8 + 1];
    uint8_t grads[KEYS_MAX * DIM * 4 + 1];
};

/* Aligned allocations come through here, so that a test may have them fail after a while, and see
 * what was asked for. */
extern long allocations_left; /* -1: no end */
extern size_t allocated;

uint64_t mix(uint64_t x);
double noise(uint64_t x); /* from -1 to 1 */

struct fixture *setup(enum optimizer_kind kind);
struct fixture *setup_spec(const struct layout_slot *spec); /* spec_of(SLOT, ...), or like it */
struct fixture *setup_retaining(enum optimizer_kind kind, struct retention retention);
void teardown(struct fixture *f);

struct layout_slot spec_of(uint32_t id, enum optimizer_kind kind);
void add_slot(struct fixture *f, uint32_t id, enum optimizer_kind kind);

uint8_t *keys_of(struct fixture *f);
uint8_t *grads_of(struct fixture *f);
void set_key(struct fixture *f, size_t i, uint64_t key);
void set_grad(struct fixture *f, size_t i, float g);
float grad_at(struct fixture *f, size_t i);

/* n keys, each of them one of `range`, with gradients of their own. */
void fill(struct fixture *f, size_t n, uint64_t range, uint64_t seed);
void push(struct fixture *f, struct table_slot *slot, size_t n, const struct score_sums *sums);
/* Some thousand rows with all optimizer state in use. */
void train(struct fixture *f, struct table_slot *slot);
/* Make a change that must succeed, once the rows of the one before are home. `before`: the layout
 * that it undoes to, or NULL. */
void take(struct fixture *f, const struct change *change, const struct layout *before);
/* All rows of a change, in slices. */
void move_all(struct table *table);
/* Rows until the table refuses more: how many it took, n at a time. */
uint64_t fill_up(struct fixture *f, size_t n);

/* Bit for bit the same rows in both slots. */
void assert_same_rows(const struct table_slot *a, const struct table_slot *b, uint64_t range,
                      size_t state_width);

#endif
