#include "tests/unit/client_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

const double client_basis[DIM * 2] = {0.6, 0, 0.8, 0, 0, 1, 0, 0};
const double client_mean[DIM] = {1, 2, 3, 4};

static void *copy(const void *from, size_t bytes) {
    void *const to = malloc(bytes);
    assert_non_null(to);
    return memcpy(to, from, bytes);
}

static struct layout *first_layout(void) {
    struct layout *layout;
    assert_int_equal(layout_new(0, 7, &layout), DIMFIT_OK);
    for (uint32_t id = 1; id <= 2; id++) {
        struct layout_slot slot = {.id = id, .dim = DIM, .width = DIM, .search = true};
        slot.optimizer.lr = 0.1f;
        slot.name[0] = (char)('a' + id);
        slot.retention.clicks = id == 1;
        assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
    }
    return layout;
}

static struct layout *second_layout(const struct layout *first) {
    static const uint16_t axes[2] = {2, 0};
    static const double shift[2];
    struct layout *layout;
    assert_int_equal(layout_copy(first, &layout), DIMFIT_OK);
    layout->epoch = 1;
    struct layout_slot *const a = &layout->slots[0], *const b = &layout->slots[1];
    a->width = b->width = 2;
    memcpy(a->axes, axes, sizeof axes);
    free(b->axes);
    b->axes = NULL;
    b->basis = copy(client_basis, sizeof client_basis);
    b->init_map = copy(client_basis, sizeof client_basis);
    b->mean = copy(client_mean, sizeof client_mean);
    b->init_shift = copy(shift, sizeof shift);
    return layout;
}

int set_up(void **state) {
    struct fixture *const f = calloc(1, sizeof *f);
    struct layout *first = first_layout();
    f->next = second_layout(first);
    f->fake = fake_start(2, first);
    layout_destroy(&first);
    const struct dimfit_options options = {.size = sizeof options, .timeout = 2.5};
    assert_int_equal(dimfit_connect(fake_endpoint(f->fake), &options, &f->client), DIMFIT_OK);
    for (size_t s = 0; s < 2; s++)
        f->key[s] = fake_key_on(f->fake, 1, s, 100);
    *state = f;
    return 0;
}

int tear_down(void **state) {
    struct fixture *const f = *state;
    dimfit_close(&f->client);
    fake_stop(&f->fake);
    layout_destroy(&f->next);
    free(f);
    return 0;
}

struct dimfit_rows rows_of(uint32_t slot, const uint64_t *keys, size_t n, float *values) {
    return (struct dimfit_rows){.slot = slot, .n = n, .keys = keys, .values = values, .width = DIM};
}

/* Push (1, 2, 3, 4) to slot 1's key on each shard. */
dimfit_err push_both(struct fixture *f, struct dimfit_push push) {
    float g[2 * DIM] = {1, 2, 3, 4, 1, 2, 3, 4};
    const struct dimfit_rows rows = rows_of(1, f->key, 2, g);
    return dimfit_push(f->client, DIMFIT_FULL, &rows, 1, &push);
}

dimfit_err pull_both(struct fixture *f, float *v) {
    const struct dimfit_rows rows = rows_of(1, f->key, 2, v);
    return dimfit_pull(f->client, DIMFIT_FULL, &rows, 1);
}

const struct dimfit_push train = {.mode = DIMFIT_TRAIN};

void assert_says(const struct fixture *f, const char *text) {
    if (strstr(dimfit_errmsg(f->client), text) == NULL)
        fail_msg("'%s' does not say '%s'", dimfit_errmsg(f->client), text);
}

void move_on(struct fixture *f) {
    fake_layout(f->fake, f->next);
    for (size_t s = 0; s < 2; s++)
        fake_switch(f->fake, s);
}

float grad(const struct fake_request *r, size_t section, size_t i) {
    return load_f32(r->sections.items[section].grads + 4 * i);
}
