#include "tests/bench/redis.h"

#include "tests/bench/bench.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum { COMMAND_KEYS = 100, TIMEOUT_SECONDS = 30 };

struct redis {
    redisContext *context;
};

struct redis *redis_connect(const char *port) {
    struct redis *const redis = bench_alloc(sizeof *redis);
    const struct timeval limit = {.tv_sec = TIMEOUT_SECONDS};
    redis->context = redisConnectWithTimeout("127.0.0.1", atoi(port), limit);
    if (redis->context == NULL || redis->context->err != 0 ||
        redisSetTimeout(redis->context, limit) != REDIS_OK)
        bench_die("Redis does not answer at port %s: %s", port,
                  redis->context != NULL ? redis->context->errstr : "no memory");
    return redis;
}

void redis_close(struct redis **redis) {
    if (*redis == NULL)
        return;
    redisFree((*redis)->context);
    free(*redis);
    *redis = NULL;
}

static size_t part_of(size_t n, size_t done) {
    return n - done < COMMAND_KEYS ? n - done : COMMAND_KEYS;
}

static void append(const struct redis *redis, int n, const char **words, const size_t *lengths) {
    if (redisAppendCommandArgv(redis->context, n, words, lengths) != REDIS_OK)
        bench_die("hiredis: %s", redis->context->errstr);
}

/* The next answer, of this type; the caller frees it. */
static redisReply *answer(const struct redis *redis, int type) {
    void *reply;
    if (redisGetReply(redis->context, &reply) != REDIS_OK)
        bench_die("Redis: %s", redis->context->errstr);
    redisReply *const got = reply;
    if (got->type != type)
        bench_die("Redis answers %s", got->str != NULL ? got->str : "something else");
    return got;
}

void redis_mget(const struct redis *redis, const uint64_t *keys, size_t n, float *values,
                size_t width) {
    const char *words[1 + COMMAND_KEYS] = {"MGET"};
    size_t lengths[1 + COMMAND_KEYS] = {4};
    for (size_t done = 0; done < n; done += COMMAND_KEYS) {
        const size_t part = part_of(n, done);
        for (size_t i = 0; i < part; i++) {
            words[1 + i] = (const char *)&keys[done + i];
            lengths[1 + i] = sizeof *keys;
        }
        append(redis, (int)(1 + part), words, lengths);
    }
    for (size_t done = 0; done < n; done += COMMAND_KEYS) {
        redisReply *const reply = answer(redis, REDIS_REPLY_ARRAY);
        if (reply->elements != part_of(n, done))
            bench_die("Redis answers %zu values", reply->elements);
        for (size_t i = 0; i < reply->elements; i++, values += width) {
            const redisReply *const value = reply->element[i];
            if (value->type != REDIS_REPLY_STRING || value->len != width * sizeof *values)
                bench_die("Redis answers a value of %zu bytes", value->len);
            memcpy(values, value->str, value->len);
        }
        freeReplyObject(reply);
    }
}

void redis_mset(const struct redis *redis, const uint64_t *keys, size_t n, const float *values,
                size_t width) {
    const char *words[1 + 2 * COMMAND_KEYS] = {"MSET"};
    size_t lengths[1 + 2 * COMMAND_KEYS] = {4};
    for (size_t done = 0; done < n; done += COMMAND_KEYS) {
        const size_t part = part_of(n, done);
        for (size_t i = 0; i < part; i++) {
            words[1 + 2 * i] = (const char *)&keys[done + i];
            lengths[1 + 2 * i] = sizeof *keys;
            words[2 + 2 * i] = (const char *)&values[(done + i) * width];
            lengths[2 + 2 * i] = width * sizeof *values;
        }
        append(redis, (int)(1 + 2 * part), words, lengths);
    }
    for (size_t done = 0; done < n; done += COMMAND_KEYS)
        freeReplyObject(answer(redis, REDIS_REPLY_STATUS));
}
