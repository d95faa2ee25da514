#include "proto/half.h"
#include "server/shard_internal.h"

#include <stdlib.h>

/* Floats on their way to being halves: as many rows as stay in the first cache. */
enum { HALF_FLOATS = 4096 };
_Static_assert((int)HALF_FLOATS >= (int)LAYOUT_DIM_MAX, "a row fits");

static void pull_halves(const struct table_slot *slot, const struct section *section,
                        uint8_t *out) {
    const size_t width = table_slot_width(slot);
    float floats[HALF_FLOATS];
    if (width == 0)
        return;
    for (size_t done = 0, n; done < section->rows; done += n) {
        n = HALF_FLOATS / width;
        n = n < section->rows - done ? n : section->rows - done;
        table_pull(slot, section->keys + done * sizeof(uint64_t), n, floats);
        half_encode(floats, n * width, out);
        out += n * width * sizeof(uint16_t);
    }
}

/* Rows of several slots, written straight into the reply frame. Nothing is stored. */
dimfit_err shard_pull(struct shard *shard, const struct shard_message *in,
                      struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    struct section_list *const sections = &shard->sections;
    const bool half = (in->header->mode & PULL_HALF) != 0;
    const size_t value_bytes = half ? sizeof(uint16_t) : sizeof(float);
    if ((in->header->mode & ~(uint32_t)PULL_HALF) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "pull mode %u is none of 0, 1",
                       in->header->mode);
    dimfit_err err = section_parse(sections, in->body, in->len, false, detail);
    if (err != DIMFIT_OK)
        return err;

    struct table_slot **const slots = malloc((sections->n + 1) * sizeof *slots);
    if (slots == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for %zu sections", sections->n);
    err = shard_resolve(shard, false, slots, detail);
    if (err != DIMFIT_OK)
        goto done;

    size_t values = 0;
    for (size_t i = 0; i < sections->n; i++)
        values += (size_t)sections->items[i].rows * table_slot_width(slots[i]);
    if (values > (size_t)WIRE_BODY_MAX / value_bytes) {
        err = err_set(detail, DIMFIT_ERR_LIMIT,
                      "a reply of %zu values is larger than a message may be; ask in parts",
                      values);
        goto done;
    }
    uint8_t *body = NULL;
    err = shard_body(shard, values * value_bytes, reply, &body);
    if (err != DIMFIT_OK)
        goto done;

    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const section = &sections->items[i];
        if (half)
            pull_halves(slots[i], section, body);
        else
            table_pull(slots[i], section->keys, section->rows, (float *)body);
        body += (size_t)section->rows * table_slot_width(slots[i]) * value_bytes;
    }
    shard->counters.pull_requests++;
    shard->counters.keys_pulled += sections->rows;

done:
    free(slots);
    return err;
}
