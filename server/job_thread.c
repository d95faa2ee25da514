#include "server/job_thread.h"

/* The thread's own, from its start on. */
struct work {
    void (*run)(void *job);
};

static void job_actor(zsock_t *pipe, void *args) {
    const struct work work = *(const struct work *)args; /* the starter's, until the signal */
    zsock_signal(pipe, 0);
    for (;;) {
        zmsg_t *msg = zmsg_recv(pipe);
        if (msg == NULL)
            return;
        zframe_t *const frame = zmsg_first(msg);
        void *job = NULL;
        const bool is_job = zframe_size(frame) == sizeof job;
        if (is_job)
            memcpy(&job, zframe_data(frame), sizeof job);
        zmsg_destroy(&msg);
        if (!is_job)
            return; /* $TERM */
        work.run(job);
        zsock_send(pipe, "p", job);
    }
}

zactor_t *job_thread_new(void (*run)(void *job)) {
    struct work work = {run};
    return zactor_new(job_actor, &work);
}

bool job_thread_give(zactor_t *thread, void *job) {
    zframe_t *frame = zframe_new(&job, sizeof job);
    const bool given = frame != NULL && zframe_send(&frame, thread, 0) == 0;
    zframe_destroy(&frame);
    return given;
}

void *job_thread_take(zactor_t *thread) {
    void *job = NULL;
    return zsock_recv(thread, "p", &job) == 0 ? job : NULL;
}
