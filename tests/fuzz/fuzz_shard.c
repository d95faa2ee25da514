/*
 * A whole shard under a script of messages. Each operation takes a few bytes of the input: messages
 * that could have been sent, messages of arbitrary bytes, the last message once more with a byte
 * changed or cut short, and slices of the work between messages.
 *
 * What must hold: every message gets an answer that can be sent; rows change by a training push
 * that was taken for the first time and by nothing else (shrinks and layout changes left out); the
 * epoch never goes back; what a shard gathers can be decoded.
 */
#include "proto/section.h"
#include "proto/shrink.h"
#include "proto/wire.h"
#include "server/shard.h"
#include "server/stats.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scene.h"

#include <math.h>
#include <stdlib.h>

enum { CLIENTS = 2, KEYS = 6, OPS_MAX = 200, BODY_MAX = 4096 };

struct play {
    struct shard *shard;
    struct reader in;
    uint8_t *body; /* of the reply being made */
    struct shard_reply reply;
    uint64_t seq[CLIENTS], epoch;
    struct layout *layout, *before;     /* as the shard has it, and had it before the change */
    struct layout *prepared;            /* what a commit would put in force */
    bool undoes;                        /* ... by undoing the last change */
    struct wire_header last;            /* message, ... */
    struct buf last_body, message_body; /* ... to repeat, and the one that is put together */
    bool last_command, expiring;
    size_t taken;
};

static uint8_t *give_body(void *self, size_t len) {
    struct play *const play = self;
    REQUIRE(play->body == NULL && len > 0 && len <= (size_t)WIRE_BODY_MAX);
    return play->body = malloc(len);
}

static void send(struct play *play, bool command, const struct wire_header *header,
                 const uint8_t *bytes, size_t len) {
    uint8_t encoded[WIRE_HEADER_MAX];
    struct wire_header decoded;
    uint8_t *const exact = fuzz_copy(bytes, len);
    free(play->body);
    play->body = NULL;
    (command ? shard_command : shard_request)(play->shard, header, exact, len, &play->reply);
    free(exact);
    const struct wire_header *const reply = &play->reply.header;
    REQUIRE(reply->reply && reply->kind == header->kind && reply->request == header->request);
    REQUIRE(wire_decode(encoded, wire_encode(reply, encoded), &decoded, NULL) == DIMFIT_OK);
    REQUIRE(play->reply.len == 0 || play->body != NULL);
    const uint64_t epoch = shard_epoch(play->shard);
    REQUIRE(reply->epoch == epoch && epoch >= play->epoch);
    play->epoch = epoch;
    play->taken += reply->status == DIMFIT_OK;
}

/* ---- what can be seen of the rows ------------------------------------------------------------ */

static uint64_t mix(uint64_t sum, uint64_t value) {
    return (sum ^ value) * 0x9e3779b97f4a7c15ull + (sum >> 29);
}

static uint64_t digest(struct play *play) {
    uint64_t sum = 0;
    const struct wire_header header = {.kind = WIRE_PULL, .epoch = play->epoch};
    uint8_t body[SECTION_HEAD + SECTION_ENTRY + KEYS * sizeof(uint64_t)];
    for (uint32_t slot = 1; slot <= SCENE_SLOTS; slot++) {
        const struct section section = {.slot = slot, .rows = KEYS};
        const size_t at = section_put_head(body, &section, 1, 0);
        for (uint64_t key = 0; key < KEYS; key++)
            memcpy(body + at + key * sizeof key, &key, sizeof key);
        send(play, false, &header, body, sizeof body);
        REQUIRE(play->reply.header.status == DIMFIT_OK);
        for (size_t i = 0; i < play->reply.len; i++)
            sum = mix(sum, play->body[i]);
    }
    return sum;
}

/* ---- messages -------------------------------------------------------------------------------- */

static void put_keys(struct play *play, struct buf *body, const struct section *items, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < items[i].rows; k++)
            buf_put_u64(body, reader_u8(&play->in) % KEYS);
    }
}

/* Up to three of the scene's slots, and now and then one that is not there or of another width. */
static size_t choose_sections(struct play *play, struct section *items) {
    const uint8_t which = reader_u8(&play->in), odd = reader_u8(&play->in);
    size_t n = 0;
    for (uint32_t slot = 1; slot <= SCENE_SLOTS + 1; slot++) {
        if ((which >> slot & 1) == 0)
            continue;
        const struct layout_slot *const spec = layout_find(play->layout, slot);
        const uint32_t width = spec == NULL ? 2 : spec->width;
        items[n++] = (struct section){
            .slot = slot, .rows = 1 + (odd >> slot & 1), .width = width + (odd == 0xff ? 1 : 0)};
    }
    return n;
}

static void put_head(struct buf *body, const struct section *items, size_t n, uint32_t flags) {
    uint8_t head[SECTION_HEAD + 8 * SECTION_ENTRY];
    buf_put(body, head, section_put_head(head, items, n, flags));
}

static void make_pull(struct play *play, struct wire_header *header, struct buf *body) {
    struct section items[SCENE_SLOTS + 1];
    const size_t n = choose_sections(play, items);
    header->kind = WIRE_PULL;
    header->mode = reader_u8(&play->in) & 1 ? PULL_HALF : 0;
    put_head(body, items, n, 0);
    put_keys(play, body, items, n);
}

static void put_curvature(struct buf *body, const struct section *items, size_t n, float value) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t numbers = items[i].curved > 0 ? section_triangle(items[i].width) : 0;
        for (uint64_t k = 0; k < numbers; k++)
            buf_put_f64(body, (double)value);
    }
}

static void make_push(struct play *play, struct wire_header *header, struct buf *body) {
    struct section items[SCENE_SLOTS + 1];
    const size_t n = choose_sections(play, items);
    const uint8_t flags = reader_u8(&play->in) & 7;
    header->kind = WIRE_PUSH;
    header->mode = reader_u8(&play->in) & 3;
    header->step = reader_u8(&play->in) & 3;
    header->samples = reader_u8(&play->in);
    header->day = reader_u8(&play->in);
    for (size_t i = 0; i < n; i++)
        items[i].curved = (flags & SECTION_CURVATURE) != 0 ? 1 : 0;
    put_head(body, items, n, flags);
    put_keys(play, body, items, n);
    const uint8_t form = reader_u8(&play->in);
    const float value = form == 0xff ? NAN : form == 0xfe ? 1e38f : (float)form / 64 - 2;
    size_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        rows += items[i].rows;
        for (uint32_t k = 0; k < items[i].rows * items[i].width; k++)
            buf_put_f32(body, value + (float)k);
    }
    for (size_t i = 0; (flags & SECTION_LOOKUPS) != 0 && i < rows; i++)
        buf_put_u32(body, form);
    for (size_t i = 0; (flags & SECTION_CLICKS) != 0 && i < rows; i++)
        buf_put_u32(body, form & 1);
    if ((flags & SECTION_CURVATURE) != 0)
        put_curvature(body, items, n, value);
}

static void make_dense(struct play *play, struct wire_header *header, struct buf *body) {
    const uint8_t what = reader_u8(&play->in), n = 1 + (what >> 4 & 3);
    header->kind = what % 3 == 0   ? WIRE_DENSE_RESET
                   : what % 3 == 1 ? WIRE_DENSE_PULL
                                   : WIRE_DENSE_PUSH;
    header->name[0] = (char)('a' + (what >> 6 & 1));
    header->tag = play->epoch;
    if (header->kind == WIRE_DENSE_RESET) {
        buf_put_u8(body, reader_u8(&play->in) % 6);
        buf_put_f32(body, 0.1f);
        for (size_t i = 0; i < 3; i++)
            buf_put_f32(body, 0.01f);
        if (body->data[0] == OPTIMIZER_FTRL)
            buf_put(body, (const float[3]){1, 0, 0}, 3 * sizeof(float));
    }
    for (uint8_t i = 0; i < n && header->kind != WIRE_DENSE_PULL; i++)
        buf_put_f32(body, (float)i);
}

static void put_change(struct buf *body, const struct change *change, const struct layout *after) {
    struct buf part;
    buf_init(&part);
    change_encode(change, &part);
    buf_put_u64(body, part.len);
    buf_put(body, part.data, part.len);
    buf_fini(&part);
    layout_encode(after, body);
}

static void make_prepare(struct play *play, struct wire_header *header, struct buf *body) {
    const uint8_t bits = reader_u8(&play->in);
    const bool undo = (bits & 0x80) != 0 && play->before != NULL;
    struct change *change = scene_change(undo ? play->before : play->layout, bits & SCENE_ALL);
    if (undo && change != NULL) {
        struct change *const done = change;
        change = NULL;
        REQUIRE(change_undo(done, play->epoch + 1, &change) == DIMFIT_OK);
        struct change *gone = done;
        change_destroy(&gone);
    }
    struct layout *after = NULL;
    header->kind = WIRE_PREPARE;
    header->tag = play->epoch + 1;
    if (change != NULL &&
        change_apply(change, play->layout, undo ? play->before : NULL, &after, NULL) == DIMFIT_OK) {
        put_change(body, change, after);
        layout_destroy(&play->prepared);
        play->prepared = after;
        play->undoes = undo;
    }
    change_destroy(&change);
}

static void make_shrink(struct play *play, struct wire_header *header, struct buf *body) {
    const uint8_t bits = reader_u8(&play->in);
    struct shrink_rule rules[SCENE_SLOTS];
    size_t n = 0;
    for (uint32_t slot = 1; slot <= SCENE_SLOTS; slot++) {
        if ((bits >> slot & 1) != 0)
            rules[n++] = (struct shrink_rule){slot, bits >> 5, (float)(bits & 3)};
    }
    header->kind = WIRE_SHRINK;
    header->tag = 1 + reader_u8(&play->in) % 8;
    header->step = reader_u8(&play->in);
    header->mode = reader_u8(&play->in) & 1;
    if (n > 0)
        shrink_encode(rules, n, body);
}

static void make_raw(struct play *play, struct wire_header *header, struct buf *body) {
    header->kind = reader_u8(&play->in);
    header->mode = reader_u8(&play->in);
    header->tag = reader_u8(&play->in);
    header->step = reader_u8(&play->in);
    header->plain = reader_u16(&play->in);
    const size_t wanted = reader_u16(&play->in) % BODY_MAX,
                 len = wanted < play->in.left ? wanted : play->in.left;
    buf_put(body, reader_take(&play->in, len), len);
}

/* The message before, from this client, with one byte changed or without its end. */
static void make_damaged(struct play *play, struct wire_header *header, struct buf *body) {
    const uint16_t at = reader_u16(&play->in);
    const uint8_t change = reader_u8(&play->in);
    const struct wire_header numbered = *header;
    *header = play->last;
    header->client = numbered.client;
    header->seq = numbered.seq;
    header->epoch = numbered.epoch;
    buf_put(body, play->last_body.data, play->last_body.len);
    if (body->len == 0)
        return;
    if (change == 0)
        body->len = at % body->len;
    else
        body->data[at % body->len] ^= change;
}

static bool make_command(struct play *play, uint8_t op, struct wire_header *header,
                         struct buf *body) {
    switch (op) {
    case 3:
        header->kind = WIRE_SCORE_START;
        header->mode = reader_u8(&play->in) & 31;
        header->tag = 1 + reader_u8(&play->in);
        header->step = header->tag & 3;
        break;
    case 4:
        header->kind = WIRE_SCORE_STOP;
        break;
    case 5:
        header->kind = WIRE_GATHER;
        header->mode = reader_u8(&play->in) & 15;
        break;
    case 6:
        make_prepare(play, header, body);
        break;
    case 7:
        header->kind = reader_u8(&play->in) % 4 == 0 ? WIRE_DISCARD : WIRE_COMMIT;
        header->tag = play->epoch + 1;
        break;
    case 8:
        make_shrink(play, header, body);
        break;
    case 9:
        header->kind = WIRE_FORGET;
        header->tag = play->epoch;
        break;
    case 10:
        header->kind = WIRE_ADD_SLOTS;
        buf_put_u32(body, 1);
        layout_slot_encode(&play->layout->slots[reader_u8(&play->in) % SCENE_SLOTS], body);
        break;
    default:
        return false;
    }
    return true;
}

/* ---- what came of it ------------------------------------------------------------------------- */

/* The play's own layouts follow the shard's. */
static void follow(struct play *play) {
    if (play->epoch == play->layout->epoch)
        return;
    if (play->prepared == NULL || play->prepared->epoch != play->epoch) {
        /* By bytes that were changed on their way: what it is now is told to who is stale. */
        struct layout *told = NULL;
        const struct wire_header stale = {.kind = WIRE_PULL, .epoch = play->epoch - 1};
        send(play, false, &stale, NULL, 0);
        REQUIRE(play->reply.header.status == DIMFIT_ERR_STALE_EPOCH);
        REQUIRE(layout_decode(play->body, play->reply.len, &told, NULL) == DIMFIT_OK);
        layout_destroy(&play->prepared);
        play->prepared = told;
        play->undoes = true;
    }
    layout_destroy(&play->before);
    if (play->undoes)
        layout_destroy(&play->layout);
    else
        play->before = play->layout;
    play->layout = play->prepared;
    play->prepared = NULL;
}

static void require_gathered(const struct play *play) {
    struct stats *stats = NULL;
    if (play->reply.header.status != DIMFIT_OK)
        return;
    REQUIRE(stats_decode(play->body, play->reply.len, &stats, NULL) == DIMFIT_OK);
    stats_destroy(&stats);
}

static void work(struct play *play, uint8_t slices) {
    const uint64_t before = digest(play);
    for (uint8_t i = 0; i < slices; i++) {
        const bool more = shard_work(play->shard);
        free(play->body);
        play->body = NULL;
        while (shard_due(play->shard, &play->reply)) {
            require_gathered(play);
            free(play->body);
            play->body = NULL;
        }
        if (!more)
            break;
    }
    REQUIRE(play->expiring || digest(play) == before);
    play->expiring = play->expiring && shard_has_work(play->shard);
}

static void number(struct play *play, size_t client, uint8_t form, struct wire_header *header) {
    header->client = 1 + client;
    header->incarnation = 1;
    header->seq = play->seq[client] + 1;
    if ((form & 0x30) == 0x10 && play->seq[client] > 0)
        header->seq--;
    if ((form & 0x30) == 0x20)
        header->seq++;
    header->epoch = play->epoch + ((form & 0xc0) == 0x40) -
                    ((form & 0xc0) == 0x80 && play->epoch > 0);
}

static void request(struct play *play, size_t client, const struct wire_header *header,
                    const struct buf *body) {
    const uint64_t before = digest(play);
    const bool next = header->seq == play->seq[client] + 1;
    send(play, false, header, body->data, body->len);
    const dimfit_err status = play->reply.header.status;
    const bool recorded = header->kind == WIRE_PUSH || header->kind == WIRE_DENSE_PUSH;
    const bool trains = header->kind == WIRE_PUSH && (header->mode & PUSH_TRAIN) != 0;
    if (recorded && next && status != DIMFIT_ERR_STALE_EPOCH && status != DIMFIT_ERR_EPOCH_AHEAD &&
        status != DIMFIT_ERR_FROZEN)
        play->seq[client]++;
    if (!(trains && next && status == DIMFIT_OK))
        REQUIRE(digest(play) == before);
}

static void step(struct play *play, struct buf *body) {
    const uint8_t op = reader_u8(&play->in), form = reader_u8(&play->in);
    const size_t client = form & 1;
    struct wire_header header = {.request = 1 + op};
    body->len = 0;
    if ((op & 15) == 11) {
        work(play, form);
        return;
    }
    number(play, client, form, &header);
    bool command = make_command(play, op & 15, &header, body);
    switch (op & 15) {
    case 0:
        make_pull(play, &header, body);
        break;
    case 2:
        make_dense(play, &header, body);
        break;
    case 12:
        make_raw(play, &header, body);
        command = (form & 2) != 0;
        break;
    case 13:
        make_damaged(play, &header, body);
        command = play->last_command;
        break;
    default:
        if (!command)
            make_push(play, &header, body);
    }
    REQUIRE(buf_status(body) == DIMFIT_OK);
    play->expiring |= header.kind == WIRE_SHRINK;
    if (command)
        send(play, true, &header, body->data, body->len);
    else
        request(play, client, &header, body);
    follow(play);
    play->last = header;
    play->last_command = command;
    play->last_body.len = 0;
    buf_put(&play->last_body, body->data, body->len);
}

static void begin(struct play *play) {
    const uint8_t how = reader_u8(&play->in);
    const struct shard_options options = {
        .score_memory = (how & 1) != 0 ? 2048 : 1 << 20,
        .score_sample = (how & 2) != 0 ? 3 : 1,
        .row_memory = (how & 4) != 0 ? 1 << 16 : 0,
        .skip_new = (how & 8) != 0,
        .keep = (how & 16) == 0,
    };
    const struct shard_io io = {.self = play, .body = give_body};
    play->layout = scene_layout((how & 32) != 0);
    REQUIRE(shard_new(play->layout, &options, &io, &play->shard) == DIMFIT_OK);
    play->epoch = play->layout->epoch;
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    struct play play = {.in = reader_of(bytes, len)};
    buf_init(&play.last_body);
    buf_init(&play.message_body);
    begin(&play);
    for (size_t i = 0; i < OPS_MAX && play.in.left > 0; i++)
        step(&play, &play.message_body);
    work(&play, UINT8_MAX);
    const bool taken = play.taken > 0;
    shard_destroy(&play.shard);
    layout_destroy(&play.layout);
    layout_destroy(&play.before);
    layout_destroy(&play.prepared);
    buf_fini(&play.last_body);
    buf_fini(&play.message_body);
    free(play.body);
    return taken;
}

/* ---- to begin with --------------------------------------------------------------------------- */

void fuzz_seeds(struct fuzz_sink *sink) {
    static const uint8_t push[] = {1, 0, 0x1e, 0, 3, 3, 1, 8, 20, 1, 2, 3, 4, 200};
    static const uint8_t again[] = {1, 0x10, 0x1e, 0, 3, 3, 1, 8, 20, 1, 2, 3, 4, 200};
    static const uint8_t search[] = {3, 0, 21, 5};
    static const uint8_t gather[] = {5, 0, 11, 11, 9};
    static const uint8_t change[] = {6, 0, 15, 7, 0, 1, 11, 3};
    static const uint8_t undo[] = {6, 0, 0x8f, 7, 0, 1};
    static const uint8_t shrink[] = {8, 0, 0x26, 3, 40, 0, 11, 20};
    static const uint8_t dense[] = {2, 0, 0x30, 1, 2, 0, 0x32, 2, 0, 0x31};
    static const uint8_t pull[] = {0, 0, 0x1e, 0x0e, 1, 0, 1, 2, 3, 4, 5, 1};
    static const uint8_t rest[] = {13, 0, 9, 0, 0x80, 4, 0, 9, 0, 10, 0, 1};
    struct buf buf;
    buf_init(&buf);
    for (uint8_t how = 0; how < 64; how += 7) {
        buf_put_u8(&buf, how);
        buf_put(&buf, push, sizeof push);
        buf_put(&buf, again, sizeof again);
        buf_put(&buf, search, sizeof search);
        buf_put(&buf, push, sizeof push);
        buf_put(&buf, gather, sizeof gather);
        buf_put(&buf, change, sizeof change);
        buf_put(&buf, push, sizeof push);
        buf_put(&buf, undo, sizeof undo);
        buf_put(&buf, pull, sizeof pull);
        buf_put(&buf, shrink, sizeof shrink);
        buf_put(&buf, dense, sizeof dense);
        buf_put(&buf, rest, sizeof rest);
        fuzz_put_buf(sink, &buf);
    }
    buf_fini(&buf);
}
