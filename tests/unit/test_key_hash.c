#include "proto/key_hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum {
    CELL_BITS = 8,
    CELLS = 1 << CELL_BITS,
    KEYS = 64 * CELLS,
};

/*
 * Chi-square of KEYS hashes over CELLS cells: 255 degrees of freedom, so 255 on average with a
 * deviation of 22.6, and beyond LIMIT once in 10^10 for a random function. The bits are those that
 * choose the shard, the directory entry and the bucket.
 */
enum { LIMIT = 430 };

static const unsigned first_bits[] = {64 - CELL_BITS, 32, 40, 32 - CELL_BITS, 16};

static double chi_square(const uint64_t *hashes, unsigned first_bit) {
    unsigned counts[CELLS] = {0};
    for (size_t i = 0; i < KEYS; i++)
        counts[hashes[i] >> first_bit & (CELLS - 1)]++;
    double sum = 0;
    for (size_t c = 0; c < CELLS; c++) {
        const double off = (double)counts[c] - (double)KEYS / CELLS;
        sum += off * off / ((double)KEYS / CELLS);
    }
    return sum;
}

static void assert_spread(const uint64_t *hashes) {
    for (size_t b = 0; b < sizeof first_bits / sizeof first_bits[0]; b++)
        assert_true(chi_square(hashes, first_bits[b]) < LIMIT);
}

static void multiples_of_any_power_of_two_spread(void **state) {
    static uint64_t hashes[KEYS];
    for (unsigned shift = 0; shift <= 50; shift++) {
        for (uint64_t i = 0; i < KEYS; i++)
            hashes[i] = key_hash(7, i << shift);
        assert_spread(hashes);
    }
}

static void counted_feasigns_under_a_tag_spread(void **state) {
    static uint64_t hashes[KEYS];
    for (uint64_t tag = 1; tag < 65536; tag = 3 * tag + 1) {
        for (uint64_t i = 0; i < KEYS; i++)
            hashes[i] = key_hash(7, tag << 48 | i);
        assert_spread(hashes);
    }
}

static void feasigns_of_few_set_bits_spread(void **state) {
    static uint64_t hashes[KEYS];
    size_t n = 0;
    for (unsigned a = 0; a < 64; a++)
        for (unsigned b = 0; b < a; b++)
            for (unsigned c = 0; c < b && n < KEYS; c++)
                hashes[n++] = key_hash(7, (uint64_t)1 << a | (uint64_t)1 << b | (uint64_t)1 << c);
    assert_int_equal(n, KEYS);
    assert_spread(hashes);
}

static void one_feasign_spreads_over_slots(void **state) {
    static uint64_t hashes[KEYS];
    for (uint64_t feasign = 0; feasign < 4; feasign++) {
        for (uint32_t slot = 0; slot < KEYS; slot++)
            hashes[slot] = key_hash(slot, feasign);
        assert_spread(hashes);
    }
}

/* Every bit of the feasign or of the slot turns each bit of the hash half the time. */
static void every_bit_turns_every_bit(void **state) {
    enum { SAMPLES = 4096 };
    for (unsigned in = 0; in < 96; in++) {
        unsigned turned[64] = {0};
        for (uint64_t i = 0; i < SAMPLES; i++) {
            const uint64_t feasign = i << 20 | i;
            const uint64_t other = in < 64 ? key_hash(1, feasign ^ (uint64_t)1 << in)
                                           : key_hash(1 ^ (uint32_t)1 << (in - 64), feasign);
            const uint64_t change = key_hash(1, feasign) ^ other;
            for (unsigned out = 0; out < 64; out++)
                turned[out] += change >> out & 1;
        }
        for (unsigned out = 0; out < 64; out++) /* half, by seven deviations */
            assert_in_range(turned[out], SAMPLES / 2 - 224, SAMPLES / 2 + 224);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multiples_of_any_power_of_two_spread),
        cmocka_unit_test(counted_feasigns_under_a_tag_spread),
        cmocka_unit_test(feasigns_of_few_set_bits_spread),
        cmocka_unit_test(one_feasign_spreads_over_slots),
        cmocka_unit_test(every_bit_turns_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
