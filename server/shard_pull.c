#include "server/shard_internal.h"

#include <stdlib.h>

/* Rows of several slots, written straight into the reply frame. Nothing is stored. */
dimfit_err shard_pull(struct shard *shard, const struct shard_message *in,
                      struct shard_reply *reply) {
    struct err_detail *const detail = &reply->header.detail;
    struct section_list *const sections = &shard->sections;
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
    if (values > (size_t)WIRE_BODY_MAX / sizeof(float)) {
        err = err_set(detail, DIMFIT_ERR_LIMIT,
                      "a reply of %zu values is larger than a message may be; ask in parts",
                      values);
        goto done;
    }
    uint8_t *body = NULL;
    err = shard_body(shard, values * sizeof(float), reply, &body);
    if (err != DIMFIT_OK)
        goto done;

    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const section = &sections->items[i];
        table_pull(slots[i], section->keys, section->rows, (float *)body);
        body += (size_t)section->rows * table_slot_width(slots[i]) * sizeof(float);
    }
    shard->counters.pull_requests++;
    shard->counters.keys_pulled += sections->rows;

done:
    free(slots);
    return err;
}
