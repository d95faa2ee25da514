#include "proto/section.h"

#include <stdlib.h>

void section_list_fini(struct section_list *list) {
    free(list->items);
    *list = (struct section_list){0};
}

enum { FLAGS_ALL = SECTION_LOOKUPS | SECTION_CLICKS | SECTION_CURVATURE };

size_t section_body_size(size_t n_sections, uint64_t rows, uint64_t values, bool push,
                         uint32_t flags) {
    const uint64_t counts = (flags & SECTION_LOOKUPS ? 1 : 0) + (flags & SECTION_CLICKS ? 1 : 0);
    return SECTION_HEAD + n_sections * SECTION_ENTRY + rows * sizeof(uint64_t) +
           (push ? values * sizeof(float) + counts * rows * sizeof(uint32_t) : 0);
}

static bool reserve(struct section_list *list, size_t n) {
    if (n <= list->cap)
        return true;
    struct section *const items = realloc(list->items, n * sizeof *items);
    if (items == NULL)
        return false;
    list->items = items;
    list->cap = n;
    return true;
}

/* Entry by entry, so that the sums can't overflow: 65536 sections of 2^32 rows of 2^32 values do
 * not fit 64 bits, and a body of that length can't be here. */
static dimfit_err read_entries(struct section_list *list, const uint8_t *entries, size_t len,
                               bool push, uint32_t flags, struct err_detail *detail) {
    list->rows = list->values = list->curvature = 0;
    for (size_t i = 0; i < list->n; i++, entries += SECTION_ENTRY) {
        struct section *const s = &list->items[i];
        *s = (struct section){
            .slot = load_u32(entries),
            .rows = load_u32(entries + 4),
            .width = load_u32(entries + 8),
            .curved = load_u32(entries + 12),
        };
        if (push && i > 0 && s->slot <= s[-1].slot)
            return err_set(detail, DIMFIT_ERR_PROTOCOL,
                           "slot %u of a push comes after slot %u; slots ascend", s->slot,
                           s[-1].slot);
        const uint64_t values = (uint64_t)s->rows * s->width;
        list->rows += s->rows;
        list->values += values;
        if (list->rows > len / sizeof(uint64_t) || values > UINT32_MAX || list->values > UINT32_MAX)
            return err_set(
                detail, DIMFIT_ERR_PROTOCOL,
                "section %zu (slot %u) says %u rows of %u values, the body has %zu bytes", i,
                s->slot, s->rows, s->width, len);
        if (s->curved == 0)
            continue;
        if ((flags & SECTION_CURVATURE) == 0 || s->width > len)
            return err_set(detail, DIMFIT_ERR_PROTOCOL,
                           "section %zu (slot %u) has no room for a curvature of %u lookups", i,
                           s->slot, s->curved);
        list->curvature += section_triangle(s->width);
        if (list->curvature > len / sizeof(double))
            return err_set(detail, DIMFIT_ERR_PROTOCOL,
                           "the curvature of slot %u, %u wide, does not fit a body of %zu bytes",
                           s->slot, s->width, len);
    }
    return DIMFIT_OK;
}

/* Set the pointers of sections whose sizes were checked. */
static void point(struct section_list *list, const uint8_t *keys, bool push, uint32_t flags) {
    const uint8_t *grads = keys + list->rows * sizeof(uint64_t);
    const uint8_t *lookups = grads + list->values * sizeof(float);
    const size_t counts = list->rows * sizeof(uint32_t);
    const uint8_t *clicks = lookups + ((flags & SECTION_LOOKUPS) != 0 ? counts : 0);
    const uint8_t *curvature = clicks + ((flags & SECTION_CLICKS) != 0 ? counts : 0);
    for (size_t i = 0; i < list->n; i++) {
        struct section *const s = &list->items[i];
        s->keys = keys;
        keys += (size_t)s->rows * sizeof(uint64_t);
        if (!push)
            continue;
        s->grads = grads;
        grads += (size_t)s->rows * s->width * sizeof(float);
        s->lookups = (flags & SECTION_LOOKUPS) != 0 ? lookups : NULL;
        s->clicks = (flags & SECTION_CLICKS) != 0 ? clicks : NULL;
        lookups += (size_t)s->rows * sizeof(uint32_t);
        clicks += (size_t)s->rows * sizeof(uint32_t);
        if (s->curved > 0) {
            s->curvature = curvature;
            curvature += section_triangle(s->width) * sizeof(double);
        }
    }
}

dimfit_err section_parse(struct section_list *list, const void *body, size_t len, bool push,
                         struct err_detail *detail) {
    const uint8_t *at = body;
    if (len < SECTION_HEAD)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "a body of %zu bytes has no sections", len);
    const size_t n = load_u32(at);
    const uint32_t flags = load_u32(at + 4);
    if (n > SECTIONS_MAX || n * SECTION_ENTRY > len - SECTION_HEAD)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu sections do not fit a body of %zu bytes",
                       n, len);
    if ((flags & ~(uint32_t)FLAGS_ALL) != 0 || (flags != 0 && !push))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "section flags %#x are not known", flags);
    if (!reserve(list, n))
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %zu sections", n);
    list->n = n;
    const dimfit_err err = read_entries(list, at + SECTION_HEAD, len, push, flags, detail);
    if (err != DIMFIT_OK)
        return err;
    const size_t whole = section_body_size(n, list->rows, list->values, push, flags) +
                         list->curvature * sizeof(double);
    if (whole != len)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "the sections add up to %zu bytes, the body has %zu", whole, len);

    point(list, at + SECTION_HEAD + n * SECTION_ENTRY, push, flags);
    return DIMFIT_OK;
}

size_t section_put_head(uint8_t *body, const struct section *items, size_t n, uint32_t flags) {
    const uint32_t head[2] = {(uint32_t)n, flags};
    memcpy(body, head, sizeof head);
    for (size_t i = 0; i < n; i++) {
        const uint32_t entry[4] = {items[i].slot, items[i].rows, items[i].width, items[i].curved};
        memcpy(body + SECTION_HEAD + i * SECTION_ENTRY, entry, sizeof entry);
    }
    return SECTION_HEAD + n * SECTION_ENTRY;
}
