#include "server/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct stats *new_stats(uint64_t epoch) {
    struct stats *stats;
    assert_int_equal(stats_new(epoch, &stats), DIMFIT_OK);
    return stats;
}

static void fill(double *values, size_t n, double first) {
    for (size_t i = 0; i < n; i++)
        values[i] = first + (double)i;
}

static struct slot_stats *add_slot(struct stats *stats, uint32_t slot, uint32_t w, double value) {
    struct slot_stats *const s = stats_add_slot(stats, slot, 0, w, true);
    assert_non_null(s);
    s->rows = 10;
    s->lookups = 100;
    fill(s->sum, w, value);
    fill(s->second, w * w, value);
    fill(s->looked_sum, w, value);
    fill(s->looked_second, w * w, value);
    return s;
}

static void scored(struct slot_stats *s, double value) {
    s->row_score = calloc(s->width, sizeof *s->row_score);
    assert_non_null(s->row_score);
    fill(s->row_score, s->width, value);
}

static struct step_slot *add_part(struct step_stats *step, uint32_t slot, uint32_t w,
                                  double value) {
    struct step_slot *const s = step_add_slot(step, slot, 0, w, true);
    assert_non_null(s);
    fill(s->g, w, value);
    fill(s->C, w * w, value);
    fill(s->b, w, value);
    return s;
}

static void add_worker(struct step_stats *step, uint64_t worker, uint64_t samples) {
    assert_int_equal(step_add_worker(step, worker, samples), DIMFIT_OK);
}

/* A shard with slots 2 and 7 and steps 10 and 30. */
static struct stats *shard_one(void) {
    struct stats *const stats = new_stats(4);
    scored(add_slot(stats, 2, 2, 1), 1);
    add_slot(stats, 7, 3, 100);
    struct step_stats *step = stats_add_step(stats, 10);
    add_part(step, 2, 2, 1);
    add_part(step, 7, 3, 2);
    add_worker(step, 5, 64);
    add_worker(step, 3, 32);
    step = stats_add_step(stats, 30);
    add_part(step, 7, 3, 4);
    add_worker(step, 5, 8);
    return stats;
}

/* A shard with slots 1 and 7 and steps 10 and 20. */
static struct stats *shard_two(void) {
    struct stats *const stats = new_stats(4);
    add_slot(stats, 1, 1, 5);
    scored(add_slot(stats, 7, 3, 1000), 3);
    struct step_stats *step = stats_add_step(stats, 10);
    add_part(step, 1, 1, 9);
    add_part(step, 7, 3, 20);
    add_worker(step, 3, 33);
    step = stats_add_step(stats, 20);
    add_part(step, 1, 1, 9);
    add_worker(step, 8, 16);
    return stats;
}

static void parts_add_up_to_the_union(void **state) {
    struct stats *all = shard_one(), *part = shard_two();
    assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
    assert_int_equal(all->n_slots, 3);
    assert_int_equal(all->n_steps, 3);
    assert_null(stats_find(all, 3, 0));
    const struct slot_stats *const seven = stats_find(all, 7, 0);
    assert_int_equal(seven->rows, 20);
    assert_true(seven->lookups == 200);
    assert_true(seven->sum[2] == 102 + 1002 && seven->second[8] == 108 + 1008);
    assert_true(seven->looked_sum[0] == 1100 && seven->looked_second[4] == 104 + 1004);
    assert_true(seven->row_score[1] == 4); /* the first shard had not scored it */
    assert_true(stats_find(all, 2, 0)->row_score[1] == 2);
    assert_null(stats_find(all, 1, 0)->row_score);
    const uint64_t steps[] = {10, 20, 30};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(all->steps[i].step, steps[i]);
    assert_int_equal(all->steps[0].n_slots, 3);
    assert_true(all->steps[0].slots[0].g[0] == 9);
    assert_true(all->steps[0].slots[2].g[1] == 3 + 21);
    assert_true(all->steps[0].slots[2].C[8] == 10 + 28 && all->steps[0].slots[2].b[0] == 22);
    stats_destroy(&all);
    stats_destroy(&part);
}

static void the_order_of_shards_does_not_matter(void **state) {
    struct stats *a = shard_one(), *b = shard_two(), *c = shard_one(), *d = shard_two();
    struct buf x, y;
    buf_init(&x);
    buf_init(&y);
    assert_int_equal(stats_merge(a, b, NULL), DIMFIT_OK);
    assert_int_equal(stats_merge(d, c, NULL), DIMFIT_OK);
    stats_encode(a, &x);
    stats_encode(d, &y);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_fini(&x);
    buf_fini(&y);
    stats_destroy(&a);
    stats_destroy(&b);
    stats_destroy(&c);
    stats_destroy(&d);
}

static void samples_count_once_a_step_and_worker_the_largest_seen(void **state) {
    struct stats *all = shard_one(), *part = shard_two();
    assert_int_equal(stats_samples(all), 64 + 32 + 8);
    assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
    assert_int_equal(stats_samples(all), 64 + 33 + 8 + 16);
    stats_destroy(&all);
    stats_destroy(&part);
}

static void a_step_evicted_on_any_shard_counts_on_none(void **state) {
    struct stats *all = shard_one(), *part = shard_two();
    assert_int_equal(stats_add_evicted(part, 99), DIMFIT_OK);
    assert_int_equal(stats_add_evicted(part, 10), DIMFIT_OK); /* in no order */
    assert_int_equal(stats_add_evicted(all, 99), DIMFIT_OK);
    assert_true(stats_step_evicted(part, 10));
    assert_int_equal(stats_samples(part), 16);
    assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
    assert_int_equal(all->n_evicted, 2);
    assert_int_equal(all->evicted[0], 10);
    assert_int_equal(all->evicted[1], 99);
    assert_true(stats_step_evicted(all, 10) && !stats_step_evicted(all, 30));
    assert_int_equal(stats_samples(all), 8 + 16);
    for (uint64_t step = 200; step < 300; step++)
        assert_int_equal(stats_add_evicted(all, step), DIMFIT_OK);
    assert_true(stats_step_evicted(all, 299));
    stats_destroy(&all);
    stats_destroy(&part);
}

static void moments_that_one_shard_lacks_are_lacking(void **state) {
    struct stats *all = shard_one(), *part = new_stats(4);
    struct slot_stats *const bare = stats_add_slot(part, 2, 0, 2, false);
    bare->rows = 1;
    struct step_stats *const step = stats_add_step(part, 30);
    struct step_slot *const slot = step_add_slot(step, 7, 0, 3, false);
    slot->g[0] = 1;
    assert_int_equal(stats_merge(all, part, NULL), DIMFIT_OK);
    assert_null(stats_find(all, 2, 0)->sum);
    assert_null(stats_find(all, 2, 0)->looked_second);
    assert_non_null(stats_find(all, 7, 0)->sum);
    assert_int_equal(stats_find(all, 2, 0)->rows, 11);
    assert_null(all->steps[1].slots[0].C);
    assert_null(all->steps[1].slots[0].b);
    assert_true(all->steps[1].slots[0].g[0] == 5);
    assert_non_null(all->steps[0].slots[0].C);
    stats_destroy(&all);
    stats_destroy(&part);
}

static void parts_that_do_not_belong_together_are_refused_whole(void **state) {
    struct stats *all = shard_one(), *part = new_stats(5);
    struct err_detail detail;
    assert_int_equal(stats_merge(all, part, &detail), DIMFIT_ERR_STALE_EPOCH);
    stats_destroy(&part);

    part = new_stats(4);
    add_slot(part, 2, 2, 1);
    add_slot(part, 7, 4, 1);
    assert_int_equal(stats_merge(all, part, &detail), DIMFIT_ERR_PROTOCOL);
    assert_string_equal(detail.text,
                        "slot 7: statistics of shards are 3 and 4 wide in the same epoch");
    assert_int_equal(stats_find(all, 2, 0)->rows, 10);
    stats_destroy(&part);

    part = new_stats(4);
    add_part(stats_add_step(part, 10), 7, 2, 1);
    assert_int_equal(stats_merge(all, part, &detail), DIMFIT_ERR_PROTOCOL);
    stats_destroy(&part);
    stats_destroy(&all);
}

static struct buf bytes_of(const struct stats *stats) {
    struct buf bytes;
    buf_init(&bytes);
    stats_encode(stats, &bytes);
    assert_int_equal(buf_status(&bytes), DIMFIT_OK);
    return bytes;
}

static struct stats *whole(void) {
    struct stats *const stats = shard_one();
    assert_non_null(stats_add_slot(stats, 8, 0, 0, true));
    assert_non_null(stats_add_slot(stats, 9, 0, 2, false));
    assert_non_null(stats_add_step(stats, 40));
    assert_int_equal(stats_add_evicted(stats, 3), DIMFIT_OK);
    assert_int_equal(stats_add_evicted(stats, 6), DIMFIT_OK);
    return stats;
}

static void statistics_survive_their_bytes(void **state) {
    struct stats *stats = whole(), *back;
    struct buf bytes = bytes_of(stats);
    assert_int_equal(stats_decode(bytes.data, bytes.len, &back, NULL), DIMFIT_OK);
    assert_int_equal(back->epoch, 4);
    assert_true(back->slots[1].looked_second[8] == 108);
    assert_null(back->slots[3].sum);
    assert_true(back->steps[0].slots[1].b[2] == 4);
    assert_int_equal(back->steps[0].workers[0].worker, 3);
    assert_int_equal(back->n_evicted, 2);
    struct buf again = bytes_of(back);
    assert_int_equal(bytes.len, again.len);
    assert_memory_equal(bytes.data, again.data, again.len);
    buf_fini(&bytes);
    buf_fini(&again);
    stats_destroy(&stats);
    stats_destroy(&back);
}

/* On the heap at its exact size, so that a sanitizer sees one byte too far. */
static dimfit_err decode_exact(const uint8_t *bytes, size_t len) {
    uint8_t *const exact = malloc(len > 0 ? len : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    struct stats *stats = NULL;
    struct err_detail detail = {""};
    const dimfit_err err = stats_decode(exact, len, &stats, &detail);
    assert_true(err == DIMFIT_OK || (err == DIMFIT_ERR_PROTOCOL && detail.text[0] != 0));
    assert_true((err == DIMFIT_OK) == (stats != NULL));
    stats_destroy(&stats);
    free(exact);
    return err;
}

static void every_truncation_is_refused(void **state) {
    struct stats *stats = whole();
    struct buf bytes = bytes_of(stats);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(decode_exact(bytes.data, n), DIMFIT_ERR_PROTOCOL);
    buf_put_u8(&bytes, 0);
    assert_int_equal(decode_exact(bytes.data, bytes.len), DIMFIT_ERR_PROTOCOL);
    buf_fini(&bytes);
    stats_destroy(&stats);
}

static void any_changed_byte_is_refused_or_decodes(void **state) {
    struct stats *stats = whole();
    struct buf bytes = bytes_of(stats);
    for (size_t i = 0; i < bytes.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes.data[i] ^= (uint8_t)(1 << bit);
            (void)decode_exact(bytes.data, bytes.len);
            bytes.data[i] ^= (uint8_t)(1 << bit);
        }
        const uint8_t byte = bytes.data[i];
        bytes.data[i] = 0xff;
        (void)decode_exact(bytes.data, bytes.len);
        bytes.data[i] = byte;
    }
    buf_fini(&bytes);
    stats_destroy(&stats);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_add_up_to_the_union),
        cmocka_unit_test(the_order_of_shards_does_not_matter),
        cmocka_unit_test(samples_count_once_a_step_and_worker_the_largest_seen),
        cmocka_unit_test(a_step_evicted_on_any_shard_counts_on_none),
        cmocka_unit_test(moments_that_one_shard_lacks_are_lacking),
        cmocka_unit_test(parts_that_do_not_belong_together_are_refused_whole),
        cmocka_unit_test(statistics_survive_their_bytes),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(any_changed_byte_is_refused_or_decodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
