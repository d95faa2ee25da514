#include "server/dense.h"

#include "server/archive.h"
#include "server/optim.h"

#include <math.h>
#include <stdlib.h>

struct dense {
    size_t n, cap;
    struct dense_table **tables;
};

dimfit_err dense_new(struct dense **out) {
    struct dense *const dense = calloc(1, sizeof *dense);
    if (dense == NULL)
        return DIMFIT_ERR_NOMEM;
    *out = dense;
    return DIMFIT_OK;
}

static void table_free(struct dense_table *table) {
    if (table == NULL)
        return;
    free(table->values);
    free(table->state);
    free(table);
}

void dense_destroy(struct dense **dense) {
    if (*dense == NULL)
        return;
    for (size_t i = 0; i < (*dense)->n; i++)
        table_free((*dense)->tables[i]);
    free((*dense)->tables);
    free(*dense);
    *dense = NULL;
}

struct dense_table *dense_find(struct dense *dense, const char *name, uint64_t tag) {
    for (size_t i = 0; i < dense->n; i++) {
        struct dense_table *const table = dense->tables[i];
        if (table->tag == tag && strcmp(table->name, name) == 0)
            return table;
    }
    return NULL;
}

static dimfit_err table_make(const char *name, uint64_t tag, const struct optimizer *optimizer,
                             const uint8_t *values, size_t n, struct dense_table **out) {
    struct dense_table *const table = calloc(1, sizeof *table);
    if (table == NULL)
        return DIMFIT_ERR_NOMEM;
    memcpy(table->name, name, strlen(name) + 1);
    table->tag = tag;
    table->optimizer = *optimizer;
    table->n = n;
    /* One float more than asked for: malloc(0) may be NULL. */
    table->values = malloc((n + 1) * sizeof *table->values);
    table->state = calloc(optimizer_state_width(optimizer->kind, n) + 1, sizeof *table->state);
    if (table->values == NULL || table->state == NULL) {
        table_free(table);
        return DIMFIT_ERR_NOMEM;
    }
    memcpy(table->values, values, n * sizeof *table->values);
    *out = table;
    return DIMFIT_OK;
}

static dimfit_err reserve(struct dense *dense) {
    if (dense->n < dense->cap)
        return DIMFIT_OK;
    const size_t cap = dense->cap == 0 ? 16 : 2 * dense->cap;
    struct dense_table **const tables = realloc(dense->tables, cap * sizeof *tables);
    if (tables == NULL)
        return DIMFIT_ERR_NOMEM;
    dense->tables = tables;
    dense->cap = cap;
    return DIMFIT_OK;
}

dimfit_err dense_create(struct dense *dense, const char *name, uint64_t tag,
                        const struct optimizer *optimizer, const uint8_t *values, size_t n,
                        bool *created, struct err_detail *detail) {
    base_assert(strlen(name) <= DENSE_NAME_MAX);
    const struct dense_table *const there = dense_find(dense, name, tag);
    if (there != NULL && there->n != n)
        return err_set(detail, DIMFIT_ERR_WIDTH, "dense table '%s' has %zu values, not %zu", name,
                       there->n, n);
    if (there != NULL) {
        *created = false;
        return DIMFIT_OK;
    }
    if (dense->n == DENSE_TABLES_MAX)
        return err_set(detail, DIMFIT_ERR_LIMIT, "%d dense tables are there already",
                       DENSE_TABLES_MAX);
    dimfit_err err = reserve(dense);
    if (err == DIMFIT_OK)
        err = table_make(name, tag, optimizer, values, n, &dense->tables[dense->n]);
    if (err != DIMFIT_OK)
        return err_set(detail, err, "no memory for dense table '%s'", name);
    dense->n++;
    *created = true;
    return DIMFIT_OK;
}

void dense_push(struct dense_table *table, const uint8_t *grads) {
    const struct optim_rows row = {&table->values, &table->state, grads, 1, table->n};
    optim_kernels()->train(&table->optimizer, &row, NULL);
}

void dense_drop_old(struct dense *dense, uint64_t epoch) {
    size_t kept = 0;
    for (size_t i = 0; i < dense->n; i++) {
        if (dense->tables[i]->tag + 1 < epoch)
            table_free(dense->tables[i]);
        else
            dense->tables[kept++] = dense->tables[i];
    }
    dense->n = kept;
}

uint64_t dense_bytes(const struct dense *dense) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < dense->n; i++) {
        const struct dense_table *const t = dense->tables[i];
        bytes += (t->n + optimizer_state_width(t->optimizer.kind, t->n)) * sizeof(float);
    }
    return bytes;
}

size_t dense_count(const struct dense *dense) {
    return dense->n;
}

/* ---- saved ----------------------------------------------------------------------------------- */

enum { MARK = 0x534e4544 }; /* "DENS" */

static void save_table(const struct dense_table *t, struct archive_writer *out) {
    const struct optimizer *const o = &t->optimizer;
    const float rates[] = {o->lr, o->eps, o->beta1, o->beta2, o->beta, o->l1, o->l2};
    archive_put_u8(out, (uint8_t)strlen(t->name));
    archive_put(out, t->name, strlen(t->name));
    archive_put_u64(out, t->tag);
    archive_put_u8(out, (uint8_t)o->kind);
    archive_put(out, rates, sizeof rates);
    archive_put_u64(out, t->n);
    archive_put(out, t->values, t->n * sizeof *t->values);
    archive_put(out, t->state, optimizer_state_width(o->kind, t->n) * sizeof *t->state);
}

void dense_save(const struct dense *dense, struct archive_writer *out) {
    archive_put_mark(out, MARK);
    archive_put_u64(out, dense->n);
    for (size_t i = 0; i < dense->n; i++)
        save_table(dense->tables[i], out);
}

static void restore_optimizer(struct optimizer *o, struct archive_reader *in) {
    float rates[7];
    const uint8_t kind = archive_get_u8(in);
    archive_get(in, rates, sizeof rates);
    bool finite = true;
    for (size_t i = 0; i < ARRAY_LEN(rates); i++)
        finite = finite && isfinite(rates[i]);
    if (!finite || optimizer_name(kind) == NULL)
        archive_refuse(in, "an optimizer of a dense table that is none");
    *o = (struct optimizer){.kind = kind,
                            .lr = rates[0],
                            .eps = rates[1],
                            .beta1 = rates[2],
                            .beta2 = rates[3],
                            .beta = rates[4],
                            .l1 = rates[5],
                            .l2 = rates[6]};
}

/* Room as the bytes come. */
static float *restore_floats(size_t n, struct archive_reader *in) {
    struct buf floats;
    buf_init(&floats);
    for (size_t left = n, piece; left > 0 && in->err == DIMFIT_OK; left -= piece) {
        piece = left < 16384 ? left : 16384;
        uint8_t *const to = buf_extend(&floats, piece * sizeof(float));
        if (to == NULL)
            archive_no_memory(in);
        else
            archive_get(in, to, piece * sizeof(float));
    }
    /* One more than asked for, as in table_make(). */
    buf_put_f32(&floats, 0);
    if (floats.failed)
        archive_no_memory(in);
    return (float *)floats.data;
}

static void restore_table(struct dense_table *t, struct archive_reader *in) {
    const uint8_t len = archive_get_u8(in);
    if (len == 0 || len > DENSE_NAME_MAX)
        archive_refuse(in, "a dense table with a name of %u bytes", len);
    if (in->err != DIMFIT_OK)
        return;
    archive_get(in, t->name, len);
    t->tag = archive_get_u64(in);
    restore_optimizer(&t->optimizer, in);
    t->n = archive_get_u64(in);
    if (strlen(t->name) != len || t->n > SIZE_MAX / 64)
        archive_refuse(in, "a dense table '%s' of %zu values", t->name, t->n);
    if (in->err != DIMFIT_OK)
        return;
    t->values = restore_floats(t->n, in);
    t->state = restore_floats(optimizer_state_width(t->optimizer.kind, t->n), in);
}

void dense_restore(struct dense *dense, struct archive_reader *in) {
    archive_get_mark(in, MARK, "list of dense tables");
    const uint64_t n = archive_get_u64(in);
    if (n > DENSE_TABLES_MAX)
        archive_refuse(in, "%llu dense tables", (unsigned long long)n);
    for (uint64_t i = 0; i < n && in->err == DIMFIT_OK; i++) {
        struct dense_table *const table = calloc(1, sizeof *table);
        if (table == NULL || reserve(dense) != DIMFIT_OK) {
            free(table);
            archive_no_memory(in);
            return;
        }
        dense->tables[dense->n] = table;
        restore_table(table, in);
        for (size_t k = 0; k < dense->n && in->err == DIMFIT_OK; k++) {
            if (dense->tables[k]->tag == table->tag &&
                strcmp(dense->tables[k]->name, table->name) == 0)
                archive_refuse(in, "dense table '%s' is there twice", table->name);
        }
        dense->n++;
    }
}
