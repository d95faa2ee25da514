/*
 * How a shard introduces itself to the coordinator: the body of REGISTER. The answer's is the
 * cluster's number, how many shards it has, and the layout in force.
 */
#ifndef SERVER_HELLO_H
#define SERVER_HELLO_H

#include "proto/cluster_map.h"

enum { HELLO_NO_NUMBER = UINT32_MAX };

struct hello {
    char endpoint[CLUSTER_ENDPOINT_MAX + 1]; /* where workers reach it */
    uint64_t pid;
    uint32_t number;         /* which shard it is, HELLO_NO_NUMBER for a new one */
    uint64_t epoch;          /* of the layout it works with; meaningless for a new one */
    uint64_t prepared_epoch; /* of a change it has prepared, 0 for none */
    uint64_t search;         /* that it last began to score for, 0 for none */
    uint64_t cluster;        /* whose rows it keeps on its disk, 0: it keeps none */
    uint32_t shards;         /* how many that cluster had, with cluster */
    uint32_t slots;          /* of its layout; meaningless for a new one */
};

static inline void hello_encode(const struct hello *hello, struct buf *out) {
    buf_put_str(out, hello->endpoint);
    buf_put_u64(out, hello->pid);
    buf_put_u32(out, hello->number);
    buf_put_u64(out, hello->epoch);
    buf_put_u64(out, hello->prepared_epoch);
    buf_put_u64(out, hello->search);
    buf_put_u64(out, hello->cluster);
    buf_put_u32(out, hello->shards);
    buf_put_u32(out, hello->slots);
}

static inline MUST_CHECK dimfit_err hello_decode(const void *bytes, size_t len, struct hello *out) {
    struct reader r = reader_of(bytes, len);
    struct hello hello = {0};
    reader_str(&r, hello.endpoint, sizeof hello.endpoint);
    hello.pid = reader_u64(&r);
    hello.number = reader_u32(&r);
    hello.epoch = reader_u64(&r);
    hello.prepared_epoch = reader_u64(&r);
    hello.search = reader_u64(&r);
    hello.cluster = reader_u64(&r);
    hello.shards = reader_u32(&r);
    hello.slots = reader_u32(&r);
    if (!reader_done(&r))
        return DIMFIT_ERR_PROTOCOL;
    *out = hello;
    return DIMFIT_OK;
}

#endif
