#include "server/snapshot.h"

#include "server/snapshot_format.h"

#include <stdlib.h>
#include <time.h>

enum { READ_MOST = SNAPSHOT_BLOCK_HEAD + SNAPSHOT_BLOCK + SNAPSHOT_SUM };

struct reading {
    struct disk_file *file;
    const char *name;
    uint64_t at, blocks, plain, chain, rows;
    bool ended;      /* the trailer was read, and is right */
    uint8_t *stored; /* [READ_MOST] */
    uint8_t *block;  /* [SNAPSHOT_BLOCK] unpacked */
    struct snapshot_info info;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void reading_fini(struct reading *r) {
    disk_file_close(&r->file);
    free(r->stored);
    free(r->block);
}

/* Every refusal names the place. */
static dimfit_err refuse(const struct reading *r, const char *what, struct err_detail *detail) {
    return err_set(detail, DIMFIT_ERR_IO, "%s is damaged at byte %llu: %s", r->name,
                   (unsigned long long)r->at, what);
}

/* Up to len bytes from where the reading is; it stays there. */
static dimfit_err peek(struct reading *r, size_t len, size_t *got, struct err_detail *detail) {
    return disk_file_read(r->file, r->stored, len, r->at, got, detail);
}

static dimfit_err read_header(struct reading *r, struct err_detail *detail) {
    size_t got = 0;
    const dimfit_err err = peek(r, SNAPSHOT_HEADER, &got, detail);
    if (err != DIMFIT_OK)
        return err;
    const uint8_t *const b = r->stored;
    if (got < SNAPSHOT_HEADER || load_u64(b) != SNAPSHOT_MAGIC)
        return refuse(r, "this is no snapshot", detail);
    r->chain = load_u64(b + 48);
    if (snapshot_sum(b, SNAPSHOT_HEADER - SNAPSHOT_SUM, 0) != r->chain)
        return refuse(r, "the header's checksum is another", detail);
    if (load_u32(b + 8) != SNAPSHOT_VERSION)
        return err_set(detail, DIMFIT_ERR_VERSION, "%s is of version %u; this program reads %d",
                       r->name, load_u32(b + 8), SNAPSHOT_VERSION);
    r->info = (struct snapshot_info){
        .shard = load_u32(b + 12),
        .shards = load_u32(b + 16),
        .cluster = load_u64(b + 24),
        .epoch = load_u64(b + 32),
        .position = load_u64(b + 40),
    };
    r->at = SNAPSHOT_HEADER;
    return DIMFIT_OK;
}

/* NOT_FOUND without a detail. */
static dimfit_err reading_init(struct reading *r, struct disk *disk, const char *name,
                               struct err_detail *detail) {
    *r = (struct reading){.name = name};
    dimfit_err err = disk_open(disk, name, DISK_READ, &r->file, detail);
    if (err != DIMFIT_OK)
        return err;
    r->stored = malloc(READ_MOST);
    r->block = malloc(SNAPSHOT_BLOCK);
    err = r->stored != NULL && r->block != NULL
              ? read_header(r, detail)
              : err_set(detail, DIMFIT_ERR_NOMEM, "no memory to read %s", name);
    if (err != DIMFIT_OK)
        reading_fini(r);
    return err;
}

static dimfit_err take_trailer(struct reading *r, size_t got, struct err_detail *detail) {
    const uint8_t *const b = r->stored;
    if (got != SNAPSHOT_TRAILER)
        return refuse(r, "the file should end here", detail);
    if (snapshot_sum(b, SNAPSHOT_TRAILER - SNAPSHOT_SUM, 0) != load_u64(b + 40))
        return refuse(r, "the checksum of the end is another", detail);
    if (load_u64(b + 8) != r->blocks || load_u64(b + 16) != r->plain ||
        load_u64(b + 32) != r->chain)
        return refuse(r, "blocks before this one are missing or another file's", detail);
    r->rows = load_u64(b + 24);
    r->at += SNAPSHOT_TRAILER;
    r->ended = true;
    return DIMFIT_OK;
}

/* The next block's plain bytes; none: that was the end, and all was right. */
static dimfit_err next_block(struct reading *r, const uint8_t **bytes, size_t *len,
                             struct err_detail *detail) {
    size_t got = 0;
    dimfit_err err = peek(r, READ_MOST, &got, detail);
    if (err != DIMFIT_OK)
        return err;
    const uint8_t *const b = r->stored;
    const uint32_t plain = got >= SNAPSHOT_BLOCK_HEAD ? load_u32(b) : UINT32_MAX;
    const uint32_t stored = got >= SNAPSHOT_BLOCK_HEAD ? load_u32(b + 4) : 0;
    *len = 0;
    if (plain == 0 && stored == 0)
        return take_trailer(r, got, detail);
    if (plain > SNAPSHOT_BLOCK || stored == 0 || stored > plain ||
        got < SNAPSHOT_BLOCK_HEAD + stored + SNAPSHOT_SUM)
        return refuse(r, "this is no block, or the file was cut", detail);
    const size_t whole = SNAPSHOT_BLOCK_HEAD + stored;
    const uint64_t sum = load_u64(b + whole);
    if (snapshot_sum(b, whole, r->blocks + 1) != sum)
        return refuse(r, "the block's checksum is another", detail);
    *bytes = b + SNAPSHOT_BLOCK_HEAD;
    if (stored < plain) {
        err = unpack_check(stored, plain, SNAPSHOT_BLOCK, detail);
        if (err == DIMFIT_OK)
            err = unpack(*bytes, stored, r->block, plain, detail);
        if (err != DIMFIT_OK)
            return refuse(r, "the block does not unpack", detail);
        *bytes = r->block;
    }
    r->blocks++;
    r->plain += plain;
    r->chain = snapshot_chain(r->chain, sum);
    r->at += whole + SNAPSHOT_SUM;
    *len = plain;
    return DIMFIT_OK;
}

static dimfit_err refill(struct archive_reader *a) {
    struct reading *const r = a->self;
    size_t len = 0;
    const dimfit_err err = r->ended ? DIMFIT_OK : next_block(r, &a->at, &len, &a->detail);
    if (err != DIMFIT_OK)
        return err;
    if (len == 0)
        return refuse(r, "the state goes on after the end of the file", &a->detail);
    a->end = a->at + len;
    return DIMFIT_OK;
}

/* The shard is whole; so is the file, if it ends here. */
static dimfit_err check_end(struct reading *r, const struct archive_reader *a,
                            struct err_detail *detail) {
    const uint8_t *bytes;
    size_t len = 0;
    if (a->at != a->end)
        return refuse(r, "the block goes on after the end of the state", detail);
    const dimfit_err err = next_block(r, &bytes, &len, detail);
    if (err != DIMFIT_OK)
        return err;
    return r->ended ? DIMFIT_OK : refuse(r, "the file goes on after the end of the state", detail);
}

dimfit_err snapshot_restore(struct disk *disk, const char *name,
                            const struct shard_options *options, const struct shard_io *io,
                            struct snapshot_info *info, struct shard **out,
                            struct err_detail *detail) {
    struct reading r;
    dimfit_err err = reading_init(&r, disk, name, detail);
    if (err != DIMFIT_OK)
        return err;
    struct archive_reader a = {.self = &r, .refill = refill};
    struct err_detail why = {{0}};
    struct shard *shard = NULL;
    err = shard_restore(&a, options, io, &shard, &why);
    if (err == DIMFIT_OK)
        err = check_end(&r, &a, &why);
    if (err == DIMFIT_OK &&
        (shard_epoch(shard) != r.info.epoch || shard_seed(shard) != r.info.cluster))
        err = refuse(&r, "header and state are of different layouts", &why);
    if (err != DIMFIT_OK) {
        shard_destroy(&shard);
        err_set(detail, err, "%.150s: %.200s", name, why.text);
    } else {
        *info = r.info;
        *out = shard;
    }
    reading_fini(&r);
    return err;
}

dimfit_err snapshot_verify(struct disk *disk, const char *name, struct snapshot_info *info,
                           struct snapshot_result *result, struct err_detail *detail) {
    const double began = now();
    struct reading r;
    dimfit_err err = reading_init(&r, disk, name, detail);
    if (err != DIMFIT_OK)
        return err;
    const uint8_t *bytes;
    size_t len = 0;
    while (err == DIMFIT_OK && !r.ended)
        err = next_block(&r, &bytes, &len, detail);
    if (err == DIMFIT_OK) {
        *info = r.info;
        *result = (struct snapshot_result){
            .bytes = r.at, .checksum = r.chain, .rows = r.rows, .seconds = now() - began};
    }
    reading_fini(&r);
    return err;
}
