#include "server/shard_state.h"

#include "server/shard_internal.h"

#include <stdlib.h>

enum {
    VERSION = 1,
    MARK_HEAD = 0x44414548, /* "HEAD" */
    MARK_END = 0x4c4c4121,  /* "!ALL" */
};

/* Of one layout or change: LAYOUT_SLOTS_MAX slots with their matrices come near this. */
#define HEAD_MAX (UINT64_C(16) << 30)

enum head_flags {
    FROZEN = 1 << 0,
    LIVE = 1 << 1,
    CURVATURE = 1 << 2,
    FULL = 1 << 3,
    UNDO = 1 << 4, /* the layout before, and rows in the table, are there */
    ALL_FLAGS = (1 << 5) - 1,
};

dimfit_err shard_save_check(const struct shard *shard, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    if (shard_shrinks(shard))
        return err_set(detail, DIMFIT_ERR_BUSY, "shrink %llu is under way",
                       (unsigned long long)shard->shrink.figures.number);
    const dimfit_err err = table_save_check(shard->table, shard->before != NULL, detail);
    /* Lost for good: the state is saved without it. */
    return err == DIMFIT_ERR_IO ? DIMFIT_OK : err;
}

uint64_t shard_rows(const struct shard *shard) {
    return table_figures(shard->table).rows;
}

uint64_t shard_seed(const struct shard *shard) {
    return shard->layout->seed;
}

/* ---- the head -------------------------------------------------------------------------------- */

static void put_layout(struct buf *out, const struct layout *layout) {
    struct buf part;
    buf_init(&part);
    if (layout != NULL)
        layout_encode(layout, &part);
    buf_put_part(out, &part);
    buf_fini(&part);
}

static void put_change(struct buf *out, const struct change *change) {
    struct buf part;
    buf_init(&part);
    if (change != NULL)
        change_encode(change, &part);
    buf_put_part(out, &part);
    buf_fini(&part);
}

#define COUNT_FIELD(name) +1
enum { N_COUNTERS = 0 SHARD_COUNTER_MAP(COUNT_FIELD) };
#undef COUNT_FIELD

static void put_counters(struct buf *out, const struct shard *shard) {
    const struct shrink_figures *const s = &shard->shrink.figures;
    const uint64_t shrink[] = {s->number, s->dry_run,   s->slots,        s->slots_done,
                               s->keys,   s->keys_done, s->rows_evicted, s->pending_evicted};
    for (size_t i = 0; i < ARRAY_LEN(shrink); i++)
        buf_put_u64(out, shrink[i]);
    buf_put_u32(out, N_COUNTERS);
#define PUT_COUNTER(name) buf_put_u64(out, shard->counters.name);
    SHARD_COUNTER_MAP(PUT_COUNTER)
#undef PUT_COUNTER
}

dimfit_err shard_save_head(const struct shard *shard, uint32_t parts, struct buf *head,
                           struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const bool undo = (parts & SHARD_SAVE_UNDO) != 0 && shard->before != NULL &&
                      table_save_check(shard->table, true, NULL) == DIMFIT_OK;
    buf_put_u32(head, VERSION);
    buf_put_u32(head, (shard->frozen ? FROZEN : 0u) | (shard->live ? LIVE : 0u) |
                          (shard->curvature ? CURVATURE : 0u) | (shard->full ? FULL : 0u) |
                          (undo ? UNDO : 0u));
    buf_put_u32(head, shard->phase);
    buf_put_u64(head, shard->search);
    put_counters(head, shard);
    elsewhere_encode(&shard->elsewhere, head);
    put_layout(head, shard->layout);
    put_layout(head, undo ? shard->before : NULL);
    buf_put_u64(head, shard->prepared_epoch);
    put_change(head, shard->prepared_change);
    put_layout(head, shard->prepared_layout);
    const dimfit_err err = buf_status(head);
    return err == DIMFIT_OK ? err : err_set(detail, err, "no memory to save the layout");
}

/* Flags stand behind the version. */
static bool head_has_undo(const struct buf *head) {
    return (load_u32(head->data + sizeof(uint32_t)) & UNDO) != 0;
}

void shard_save(const struct shard *shard, const struct buf *head, struct archive_writer *out) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    archive_put_mark(out, MARK_HEAD);
    archive_put_buf(out, head);
    sessions_save(shard->sessions, out);
    dense_save(shard->dense, out);
    score_save(shard->score, out);
    table_save(shard->table, head_has_undo(head), out);
    archive_put_mark(out, MARK_END);
}

/* ---- and back -------------------------------------------------------------------------------- */

static struct reader get_part(struct reader *r) {
    const uint64_t len = reader_u64(r);
    const uint8_t *const bytes = reader_take(r, len);
    return reader_of(bytes, bytes != NULL ? len : 0);
}

/* An empty part is none: *out stays NULL. */
static dimfit_err get_layout(struct reader *r, struct layout **out, struct err_detail *detail) {
    const struct reader part = get_part(r);
    return part.left == 0 ? DIMFIT_OK : layout_decode(part.data, part.left, out, detail);
}

static dimfit_err get_change(struct reader *r, struct change **out, struct err_detail *detail) {
    const struct reader part = get_part(r);
    return part.left == 0 ? DIMFIT_OK : change_decode(part.data, part.left, out, detail);
}

static void get_counters(struct reader *r, struct shard *shard) {
    struct shrink_figures *const s = &shard->shrink.figures;
    uint64_t *const shrink[] = {&s->number, &s->dry_run,   &s->slots,        &s->slots_done,
                                &s->keys,   &s->keys_done, &s->rows_evicted, &s->pending_evicted};
    for (size_t i = 0; i < ARRAY_LEN(shrink); i++)
        *shrink[i] = reader_u64(r);
    r->failed |= reader_u32(r) != N_COUNTERS;
#define GET_COUNTER(name) shard->counters.name = reader_u64(r);
    SHARD_COUNTER_MAP(GET_COUNTER)
#undef GET_COUNTER
}

/* Whether what is prepared leads on from the layout. */
static bool prepared_fits(const struct shard *shard) {
    if (shard->prepared_epoch == 0)
        return shard->prepared_change == NULL && shard->prepared_layout == NULL;
    return shard->prepared_change != NULL && shard->prepared_layout != NULL &&
           shard->prepared_layout->epoch == shard->prepared_epoch &&
           shard->prepared_change->to_epoch == shard->prepared_epoch &&
           shard->prepared_change->from_epoch == shard->layout->epoch;
}

/* What the head says, before anything else is made of the shard. */
static dimfit_err head_decode(struct shard *shard, const struct buf *head,
                              struct err_detail *detail) {
    struct reader r = reader_of(head->data, head->len);
    const uint32_t version = reader_u32(&r), flags = reader_u32(&r), phase = reader_u32(&r);
    if (!r.failed && version != VERSION)
        return err_set(detail, DIMFIT_ERR_VERSION, "a state of version %u; this program reads %d",
                       version, VERSION);
    shard->frozen = (flags & FROZEN) != 0;
    shard->live = (flags & LIVE) != 0;
    shard->curvature = (flags & CURVATURE) != 0;
    shard->full = (flags & FULL) != 0;
    shard->phase = phase;
    shard->search = reader_u64(&r);
    get_counters(&r, shard);
    dimfit_err err = elsewhere_decode(&r, &shard->elsewhere);
    if (err != DIMFIT_OK)
        return err;
    err = get_layout(&r, &shard->layout, detail);
    if (err == DIMFIT_OK)
        err = get_layout(&r, &shard->before, detail);
    shard->prepared_epoch = reader_u64(&r);
    if (err == DIMFIT_OK)
        err = get_change(&r, &shard->prepared_change, detail);
    if (err == DIMFIT_OK)
        err = get_layout(&r, &shard->prepared_layout, detail);
    if (err != DIMFIT_OK)
        return err;
    if (!reader_done(&r) || (flags & ~(uint32_t)ALL_FLAGS) != 0 || phase > PHASE_COMPARED ||
        shard->layout == NULL || ((flags & UNDO) != 0) != (shard->before != NULL) ||
        !prepared_fits(shard))
        return err_set(detail, DIMFIT_ERR_IO, "what is said of the layout does not fit together");
    return DIMFIT_OK;
}

static void read_head(struct shard *shard, struct archive_reader *in) {
    struct buf head;
    buf_init(&head);
    archive_get_mark(in, MARK_HEAD, "state");
    archive_get_buf(in, HEAD_MAX, &head);
    if (in->err == DIMFIT_OK)
        in->err = head_decode(shard, &head, &in->detail);
    buf_fini(&head);
}

static void read_parts(struct shard *shard, uint64_t score_memory, struct archive_reader *in) {
    read_head(shard, in);
    if (in->err == DIMFIT_OK)
        in->err = shard_fill(shard, score_memory);
    if (in->err == DIMFIT_OK)
        sessions_restore(shard->sessions, in);
    if (in->err == DIMFIT_OK)
        dense_restore(shard->dense, in);
    if (in->err == DIMFIT_OK)
        score_restore(shard->score, shard->layout, in);
    if (in->err == DIMFIT_OK)
        table_restore(shard->table, shard->before, in);
    archive_get_mark(in, MARK_END, "end");
    if (in->err == DIMFIT_OK && shard->prepared_change != NULL)
        in->err = table_change_check(shard->table, shard->prepared_change, shard->prepared_layout,
                                     &in->detail);
}

dimfit_err shard_restore(struct archive_reader *in, const struct shard_options *options,
                         const struct shard_io *io, struct shard **out, struct err_detail *detail) {
    struct shard *shard = NULL;
    dimfit_err err = shard_begin(options, io, &shard);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a shard");
    read_parts(shard, options->score_memory, in);
    if (in->err != DIMFIT_OK) {
        err = err_set(detail, in->err, "%s",
                      in->detail.text[0] != 0 ? in->detail.text : err_text(in->err));
        shard_destroy(&shard);
        return err;
    }
    *out = shard;
    return DIMFIT_OK;
}
