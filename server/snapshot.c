#include "server/snapshot.h"

#include "server/snapshot_format.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char suffix[] = ".next"; /* of a file that is being written */

/* All that writing takes, made before the child is. */
struct writing {
    struct snapshot_job job;
    struct disk_file *file;
    struct buf head; /* the shard's */
    char name[SNAPSHOT_NAME_MAX + 1], next[SNAPSHOT_NAME_MAX + sizeof suffix];
    uint64_t at, blocks, plain, chain;
    uint8_t *block;  /* room for its head, SNAPSHOT_BLOCK bytes and a checksum */
    uint8_t *packed; /* the same for what LZ4 makes of them */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the file -------------------------------------------------------------------------------- */

static dimfit_err put(struct writing *w, void *bytes, size_t len, struct err_detail *detail) {
    const struct iovec part = {bytes, len};
    const dimfit_err err = disk_file_write(w->file, &part, 1, w->at, detail);
    w->at += len;
    return err;
}

static dimfit_err put_header(struct writing *w, struct err_detail *detail) {
    const struct snapshot_info *const info = &w->job.info;
    uint8_t bytes[SNAPSHOT_HEADER] = {0};
    store_u64(bytes, SNAPSHOT_MAGIC);
    store_u32(bytes + 8, SNAPSHOT_VERSION);
    store_u32(bytes + 12, info->shard);
    store_u32(bytes + 16, info->shards);
    store_u64(bytes + 24, info->cluster);
    store_u64(bytes + 32, info->epoch);
    store_u64(bytes + 40, info->position);
    w->chain = snapshot_sum(bytes, SNAPSHOT_HEADER - SNAPSHOT_SUM, 0);
    store_u64(bytes + 48, w->chain);
    return put(w, bytes, sizeof bytes, detail);
}

static dimfit_err put_block(struct archive_writer *a) {
    struct writing *const w = a->self;
    const size_t plain = (size_t)(a->at - a->begin);
    uint8_t *bytes = w->block;
    size_t stored = plain;
    if (plain > 0) {
        const size_t packed = pack(a->begin, plain, w->packed + SNAPSHOT_BLOCK_HEAD);
        if (packed > 0) {
            bytes = w->packed;
            stored = packed;
        }
        store_u32(bytes, (uint32_t)plain);
        store_u32(bytes + 4, (uint32_t)stored);
        const size_t len = SNAPSHOT_BLOCK_HEAD + stored;
        const uint64_t sum = snapshot_sum(bytes, len, ++w->blocks);
        store_u64(bytes + len, sum);
        w->chain = snapshot_chain(w->chain, sum);
        w->plain += plain;
        const dimfit_err err = put(w, bytes, len + SNAPSHOT_SUM, &a->detail);
        if (err != DIMFIT_OK)
            return err;
    }
    a->begin = a->at = w->block + SNAPSHOT_BLOCK_HEAD;
    a->end = a->begin + SNAPSHOT_BLOCK;
    return DIMFIT_OK;
}

static dimfit_err put_trailer(struct writing *w, uint64_t rows, struct err_detail *detail) {
    uint8_t bytes[SNAPSHOT_TRAILER] = {0};
    store_u64(bytes + 8, w->blocks);
    store_u64(bytes + 16, w->plain);
    store_u64(bytes + 24, rows);
    store_u64(bytes + 32, w->chain);
    store_u64(bytes + 40, snapshot_sum(bytes, SNAPSHOT_TRAILER - SNAPSHOT_SUM, 0));
    return put(w, bytes, sizeof bytes, detail);
}

/* In the child as well: takes no memory. */
static dimfit_err write_all(struct writing *w, struct snapshot_result *result,
                            struct err_detail *detail) {
    const double began = now();
    const uint64_t rows = shard_rows(w->job.shard);
    struct archive_writer a = {.self = w, .flush = put_block};
    dimfit_err err = put_header(w, detail);
    if (err != DIMFIT_OK)
        return err;
    shard_save(w->job.shard, &w->head, &a);
    if (a.err == DIMFIT_OK)
        a.err = put_block(&a);
    if (a.err != DIMFIT_OK) {
        *detail = a.detail;
        return a.err;
    }
    err = put_trailer(w, rows, detail);
    if (err == DIMFIT_OK)
        err = disk_file_sync(w->file, detail);
    if (err == DIMFIT_OK)
        err = disk_rename(w->job.disk, w->next, w->name, detail);
    if (err == DIMFIT_OK)
        err = disk_sync(w->job.disk, detail);
    if (err == DIMFIT_OK)
        *result = (struct snapshot_result){
            .bytes = w->at, .checksum = w->chain, .rows = rows, .seconds = now() - began};
    return err;
}

static void writing_destroy(struct writing **writing) {
    struct writing *const w = *writing;
    if (w == NULL)
        return;
    disk_file_close(&w->file);
    buf_fini(&w->head);
    free(w->block);
    free(w->packed);
    free(w);
    *writing = NULL;
}

static dimfit_err writing_new(const struct snapshot_job *job, struct writing **out,
                              struct err_detail *detail) {
    base_assert(strlen(job->name) <= SNAPSHOT_NAME_MAX);
    dimfit_err err = shard_save_check(job->shard, detail);
    if (err != DIMFIT_OK)
        return err;
    struct writing *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to write %s", job->name);
    w->job = *job;
    w->job.info.cluster = shard_seed(job->shard);
    w->job.info.epoch = shard_epoch(job->shard);
    snprintf(w->name, sizeof w->name, "%s", job->name);
    snprintf(w->next, sizeof w->next, "%s%s", job->name, suffix);
    const size_t around = SNAPSHOT_BLOCK_HEAD + SNAPSHOT_SUM;
    w->block = malloc(SNAPSHOT_BLOCK + around);
    w->packed = malloc(pack_bound(SNAPSHOT_BLOCK) + around);
    if (w->block == NULL || w->packed == NULL)
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no memory to write %s", job->name);
    buf_init(&w->head);
    if (err == DIMFIT_OK)
        err = shard_save_head(job->shard, job->parts, &w->head, detail);
    if (err == DIMFIT_OK)
        err = disk_open(job->disk, w->next, DISK_WRITE, &w->file, detail);
    if (err == DIMFIT_OK)
        err = disk_file_truncate(w->file, 0, detail);
    if (err != DIMFIT_OK) {
        writing_destroy(&w);
        return err;
    }
    *out = w;
    return DIMFIT_OK;
}

/* What is left of one that failed. */
static void drop_next(struct writing *w) {
    struct err_detail ignored;
    if (disk_remove(w->job.disk, w->next, &ignored) != DIMFIT_OK)
        return; /* the next one of that name writes over it */
}

dimfit_err snapshot_write(const struct snapshot_job *job, struct snapshot_result *result,
                          struct err_detail *detail) {
    struct writing *w = NULL;
    dimfit_err err = writing_new(job, &w, detail);
    if (err != DIMFIT_OK)
        return err;
    err = write_all(w, result, detail);
    if (err != DIMFIT_OK)
        drop_next(w);
    writing_destroy(&w);
    return err;
}

/* ---- by a child ------------------------------------------------------------------------------ */

/* What it says at its end, in one write. */
struct report {
    dimfit_err err;
    struct err_detail detail;
    struct snapshot_result result;
};
_Static_assert(sizeof(struct report) <= 4096, "a pipe takes it whole or not at all");

struct snapshot {
    struct writing *writing;
    pid_t child; /* 0: it was waited for, or there was none */
    int pipe;    /* -1 with 0 */
    struct report report;
};

/* All but these, ascending or not. */
static void close_others(int a, int b, int c) {
    int keep[] = {a, b, c};
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = i + 1; k < 3; k++) {
            if (keep[k] < keep[i]) {
                const int swap = keep[i];
                keep[i] = keep[k];
                keep[k] = swap;
            }
        }
    }
    unsigned from = 0;
    for (size_t i = 0; i < 3; i++) {
        if ((unsigned)keep[i] > from)
            (void)close_range(from, (unsigned)keep[i] - 1, 0);
        from = (unsigned)keep[i] + 1;
    }
    (void)close_range(from, ~0u, 0);
}

/* The lock on the folder is the parent's, and is to end with it: the same descriptor, opened anew.
 */
static bool let_go_of_lock(int folder) {
    const int own = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (own < 0 || dup2(own, folder) < 0)
        return false;
    close(own);
    return true;
}

/* No lock and no memory from here on: another thread of the parent may have held them. */
__attribute__((noreturn)) static void be_child(struct writing *w, pid_t parent, int pipe) {
    struct report report = {0};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);            /* it ended before it could be watched */
    signal(SIGINT, SIG_IGN); /* it is for the parent to say when */
    signal(SIGTERM, SIG_DFL);
    close_others(disk_fd(w->job.disk), disk_file_fd(w->file), pipe);
    if (let_go_of_lock(disk_fd(w->job.disk)))
        report.err = write_all(w, &report.result, &report.detail);
    else
        report.err = err_set(&report.detail, DIMFIT_ERR_IO, "%s: its folder can't be opened: %s",
                             w->name, strerror(errno));
    const ssize_t said = write(pipe, &report, sizeof report);
    _exit(said == (ssize_t)sizeof report ? 0 : 1);
}

static dimfit_err start_child(struct snapshot *s, struct err_detail *detail) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return err_set(detail, DIMFIT_ERR_IO, "no pipe to the writer of %s: %s", s->writing->name,
                       strerror(errno));
    const pid_t parent = getpid(), child = fork();
    if (child == 0)
        be_child(s->writing, parent, ends[1]);
    const int why = errno;
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no process to write %s: %s", s->writing->name,
                       strerror(why));
    }
    s->child = child;
    s->pipe = ends[0];
    return DIMFIT_OK;
}

dimfit_err snapshot_start(const struct snapshot_job *job, struct snapshot **out,
                          struct err_detail *detail) {
    struct snapshot *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to write %s", job->name);
    s->pipe = -1;
    dimfit_err err = writing_new(job, &s->writing, detail);
    if (err == DIMFIT_OK && disk_fd(job->disk) >= 0)
        err = start_child(s, detail);
    else if (err == DIMFIT_OK)
        s->report.err = write_all(s->writing, &s->report.result, &s->report.detail);
    if (err != DIMFIT_OK) {
        snapshot_destroy(&s);
        return err;
    }
    *out = s;
    return DIMFIT_OK;
}

int snapshot_fd(const struct snapshot *snapshot) {
    return snapshot->pipe;
}

/* How the child ended, which it has, or is about to. */
static int wait_for(struct snapshot *s) {
    int status = 0;
    while (waitpid(s->child, &status, 0) < 0 && errno == EINTR)
        ;
    close(s->pipe);
    s->pipe = -1;
    s->child = 0;
    return status;
}

dimfit_err snapshot_poll(struct snapshot *s, struct snapshot_result *result,
                         struct err_detail *detail) {
    if (s->child != 0) {
        ssize_t n;
        do
            n = read(s->pipe, &s->report, sizeof s->report);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
            return DIMFIT_ERR_BUSY;
        const int status = wait_for(s);
        if (n != (ssize_t)sizeof s->report)
            s->report.err = err_set(&s->report.detail, DIMFIT_ERR_IO,
                                    "the process that wrote %s ended by %s %d", s->writing->name,
                                    WIFSIGNALED(status) ? "signal" : "code",
                                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        if (s->report.err != DIMFIT_OK)
            drop_next(s->writing);
    }
    if (s->report.err == DIMFIT_OK)
        *result = s->report.result;
    else if (detail != NULL)
        *detail = s->report.detail;
    return s->report.err;
}

void snapshot_destroy(struct snapshot **snapshot) {
    struct snapshot *const s = *snapshot;
    if (s == NULL)
        return;
    if (s->child != 0) {
        kill(s->child, SIGKILL);
        (void)wait_for(s);
        drop_next(s->writing);
    }
    writing_destroy(&s->writing);
    free(s);
    *snapshot = NULL;
}
