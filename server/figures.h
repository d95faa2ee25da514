/*
 * What a shard says of itself when asked: counters, memory, rows by slot. Shown by `dimfitctl
 * stats` and `slots`; plain values, no behaviour.
 */
#ifndef SERVER_FIGURES_H
#define SERVER_FIGURES_H

#include "proto/buf.h"
#include "server/latency.h"
#include "server/table.h"

/* Counters of a shard since its start: name and what it counts. */
#define SHARD_COUNTER_MAP(X)                                                                       \
    X(pull_requests) /* answered with rows */                                                      \
    X(push_requests) /* applied */                                                                 \
    X(keys_pulled)                                                                                 \
    X(keys_pushed)                                                                                 \
    X(keys_scored)                                                                                 \
    X(keys_skipped)    /* without a row when there was no memory for a new one */                  \
    X(keys_pending)    /* pushed for a feasign that has no row yet: counted, nothing else */       \
    X(rows_evicted)    /* by shrinks */                                                            \
    X(pending_evicted) /* feasigns without a row that shrinks forgot */                            \
    X(dense_requests)                                                                              \
    X(repeats)   /* pushes recognised as repeated and answered from the record */                  \
    X(stale)     /* requests of an older epoch, answered with the layout */                        \
    X(frozen)    /* training pushes turned away while a search scored */                           \
    X(refused)   /* requests refused for what they held */                                         \
    X(malformed) /* messages that were no request at all */                                        \
    X(clients) X(dense_tables) X(dense_bytes) X(score_steps) X(score_samples) X(score_bytes)

struct shard_counters {
#define SHARD_COUNTER_FIELD(name) uint64_t name;
    SHARD_COUNTER_MAP(SHARD_COUNTER_FIELD)
#undef SHARD_COUNTER_FIELD
};

/* Of the process a shard lives in; shards of one process report the same. */
struct process_figures {
    uint64_t pid, resident_bytes;
    uint64_t jemalloc_allocated, jemalloc_active, jemalloc_resident;
    char jemalloc_version[64];
};

/* From having a request whole to having given its answer away. */
struct service_figures {
    struct latency pull, push;
};

struct slot_figures {
    uint32_t slot;
    struct table_figures table;
};

/* The last shrink, under way or done. A dry run counts what it would have evicted. */
struct shrink_figures {
    uint64_t number;            /* 0: there was none */
    uint64_t running, dry_run;  /* 0 or 1 */
    uint64_t slots, slots_done; /* those it has rules for */
    uint64_t keys, keys_done;   /* stored and pending feasigns: in those slots when it began,
                                   looked at so far (more when tables grew meanwhile) */
    uint64_t rows_evicted, pending_evicted;
};

struct shard_figures {
    uint64_t epoch;
    struct shrink_figures shrink;
    struct shard_counters counters;
    struct process_figures process;
    struct service_figures service;
    size_t n_slots;
    struct slot_figures *slots; /* ascending */
};

void shard_figures_fini(struct shard_figures *figures);
const struct slot_figures *shard_figures_find(const struct shard_figures *figures, uint32_t slot);
/* into += part. */
void table_figures_add(struct table_figures *into, const struct table_figures *part);

void shard_figures_encode(const struct shard_figures *figures, struct buf *out);
dimfit_err shard_figures_decode(const void *bytes, size_t len,
                                struct shard_figures *out) MUST_CHECK;

#endif
