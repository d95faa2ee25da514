/*
 * What the benchmark programs share: a clock, keys, and series of measurements.
 *
 * A series is one quantity, measured in rounds beside its reference; scripts/bench reads the lines
 * that series_print() writes and does the statistics. Any failure ends the program with a text: a
 * figure of a run that went wrong is none.
 */
#ifndef TESTS_BENCH_H
#define TESTS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BENCH_ROWS = 1000000, /* rows of the model */
    BENCH_BATCH = 10000,  /* keys of a request */
    BENCH_WIDTH = 16,     /* floats of a row */
    BENCH_ROUNDS_MAX = 1001,
};

struct series {
    const char *name, *unit;
    const char *against; /* what the reference is; NULL: there is none */
    size_t n;
    double values[BENCH_ROUNDS_MAX], references[BENCH_ROUNDS_MAX];
};

double bench_seconds(void); /* a clock that only goes on */
_Noreturn void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *bench_alloc(size_t bytes); /* zeroed, touched; never NULL */

uint64_t bench_mix(uint64_t x);                   /* a permutation of 64-bit numbers */
uint64_t bench_key(uint64_t row);                 /* the feasign of a row */
uint64_t bench_draw(uint64_t *state);             /* a random row, 0 .. BENCH_ROWS - 1 */
uint64_t bench_pick(uint64_t *state, uint64_t n); /* a random number, 0 .. n - 1 */

/* Small numbers of either sign, as gradients are. */
void bench_noise(float *values, size_t n);

/* reference is ignored where the series has none. */
void series_add(struct series *series, double value, double reference);
void series_print(const struct series *series);

/* Was this measurement asked for? Everything is when no names are given. */
bool bench_wanted(const char *name, char *const *names, int n_names);

#endif
