/*
 * One request at a time to a coordinator or shard, over one DEALER socket: for dimfitctl, the
 * client library's control calls, and tests.
 *
 * Replies to requests given up on are recognised by their number and dropped. One thread at a time.
 */
#ifndef PROTO_RPC_H
#define PROTO_RPC_H

#include "proto/wire.h"

struct rpc;

/* Does not wait for the peer: a first call that gets no answer is UNREACHABLE. INVALID for an
 * endpoint ZeroMQ refuses. */
dimfit_err rpc_open(const char *endpoint, struct rpc **out, struct err_detail *detail) MUST_CHECK;
void rpc_close(struct rpc **rpc);

/* A reply body, borrowed from the rpc until its next call. */
struct rpc_reply {
    struct wire_header header;
    const uint8_t *body; /* NULL when there is none */
    size_t len;
};

/* Send the request (its `request` number is set here) with body[len], and wait up to timeout_ms.
 * Returns the reply's status, with its detail. UNREACHABLE when no answer ever came on this rpc,
 * MAYBE when one came before but not this time. */
dimfit_err rpc_call(struct rpc *rpc, struct wire_header *request, const void *body, size_t len,
                    int64_t timeout_ms, struct rpc_reply *out,
                    struct err_detail *detail) MUST_CHECK;

#endif
