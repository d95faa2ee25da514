#include "server/shard_host.h"

#include "server/eviction_log.h"
#include "server/frames.h"
#include "server/hello.h"
#include "server/log.h"
#include "server/memory.h"
#include "server/shard_sync.h"
#include "server/spill.h"

#include <limits.h>
#include <unistd.h>

enum {
    HOST_MAGIC = 0x53484f53,
    HEARTBEAT_MS = 1000,
    REGISTER_MS = 500,   /* a registration without an answer is repeated */
    BURST_MESSAGES = 64, /* served before the coordinator is listened to again */
    FULL_MS = 5,         /* until the log of evicted rows, or the disk, may take more */
    LOG_RETRY_MS = 100,  /* until a slice of a shrink may be recorded again */
    STOP_RECORDS = 256,  /* of a replay, until it is asked whether to go on */
    WORK_SHARE_US = 100, /* of requests, after which a slice of work comes between them */
};

struct start {
    struct disk *folder; /* the thread takes it; NULL: none */
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
    int64_t worked_us;         /* when the last slice of work ended */
    struct shard_store *store; /* NULL: rows go with the process, or are not begun */
    struct shard_sync *sync;   /* NULL: nothing waits for the disk */
    uint64_t replayed;         /* records */
    struct shard *shard;       /* NULL until registered */
    struct shard_io io;
    zmq_msg_t body; /* of the reply being made */
    bool has_body;
    bool joined, stop;
    bool serves; /* it has joined once: rows and, if they are kept, their place are there */
    uint64_t identity;
    uint32_t number;
    char endpoint[CLUSTER_ENDPOINT_MAX + 1];
    int64_t began_ms, next_ms; /* of the next registration or heartbeat */
};

static uint64_t random_identity(void) {
    uint64_t identity = 0;
    zuuid_t *uuid = zuuid_new();
    memcpy(&identity, zuuid_data(uuid), sizeof identity);
    zuuid_destroy(&uuid);
    return identity | 1; /* never 0 */
}

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

static dimfit_err host_log(void *self, const struct wire_header *header, const void *body,
                           size_t len, struct err_detail *detail) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    const bool failing = shard_store_failing(host->store);
    struct err_detail why = {{0}};
    const dimfit_err err = shard_store_log(host->store, header, body, len, &why);
    if (err != DIMFIT_OK && !failing)
        log_error("shard", "shard %u refuses what would change it: %s", host->number, why.text);
    else if (err == DIMFIT_OK && failing)
        log_info("shard", "shard %u can write its log again", host->number);
    return err == DIMFIT_OK ? err : err_set(detail, err, "%s", why.text);
}

static void host_unlog(void *self) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    shard_store_unlog(host->store);
}

/* ---- work between messages --------------------------------------------------------------------
 */

/* What was read of the rows as they are now may be told at once. */
static bool must_wait(const struct host *host, enum wire_kind kind) {
    return host->sync != NULL && kind != WIRE_PULL && kind != WIRE_DENSE_PULL &&
           shard_store_kept(host->store) < shard_store_position(host->store);
}

static void send_reply(struct host *host, void *socket, const struct route *to,
                       const struct shard_reply *reply) {
    zmq_msg_t *const body = host->has_body && reply->len > 0 ? &host->body : NULL;
    if (!must_wait(host, reply->header.kind))
        frames_send(socket, to, &reply->header, body);
    else if (shard_sync_hold(host->sync, socket, to, &reply->header, body) != DIMFIT_OK)
        log_warn("shard", "an answer is lost: no memory to hold it");
    if (host->has_body)
        zmq_msg_close(&host->body);
    host->has_body = false;
}

static bool can_work(const struct host *host) {
    return (host->store == NULL || !shard_store_failing(host->store) ||
            zclock_usecs() - host->worked_us > LOG_RETRY_MS * 1000) &&
           (host->evictions == NULL || eviction_log_ready(host->evictions)) &&
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

static void note_service(struct host *host, enum wire_kind kind, int64_t since_us) {
    const uint64_t ns = (uint64_t)(zclock_usecs() - since_us) * 1000;
    if (kind == WIRE_PULL)
        latency_add(&host->service.pull, ns);
    else if (kind == WIRE_PUSH)
        latency_add(&host->service.push, ns);
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
        const int64_t began_us = zclock_usecs();
        const uint8_t *const body = frames_body(&in, &len);
        shard_request(host->shard, &in.header, body, len, &reply);
        frames_close(&in);
        send_reply(host, host->workers, &in.from, &reply);
        note_service(host, in.header.kind, began_us);
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
        hello.slots = (uint32_t)shard_slots(host->shard);
    }
    if (host->store != NULL && shard_store_identity(host->store) != NULL) {
        hello.cluster = shard_store_identity(host->store)->cluster;
        hello.shards = shard_store_identity(host->store)->shards;
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

/* ---- the folder ------------------------------------------------------------------------------ */

dimfit_err shard_host_find_folder(const char *data_dir, uint32_t *from, struct disk **out,
                                  struct err_detail *detail) {
    *out = NULL;
    for (; *from < CLUSTER_SHARDS_MAX; ++*from) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/shard-%u", data_dir, *from);
        if (access(path, F_OK) != 0)
            continue;
        const dimfit_err err = disk_folder_open(path, out, detail);
        if (err == DIMFIT_ERR_BUSY)
            continue; /* that shard is there */
        ++*from;
        return err;
    }
    return DIMFIT_OK;
}

static bool is_stopped(const struct host *host) {
    return (zsock_events(host->pipe) & ZMQ_POLLIN) != 0;
}

static bool host_go_on(void *self, enum shard_store_step step) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    if (step == STORE_WAITS || (step == STORE_MOVES && !can_work(host)))
        zclock_sleep(FULL_MS);
    return ++host->replayed % STOP_RECORDS != 0 || !is_stopped(host);
}

static dimfit_err open_store(struct host *host, struct disk **folder, struct err_detail *detail) {
    const struct shard_store_options options = {
        .synced = host->options->durability == DURABILITY_DISK,
        .snapshot_bytes = host->options->snapshot_bytes,
        .random = random_identity(),
        .go_on = host_go_on,
        .self = host,
    };
    return shard_store_open(folder, &options, &host->store, detail);
}

static dimfit_err start_sync(struct host *host, struct err_detail *detail) {
    if (host->options->durability != DURABILITY_DISK)
        return DIMFIT_OK;
    return shard_sync_new(shard_store_wal(host->store), &host->sync, detail);
}

/* The shard that its process left. */
static dimfit_err recover(struct host *host, struct disk **folder, struct err_detail *detail) {
    dimfit_err err = open_store(host, folder, detail);
    if (err != DIMFIT_OK || shard_store_identity(host->store) == NULL) {
        shard_store_close(&host->store); /* left in the middle of its making: it is made anew */
        return err;
    }
    const struct shard_identity *const identity = shard_store_identity(host->store);
    struct wal_end end;
    const int64_t began = zclock_mono();
    host->identity = identity->shard;
    host->number = identity->number;
    err = shard_store_recover(host->store, &host->options->shard, &host->io, &host->shard, &end,
                              detail);
    if (err != DIMFIT_OK)
        return err;
    log_info("shard",
             "shard %u is as it was: %llu records replayed in %.1f s, to byte %llu of %s%s",
             host->number, (unsigned long long)end.position, (double)(zclock_mono() - began) / 1000,
             (unsigned long long)end.offset, end.file,
             end.torn ? "; one more had not been written to its end, nobody was told of it" : "");
    return start_sync(host, detail);
}

/* A new shard's: it has its number now, and joins by it once it has a folder. */
static dimfit_err begin_store(struct host *host, uint64_t cluster, uint32_t shards,
                              struct err_detail *detail) {
    char path[PATH_MAX];
    struct disk *folder = NULL;
    snprintf(path, sizeof path, "%s/shard-%u", host->options->data_dir, host->number);
    dimfit_err err = disk_folder_open(path, &folder, detail);
    if (err == DIMFIT_OK)
        err = open_store(host, &folder, detail);
    if (err == DIMFIT_OK && shard_store_identity(host->store) != NULL)
        err = err_set(detail, DIMFIT_ERR_EXISTS,
                      "%.250s has another shard's rows; move it away, or give another --data-dir",
                      path);
    const struct shard_identity identity = {
        .cluster = cluster, .shard = host->identity, .number = host->number, .shards = shards};
    if (err == DIMFIT_OK)
        err = shard_store_begin(host->store, &identity, host->shard, detail);
    return err == DIMFIT_OK ? start_sync(host, detail) : err;
}

/* ---- joining --------------------------------------------------------------------------------- */

static dimfit_err begin_shard(struct host *host, const uint8_t *body, size_t len,
                              struct err_detail *detail) {
    struct reader r = reader_of(body, len);
    struct layout *layout = NULL;
    const uint64_t cluster = reader_u64(&r);
    const uint32_t shards = reader_u32(&r);
    dimfit_err err = layout_decode(r.data, r.left, &layout, detail);
    if (err == DIMFIT_OK)
        err = shard_new(layout, &host->options->shard, &host->io, &host->shard);
    if (err == DIMFIT_OK && host->options->durability != DURABILITY_NONE)
        err = begin_store(host, cluster, shards, detail);
    layout_destroy(&layout);
    return err;
}

static void registered(struct host *host, const struct wire_header *header, const uint8_t *body,
                       size_t len) {
    if (header->status != DIMFIT_OK) {
        log_error("shard", "the coordinator refuses this shard: %s", header->detail.text);
        if (!host->serves)
            give_up(host);
        return;
    }
    const bool is_new = host->shard == NULL;
    host->number = (uint32_t)header->tag;
    if (is_new) {
        struct err_detail detail = {{0}};
        const dimfit_err err = begin_shard(host, body, len, &detail);
        if (err != DIMFIT_OK) {
            log_error("shard", "cannot start: %s: %s", err_text(err), detail.text);
            give_up(host);
            return;
        }
    }
    host->joined = !is_new || host->store == NULL;
    host->serves |= host->joined;
    host->next_ms = 0;
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
    if (!host->serves && now - host->began_ms > host->options->join_timeout_ms) {
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

static void snapshot(struct host *host) {
    struct snapshot_result made;
    struct err_detail detail = {{0}};
    if (host->store == NULL || !host->serves)
        return;
    if (shard_store_snapshot(host->store, host->shard, &made, &detail) != DIMFIT_OK)
        log_error("shard", "shard %u has no new snapshot, so its log goes on growing: %s",
                  host->number, detail.text);
    else if (made.bytes > 0)
        log_info("shard", "shard %u: a snapshot of %llu rows, %llu MiB, in %.1f s", host->number,
                 (unsigned long long)made.rows, (unsigned long long)(made.bytes >> 20),
                 made.seconds);
}

static void hear_sync(struct host *host) {
    struct err_detail detail;
    if (shard_sync_hear(host->sync, &detail) == DIMFIT_OK)
        return;
    log_error("shard",
              "shard %u ends: its log can't be synced (%s), so nobody knows what a power cut would "
              "leave; start it again: what was not acknowledged is sent again",
              host->number, detail.text);
    give_up(host);
}

static void run(struct host *host) {
    host->began_ms = zclock_mono();
    while (!host->stop) {
        zmq_pollitem_t items[] = {
            {.socket = zsock_resolve(host->pipe), .events = ZMQ_POLLIN},
            {.socket = host->coordinator, .events = ZMQ_POLLIN},
            {.socket = host->workers, .events = ZMQ_POLLIN},
            {.events = ZMQ_POLLIN},
        };
        if (host->sync != NULL)
            items[3].socket = zsock_resolve(shard_sync_socket(host->sync));
        const int n = !host->serves ? 2 : host->sync == NULL ? 3 : 4;
        if (zmq_poll(items, n, patience(host)) < 0 && errno != EINTR)
            break;
        if (items[0].revents != 0)
            break; /* $TERM is all that is ever said */
        if (items[1].revents != 0)
            hear_coordinator(host);
        if (n > 2 && items[2].revents != 0)
            serve_workers(host);
        if (n > 3 && items[3].revents != 0)
            hear_sync(host);
        work(host);
        snapshot(host);
        if (host->sync != NULL)
            shard_sync_begin(host->sync);
        tick(host);
    }
}

/* False: it can't be, which is said, or need not be any more. */
static bool start_again(struct host *host, struct disk **folder) {
    struct err_detail detail = {{0}};
    const dimfit_err err = *folder != NULL ? recover(host, folder, &detail) : DIMFIT_OK;
    if (err == DIMFIT_OK)
        return true;
    if (!is_stopped(host)) {
        log_error("shard", "a shard can't be made again from its folder in %s: %s",
                  host->options->data_dir, detail.text[0] != 0 ? detail.text : err_text(err));
        give_up(host);
    }
    return false;
}

static void host_actor(zsock_t *pipe, void *args) {
    struct host *const host = args;
    host->pipe = pipe;
    const dimfit_err err = open_sockets(host, host->start->detail);
    struct disk *folder = host->start->folder;
    host->start->err = err;
    zsock_signal(pipe, 0);
    if (err == DIMFIT_OK && start_again(host, &folder))
        run(host);
    disk_close(&folder);
    shard_sync_destroy(&host->sync);
    shard_destroy(&host->shard);
    spill_end_destroy(&host->spill);
    if (host->workers != NULL)
        zmq_close(host->workers);
    if (host->coordinator != NULL)
        zmq_close(host->coordinator);
    if (host->evictions != NULL)
        zmq_close(host->evictions);
    shard_store_close(&host->store);
    free(host);
}

dimfit_err shard_host_start(const struct shard_host_options *options, struct disk **folder,
                            zactor_t **out, struct err_detail *detail) {
    struct start start = {.folder = *folder, .detail = detail};
    *folder = NULL;
    struct host *const host = calloc(1, sizeof *host);
    if (host == NULL) {
        disk_close(&start.folder);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a shard");
    }
    host->magic = HOST_MAGIC;
    host->options = options;
    host->start = &start;
    host->identity = random_identity();
    host->io = (struct shard_io){
        .self = host,
        .body = host_body,
        .process = host_process,
        .service = host_service,
        .purge = host_purge,
        .evicted = host_evicted,
        .log = options->durability != DURABILITY_NONE ? host_log : NULL,
        .unlog = options->durability != DURABILITY_NONE ? host_unlog : NULL,
    };
    zactor_t *actor = zactor_new(host_actor, host);
    if (actor == NULL) {
        disk_close(&start.folder);
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
