#include "tests/unit/table_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

long allocations_left = -1;
size_t allocated;

void *aligned_alloc(size_t alignment, size_t size) {
    void *memory;
    if (allocations_left == 0 || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    allocated += size;
    allocations_left -= allocations_left > 0;
    return memory;
}

uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

double noise(uint64_t x) {
    return (double)(mix(x) >> 11) * 0x1p-53 * 2 - 1;
}

struct layout_slot spec_of(uint32_t id, enum optimizer_kind kind) {
    struct layout_slot spec = {
        .id = id,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .optimizer = {kind, 0.05f, 1e-8f, 0.9f, 0.999f, 1, 0.01f, 0.1f},
        .init = INIT_NORMAL,
        .init_scale = 0.1f,
    };
    snprintf(spec.name, sizeof spec.name, "slot%u", id);
    return spec;
}

static void add_spec(struct fixture *f, const struct layout_slot *spec) {
    assert_int_equal(layout_add_slot(f->layout, spec, NULL), DIMFIT_OK);
    assert_int_equal(table_add_slot(f->table, layout_find(f->layout, spec->id)), DIMFIT_OK);
}

void add_slot(struct fixture *f, uint32_t id, enum optimizer_kind kind) {
    const struct layout_slot spec = spec_of(id, kind);
    add_spec(f, &spec);
}

struct fixture *setup(enum optimizer_kind kind) {
    return setup_retaining(kind, (struct retention){0});
}

struct fixture *setup_retaining(enum optimizer_kind kind, struct retention retention) {
    struct layout_slot spec = spec_of(SLOT, kind);
    spec.retention = retention;
    return setup_spec(&spec);
}

struct fixture *setup_spec(const struct layout_slot *spec) {
    struct fixture *const f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(layout_new(1, 99, &f->layout), DIMFIT_OK);
    assert_int_equal(table_new(99, &f->table), DIMFIT_OK);
    add_spec(f, spec);
    f->slot = table_find(f->table, SLOT);
    assert_non_null(f->slot);
    return f;
}

void teardown(struct fixture *f) {
    table_destroy(&f->table);
    assert_null(f->table);
    layout_destroy(&f->layout);
    free(f);
}

uint8_t *keys_of(struct fixture *f) {
    return f->keys + 1;
}

uint8_t *grads_of(struct fixture *f) {
    return f->grads + 1;
}

void set_key(struct fixture *f, size_t i, uint64_t key) {
    memcpy(keys_of(f) + i * 8, &key, sizeof key);
}

void set_grad(struct fixture *f, size_t i, float g) {
    memcpy(grads_of(f) + i * sizeof g, &g, sizeof g);
}

float grad_at(struct fixture *f, size_t i) {
    return load_f32(grads_of(f) + i * sizeof(float));
}

void fill(struct fixture *f, size_t n, uint64_t range, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        set_key(f, i, mix(mix(i + seed * 1000003) % range));
    for (size_t i = 0; i < n * table_slot_width(f->slot); i++)
        set_grad(f, i, (float)noise(i + seed * 7000003));
}

void push(struct fixture *f, struct table_slot *slot, size_t n, const struct score_sums *sums) {
    assert_int_equal(table_check_grads(slot, keys_of(f), grads_of(f), n, NULL), DIMFIT_OK);
    assert_int_equal(table_reserve(slot, n), DIMFIT_OK);
    table_push(slot, keys_of(f), grads_of(f), NULL, n, true, sums);
}

void train(struct fixture *f, struct table_slot *slot) {
    for (uint64_t step = 0; step < 5; step++) {
        fill(f, 3000, 5000, step);
        push(f, slot, 3000, NULL);
    }
}

void assert_same_rows(const struct table_slot *a, const struct table_slot *b, uint64_t range,
                      size_t state_width) {
    for (uint64_t i = 0; i < range; i++) {
        struct table_row x, y;
        const bool there = table_row(a, mix(i), &x);
        assert_int_equal(table_row(b, mix(i), &y), there);
        if (!there)
            continue;
        assert_memory_equal(x.values, y.values, table_slot_width(a) * sizeof *x.values);
        assert_memory_equal(x.state, y.state, state_width * sizeof *x.state);
        assert_int_equal(x.shows, y.shows);
    }
}

void take(struct fixture *f, const struct change *change, const struct layout *before) {
    struct layout *next = NULL;
    struct err_detail detail = {{0}};
    move_all(f->table);
    const dimfit_err err = change_apply(change, f->layout, before, &next, &detail);
    if (err != DIMFIT_OK)
        fail_msg("%s", detail.text);
    assert_int_equal(table_change(f->table, change, next, &detail), DIMFIT_OK);
    layout_destroy(&f->layout);
    f->layout = next;
}

void move_all(struct table *table) {
    while (table_move(table, 20000))
        ;
}

uint64_t fill_up(struct fixture *f, size_t n) {
    for (uint64_t first = 0;; first += n) {
        for (size_t i = 0; i < n; i++)
            set_key(f, i, mix(first + i));
        const dimfit_err err = table_reserve(f->slot, n);
        if (err != DIMFIT_OK) {
            assert_int_equal(err, DIMFIT_ERR_LIMIT);
            return first;
        }
        table_push(f->slot, keys_of(f), grads_of(f), NULL, n, true, NULL);
    }
}
