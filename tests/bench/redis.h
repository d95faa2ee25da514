/*
 * Redis as its users reach it: through hiredis, MGET and MSET of 100 keys a command, all commands
 * of a batch pipelined, every answer parsed into hiredis's reply objects.
 *
 * Keys are 8 bytes, values rows of `width` floats. Every key that is read must be there. A
 * connection belongs to one thread; whatever fails, or takes longer than 30 seconds, ends the
 * program with a text.
 */
#ifndef TESTS_BENCH_REDIS_H
#define TESTS_BENCH_REDIS_H

#include <stddef.h>
#include <stdint.h>

struct redis;

struct redis *redis_connect(const char *port);
void redis_close(struct redis **redis);

/* values[n][width]. */
void redis_mget(const struct redis *redis, const uint64_t *keys, size_t n, float *values,
                size_t width);
void redis_mset(const struct redis *redis, const uint64_t *keys, size_t n, const float *values,
                size_t width);

#endif
