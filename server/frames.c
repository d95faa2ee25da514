#include "server/frames.h"

#include <errno.h>
#include <stdio.h>

enum { QUEUE_MESSAGES = 1000, HANDSHAKE_MS = 10000 };

static bool set_int(void *socket, int option, int value) {
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

void *frames_socket(void *context, int type, int linger_ms) {
    void *const socket = zmq_socket(context, type);
    if (socket == NULL)
        return NULL;
    const int64_t largest = WIRE_BODY_MAX;
    bool ok = zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) == 0 &&
              set_int(socket, ZMQ_LINGER, linger_ms) &&
              set_int(socket, ZMQ_SNDHWM, QUEUE_MESSAGES) &&
              set_int(socket, ZMQ_RCVHWM, QUEUE_MESSAGES) &&
              set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    if (ok && type == ZMQ_ROUTER)
        ok = set_int(socket, ZMQ_ROUTER_MANDATORY, 1) && set_int(socket, ZMQ_ROUTER_HANDOVER, 1);
    if (ok)
        return socket;
    const int saved = errno;
    zmq_close(socket);
    errno = saved;
    return NULL;
}

static bool receive_part(void *socket, zmq_msg_t *part, int flags) {
    int n;
    do
        n = zmq_msg_recv(part, socket, flags);
    while (n < 0 && errno == EINTR);
    return n >= 0;
}

/* The address that ZeroMQ saw it come from; "" for a peer within the process. */
static void take_peer(zmq_msg_t *part, struct route *from) {
    const char *const peer = zmq_msg_gets(part, "Peer-Address");
    snprintf(from->peer, sizeof from->peer, "%s", peer != NULL ? peer : "");
}

static void drain(void *socket, zmq_msg_t *last) {
    while (zmq_msg_more(last) && receive_part(socket, last, 0))
        ;
}

enum frames_got frames_receive(void *socket, bool router, struct frames *out) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    enum frames_got got = FRAMES_MALFORMED;
    out->has_body = false;
    if (!receive_part(socket, &part, ZMQ_DONTWAIT)) {
        got = FRAMES_NONE;
        goto done;
    }
    if (router) {
        const size_t len = zmq_msg_size(&part);
        base_assert(len <= sizeof out->from.id);
        out->from.len = (uint8_t)len;
        memcpy(out->from.id, zmq_msg_data(&part), len);
        out->from.peer[0] = 0;
        if (!zmq_msg_more(&part) || !receive_part(socket, &part, 0))
            goto done;
    }
    if (wire_decode(zmq_msg_data(&part), zmq_msg_size(&part), &out->header, NULL) != DIMFIT_OK) {
        drain(socket, &part);
        goto done;
    }
    got = FRAMES_MESSAGE;
    if (out->header.kind == WIRE_ADMIN)
        take_peer(&part, &out->from);
    if (!zmq_msg_more(&part))
        goto done;
    zmq_msg_init(&out->body);
    out->has_body = true;
    if (!receive_part(socket, &out->body, 0) || zmq_msg_more(&out->body)) {
        drain(socket, &out->body);
        frames_close(out);
        got = FRAMES_MALFORMED;
    }

done:
    zmq_msg_close(&part);
    return got;
}

void frames_close(struct frames *frames) {
    if (frames->has_body)
        zmq_msg_close(&frames->body);
    frames->has_body = false;
}

const uint8_t *frames_body(struct frames *frames, size_t *len) {
    *len = frames->has_body ? zmq_msg_size(&frames->body) : 0;
    return frames->has_body ? zmq_msg_data(&frames->body) : (const uint8_t *)"";
}

bool frames_send(void *socket, const struct route *to, const struct wire_header *header,
                 zmq_msg_t *body) {
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t len = wire_encode(header, bytes);
    /* Only the first part can be refused; ZeroMQ takes the rest of a message it has begun. */
    if (to != NULL && zmq_send(socket, to->id, to->len, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return false;
    if (zmq_send(socket, bytes, len, ZMQ_DONTWAIT | (body != NULL ? ZMQ_SNDMORE : 0)) < 0)
        return false;
    return body == NULL || zmq_msg_send(body, socket, ZMQ_DONTWAIT) >= 0;
}
