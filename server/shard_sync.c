#include "server/shard_sync.h"

#include "server/job_thread.h"

#include <stdlib.h>

enum { SYNC_MAGIC = 0x53594e43 };

/* Passed to the thread and back. */
struct job {
    struct wal_sync sync;
    dimfit_err err;
    struct err_detail detail;
};

struct held {
    struct held *next;
    uint64_t position; /* that it waits for */
    void *socket;
    bool routed, has_body;
    struct route to;
    struct wire_header header;
    zmq_msg_t body;
};

struct shard_sync {
    uint32_t magic;
    struct wal *wal;
    zactor_t *thread;
    struct job job;
    bool begun, given;         /* the job: made, and with the thread */
    struct held *first, **end; /* in the order of positions */
};

static void run_sync(void *given) {
    struct job *const job = given;
    job->err = wal_sync_run(&job->sync, &job->detail);
}

dimfit_err shard_sync_new(struct wal *wal, struct shard_sync **out, struct err_detail *detail) {
    struct shard_sync *const sync = calloc(1, sizeof *sync);
    if (sync == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to sync the log");
    sync->magic = SYNC_MAGIC;
    sync->wal = wal;
    sync->end = &sync->first;
    sync->thread = job_thread_new(run_sync);
    if (sync->thread == NULL) {
        free(sync);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no thread to sync the log");
    }
    *out = sync;
    return DIMFIT_OK;
}

static void held_free(struct held *held) {
    if (held->has_body)
        zmq_msg_close(&held->body);
    free(held);
}

void shard_sync_destroy(struct shard_sync **sync) {
    struct shard_sync *const s = *sync;
    if (s == NULL)
        return;
    CHECK_OBJ_NOTNULL(s, SYNC_MAGIC);
    zactor_destroy(&s->thread);
    for (struct held *held = s->first, *next; held != NULL; held = next) {
        next = held->next;
        held_free(held);
    }
    s->magic = 0;
    free(s);
    *sync = NULL;
}

zsock_t *shard_sync_socket(struct shard_sync *sync) {
    return zactor_sock(sync->thread);
}

dimfit_err shard_sync_hold(struct shard_sync *sync, void *socket, const struct route *to,
                           const struct wire_header *header, zmq_msg_t *body) {
    CHECK_OBJ_NOTNULL(sync, SYNC_MAGIC);
    struct held *const held = calloc(1, sizeof *held);
    if (held == NULL)
        return DIMFIT_ERR_NOMEM;
    held->position = wal_position(sync->wal);
    held->socket = socket;
    held->header = *header;
    held->routed = to != NULL;
    if (to != NULL)
        held->to = *to;
    held->has_body = body != NULL;
    if (body != NULL) {
        zmq_msg_init(&held->body);
        zmq_msg_move(&held->body, body);
    }
    *sync->end = held;
    sync->end = &held->next;
    return DIMFIT_OK;
}

void shard_sync_begin(struct shard_sync *sync) {
    CHECK_OBJ_NOTNULL(sync, SYNC_MAGIC);
    if (sync->given || (!sync->begun && !wal_sync_begin(sync->wal, &sync->job.sync)))
        return;
    sync->begun = true;
    sync->given = job_thread_give(sync->thread, &sync->job); /* no memory: the next time */
}

static void send_held(struct shard_sync *sync) {
    while (sync->first != NULL && sync->first->position <= wal_synced(sync->wal)) {
        struct held *const held = sync->first;
        sync->first = held->next;
        if (sync->first == NULL)
            sync->end = &sync->first;
        frames_send(held->socket, held->routed ? &held->to : NULL, &held->header,
                    held->has_body ? &held->body : NULL);
        held_free(held);
    }
}

dimfit_err shard_sync_hear(struct shard_sync *sync, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(sync, SYNC_MAGIC);
    if (job_thread_take(sync->thread) == NULL)
        return DIMFIT_OK;
    sync->begun = sync->given = false;
    if (sync->job.err != DIMFIT_OK) {
        *detail = sync->job.detail;
        return sync->job.err;
    }
    wal_sync_end(sync->wal, &sync->job.sync);
    send_held(sync);
    return DIMFIT_OK;
}
