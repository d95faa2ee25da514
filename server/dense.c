#include "server/dense.h"

#include "server/optim.h"

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
    if (dense->n == dense->cap) {
        const size_t cap = dense->cap == 0 ? 16 : 2 * dense->cap;
        struct dense_table **const tables = realloc(dense->tables, cap * sizeof *tables);
        if (tables == NULL)
            return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for dense table '%s'", name);
        dense->tables = tables;
        dense->cap = cap;
    }
    const dimfit_err err = table_make(name, tag, optimizer, values, n, &dense->tables[dense->n]);
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
