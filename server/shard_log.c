#include "server/shard_internal.h"

dimfit_err shard_log(struct shard *shard, const struct wire_header *header, const void *body,
                     size_t len, struct err_detail *detail) {
    if (shard->replaying || shard->io.log == NULL)
        return DIMFIT_OK;
    const dimfit_err err = shard->io.log(shard->io.self, header, body, len, detail);
    shard->logged = err == DIMFIT_OK;
    return err;
}

dimfit_err shard_log_message(struct shard *shard, const struct shard_message *in,
                             struct err_detail *detail) {
    return shard_log(shard, in->header, in->sent, in->sent_len, detail);
}

void shard_unlog(struct shard *shard) {
    if (shard->replaying || shard->io.log == NULL)
        return;
    base_assert(shard->logged);
    shard->logged = false;
    shard->io.unlog(shard->io.self);
}

/* ---- options ----------------------------------------------------------------------------------
 */

/* Those that what a push does depends on, beside itself and the state. */
static void options_encode(const struct shard *shard, struct buf *out) {
    buf_put_u64(out, score_limit_bytes(shard->score));
    buf_put_u32(out, shard->score_sample);
    buf_put_u8(out, shard->keep);
}

static void options_decode(struct reader *r, struct shard_options *options) {
    options->score_memory = reader_u64(r);
    options->score_sample = reader_u32(r);
    options->keep = reader_u8(r) != 0;
}

static void options_take(struct shard *shard, const struct shard_options *options) {
    score_limit(shard->score, options->score_memory);
    shard->score_sample = options->score_sample;
    shard->keep = options->keep;
    table_keep(shard->table, options->keep, shard->io.spill);
}

dimfit_err shard_log_options(struct shard *shard, struct err_detail *detail) {
    struct buf body;
    buf_init(&body);
    options_encode(shard, &body);
    const struct wire_header header = {.kind = WIRE_LOG_OPTIONS};
    const dimfit_err err = body.failed ? err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a record")
                                       : shard_log(shard, &header, body.data, body.len, detail);
    buf_fini(&body);
    return err;
}

/* ---- the first record -------------------------------------------------------------------------
 */

dimfit_err shard_log_begin(struct shard *shard, struct err_detail *detail) {
    struct buf body;
    buf_init(&body);
    options_encode(shard, &body);
    layout_encode(shard->layout, &body);
    const struct wire_header header = {.kind = WIRE_LOG_BEGIN};
    const dimfit_err err = body.failed ? err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a record")
                                       : shard_log(shard, &header, body.data, body.len, detail);
    buf_fini(&body);
    return err;
}

dimfit_err shard_replay_begin(const struct wire_header *header, const uint8_t *body, size_t len,
                              const struct shard_options *options, const struct shard_io *io,
                              struct shard **out, struct err_detail *detail) {
    if (header->kind != WIRE_LOG_BEGIN)
        return err_set(detail, DIMFIT_ERR_DATA, "a log begins with LOG_BEGIN, not with %s",
                       wire_kind_name(header->kind));
    struct reader r = reader_of(body, len);
    struct shard_options then = *options;
    struct layout *layout = NULL;
    options_decode(&r, &then);
    then.row_memory = 0;
    dimfit_err err = layout_decode(r.data, r.left, &layout, detail);
    if (err != DIMFIT_OK)
        return err;
    err = shard_new(layout, &then, io, out);
    layout_destroy(&layout);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a shard");
    (*out)->replaying = true;
    return DIMFIT_OK;
}

/* ---- the others -------------------------------------------------------------------------------
 */

static dimfit_err replay_refusal(struct shard *shard, const struct wire_header *refusal,
                                 struct err_detail *detail) {
    enum session_verdict verdict;
    struct session_answer answer;
    const dimfit_err err = session_check(shard->sessions, refusal->client, refusal->incarnation,
                                         refusal->seq, &verdict, &answer);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a further client");
    if (verdict != SESSION_NEXT || refusal->status == DIMFIT_OK)
        return err_set(detail, DIMFIT_ERR_DATA, "a refusal of request %llu does not follow",
                       (unsigned long long)refusal->seq);
    session_record(shard->sessions, refusal->client, refusal->incarnation, refusal->seq,
                   refusal->status, &refusal->detail);
    return DIMFIT_OK;
}

/* Only what was done is in the log, but for a push that the memory for scores refused. */
static dimfit_err replay_request(struct shard *shard, const struct shard_message *in,
                                 struct err_detail *detail) {
    struct shard_reply reply = {.len = 0};
    const uint64_t refused = shard->counters.refused, repeats = shard->counters.repeats;
    const dimfit_err err = shard_handle(shard, in, &reply);
    const bool limit = err == DIMFIT_ERR_LIMIT && shard->counters.refused > refused;
    if ((err == DIMFIT_OK || limit) && shard->counters.repeats == repeats)
        return DIMFIT_OK;
    return err_set(detail, err == DIMFIT_ERR_NOMEM ? err : DIMFIT_ERR_DATA, "%s: %.250s",
                   err == DIMFIT_OK ? "it is there twice" : err_text(err),
                   reply.header.detail.text);
}

static dimfit_err replay_command(struct shard *shard, const struct shard_message *in,
                                 struct err_detail *detail) {
    shard_handler *const handler = shard_command_handler(in->header->kind);
    if (handler == NULL || in->header->kind == WIRE_GATHER)
        return err_set(detail, DIMFIT_ERR_DATA, "a record of kind %d", (int)in->header->kind);
    struct shard_reply reply = {.len = 0};
    const dimfit_err err = handler(shard, in, &reply);
    shard->phase = in->header->phase;
    if (err == DIMFIT_OK || err == DIMFIT_ERR_BUSY) /* rows before a change are being written */
        return err;
    return err_set(detail, err == DIMFIT_ERR_NOMEM ? err : DIMFIT_ERR_DATA, "%s: %.250s",
                   err_text(err), reply.header.detail.text);
}

static bool is_request(enum wire_kind kind) {
    return kind == WIRE_PUSH || kind == WIRE_DENSE_PUSH || kind == WIRE_DENSE_RESET ||
           kind == WIRE_SCORE_SUMS;
}

dimfit_err shard_replay(struct shard *shard, const struct wire_header *header, const uint8_t *body,
                        size_t len, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const struct shard_message in = {header, body, len, body, len};
    shard->replaying = true;
    table_limit(shard->table, 0);
    if (header->reply)
        return replay_refusal(shard, header, detail);
    if (is_request(header->kind))
        return replay_request(shard, &in, detail);
    if (table_in_motion(
            shard->table)) /* it was written when rows stood still, or could have been */
        return DIMFIT_ERR_BUSY;
    if (header->kind == WIRE_LOG_SLICE)
        return shard_replay_slice(shard, header, detail);
    if (header->kind != WIRE_LOG_OPTIONS)
        return replay_command(shard, &in, detail);
    struct reader r = reader_of(body, len);
    struct shard_options options = {0};
    options_decode(&r, &options);
    if (!reader_done(&r))
        return err_set(detail, DIMFIT_ERR_DATA, "options of %zu bytes", len);
    options_take(shard, &options);
    return DIMFIT_OK;
}

dimfit_err shard_replayed(struct shard *shard, const struct shard_options *options,
                          struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const bool differ = score_limit_bytes(shard->score) != options->score_memory ||
                        shard->score_sample != options->score_sample ||
                        shard->keep != options->keep;
    shard->replaying = false;
    table_limit(shard->table, options->row_memory);
    options_take(shard, options);
    return differ ? shard_log_options(shard, detail) : DIMFIT_OK;
}
