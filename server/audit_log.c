#include "server/audit_log.h"

#include "server/log.h"

#include <fcntl.h>

struct writer {
    const char *path;
    bool failed; /* and said so */
};

static int open_file(const char *path) {
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

void audit_log_send(zactor_t *log, const char *line) {
    if (zmq_send(zactor_resolve(log), line, strlen(line), ZMQ_DONTWAIT) < 0)
        log_error("audit", "the audit log is behind; lost: %s", line);
}

static bool write_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static void append(struct writer *w, const zchunk_t *lines) {
    const int fd = open_file(w->path);
    const bool written = fd >= 0 &&
                         write_all(fd, (const char *)zchunk_data((zchunk_t *)lines),
                                   zchunk_size((zchunk_t *)lines)) &&
                         fsync(fd) == 0;
    if (!written && !w->failed)
        log_error("audit", "cannot write %s: %s; lines are lost until it can", w->path,
                  strerror(errno));
    w->failed = !written;
    if (fd >= 0)
        close(fd);
}

/* Lines that are there now, after the first, into one write and one sync. False: $TERM came. */
static bool collect(zsock_t *pipe, zchunk_t *lines) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    bool go_on = true;
    for (int flags = 0; go_on && zmq_msg_recv(&message, zsock_resolve(pipe), flags) >= 0;
         flags = ZMQ_DONTWAIT) {
        const char *const text = zmq_msg_data(&message);
        const size_t len = zmq_msg_size(&message);
        go_on = len == 0 || text[0] == '{'; /* $TERM is all else that is ever said */
        if (go_on) {
            zchunk_extend(lines, text, len);
            zchunk_extend(lines, "\n", 1);
        }
    }
    zmq_msg_close(&message);
    return go_on;
}

static void writer_actor(zsock_t *pipe, void *args) {
    struct writer writer = {.path = args};
    zchunk_t *lines = zchunk_new(NULL, 4096);
    zsock_signal(pipe, 0);
    bool go_on = lines != NULL;
    while (go_on && !zsys_interrupted) {
        zchunk_set(lines, NULL, 0);
        go_on = collect(pipe, lines);
        if (zchunk_size(lines) > 0)
            append(&writer, lines);
    }
    zchunk_destroy(&lines);
}

dimfit_err audit_log_start(const char *path, zactor_t **out, struct err_detail *detail) {
    const int fd = open_file(path);
    if (fd < 0)
        return err_set(detail, DIMFIT_ERR_IO, "cannot open %s: %s; give another --audit-log", path,
                       strerror(errno));
    close(fd);
    *out = zactor_new(writer_actor, (void *)path);
    return *out != NULL ? DIMFIT_OK
                        : err_set(detail, DIMFIT_ERR_NOMEM, "no thread for the audit log");
}
