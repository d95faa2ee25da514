#include "worker/train/dataset.h"
#include "worker/train/lines.h"
#include "worker/train/mem.h"
#include "worker/train/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    lines_reader *read;
    void (*name)(uint32_t slot, char name[SAMPLE_SLOT_NAME]);
} formats[] = {
    [DATASET_CRITEO] = {lines_criteo, lines_criteo_name},
    [DATASET_LIBFFM] = {lines_libffm, lines_libffm_name},
    [DATASET_SLOTS] = {lines_slots, lines_slots_name},
};

struct loader {
    const struct dataset_spec *spec;
    struct dataset *data;
    struct csv *csv;
    bool single; /* one feasign of each slot by the format's rules */
    struct sample sample;
    uint8_t *part; /* [row_cap] */
    size_t row_cap, occurrence_cap;
    uint64_t line; /* of the data files, all together */
};

static void grow(struct loader *l) {
    struct dataset *const d = l->data;
    if (d->rows == l->row_cap) {
        l->row_cap = l->row_cap > 0 ? 2 * l->row_cap : 1024;
        d->labels = mem_resize(d->labels, l->row_cap, sizeof *d->labels);
        l->part = mem_resize(l->part, l->row_cap, 1);
        if (!l->single)
            d->start = mem_resize(d->start, l->row_cap + 1, sizeof *d->start);
    }
    if (d->occurrences + l->sample.n > l->occurrence_cap) {
        l->occurrence_cap = 2 * (d->occurrences + l->sample.n) + 1024;
        d->keys = mem_resize(d->keys, l->occurrence_cap, sizeof *d->keys);
        if (!l->single) {
            d->slot = mem_resize(d->slot, l->occurrence_cap, sizeof *d->slot);
            d->weight = mem_resize(d->weight, l->occurrence_cap, sizeof *d->weight);
        }
    }
}

static int by_slot(const void *a, const void *b) {
    const uint32_t x = ((const struct sample_item *)a)->slot;
    const uint32_t y = ((const struct sample_item *)b)->slot;
    return (x > y) - (x < y);
}

/* Append the sample just read. Slots stand as ids until finish(). */
static dimfit_err append(struct loader *l, enum dataset_part part, struct err_detail *why) {
    struct dataset *const d = l->data;
    if (d->rows == UINT32_MAX)
        return err_set(why, DIMFIT_ERR_LIMIT, "more than 2^32 - 1 samples");
    grow(l);
    if (!l->single && l->sample.n > 1)
        qsort(l->sample.items, l->sample.n, sizeof *l->sample.items, by_slot);
    d->labels[d->rows] = l->sample.label;
    l->part[d->rows] = (uint8_t)part;
    for (size_t i = 0; i < l->sample.n; i++) {
        const struct sample_item *const item = &l->sample.items[i];
        d->keys[d->occurrences + i] = item->feasign;
        if (!l->single) {
            d->slot[d->occurrences + i] = item->slot;
            d->weight[d->occurrences + i] = item->weight;
        }
    }
    if (!l->single)
        d->start[d->rows] = d->occurrences;
    d->occurrences += l->sample.n;
    d->rows++;
    return DIMFIT_OK;
}

static enum dataset_part split_part(const struct loader *l, uint64_t line) {
    const struct dataset_spec *const spec = l->spec;
    const double *const share = spec->split;
    const double valid = spec->valid == NULL ? share[DATASET_VALID] : 0;
    const double test = spec->test == NULL ? share[DATASET_TEST] : 0;
    const uint64_t hash = XXH3_64bits_withSeed(&line, sizeof line, spec->split_seed);
    const double total = share[DATASET_TRAIN] + share[DATASET_VALID] + share[DATASET_TEST];
    const double at = (double)(hash >> 11) * 0x1p-53 * total;
    if (at < test)
        return DATASET_TEST;
    return at < test + valid ? DATASET_VALID : DATASET_TRAIN;
}

static dimfit_err read_line(struct loader *l, char *line, size_t len, struct err_detail *why) {
    if (l->spec->format == DATASET_CSV)
        return csv_line(l->csv, line, len, &l->sample, why);
    return formats[l->spec->format].read(line, len, &l->sample, why);
}

static void skip(struct loader *l, const char *text) {
    if (l->data->skipped++ == 0)
        snprintf(l->data->skipped_first, sizeof l->data->skipped_first, "%s", text);
}

static dimfit_err place(struct err_detail *detail, dimfit_err err, const char *path,
                        const struct stream *s, const struct err_detail *why) {
    return err_set(detail, err, "%s:%" PRIu64 ": %s", path, stream_line_number(s), why->text);
}

static dimfit_err read_header(struct loader *l, const char *path, struct stream *s,
                              struct err_detail *detail) {
    char *line;
    size_t len;
    struct err_detail why;
    dimfit_err err = stream_line(s, &line, &len, detail);
    if (err != DIMFIT_OK)
        return err;
    if (line == NULL)
        return err_set(detail, DIMFIT_ERR_DATA, "%s:1: the file is empty, a header line is needed",
                       path);
    err = csv_header(l->csv, line, len, &why);
    return err == DIMFIT_OK ? err : place(detail, err, path, s, &why);
}

/* Read one file; whole is the part all its lines belong to, DATASET_PARTS: as the split says. */
static dimfit_err read_file(struct loader *l, const char *path, enum dataset_part whole,
                            struct err_detail *detail) {
    struct stream *s = NULL;
    struct err_detail why;
    dimfit_err err = stream_open(path, &s, detail);
    if (err == DIMFIT_OK && l->spec->format == DATASET_CSV)
        err = read_header(l, path, s, detail);
    while (err == DIMFIT_OK) {
        char *line;
        size_t len;
        err = stream_line(s, &line, &len, detail);
        if (err != DIMFIT_OK || line == NULL)
            break;
        const enum dataset_part part = whole == DATASET_PARTS ? split_part(l, l->line++) : whole;
        if (len == 0)
            continue;
        err = read_line(l, line, len, &why);
        if (err == DIMFIT_OK)
            err = append(l, part, &why);
        if (err != DIMFIT_OK)
            place(detail, err, path, s, &why);
        if (err == DIMFIT_ERR_DATA && l->spec->skip_bad) {
            skip(l, detail->text);
            err = DIMFIT_OK;
        }
    }
    stream_close(&s);
    return err;
}

static int by_id(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static size_t slot_index(const uint32_t *ids, size_t n, uint32_t id) {
    const uint32_t *const at = bsearch(&id, ids, n, sizeof *ids, by_id);
    base_assert(at != NULL);
    return (size_t)(at - ids);
}

/* The distinct slot ids, ascending. Compacting a growing list keeps it within twice their number.
 */
static uint32_t *distinct_slots(const struct dataset *d, size_t *n_out) {
    enum { STEP = 1 << 16 };
    uint32_t *ids = mem_alloc(STEP, sizeof *ids);
    size_t n = 0, cap = STEP;
    for (size_t o = 0; o <= d->occurrences; o++) {
        if (n == cap || o == d->occurrences) {
            size_t kept = 0;
            qsort(ids, n, sizeof *ids, by_id);
            for (size_t i = 0; i < n; i++) {
                if (kept == 0 || ids[i] != ids[kept - 1])
                    ids[kept++] = ids[i];
            }
            n = kept;
            if (n > cap / 2)
                ids = mem_resize(ids, cap *= 2, sizeof *ids);
        }
        if (o < d->occurrences)
            ids[n++] = d->slot[o];
    }
    *n_out = n;
    return ids;
}

/* Drop what single-valued data does not need. */
static void simplify(struct dataset *d) {
    bool unweighted = true, single = d->occurrences == d->rows * d->n_slots;
    for (size_t o = 0; o < d->occurrences; o++) {
        unweighted &= d->weight[o] == 1;
        single &= d->slot[o] == o % d->n_slots;
    }
    for (size_t r = 0; r < d->rows; r++)
        single &= d->start[r] == r * d->n_slots;
    if (unweighted) {
        free(d->weight);
        d->weight = NULL;
    }
    if (single && unweighted) {
        free(d->slot);
        free(d->start);
        d->slot = NULL;
        d->start = NULL;
    }
}

/* Name the slots, and turn ids into indices. */
static void finish_slots(struct loader *l) {
    struct dataset *const d = l->data;
    if (l->spec->format == DATASET_CSV) {
        d->n_slots = csv_columns(l->csv);
        d->slots = mem_alloc(d->n_slots, sizeof *d->slots);
        for (size_t i = 0; i < d->n_slots; i++) {
            d->slots[i].id = (uint32_t)i + 1;
            strcpy(d->slots[i].name, csv_column_name(l->csv, i));
        }
        return;
    }
    d->start[d->rows] = d->occurrences;
    uint32_t *const ids = distinct_slots(d, &d->n_slots);
    d->slots = mem_alloc(d->n_slots, sizeof *d->slots);
    for (size_t i = 0; i < d->n_slots; i++) {
        d->slots[i].id = ids[i];
        formats[l->spec->format].name(ids[i], d->slots[i].name);
    }
    for (size_t o = 0; o < d->occurrences; o++)
        d->slot[o] = (uint32_t)slot_index(ids, d->n_slots, d->slot[o]);
    free(ids);
    simplify(d);
}

static void finish_numbers(struct loader *l) {
    struct dataset *const d = l->data;
    uint8_t *const train = mem_alloc(d->rows, 1);
    for (size_t r = 0; r < d->rows; r++)
        train[r] = l->part[r] == DATASET_TRAIN;
    d->numeric = csv_bucket(l->csv, l->spec->buckets, train, d->keys);
    free(train);
}

static void finish_parts(struct loader *l) {
    struct dataset *const d = l->data;
    for (size_t r = 0; r < d->rows; r++)
        d->n_part[l->part[r]]++;
    for (size_t p = 0; p < DATASET_PARTS; p++) {
        d->part[p] = mem_alloc(d->n_part[p], sizeof *d->part[p]);
        d->n_part[p] = 0;
    }
    for (size_t r = 0; r < d->rows; r++)
        d->part[l->part[r]][d->n_part[l->part[r]]++] = (uint32_t)r;
}

dimfit_err dataset_load(const struct dataset_spec *spec, struct dataset **out,
                        struct err_detail *detail) {
    struct loader l = {.spec = spec, .data = mem_alloc(1, sizeof *l.data)};
    l.single = spec->format == DATASET_CSV;
    l.csv = csv_new(&spec->csv);
    dimfit_err err = DIMFIT_OK;
    for (size_t i = 0; err == DIMFIT_OK && i < spec->n_data; i++)
        err = read_file(&l, spec->data[i], DATASET_PARTS, detail);
    if (err == DIMFIT_OK && spec->valid != NULL)
        err = read_file(&l, spec->valid, DATASET_VALID, detail);
    if (err == DIMFIT_OK && spec->test != NULL)
        err = read_file(&l, spec->test, DATASET_TEST, detail);
    if (err == DIMFIT_OK && l.data->occurrences == 0)
        err = err_set(detail, DIMFIT_ERR_INVALID, "%s: no samples", spec->data[0]);
    if (err == DIMFIT_OK) {
        finish_slots(&l);
        if (l.single)
            finish_numbers(&l);
        finish_parts(&l);
        if (l.data->n_part[DATASET_TRAIN] == 0)
            err = err_set(detail, DIMFIT_ERR_INVALID, "the split leaves nothing to train on");
    }
    if (err == DIMFIT_OK)
        *out = l.data;
    else
        dataset_destroy(&l.data);
    csv_destroy(&l.csv);
    sample_fini(&l.sample);
    free(l.part);
    return err;
}

void dataset_destroy(struct dataset **dp) {
    struct dataset *const d = *dp;
    if (d == NULL)
        return;
    for (size_t p = 0; p < DATASET_PARTS; p++)
        free(d->part[p]);
    free(d->slots);
    free(d->labels);
    free(d->keys);
    free(d->slot);
    free(d->weight);
    free(d->start);
    free(d);
    *dp = NULL;
}
