/*
 * Whole messages in and out of a ROUTER or DEALER socket: [identity] header [body].
 *
 * Receiving never trusts what comes: a message of another shape is read to its end and reported as
 * malformed. Sending never blocks: a peer that is gone or whose queue is full loses the message,
 * and asks again. One thread a socket, as ZeroMQ wants it.
 */
#ifndef SERVER_FRAMES_H
#define SERVER_FRAMES_H

#include "proto/wire.h"
#include "server/coordinator.h"

#include <zmq.h>

struct frames {
    struct route from; /* ROUTER sockets only; the peer of ADMIN messages only */
    struct wire_header header;
    zmq_msg_t body; /* valid when has_body; frames_close() it */
    bool has_body;
};

enum frames_got { FRAMES_NONE, FRAMES_MESSAGE, FRAMES_MALFORMED };

/* The next message if one is there. After FRAMES_MESSAGE, frames_close(). */
enum frames_got frames_receive(void *socket, bool router, struct frames *out);
void frames_close(struct frames *frames);
const uint8_t *frames_body(struct frames *frames, size_t *len);

/* to: NULL on a DEALER. body may be NULL; otherwise it is sent and left empty. False when the
 * message was dropped. */
bool frames_send(void *socket, const struct route *to, const struct wire_header *header,
                 zmq_msg_t *body);

/* A ROUTER or DEALER with the limits every socket of ours has: message size, queues, no linger
 * beyond linger_ms. NULL with errno. */
void *frames_socket(void *context, int type, int linger_ms);

#endif
