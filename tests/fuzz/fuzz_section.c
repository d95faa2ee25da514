/* First byte: a pull's body or a push's. Sections that parse lie within the body, one behind the
 * other, and their heads can be written again. */
#include "proto/section.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

struct walk {
    const uint8_t *at;
    uint64_t sum; /* so that every byte is read */
};

static void step(struct walk *walk, const uint8_t *array, size_t bytes) {
    REQUIRE(array == walk->at);
    for (size_t i = 0; i < bytes; i++)
        walk->sum += array[i];
    walk->at += bytes;
}

static void walk_counts(struct walk *walk, const struct section_list *list, bool clicks) {
    for (size_t i = 0; i < list->n; i++) {
        const struct section *const s = &list->items[i];
        const uint8_t *const counts = clicks ? s->clicks : s->lookups;
        if (counts != NULL)
            step(walk, counts, (size_t)s->rows * sizeof(uint32_t));
    }
}

static void walk_all(const struct section_list *list, const uint8_t *keys, const uint8_t *end,
                     bool push) {
    struct walk walk = {.at = keys};
    for (size_t i = 0; i < list->n; i++)
        step(&walk, list->items[i].keys, (size_t)list->items[i].rows * sizeof(uint64_t));
    for (size_t i = 0; i < list->n && push; i++)
        step(&walk, list->items[i].grads,
             (size_t)list->items[i].rows * list->items[i].width * sizeof(float));
    walk_counts(&walk, list, false);
    walk_counts(&walk, list, true);
    for (size_t i = 0; i < list->n; i++) {
        if (list->items[i].curvature != NULL)
            step(&walk, list->items[i].curvature,
                 section_triangle(list->items[i].width) * sizeof(double));
    }
    REQUIRE(walk.at == end && walk.sum < UINT64_MAX);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    if (len == 0)
        return false;
    const bool push = (bytes[0] & 1) != 0;
    uint8_t *const body = fuzz_copy(bytes + 1, len - 1);
    struct section_list list = {0};
    struct err_detail detail;
    const bool taken = section_parse(&list, body, len - 1, push, &detail) == DIMFIT_OK;
    if (taken) {
        uint8_t *const head = malloc(SECTION_HEAD + list.n * SECTION_ENTRY);
        REQUIRE(head != NULL);
        const uint32_t flags = load_u32(body + 4);
        const size_t keys = section_put_head(head, list.items, list.n, flags);
        REQUIRE(keys <= len - 1 && memcmp(head, body, keys) == 0);
        walk_all(&list, body + keys, body + len - 1, push);
        free(head);
    }
    section_list_fini(&list);
    free(body);
    return taken;
}

static void put(struct fuzz_sink *sink, bool push, uint32_t flags, const struct section *items,
                size_t n) {
    uint64_t rows = 0, values = 0, curvature = 0;
    for (size_t i = 0; i < n; i++) {
        rows += items[i].rows;
        values += (uint64_t)items[i].rows * items[i].width;
        curvature += items[i].curved > 0 ? section_triangle(items[i].width) : 0;
    }
    const size_t len = section_body_size(n, rows, values, push, flags) + curvature * sizeof(double);
    struct buf buf;
    buf_init(&buf);
    buf_put_u8(&buf, push);
    uint8_t *const body = buf_extend(&buf, len);
    REQUIRE(body != NULL);
    memset(body, 1, len);
    (void)section_put_head(body, items, n, flags);
    fuzz_put_buf(sink, &buf);
    buf_fini(&buf);
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const struct section some[] = {{.slot = 1, .rows = 3, .width = 4},
                                   {.slot = 2, .rows = 1, .width = 3, .curved = 5},
                                   {.slot = 9, .rows = 0, .width = 1}};
    const struct section again[] = {{.slot = 7, .rows = 2}, {.slot = 7, .rows = 1}};
    put(sink, true, SECTION_LOOKUPS | SECTION_CLICKS | SECTION_CURVATURE, some, 3);
    put(sink, true, SECTION_LOOKUPS, some, 1);
    put(sink, true, 0, some, 1);
    put(sink, false, 0, again, 2);
    put(sink, false, 0, NULL, 0);
}
