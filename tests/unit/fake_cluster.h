/*
 * A cluster for tests of the client library: a coordinator and up to four shards that speak the
 * wire in a thread of their own, keep no rows, and can be told to misbehave.
 *
 * A shard checks a push as the real one does (number, epoch, freeze) and notes every request. The
 * row of a feasign is fake_value(): known without asking. Functions may be called while it runs.
 */
#ifndef TESTS_FAKE_CLUSTER_H
#define TESTS_FAKE_CLUSTER_H

#include "proto/cluster_map.h"
#include "proto/layout.h"
#include "proto/section.h"
#include "proto/wire.h"

enum { FAKE_SHARDS_MAX = 4, FAKE_ROWS_MAX = 32, FAKE_REQUESTS_MAX = 256, FAKE_BODY_MAX = 1024 };

struct fake_request {
    struct wire_header header;
    bool applied;      /* it took the next number */
    dimfit_err status; /* what it was answered */
    size_t len;
    uint8_t body[FAKE_BODY_MAX];
    struct section_list sections; /* of a pull or push, into body */
};

struct fake;

struct fake *fake_start(size_t shards, const struct layout *layout);
void fake_stop(struct fake **fake);
const char *fake_endpoint(const struct fake *fake); /* the coordinator's */
const char *fake_shard_endpoint(const struct fake *fake, size_t shard);

/* ---- how it behaves; counts are of the requests to come ----------------------------------------
 */

void fake_busy(struct fake *fake, int times); /* the coordinator waits for shards */
/* The layout now in force; shards follow when told. */
void fake_layout(struct fake *fake, const struct layout *layout);
void fake_switch(struct fake *fake, size_t shard);                     /* to the layout in force */
void fake_switch_after(struct fake *fake, size_t shard, int refusals); /* of requests ahead of it */
void fake_drop(struct fake *fake, size_t shard, int times);            /* requests get lost */
void fake_lose(struct fake *fake, size_t shard, int times);            /* replies get lost */
void fake_cut(struct fake *fake, size_t shard, int times); /* replies lack their last value */
void fake_refuse(struct fake *fake, size_t shard, dimfit_err err); /* until told DIMFIT_OK */
void fake_freeze(struct fake *fake,
                 int refusals); /* training, for so many refusals; < 0: on, 0: off */
void fake_curvature(struct fake *fake, bool wanted); /* of scored pushes */
void fake_forget(struct fake *fake, size_t shard);   /* numbers, as a restart does */
void fake_auto_slots(struct fake *fake, bool on);
/* The shard goes on at another endpoint, which only the coordinator knows; the map's version falls.
 */
void fake_move(struct fake *fake, size_t shard);

/* ---- what it saw -------------------------------------------------------------------------------
 */

size_t fake_count(struct fake *fake, size_t shard);
/* The i-th request to a shard, or counted from the end where i < 0; stays as it is. */
const struct fake_request *fake_request(struct fake *fake, size_t shard, int i);
size_t fake_applied(struct fake *fake, size_t shard);
size_t fake_declared(struct fake *fake);
uint32_t fake_tiers(struct fake *fake, uint32_t slot,
                    uint32_t *shows); /* shows[LAYOUT_TIERS_MAX] */
size_t fake_shard_of(const struct fake *fake, uint32_t slot, uint64_t key);

/* The first feasign from `from` on that lives on this shard. */
uint64_t fake_key_on(const struct fake *fake, uint32_t slot, size_t shard, uint64_t from);
float fake_value(uint64_t key, size_t k);

#endif
