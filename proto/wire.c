#include "proto/wire.h"

#include "proto/message.pb-c.h"

#include <stdalign.h>

const char *wire_kind_name(enum wire_kind kind) {
    switch (kind) {
#define KIND_NAME(num, name)                                                                       \
    case WIRE_##name:                                                                              \
        return #name;
        WIRE_KIND_MAP(KIND_NAME)
#undef KIND_NAME
    }
    return "?";
}

const char *wire_phase_name(enum wire_phase phase) {
    switch (phase) {
#define PHASE_TEXT(num, name, text)                                                                \
    case PHASE_##name:                                                                             \
        return text;
        WIRE_PHASE_MAP(PHASE_TEXT)
#undef PHASE_TEXT
    }
    return "?";
}

size_t wire_encode(const struct wire_header *header, uint8_t *out) {
    struct err_detail detail = header->detail;
    char name[WIRE_NAME_MAX + 1];
    memcpy(name, header->name, sizeof name);

    Dimfit__Header m = DIMFIT__HEADER__INIT;
    m.version = WIRE_VERSION;
    m.kind = header->kind;
    m.reply = header->reply;
    m.request = header->request;
    m.client = header->client;
    m.incarnation = header->incarnation;
    m.seq = header->seq;
    m.epoch = header->epoch;
    m.phase = header->phase;
    m.frozen = header->frozen;
    m.curvature = header->curvature;
    m.status = header->status;
    m.detail = detail.text;
    m.mode = header->mode;
    m.step = header->step;
    m.samples = header->samples;
    m.name = name;
    m.tag = header->tag;
    m.timeout_ms = header->timeout_ms;
    m.day = header->day;
    m.plain = header->plain;
    m.moving = header->moving;

    _Static_assert(sizeof detail.text + sizeof name + 256 <= WIRE_HEADER_MAX,
                   "all fields at their longest fit a header frame");
    return dimfit__header__pack(&m, out);
}

/* protobuf-c allocates the message, its two strings and whatever unknown fields the bytes hold; all
 * of it comes from here, so that hostile bytes can use this much and no more. */
struct arena {
    size_t used;
    alignas(16) uint8_t bytes[8 * WIRE_HEADER_MAX];
};

static void *arena_alloc(void *data, size_t size) {
    struct arena *const arena = data;
    const size_t rounded = (size + 15) & ~(size_t)15;
    if (rounded < size || rounded > sizeof arena->bytes - arena->used)
        return NULL;
    void *const at = arena->bytes + arena->used;
    arena->used += rounded;
    return at;
}

static void arena_free(void *data, void *pointer) {
}

static bool text_copy(char *out, size_t cap, const char *text) {
    const size_t len = strlen(text);
    if (len >= cap)
        return false;
    memcpy(out, text, len + 1);
    return true;
}

dimfit_err wire_decode(const void *bytes, size_t len, struct wire_header *out,
                       struct err_detail *detail) {
    if (len > WIRE_HEADER_MAX)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "header frame of %zu bytes, at most %d", len,
                       WIRE_HEADER_MAX);
    struct arena arena;
    arena.used = 0;
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
    const Dimfit__Header *const m = dimfit__header__unpack(&allocator, len, bytes);
    if (m == NULL)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "header frame of %zu bytes is no dimfit header",
                       len);
    if (m->version != WIRE_VERSION)
        return err_set(detail, DIMFIT_ERR_VERSION, "the peer speaks wire version %u, we speak %d",
                       m->version, WIRE_VERSION);
    if (m->phase > PHASE_COMPARED)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "phase %u is out of range", m->phase);

    struct wire_header h = {
        .kind = m->kind,
        .reply = m->reply,
        .frozen = m->frozen,
        .curvature = m->curvature,
        .phase = m->phase,
        .status = m->status,
        .mode = m->mode,
        .timeout_ms = m->timeout_ms,
        .day = m->day,
        .request = m->request,
        .client = m->client,
        .incarnation = m->incarnation,
        .seq = m->seq,
        .epoch = m->epoch,
        .step = m->step,
        .samples = m->samples,
        .tag = m->tag,
        .plain = m->plain,
        .moving = m->moving,
    };
    if (!text_copy(h.name, sizeof h.name, m->name) ||
        !text_copy(h.detail.text, sizeof h.detail.text, m->detail))
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "name or detail text too long");
    *out = h;
    return DIMFIT_OK;
}
