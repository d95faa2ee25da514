#include "proto/rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <zmq.h>

enum { HANDSHAKE_MS = 10000 };

struct rpc {
    void *context, *socket;
    uint64_t request; /* the last one's number */
    bool heard;       /* the peer has answered before */
    zmq_msg_t body;
    char endpoint[];
};

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool set_up(void *socket) {
    const int64_t largest = WIRE_BODY_MAX;
    const int linger = 0, handshake = HANDSHAKE_MS;
    return zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) == 0 &&
           zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) == 0 &&
           zmq_setsockopt(socket, ZMQ_HANDSHAKE_IVL, &handshake, sizeof handshake) == 0;
}

dimfit_err rpc_open(const char *endpoint, struct rpc **out, struct err_detail *detail) {
    struct rpc *rpc = calloc(1, sizeof *rpc + strlen(endpoint) + 1);
    if (rpc == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory to connect to %s", endpoint);
    memcpy(rpc->endpoint, endpoint, strlen(endpoint) + 1);
    zmq_msg_init(&rpc->body);
    rpc->context = zmq_ctx_new();
    rpc->socket = rpc->context == NULL ? NULL : zmq_socket(rpc->context, ZMQ_DEALER);
    dimfit_err err = DIMFIT_OK;
    if (rpc->socket == NULL || !set_up(rpc->socket))
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no socket: %s", zmq_strerror(zmq_errno()));
    else if (zmq_connect(rpc->socket, endpoint) != 0)
        err = err_set(detail, DIMFIT_ERR_INVALID,
                      "'%s' is no address: %s; write it as tcp://host:port", endpoint,
                      zmq_strerror(zmq_errno()));
    if (err != DIMFIT_OK) {
        rpc_close(&rpc);
        return err;
    }
    *out = rpc;
    return DIMFIT_OK;
}

void rpc_close(struct rpc **rpc) {
    if (*rpc == NULL)
        return;
    zmq_msg_close(&(*rpc)->body);
    if ((*rpc)->socket != NULL)
        zmq_close((*rpc)->socket);
    if ((*rpc)->context != NULL)
        zmq_ctx_term((*rpc)->context);
    free(*rpc);
    *rpc = NULL;
}

static bool send_request(struct rpc *rpc, const struct wire_header *request, const void *body,
                         size_t len) {
    uint8_t header[WIRE_HEADER_MAX];
    const size_t n = wire_encode(request, header);
    if (zmq_send(rpc->socket, header, n, ZMQ_DONTWAIT | (len > 0 ? ZMQ_SNDMORE : 0)) < 0)
        return false;
    return len == 0 || zmq_send(rpc->socket, body, len, ZMQ_DONTWAIT) >= 0;
}

/* One message, whole; false when it is none of ours. Its body, if it has one, replaces the one
 * before. */
static bool receive(struct rpc *rpc, struct rpc_reply *out) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    bool good = zmq_msg_recv(&part, rpc->socket, ZMQ_DONTWAIT) >= 0 &&
                wire_decode(zmq_msg_data(&part), zmq_msg_size(&part), &out->header, NULL) ==
                    DIMFIT_OK;
    out->body = NULL;
    out->len = 0;
    for (int n = 1; zmq_msg_more(&part); n++) {
        if (zmq_msg_recv(&part, rpc->socket, 0) < 0)
            break;
        if (n > 1) {
            good = false; /* read to its end, and dropped */
            continue;
        }
        zmq_msg_copy(&rpc->body, &part);
        out->body = zmq_msg_data(&rpc->body);
        out->len = zmq_msg_size(&rpc->body);
    }
    zmq_msg_close(&part);
    return good;
}

static dimfit_err silence(const struct rpc *rpc, int64_t timeout_ms, struct err_detail *detail) {
    if (rpc->heard)
        return err_set(detail, DIMFIT_ERR_MAYBE,
                       "%s did not answer within %.1f s; the request may have been carried out",
                       rpc->endpoint, (double)timeout_ms / 1000);
    return err_set(detail, DIMFIT_ERR_UNREACHABLE,
                   "nobody answers at %s within %.1f s; is dimfitd running there?", rpc->endpoint,
                   (double)timeout_ms / 1000);
}

dimfit_err rpc_call(struct rpc *rpc, struct wire_header *request, const void *body, size_t len,
                    int64_t timeout_ms, struct rpc_reply *out, struct err_detail *detail) {
    const int64_t deadline = now_ms() + timeout_ms;
    request->request = ++rpc->request;
    if (!send_request(rpc, request, body, len))
        return err_set(detail, DIMFIT_ERR_UNREACHABLE, "cannot send to %s: %s", rpc->endpoint,
                       zmq_strerror(zmq_errno()));
    struct rpc_reply reply;
    for (;;) {
        const int64_t left = deadline - now_ms();
        zmq_pollitem_t item = {.socket = rpc->socket, .events = ZMQ_POLLIN};
        const int n = left <= 0 ? 0 : zmq_poll(&item, 1, (long)left);
        if (n < 0 && zmq_errno() == EINTR)
            continue;
        if (n <= 0)
            return silence(rpc, timeout_ms, detail);
        if (receive(rpc, &reply) && reply.header.reply && reply.header.request == request->request)
            break;
    }
    rpc->heard = true;
    if (reply.header.status != DIMFIT_OK) {
        err_set(detail, reply.header.status, "%s",
                reply.header.detail.text[0] != 0 ? reply.header.detail.text
                                                 : err_text(reply.header.status));
        return reply.header.status;
    }
    *out = reply;
    return DIMFIT_OK;
}
