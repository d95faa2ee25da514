#include "worker/client_internal.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    DEFAULT_TIMEOUT_MS = 10000,
    RETRY_MS = 20, /* while the coordinator is not ready */
    TIMEOUT_SECONDS_MAX = 1000000,
};

struct err_detail *client_connect_detail(void) {
    static _Thread_local struct err_detail detail;
    return &detail;
}

static dimfit_err ask(struct dimfit *c, struct wire_header *request, const void *body, size_t len,
                      int64_t timeout_ms, struct rpc_reply *reply) {
    request->client = c->client;
    request->incarnation = c->incarnation;
    request->epoch = c->view == NULL ? 0 : c->view->shown.epoch;
    request->timeout_ms = timeout_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)timeout_ms;
    const dimfit_err err = rpc_call(c->coordinator, request, body, len, timeout_ms, reply,
                                    &c->detail);
    if (err == DIMFIT_OK)
        client_heard(c, &reply->header);
    return err;
}

dimfit_err client_ask(struct dimfit *c, struct wire_header *request, const void *body, size_t len,
                      struct rpc_reply *reply) {
    const int64_t left = c->deadline_ms - client_now_ms();
    return ask(c, request, body, len, left > 1 ? left : 1, reply);
}

/* Map and layout, each with its length before it. */
static dimfit_err take_cluster(struct dimfit *c, const struct rpc_reply *reply) {
    struct reader r = reader_of(reply->body, reply->len);
    const size_t map_len = reader_u64(&r);
    const uint8_t *const map_at = reader_take(&r, map_len);
    const size_t layout_len = reader_u64(&r);
    const uint8_t *const layout_bytes = reader_take(&r, layout_len);
    if (!reader_done(&r))
        return err_set(&c->detail, DIMFIT_ERR_PROTOCOL, "malformed cluster description");
    struct reader map_bytes = reader_of(map_at, map_len);
    struct cluster_map *map = NULL;
    struct layout *layout = NULL;
    dimfit_err err = cluster_map_decode(&map_bytes, &map, &c->detail);
    if (err == DIMFIT_OK && !reader_done(&map_bytes)) {
        cluster_map_destroy(&map);
        err = err_set(&c->detail, DIMFIT_ERR_PROTOCOL, "bytes left over after the cluster map");
    }
    if (err == DIMFIT_OK)
        err = client_take_map(c, map);
    if (err == DIMFIT_OK)
        err = layout_decode(layout_bytes, layout_len, &layout, &c->detail);
    if (err == DIMFIT_OK)
        err = client_take_layout(c, layout);
    return err;
}

/* Ask for the cluster's description until it is complete. */
static dimfit_err ask_cluster(struct dimfit *c, enum wire_kind kind, const struct buf *body) {
    struct rpc_reply reply;
    for (;;) {
        struct wire_header request = {.kind = kind};
        const int64_t left = c->deadline_ms - client_now_ms();
        const dimfit_err err = ask(c, &request, body->data, body->len, left > 1 ? left : 1, &reply);
        if (err == DIMFIT_OK)
            return take_cluster(c, &reply);
        if (err != DIMFIT_ERR_BUSY)
            return err;
        if (client_now_ms() + RETRY_MS >= c->deadline_ms) {
            const struct err_detail why = c->detail;
            return err_set(&c->detail, DIMFIT_ERR_TIMEOUT, "the cluster is not ready: %.300s",
                           why.text);
        }
        client_sleep_ms(RETRY_MS);
    }
}

static const struct buf no_body;

dimfit_err dimfit_refresh(struct dimfit *c) {
    const dimfit_err err = client_begin(c);
    return err != DIMFIT_OK ? err : ask_cluster(c, WIRE_CONNECT, &no_body);
}

void client_find_shards(struct dimfit *c, int64_t timeout_ms) {
    const struct err_detail before = c->detail;
    struct wire_header request = {.kind = WIRE_CONNECT};
    struct rpc_reply reply;
    dimfit_err err = ask(c, &request, NULL, 0, timeout_ms, &reply);
    if (err == DIMFIT_OK)
        err = take_cluster(c, &reply);
    if (err != DIMFIT_OK)
        c->detail = before;
}

/* A numbering whose fate is unknown is left behind by adding one to its incarnation; that must not
 * meet the next incarnation of a caller who counts his own. Clock readings are far enough apart as
 * they are, and above every small number made wide. */
static uint64_t spread(uint64_t incarnation) {
    return incarnation < (uint64_t)1 << 40 ? incarnation << 20 : incarnation;
}

static bool is_time(double seconds) {
    return seconds >= 0 && seconds <= TIMEOUT_SECONDS_MAX;
}

static dimfit_err start(struct dimfit *c, const char *endpoint,
                        const struct dimfit_options *options) {
    const double timeout = options->timeout;
    if (!is_time(timeout))
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "a timeout of %g s is not within 0..%d s",
                       timeout, TIMEOUT_SECONDS_MAX);
    c->timeout_ms = timeout > 0 ? (int64_t)ceil(timeout * 1000) : DEFAULT_TIMEOUT_MS;
    c->deadline_ms = client_now_ms() + c->timeout_ms;
    c->half = options->half != 0;
    c->pack = options->pack != 0;
    c->client = options->client;
    if (c->client == 0 && getrandom(&c->client, sizeof c->client, 0) != sizeof c->client)
        return err_set(&c->detail, DIMFIT_ERR_IO, "no random numbers for an identity");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    c->incarnation = options->incarnation != 0
                         ? spread(options->incarnation)
                         : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    c->context = zmq_ctx_new();
    if (c->context == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no ZeroMQ context");
    const dimfit_err err = rpc_open(endpoint, &c->coordinator, &c->detail);
    return err != DIMFIT_OK ? err : ask_cluster(c, WIRE_CONNECT, &no_body);
}

dimfit_err dimfit_connect(const char *endpoint, const struct dimfit_options *options,
                          struct dimfit **out) {
    struct dimfit_options given = {0};
    if (options != NULL && options->size == 0)
        return err_set(client_connect_detail(), DIMFIT_ERR_INVALID,
                       "options.size is 0; set it to sizeof(struct dimfit_options)");
    if (options != NULL)
        memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
    struct dimfit *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(client_connect_detail(), DIMFIT_ERR_NOMEM, "no memory for a handle");
    c->magic = CLIENT_MAGIC;
    c->pid = getpid();
    const dimfit_err err = start(c, endpoint, &given);
    if (err != DIMFIT_OK) {
        *client_connect_detail() = c->detail;
        dimfit_close(&c);
        return err;
    }
    c->compact_epoch = c->view->shown.epoch;
    *out = c;
    return DIMFIT_OK;
}

/* ---- slots ----------------------------------------------------------------------------------- */

static const char *text_of(const char *text) {
    return text == NULL ? "" : text;
}

dimfit_err client_declare(struct dimfit *c, const struct dimfit_declare *slots, size_t n) {
    struct buf body;
    buf_init(&body);
    buf_put_u32(&body, (uint32_t)n);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; err == DIMFIT_OK && i < n; i++) {
        const struct dimfit_declare *const s = &slots[i];
        if (strlen(text_of(s->name)) > LAYOUT_NAME_MAX)
            err = err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u: a name has at most %d bytes",
                          s->slot, LAYOUT_NAME_MAX);
        if (strlen(text_of(s->optimizer)) > 31 || strlen(text_of(s->init)) > 31)
            err = err_set(&c->detail, DIMFIT_ERR_INVALID, "slot %u: no such optimizer or init",
                          s->slot);
        if (s->tiers != NULL && s->n_tiers >= LAYOUT_TIERS_MAX)
            err = err_set(&c->detail, DIMFIT_ERR_INVALID,
                          "slot %u: tiers has %u show counts, %d at most", s->slot, s->n_tiers,
                          LAYOUT_TIERS_MAX - 1);
        if (err != DIMFIT_OK)
            break;
        buf_put_u32(&body, s->slot);
        buf_put_u32(&body, s->dim);
        buf_put_str(&body, text_of(s->name));
        buf_put_u8(&body, s->search != 0);
        buf_put_str(&body, text_of(s->optimizer));
        buf_put_f64(&body, s->lr);
        buf_put_str(&body, text_of(s->init));
        buf_put_f64(&body, s->init_scale);
        buf_put_u8(&body, s->tiers != NULL ? (uint8_t)s->n_tiers : DECLARE_NO_TIERS);
        for (uint32_t t = 0; s->tiers != NULL && t < s->n_tiers; t++)
            buf_put_u32(&body, s->tiers[t]);
    }
    if (err == DIMFIT_OK)
        err = buf_status(&body);
    if (err == DIMFIT_OK)
        err = ask_cluster(c, WIRE_DECLARE, &body);
    buf_fini(&body);
    return err;
}

dimfit_err dimfit_declare(struct dimfit *c, const struct dimfit_declare *slots, size_t n) {
    const dimfit_err err = client_begin(c);
    return err != DIMFIT_OK ? err : client_declare(c, slots, n);
}

/* ---- working together ------------------------------------------------------------------------ */

static bool set_name(struct wire_header *header, const char *name) {
    const size_t len = strlen(name);
    if (len == 0 || len > WIRE_NAME_MAX)
        return false;
    memcpy(header->name, name, len + 1);
    return true;
}

dimfit_err dimfit_barrier(struct dimfit *c, const char *name, uint32_t n, double timeout) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct wire_header request = {.kind = WIRE_BARRIER, .tag = n};
    if (!set_name(&request, name) || n == 0)
        return err_set(&c->detail, DIMFIT_ERR_INVALID,
                       "a barrier has a name of 1 to %d bytes and at least one worker",
                       WIRE_NAME_MAX);
    if (!is_time(timeout))
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "a timeout of %g s is not within 0..%d s",
                       timeout, TIMEOUT_SECONDS_MAX);
    const int64_t wanted = (int64_t)ceil(timeout * 1000);
    const int64_t limit = wanted > c->timeout_ms ? wanted : c->timeout_ms;
    struct rpc_reply reply;
    /* The coordinator keeps the time; a little longer here lets its answer through. */
    request.timeout_ms = (uint32_t)limit;
    request.client = c->client;
    request.incarnation = c->incarnation;
    err = rpc_call(c->coordinator, &request, NULL, 0, limit + 1000, &reply, &c->detail);
    if (err == DIMFIT_OK)
        client_heard(c, &reply.header);
    return err;
}

dimfit_err dimfit_score_next(struct dimfit *c, uint64_t done, uint64_t samples, int exhausted,
                             uint64_t *next) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct wire_header request = {
        .kind = WIRE_SCORE_NEXT,
        .tag = c->search,
        .step = done,
        .samples = samples,
        .mode = exhausted ? SCORE_EXHAUSTED : 0,
    };
    struct rpc_reply reply;
    err = ask(c, &request, NULL, 0, c->timeout_ms, &reply);
    if (err != DIMFIT_OK)
        return err;
    c->search = reply.header.tag;
    *next = (reply.header.mode & SCORE_OVER) != 0 ? 0 : reply.header.step;
    return DIMFIT_OK;
}

dimfit_err dimfit_admin(struct dimfit *c, const char *command, const char *args, char **reply) {
    dimfit_err err = client_begin(c);
    if (err != DIMFIT_OK)
        return err;
    struct wire_header request = {.kind = WIRE_ADMIN};
    if (!set_name(&request, command))
        return err_set(&c->detail, DIMFIT_ERR_INVALID, "an admin command has 1 to %d bytes",
                       WIRE_NAME_MAX);
    struct rpc_reply answer;
    const size_t len = args == NULL ? 0 : strlen(args);
    err = ask(c, &request, args, len, c->timeout_ms, &answer);
    if (err != DIMFIT_OK)
        return err;
    char *const text = malloc(answer.len + 1);
    if (text == NULL)
        return err_set(&c->detail, DIMFIT_ERR_NOMEM, "no memory for an answer of %zu bytes",
                       answer.len);
    memcpy(text, answer.len > 0 ? (const char *)answer.body : "", answer.len);
    text[answer.len] = 0;
    *reply = text;
    return DIMFIT_OK;
}
