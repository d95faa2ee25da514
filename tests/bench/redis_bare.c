#include "tests/bench/redis_bare.h"

#include "tests/bench/bench.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    COMMAND_KEYS = 100,
    COMMANDS = BENCH_BATCH / COMMAND_KEYS,
    VALUE_BYTES = BENCH_WIDTH * 4,
    KEY_ITEM = 4 + 8 + 2,             /* $8 CRLF key CRLF */
    VALUE_ITEM = 5 + VALUE_BYTES + 2, /* $64 CRLF value CRLF */
    MGET_HEAD = 6 + 10,               /* *101 CRLF $4 CRLF MGET CRLF */
    MSET_HEAD = 6 + 10,
    ARRAY_HEAD = 6, /* *100 CRLF */
    OK_BYTES = 5,   /* +OK CRLF */
    BUFFER = COMMANDS * (MSET_HEAD + COMMAND_KEYS * (KEY_ITEM + VALUE_ITEM)),
};
_Static_assert(VALUE_BYTES == 64, "the lengths above are of values of 64 bytes");

struct redis_bare {
    int socket;
    char buffer[BUFFER];
};

struct redis_bare *redis_bare_connect(const char *port) {
    struct redis_bare *const redis = bench_alloc(sizeof *redis);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    redis->socket = socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    if (redis->socket < 0 || connect(redis->socket, (struct sockaddr *)&to, sizeof to) != 0 ||
        setsockopt(redis->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        bench_die("Redis does not answer at port %s", port);
    return redis;
}

void redis_bare_close(struct redis_bare **redis) {
    if (*redis == NULL)
        return;
    close((*redis)->socket);
    free(*redis);
    *redis = NULL;
}

static char *put(char *at, const void *bytes, size_t n) {
    memcpy(at, bytes, n);
    return at + n;
}

static char *put_key(char *at, uint64_t key) {
    at = put(at, "$8\r\n", 4);
    at = put(at, &key, sizeof key);
    return put(at, "\r\n", 2);
}

static void send_all(const struct redis_bare *redis, size_t n) {
    for (size_t sent = 0; sent < n;) {
        const ssize_t more = write(redis->socket, redis->buffer + sent, n - sent);
        if (more <= 0)
            bench_die("Redis has closed the connection");
        sent += (size_t)more;
    }
}

static void receive_all(struct redis_bare *redis, size_t n) {
    for (size_t got = 0; got < n;) {
        const ssize_t more = read(redis->socket, redis->buffer + got, n - got);
        if (more <= 0)
            bench_die("Redis has closed the connection");
        got += (size_t)more;
    }
}

static const char *expect(const char *at, const char *text) {
    const size_t n = strlen(text);
    if (memcmp(at, text, n) != 0)
        bench_die("Redis answers %.20s", at);
    return at + n;
}

void redis_bare_mget(struct redis_bare *redis, const uint64_t *keys, float *values) {
    char *out = redis->buffer;
    for (int c = 0; c < COMMANDS; c++) {
        out = put(out, "*101\r\n$4\r\nMGET\r\n", MGET_HEAD);
        for (int i = 0; i < COMMAND_KEYS; i++)
            out = put_key(out, *keys++);
    }
    send_all(redis, (size_t)(out - redis->buffer));
    receive_all(redis, (size_t)COMMANDS * (ARRAY_HEAD + COMMAND_KEYS * VALUE_ITEM));
    const char *in = redis->buffer;
    for (int c = 0; c < COMMANDS; c++) {
        in = expect(in, "*100\r\n");
        for (int i = 0; i < COMMAND_KEYS; i++) {
            in = expect(in, "$64\r\n");
            memcpy(values, in, VALUE_BYTES);
            values += BENCH_WIDTH;
            in = expect(in + VALUE_BYTES, "\r\n");
        }
    }
}

void redis_bare_mset(struct redis_bare *redis, const uint64_t *keys, const float *values) {
    char *out = redis->buffer;
    for (int c = 0; c < COMMANDS; c++) {
        out = put(out, "*201\r\n$4\r\nMSET\r\n", MSET_HEAD);
        for (int i = 0; i < COMMAND_KEYS; i++) {
            out = put_key(out, *keys++);
            out = put(out, "$64\r\n", 5);
            out = put(out, values, VALUE_BYTES);
            out = put(out, "\r\n", 2);
            values += BENCH_WIDTH;
        }
    }
    send_all(redis, (size_t)(out - redis->buffer));
    receive_all(redis, (size_t)COMMANDS * OK_BYTES);
    const char *in = redis->buffer;
    for (int c = 0; c < COMMANDS; c++)
        in = expect(in, "+OK\r\n");
}
