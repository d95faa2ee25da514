#include "server/slab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* The library's aligned allocations come through here, so that a test may have them fail, and see
 * what was asked for. */
static bool refuse_memory;
static size_t allocated;

void *aligned_alloc(size_t alignment, size_t size) {
    void *memory;
    if (refuse_memory || posix_memalign(&memory, alignment, size) != 0)
        return NULL;
    allocated += size;
    return memory;
}

static void slab_rows_keep_their_content_while_it_grows(void **state) {
    static const size_t strides[] = {1, 3, 16, 33, 1025};
    for (size_t s = 0; s < ARRAY_LEN(strides); s++) {
        const uint32_t rows = 3000000 / (uint32_t)strides[s];
        struct slab slab;
        slab_init(&slab, strides[s]);
        for (uint32_t i = 0; i < rows; i++) {
            assert_int_equal(slab_reserve(&slab, (uint64_t)i + 1), DIMFIT_OK);
            *(uint32_t *)slab_row(&slab, i) = i;
            ((uint32_t *)slab_row(&slab, i))[strides[s] - 1] = i;
        }
        for (uint32_t i = 0; i < rows; i++) {
            assert_int_equal(*(uint32_t *)slab_row(&slab, i), i);
            assert_int_equal(((uint32_t *)slab_row(&slab, i))[strides[s] - 1], i);
        }
        const uint64_t used = (uint64_t)rows * strides[s] * sizeof(float);
        assert_true(slab_bytes(&slab) >= used);
        assert_true(slab_bytes(&slab) <= used + used / 256 + (3 << 20));
        assert_true(slab_bytes_for(strides[s], rows) <= slab_bytes(&slab));
        slab_fini(&slab);
        assert_int_equal(slab_bytes(&slab), 0);
    }
}

static void a_truncated_slab_keeps_its_first_rows(void **state) {
    enum { ROWS = 200000 };
    struct slab slab;
    slab_init(&slab, 16);
    assert_int_equal(slab_reserve(&slab, ROWS), DIMFIT_OK);
    for (uint32_t i = 0; i < ROWS; i++)
        *(uint32_t *)slab_row(&slab, i) = i;
    while (slab_truncate(&slab, 70000))
        continue;
    assert_true(slab_bytes(&slab) <= 70000 * 64 + (3 << 20));
    for (uint32_t i = 0; i < 70000; i++)
        assert_int_equal(*(uint32_t *)slab_row(&slab, i), i);
    assert_int_equal(slab_reserve(&slab, ROWS), DIMFIT_OK);
    *(uint32_t *)slab_row(&slab, ROWS - 1) = 7;
    while (slab_truncate(&slab, 0))
        continue;
    assert_int_equal(*(uint32_t *)slab_row(&slab, 3), 3);
    assert_true(slab_bytes(&slab) <= 3 << 20);
    slab_fini(&slab);
}

static void a_slab_without_width_costs_nothing(void **state) {
    struct slab slab;
    slab_init(&slab, 0);
    assert_int_equal(slab_reserve(&slab, 1000000), DIMFIT_OK);
    assert_non_null(slab_row(&slab, 0));
    assert_non_null(slab_row(&slab, UINT32_MAX - 1));
    assert_int_equal(slab_bytes(&slab), 0);
    slab_fini(&slab);
}

static void a_slab_without_memory_keeps_its_rows(void **state) {
    struct slab slab;
    slab_init(&slab, 4);
    assert_int_equal(slab_reserve(&slab, 4), DIMFIT_OK);
    *(float *)slab_row(&slab, 3) = 42;
    refuse_memory = true;
    assert_int_equal(slab_reserve(&slab, 5), DIMFIT_ERR_NOMEM);
    refuse_memory = false;
    assert_int_equal(slab_reserve(&slab, UINT32_MAX), DIMFIT_ERR_NOMEM);
    assert_true(*(float *)slab_row(&slab, 3) == 42);
    slab_fini(&slab);
}

static void slab_fill(struct slab *slab, size_t stride, uint32_t rows) {
    slab_init(slab, stride);
    assert_int_equal(slab_reserve(slab, rows), DIMFIT_OK);
    for (uint32_t i = 0; stride > 0 && i < rows; i++)
        ((uint32_t *)slab_row(slab, i))[0] = ((uint32_t *)slab_row(slab, i))[stride - 1] = i;
}

/* Each row's number from its old cells to its new ones, a run at a time. */
static void refill_rows(struct slab_refill *refill, uint32_t rows) {
    struct slab *const old = refill->old, *const new = &refill->new;
    for (uint32_t first = 0, n; first < rows; first += n) {
        slab_refill_reach(refill, first);
        n = slab_run(old, first) < slab_run(new, first) ? slab_run(old, first)
                                                        : slab_run(new, first);
        n = n < rows - first ? n : rows - first;
        const uint32_t *from = slab_row(old, first);
        uint32_t *to = slab_row(new, first);
        for (uint32_t i = 0; i < n; i++, from += old->stride, to += new->stride)
            to[0] = to[new->stride - 1] = from[old->stride - 1];
    }
}

/* Narrower, alike and wider; of no full chunk, of some, of many. */
static void a_refilled_slab_holds_every_row_at_its_new_width(void **state) {
    static const size_t strides[][2] = {{16, 8}, {16, 4}, {16, 16}, {4, 16}, {16, 1},
                                        {3, 2},  {7, 5},  {5, 7},   {1, 16}, {300, 299}};
    static const uint32_t counts[] = {0, 1, 5, 1000, 40000, 131072, 700001};
    for (size_t s = 0; s < ARRAY_LEN(strides); s++) {
        for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
            const size_t from = strides[s][0], to = strides[s][1];
            const uint32_t rows = counts[c] / (uint32_t)(1 + from / 50);
            struct slab slab;
            struct slab_refill refill;
            slab_fill(&slab, from, rows);
            const uint64_t said = slab_refill_bytes(&slab, to, rows);
            allocated = 0;
            assert_int_equal(slab_refill_begin(&refill, &slab, to, rows), DIMFIT_OK);
            assert_true(allocated <= said + 64 && said <= allocated + 4096);
            allocated = 0;
            refill_rows(&refill, rows);
            slab_refill_end(&refill);
            assert_int_equal(allocated, 0);
            assert_int_equal(slab.stride, to);
            assert_true(slab_bytes(&slab) == slab_bytes_for(to, rows));
            for (uint32_t i = 0; i < rows; i++) {
                assert_int_equal(((uint32_t *)slab_row(&slab, i))[0], i);
                assert_int_equal(((uint32_t *)slab_row(&slab, i))[to - 1], i);
            }
            assert_int_equal(slab_reserve(&slab, 2 * (uint64_t)rows), DIMFIT_OK);
            slab_fini(&slab);
        }
    }
}

static void a_narrower_slab_asks_for_one_chunk_and_lives_on_the_old_ones(void **state) {
    struct slab slab;
    slab_fill(&slab, 16, 1000000);
    assert_true(slab_refill_bytes(&slab, 8, 1000000) <= (2 << 20) + 4096);
    assert_true(slab_refill_bytes(&slab, 16, 1000000) <= (2 << 20) + 4096);
    assert_true(slab_refill_bytes(&slab, 0, 1000000) == 0);
    slab_fini(&slab);
}

static void a_refill_without_memory_leaves_the_slab_as_it_was(void **state) {
    struct slab slab;
    struct slab_refill refill;
    slab_fill(&slab, 16, 100000);
    refuse_memory = true;
    assert_int_equal(slab_refill_begin(&refill, &slab, 8, 100000), DIMFIT_ERR_NOMEM);
    refuse_memory = false;
    assert_int_equal(slab_refill_begin(&refill, &slab, 8, 100000), DIMFIT_OK);
    slab_refill_drop(&refill);
    for (uint32_t i = 0; i < 100000; i++)
        assert_int_equal(((uint32_t *)slab_row(&slab, i))[15], i);
    slab_fini(&slab);
}

static void a_slab_comes_and_goes_with_its_width(void **state) {
    struct slab slab;
    struct slab_refill refill;
    slab_fill(&slab, 16, 100000);
    assert_int_equal(slab_refill_begin(&refill, &slab, 0, 100000), DIMFIT_OK);
    slab_refill_reach(&refill, 99999);
    assert_non_null(slab_row(&refill.new, 99999));
    slab_refill_end(&refill);
    assert_int_equal(slab_bytes(&slab), 0);
    assert_int_equal(slab_refill_begin(&refill, &slab, 4, 100000), DIMFIT_OK);
    slab_refill_reach(&refill, 99999);
    *(float *)slab_row(&refill.new, 99999) = 1;
    slab_refill_end(&refill);
    assert_true(slab_bytes(&slab) == slab_bytes_for(4, 100000));
    slab_fini(&slab);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slab_rows_keep_their_content_while_it_grows),
        cmocka_unit_test(a_truncated_slab_keeps_its_first_rows),
        cmocka_unit_test(a_slab_without_width_costs_nothing),
        cmocka_unit_test(a_slab_without_memory_keeps_its_rows),
        cmocka_unit_test(a_refilled_slab_holds_every_row_at_its_new_width),
        cmocka_unit_test(a_narrower_slab_asks_for_one_chunk_and_lives_on_the_old_ones),
        cmocka_unit_test(a_refill_without_memory_leaves_the_slab_as_it_was),
        cmocka_unit_test(a_slab_comes_and_goes_with_its_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
