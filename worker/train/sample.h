/*
 * One sample as a parser reads it: its label and, per slot, the feasigns it has.
 */
#ifndef TRAIN_SAMPLE_H
#define TRAIN_SAMPLE_H

#include "proto/base.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum {
    SAMPLE_SLOT_NAME = 64,      /* with its NUL */
    SAMPLE_ITEMS_MAX = 1 << 20, /* feasigns of one sample */
};
#define SAMPLE_SLOT_LINEAR                                                                         \
    UINT32_C(4000000000) /* the first-order weights; data slots lie below                          \
                          */

struct sample_item {
    uint32_t slot;
    float weight; /* the feasign's value, 1 where the format has none */
    uint64_t feasign;
};

struct sample {
    float label; /* 0 or 1 */
    size_t n, cap;
    struct sample_item *items;
};

void sample_fini(struct sample *s);

/* LIMIT beyond SAMPLE_ITEMS_MAX. */
dimfit_err sample_add(struct sample *s, uint32_t slot, uint64_t feasign, float weight) MUST_CHECK;

/* A label is 0, 1 or -1 (0 again), also written as 0.0, +1 and so on. */
bool sample_parse_label(const char *text, float *out);

/* A finite number and nothing else; false otherwise. text is NUL-terminated. */
bool sample_parse_number(const char *text, double *out);

/* Decimal digits and nothing else, within 64 bits. */
bool sample_parse_u64(const char *text, uint64_t *out);

/* The feasign of a value of text: a hash of its bytes, seeded by the slot. */
static inline uint64_t sample_feasign(uint32_t slot, const char *text, size_t len) {
    return XXH3_64bits_withSeed(text, len, slot);
}

#endif
