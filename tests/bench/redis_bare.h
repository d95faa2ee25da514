/*
 * As much of a Redis client as a fair race needs: MGET and MSET of 100 keys, pipelined, over a
 * loopback socket.
 *
 * Keys are 8 bytes, values rows of BENCH_WIDTH floats, and every key is there. All commands of a
 * batch are sent at once, then all answers are read; with every length known beforehand nothing has
 * to be parsed byte by byte, which spares Redis's side of the comparison the cost of a client.
 */
#ifndef TESTS_BENCH_REDIS_BARE_H
#define TESTS_BENCH_REDIS_BARE_H

#include <stdint.h>

struct redis_bare;

struct redis_bare *redis_bare_connect(const char *port);
void redis_bare_close(struct redis_bare **redis);

/* BENCH_BATCH keys, values[BENCH_BATCH][BENCH_WIDTH]. */
void redis_bare_mget(struct redis_bare *redis, const uint64_t *keys, float *values);
void redis_bare_mset(struct redis_bare *redis, const uint64_t *keys, const float *values);

#endif
