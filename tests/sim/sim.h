/*
 * A whole cluster in one thread: the real coordinator and shard cores, a network that delays,
 * reorders, drops and repeats messages by a seed, and a clock that moves only when told.
 *
 * Messages of one sender to one receiver keep their order, as on a TCP connection, unless `faults`
 * lets one be lost. Plans are made as an event of their own. A test asserts with what it reads back
 * from shards and coordinator, as workers and admins would.
 */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "server/coordinator.h"
#include "server/shard.h"

enum { SIM_SHARDS_MAX = 8, SIM_WORKERS_MAX = 4 };

struct sim;

struct sim_options {
    uint64_t seed;
    size_t shards, workers;
    double drop, repeat; /* chance of each message once sim_faults() is on */
    struct layout_slot slots[4];
    size_t n_slots;
    bool auto_slots;
    uint64_t score_memory; /* of a shard; 0: 16 MiB */
    uint64_t row_memory;   /* of a shard; 0: no limit */
    bool skip_new;
    int64_t wall_s;    /* seconds since 1970 when it starts */
    int32_t shrink_at; /* as of struct coordinator_options */
};

struct sim *sim_new(const struct sim_options *options); /* aborts the test when it can't */
void sim_free(struct sim *sim);

void sim_faults(struct sim *sim, bool on);
/* Deliver everything under way, in an order drawn from the seed, then let `ms` pass in ticks. */
void sim_run(struct sim *sim, int64_t ms);

struct sim_reply {
    struct wire_header header;
    uint8_t *body; /* owned by the sim, until the worker's next ask */
    size_t len;
};
/* Send a worker's request to a shard (or, shard < 0, to the coordinator) and run until it is
 * answered, sending it again when it was lost. */
const struct sim_reply *sim_ask(struct sim *sim, size_t worker, int shard,
                                struct wire_header *header, const void *body, size_t len);

/* Once a shard that is asked is down, the reply's status is UNREACHABLE. */

/* From now on, at any step: the coordinator ends and comes back, before or after it has saved what
 * it was about to; its disk is full; messages are late; and, once in a run, a shard loses its
 * memory with its process: then the cluster is restarted around the shards that live, as an
 * operator does it. Off: whoever is down comes back. */
void sim_chaos(struct sim *sim, bool on);
/* The shard lost its memory in this run. */
bool sim_shard_lost(const struct sim *sim, size_t shard);
/* How often the coordinator ended. */
size_t sim_crashes(const struct sim *sim);
uint64_t sim_draw(struct sim *sim); /* from the seed */

/* Send a request to the coordinator without waiting for its answer. */
void sim_tell(struct sim *sim, size_t worker, const struct wire_header *header);
/* Put the coordinator in place of itself: what is under way to and from it is lost, its saved state
 * is not. From then on it has one slot more, if that is not NULL. */
void sim_restart_coordinator(struct sim *sim, const struct layout_slot *more);
/* The coordinator's commands of this kind to the shard are lost; kind 0: none are. */
void sim_lose(struct sim *sim, size_t shard, int kind);
/* The shard answers, but does none of the work that is left for between messages. */
void sim_idle(struct sim *sim, size_t shard, bool on);
/* Set the wall clock, from which time goes on. */
void sim_set_clock(struct sim *sim, int64_t wall_s);

uint64_t sim_shard_epoch(const struct sim *sim, size_t shard);
size_t sim_shard_of(uint32_t slot, uint64_t feasign, size_t shards);

#endif
