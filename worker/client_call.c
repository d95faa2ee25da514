#include "worker/client_call.h"

#include "worker/client_curvature.h"

#include <stdlib.h>

/* ---- memory ---------------------------------------------------------------------------------- */

static void call_free(struct dimfit_call *call) {
    for (size_t i = 0; i < call->cap; i++) {
        keys_fini(&call->slots[i].keys);
        free(call->slots[i].sums);
        free(call->slots[i].clicks);
        free(call->slots[i].curvature);
    }
    free(call->slots);
    free(call->rows);
    free(call->sections);
    free(call->exchange.parts);
    call->magic = 0;
    free(call);
}

void calls_destroy(struct dimfit *c) {
    for (struct dimfit_call *call = c->calls, *next; call != NULL; call = next) {
        next = call->next;
        exchange_drop(c, &call->exchange);
        exchange_fini(&call->exchange);
        call_free(call);
    }
    for (struct dimfit_call *call = c->spare, *next; call != NULL; call = next) {
        next = call->next;
        call_free(call);
    }
    c->calls = c->spare = NULL;
}

/* Grow one array, keeping the old on failure. */
static bool grow(void *array, size_t n, size_t size) {
    void *old;
    memcpy(&old, array, sizeof old);
    void *const grown = realloc(old, n * size);
    if (grown != NULL)
        memcpy(array, &grown, sizeof grown);
    return grown != NULL;
}

static bool reserve_slots(struct dimfit_call *call, size_t n) {
    if (n <= call->cap)
        return true;
    if (!grow(&call->rows, n, sizeof *call->rows) ||
        !grow(&call->sections, n, sizeof *call->sections) ||
        !grow(&call->slots, n, sizeof *call->slots))
        return false;
    memset(call->slots + call->cap, 0, (n - call->cap) * sizeof *call->slots);
    call->cap = n;
    return true;
}

static bool reserve_parts(struct dimfit_call *call, size_t n) {
    if (n > call->cap_parts) {
        if (!grow(&call->exchange.parts, n, sizeof *call->exchange.parts))
            return false;
        call->cap_parts = n;
    }
    return true;
}

static struct dimfit_call *take_spare(struct dimfit *c) {
    struct dimfit_call *const call = c->spare;
    if (call == NULL)
        return calloc(1, sizeof *call);
    c->spare = call->next;
    return call;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* All parts of a call must fit one message, so that the largest of them does. */
static dimfit_err check_size(struct dimfit *c, const struct dimfit_rows *rows, size_t n) {
    size_t bytes = n * SECTION_ENTRY;
    bool fits = n <= SECTIONS_MAX;
    for (size_t i = 0; fits && i < n; i++) {
        const size_t row = rows[i].width * sizeof(float) + sizeof(uint64_t) + 2 * sizeof(uint32_t);
        size_t more;
        fits = size_mul(rows[i].n, row, &more) &&
               more <= (size_t)WIRE_BODY_MAX - SECTION_HEAD - bytes;
        bytes += fits ? more : 0;
    }
    if (fits)
        return DIMFIT_OK;
    return err_set(&c->detail, DIMFIT_ERR_LIMIT,
                   "a call may have %d slots and %zu bytes of keys and values; split it",
                   SECTIONS_MAX, (size_t)WIRE_BODY_MAX);
}

dimfit_err call_new(struct dimfit *c, enum dimfit_view view, const struct dimfit_rows *rows,
                    size_t n, struct dimfit_call **out) {
    if (view != DIMFIT_FULL && view != DIMFIT_COMPACT)
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "view %d is none of 0, 1", (int)view);
    if (c->n_calls == DIMFIT_CALLS_MAX)
        return err_set(&c->detail, DIMFIT_ERR_LIMIT,
                       "%d calls are under way; wait for one of them first", DIMFIT_CALLS_MAX);
    const dimfit_err err = check_size(c, rows, n);
    if (err != DIMFIT_OK)
        return err;
    struct dimfit_call *const call = take_spare(c);
    if (call == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a call");
    call->magic = CALL_MAGIC;
    call->view = view;
    call->n = 0;
    call->summed = false;
    call->finish = NULL;
    call->exchange = (struct exchange){.parts = call->exchange.parts, .self = call};
    call->next = c->calls;
    c->calls = call;
    c->n_calls++;
    if (!reserve_slots(call, n)) {
        call_end(c, call);
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a call of %zu slots", n);
    }
    call->n = n;
    if (n > 0)
        memcpy(call->rows, rows, n * sizeof *rows);
    for (size_t i = 0; i < n; i++) {
        call->slots[i].counts = NULL;
        call->slots[i].curved = 0;
    }
    *out = call;
    return DIMFIT_OK;
}

void call_end(struct dimfit *c, struct dimfit_call *call) {
    CHECK_OBJ_NOTNULL(call, CALL_MAGIC);
    struct dimfit_call **at = &c->calls;
    while (*at != call)
        at = &(*at)->next;
    *at = call->next;
    c->n_calls--;
    exchange_fini(&call->exchange);
    call->exchange.n_parts = 0;
    call->next = c->spare;
    c->spare = call;
}

/* One part for each shard that keys of the call live on. */
static void list_parts(struct dimfit *c, struct dimfit_call *call) {
    struct exchange *const x = &call->exchange;
    x->n_parts = 0;
    for (size_t shard = 0; shard < c->map->n_shards; shard++) {
        bool concerned = false;
        for (size_t i = 0; i < call->n && !concerned; i++) {
            const struct span span = call_span(call, i, shard);
            concerned = span.at < span.end;
        }
        if (concerned)
            x->parts[x->n_parts++] = (struct part){.shard = shard};
    }
}

dimfit_err call_start(struct dimfit *c, struct dimfit_call *call) {
    if (!reserve_parts(call, c->map->n_shards))
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for %zu parts", c->map->n_shards);
    list_parts(c, call);
    return exchange_start(c, &call->exchange);
}

dimfit_err call_start_one(struct dimfit *c, struct dimfit_call *call, size_t shard) {
    if (!reserve_parts(call, 1))
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for a part");
    call->exchange.parts[0] = (struct part){.shard = shard};
    call->exchange.n_parts = 1;
    return exchange_start(c, &call->exchange);
}

dimfit_err call_wait(struct dimfit *c, struct dimfit_call *call) {
    dimfit_err err = exchange_finish(c, &call->exchange);
    if (err == DIMFIT_OK && call->finish != NULL)
        call->finish(c, call);
    if (err == DIMFIT_ERR_FROZEN && !call->exchange.hold) {
        const dimfit_err kept = held_keep(c, call);
        err = kept != DIMFIT_OK ? kept : err;
    }
    call_end(c, call);
    return err;
}

dimfit_err dimfit_wait(struct dimfit *c, struct dimfit_call **call) {
    const dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct dimfit_call *known = c->calls;
    while (known != NULL && known != *call)
        known = known->next;
    if (known == NULL)
        return err_set(&c->detail, DIMFIT_ERR_INVALID,
                       "this call is not under way on this handle; it was waited for already");
    *call = NULL;
    return call_wait(c, known);
}

/* ---- keys ------------------------------------------------------------------------------------ */

dimfit_err call_check_width(struct dimfit *c, enum dimfit_view view,
                            const struct dimfit_rows *rows) {
    const struct view_slot *const slot = call_map(c->view, rows->slot);
    const uint32_t width = view == DIMFIT_FULL ? slot->dim : slot->width;
    if (rows->width == width)
        return DIMFIT_OK;
    return err_set(&c->detail, DIMFIT_ERR_WIDTH, "slot %u: rows are %u wide in the %s view, not %u",
                   rows->slot, width, view == DIMFIT_FULL ? "full" : "compact", rows->width);
}

/* Slots come first: asking for an unknown one may bring a new layout. */
dimfit_err call_split(struct dimfit *c, struct dimfit_call *call) {
    dimfit_err err = DIMFIT_OK;
    size_t ignored;
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++)
        err = client_slot(c, call->rows[i].slot, &ignored);
    for (size_t i = 0; err == DIMFIT_OK && i < call->n; i++) {
        const struct dimfit_rows *const rows = &call->rows[i];
        err = keys_split(&call->slots[i].keys, rows->slot, rows->keys, rows->n, c->map);
    }
    if (err != DIMFIT_OK && c->detail.text[0] == 0)
        err_set(&c->detail, err, "no memory for the keys of %zu slots", call->n);
    return err;
}

/* ---- messages -------------------------------------------------------------------------------- */

const struct view_slot *call_map(const struct view *view, uint32_t slot) {
    const size_t i = view_find(view, slot);
    return i == SIZE_MAX ? NULL : &view->maps[i];
}

size_t call_run(const struct dimfit_call *call, size_t i, struct span span) {
    const size_t width = call->rows[i].width;
    const float *const first = call_row(call, i, span.at);
    size_t n = 1;
    while (span.at + n < span.end && call_row(call, i, span.at + n) == first + n * width)
        n++;
    return n;
}

dimfit_err call_sections(const struct dimfit_call *call, struct part *part, struct part_size *out) {
    struct part_size size = {0};
    for (size_t i = 0; i < call->n; i++) {
        const uint32_t slot = call->rows[i].slot;
        const struct view_slot *const map = call_map(part->view, slot);
        if (map == NULL)
            return err_set(&part->detail, DIMFIT_ERR_UNKNOWN_SLOT,
                           "the shard's layout lacks a slot of this call");
        const struct span span = call_span(call, i, part->shard);
        const uint32_t count = (uint32_t)(span.end - span.at);
        if (count == 0)
            continue;
        const uint32_t curved = map->width > 0 ? curvature_lookups(call, i, part->shard) : 0;
        call->sections[size.sections++] = (struct section){
            .slot = slot, .rows = count, .width = map->width, .curved = curved};
        size.rows += count;
        size.values += (uint64_t)count * map->width;
        size.curvature += curved > 0 ? section_triangle(map->width) : 0;
    }
    *out = size;
    return DIMFIT_OK;
}

static uint8_t *put_keys(const struct dimfit_call *call, const struct part *part, uint8_t *at) {
    for (size_t i = 0; i < call->n; i++) {
        const struct span span = call_span(call, i, part->shard);
        const uint64_t *const keys = call->slots[i].keys.key;
        const size_t bytes = (span.end - span.at) * sizeof *keys;
        if (bytes > 0)
            memcpy(at, keys + span.at, bytes);
        at += bytes;
    }
    return at;
}

dimfit_err call_body(struct dimfit_call *call, struct part *part, const struct part_size *size,
                     bool push, uint32_t flags, uint8_t **keys_end) {
    const size_t bytes = section_body_size(size->sections, size->rows, size->values, push, flags) +
                         size->curvature * sizeof(double);
    if (zmq_msg_init_size(&part->body, bytes) != 0) {
        zmq_msg_init(&part->body);
        return err_set(&part->detail, DIMFIT_ERR_NOMEM, "no memory for a message of %zu bytes",
                       bytes);
    }
    uint8_t *const body = zmq_msg_data(&part->body);
    *keys_end = put_keys(call, part,
                         body + section_put_head(body, call->sections, size->sections, flags));
    return DIMFIT_OK;
}

dimfit_err call_stale(const struct dimfit_call *call, struct part *part) {
    return err_set(&part->detail, DIMFIT_ERR_STALE_EPOCH,
                   "the arrays are of epoch %llu, the cluster is at %llu; take the new widths from "
                   "the layout",
                   (unsigned long long)call->epoch, (unsigned long long)part->view->shown.epoch);
}
