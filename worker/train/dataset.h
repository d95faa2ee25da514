/*
 * A data set in memory: every sample's label and feasigns, and which of the parts training,
 * validation and test it belongs to.
 *
 * Lines of the data files are numbered from 0 through all of them, headers left out; a seeded hash
 * of that number decides the part, so that the parts stay the same whatever is trained. Files named
 * as validation or test are those parts whole, and the data files' share of that part goes to
 * training. Where each sample has exactly one feasign of each slot (csv, criteo) nothing but labels
 * and feasigns is stored. Read-only once loaded; may be shared by forked processes.
 */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "worker/train/csv.h"

enum dataset_format { DATASET_CSV, DATASET_CRITEO, DATASET_LIBFFM, DATASET_SLOTS };
enum dataset_part { DATASET_TRAIN, DATASET_VALID, DATASET_TEST, DATASET_PARTS };

struct dataset_spec {
    enum dataset_format format;
    const char *const *data;
    size_t n_data;
    const char *valid, *test; /* NULL: a share of the data files */
    struct csv_spec csv;
    size_t buckets; /* of a numeric column */
    double split[DATASET_PARTS];
    uint64_t split_seed;
    bool skip_bad; /* count malformed lines instead of refusing them */
};

struct dataset_slot {
    uint32_t id;
    char name[SAMPLE_SLOT_NAME];
};

struct dataset {
    size_t n_slots;
    struct dataset_slot *slots; /* ascending by id */

    size_t rows, occurrences;
    float *labels;   /* [rows] */
    uint64_t *keys;  /* [occurrences], sample after sample, slots ascending in each */
    uint32_t *slot;  /* [occurrences] index into slots; NULL: occurrence o has slot o % n_slots */
    float *weight;   /* [occurrences]; NULL: 1 each */
    uint64_t *start; /* [rows + 1] first occurrence; NULL: row r starts at r * n_slots */

    size_t n_part[DATASET_PARTS];
    uint32_t *part[DATASET_PARTS]; /* row numbers, ascending */

    size_t numeric; /* columns that were bucketed */
    uint64_t skipped;
    char skipped_first[384]; /* why the first one was */
};

/* DATA with "FILE:LINE: why" for a malformed line; IO for a file that can't be read; INVALID for an
 * option that does not fit the data, or when there is nothing to train on. */
dimfit_err dataset_load(const struct dataset_spec *spec, struct dataset **out,
                        struct err_detail *detail) MUST_CHECK;
void dataset_destroy(struct dataset **data);

/* First occurrence of a row, and of the row behind it with row + 1. */
static inline uint64_t dataset_start(const struct dataset *data, uint64_t row) {
    return data->start != NULL ? data->start[row] : row * data->n_slots;
}

#endif
