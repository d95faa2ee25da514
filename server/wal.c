#include "server/wal_internal.h"

#include "proto/wire.h"

#define XXH_INLINE_ALL
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { WAL_OBJECT = 0x57414c31 };

static const char being_made[] = "wal-next";

/* ---- format ---------------------------------------------------------------------------------- */

size_t wal_record_size(size_t header_len, size_t body_len) {
    return (WAL_RECORD + header_len + body_len + 7) & ~(size_t)7;
}

/* Of the other bytes before the checksum. */
static uint16_t record_check(const struct wal_record *record, uint64_t salt) {
    const uint64_t fields[] = {record->body_len | (uint64_t)record->header_len << 32,
                               record->position, record->kept};
    return (uint16_t)XXH3_64bits_withSeed(fields, sizeof fields, salt);
}

void wal_record_put(const struct wal_record *record, uint64_t salt, uint8_t *out) {
    const uint16_t check = record_check(record, salt);
    store_u32(out, record->body_len);
    memcpy(out + 4, &record->header_len, sizeof record->header_len);
    memcpy(out + 6, &check, sizeof check);
    store_u64(out + 8, record->position);
    store_u64(out + 16, record->kept);
}

bool wal_record_get(const uint8_t *bytes, uint64_t salt, struct wal_record *out) {
    struct wal_record record = {.body_len = load_u32(bytes),
                                .position = load_u64(bytes + 8),
                                .kept = load_u64(bytes + 16),
                                .checksum = load_u64(bytes + WAL_CHECKED)};
    uint16_t check;
    memcpy(&record.header_len, bytes + 4, sizeof record.header_len);
    memcpy(&check, bytes + 6, sizeof check);
    if (record.header_len > WIRE_HEADER_MAX || record.kept >= record.position ||
        check != record_check(&record, salt))
        return false;
    *out = record;
    return true;
}

uint64_t wal_checksum(uint64_t salt, const uint8_t *record, const void *header, size_t header_len,
                      const void *body, size_t body_len) {
    uint64_t sum = XXH3_64bits_withSeed(record, WAL_CHECKED, salt);
    sum = XXH3_64bits_withSeed(header, header_len, sum);
    return XXH3_64bits_withSeed(body, body_len, sum);
}

void wal_head_put(uint64_t first, uint64_t salt, uint8_t *out) {
    store_u64(out, WAL_MAGIC);
    store_u64(out + 8, first);
    store_u64(out + 16, salt);
    store_u64(out + 24, XXH3_64bits(out, WAL_CHECKED));
}

bool wal_head_get(const uint8_t *bytes, size_t len, uint64_t *first, uint64_t *salt) {
    if (len < WAL_HEAD || load_u64(bytes) != WAL_MAGIC ||
        load_u64(bytes + 24) != XXH3_64bits(bytes, WAL_CHECKED))
        return false;
    *first = load_u64(bytes + 8);
    *salt = load_u64(bytes + 16);
    return true;
}

void wal_segment_name(uint64_t first, char *out) {
    snprintf(out, WAL_NAME_MAX + 1, "wal-%" PRIu64, first);
}

/* ---- life ------------------------------------------------------------------------------------ */

dimfit_err wal_open(struct disk *disk, const struct wal_options *options, struct wal **out,
                    struct err_detail *detail) {
    base_assert(options->segment_bytes >= WAL_HEAD && options->spares <= WAL_SPARES_MAX);
    struct wal *const wal = calloc(1, sizeof *wal);
    if (wal == NULL)
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for a log");
    wal->magic = WAL_OBJECT;
    wal->disk = disk;
    wal->options = *options;
    *out = wal;
    return DIMFIT_OK;
}

void wal_close(struct wal **wal) {
    struct wal *const w = *wal;
    if (w == NULL)
        return;
    CHECK_OBJ_NOTNULL(w, WAL_OBJECT);
    for (size_t i = 0; i < w->n_segments; i++)
        disk_file_close(&w->segments[i].file);
    disk_file_close(&w->current.file);
    free(w->segments);
    w->magic = 0;
    free(w);
    *wal = NULL;
}

dimfit_err wal_add_segment(struct wal *wal, const struct wal_segment *segment) {
    if (wal->n_segments == wal->cap_segments) {
        const size_t cap = wal->cap_segments == 0 ? 16 : 2 * wal->cap_segments;
        struct wal_segment *const grown = realloc(wal->segments, cap * sizeof *grown);
        if (grown == NULL)
            return DIMFIT_ERR_NOMEM;
        wal->segments = grown;
        wal->cap_segments = cap;
    }
    wal->segments[wal->n_segments++] = *segment;
    return DIMFIT_OK;
}

uint64_t wal_position(const struct wal *wal) {
    return wal->position;
}

uint64_t wal_bytes(const struct wal *wal) {
    return wal->bytes;
}

uint64_t wal_synced(const struct wal *wal) {
    return wal->synced;
}

/* ---- spares ---------------------------------------------------------------------------------- */

static void spare_name(uint64_t number, char *out) {
    snprintf(out, WAL_NAME_MAX + 1, "spare-%" PRIu64, number);
}

bool wal_retire(struct wal *wal, const char *name) {
    char spare[WAL_NAME_MAX + 1];
    if (wal->n_spares >= wal->options.spares)
        return disk_remove(wal->disk, name, NULL) == DIMFIT_OK;
    spare_name(wal->next_spare, spare);
    if (disk_rename(wal->disk, name, spare, NULL) != DIMFIT_OK)
        return false;
    wal->spares[wal->n_spares++] = wal->next_spare++;
    return true;
}

/* A file to write over: a spare, or a new one that has room. */
static dimfit_err take_file(struct wal *wal, struct disk_file **out, struct err_detail *detail) {
    char spare[WAL_NAME_MAX + 1];
    bool taken = false;
    while (wal->n_spares > 0 && !taken) {
        spare_name(wal->spares[--wal->n_spares], spare);
        taken = disk_rename(wal->disk, spare, being_made, NULL) == DIMFIT_OK;
    }
    dimfit_err err = disk_open(wal->disk, being_made, DISK_WRITE, out, detail);
    if (err != DIMFIT_OK)
        return err;
    err = disk_file_reserve(*out, wal->options.segment_bytes, detail);
    if (err != DIMFIT_OK)
        disk_file_close(out);
    return err;
}

/* ---- appending ------------------------------------------------------------------------------- */

static uint64_t next_salt(struct wal *wal) {
    const uint64_t seeds[] = {wal->options.random, wal->salts++};
    return XXH3_64bits(seeds, sizeof seeds);
}

/* The current segment is full. Where nothing is synced, it is not needed open. */
static dimfit_err seal(struct wal *wal, struct err_detail *detail) {
    const dimfit_err err = wal_add_segment(wal, &wal->current);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for a further segment of the log");
    struct wal_segment *const sealed = &wal->segments[wal->n_segments - 1];
    sealed->synced = !wal->options.synced;
    if (sealed->synced)
        disk_file_close(&sealed->file);
    return DIMFIT_OK;
}

/* The file has its head before it has its name. */
static dimfit_err begin_segment(struct wal *wal, struct err_detail *detail) {
    struct disk_file *file = NULL;
    dimfit_err err = take_file(wal, &file, detail);
    if (err != DIMFIT_OK)
        return err;
    char name[WAL_NAME_MAX + 1];
    uint8_t head[WAL_HEAD];
    const uint64_t first = wal->position + 1, salt = next_salt(wal);
    wal_segment_name(first, name);
    wal_head_put(first, salt, head);
    const struct iovec part = {head, sizeof head};
    err = disk_file_write(file, &part, 1, 0, detail);
    if (err == DIMFIT_OK)
        err = disk_rename(wal->disk, being_made, name, detail);
    if (err == DIMFIT_OK && wal->current.file != NULL)
        err = seal(wal, detail);
    if (err != DIMFIT_OK) {
        disk_file_close(&file);
        return err;
    }
    wal->current = (struct wal_segment){.first = first, .file = file};
    wal->salt = salt;
    wal->offset = WAL_HEAD;
    wal->new_names = true;
    return DIMFIT_OK;
}

dimfit_err wal_append(struct wal *wal, const void *header, size_t header_len, const void *body,
                      size_t body_len, struct err_detail *detail) {
    CHECK_OBJ_NOTNULL(wal, WAL_OBJECT);
    base_assert(wal->replayed && header_len <= WIRE_HEADER_MAX && body_len <= WIRE_BODY_MAX);
    const size_t size = wal_record_size(header_len, body_len);
    const bool full = wal->offset > WAL_HEAD && wal->offset + size > wal->options.segment_bytes;
    if (wal->current.file == NULL || full) {
        const dimfit_err err = begin_segment(wal, detail);
        if (err != DIMFIT_OK)
            return err;
    }
    static const uint8_t zeros[8];
    uint8_t bytes[WAL_RECORD];
    const struct wal_record record = {
        .body_len = (uint32_t)body_len,
        .header_len = (uint16_t)header_len,
        .position = wal->position + 1,
        .kept = wal->options.synced ? wal->synced : wal->position,
    };
    wal_record_put(&record, wal->salt, bytes);
    store_u64(bytes + WAL_CHECKED,
              wal_checksum(wal->salt, bytes, header, header_len, body, body_len));
    const struct iovec parts[] = {
        {bytes, sizeof bytes},
        {(void *)(uintptr_t)header, header_len},
        {(void *)(uintptr_t)body, body_len},
        {(void *)(uintptr_t)zeros, size - WAL_RECORD - header_len - body_len},
    };
    const dimfit_err err = disk_file_write(wal->current.file, parts, ARRAY_LEN(parts), wal->offset,
                                           detail);
    if (err != DIMFIT_OK)
        return err;
    wal->last = wal->offset;
    wal->offset += size;
    wal->position++;
    wal->bytes += size;
    return DIMFIT_OK;
}

void wal_take_back(struct wal *wal) {
    CHECK_OBJ_NOTNULL(wal, WAL_OBJECT);
    base_assert(wal->current.file != NULL && wal->last < wal->offset);
    wal->bytes -= wal->offset - wal->last;
    wal->offset = wal->last;
    wal->position--;
}

/* ---- forgetting ------------------------------------------------------------------------------ */

void wal_forget(struct wal *wal, uint64_t position) {
    CHECK_OBJ_NOTNULL(wal, WAL_OBJECT);
    size_t gone = 0;
    while (gone < wal->n_segments) {
        struct wal_segment *const segment = &wal->segments[gone];
        const bool last = gone + 1 == wal->n_segments;
        if (last && wal->current.file == NULL)
            break; /* the next append follows on it */
        const uint64_t next = last ? wal->current.first : wal->segments[gone + 1].first;
        char name[WAL_NAME_MAX + 1];
        wal_segment_name(segment->first, name);
        if (next > position + 1 || !segment->synced || !wal_retire(wal, name))
            break;
        disk_file_close(&segment->file);
        gone++;
    }
    if (gone == 0)
        return;
    memmove(wal->segments, wal->segments + gone, (wal->n_segments - gone) * sizeof *wal->segments);
    wal->n_segments -= gone;
}

/* ---- syncing --------------------------------------------------------------------------------- */

bool wal_sync_begin(struct wal *wal, struct wal_sync *job) {
    CHECK_OBJ_NOTNULL(wal, WAL_OBJECT);
    if (wal->syncing || wal->synced == wal->position)
        return false;
    *job = (struct wal_sync){.names = wal->new_names ? wal->disk : NULL};
    for (size_t i = 0; i < wal->n_segments && job->n < WAL_SYNC_FILES; i++) {
        if (wal->segments[i].synced)
            continue;
        job->files[job->n++] = wal->segments[i].file;
        job->position = i + 1 < wal->n_segments ? wal->segments[i + 1].first - 1
                                                : wal->current.first - 1;
    }
    if (job->n < WAL_SYNC_FILES && wal->current.file != NULL) {
        job->files[job->n++] = wal->current.file;
        job->position = wal->position;
    }
    wal->new_names = false;
    wal->syncing = true;
    return true;
}

dimfit_err wal_sync_run(const struct wal_sync *job, struct err_detail *detail) {
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; err == DIMFIT_OK && i < job->n; i++)
        err = disk_file_sync(job->files[i], detail);
    if (err == DIMFIT_OK && job->names != NULL)
        err = disk_sync(job->names, detail);
    return err;
}

void wal_sync_end(struct wal *wal, const struct wal_sync *job) {
    CHECK_OBJ_NOTNULL(wal, WAL_OBJECT);
    base_assert(wal->syncing);
    wal->syncing = false;
    wal->synced = job->position;
    for (size_t i = 0; i < wal->n_segments; i++) {
        struct wal_segment *const segment = &wal->segments[i];
        const uint64_t next = i + 1 < wal->n_segments ? wal->segments[i + 1].first
                                                      : wal->current.first;
        if (next - 1 > job->position)
            break;
        segment->synced = true;
        disk_file_close(&segment->file);
    }
}
