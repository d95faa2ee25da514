#include "proto/pack.h"
#include "server/shard_internal.h"

#include <stdlib.h>

dimfit_err shard_begin(const struct shard_options *options, const struct shard_io *io,
                       struct shard **out) {
    struct shard *const shard = calloc(1, sizeof *shard);
    if (shard == NULL)
        return DIMFIT_ERR_NOMEM;
    shard->magic = SHARD_MAGIC;
    shard->io = *io;
    shard->max_memory = options->max_memory;
    shard->row_memory = options->row_memory;
    shard->skip_new = options->skip_new;
    shard->keep = options->keep;
    shard->score_sample = options->score_sample;
    *out = shard;
    return DIMFIT_OK;
}

dimfit_err shard_fill(struct shard *shard, uint64_t score_memory) {
    const struct layout *const layout = shard->layout;
    dimfit_err err = table_new(layout->seed, &shard->table);
    if (err == DIMFIT_OK) {
        table_limit(shard->table, shard->row_memory);
        table_keep(shard->table, shard->keep, shard->io.spill);
    }
    if (err == DIMFIT_OK)
        err = score_new(score_memory, &shard->score);
    if (err == DIMFIT_OK)
        err = dense_new(&shard->dense);
    if (err == DIMFIT_OK)
        err = sessions_new(&shard->sessions);
    for (size_t i = 0; err == DIMFIT_OK && i < layout->n_slots; i++)
        err = table_add_slot(shard->table, &layout->slots[i]);
    return err;
}

dimfit_err shard_new(const struct layout *layout, const struct shard_options *options,
                     const struct shard_io *io, struct shard **out) {
    struct shard *shard = NULL;
    dimfit_err err = shard_begin(options, io, &shard);
    if (err != DIMFIT_OK)
        return err;
    err = layout_copy(layout, &shard->layout);
    if (err == DIMFIT_OK)
        err = shard_fill(shard, options->score_memory);
    if (err != DIMFIT_OK) {
        shard_destroy(&shard);
        return err;
    }
    *out = shard;
    return DIMFIT_OK;
}

void shard_destroy(struct shard **shard) {
    struct shard *const s = *shard;
    if (s == NULL)
        return;
    CHECK_OBJ_NOTNULL(s, SHARD_MAGIC);
    layout_destroy(&s->layout);
    layout_destroy(&s->before);
    table_destroy(&s->table);
    score_destroy(&s->score);
    dense_destroy(&s->dense);
    sessions_destroy(&s->sessions);
    change_destroy(&s->prepared_change);
    layout_destroy(&s->prepared_layout);
    section_list_fini(&s->sections);
    free(s->elsewhere.slots);
    free(s->shrink.rules);
    stats_destroy(&s->gather.stats);
    s->magic = 0;
    free(s);
    *shard = NULL;
}

uint64_t shard_epoch(const struct shard *shard) {
    return shard->layout->epoch;
}

size_t shard_slots(const struct shard *shard) {
    return shard->layout->n_slots;
}

uint64_t shard_prepared_epoch(const struct shard *shard) {
    return shard->prepared_epoch;
}

uint64_t shard_search(const struct shard *shard) {
    return shard->search;
}

struct wire_header shard_heartbeat(const struct shard *shard) {
    return (struct wire_header){
        .kind = WIRE_HEARTBEAT,
        .epoch = shard->layout->epoch,
        .tag = shard->search,
        .samples = score_samples(shard->score),
        .moving = table_in_motion(shard->table) ? table_figures(shard->table).moving_rows : 0,
        .mode = (shard->frozen ? SCORE_WANT_FREEZE : 0u) | (shard->live ? SCORE_WANT_LIVE : 0u) |
                (shard->live && shard->full ? SCORE_FULL : 0u),
    };
}

void shard_malformed(struct shard *shard) {
    shard->counters.malformed++;
}

dimfit_err shard_body(struct shard *shard, size_t len, struct shard_reply *reply, uint8_t **out) {
    static uint8_t nothing;
    if (len == 0) {
        *out = &nothing;
        return DIMFIT_OK;
    }
    uint8_t *const body = shard->io.body(shard->io.self, len);
    if (body == NULL)
        return err_set(&reply->header.detail, DIMFIT_ERR_NOMEM, "no memory for %zu bytes of reply",
                       len);
    reply->len = len;
    *out = body;
    return DIMFIT_OK;
}

dimfit_err shard_body_from(struct shard *shard, const struct buf *buf, struct shard_reply *reply) {
    dimfit_err err = buf_status(buf);
    if (err != DIMFIT_OK)
        return err_set(&reply->header.detail, err, "no memory to encode the reply");
    if (buf->len > (size_t)WIRE_BODY_MAX)
        return err_set(&reply->header.detail, DIMFIT_ERR_LIMIT,
                       "a reply of %zu bytes is larger than a message may be", buf->len);
    uint8_t *body = NULL;
    err = shard_body(shard, buf->len, reply, &body);
    if (err == DIMFIT_OK && buf->len > 0)
        memcpy(body, buf->data, buf->len);
    return err;
}

dimfit_err shard_resolve(struct shard *shard, bool push, struct table_slot **slots,
                         struct err_detail *detail) {
    for (size_t i = 0; i < shard->sections.n; i++) {
        const struct section *const section = &shard->sections.items[i];
        slots[i] = table_find(shard->table, section->slot);
        if (slots[i] == NULL)
            return err_set(detail, DIMFIT_ERR_UNKNOWN_SLOT, "slot %u is not in the layout",
                           section->slot);
        const uint32_t width = table_slot_width(slots[i]);
        if (push && section->width != width)
            return err_set(detail, DIMFIT_ERR_WIDTH, "slot %u is stored %u wide, the push has %u",
                           section->slot, width, section->width);
    }
    return DIMFIT_OK;
}

static void begin_reply(const struct wire_header *request, struct shard_reply *reply) {
    *reply = (struct shard_reply){0};
    reply->header.kind = request->kind;
    reply->header.reply = true;
    reply->header.request = request->request;
}

/* The state of the moment the reply is made, so that a commit's own reply tells the new epoch. */
static void end_reply(const struct shard *shard, dimfit_err status, struct shard_reply *reply) {
    reply->header.status = status;
    reply->header.epoch = shard->layout->epoch;
    reply->header.phase = shard->phase;
    reply->header.frozen = shard->frozen;
    reply->header.curvature = shard->curvature;
}

/* Older: the layout comes with the refusal. Newer: the shard has yet to hear of the commit. */
static dimfit_err check_epoch(struct shard *shard, const struct wire_header *request,
                              struct shard_reply *reply) {
    const uint64_t epoch = shard->layout->epoch;
    if (request->epoch == epoch)
        return DIMFIT_OK;
    if (request->epoch > epoch)
        return err_set(&reply->header.detail, DIMFIT_ERR_EPOCH_AHEAD,
                       "the request is of epoch %llu, the shard still at %llu",
                       (unsigned long long)request->epoch, (unsigned long long)epoch);
    shard->counters.stale++;
    struct buf buf;
    buf_init(&buf);
    layout_encode(shard->layout, &buf);
    dimfit_err err = shard_body_from(shard, &buf, reply);
    buf_fini(&buf);
    if (err == DIMFIT_OK)
        err = err_set(&reply->header.detail, DIMFIT_ERR_STALE_EPOCH,
                      "the request is of epoch %llu, the cluster at %llu",
                      (unsigned long long)request->epoch, (unsigned long long)epoch);
    return err;
}

static dimfit_err check_number(struct shard *shard, const struct wire_header *request,
                               struct shard_reply *reply, bool *answered) {
    enum session_verdict verdict;
    struct session_answer answer;
    const dimfit_err err = session_check(shard->sessions, request->client, request->incarnation,
                                         request->seq, &verdict, &answer);
    if (err != DIMFIT_OK)
        return err_set(&reply->header.detail, err, "no memory for a further client");
    *answered = verdict != SESSION_NEXT;
    switch (verdict) {
    case SESSION_NEXT:
        return DIMFIT_OK;
    case SESSION_REPEAT:
        shard->counters.repeats++;
        reply->header.detail = answer.detail;
        return answer.status;
    case SESSION_GAP:
        reply->header.seq = answer.expected;
        return err_set(&reply->header.detail, DIMFIT_ERR_SEQ_GAP,
                       "request %llu came where %llu was next", (unsigned long long)request->seq,
                       (unsigned long long)answer.expected);
    case SESSION_FENCED:
        return err_set(&reply->header.detail, DIMFIT_ERR_FENCED,
                       "a later incarnation of this client has taken over");
    }
    base_assert(!"a session verdict");
    return DIMFIT_ERR_STATE;
}

/* What a kind of request goes through before its handler. */
struct request_rules {
    shard_handler *handler;
    bool recorded; /* numbered: applied once */
    bool by_epoch; /* means something else under another layout */
};

static const struct request_rules *rules_of(enum wire_kind kind) {
    static const struct request_rules pull = {shard_pull, false, true};
    static const struct request_rules push = {shard_push, true, true};
    static const struct request_rules sums = {shard_sums, true, true};
    static const struct request_rules reset = {shard_dense_reset, false, false};
    static const struct request_rules dense_pull = {shard_dense_pull, false, false};
    static const struct request_rules dense_push = {shard_dense_push, true, false};
    switch (kind) {
    case WIRE_PULL:
        return &pull;
    case WIRE_PUSH:
        return &push;
    case WIRE_SCORE_SUMS:
        return &sums;
    case WIRE_DENSE_RESET:
        return &reset;
    case WIRE_DENSE_PULL:
        return &dense_pull;
    case WIRE_DENSE_PUSH:
        return &dense_push;
    default:
        return NULL;
    }
}

static dimfit_err check_frozen(struct shard *shard, const struct wire_header *request,
                               struct shard_reply *reply) {
    const bool trains = request->kind == WIRE_DENSE_PUSH ||
                        (request->kind == WIRE_PUSH && (request->mode & PUSH_TRAIN) != 0);
    if (!shard->frozen || !trains)
        return DIMFIT_OK;
    shard->counters.frozen++;
    return err_set(&reply->header.detail, DIMFIT_ERR_FROZEN,
                   "a search scores with training held; the push is to be repeated");
}

/* A packed body is unpacked for its handler alone. */
static dimfit_err run_handler(struct shard *shard, shard_handler *handler,
                              const struct shard_message *in, struct shard_reply *reply) {
    if (in->header->plain == 0)
        return handler(shard, in, reply);
    struct err_detail *const detail = &reply->header.detail;
    const size_t plain = (size_t)in->header->plain;
    dimfit_err err = unpack_check(in->len, in->header->plain, WIRE_BODY_MAX, detail);
    if (err != DIMFIT_OK)
        return err;
    uint8_t *const body = malloc(plain);
    if (body == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to unpack %zu bytes", plain);
    err = unpack(in->body, in->len, body, plain, detail);
    if (err == DIMFIT_OK)
        err = handler(shard, &(struct shard_message){in->header, body, plain, in->body, in->len},
                      reply);
    free(body);
    return err;
}

/* A refusal is remembered as it was said: the request's header with the answer. What only the score
 * memory refuses (LIMIT, behind the record) is refused by a replay as well. */
static dimfit_err log_refusal(struct shard *shard, const struct wire_header *request,
                              dimfit_err err, struct err_detail *detail) {
    if (shard->logged && err == DIMFIT_ERR_LIMIT)
        return DIMFIT_OK;
    if (shard->logged)
        shard_unlog(shard);
    struct wire_header refusal = {
        .kind = request->kind,
        .reply = true,
        .client = request->client,
        .incarnation = request->incarnation,
        .seq = request->seq,
        .status = err,
        .detail = *detail,
    };
    return shard_log(shard, &refusal, NULL, 0, detail);
}

/* The result of a numbered request; one that can't be recorded has none, and keeps its number. */
static dimfit_err record(struct shard *shard, const struct wire_header *request, dimfit_err err,
                         struct err_detail *detail) {
    if (err == DIMFIT_ERR_LOG)
        return err;
    if (err != DIMFIT_OK) {
        const dimfit_err unlogged = log_refusal(shard, request, err, detail);
        if (unlogged != DIMFIT_OK)
            return unlogged;
    }
    session_record(shard->sessions, request->client, request->incarnation, request->seq, err,
                   detail);
    return err;
}

dimfit_err shard_handle(struct shard *shard, const struct shard_message *in,
                        struct shard_reply *reply) {
    const struct request_rules *const rules = rules_of(in->header->kind);
    if (rules == NULL)
        return err_set(&reply->header.detail, DIMFIT_ERR_UNSUPPORTED,
                       "a shard answers no request of kind %d", (int)in->header->kind);
    dimfit_err err;
    if (rules->recorded) {
        bool answered = true;
        err = check_number(shard, in->header, reply, &answered);
        if (err != DIMFIT_OK || answered)
            return err;
    }
    if (rules->by_epoch) {
        err = check_epoch(shard, in->header, reply);
        if (err != DIMFIT_OK)
            return err;
    }
    err = check_frozen(shard, in->header, reply);
    if (err != DIMFIT_OK)
        return err;
    shard->logged = false;
    err = run_handler(shard, rules->handler, in, reply);
    if (err != DIMFIT_OK)
        shard->counters.refused++;
    return rules->recorded ? record(shard, in->header, err, &reply->header.detail) : err;
}

void shard_request(struct shard *shard, const struct wire_header *request, const uint8_t *body,
                   size_t len, struct shard_reply *reply) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const struct shard_message in = {request, body, len, body, len};
    begin_reply(request, reply);
    end_reply(shard, shard_handle(shard, &in, reply), reply);
}

shard_handler *shard_command_handler(enum wire_kind kind) {
    static shard_handler *const handlers[] = {
        [WIRE_ADD_SLOTS - WIRE_ADD_SLOTS] = shard_add_slots,
        [WIRE_SCORE_START - WIRE_ADD_SLOTS] = shard_score_start,
        [WIRE_SCORE_STOP - WIRE_ADD_SLOTS] = shard_score_stop,
        [WIRE_GATHER - WIRE_ADD_SLOTS] = shard_gather,
        [WIRE_PREPARE - WIRE_ADD_SLOTS] = shard_prepare,
        [WIRE_COMMIT - WIRE_ADD_SLOTS] = shard_commit,
        [WIRE_DISCARD - WIRE_ADD_SLOTS] = shard_discard,
        [WIRE_SHRINK - WIRE_ADD_SLOTS] = shard_shrink,
        [WIRE_FORGET - WIRE_ADD_SLOTS] = shard_forget,
    };
    const size_t i = (size_t)kind - WIRE_ADD_SLOTS;
    return kind < WIRE_ADD_SLOTS || i >= ARRAY_LEN(handlers) ? NULL : handlers[i];
}

void shard_command(struct shard *shard, const struct wire_header *command, const uint8_t *body,
                   size_t len, struct shard_reply *reply) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const struct shard_message in = {command, body, len, body, len};
    shard_handler *const handler = shard_command_handler(command->kind);
    begin_reply(command, reply);
    dimfit_err err;
    if (handler == NULL)
        err = err_set(&reply->header.detail, DIMFIT_ERR_UNSUPPORTED,
                      "a shard obeys no command of kind %d", (int)command->kind);
    else
        err = handler(shard, &in, reply);
    /* Every command tells where the search stands; so does every reply to a worker from now on. */
    shard->phase = command->phase;
    end_reply(shard, err, reply);
}

bool shard_due(struct shard *shard, struct shard_reply *reply) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    const struct wire_header gather = {.kind = WIRE_GATHER};
    dimfit_err status;
    begin_reply(&gather, reply);
    if (!shard_gather_answer(shard, reply, &status))
        return false;
    end_reply(shard, status, reply);
    return true;
}
