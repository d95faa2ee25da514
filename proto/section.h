/*
 * The body of a pull or a push: several slots' rows in one frame.
 *
 *     offset 0   u32 n_sections, u32 flags
 *            8   n_sections x { u32 slot, u32 rows, u32 width, u32 curved }
 *                u64 keys[sum rows]
 *     push only  f32 gradients[sum rows * width]
 *                u32 lookups[sum rows]             with SECTION_LOOKUPS
 *                u32 clicks[sum rows]              with SECTION_CLICKS
 *                f64 curvature[width * (width + 1) / 2] of each section that has curved > 0,
 *                                                  with SECTION_CURVATURE
 *
 * The curvature of a slot is the sum over its `curved` lookups in the push, on whatever shard they
 * live, of g^T g, g being one lookup's gradient in stored coordinates: the upper triangle, row by
 * row. One part of a push has it.
 *
 * Everything is little-endian and unaligned. A pull's reply has no structure of its own: the values
 * of the sections in the order asked, each rows x width. Replies never echo keys. A parsed section
 * points into the frame; nothing is copied.
 */
#ifndef PROTO_SECTION_H
#define PROTO_SECTION_H

#include "proto/base.h"

enum {
    SECTION_LOOKUPS = 1 << 0,
    SECTION_CLICKS = 1 << 1,
    SECTION_CURVATURE = 1 << 2,
    SECTION_HEAD = 8,
    SECTION_ENTRY = 16,
    SECTIONS_MAX = 65536,
};

struct section {
    uint32_t slot, rows, width;
    uint32_t curved;          /* lookups behind the curvature, 0: there is none */
    const uint8_t *keys;      /* rows x u64 */
    const uint8_t *grads;     /* rows x width x f32, NULL for a pull */
    const uint8_t *lookups;   /* rows x u32, NULL when not given: one each */
    const uint8_t *clicks;    /* rows x u32, NULL when not given: none */
    const uint8_t *curvature; /* section_triangle(width) x f64, NULL when not given */
};

struct section_list {
    size_t n, cap;
    uint64_t rows, values; /* sums of rows, of rows * width */
    uint64_t curvature;    /* f64 of all curvatures */
    struct section *items;
};

void section_list_fini(struct section_list *list);

/* Take a body apart. The length must be exact: PROTOCOL with the offending number otherwise. Reuses
 * list's memory; zero-initialise it once. A push names each slot once, ascending, so that what it
 * takes can be made sure of beforehand; a pull may repeat them in any order. */
dimfit_err section_parse(struct section_list *list, const void *body, size_t len, bool push,
                         struct err_detail *detail) MUST_CHECK;

/* Numbers in the upper triangle of a symmetric matrix. */
static inline uint64_t section_triangle(uint64_t width) {
    return width * (width + 1) / 2;
}

/* Bytes of a body with these sums, its curvatures not counted; a pull has no flags. */
size_t section_body_size(size_t n_sections, uint64_t rows, uint64_t values, bool push,
                         uint32_t flags);

/* Write the head and the entries of a body (slot, rows, width, curved of each item); returns the
 * offset of the keys. */
size_t section_put_head(uint8_t *body, const struct section *items, size_t n, uint32_t flags);

#endif
