/*
 * What a daemon is told: by its command line, by a YAML file, by the environment, or by nobody.
 *
 * One table lists the settings; each can be given in the file under its name and on the command
 * line as an option. An option wins over the file, the file over the default, and where each value
 * came from is remembered (--print-config). Slots are given in the file only. Values are checked
 * one by one and against each other before anything starts; a refusal names the file and line, or
 * the option, then the key and what it takes. Values are read once at start, by one thread, and
 * stay as they are.
 *
 *     shards: 4
 *     score_memory: 2G
 *     defaults: {dim: 16, optimizer: rowwise_adagrad, lr: 0.05}
 *     slots:
 *       - {id: 1, name: user}
 *       - {id: 2, name: hour, dim: 8}
 *       - {id: 900, name: linear, dim: 1, search: false}
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "proto/cluster_map.h"
#include "proto/layout.h"
#include "server/log.h"

#include <stdio.h>

enum { CONFIG_PATH_MAX = 1023 };

/* Settings: field, type, least, most, default, option, its argument, help. Sizes take K, M, G or T
 * (1024, 1024^2, ...); the bounds of a text type do not count. */
#define CONFIG_SETTING_MAP(X)                                                                      \
    X(bind, ENDPOINT, 0, 0, "tcp://127.0.0.1:7700", "bind", "EP", "Where the coordinator listens") \
    X(coordinator, ENDPOINT, 0, 0, "tcp://127.0.0.1:7700", "coordinator", "EP",                    \
      "The coordinator a shard process joins")                                                     \
    X(shard_bind, ENDPOINT, 0, 0, "tcp://127.0.0.1:*", "shard-bind", "EP",                         \
      "Where shards listen; port * is a free one")                                                 \
    X(http_bind, ENDPOINT, 0, 0, "", "http-bind", "EP",                                            \
      "Where the coordinator's process serves /metrics, /healthz and /readyz; empty: nowhere")     \
    X(shards, U32, 1, CLUSTER_SHARDS_MAX, "1", "shards", "N",                                      \
      "Shard threads of this process; a coordinator: how many shards to wait for")                 \
    X(data_dir, PATH, 0, 0, "", "data-dir", "DIR", "Folder for the state that outlives a process") \
    X(durability, KEEP, 0, 0, "auto", "durability", "auto|none|process|disk",                      \
      "What acknowledged pushes survive: nothing, the end of the process, a power cut; auto: "     \
      "process with data_dir, none without")                                                       \
    X(snapshot_every, SIZE, 0, 0x1p50, "1G", "snapshot-every", "SIZE",                             \
      "Log of a shard after which its rows are written as a whole, and older log goes; 0: never")  \
    X(seed, U64, 0, 0, "1", "seed", "N", "Seed of the rows' initial values")                       \
    X(auto_slots, BOOL, 0, 0, "false", "auto-slots", "BOOL",                                       \
      "Let workers add slots that the file does not name")                                         \
    X(score_memory, SIZE, 1 << 20, 0x1p50, "1G", "score-memory", "SIZE",                           \
      "Most memory for the score sums of a shard")                                                 \
    X(score_sample, U32, 1, 1000000, "1", "score-sample", "N",                                     \
      "Outside the axis basis, score one row in N, chosen by hash; 1: every row")                  \
    X(max_memory, SIZE, 0, 0x1p50, "0", "max-memory", "SIZE",                                      \
      "Refuse a layout change that would take this process over it, and new rows when a shard's "  \
      "tables fill its equal part of it; 0: no limit")                                             \
    X(over_memory, OVER, 0, 0, "refuse", "over-memory", "refuse|skip",                             \
      "Pushes with new rows that max_memory has no room for: refuse them, or skip those rows")     \
    X(scoring_timeout, SECONDS, 0.1, 604800, "600", "scoring-timeout", "S",                        \
      "Longest a scoring search waits for more samples (holding training, in freeze mode)")        \
    X(prepare_timeout, SECONDS, 0.1, 86400, "60", "prepare-timeout", "S",                          \
      "Longest to wait until all shards have prepared a layout change")                            \
    X(shrink_at, TIME, 0, 0, "04:00", "shrink-at", "HH:MM|off",                                    \
      "When, each day (UTC), rows go that their slot's expire_days or expire_shows say")           \
    X(eviction_log, PATH, 0, 0, "", "eviction-log", "FILE",                                        \
      "Append the rows that shrinks evict to this file, as CSV; empty: none")                      \
    X(audit_log, PATH, 0, 0, "", "audit-log", "FILE",                                              \
      "Append a line of JSON on each step of a search and who had it done; empty: none")           \
    X(rollback_dir, PATH, 0, 0, "", "rollback-dir", "DIR|memory|none",                             \
      "Where shards keep the rows before a layout change, to roll it back; empty: data_dir, "      \
      "without one nowhere")                                                                       \
    X(log_level, LEVEL, 0, 0, "info", "log-level", "LEVEL", "error, warn, info or debug")          \
    X(strategies, PATH, 0, 0, "", "strategies", "DIR", "Folder of the strategy plugins")

/* What a slot takes in `slots`, and all but id and name in `defaults`: field, type, least, most,
 * default, the key in the file. An empty default: id must be given, name is slot<ID>, width is dim.
 * last_seen is true for who needs it (proto/retention.h), unless it is given as false: refused.
 * tiers sets tier_shows too. */
#define CONFIG_SLOT_MAP(X)                                                                         \
    X(id, U32, 0, UINT32_MAX, "", "id")                                                            \
    X(name, NAME, 0, 0, "", "name")                                                                \
    X(dim, U32, 1, LAYOUT_DIM_MAX, "16", "dim")                                                    \
    X(width, U32, 1, LAYOUT_DIM_MAX, "", "width")                                                  \
    X(optimizer.kind, OPTIMIZER, 0, 0, "rowwise_adagrad", "optimizer")                             \
    X(optimizer.lr, FLOAT, 1e-12, 1e6, "0.05", "lr")                                               \
    X(optimizer.eps, FLOAT, 1e-30, 1, "1e-8", "eps")                                               \
    X(optimizer.beta1, FLOAT, 0, 0.999999, "0.9", "beta1")                                         \
    X(optimizer.beta2, FLOAT, 0, 0.999999, "0.999", "beta2")                                       \
    X(optimizer.beta, FLOAT, 0, 1e6, "1", "ftrl_beta")                                             \
    X(optimizer.l1, FLOAT, 0, 1e6, "0", "l1")                                                      \
    X(optimizer.l2, FLOAT, 0, 1e6, "0", "l2")                                                      \
    X(init, INIT, 0, 0, "normal", "init")                                                          \
    X(init_scale, FLOAT, 0, 1e6, "0.01", "init_scale")                                             \
    X(search, BOOL, 0, 0, "true", "search")                                                        \
    X(retention.admit, U32, 1, RETENTION_ADMIT_MAX, "1", "admit")                                  \
    X(retention.expire_days, U32, 0, RETENTION_DAYS_MAX, "0", "expire_days")                       \
    X(retention.expire_shows, FLOAT, 0, 1e9, "0", "expire_shows")                                  \
    X(retention.decay, FLOAT, 1e-6, 1, "1", "decay")                                               \
    X(retention.clicks, BOOL, 0, 0, "false", "clicks")                                             \
    X(retention.last_seen, BOOL, 0, 0, "false", "last_seen")                                       \
    X(n_tiers, TIERS, 1, LAYOUT_TIER_SHOWS_MAX, "[]", "tiers")

enum {
#define CONFIG_COUNT(...) +1
    CONFIG_SETTINGS = 0 CONFIG_SETTING_MAP(CONFIG_COUNT),
    CONFIG_SLOT_SETTINGS = 0 CONFIG_SLOT_MAP(CONFIG_COUNT),
#undef CONFIG_COUNT
};

#define CONFIG_ROLE_MAP(X)                                                                         \
    X(STANDALONE, "standalone")   /* coordinator and shard threads in one process */               \
    X(COORDINATOR, "coordinator") /* the coordinator alone */                                      \
    X(SHARD, "shard")             /* shard threads that join a coordinator */

enum config_role {
#define CONFIG_ROLE_ENUM(name, text) ROLE_##name,
    CONFIG_ROLE_MAP(CONFIG_ROLE_ENUM)
#undef CONFIG_ROLE_ENUM
};

/* What becomes of a push with rows that find no room. */
#define CONFIG_OVER_MAP(X)                                                                         \
    X(REFUSE, "refuse") /* it is refused, nothing changed */                                       \
    X(SKIP, "skip")     /* they are passed over, the others go on */

enum config_over {
#define CONFIG_OVER_ENUM(name, text) OVER_##name,
    CONFIG_OVER_MAP(CONFIG_OVER_ENUM)
#undef CONFIG_OVER_ENUM
};

/* What an acknowledged push survives. */
#define CONFIG_KEEP_MAP(X)                                                                         \
    X(AUTO, "auto")       /* process where there is a data_dir, none elsewhere */                  \
    X(NONE, "none")       /* nothing */                                                            \
    X(PROCESS, "process") /* the end of the process */                                             \
    X(DISK, "disk")       /* a power cut */

enum config_keep {
#define CONFIG_KEEP_ENUM(name, text) KEEP_##name,
    CONFIG_KEEP_MAP(CONFIG_KEEP_ENUM)
#undef CONFIG_KEEP_ENUM
};

enum config_source { FROM_DEFAULT, FROM_ENVIRONMENT, FROM_FILE, FROM_OPTION };

struct config_origin {
    enum config_source source;
    size_t line; /* FROM_FILE */
};

struct config {
    enum config_role role;
    bool print;                     /* --print-config: print and leave */
    char file[CONFIG_PATH_MAX + 1]; /* "" without --config */

    char bind[CLUSTER_ENDPOINT_MAX + 1], coordinator[CLUSTER_ENDPOINT_MAX + 1];
    char shard_bind[CLUSTER_ENDPOINT_MAX + 1];
    char http_bind[CLUSTER_ENDPOINT_MAX + 1]; /* "": no HTTP */
    uint32_t shards;
    char data_dir[CONFIG_PATH_MAX + 1]; /* "": nothing is kept */
    enum config_keep durability;
    uint64_t snapshot_every; /* bytes */
    uint64_t seed;
    bool auto_slots;
    uint64_t score_memory, max_memory; /* bytes */
    enum config_over over_memory;
    uint32_t score_sample;
    double scoring_timeout, prepare_timeout; /* seconds */
    int32_t shrink_at;                       /* minutes after midnight UTC; -1: off */
    char eviction_log[CONFIG_PATH_MAX + 1];  /* "": none */
    char audit_log[CONFIG_PATH_MAX + 1];     /* "": none */
    char rollback_dir[CONFIG_PATH_MAX + 1];  /* "": data_dir; or `memory`, or `none` */
    enum log_level log_level;
    char strategies[CONFIG_PATH_MAX + 1];

    struct layout_slot defaults; /* of slots that say no more; id 0, no name; width 0: as dim */
    size_t n_slots;
    struct layout_slot *slots; /* ascending by id, ready for layout_add_slot() */

    struct config_origin origins[CONFIG_SETTINGS]; /* in the table's order */
    struct config_origin default_origins[CONFIG_SLOT_SETTINGS];
    size_t *slot_lines; /* [n_slots] */
};

/* The documented defaults, with the strategies folder looked up: $DIMFIT_STRATEGIES, else
 * plugin/.libs beside an executable that runs in its build tree, else where the package was
 * installed. */
void config_init(struct config *config);
void config_fini(struct config *config);
const char *config_role_name(enum config_role role);

/* Read the file into an initialised config: CONFIG with "FILE:LINE: key: why" when a key is unknown
 * or given twice, a value is of the wrong type or out of range, an id or name is there twice, or
 * the file is no YAML mapping; IO when it can't be read. After an error only config_fini() may
 * follow. */
dimfit_err config_read_file(struct config *config, const char *path,
                            struct err_detail *detail) MUST_CHECK;

/* Everything a daemon does with its arguments: parse, read the file if one is named, apply the
 * options over it. Initialises *config; on an error there is nothing to give back. INVALID is a
 * usage error (exit 2). Prints and exits by itself for --help and --version, and with 2 for an
 * unknown option. */
dimfit_err config_parse_args(int argc, char **argv, struct config *config,
                             struct err_detail *detail) MUST_CHECK;

/* The configuration in force as YAML that config_read_file() takes, each value with its origin. */
void config_print(const struct config *config, FILE *out);

#endif
