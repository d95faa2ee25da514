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

static uint32_t value_of(const struct slab *slab, uint32_t row) {
    return ((const uint32_t *)slab_row(slab, row))[slab->stride - 1];
}

static void a_chunk_that_is_taken_serves_another_slab(void **state) {
    enum { ROWS = 70000 }; /* three chunks of 16 cells */
    struct slab old, new;
    slab_fill(&old, 16, ROWS);
    slab_init(&new, 8);
    assert_int_equal(slab_reserve(&new, 65536), DIMFIT_OK);
    assert_int_equal(slab_chunk_bytes(&old, 0), SLAB_CHUNK_BYTES);
    const uint64_t before = slab_bytes(&new);
    float *const chunk = slab_take(&old, 0);
    assert_false(slab_give(&new, chunk, 65536)); /* has room for all of them */
    assert_true(slab_give(&new, chunk, ROWS));
    assert_true(slab_bytes(&new) >= before + SLAB_CHUNK_BYTES);
    *(uint32_t *)slab_row(&new, 65536) = 7;
    assert_int_equal(*(uint32_t *)slab_row(&new, 65536), 7);
    assert_int_equal(value_of(&old, 32768), 32768);
    slab_chunk_free(slab_take(&old, 1), slab_chunk_bytes(&old, 1));
    assert_int_equal(value_of(&old, ROWS - 1), ROWS - 1);
    slab_fini(&old); /* without those that left */
    slab_fini(&new);
}

static void a_slab_without_full_chunks_takes_none(void **state) {
    struct slab old, narrow, none;
    slab_fill(&old, 16, 70000);
    slab_init(&narrow, 8);
    slab_init(&none, 0);
    assert_int_equal(slab_reserve(&narrow, 100), DIMFIT_OK);
    float *const chunk = slab_take(&old, 0);
    assert_false(slab_give(&narrow, chunk, 70000));
    assert_false(slab_give(&none, chunk, 70000));
    slab_chunk_free(chunk, SLAB_CHUNK_BYTES);
    slab_fini(&old);
    slab_fini(&narrow);
}

static void rows_of_a_lent_chunk_are_read_where_it_stands(void **state) {
    struct slab slab;
    slab_fill(&slab, 4, 100); /* one chunk that is not full */
    const size_t bytes = slab_chunk_bytes(&slab, 0);
    assert_true(bytes >= 1600 && bytes <= 2048);
    float *const chunk = slab_take(&slab, 0), *const copy = malloc(bytes);
    memcpy(copy, chunk, bytes);
    slab_chunk_free(chunk, bytes);
    slab_lend(&slab, 0, copy);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(value_of(&slab, i), i);
    assert_true(slab_take(&slab, 0) == copy);
    slab_fini(&slab);
    free(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slab_rows_keep_their_content_while_it_grows),
        cmocka_unit_test(a_truncated_slab_keeps_its_first_rows),
        cmocka_unit_test(a_slab_without_width_costs_nothing),
        cmocka_unit_test(a_slab_without_memory_keeps_its_rows),
        cmocka_unit_test(a_chunk_that_is_taken_serves_another_slab),
        cmocka_unit_test(a_slab_without_full_chunks_takes_none),
        cmocka_unit_test(rows_of_a_lent_chunk_are_read_where_it_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
