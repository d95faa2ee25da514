#include "server/coordinator_host.h"

#include "server/audit_log.h"
#include "server/frames.h"
#include "server/job_thread.h"
#include "server/log.h"
#include "server/state_file.h"
#include "server/trial_file.h"

#define PLAN_PREFIX "plan-"

enum {
    HOST_MAGIC = 0x43484f53,
    TICK_MS = 100,
};

/* Where the starter waits for the outcome; gone once the pipe was signalled. */
struct start {
    dimfit_err err;
    struct err_detail *detail;
    char *endpoint;
    size_t cap;
};

struct host {
    uint32_t magic;
    const struct coordinator_host_options *options;
    struct start *start;
    zsock_t *pipe;
    void *router;
    zactor_t *planner;
    zactor_t *audit_log; /* NULL: none */
    struct state_file *state;
    struct coordinator *coordinator;
    bool stop;
};

/* ---- the planner ----------------------------------------------------------------------------- */

static void run_plan(void *job) {
    plan_job_run(job);
}

/* ---- what the coordinator needs -------------------------------------------------------------- */

static void host_send(void *self, const struct route *to, const struct wire_header *header,
                      const void *body, size_t len) {
    struct host *const host = self;
    CHECK_OBJ_NOTNULL(host, HOST_MAGIC);
    zmq_msg_t msg;
    if (len > 0) {
        if (zmq_msg_init_size(&msg, len) != 0) {
            log_error("coordinator", "no memory for %zu bytes to send", len);
            return;
        }
        memcpy(zmq_msg_data(&msg), body, len);
    }
    if (!frames_send(host->router, to, header, len > 0 ? &msg : NULL))
        log_debug("coordinator", "%s could not be sent: the peer is gone or slow",
                  wire_kind_name(header->kind));
    if (len > 0)
        zmq_msg_close(&msg);
}

static int64_t host_now_ms(void *self) {
    return zclock_mono();
}

static int64_t host_wall_s(void *self) {
    return zclock_time() / 1000;
}

static dimfit_err host_save(void *self, const void *bytes, size_t len, struct err_detail *detail) {
    struct host *const host = self;
    return state_file_write(host->state, STATE_FILE_NAME, bytes, len, detail);
}

static dimfit_err host_save_plan(void *self, uint64_t id, const void *bytes, size_t len,
                                 struct err_detail *detail) {
    struct host *const host = self;
    char name[64];
    snprintf(name, sizeof name, PLAN_PREFIX "%llu", (unsigned long long)id);
    return bytes == NULL ? state_file_remove(host->state, name, detail)
                         : state_file_write(host->state, name, bytes, len, detail);
}

static void host_audit(void *self, const char *line) {
    struct host *const host = self;
    audit_log_send(host->audit_log, line);
}

static dimfit_err host_keep_trials(void *self, const void *bytes, size_t len,
                                   struct err_detail *detail) {
    const struct host *const host = self;
    return trial_file_write(host->options->data_dir, bytes, len, detail);
}

static dimfit_err host_kept_trials(void *self, struct buf *out, struct err_detail *detail) {
    const struct host *const host = self;
    return trial_file_read(host->options->data_dir, out, detail);
}

static void host_plan(void *self, struct plan_job *job) {
    struct host *const host = self;
    if (!job_thread_give(host->planner, job)) {
        job->err = err_set(&job->detail, DIMFIT_ERR_NOMEM, "no memory to plan");
        coordinator_planned(host->coordinator, &job);
    }
}

static void host_stop(void *self) {
    struct host *const host = self;
    host->stop = true;
}

/* ---- life ------------------------------------------------------------------------------------ */

static dimfit_err listen_at(struct host *host, struct err_detail *detail) {
    const char *const bind = host->options->bind;
    host->router = frames_socket(zsys_init(), ZMQ_ROUTER, 1000);
    if (host->router == NULL)
        return err_set(detail, DIMFIT_ERR_IO, "no socket: %s", zmq_strerror(zmq_errno()));
    if (zmq_bind(host->router, bind) != 0) {
        const int error = zmq_errno();
        return err_set(detail, DIMFIT_ERR_IO, "cannot listen at %s: %s%s", bind,
                       zmq_strerror(error),
                       error == EADDRINUSE
                           ? "; another process has the port: stop it, or give --bind another one"
                           : "; give --bind an address of this machine");
    }
    size_t len = host->start->cap;
    if (zmq_getsockopt(host->router, ZMQ_LAST_ENDPOINT, host->start->endpoint, &len) != 0)
        return err_set(detail, DIMFIT_ERR_IO, "the address bound at %s is too long", bind);
    return DIMFIT_OK;
}

static dimfit_err open_state(struct host *host, struct buf *state, struct err_detail *detail) {
    if (host->options->data_dir[0] == 0)
        return DIMFIT_ERR_NOT_FOUND;
    const dimfit_err err = state_file_open(host->options->data_dir, &host->state, detail);
    return err != DIMFIT_OK ? err : state_file_read(host->state, STATE_FILE_NAME, state, detail);
}

static void restore_plan(void *self, const char *name) {
    struct host *const host = self;
    struct err_detail detail = {{0}};
    struct buf bytes;
    buf_init(&bytes);
    dimfit_err err = state_file_read(host->state, name, &bytes, &detail);
    if (err == DIMFIT_OK)
        err = coordinator_restore_plan(host->coordinator, bytes.data, bytes.len, &detail);
    if (err != DIMFIT_OK)
        log_warn("coordinator", "%s/%s is left out: %s", host->options->data_dir, name,
                 detail.text[0] != 0 ? detail.text : err_text(err));
    buf_fini(&bytes);
}

/* state: NULL for a new cluster. */
static dimfit_err start_core(struct host *host, const struct buf *state,
                             struct err_detail *detail) {
    static const uint8_t nothing;
    const bool durable = host->state != NULL;
    const struct coordinator_io io = {
        .self = host,
        .send = host_send,
        .now_ms = host_now_ms,
        .wall_s = host_wall_s,
        .save = durable ? host_save : NULL,
        .save_plan = durable ? host_save_plan : NULL,
        .keep_trials = durable ? host_keep_trials : NULL,
        .kept_trials = durable ? host_kept_trials : NULL,
        .audit = host->audit_log != NULL ? host_audit : NULL,
        .plan = host_plan,
        .stop = host_stop,
    };
    const dimfit_err err = coordinator_new(&host->options->coordinator, &io,
                                           state == NULL     ? NULL
                                           : state->len == 0 ? &nothing
                                                             : state->data,
                                           state == NULL ? 0 : state->len, &host->coordinator,
                                           detail);
    if (err != DIMFIT_OK && state != NULL) {
        const struct err_detail why = *detail;
        err_set(detail, err, "%.180s/%s: %.180s", host->options->data_dir, STATE_FILE_NAME,
                why.text);
    }
    if (err == DIMFIT_OK && durable)
        state_file_each(host->state, PLAN_PREFIX, restore_plan, host);
    return err;
}

static dimfit_err open_host(struct host *host, struct err_detail *detail) {
    struct buf state;
    buf_init(&state);
    const dimfit_err found = open_state(host, &state, detail);
    dimfit_err err = found == DIMFIT_ERR_NOT_FOUND ? DIMFIT_OK : found;
    if (err == DIMFIT_OK)
        err = listen_at(host, detail);
    if (err == DIMFIT_OK && host->options->audit_log[0] != 0)
        err = audit_log_start(host->options->audit_log, &host->audit_log, detail);
    if (err == DIMFIT_OK)
        err = start_core(host, found == DIMFIT_OK ? &state : NULL, detail);
    buf_fini(&state);
    if (err == DIMFIT_OK) {
        host->planner = job_thread_new(run_plan);
        if (host->planner == NULL)
            err = err_set(detail, DIMFIT_ERR_NOMEM, "no thread for the planner");
    }
    return err;
}

static void serve(struct host *host) {
    struct frames in;
    for (;;) {
        const enum frames_got got = frames_receive(host->router, true, &in);
        if (got == FRAMES_NONE || host->stop)
            break;
        if (got == FRAMES_MALFORMED) {
            log_debug("coordinator", "dropped a message that was none of ours");
            continue;
        }
        size_t len;
        const uint8_t *const body = frames_body(&in, &len);
        coordinator_receive(host->coordinator, &in.from, &in.header, body, len);
        frames_close(&in);
    }
}

static void take_plan(struct host *host) {
    struct plan_job *done = job_thread_take(host->planner);
    if (done != NULL)
        coordinator_planned(host->coordinator, &done);
}

static void run(struct host *host) {
    while (!host->stop) {
        zmq_pollitem_t items[] = {
            {.socket = zsock_resolve(host->pipe), .events = ZMQ_POLLIN},
            {.socket = host->router, .events = ZMQ_POLLIN},
            {.socket = zsock_resolve(host->planner), .events = ZMQ_POLLIN},
        };
        if (zmq_poll(items, 3, TICK_MS) < 0 && errno != EINTR)
            break;
        if (items[0].revents != 0)
            coordinator_stop(host->coordinator);
        if (items[1].revents != 0)
            serve(host);
        if (items[2].revents != 0)
            take_plan(host);
        coordinator_tick(host->coordinator);
    }
}

static void host_actor(zsock_t *pipe, void *args) {
    struct host *const host = args;
    host->pipe = pipe;
    const dimfit_err err = open_host(host, host->start->detail);
    host->start->err = err;
    zsock_signal(pipe, 0);
    if (err == DIMFIT_OK)
        run(host);
    zactor_destroy(&host->planner);
    coordinator_destroy(&host->coordinator);
    zactor_destroy(&host->audit_log);
    if (host->router != NULL)
        zmq_close(host->router);
    state_file_close(&host->state);
    free(host);
}

dimfit_err coordinator_host_start(const struct coordinator_host_options *options, char *endpoint,
                                  size_t cap, zactor_t **out, struct err_detail *detail) {
    struct host *const host = calloc(1, sizeof *host);
    if (host == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for the coordinator");
    struct start start = {.detail = detail, .endpoint = endpoint, .cap = cap};
    host->magic = HOST_MAGIC;
    host->options = options;
    host->start = &start;
    zactor_t *actor = zactor_new(host_actor, host);
    if (actor == NULL) {
        free(host);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no thread for the coordinator");
    }
    if (start.err != DIMFIT_OK) {
        zactor_destroy(&actor);
        return start.err;
    }
    *out = actor;
    return DIMFIT_OK;
}
