#include "proto/layout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct layout_slot spec(uint32_t id, const char *name) {
    struct layout_slot slot = {
        .id = id,
        .dim = 4,
        .width = 3,
        .search = true,
        .optimizer = {.kind = OPTIMIZER_ROWWISE_ADAGRAD, .lr = 0.05f, .eps = 1e-8f},
        .init = INIT_NORMAL,
        .init_scale = 0.01f,
    };
    memcpy(slot.name, name, strlen(name) + 1);
    return slot;
}

static struct layout *new_layout(void) {
    struct layout *layout;
    assert_int_equal(layout_new(7, 42, &layout), DIMFIT_OK);
    return layout;
}

static void add(struct layout *layout, uint32_t id, const char *name) {
    const struct layout_slot slot = spec(id, name);
    assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
}

static void *doubles(size_t n, const double *values) {
    double *const copy = malloc(n * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, values, n * sizeof *copy);
    return copy;
}

static const double DENSE_BASIS[8] = {0.6, 0, 0.8, 0, 0, 1, 0, 0};

/* One slot by axes and one dense, 4 wide stored in 2. */
static struct layout *mixed(void) {
    struct layout *const layout = new_layout();
    add(layout, 3, "third");
    add(layout, 5, "fünf");
    layout->slots[0].retention = (struct retention){
        .admit = 3, .expire_days = 30, .expire_shows = 1.5f, .decay = 0.98f, .last_seen = true};
    layout->slots[1].retention.clicks = true;
    struct layout_slot *const slot = &layout->slots[1];
    free(slot->axes);
    slot->axes = NULL;
    slot->width = 2;
    slot->basis = doubles(8, DENSE_BASIS);
    slot->mean = doubles(4, (double[]){1, 2, 3, 4});
    slot->init_map = doubles(8, (double[]){1, 2, 3, 4, 5, 6, 7, 8});
    slot->init_shift = doubles(2, (double[]){-1, -2});
    return layout;
}

static void slots_are_found_by_id_in_whatever_order_they_came(void **state) {
    struct layout *layout = new_layout();
    const uint32_t ids[] = {9, 2, 400000000, 0, 5};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        char name[2] = {(char)('a' + i), 0};
        add(layout, ids[i], name);
    }
    assert_int_equal(layout->n_slots, 5);
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        const struct layout_slot *const slot = layout_find(layout, ids[i]);
        assert_non_null(slot);
        assert_int_equal(slot->name[0], 'a' + i);
        assert_true(i == 0 || layout->slots[i - 1].id < layout->slots[i].id);
    }
    assert_null(layout_find(layout, 3));
    assert_null(layout_find(layout, UINT32_MAX));
    layout_destroy(&layout);
    assert_null(layout);
}

static void a_slot_starts_on_its_first_axes(void **state) {
    struct layout *layout = new_layout();
    add(layout, 1, "one");
    double M[12], mean[4];
    layout_slot_basis(&layout->slots[0], M);
    layout_slot_mean(&layout->slots[0], mean);
    for (size_t i = 0; i < 4; i++) {
        assert_true(mean[i] == 0);
        for (size_t k = 0; k < 3; k++)
            assert_true(M[i * 3 + k] == (i == k));
    }
    assert_int_equal(layout_bytes(layout), 3 * sizeof(uint16_t));
    layout_destroy(&layout);
}

static void an_id_or_a_name_that_is_there_is_refused(void **state) {
    struct layout *layout = new_layout();
    struct err_detail detail;
    add(layout, 1, "one");
    struct layout_slot slot = spec(1, "other");
    assert_int_equal(layout_add_slot(layout, &slot, &detail), DIMFIT_ERR_EXISTS);
    assert_string_equal(detail.text, "slot 1 is there already");
    slot = spec(2, "one");
    assert_int_equal(layout_add_slot(layout, &slot, &detail), DIMFIT_ERR_EXISTS);
    assert_string_equal(detail.text, "slot 2: the name 'one' is that of slot 1");
    assert_int_equal(layout->n_slots, 1);
    layout_destroy(&layout);
}

static void refused(const struct layout_slot *slot, const char *what) {
    struct layout *layout = new_layout();
    struct err_detail detail;
    assert_int_equal(layout_add_slot(layout, slot, &detail), DIMFIT_ERR_INVALID);
    assert_non_null(strstr(detail.text, "slot 8"));
    assert_non_null(strstr(detail.text, what));
    assert_int_equal(layout->n_slots, 0);
    layout_destroy(&layout);
}

static void settings_out_of_range_are_refused_by_name(void **state) {
    const struct layout_slot good = spec(8, "x");
    struct layout_slot slot = good;
    slot.dim = 0;
    refused(&slot, "dim 0");
    slot.dim = LAYOUT_DIM_MAX + 1;
    refused(&slot, "dim 513");
    slot = good;
    slot.width = 0;
    refused(&slot, "width 0");
    slot.width = 5;
    refused(&slot, "width 5");
    slot = good;
    slot.optimizer.kind = (enum optimizer_kind)99;
    refused(&slot, "optimizer 99");
    slot = good;
    slot.optimizer.lr = NAN;
    refused(&slot, "lr");
    slot = good;
    slot.optimizer.eps = -1;
    refused(&slot, "eps");
    slot = good;
    slot.optimizer.kind = OPTIMIZER_ADAM;
    slot.optimizer.beta2 = 1;
    refused(&slot, "beta2");
    slot = good;
    slot.optimizer.kind = OPTIMIZER_FTRL;
    slot.optimizer.l1 = -1;
    refused(&slot, "l1");
    slot.optimizer.l1 = 0;
    slot.optimizer.lr = 0;
    refused(&slot, "lr > 0");
    slot = good;
    slot.init = (enum init_kind)7;
    refused(&slot, "init 7");
    slot = good;
    slot.init_scale = INFINITY;
    refused(&slot, "init_scale");
    slot = good;
    slot.retention.admit = RETENTION_ADMIT_MAX + 1;
    refused(&slot, "admit 4096");
    slot = good;
    slot.retention.expire_days = RETENTION_DAYS_MAX + 1;
    refused(&slot, "expire_days 36501");
    slot = good;
    slot.retention.expire_shows = NAN;
    refused(&slot, "expire_shows");
    slot.retention.expire_shows = -1;
    refused(&slot, "expire_shows");
    slot = good;
    slot.retention.decay = 1.5f;
    refused(&slot, "decay 1.5");
    slot.retention.decay = -0.5f;
    refused(&slot, "decay -0.5");
    slot.retention.decay = NAN;
    refused(&slot, "decay");
}

static void retention_left_out_is_completed_when_a_slot_is_added(void **state) {
    static const struct {
        struct retention given, kept;
    } cases[] = {
        {{0}, {.admit = 1, .decay = 1}},
        {{.expire_days = 7}, {.admit = 1, .expire_days = 7, .decay = 1, .last_seen = true}},
        {{.decay = 0.5f}, {.admit = 1, .decay = 0.5f, .last_seen = true}},
        {{.admit = 9, .decay = 1, .clicks = true, .expire_shows = 2},
         {.admit = 9, .decay = 1, .clicks = true, .expire_shows = 2}},
        {{.last_seen = true}, {.admit = 1, .decay = 1, .last_seen = true}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct layout *layout = new_layout();
        struct layout_slot slot = spec(8, "x");
        slot.retention = cases[i].given;
        assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
        assert_null(retention_difference(&layout->slots[0].retention, &cases[i].kept));
        layout_destroy(&layout);
    }
}

static void retentions_differ_in_the_first_field_that_does(void **state) {
    const struct retention base = {.admit = 1, .decay = 1};
    struct retention other = base;
    assert_null(retention_difference(&base, &other));
    other.last_seen = true;
    assert_string_equal(retention_difference(&base, &other), "last_seen");
    other.clicks = true;
    assert_string_equal(retention_difference(&base, &other), "clicks");
    other.decay = 0.5f;
    assert_string_equal(retention_difference(&base, &other), "decay");
    other.expire_shows = 1;
    assert_string_equal(retention_difference(&base, &other), "expire_shows");
    other.expire_days = 1;
    assert_string_equal(retention_difference(&base, &other), "expire_days");
    other.admit = 2;
    assert_string_equal(retention_difference(&base, &other), "admit");
}

static void names_must_be_printable_utf8(void **state) {
    const char *const bad[] = {
        "",         "a\nb",         "\x7f",     "\xff",         "\xc3",
        "\xc0\x80", "\xed\xa0\x80", "\xe0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct layout_slot slot = spec(8, bad[i]);
        refused(&slot, "name");
    }
    struct layout_slot unterminated = spec(8, "x");
    memset(unterminated.name, 'x', sizeof unterminated.name);
    refused(&unterminated, "name");
    struct layout *layout = new_layout();
    add(layout, 1, "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
    layout_destroy(&layout);
}

static void assert_same_bytes(const struct layout *a, const struct layout *b) {
    struct buf x, y;
    buf_init(&x);
    buf_init(&y);
    layout_encode(a, &x);
    layout_encode(b, &y);
    assert_int_equal(buf_status(&x), DIMFIT_OK);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_fini(&x);
    buf_fini(&y);
}

static void a_copy_is_equal_and_stands_alone(void **state) {
    struct layout *layout = mixed(), *copy;
    assert_int_equal(layout_copy(layout, &copy), DIMFIT_OK);
    assert_same_bytes(layout, copy);
    assert_int_equal(layout_bytes(layout), 3 * sizeof(uint16_t) + (8 + 4 + 8 + 2) * sizeof(double));
    layout_destroy(&layout);
    assert_true(copy->slots[1].basis[2] == 0.8);
    for (uint32_t id = 10; id < 20; id++) { /* a copy can grow like any other */
        char name[2] = {(char)('a' + id), 0};
        add(copy, id, name);
    }
    assert_int_equal(copy->n_slots, 12);
    layout_destroy(&copy);
}

static void a_layout_survives_its_bytes(void **state) {
    struct layout *layout = mixed(), *back;
    struct buf bytes;
    buf_init(&bytes);
    layout_encode(layout, &bytes);
    assert_int_equal(layout_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    assert_int_equal(back->epoch, 7);
    assert_int_equal(back->seed, 42);
    assert_string_equal(back->slots[1].name, "fünf");
    assert_null(back->slots[1].axes);
    assert_true(back->slots[1].mean[3] == 4 && back->slots[1].init_shift[1] == -2);
    for (size_t i = 0; i < 2; i++)
        assert_null(retention_difference(&back->slots[i].retention, &layout->slots[i].retention));
    assert_same_bytes(layout, back);
    buf_fini(&bytes);
    layout_destroy(&layout);
    layout_destroy(&back);
}

static void a_slot_of_width_zero_survives_its_bytes(void **state) {
    struct layout *layout = mixed(), *back;
    layout->slots[0].width = layout->slots[1].width = 0;
    struct buf bytes;
    buf_init(&bytes);
    layout_encode(layout, &bytes);
    assert_int_equal(layout_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    assert_non_null(back->slots[0].axes);
    assert_null(back->slots[1].axes);
    assert_true(back->slots[1].mean[0] == 1);
    assert_same_bytes(layout, back);
    buf_fini(&bytes);
    layout_destroy(&layout);
    layout_destroy(&back);
}

/* On the heap at its exact size, so that a sanitizer sees one byte too far. */
static dimfit_err decode_exact(const uint8_t *bytes, size_t len) {
    uint8_t *const exact = malloc(len > 0 ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    struct layout *layout = NULL;
    struct err_detail detail = {""};
    const dimfit_err err = layout_decode(exact, len, &layout, &detail);
    assert_true(err == DIMFIT_OK || (err == DIMFIT_ERR_PROTOCOL && detail.text[0] != 0));
    assert_true((err == DIMFIT_OK) == (layout != NULL));
    layout_destroy(&layout);
    free(exact);
    return err;
}

static void every_truncation_is_refused(void **state) {
    struct layout *layout = mixed();
    struct buf bytes;
    buf_init(&bytes);
    layout_encode(layout, &bytes);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(decode_exact(bytes.data, n), DIMFIT_ERR_PROTOCOL);
    buf_put_u8(&bytes, 0);
    assert_int_equal(decode_exact(bytes.data, bytes.len), DIMFIT_ERR_PROTOCOL);
    buf_fini(&bytes);
    layout_destroy(&layout);
}

static void any_changed_byte_is_refused_or_gives_a_sound_layout(void **state) {
    struct layout *layout = mixed();
    struct buf bytes;
    buf_init(&bytes);
    layout_encode(layout, &bytes);
    for (size_t i = 0; i < bytes.len; i++) {
        for (int flip = 1; flip < 256; flip++) {
            bytes.data[i] ^= (uint8_t)flip;
            (void)decode_exact(bytes.data, bytes.len);
            bytes.data[i] ^= (uint8_t)flip;
        }
    }
    buf_fini(&bytes);
    layout_destroy(&layout);
}

static void decode_refused(const struct layout *layout, const char *what) {
    struct buf bytes;
    struct layout *back = NULL;
    struct err_detail detail;
    buf_init(&bytes);
    layout_encode(layout, &bytes);
    assert_int_equal(layout_decode(bytes.data, bytes.len, &back, &detail), DIMFIT_ERR_PROTOCOL);
    assert_non_null(strstr(detail.text, what));
    assert_null(back);
    buf_fini(&bytes);
}

static void bases_that_are_none_are_refused(void **state) {
    struct layout *layout = mixed();
    layout->slots[0].axes[1] = layout->slots[0].axes[2];
    decode_refused(layout, "slot 3: axis 2");
    layout->slots[0].axes[1] = 4;
    decode_refused(layout, "slot 3: axis 4");
    layout->slots[0].axes[1] = 1;
    layout->slots[1].basis[0] += 1e-5;
    decode_refused(layout, "orthonormal");
    layout->slots[1].basis[0] = NAN;
    decode_refused(layout, "orthonormal");
    layout->slots[1].basis[0] = DENSE_BASIS[0] + 1e-8; /* rounding is not held against it */
    layout->slots[1].mean[2] = INFINITY;
    decode_refused(layout, "slot 5: mean");
    layout->slots[1].mean[2] = 0;
    layout->slots[1].optimizer.kind = OPTIMIZER_FTRL;
    layout->slots[1].optimizer.lr = 1;
    decode_refused(layout, "slot 5: ftrl takes the axis basis only");
    layout->slots[1].optimizer.kind = OPTIMIZER_SGD;
    layout->slots[1].id = 3;
    decode_refused(layout, "out of order");
    layout->slots[1].id = 5;
    memcpy(layout->slots[1].name, "third", 6);
    decode_refused(layout, "same name 'third'");
    layout_destroy(&layout);
}

static void retention_that_contradicts_itself_is_refused_from_bytes(void **state) {
    struct layout *layout = mixed();
    struct retention *const retention = &layout->slots[0].retention;
    const struct retention good = *retention;
    retention->last_seen = false;
    decode_refused(layout, "slot 3: expire_days and decay need last_seen");
    *retention = good;
    retention->admit = 0;
    decode_refused(layout, "slot 3: admit 0");
    *retention = good;
    retention->decay = 0;
    decode_refused(layout, "slot 3: decay 0");
    retention->decay = INFINITY;
    decode_refused(layout, "slot 3: decay");
    *retention = good;
    retention->expire_shows = INFINITY;
    decode_refused(layout, "slot 3: expire_shows");
    layout_destroy(&layout);
}

static void tiers_start_as_wide_as_their_slot(void **state) {
    struct layout *layout = new_layout();
    add(layout, 1, "one");
    struct layout_slot slot = spec(8, "x");
    slot.n_tiers = 3;
    slot.tier_shows[1] = 10;
    slot.tier_shows[2] = LAYOUT_TIER_SHOWS_MAX;
    assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
    const struct layout_slot *const plain = layout_find(layout, 1), *const tiered = layout_find(
                                                                        layout, 8);
    assert_int_equal(plain->n_tiers, 1);
    assert_int_equal(plain->tier_widths[0], plain->width);
    assert_int_equal(tiered->n_tiers, 3);
    for (uint32_t t = 0; t < 3; t++)
        assert_int_equal(tiered->tier_widths[t], tiered->width);
    layout_destroy(&layout);
}

static void tiers_that_do_not_ascend_are_refused(void **state) {
    struct layout_slot slot = spec(8, "x");
    slot.n_tiers = 3;
    slot.tier_shows[1] = slot.tier_shows[2] = 10;
    refused(&slot, "tiers: show counts must ascend within 1..16777216, 10 comes after 10");
    slot.tier_shows[1] = 0;
    refused(&slot, "0 comes after 0");
    slot.tier_shows[1] = 1;
    slot.tier_shows[2] = LAYOUT_TIER_SHOWS_MAX + 1;
    refused(&slot, "16777217 comes after 1");
    slot.tier_shows[2] = 2;
    slot.tier_shows[0] = 1;
    refused(&slot, "from no show on");
    slot.tier_shows[0] = 0;
    slot.n_tiers = LAYOUT_TIERS_MAX + 1;
    refused(&slot, "1 to 8 tiers");
}

/* Slot 3, of width 3, in three tiers. */
static struct layout *tiered(void) {
    struct layout *const layout = mixed();
    struct layout_slot *const slot = &layout->slots[0];
    slot->n_tiers = 3;
    memcpy(slot->tier_shows, (uint32_t[]){0, 5, 50}, 3 * sizeof(uint32_t));
    memcpy(slot->tier_widths, (uint32_t[]){0, 2, 3}, 3 * sizeof(uint32_t));
    return layout;
}

static void tiers_survive_their_bytes(void **state) {
    struct layout *layout = tiered(), *back;
    struct buf bytes = {0};
    layout_encode(layout, &bytes);
    assert_int_equal(layout_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    const struct layout_slot *const slot = &back->slots[0];
    assert_int_equal(slot->n_tiers, 3);
    assert_memory_equal(slot->tier_shows, ((uint32_t[]){0, 5, 50}), 3 * sizeof(uint32_t));
    assert_memory_equal(slot->tier_widths, ((uint32_t[]){0, 2, 3}), 3 * sizeof(uint32_t));
    assert_same_bytes(layout, back);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(decode_exact(bytes.data, n), DIMFIT_ERR_PROTOCOL);
    for (size_t i = 0; i < bytes.len; i++) {
        for (int flip = 1; flip < 256; flip++) {
            bytes.data[i] ^= (uint8_t)flip;
            (void)decode_exact(bytes.data, bytes.len);
            bytes.data[i] ^= (uint8_t)flip;
        }
    }
    buf_fini(&bytes);
    layout_destroy(&layout);
    layout_destroy(&back);
}

static void tiers_that_contradict_themselves_are_refused_from_bytes(void **state) {
    struct layout *layout = tiered();
    struct layout_slot *const slot = &layout->slots[0];
    slot->tier_widths[0] = 3;
    decode_refused(layout, "slot 3: tier 1 is 2 wide, narrower than the one below");
    slot->tier_widths[0] = 0;
    slot->tier_widths[1] = 4;
    decode_refused(layout, "slot 3: tier 2 is 3 wide");
    slot->tier_widths[1] = 2;
    slot->tier_shows[2] = 5;
    decode_refused(layout, "slot 3: tiers");
    slot->tier_shows[2] = 50;
    slot->n_tiers = 0;
    decode_refused(layout, "malformed");
    layout_destroy(&layout);
}

static void the_settings_of_ftrl_survive_their_bytes(void **state) {
    struct layout *layout, *copy;
    struct buf bytes = {0};
    struct layout_slot slot = spec(8, "ftrl");
    slot.optimizer = (struct optimizer){
        .kind = OPTIMIZER_FTRL, .lr = 0.5f, .beta = 0.25f, .l1 = 2, .l2 = 3};
    assert_int_equal(layout_new(1, 1, &layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(layout, &slot, NULL), DIMFIT_OK);
    layout_encode(layout, &bytes);
    assert_int_equal(layout_decode(bytes.data, bytes.len, &copy, NULL), DIMFIT_OK);
    const struct optimizer *const o = &copy->slots[0].optimizer;
    assert_int_equal(o->kind, OPTIMIZER_FTRL);
    assert_true(o->lr == 0.5f && o->beta == 0.25f && o->l1 == 2 && o->l2 == 3);
    buf_fini(&bytes);
    layout_destroy(&copy);
    layout_destroy(&layout);
}

static void words_for_optimizers_and_inits_go_both_ways(void **state) {
    enum optimizer_kind kind = OPTIMIZER_SGD;
    enum init_kind init = INIT_ZERO;
    assert_true(optimizer_parse("adam", &kind) && kind == OPTIMIZER_ADAM);
    assert_string_equal(optimizer_name(OPTIMIZER_ROWWISE_ADAGRAD), "rowwise_adagrad");
    assert_false(optimizer_parse("ftrl2", &kind));
    assert_null(optimizer_name((enum optimizer_kind)17));
    assert_true(init_parse("normal", &init) && init == INIT_NORMAL);
    assert_string_equal(init_name(INIT_UNIFORM), "uniform");
    assert_false(init_parse("", &init));
    assert_int_equal(optimizer_state_width(OPTIMIZER_SGD, 16), 0);
    assert_int_equal(optimizer_state_width(OPTIMIZER_ROWWISE_ADAGRAD, 16), 1);
    assert_int_equal(optimizer_state_width(OPTIMIZER_ADAGRAD, 16), 16);
    assert_int_equal(optimizer_state_width(OPTIMIZER_ADAM, 16), 33);
    assert_int_equal(optimizer_state_width(OPTIMIZER_FTRL, 16), 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_found_by_id_in_whatever_order_they_came),
        cmocka_unit_test(a_slot_starts_on_its_first_axes),
        cmocka_unit_test(an_id_or_a_name_that_is_there_is_refused),
        cmocka_unit_test(settings_out_of_range_are_refused_by_name),
        cmocka_unit_test(retention_left_out_is_completed_when_a_slot_is_added),
        cmocka_unit_test(retentions_differ_in_the_first_field_that_does),
        cmocka_unit_test(names_must_be_printable_utf8),
        cmocka_unit_test(a_copy_is_equal_and_stands_alone),
        cmocka_unit_test(a_layout_survives_its_bytes),
        cmocka_unit_test(a_slot_of_width_zero_survives_its_bytes),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(any_changed_byte_is_refused_or_gives_a_sound_layout),
        cmocka_unit_test(bases_that_are_none_are_refused),
        cmocka_unit_test(retention_that_contradicts_itself_is_refused_from_bytes),
        cmocka_unit_test(the_settings_of_ftrl_survive_their_bytes),
        cmocka_unit_test(tiers_start_as_wide_as_their_slot),
        cmocka_unit_test(tiers_that_do_not_ascend_are_refused),
        cmocka_unit_test(tiers_survive_their_bytes),
        cmocka_unit_test(tiers_that_contradict_themselves_are_refused_from_bytes),
        cmocka_unit_test(words_for_optimizers_and_inits_go_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
