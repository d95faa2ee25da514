#include "server/shard_host.h"

#include "server/eviction_log.h"
#include "server/frames.h"
#include "server/hello.h"
#include "server/log.h"
#include "server/memory.h"
#include "server/spill.h"

enum {
    HOST_MAGIC = 0x53484f53,
    HEARTBEAT_MS = 1000,
    REGISTER_MS = 500,   /* a registration without an answer is repeated */
    BURST_MESSAGES = 64, /* served before the coordinator is listened to again */
    FULL_MS = 5,         /* until the log of evicted rows, or the disk, may take more */
    WORK_SHARE_US = 100, /* of requests, after which a slice of work comes between them */
};

struct start {
    dimfit_err err;
    struct err_detail *detail;
};

struct host {
    uint32_t magic;
    const struct shard_host_options *options;
    struct start *start; /* the starter's; gone once the pipe was signalled */
    zsock_t *pipe;
    void *workers, *coordinator; /* ROUTER, DEALER */
    void *evictions;             /* PUSH, NULL: they are not logged */
    uint64_t unlogged;           /* evicted rows, for want of memory */
    struct spill_end *spill;     /* NULL: rows before a change are not saved to disk */
    struct service_figures service;
    int64_t worked_us;   /* when the last slice of work ended */
    struct shard *shard; /* NULL until registered */
    struct shard_io io;
    zmq_msg_t body; /* of the reply being made */
    bool has_body;
    bool joined, stop;
    uint64_t identity;
    uint32_t number;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    int64_t began_ms, next_ms; /* of the next registration or heartbeat */
};

/* ---- what the shard needs -------------------------------------------------------------------- */

static uint8_t *host_body(void *self, size_t len) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    base_assert(!host->has_body);
    if (zmq_msg_init_size(&host->body, len) != 0)
        return NULL;
    host->has_body = true;
    return zmq_msg_data(&host->body);
}

static void host_process(void *self, struct process_figures *out) {
    memory_process_figures(out);
}

static void host_service(void *self, struct service_figures *out) {
    const struct host *const host = self;
    *out = host->service;
}

static void host_purge(void *self) {
    memory_purge();
}

static void host_evicted(void *self, uint32_t slot, const struct expired_row *rows, size_t n) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    if (host->evictions != NULL && !eviction_log_send(host->evictions, slot, rows, n))
        host->unlogged += n;
}

/* ---- work between messages --------------------------------------------------------------------
 */

static void send_reply(struct host *host, void *socket, const struct route *to,
                       const struct shard_reply *reply) {
    const bool with_body = host->has_body && reply->len > 0;
    frames_send(socket, to, &reply->header, with_body ? &host->body : NULL);
    if (host->has_body)
        zmq_msg_close(&host->body);
    host->has_body = false;
}

static bool can_work(const struct host *host) {
    return (host->evictions == NULL || eviction_log_ready(host->evictions)) &&
           (host->spill == NULL || spill_end_ready(host->spill));
}

static void work(struct host *host) {
    if (host->shard == NULL || !shard_has_work(host->shard) || !can_work(host))
        return;
    (void)shard_work(host->shard);
    struct shard_reply reply;
    while (shard_due(host->shard, &reply))
        send_reply(host, host->coordinator, NULL, &reply);
    host->worked_us = zclock_usecs();
}

/* However many requests wait, a slice comes after some of them: a third of the thread at most. */
static void work_its_share(struct host *host) {
    if (shard_has_work(host->shard) && zclock_usecs() - host->worked_us >= WORK_SHARE_US)
        work(host);
}

/* ---- messages -------------------------------------------------------------------------------- */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note_service(struct host *host, enum wire_kind kind, uint64_t since_ns) {
    if (kind == WIRE_PULL)
        latency_add(&host->service.pull, now_ns() - since_ns);
    else if (kind == WIRE_PUSH)
        latency_add(&host->service.push, now_ns() - since_ns);
}

static void serve_workers(struct host *host) {
    struct frames in;
    struct shard_reply reply;
    for (int i = 0; i < BURST_MESSAGES; i++) {
        const enum frames_got got = frames_receive(host->workers, true, &in);
        if (got == FRAMES_NONE)
            return;
        if (got == FRAMES_MALFORMED || in.header.reply) {
            shard_malformed(host->shard);
            if (got == FRAMES_MESSAGE)
                frames_close(&in);
            continue;
        }
        size_t len;
        const uint64_t began_ns = now_ns();
        const uint8_t *const body = frames_body(&in, &len);
        shard_request(host->shard, &in.header, body, len, &reply);
        frames_close(&in);
        send_reply(host, host->workers, &in.from, &reply);
        note_service(host, in.header.kind, began_ns);
        work_its_share(host);
    }
}

static void send_registration(struct host *host) {
    struct hello hello = {
        .pid = (uint64_t)getpid(),
        .number = HELLO_NO_NUMBER,
    };
    memcpy(hello.endpoint, host->endpoint, sizeof hello.endpoint);
    if (host->shard != NULL) {
        hello.number = host->number;
        hello.epoch = shard_epoch(host->shard);
        hello.prepared_epoch = shard_prepared_epoch(host->shard);
        hello.search = shard_search(host->shard);
    }
    struct buf buf;
    buf_init(&buf);
    hello_encode(&hello, &buf);
    zmq_msg_t body;
    if (!buf.failed && zmq_msg_init_size(&body, buf.len) == 0) {
        memcpy(zmq_msg_data(&body), buf.data, buf.len);
        const struct wire_header header = {.kind = WIRE_REGISTER, .client = host->identity};
        frames_send(host->coordinator, NULL, &header, &body);
        zmq_msg_close(&body);
    }
    buf_fini(&buf);
}

static void give_up(struct host *host) {
    host->stop = true;
    *host->options->failed = true;
}

static void registered(struct host *host, const struct wire_header *header, const uint8_t *body,
                       size_t len) {
    if (header->status != DIMFIT_OK) {
        log_error("shard", "the coordinator refuses this shard: %s", header->detail.text);
        if (host->shard == NULL)
            give_up(host);
        return;
    }
    if (host->shard == NULL) {
        struct layout *layout = NULL;
        struct err_detail detail = {{0}};
        dimfit_err err = layout_decode(body, len, &layout, &detail);
        if (err == DIMFIT_OK)
            err = shard_new(layout, &host->options->shard, &host->io, &host->shard);
        layout_destroy(&layout);
        if (err != DIMFIT_OK) {
            log_error("shard", "cannot start: %s %s", err_text(err), detail.text);
            give_up(host);
            return;
        }
    }
    host->number = (uint32_t)header->tag;
    host->joined = true;
}

static void hear_coordinator(struct host *host) {
    struct frames in;
    struct shard_reply reply;
    for (;;) {
        const enum frames_got got = frames_receive(host->coordinator, false, &in);
        if (got == FRAMES_NONE)
            return;
        if (got == FRAMES_MALFORMED)
            continue;
        size_t len;
        const uint8_t *const body = frames_body(&in, &len);
        if (in.header.kind == WIRE_REGISTER) {
            registered(host, &in.header, body, len);
        } else if (in.header.kind == WIRE_HEARTBEAT) {
            host->joined = false; /* it has been restarted and doesn't know us */
            host->next_ms = 0;
        } else if (in.header.kind == WIRE_STOP) {
            host->stop = true;
        } else if (host->shard != NULL && !in.header.reply) {
            shard_command(host->shard, &in.header, body, len, &reply);
            if (!reply.later)
                send_reply(host, host->coordinator, NULL, &reply);
        }
        frames_close(&in);
    }
}

static void tick(struct host *host) {
    const int64_t now = zclock_mono();
    if (now < host->next_ms)
        return;
    if (host->unlogged > 0)
        log_warn("shard", "%llu evicted rows are not in the log: no memory",
                 (unsigned long long)host->unlogged);
    host->unlogged = 0;
    if (host->joined) {
        const struct wire_header header = shard_heartbeat(host->shard);
        frames_send(host->coordinator, NULL, &header, NULL);
        host->next_ms = now + HEARTBEAT_MS;
        return;
    }
    if (host->shard == NULL && now - host->began_ms > host->options->join_timeout_ms) {
        log_error("shard",
                  "no coordinator answers at %s; start one there (dimfitd coordinator --bind %s) "
                  "or name another with --coordinator",
                  host->options->coordinator, host->options->coordinator);
        give_up(host);
        return;
    }
    send_registration(host);
    host->next_ms = now + REGISTER_MS;
}

/* ---- life ------------------------------------------------------------------------------------ */

static dimfit_err open_sockets(struct host *host, struct err_detail *detail) {
    void *const context = zsys_init();
    const char *const bind = host->options->bind;
    host->workers = frames_socket(context, ZMQ_ROUTER, 1000);
    host->coordinator = frames_socket(context, ZMQ_DEALER, 1000);
    if (host->options->eviction_log)
        host->evictions = eviction_log_connect();
    if (host->workers == NULL || host->coordinator == NULL ||
        (host->options->eviction_log && host->evictions == NULL))
        return err_set(detail, DIMFIT_ERR_IO, "no sockets: %s", zmq_strerror(zmq_errno()));
    if (host->options->spill != NULL) {
        const dimfit_err err = spill_end_new(host->options->spill, &host->spill, detail);
        if (err != DIMFIT_OK)
            return err;
        host->io.spill = spill_end_io(host->spill);
    }
    if (zmq_bind(host->workers, bind) != 0)
        return err_set(detail, DIMFIT_ERR_IO,
                       "a shard can't listen at %s: %s; give another address with --shard-bind",
                       bind, zmq_strerror(zmq_errno()));
    size_t len = sizeof host->endpoint;
    if (zmq_getsockopt(host->workers, ZMQ_LAST_ENDPOINT, host->endpoint, &len) != 0)
        return err_set(detail, DIMFIT_ERR_IO, "the address bound at %s is too long", bind);
    if (strncmp(host->endpoint, "tcp://0.0.0.0", 13) == 0 ||
        strncmp(host->endpoint, "tcp://[::]", 10) == 0)
        return err_set(detail, DIMFIT_ERR_CONFIG,
                       "--shard-bind %s: workers are told this address, so it must be one they can "
                       "reach, not a wildcard",
                       bind);
    char routing[32];
    const int n = snprintf(routing, sizeof routing, "shard-%016llx",
                           (unsigned long long)host->identity);
    zmq_setsockopt(host->coordinator, ZMQ_ROUTING_ID, routing, (size_t)n);
    if (zmq_connect(host->coordinator, host->options->coordinator) != 0)
        return err_set(detail, DIMFIT_ERR_CONFIG, "--coordinator %s is no address: %s",
                       host->options->coordinator, zmq_strerror(zmq_errno()));
    return DIMFIT_OK;
}

/* How long to wait for messages: not at all while there is work, unless what it gives away finds no
 * room. */
static long patience(const struct host *host) {
    const int64_t wait = host->next_ms - zclock_mono();
    if (wait <= 0)
        return 0;
    if (host->shard == NULL || !shard_has_work(host->shard))
        return (long)wait;
    if (can_work(host))
        return 0;
    return wait < FULL_MS ? (long)wait : FULL_MS;
}

static void run(struct host *host) {
    host->began_ms = zclock_mono();
    while (!host->stop) {
        zmq_pollitem_t items[] = {
            {.socket = zsock_resolve(host->pipe), .events = ZMQ_POLLIN},
            {.socket = host->coordinator, .events = ZMQ_POLLIN},
            {.socket = host->workers, .events = ZMQ_POLLIN},
        };
        /* Workers are served from the moment there are rows to serve from. */
        if (zmq_poll(items, host->shard != NULL ? 3 : 2, patience(host)) < 0 && errno != EINTR)
            break;
        if (items[0].revents != 0)
            break; /* $TERM is all that is ever said */
        if (items[1].revents != 0)
            hear_coordinator(host);
        if (host->shard != NULL && items[2].revents != 0)
            serve_workers(host);
        work(host);
        tick(host);
    }
}

static uint64_t random_identity(void) {
    uint64_t identity = 0;
    zuuid_t *uuid = zuuid_new();
    memcpy(&identity, zuuid_data(uuid), sizeof identity);
    zuuid_destroy(&uuid);
    return identity | 1; /* never 0 */
}

static void host_actor(zsock_t *pipe, void *args) {
    struct host *const host = args;
    host->pipe = pipe;
    const dimfit_err err = open_sockets(host, host->start->detail);
    host->start->err = err;
    zsock_signal(pipe, 0);
    if (err == DIMFIT_OK)
        run(host);
    shard_destroy(&host->shard);
    spill_end_destroy(&host->spill);
    if (host->workers != NULL)
        zmq_close(host->workers);
    if (host->coordinator != NULL)
        zmq_close(host->coordinator);
    if (host->evictions != NULL)
        zmq_close(host->evictions);
    free(host);
}

dimfit_err shard_host_start(const struct shard_host_options *options, zactor_t **out,
                            struct err_detail *detail) {
    struct host *const host = calloc(1, sizeof *host);
    if (host == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a shard");
    host->magic = HOST_MAGIC;
    host->options = options;
    struct start start = {.detail = detail};
    host->start = &start;
    host->identity = random_identity();
    host->io = (struct shard_io){
        .self = host,
        .body = host_body,
        .process = host_process,
        .service = host_service,
        .purge = host_purge,
        .evicted = host_evicted,
    };
    zactor_t *actor = zactor_new(host_actor, host);
    if (actor == NULL) {
        free(host);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no thread for a shard");
    }
    if (start.err != DIMFIT_OK) {
        zactor_destroy(&actor);
        return start.err;
    }
    *out = actor;
    return DIMFIT_OK;
}
