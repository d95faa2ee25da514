#include "tests/unit/fake_cluster.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

struct fake_shard {
    void *socket;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    struct layout *layout;
    int drop, lose, cut, switch_after;
    bool move;
    dimfit_err refuse;
    uint64_t incarnation, applied;
    size_t n_requests;
    struct fake_request requests[FAKE_REQUESTS_MAX];
};

struct fake {
    pthread_mutex_t lock;
    pthread_t thread;
    void *context, *coordinator;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    bool stop, auto_slots;
    int busy, freeze;
    bool curvature;
    size_t n_shards, declared;
    struct layout *layout;
    struct cluster_map *map;
    struct fake_shard shards[FAKE_SHARDS_MAX];
};

struct message {
    uint8_t route[256];
    size_t route_len;
    struct wire_header header;
    zmq_msg_t body;
};

float fake_value(uint64_t key, size_t k) {
    return (float)(key % 1000) + 0.25f * (float)(k + 1);
}

static void must(bool condition) {
    if (!condition)
        abort();
}

static bool take_one(int *times) {
    if (*times <= 0)
        return false;
    --*times;
    return true;
}

/* ---- wire --------------------------------------------------------------------------------------
 */

static bool receive(void *socket, struct message *m) {
    const int n = zmq_recv(socket, m->route, sizeof m->route, ZMQ_DONTWAIT);
    if (n < 0)
        return false;
    m->route_len = (size_t)n;
    uint8_t header[WIRE_HEADER_MAX];
    const int len = zmq_recv(socket, header, sizeof header, 0);
    must(len > 0 && wire_decode(header, (size_t)len, &m->header, NULL) == DIMFIT_OK);
    int more = 0;
    size_t size = sizeof more;
    zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
    zmq_msg_init(&m->body);
    if (more)
        must(zmq_msg_recv(&m->body, socket, 0) >= 0 && !zmq_msg_more(&m->body));
    return true;
}

static void reply(void *socket, const struct message *to, struct wire_header *header,
                  const void *body, size_t len) {
    header->kind = to->header.kind;
    header->reply = true;
    header->request = to->header.request;
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t n = wire_encode(header, bytes);
    zmq_send(socket, to->route, to->route_len, ZMQ_SNDMORE);
    zmq_send(socket, bytes, n, len > 0 ? ZMQ_SNDMORE : 0);
    if (len > 0)
        zmq_send(socket, body, len, 0);
}

/* ---- shard -------------------------------------------------------------------------------------
 */

static bool is_recorded(const struct wire_header *h) {
    return h->kind == WIRE_PUSH || h->kind == WIRE_DENSE_PUSH;
}

/* As a shard checks: number, epoch, freeze. *repeat: it was applied before. */
static dimfit_err judge(struct fake *f, struct fake_shard *s, const struct wire_header *h,
                        struct wire_header *out, bool *repeat) {
    *repeat = false;
    if (is_recorded(h)) {
        if (h->incarnation > s->incarnation) {
            s->incarnation = h->incarnation;
            s->applied = 0;
        }
        if (h->incarnation < s->incarnation)
            return DIMFIT_ERR_FENCED;
        *repeat = h->seq <= s->applied;
        out->seq = s->applied + 1;
        if (*repeat || h->seq > s->applied + 1)
            return *repeat ? DIMFIT_OK : DIMFIT_ERR_SEQ_GAP;
    }
    if (h->kind == WIRE_PULL || h->kind == WIRE_PUSH) {
        if (h->epoch > s->layout->epoch && s->switch_after > 0 && --s->switch_after == 0) {
            layout_destroy(&s->layout);
            must(layout_copy(f->layout, &s->layout) == DIMFIT_OK);
            return DIMFIT_ERR_EPOCH_AHEAD;
        }
        if (h->epoch != s->layout->epoch)
            return h->epoch < s->layout->epoch ? DIMFIT_ERR_STALE_EPOCH : DIMFIT_ERR_EPOCH_AHEAD;
    }
    const bool trains = h->kind == WIRE_DENSE_PUSH ||
                        (h->kind == WIRE_PUSH && (h->mode & PUSH_TRAIN) != 0);
    if (f->freeze != 0 && trains) {
        if (f->freeze > 0)
            f->freeze--;
        return DIMFIT_ERR_FROZEN;
    }
    return s->refuse;
}

static void put_rows(const struct fake_shard *s, const struct section_list *sections,
                     struct buf *out) {
    for (size_t i = 0; i < sections->n; i++) {
        const struct section *const section = &sections->items[i];
        const struct layout_slot *const slot = layout_find(s->layout, section->slot);
        must(slot != NULL);
        for (size_t row = 0; row < section->rows; row++)
            for (size_t k = 0; k < slot->width; k++)
                buf_put_f32(out, fake_value(load_u64(section->keys + 8 * row), k));
    }
}

static void serve_shard(struct fake *f, struct fake_shard *s, struct message *m) {
    must(s->n_requests < FAKE_REQUESTS_MAX && zmq_msg_size(&m->body) <= FAKE_BODY_MAX);
    struct fake_request *const r = &s->requests[s->n_requests++];
    r->header = m->header;
    r->len = zmq_msg_size(&m->body);
    memcpy(r->body, zmq_msg_data(&m->body), r->len);
    const bool rows = m->header.kind == WIRE_PULL || m->header.kind == WIRE_PUSH;
    if (rows)
        must(section_parse(&r->sections, r->body, r->len, m->header.kind == WIRE_PUSH, NULL) ==
             DIMFIT_OK);
    if (take_one(&s->drop)) {
        r->status = DIMFIT_ERR_UNREACHABLE;
        return;
    }
    struct wire_header out = {0};
    struct buf body;
    buf_init(&body);
    bool repeat;
    out.status = judge(f, s, &m->header, &out, &repeat);
    r->status = out.status;
    r->applied = out.status == DIMFIT_OK && !repeat && is_recorded(&m->header);
    const bool settled = out.status == DIMFIT_OK || out.status == s->refuse;
    if (is_recorded(&m->header) && settled && !repeat)
        s->applied = m->header.seq;
    if (out.status == DIMFIT_ERR_STALE_EPOCH)
        layout_encode(s->layout, &body);
    else if (out.status != DIMFIT_OK)
        err_set(&out.detail, out.status, "refused as told");
    else if (m->header.kind == WIRE_PULL)
        put_rows(s, &r->sections, &body);
    else if (m->header.kind == WIRE_DENSE_PULL)
        for (size_t i = 0; i < 3; i++)
            buf_put_f32(&body, (float)i);
    else
        out.mode = m->header.kind == WIRE_DENSE_RESET;
    if (body.len >= 4 && take_one(&s->cut))
        body.len -= 4;
    out.epoch = s->layout->epoch;
    out.frozen = f->freeze != 0;
    out.curvature = f->curvature;
    out.phase = f->freeze != 0 ? PHASE_SCORING : PHASE_IDLE;
    if (!take_one(&s->lose))
        reply(s->socket, m, &out, body.data, body.len);
    buf_fini(&body);
}

/* ---- coordinator -------------------------------------------------------------------------------
 */

static void put_cluster(const struct fake *f, struct buf *out) {
    struct buf part;
    buf_init(&part);
    cluster_map_encode(f->map, &part);
    buf_put_u64(out, part.len);
    buf_put(out, part.data, part.len);
    buf_fini(&part);
    layout_encode(f->layout, &part);
    buf_put_u64(out, part.len);
    buf_put(out, part.data, part.len);
    buf_fini(&part);
}

static dimfit_err declare(struct fake *f, const struct message *m) {
    f->declared++;
    if (!f->auto_slots)
        return DIMFIT_ERR_UNKNOWN_SLOT;
    struct reader r = reader_of(zmq_msg_data((zmq_msg_t *)&m->body),
                                zmq_msg_size((zmq_msg_t *)&m->body));
    const uint32_t n = reader_u32(&r);
    for (uint32_t i = 0; i < n; i++) {
        struct layout_slot slot = {.id = reader_u32(&r)};
        slot.dim = reader_u32(&r);
        char word[32];
        reader_str(&r, slot.name, sizeof slot.name);
        slot.search = reader_u8(&r) != 0;
        reader_str(&r, word, sizeof word);
        slot.optimizer.lr = (float)reader_f64(&r);
        reader_str(&r, word, sizeof word);
        slot.init_scale = (float)reader_f64(&r);
        const uint8_t tiers = reader_u8(&r);
        for (uint32_t t = 1; tiers != DECLARE_NO_TIERS && t <= tiers; t++)
            slot.tier_shows[t] = reader_u32(&r);
        slot.n_tiers = tiers != DECLARE_NO_TIERS ? tiers + 1u : 1;
        slot.dim = slot.dim == 0 ? 3 : slot.dim;
        slot.width = slot.dim;
        if (slot.name[0] == 0)
            snprintf(slot.name, sizeof slot.name, "slot%u", slot.id);
        must(layout_add_slot(f->layout, &slot, NULL) == DIMFIT_OK);
        for (size_t s = 0; s < f->n_shards; s++)
            must(layout_add_slot(f->shards[s].layout, &slot, NULL) == DIMFIT_OK);
    }
    must(reader_done(&r));
    return DIMFIT_OK;
}

static void serve_coordinator(struct fake *f, struct message *m) {
    const struct wire_header *const h = &m->header;
    struct wire_header out = {.epoch = f->layout->epoch};
    struct buf body;
    buf_init(&body);
    switch (h->kind) {
    case WIRE_CONNECT:
    case WIRE_DECLARE:
        if (take_one(&f->busy))
            out.status = err_set(&out.detail, DIMFIT_ERR_BUSY, "waiting for shards 1/2");
        else if (h->kind == WIRE_DECLARE && declare(f, m) != DIMFIT_OK)
            out.status = err_set(&out.detail, DIMFIT_ERR_UNKNOWN_SLOT,
                                 "declare it in the configuration or set auto_slots: true");
        else
            put_cluster(f, &body);
        break;
    case WIRE_BARRIER:
        if (h->tag != 1)
            out.status = err_set(&out.detail, DIMFIT_ERR_TIMEOUT,
                                 "barrier '%s': 1 of %d workers came", h->name, (int)h->tag);
        break;
    case WIRE_SCORE_NEXT:
        out.step = h->step + 1;
        out.mode = h->step == 3 ? SCORE_OVER : 0;
        break;
    case WIRE_ADMIN:
        buf_put(&body, zmq_msg_data(&m->body), zmq_msg_size(&m->body));
        break;
    default:
        out.status = DIMFIT_ERR_UNSUPPORTED;
    }
    reply(f->coordinator, m, &out, body.data, body.len);
    buf_fini(&body);
}

static bool serve_one(struct fake *f, void *socket, struct fake_shard *shard) {
    struct message m;
    if (!receive(socket, &m))
        return false;
    if (shard == NULL)
        serve_coordinator(f, &m);
    else
        serve_shard(f, shard, &m);
    zmq_msg_close(&m.body);
    return true;
}

static void *bind_somewhere(struct fake *f, char *endpoint) {
    const int linger = 0;
    void *const socket = zmq_socket(f->context, ZMQ_ROUTER);
    must(socket != NULL && zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) == 0 &&
         zmq_bind(socket, "tcp://127.0.0.1:*") == 0);
    size_t len = CLUSTER_ENDPOINT_MAX + 1;
    must(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &len) == 0);
    return socket;
}

/* Sockets are made and closed by the thread that uses them. */
static void move_shards(struct fake *f) {
    for (size_t i = 0; i < f->n_shards; i++) {
        struct fake_shard *const s = &f->shards[i];
        if (!s->move)
            continue;
        s->move = false;
        zmq_close(s->socket);
        s->socket = bind_somewhere(f, s->endpoint);
        memcpy(f->map->endpoints[i], s->endpoint, sizeof s->endpoint);
        f->map->version = 0;
    }
}

static void *run(void *self) {
    struct fake *const f = self;
    zmq_pollitem_t items[1 + FAKE_SHARDS_MAX] = {{.socket = f->coordinator, .events = ZMQ_POLLIN}};
    for (bool stop = false; !stop;) {
        for (size_t i = 0; i < f->n_shards; i++)
            items[1 + i] = (zmq_pollitem_t){.socket = f->shards[i].socket, .events = ZMQ_POLLIN};
        zmq_poll(items, 1 + (int)f->n_shards, 10);
        pthread_mutex_lock(&f->lock);
        move_shards(f);
        while (serve_one(f, f->coordinator, NULL))
            ;
        for (size_t i = 0; i < f->n_shards; i++)
            while (serve_one(f, f->shards[i].socket, &f->shards[i]))
                ;
        stop = f->stop;
        pthread_mutex_unlock(&f->lock);
    }
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct fake *fake_start(size_t shards, const struct layout *layout) {
    struct fake *const f = calloc(1, sizeof *f);
    must(f != NULL && shards <= FAKE_SHARDS_MAX);
    pthread_mutex_init(&f->lock, NULL);
    f->context = zmq_ctx_new();
    f->n_shards = shards;
    f->coordinator = bind_somewhere(f, f->endpoint);
    must(layout_copy(layout, &f->layout) == DIMFIT_OK);
    must(cluster_map_new(shards, &f->map) == DIMFIT_OK);
    f->map->version = 1;
    for (size_t i = 0; i < shards; i++) {
        f->shards[i].socket = bind_somewhere(f, f->shards[i].endpoint);
        memcpy(f->map->endpoints[i], f->shards[i].endpoint, CLUSTER_ENDPOINT_MAX + 1);
        must(layout_copy(layout, &f->shards[i].layout) == DIMFIT_OK);
    }
    must(pthread_create(&f->thread, NULL, run, f) == 0);
    return f;
}

void fake_stop(struct fake **fake) {
    struct fake *const f = *fake;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    for (size_t i = 0; i < f->n_shards; i++) {
        struct fake_shard *const s = &f->shards[i];
        zmq_close(s->socket);
        layout_destroy(&s->layout);
        for (size_t r = 0; r < s->n_requests; r++)
            section_list_fini(&s->requests[r].sections);
    }
    zmq_close(f->coordinator);
    zmq_ctx_term(f->context);
    layout_destroy(&f->layout);
    cluster_map_destroy(&f->map);
    pthread_mutex_destroy(&f->lock);
    free(f);
    *fake = NULL;
}

const char *fake_endpoint(const struct fake *fake) {
    return fake->endpoint;
}

const char *fake_shard_endpoint(const struct fake *fake, size_t shard) {
    return fake->shards[shard].endpoint;
}

/* ---- behaviour ---------------------------------------------------------------------------------
 */

#define LOCKED(statement)                                                                          \
    do {                                                                                           \
        pthread_mutex_lock(&fake->lock);                                                           \
        statement;                                                                                 \
        pthread_mutex_unlock(&fake->lock);                                                         \
    } while (0)

static void set_layout(struct layout **at, const struct layout *layout) {
    layout_destroy(at);
    must(layout_copy(layout, at) == DIMFIT_OK);
}

void fake_busy(struct fake *fake, int times) {
    LOCKED(fake->busy = times);
}

void fake_layout(struct fake *fake, const struct layout *layout) {
    LOCKED(set_layout(&fake->layout, layout));
}

void fake_switch(struct fake *fake, size_t shard) {
    LOCKED(set_layout(&fake->shards[shard].layout, fake->layout));
}

void fake_switch_after(struct fake *fake, size_t shard, int refusals) {
    LOCKED(fake->shards[shard].switch_after = refusals);
}

void fake_drop(struct fake *fake, size_t shard, int times) {
    LOCKED(fake->shards[shard].drop = times);
}

void fake_lose(struct fake *fake, size_t shard, int times) {
    LOCKED(fake->shards[shard].lose = times);
}

void fake_cut(struct fake *fake, size_t shard, int times) {
    LOCKED(fake->shards[shard].cut = times);
}

void fake_refuse(struct fake *fake, size_t shard, dimfit_err err) {
    LOCKED(fake->shards[shard].refuse = err);
}

void fake_curvature(struct fake *fake, bool wanted) {
    LOCKED(fake->curvature = wanted);
}

void fake_freeze(struct fake *fake, int refusals) {
    LOCKED(fake->freeze = refusals);
}

void fake_forget(struct fake *fake, size_t shard) {
    LOCKED(fake->shards[shard].applied = fake->shards[shard].incarnation = 0);
}

void fake_auto_slots(struct fake *fake, bool on) {
    LOCKED(fake->auto_slots = on);
}

void fake_move(struct fake *fake, size_t shard) {
    LOCKED(fake->shards[shard].move = true);
}

size_t fake_count(struct fake *fake, size_t shard) {
    size_t n;
    LOCKED(n = fake->shards[shard].n_requests);
    return n;
}

uint32_t fake_tiers(struct fake *fake, uint32_t slot, uint32_t *shows) {
    struct layout_slot s;
    LOCKED(s = *layout_find(fake->layout, slot));
    memcpy(shows, s.tier_shows, sizeof s.tier_shows);
    return s.n_tiers;
}

const struct fake_request *fake_request(struct fake *fake, size_t shard, int i) {
    const int n = (int)fake_count(fake, shard);
    must(i < n && i >= -n);
    return &fake->shards[shard].requests[i < 0 ? n + i : i];
}

size_t fake_applied(struct fake *fake, size_t shard) {
    size_t n = 0;
    const size_t all = fake_count(fake, shard);
    LOCKED({
        for (size_t i = 0; i < all; i++)
            n += fake->shards[shard].requests[i].applied;
    });
    return n;
}

size_t fake_declared(struct fake *fake) {
    size_t n;
    LOCKED(n = fake->declared);
    return n;
}

size_t fake_shard_of(const struct fake *fake, uint32_t slot, uint64_t key) {
    return cluster_map_shard(fake->map, key_hash(slot, key));
}

uint64_t fake_key_on(const struct fake *fake, uint32_t slot, size_t shard, uint64_t from) {
    while (fake_shard_of(fake, slot, from) != shard)
        from++;
    return from;
}
