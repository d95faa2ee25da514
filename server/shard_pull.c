#include "proto/half.h"
#include "server/shard_internal.h"

#include <stdlib.h>

/* Floats on their way to being halves: as many rows as stay in the first cache. */
enum { HALF_FLOATS = 4096 };
_Static_assert((int)HALF_FLOATS >= (int)LAYOUT_DIM_MAX, "a row fits");

static void pull_floats(const struct table_slot *slot, const struct section *section, uint8_t *out,
                        uint8_t *tiers) {
    if (tiers != NULL)
        table_pull_tiers(slot, section->keys, section->rows, (float *)out, tiers);
    else
        table_pull(slot, section->keys, section->rows, (float *)out);
}

static void pull_halves(const struct table_slot *slot, const struct section *section, uint8_t *out,
                        uint8_t *tiers) {
    const size_t width = table_slot_width(slot);
    float floats[HALF_FLOATS];
    if (width == 0) {
        pull_floats(slot, section, out, tiers);
        return;
    }
    for (size_t done = 0, n; done < section->rows; done += n) {
        n = HALF_FLOATS / width;
        n = n < section->rows - done ? n : section->rows - done;
        const uint8_t *const keys = section->keys + done * sizeof(uint64_t);
        if (tiers != NULL)
            table_pull_tiers(slot, keys, n, floats, tiers + done);
        else
            table_pull(slot, keys, n, floats);
        half_encode(floats, n * width, out);
        out += n * width * sizeof(uint16_t);
    }
}

/* Where the tiers of rows are asked for, they stand behind the values of all of them. */
static void pull_sections(const struct section_list *sections, struct table_slot *const *slots,
                          uint32_t mode, uint8_t *values, uint8_t *tiers) {
    const bool half = (mode & PULL_HALF) != 0;
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const section = &sections->items[i];
        if (half)
            pull_halves(slots[i], section, values, tiers);
        else
            pull_floats(slots[i], section, values, tiers);
        values += (size_t)section->rows * table_slot_width(slots[i]) *
                  (half ? sizeof(uint16_t) : sizeof(float));
        tiers += tiers != NULL ? section->rows : 0;
    }
}

/* Rows of several slots, written straight into the reply frame. Nothing is stored. */
dimfit_err shard_pull(struct shard *shard, const struct shard_message *in,
                      struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    struct section_list *const sections = &shard->sections;
    const size_t value_bytes = (in->header->mode & PULL_HALF) != 0 ? sizeof(uint16_t)
                                                                   : sizeof(float);
    const bool tiers = (in->header->mode & PULL_TIERS) != 0;
    if ((in->header->mode & ~(uint32_t)(PULL_HALF | PULL_TIERS)) != 0)
        return err_set(detail, DIMFIT_ERR_INVALID, "pull mode %u is none of 0 to 3",
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
    if (values * value_bytes + (tiers ? sections->rows : 0) > WIRE_BODY_MAX) {
        err = err_set(detail, DIMFIT_ERR_LIMIT,
                      "a reply of %zu values is larger than a message may be; ask in parts",
                      values);
        goto done;
    }
    uint8_t *body = NULL;
    err = shard_body(shard, values * value_bytes + (tiers ? sections->rows : 0), reply, &body);
    if (err != DIMFIT_OK)
        goto done;

    pull_sections(sections, slots, in->header->mode, body,
                  tiers ? body + values * value_bytes : NULL);
    shard->counters.pull_requests++;
    shard->counters.keys_pulled += sections->rows;

done:
    free(slots);
    return err;
}
