#include "server/eviction_log.h"

#include "server/log.h"

#include <fcntl.h>

enum {
    LOG_MAGIC = 0x45564c47,
    QUEUE_BATCHES = 64, /* a shard's, of some 8 KiB; as many wait at the writer */
};

static const char endpoint[] = "inproc://dimfit-evictions";

struct writer {
    uint32_t magic;
    const char *path; /* the starter's; gone once the pipe was signalled */
    FILE *file;
    void *batches; /* PULL */
    bool failed;   /* and said so */
    dimfit_err err;
    struct err_detail *detail;
};

struct batch {
    uint32_t slot;
    struct expired_row rows[];
};

static void *socket_new(int type) {
    void *const socket = zmq_socket(zsys_init(), type);
    const int queue = QUEUE_BATCHES, linger = 1000;
    if (socket != NULL) {
        zmq_setsockopt(socket, ZMQ_SNDHWM, &queue, sizeof queue);
        zmq_setsockopt(socket, ZMQ_RCVHWM, &queue, sizeof queue);
        zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    }
    return socket;
}

/* ---- a shard's end --------------------------------------------------------------------------- */

void *eviction_log_connect(void) {
    void *const socket = socket_new(ZMQ_PUSH);
    if (socket != NULL && zmq_connect(socket, endpoint) == 0)
        return socket;
    if (socket != NULL)
        zmq_close(socket);
    return NULL;
}

bool eviction_log_ready(void *socket) {
    int events = 0;
    size_t len = sizeof events;
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &len) == 0 && (events & ZMQ_POLLOUT) != 0;
}

bool eviction_log_send(void *socket, uint32_t slot, const struct expired_row *rows, size_t n) {
    zmq_msg_t message;
    if (zmq_msg_init_size(&message, sizeof(struct batch) + n * sizeof *rows) != 0)
        return false;
    struct batch *const batch = zmq_msg_data(&message);
    batch->slot = slot;
    memcpy(batch->rows, rows, n * sizeof *rows);
    if (zmq_msg_send(&message, socket, ZMQ_DONTWAIT) >= 0)
        return true;
    zmq_msg_close(&message);
    return false;
}

/* ---- the writer ------------------------------------------------------------------------------ */

static void note_failure(struct writer *w) {
    if (!w->failed)
        log_error("shard", "cannot write the log of evicted rows: %s; lines are lost until it can",
                  strerror(errno));
    w->failed = true;
    clearerr(w->file);
}

static void write_batch(struct writer *w, const struct batch *batch, size_t n) {
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        const struct expired_row *const row = &batch->rows[i];
        ok &= fprintf(w->file, "%u,%llu,%.9g,%.9g,%u\n", batch->slot,
                      (unsigned long long)row->feasign, (double)row->counters.shows,
                      (double)row->counters.clicks, row->counters.day) > 0;
    }
    if (!ok)
        note_failure(w);
}

/* All that is there now. */
static void write_all(struct writer *w) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (zmq_msg_recv(&message, w->batches, ZMQ_DONTWAIT) >= 0) {
        const size_t rows = zmq_msg_size(&message) - sizeof(struct batch);
        write_batch(w, zmq_msg_data(&message), rows / sizeof(struct expired_row));
    }
    zmq_msg_close(&message);
    if (fflush(w->file) != 0)
        note_failure(w);
}

static void run(struct writer *w, zsock_t *pipe) {
    bool stop = false;
    while (!stop) {
        zmq_pollitem_t items[] = {
            {.socket = zsock_resolve(pipe), .events = ZMQ_POLLIN},
            {.socket = w->batches, .events = ZMQ_POLLIN},
        };
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            break;
        stop = items[0].revents != 0; /* $TERM is all that is ever said */
        write_all(w);
    }
}

static dimfit_err begin(struct writer *w) {
    const int fd = open(w->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    w->file = fd >= 0 ? fdopen(fd, "a") : NULL;
    if (w->file == NULL) {
        const dimfit_err err = err_set(w->detail, DIMFIT_ERR_IO,
                                       "cannot open %s: %s; give another --eviction-log", w->path,
                                       strerror(errno));
        if (fd >= 0)
            close(fd);
        return err;
    }
    if (lseek(fd, 0, SEEK_END) == 0 &&
        (fputs("slot,feasign,shows,clicks,day\n", w->file) < 0 || fflush(w->file) != 0))
        return err_set(w->detail, DIMFIT_ERR_IO, "cannot write %s: %s", w->path, strerror(errno));
    w->batches = socket_new(ZMQ_PULL);
    if (w->batches == NULL || zmq_bind(w->batches, endpoint) != 0)
        return err_set(w->detail, DIMFIT_ERR_IO, "no socket for the log of evicted rows: %s",
                       zmq_strerror(zmq_errno()));
    return DIMFIT_OK;
}

static void writer_actor(zsock_t *pipe, void *args) {
    struct writer *const w = args;
    CHECK_OBJ_NOTNULL(w, LOG_MAGIC);
    w->err = begin(w);
    const bool started = w->err == DIMFIT_OK;
    struct writer mine = *w; /* the starter goes on from here */
    zsock_signal(pipe, 0);
    if (started)
        run(&mine, pipe);
    if (started)
        zmq_unbind(mine.batches, endpoint); /* now: closing alone frees the name some time later */
    if (mine.batches != NULL)
        zmq_close(mine.batches);
    if (mine.file != NULL)
        fclose(mine.file); /* all is written by now */
}

dimfit_err eviction_log_start(const char *path, zactor_t **out, struct err_detail *detail) {
    struct writer writer = {.magic = LOG_MAGIC, .path = path, .detail = detail};
    zactor_t *actor = zactor_new(writer_actor, &writer);
    if (actor == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no thread for the log of evicted rows");
    if (writer.err != DIMFIT_OK) {
        zactor_destroy(&actor);
        return writer.err;
    }
    *out = actor;
    return DIMFIT_OK;
}
