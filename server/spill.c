#include "server/spill.h"

#include "server/log.h"
#include "server/slab.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum {
    END_MAGIC = 0x5350454e,
    FILE_MAGIC = 0x5350464c,
    NICE = 19,
    PIECE = 1 << 16,  /* bytes of a write: the kernel may not let others run within one */
    QUEUE_CHUNKS = 4, /* of 2 MiB, a shard's; as many wait at the writer */
};

static const char endpoint[] = "inproc://dimfit-spill";

struct spill {
    uint32_t magic;
    uint64_t epoch, bytes;
    int fd;
    uint8_t *map;
    _Atomic uint32_t users;   /* former rows of slots, and chunks under way */
    _Atomic uint64_t waiting; /* bytes handed over and not written */
    _Atomic bool failed;
};

struct spill_end {
    uint32_t magic;
    const char *folder;
    void *socket; /* PUSH */
    struct table_spill io;
};

/* What a message says. chunk NULL: let the file go. */
struct order {
    struct spill *spill;
    float *chunk;
    uint64_t bytes, offset;
};

/* ---- the file -------------------------------------------------------------------------------- */

static int file_open(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    char path[4096]; /* a file system that knows no files without names */
    if (snprintf(path, sizeof path, "%s/.dimfit-rows-XXXXXX", folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        (void)unlink(path);
    return fd;
}

static void spill_release(struct spill *spill) {
    CHECK_OBJ_NOTNULL(spill, FILE_MAGIC);
    if (atomic_fetch_sub(&spill->users, 1) > 1)
        return;
    if (spill->map != NULL)
        (void)munmap(spill->map, spill->bytes);
    if (spill->fd >= 0)
        (void)close(spill->fd);
    spill->magic = 0;
    free(spill);
}

static struct spill *spill_new(const char *folder, uint64_t epoch, uint64_t bytes) {
    struct spill *const spill = calloc(1, sizeof *spill);
    if (spill == NULL)
        return NULL;
    *spill = (struct spill){.magic = FILE_MAGIC, .epoch = epoch, .bytes = bytes, .users = 1};
    spill->fd = file_open(folder);
    void *map = MAP_FAILED;
    if (spill->fd >= 0 && ftruncate(spill->fd, (off_t)bytes) == 0)
        map = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, spill->fd, 0);
    if (map != MAP_FAILED) {
        spill->map = map;
        return spill;
    }
    const int why = errno;
    spill_release(spill);
    errno = why;
    return NULL;
}

/* ---- a shard's end --------------------------------------------------------------------------- */

static bool send_order(const struct spill_end *end, struct order order) {
    zmq_msg_t message;
    if (zmq_msg_init_size(&message, sizeof order) != 0)
        return false;
    memcpy(zmq_msg_data(&message), &order, sizeof order);
    if (zmq_msg_send(&message, end->socket, ZMQ_DONTWAIT) >= 0)
        return true;
    zmq_msg_close(&message);
    return false;
}

static struct spill *end_open(void *self, uint64_t epoch, uint64_t bytes) {
    const struct spill_end *const end = self;
    CHECK_OBJ_NOTNULL(end, END_MAGIC);
    struct spill *const spill = spill_new(end->folder, epoch, bytes);
    if (spill == NULL)
        log_error("shard",
                  "no file for %llu MiB of rows in %s: %s; the change to epoch %llu can't be "
                  "rolled back",
                  (unsigned long long)(bytes >> 20), end->folder, strerror(errno),
                  (unsigned long long)epoch);
    return spill;
}

static const void *end_write(void *self, struct spill *spill, float *chunk, size_t bytes,
                             uint64_t offset) {
    const struct spill_end *const end = self;
    CHECK_OBJ_NOTNULL(spill, FILE_MAGIC);
    base_assert(offset + bytes <= spill->bytes);
    atomic_fetch_add(&spill->users, 1);
    atomic_fetch_add(&spill->waiting, bytes);
    if (send_order(end, (struct order){spill, chunk, bytes, offset}))
        return spill->map + offset;
    atomic_fetch_sub(&spill->waiting, bytes);
    atomic_fetch_sub(&spill->users, 1);
    return NULL;
}

static dimfit_err end_check(void *self, const struct spill *spill, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(spill, FILE_MAGIC);
    if (spill->failed)
        return err_set(detail, DIMFIT_ERR_IO,
                       "rows before epoch %llu could not be written to disk (the log says why): "
                       "it can't be undone",
                       (unsigned long long)spill->epoch);
    if (spill->waiting > 0)
        return err_set(detail, DIMFIT_ERR_BUSY,
                       "%llu MiB of rows before epoch %llu are still being written; try again",
                       (unsigned long long)(spill->waiting >> 20),
                       (unsigned long long)spill->epoch);
    return DIMFIT_OK;
}

static void end_open_more(void *self, struct spill *spill) {
    atomic_fetch_add(&spill->users, 1);
}

/* Giving a large file up takes the system a while: by the writer, if it has time. */
static void end_close(void *self, struct spill *spill) {
    const struct spill_end *const end = self;
    if (spill->users > 1 || !send_order(end, (struct order){.spill = spill}))
        spill_release(spill);
}

static void *socket_new(int type) {
    void *const socket = zmq_socket(zsys_init(), type);
    const int queue = QUEUE_CHUNKS, linger = 1000;
    if (socket != NULL) {
        zmq_setsockopt(socket, ZMQ_SNDHWM, &queue, sizeof queue);
        zmq_setsockopt(socket, ZMQ_RCVHWM, &queue, sizeof queue);
        zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    }
    return socket;
}

dimfit_err spill_end_new(const char *folder, struct spill_end **out, struct err_detail *detail) {
    struct spill_end *end = calloc(1, sizeof *end);
    if (end == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to save rows from");
    end->magic = END_MAGIC;
    end->folder = folder;
    end->io = (struct table_spill){
        .self = end,
        .queue = (2 * QUEUE_CHUNKS + 1) * (uint64_t)SLAB_CHUNK_BYTES,
        .open = end_open,
        .write = end_write,
        .check = end_check,
        .open_more = end_open_more,
        .close = end_close,
    };
    end->socket = socket_new(ZMQ_PUSH);
    if (end->socket == NULL || zmq_connect(end->socket, endpoint) != 0) {
        const dimfit_err err = err_set(detail, DIMFIT_ERR_IO, "no socket to save rows through: %s",
                                       zmq_strerror(zmq_errno()));
        spill_end_destroy(&end);
        return err;
    }
    *out = end;
    return DIMFIT_OK;
}

void spill_end_destroy(struct spill_end **end) {
    struct spill_end *const e = *end;
    if (e == NULL)
        return;
    CHECK_OBJ_NOTNULL(e, END_MAGIC);
    if (e->socket != NULL)
        zmq_close(e->socket);
    e->magic = 0;
    free(e);
    *end = NULL;
}

const struct table_spill *spill_end_io(const struct spill_end *end) {
    return &end->io;
}

bool spill_end_ready(const struct spill_end *end) {
    int events = 0;
    size_t len = sizeof events;
    return zmq_getsockopt(end->socket, ZMQ_EVENTS, &events, &len) == 0 &&
           (events & ZMQ_POLLOUT) != 0;
}

/* ---- the writer ------------------------------------------------------------------------------ */

struct writer {
    const char *folder; /* the starter's; gone once the pipe was signalled */
    void *orders;       /* PULL */
    dimfit_err err;
    struct err_detail *detail;
};

static bool write_all(int fd, const void *bytes, size_t n, uint64_t offset) {
    const char *from = bytes;
    while (n > 0) {
        const ssize_t done = pwrite(fd, from, n < PIECE ? n : PIECE, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        from += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

static void carry_out(const struct order *order, bool drop) {
    struct spill *const spill = order->spill;
    CHECK_OBJ_NOTNULL(spill, FILE_MAGIC);
    if (order->chunk != NULL) {
        if (!drop && !spill->failed &&
            !write_all(spill->fd, order->chunk, order->bytes, order->offset)) {
            spill->failed = true;
            log_error("shard", "cannot save rows before epoch %llu: %s; it can't be rolled back",
                      (unsigned long long)spill->epoch, strerror(errno));
        }
        if (order->bytes != STOCK_CHUNK || !stock_give(order->chunk)) /* new rows want chunks */
            slab_chunk_free(order->chunk, order->bytes);
        atomic_fetch_sub(&spill->waiting, order->bytes);
    }
    spill_release(spill);
}

/* All that is there now. */
static void carry_out_all(struct writer *w, bool drop) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (zmq_msg_recv(&message, w->orders, ZMQ_DONTWAIT) >= 0) {
        struct order order;
        memcpy(&order, zmq_msg_data(&message), sizeof order);
        carry_out(&order, drop);
    }
    zmq_msg_close(&message);
}

static void run(struct writer *w, zsock_t *pipe) {
    bool stop = false;
    while (!stop) {
        zmq_pollitem_t items[] = {
            {.socket = zsock_resolve(pipe), .events = ZMQ_POLLIN},
            {.socket = w->orders, .events = ZMQ_POLLIN},
        };
        if (zmq_poll(items, 2, -1) < 0 && errno != EINTR)
            break;
        stop = items[0].revents != 0; /* $TERM is all that is ever said */
        carry_out_all(w, stop);
    }
}

static dimfit_err begin(struct writer *w) {
    (void)mkdir(w->folder, 0700); /* there already, or the file can't be made either */
    const int fd = file_open(w->folder);
    if (fd < 0)
        return err_set(w->detail, DIMFIT_ERR_IO,
                       "no file can be made in %s: %s; give another --rollback-dir", w->folder,
                       strerror(errno));
    close(fd);
    w->orders = socket_new(ZMQ_PULL);
    if (w->orders == NULL || zmq_bind(w->orders, endpoint) != 0)
        return err_set(w->detail, DIMFIT_ERR_IO, "no socket to save rows through: %s",
                       zmq_strerror(zmq_errno()));
    return DIMFIT_OK;
}

static void writer_actor(zsock_t *pipe, void *args) {
    struct writer *const w = args;
    w->err = begin(w);
    const bool started = w->err == DIMFIT_OK;
    struct writer mine = *w; /* the starter goes on from here */
    zsock_signal(pipe, 0);
    (void)setpriority(PRIO_PROCESS, 0, NICE); /* of this thread: requests come first */
    if (started)
        run(&mine, pipe);
    if (started)
        zmq_unbind(mine.orders, endpoint); /* now: closing alone frees the name some time later */
    if (mine.orders != NULL)
        zmq_close(mine.orders);
}

dimfit_err spill_start(const char *folder, zactor_t **out, struct err_detail *detail) {
    struct writer writer = {.folder = folder, .detail = detail};
    zactor_t *actor = zactor_new(writer_actor, &writer);
    if (actor == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no thread to save rows");
    if (writer.err != DIMFIT_OK) {
        zactor_destroy(&actor);
        return writer.err;
    }
    *out = actor;
    return DIMFIT_OK;
}
