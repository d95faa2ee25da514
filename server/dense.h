/*
 * Dense tables: named weight vectors that workers share, each with an optimizer (design 4).
 *
 * A table is (name, tag), created when absent: the first creation wins and racing ones agree. The
 * tag is the epoch the weights belong to; a commit drops what is older than the epoch before it.
 * Few and large, so a plain list. Owned by the shard's thread; values from the wire are checked by
 * the caller to be finite.
 */
#ifndef SERVER_DENSE_H
#define SERVER_DENSE_H

#include "proto/layout.h"

enum {
    DENSE_TABLES_MAX = 4096,
    DENSE_NAME_MAX = 100,
};

struct dense;

struct dense_table {
    char name[DENSE_NAME_MAX + 1];
    uint64_t tag;
    struct optimizer optimizer;
    size_t n;
    float *values, *state;
};

dimfit_err dense_new(struct dense **out) MUST_CHECK;
void dense_destroy(struct dense **dense);

struct dense_table *dense_find(struct dense *dense, const char *name, uint64_t tag);

/* values: n unaligned f32. *created tells whether this call made it; WIDTH when it is there with
 * another n, LIMIT past DENSE_TABLES_MAX. */
dimfit_err dense_create(struct dense *dense, const char *name, uint64_t tag,
                        const struct optimizer *optimizer, const uint8_t *values, size_t n,
                        bool *created, struct err_detail *detail) MUST_CHECK;

/* One optimizer step with n unaligned f32. */
void dense_push(struct dense_table *table, const uint8_t *grads);

/* At a commit to this epoch: drop tables whose tag is older than the epoch before it. */
void dense_drop_old(struct dense *dense, uint64_t epoch);

uint64_t dense_bytes(const struct dense *dense);
size_t dense_count(const struct dense *dense);

/* Saved and restored; the latter into one without tables, which after a failure is good for
 * dense_destroy() alone. */
struct archive_writer;
struct archive_reader;
void dense_save(const struct dense *dense, struct archive_writer *out);
void dense_restore(struct dense *dense, struct archive_reader *in);

#endif
