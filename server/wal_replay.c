#include "server/wal_internal.h"

#include "proto/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A segment in memory. */
struct image {
    char name[WAL_NAME_MAX + 1];
    uint8_t *bytes;
    size_t len;
    uint64_t first, salt;
    bool whole; /* it has its head */
};

/* ---- what is there --------------------------------------------------------------------------- */

struct listing {
    struct wal *wal;
    dimfit_err err;
};

static bool parse_number(const char *text, uint64_t *out) {
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    *out = strtoull(text, &end, 10);
    return *end == 0;
}

static void see_name(void *self, const char *name) {
    struct listing *const listing = self;
    struct wal *const wal = listing->wal;
    uint64_t number;
    if (strncmp(name, "wal-", 4) == 0 && parse_number(name + 4, &number)) {
        if (listing->err == DIMFIT_OK)
            listing->err = wal_add_segment(wal,
                                           &(struct wal_segment){.first = number, .synced = true});
    } else if (strncmp(name, "spare-", 6) == 0 && parse_number(name + 6, &number)) {
        if (wal->n_spares < WAL_SPARES_MAX)
            wal->spares[wal->n_spares++] = number;
        if (number >= wal->next_spare)
            wal->next_spare = number + 1;
    }
}

static int by_first(const void *a, const void *b) {
    const uint64_t x = ((const struct wal_segment *)a)->first;
    const uint64_t y = ((const struct wal_segment *)b)->first;
    return x < y ? -1 : x > y;
}

static dimfit_err list_segments(struct wal *wal, struct err_detail *detail) {
    struct listing listing = {.wal = wal};
    dimfit_err err = disk_list(wal->disk, see_name, &listing, detail);
    if (err == DIMFIT_OK && listing.err != DIMFIT_OK)
        err = err_set(detail, listing.err, "no memory for the segments of the log");
    if (err == DIMFIT_OK && wal->n_segments > 0)
        qsort(wal->segments, wal->n_segments, sizeof *wal->segments, by_first);
    return err;
}

/* ---- reading --------------------------------------------------------------------------------- */

static dimfit_err image_read(struct wal *wal, const struct wal_segment *segment, struct image *out,
                             struct err_detail *detail) {
    struct disk_file *file = NULL;
    uint64_t size = 0;
    wal_segment_name(segment->first, out->name);
    dimfit_err err = disk_open(wal->disk, out->name, DISK_READ, &file, detail);
    if (err != DIMFIT_OK)
        return err == DIMFIT_ERR_NOT_FOUND ? err_set(detail, DIMFIT_ERR_IO, "%s is gone", out->name)
                                           : err;
    err = disk_file_size(file, &size, detail);
    uint8_t *const bytes = err == DIMFIT_OK ? realloc(out->bytes, size + 1) : NULL;
    if (err == DIMFIT_OK && bytes == NULL)
        err = err_set(detail, DIMFIT_ERR_NOMEM, "no memory to read %s", out->name);
    if (bytes != NULL)
        out->bytes = bytes;
    if (err == DIMFIT_OK)
        err = disk_file_read(file, out->bytes, size, 0, &out->len, detail);
    disk_file_close(&file);
    if (err != DIMFIT_OK)
        return err;
    out->whole = wal_head_get(out->bytes, out->len, &out->first, &out->salt) &&
                 out->first == segment->first;
    return DIMFIT_OK;
}

/* A whole record at the offset, of whatever position. */
static bool record_get(const struct image *image, size_t at, struct wal_record *out) {
    if (!image->whole || image->len < at || image->len - at < WAL_RECORD)
        return false;
    const uint8_t *const bytes = image->bytes + at;
    struct wal_record record;
    if (!wal_record_get(bytes, image->salt, &record) ||
        image->len - at < wal_record_size(record.header_len, record.body_len))
        return false;
    const uint8_t *const header = bytes + WAL_RECORD;
    *out = record;
    return record.checksum == wal_checksum(image->salt, bytes, header, record.header_len,
                                           header + record.header_len, record.body_len);
}

/* Whether a record from the offset on says that the one at `position` had been promised. */
static bool promised_behind(const struct image *image, size_t at, uint64_t position) {
    for (; image->len >= WAL_RECORD && at <= image->len - WAL_RECORD; at += 8) {
        const uint64_t it = load_u64(image->bytes + at + 8);
        struct wal_record record;
        if (it > position && record_get(image, at, &record) && record.kept >= position)
            return true;
    }
    return false;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* No record stands at the offset. It is the log's end if nobody was promised what should be there:
 * if so, the segments behind it have nothing that counts. */
static dimfit_err check_end(struct wal *wal, struct image *image, size_t segment, size_t at,
                            const struct wal_end *end, struct err_detail *detail) {
    const uint64_t position = end->position + 1;
    bool damaged = image->whole && promised_behind(image, at, position);
    struct image later = {.bytes = NULL};
    for (size_t i = segment + 1; !damaged && i < wal->n_segments; i++) {
        const dimfit_err err = image_read(wal, &wal->segments[i], &later, detail);
        if (err != DIMFIT_OK) {
            free(later.bytes);
            return err;
        }
        /* It was begun with all before it written, if not synced. */
        damaged = later.whole &&
                  (!wal->options.synced || promised_behind(&later, WAL_HEAD, position));
    }
    free(later.bytes);
    if (!damaged)
        return DIMFIT_OK;
    return err_set(
        detail, DIMFIT_ERR_IO,
        "%s is damaged at byte %zu: record %" PRIu64 " can't be read, and later ones "
        "are there; bring this shard's folder back from a copy, or start the cluster anew, with "
        "another --data-dir",
        image->name, at, position);
}

/* A record of the position was begun there. */
static bool is_torn(const struct image *image, size_t at, uint64_t position) {
    return image->len >= at + 16 && load_u64(image->bytes + at + 8) == position;
}

/* ---- replay ---------------------------------------------------------------------------------- */

struct replay {
    struct wal *wal;
    uint64_t from;
    wal_take *take;
    void *self;
    struct wal_end end;
};

/* The records of a segment up to the position the next one begins with. */
static dimfit_err replay_segment(struct replay *replay, size_t segment, struct image *image,
                                 bool *ended, struct err_detail *detail) {
    struct wal *const wal = replay->wal;
    dimfit_err err = image_read(wal, &wal->segments[segment], image, detail);
    if (err != DIMFIT_OK)
        return err;
    const bool last = segment + 1 == wal->n_segments;
    size_t at = WAL_HEAD;
    struct wal_record record;
    while (last || replay->end.position + 1 < wal->segments[segment + 1].first) {
        if (!record_get(image, at, &record) || record.position != replay->end.position + 1) {
            *ended = true;
            replay->end.torn = is_torn(image, at, replay->end.position + 1);
            break;
        }
        const uint8_t *const header = image->bytes + at + WAL_RECORD;
        if (record.position > replay->from) {
            err = replay->take(replay->self, record.position, header, record.header_len,
                               header + record.header_len, record.body_len, detail);
            if (err != DIMFIT_OK)
                return err;
        }
        const size_t size = wal_record_size(record.header_len, record.body_len);
        replay->end.position++;
        wal->bytes += size;
        at += size;
    }
    memcpy(replay->end.file, image->name, sizeof image->name);
    replay->end.offset = at;
    return *ended ? check_end(wal, image, segment, at, &replay->end, detail) : DIMFIT_OK;
}

static dimfit_err replay_segments(struct replay *replay, struct err_detail *detail) {
    struct wal *const wal = replay->wal;
    if (wal->n_segments == 0 && replay->from == 0)
        return DIMFIT_OK;
    size_t i = 0;
    while (i + 1 < wal->n_segments && wal->segments[i + 1].first <= replay->from + 1)
        i++;
    if (wal->n_segments == 0 || wal->segments[i].first > replay->from + 1)
        return err_set(detail, DIMFIT_ERR_IO,
                       "the log lacks record %" PRIu64 ": its first segment is %s%" PRIu64
                       "; bring this shard's folder back from a copy, or start the cluster anew, "
                       "with another --data-dir",
                       replay->from + 1, wal->n_segments == 0 ? "not there, not even wal-" : "wal-",
                       wal->n_segments == 0 ? replay->from + 1 : wal->segments[i].first);
    replay->end.position = wal->segments[i].first - 1;
    struct image image = {.bytes = NULL};
    bool ended = false;
    dimfit_err err = DIMFIT_OK;
    for (; err == DIMFIT_OK && !ended && i < wal->n_segments; i++)
        err = replay_segment(replay, i, &image, &ended, detail);
    free(image.bytes);
    /* A power cut took what the snapshot has: nobody is missing it. */
    if (err == DIMFIT_OK && replay->end.position < replay->from)
        replay->end.position = replay->from;
    return err;
}

/* Segments that begin behind the end have nothing that counts; so has one that begins there. */
static dimfit_err drop_behind(struct wal *wal, struct err_detail *detail) {
    while (wal->n_segments > 0 && wal->segments[wal->n_segments - 1].first > wal->position) {
        char name[WAL_NAME_MAX + 1];
        wal_segment_name(wal->segments[wal->n_segments - 1].first, name);
        if (!wal_retire(wal, name))
            return err_set(detail, DIMFIT_ERR_IO, "%s can't be renamed or removed", name);
        wal->n_segments--;
    }
    return DIMFIT_OK;
}

/* What was replayed is promised from now on. */
static dimfit_err sync_all(struct wal *wal, struct err_detail *detail) {
    dimfit_err err = disk_sync(wal->disk, detail);
    for (size_t i = 0; err == DIMFIT_OK && i < wal->n_segments; i++) {
        char name[WAL_NAME_MAX + 1];
        struct disk_file *file = NULL;
        wal_segment_name(wal->segments[i].first, name);
        err = disk_open(wal->disk, name, DISK_WRITE, &file, detail);
        if (err == DIMFIT_OK)
            err = disk_file_sync(file, detail);
        disk_file_close(&file);
    }
    return err;
}

dimfit_err wal_replay(struct wal *wal, uint64_t from, wal_take *take, void *self,
                      struct wal_end *end, struct err_detail *detail) {
    base_assert(!wal->replayed);
    struct replay replay = {.wal = wal, .from = from, .take = take, .self = self};
    dimfit_err err = list_segments(wal, detail);
    if (err == DIMFIT_OK)
        err = replay_segments(&replay, detail);
    wal->position = wal->synced = replay.end.position;
    if (err == DIMFIT_OK)
        err = drop_behind(wal, detail);
    if (err == DIMFIT_OK && wal->options.synced)
        err = sync_all(wal, detail);
    if (err != DIMFIT_OK)
        return err;
    wal->replayed = true;
    *end = replay.end;
    return DIMFIT_OK;
}
