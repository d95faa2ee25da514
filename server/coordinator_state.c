/*
 * What outlives the coordinator: the layout in force, what the last commit can be undone by, and
 * the numbers of the cluster and of the last search, and which shards keep their rows. One file,
 * replaced whole; replacing it is the commit point.
 */
#include "server/coordinator_internal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define STATE_MAGIC 0x3374536d69646400ull /* "\0ddimSt3" */

void undo_fini(struct undo *undo) {
    change_destroy(&undo->change);
    layout_destroy(&undo->before);
    *undo = (struct undo){0};
}

/* search, undone, is there a change: its length, its bytes, those of the layout before */
static void undo_encode(const struct undo *undo, struct buf *out) {
    struct buf part;
    buf_init(&part);
    buf_put_u64(out, undo->search);
    buf_put_u8(out, undo->undone);
    buf_put_u8(out, undo->change != NULL);
    if (undo->change != NULL) {
        change_encode(undo->change, &part);
        buf_put_part(out, &part);
        layout_encode(undo->before, &part);
        buf_put_part(out, &part);
    }
    buf_fini(&part);
}

static dimfit_err undo_decode(struct reader *r, struct undo *out, struct err_detail *detail) {
    struct undo undo = {.search = reader_u64(r), .undone = reader_u8(r) != 0};
    const bool there = reader_u8(r) != 0;
    dimfit_err err = DIMFIT_OK;
    if (there) {
        const uint64_t change_len = reader_u64(r);
        const uint8_t *const change = reader_take(r, change_len);
        const uint64_t layout_len = reader_u64(r);
        const uint8_t *const layout = reader_take(r, layout_len);
        if (r->failed)
            return err_set(detail, DIMFIT_ERR_IO, "the state file ends before its end");
        err = change_decode(change, change_len, &undo.change, detail);
        if (err == DIMFIT_OK)
            err = layout_decode(layout, layout_len, &undo.before, detail);
        if (err == DIMFIT_OK && undo.before->epoch != undo.change->from_epoch)
            err = err_set(detail, DIMFIT_ERR_IO,
                          "the state file's last change is of another epoch");
    }
    if (err == DIMFIT_OK)
        *out = undo;
    else
        undo_fini(&undo);
    return err;
}

/* Of a shard that keeps its rows the place is known, and how many there were. */
static void kept_encode(const struct coordinator *c, struct buf *out) {
    buf_put_u64(out, c->cluster);
    buf_put_u32(out, (uint32_t)c->options.shards);
    for (size_t i = 0; i < c->options.shards; i++)
        buf_put_u8(out, c->kept[i]);
}

static dimfit_err kept_decode(struct coordinator *c, struct reader *r, struct err_detail *detail) {
    const uint64_t cluster = reader_u64(r);
    const uint32_t shards = reader_u32(r);
    bool any = false;
    for (uint32_t i = 0; i < shards && !r->failed; i++) {
        const bool kept = reader_u8(r) != 0;
        any |= kept;
        if (i < c->options.shards)
            c->kept[i] = kept;
    }
    if (r->failed)
        return err_set(detail, DIMFIT_ERR_IO, "the state file ends before its end");
    if (any && shards != c->options.shards)
        return err_set(detail, DIMFIT_ERR_CONFIG,
                       "its %u shards keep their rows, --shards says %zu; give the old number, or "
                       "another --data-dir for a new cluster",
                       shards, c->options.shards);
    c->cluster = cluster;
    return DIMFIT_OK;
}

/* magic, checksum of the rest, the cluster and its shards, last search, the layout, what it can be
 * undone by */
dimfit_err coordinator_save(struct coordinator *c, const struct layout *layout,
                            const struct undo *undo, struct err_detail *detail) {
    if (c->io.save == NULL)
        return DIMFIT_OK;
    struct buf part, body, state;
    buf_init(&part);
    buf_init(&body);
    buf_init(&state);
    kept_encode(c, &body);
    buf_put_u64(&body, c->next_search);
    layout_encode(layout, &part);
    buf_put_part(&body, &part);
    undo_encode(undo, &body);
    buf_put_u64(&state, STATE_MAGIC);
    buf_put_u64(&state, body.failed ? 0 : XXH3_64bits(body.data, body.len));
    buf_put(&state, body.data, body.failed ? 0 : body.len);
    dimfit_err err = body.failed ? DIMFIT_ERR_NOMEM : buf_status(&state);
    if (err == DIMFIT_OK)
        err = c->io.save(c->io.self, state.data, state.len, detail);
    else
        err_set(detail, err, "no memory to save the layout");
    buf_fini(&part);
    buf_fini(&body);
    buf_fini(&state);
    return err;
}

dimfit_err coordinator_load(struct coordinator *c, const void *bytes, size_t len,
                            struct err_detail *detail) {
    struct reader r = reader_of(bytes, len);
    const uint64_t magic = reader_u64(&r), sum = reader_u64(&r);
    if (r.failed || magic != STATE_MAGIC)
        return err_set(detail, DIMFIT_ERR_VERSION, "the state file is not one of this version");
    if (XXH3_64bits(r.data, r.left) != sum)
        return err_set(detail, DIMFIT_ERR_IO, "the state file is damaged (checksum)");
    dimfit_err err = kept_decode(c, &r, detail);
    if (err != DIMFIT_OK)
        return err;
    c->next_search = reader_u64(&r);
    const uint64_t layout_len = reader_u64(&r);
    const uint8_t *const layout = reader_take(&r, layout_len);
    if (r.failed)
        return err_set(detail, DIMFIT_ERR_IO, "the state file ends before its end");
    err = layout_decode(layout, layout_len, &c->layout, detail);
    if (err == DIMFIT_OK)
        err = undo_decode(&r, &c->undo, detail);
    if (err == DIMFIT_OK && !reader_done(&r))
        err = err_set(detail, DIMFIT_ERR_IO, "the state file goes on after its end");
    if (err == DIMFIT_OK && c->undo.change != NULL && c->undo.change->to_epoch != c->layout->epoch)
        err = err_set(detail, DIMFIT_ERR_IO, "the state file's last change is of another epoch");
    return err;
}
