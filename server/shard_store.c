#include "server/shard_store.h"

#include "proto/buf.h"
#include "server/log.h"

#define XXH_INLINE_ALL
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define IDENTITY_MAGIC 0x3174496d69646400ull /* "\0ddimIt1" */

enum {
    STORE_MAGIC = 0x53544f52,
    IDENTITY_MAX = 256,
    SPARES = 64,
    SNAPSHOTS_MAX = 8, /* looked at: two, and what ends of processes have left */
    RETRY_PART = 8,    /* of snapshot_bytes: log until one that failed is tried again */
};

#define SEGMENT_BYTES (UINT64_C(16) << 20)

static const char identity_name[] = "identity", identity_next[] = "identity-next";

struct shard_store {
    uint32_t magic;
    struct disk *disk;
    struct wal *wal;
    struct shard_store_options options;
    struct shard_identity identity;
    bool begun, failing;
    struct snapshot *snapshot; /* under way; NULL: none is */
    uint64_t position;         /* its own */
    uint64_t newer, older;     /* positions of those kept, 0: none */
    uint64_t next;             /* wal_bytes() at which one is due */
};

/* ---- identity ---------------------------------------------------------------------------------
 */

static void identity_encode(const struct shard_identity *identity, struct buf *out) {
    buf_put_u64(out, IDENTITY_MAGIC);
    buf_put_u64(out, identity->cluster);
    buf_put_u64(out, identity->shard);
    buf_put_u32(out, identity->number);
    buf_put_u32(out, identity->shards);
    buf_put_u64(out, out->failed ? 0 : XXH3_64bits(out->data, out->len));
}

static dimfit_err identity_decode(const uint8_t *bytes, size_t len, struct shard_identity *out,
                                  struct err_detail *detail) {
    struct reader r = reader_of(bytes, len);
    if (reader_u64(&r) != IDENTITY_MAGIC)
        return err_set(detail, DIMFIT_ERR_VERSION, "the file identity is not one of this version");
    struct shard_identity identity = {.cluster = reader_u64(&r)};
    identity.shard = reader_u64(&r);
    identity.number = reader_u32(&r);
    identity.shards = reader_u32(&r);
    const uint64_t sum = reader_u64(&r);
    if (!reader_done(&r) || sum != XXH3_64bits(bytes, len - sizeof sum))
        return err_set(detail, DIMFIT_ERR_IO, "the file identity is damaged (checksum)");
    *out = identity;
    return DIMFIT_OK;
}

static dimfit_err read_identity(struct shard_store *store, struct err_detail *detail) {
    struct disk_file *file = NULL;
    uint8_t bytes[IDENTITY_MAX];
    size_t len = 0;
    dimfit_err err = disk_open(store->disk, identity_name, DISK_READ, &file, detail);
    if (err != DIMFIT_OK)
        return err;
    err = disk_file_read(file, bytes, sizeof bytes, 0, &len, detail);
    disk_file_close(&file);
    if (err == DIMFIT_OK)
        err = identity_decode(bytes, len, &store->identity, detail);
    store->begun = err == DIMFIT_OK;
    return err;
}

/* Under another name until there is a log: a folder that has this one alone is none yet. */
static dimfit_err write_identity(struct shard_store *store, const struct shard_identity *identity,
                                 struct err_detail *detail) {
    struct disk_file *file = NULL;
    struct buf bytes;
    buf_init(&bytes);
    identity_encode(identity, &bytes);
    dimfit_err err = bytes.failed
                         ? err_set(detail, DIMFIT_ERR_NOMEM, "no memory for an identity")
                         : disk_open(store->disk, identity_next, DISK_WRITE, &file, detail);
    const struct iovec part = {bytes.data, bytes.len};
    if (err == DIMFIT_OK)
        err = disk_file_write(file, &part, 1, 0, detail);
    if (err == DIMFIT_OK)
        err = disk_file_truncate(file, bytes.len, detail);
    if (err == DIMFIT_OK)
        err = disk_file_sync(file, detail);
    disk_file_close(&file);
    buf_fini(&bytes);
    return err == DIMFIT_OK ? disk_sync(store->disk, detail) : err;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct contents {
    bool log, next;
};

static void see_name(void *self, const char *name) {
    struct contents *const contents = self;
    contents->log |= strncmp(name, "wal-", 4) == 0 || strncmp(name, "snapshot-", 9) == 0;
    contents->next |= strcmp(name, identity_next) == 0;
}

/* A folder that is new, or was left in the middle of becoming one. */
static dimfit_err check_new(struct shard_store *store, struct err_detail *detail) {
    struct contents contents = {.log = false};
    const dimfit_err err = disk_list(store->disk, see_name, &contents, detail);
    if (err != DIMFIT_OK || !contents.log || contents.next)
        return err;
    return err_set(detail, DIMFIT_ERR_DATA,
                   "there is a log and no file `identity`, which says whose it is; move the folder "
                   "away if its rows are not needed");
}

dimfit_err shard_store_open(struct disk **disk, const struct shard_store_options *options,
                            struct shard_store **out, struct err_detail *detail) {
    struct shard_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a shard's folder");
    store->magic = STORE_MAGIC;
    store->disk = *disk;
    store->options = *options;
    store->next = options->snapshot_bytes;
    *disk = NULL;
    dimfit_err err = read_identity(store, detail);
    if (err == DIMFIT_ERR_NOT_FOUND)
        err = check_new(store, detail);
    const struct wal_options wal = {
        .segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : SEGMENT_BYTES,
        .random = options->random,
        .spares = SPARES,
        .synced = options->synced,
    };
    if (err == DIMFIT_OK)
        err = wal_open(store->disk, &wal, &store->wal, detail);
    if (err != DIMFIT_OK) {
        shard_store_close(&store);
        return err;
    }
    *out = store;
    return DIMFIT_OK;
}

void shard_store_close(struct shard_store **store) {
    struct shard_store *const s = *store;
    if (s == NULL)
        return;
    CHECK_OBJ_NOTNULL(s, STORE_MAGIC);
    snapshot_destroy(&s->snapshot);
    wal_close(&s->wal);
    disk_close(&s->disk);
    s->magic = 0;
    free(s);
    *store = NULL;
}

const struct shard_identity *shard_store_identity(const struct shard_store *store) {
    return store->begun ? &store->identity : NULL;
}

/* ---- the log --------------------------------------------------------------------------------- */

dimfit_err shard_store_log(struct shard_store *store, const struct wire_header *header,
                           const void *body, size_t len, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(store, STORE_MAGIC);
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t n = wire_encode(header, bytes);
    struct err_detail why = {{0}};
    const dimfit_err err = wal_append(store->wal, bytes, n, body, len, &why);
    store->failing = err != DIMFIT_OK;
    if (err == DIMFIT_OK)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_LOG, "nothing was changed, and it is tried again: %.250s",
                   why.text);
}

void shard_store_unlog(struct shard_store *store) {
    wal_take_back(store->wal);
}

uint64_t shard_store_position(const struct shard_store *store) {
    return wal_position(store->wal);
}

uint64_t shard_store_kept(const struct shard_store *store) {
    return store->options.synced ? wal_synced(store->wal) : wal_position(store->wal);
}

bool shard_store_failing(const struct shard_store *store) {
    return store->failing;
}

struct wal *shard_store_wal(struct shard_store *store) {
    return store->wal;
}

/* ---- a new shard ----------------------------------------------------------------------------- */

static dimfit_err take_none(void *self, uint64_t position, const uint8_t *header, size_t header_len,
                            const uint8_t *body, size_t body_len, struct err_detail *detail) {
    return DIMFIT_ERR_EXISTS;
}

static void remove_log(void *self, const char *name) {
    char(*const names)[64] = self;
    if (strncmp(name, "wal-", 4) == 0 && strlen(name) < sizeof *names)
        memcpy(*names, name, strlen(name) + 1);
}

/* What a beginning that was cut short has left. */
static dimfit_err clear(struct shard_store *store, struct err_detail *detail) {
    for (;;) {
        char name[64] = "";
        dimfit_err err = disk_list(store->disk, remove_log, &name, detail);
        if (err != DIMFIT_OK || name[0] == 0)
            return err;
        err = disk_remove(store->disk, name, detail);
        if (err != DIMFIT_OK)
            return err;
    }
}

static dimfit_err sync_log(struct shard_store *store, struct err_detail *detail) {
    struct wal_sync job;
    dimfit_err err = DIMFIT_OK;
    while (err == DIMFIT_OK && wal_sync_begin(store->wal, &job)) {
        err = wal_sync_run(&job, detail);
        if (err == DIMFIT_OK)
            wal_sync_end(store->wal, &job);
    }
    return err;
}

dimfit_err shard_store_begin(struct shard_store *store, const struct shard_identity *identity,
                             struct shard *shard, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(store, STORE_MAGIC);
    base_assert(!store->begun);
    struct wal_end end;
    dimfit_err err = write_identity(store, identity, detail);
    if (err == DIMFIT_OK)
        err = clear(store, detail);
    if (err == DIMFIT_OK)
        err = wal_replay(store->wal, 0, take_none, NULL, &end, detail);
    if (err == DIMFIT_OK)
        err = shard_log_begin(shard, detail);
    if (err == DIMFIT_OK)
        err = sync_log(store, detail);
    if (err == DIMFIT_OK)
        err = disk_rename(store->disk, identity_next, identity_name, detail);
    if (err == DIMFIT_OK)
        err = disk_sync(store->disk, detail);
    if (err != DIMFIT_OK)
        return err;
    store->identity = *identity;
    store->begun = true;
    return DIMFIT_OK;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static const char snapshot_prefix[] = "snapshot-";

static void snapshot_name(uint64_t position, char out[64]) {
    snprintf(out, 64, "%s%" PRIu64, snapshot_prefix, position);
}

/* Positions of the newest ones that have their name, descending. */
struct snapshots {
    uint64_t at[SNAPSHOTS_MAX];
    size_t n;
};

static void see_snapshot(void *self, const char *name) {
    struct snapshots *const list = self;
    char *end;
    const size_t prefix = sizeof snapshot_prefix - 1;
    if (strncmp(name, snapshot_prefix, prefix) != 0 || name[prefix] < '1' || name[prefix] > '9')
        return;
    const uint64_t position = strtoull(name + prefix, &end, 10);
    size_t i = list->n;
    while (i > 0 && list->at[i - 1] < position)
        i--;
    if (*end != 0 || i == SNAPSHOTS_MAX)
        return;
    const size_t kept = list->n < SNAPSHOTS_MAX ? list->n : SNAPSHOTS_MAX - 1;
    memmove(list->at + i + 1, list->at + i, (kept - i) * sizeof *list->at);
    list->at[i] = position;
    list->n = kept + 1;
}

/* A snapshot that is not kept any more, or was left half written. */
struct garbage {
    const struct shard_store *store;
    char name[64];
};

static void see_garbage(void *self, const char *name) {
    struct garbage *const garbage = self;
    char newer[64], older[64];
    snapshot_name(garbage->store->newer, newer);
    snapshot_name(garbage->store->older, older);
    if (strncmp(name, snapshot_prefix, sizeof snapshot_prefix - 1) == 0 &&
        strlen(name) < sizeof garbage->name && strcmp(name, newer) != 0 && strcmp(name, older) != 0)
        memcpy(garbage->name, name, strlen(name) + 1);
}

/* What can't be removed stays until the next time. */
static void drop_garbage(struct shard_store *store) {
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++) {
        struct garbage garbage = {.store = store};
        if (disk_list(store->disk, see_garbage, &garbage, NULL) != DIMFIT_OK ||
            garbage.name[0] == 0 || disk_remove(store->disk, garbage.name, NULL) != DIMFIT_OK)
            return;
    }
}

/* Options are no part of a snapshot: the log behind it says them first. */
static dimfit_err begin_snapshot(struct shard_store *store, struct shard *shard,
                                 struct err_detail *detail) {
    char name[64];
    store->position = wal_position(store->wal);
    snapshot_name(store->position, name);
    const struct snapshot_job job = {
        .shard = shard,
        .parts = SHARD_SAVE_UNDO,
        .info = {.position = store->position,
                 .shard = store->identity.number,
                 .shards = store->identity.shards},
        .disk = store->disk,
        .name = name,
    };
    const dimfit_err err = snapshot_start(&job, &store->snapshot, detail);
    return err == DIMFIT_OK ? shard_log_options(shard, detail) : err;
}

static void snapshot_made(struct shard_store *store) {
    store->older = store->newer;
    store->newer = store->position;
    drop_garbage(store);
    if (store->older != 0)
        wal_forget(store->wal, store->older);
}

dimfit_err shard_store_snapshot(struct shard_store *store, struct shard *shard,
                                struct snapshot_result *made, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(store, STORE_MAGIC);
    *made = (struct snapshot_result){.bytes = 0};
    dimfit_err err = DIMFIT_OK;
    if (store->snapshot != NULL) {
        err = snapshot_poll(store->snapshot, made, detail);
        if (err == DIMFIT_ERR_BUSY)
            return DIMFIT_OK;
        if (err == DIMFIT_OK)
            snapshot_made(store);
    } else if (store->options.snapshot_bytes == 0 || wal_bytes(store->wal) < store->next ||
               shard_save_check(shard, NULL) != DIMFIT_OK) {
        return DIMFIT_OK;
    } else {
        store->next = wal_bytes(store->wal) + store->options.snapshot_bytes;
        err = begin_snapshot(store, shard, detail);
        if (err == DIMFIT_OK)
            return err;
    }
    snapshot_destroy(&store->snapshot);
    if (err != DIMFIT_OK) {
        store->next = wal_bytes(store->wal) + store->options.snapshot_bytes / RETRY_PART;
        drop_garbage(store);
    }
    return err;
}

/* ---- the shard again ------------------------------------------------------------------------- */

struct recovery {
    struct shard_store *store;
    const struct shard_options *options;
    const struct shard_io *io;
    struct shard *shard;
};

static bool go_on(const struct recovery *recovery, enum shard_store_step step) {
    const struct shard_store_options *const options = &recovery->store->options;
    return options->go_on == NULL || options->go_on(options->self, step);
}

/* Rows move as records allow, and where a record needs them to stand still, to the end. */
static dimfit_err replay_one(struct recovery *recovery, const struct wire_header *header,
                             const uint8_t *body, size_t len, struct err_detail *detail) {
    dimfit_err err;
    while ((err = shard_replay(recovery->shard, header, body, len, detail)) == DIMFIT_ERR_BUSY) {
        if (!go_on(recovery, shard_has_work(recovery->shard) ? STORE_MOVES : STORE_WAITS))
            return err_set(detail, DIMFIT_ERR_STATE, "asked to stop");
        (void)shard_work(recovery->shard);
    }
    if (err == DIMFIT_OK && shard_has_work(recovery->shard) && go_on(recovery, STORE_MOVES))
        (void)shard_work(recovery->shard);
    return err;
}

static dimfit_err take(void *self, uint64_t position, const uint8_t *header, size_t header_len,
                       const uint8_t *body, size_t body_len, struct err_detail *detail) {
    struct recovery *const recovery = self;
    struct wire_header decoded;
    struct err_detail why = {{0}};
    if (!go_on(recovery, STORE_REPLAYS))
        return err_set(detail, DIMFIT_ERR_STATE, "asked to stop");
    dimfit_err err = wire_decode(header, header_len, &decoded, &why);
    if (err == DIMFIT_OK && recovery->shard == NULL)
        err = shard_replay_begin(&decoded, body, body_len, recovery->options, recovery->io,
                                 &recovery->shard, &why);
    else if (err == DIMFIT_OK)
        err = replay_one(recovery, &decoded, body, body_len, &why);
    if (err == DIMFIT_OK)
        return DIMFIT_OK;
    return err_set(detail, err, "record %llu of the log can't be replayed: %.250s",
                   (unsigned long long)position, why.text[0] != 0 ? why.text : err_text(err));
}

/* NULL for one that is not to be used, which is said: the one before is. */
static dimfit_err restore(struct recovery *recovery, uint64_t position, struct err_detail *detail) {
    const struct shard_identity *const who = &recovery->store->identity;
    char name[64];
    struct snapshot_info info;
    snapshot_name(position, name);
    dimfit_err err = snapshot_restore(recovery->store->disk, name, recovery->options, recovery->io,
                                      &info, &recovery->shard, detail);
    if (err == DIMFIT_OK &&
        (info.position != position || info.shard != who->number || info.shards != who->shards))
        err = err_set(detail, DIMFIT_ERR_IO,
                      "%s is of record %" PRIu64 " of shard %u of %u: it was renamed", name,
                      info.position, info.shard, info.shards);
    if (err == DIMFIT_OK)
        return err;
    shard_destroy(&recovery->shard);
    log_warn("shard", "shard %u: %s is not used: %s", who->number, name,
             detail->text[0] != 0 ? detail->text : err_text(err));
    return err;
}

/* The newest snapshot that is whole. Without one the log is all there is: it has everything until
 * the second snapshot is made. */
static dimfit_err restore_newest(struct recovery *recovery, uint64_t *from,
                                 struct err_detail *detail) {
    struct shard_store *const store = recovery->store;
    struct snapshots list = {.n = 0};
    dimfit_err err = disk_list(store->disk, see_snapshot, &list, detail);
    if (err != DIMFIT_OK)
        return err;
    *from = 0;
    for (size_t i = 0; i < list.n && recovery->shard == NULL; i++) {
        err = restore(recovery, list.at[i], detail);
        if (err == DIMFIT_ERR_NOMEM)
            return err;
        if (err != DIMFIT_OK)
            continue;
        *from = store->newer = list.at[i];
        store->older = i + 1 < list.n ? list.at[i + 1] : 0;
    }
    return DIMFIT_OK;
}

dimfit_err shard_store_recover(struct shard_store *store, const struct shard_options *options,
                               const struct shard_io *io, struct shard **out, struct wal_end *end,
                               struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(store, STORE_MAGIC);
    base_assert(store->begun);
    struct recovery recovery = {.store = store, .options = options, .io = io};
    uint64_t from = 0;
    dimfit_err err = restore_newest(&recovery, &from, detail);
    if (err == DIMFIT_OK)
        err = wal_replay(store->wal, from, take, &recovery, end, detail);
    if (err == DIMFIT_OK && recovery.shard == NULL)
        err = err_set(
            detail, DIMFIT_ERR_IO,
            "the log is gone, and this shard's rows with it; bring its folder back from a copy, or "
            "start the cluster anew, with another --data-dir");
    if (err == DIMFIT_OK)
        err = shard_replayed(recovery.shard, options, detail);
    if (err != DIMFIT_OK) {
        shard_destroy(&recovery.shard);
        return err;
    }
    *out = recovery.shard;
    return DIMFIT_OK;
}
