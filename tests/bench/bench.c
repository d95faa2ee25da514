#include "tests/bench/bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double bench_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void bench_die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

void *bench_alloc(size_t bytes) {
    void *const memory = malloc(bytes);
    if (memory == NULL)
        bench_die("no memory for %zu bytes", bytes);
    return memset(memory, 0, bytes);
}

/* The finalizer of SplitMix64 (Steele, Lea & Flood 2014). */
uint64_t bench_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t bench_key(uint64_t row) {
    return bench_mix(row + 1);
}

uint64_t bench_pick(uint64_t *state, uint64_t n) {
    *state += UINT64_C(0x9E3779B97F4A7C15);
    return bench_mix(*state) % n;
}

uint64_t bench_draw(uint64_t *state) {
    return bench_pick(state, BENCH_ROWS);
}

void bench_noise(float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        values[i] = (float)((double)(int64_t)bench_mix(i + 1) * 0x1p-63 * 1e-3);
}

void series_add(struct series *series, double value, double reference) {
    if (series->n == BENCH_ROUNDS_MAX)
        bench_die("%s: more than %d rounds", series->name, BENCH_ROUNDS_MAX);
    if (series->against != NULL && !(reference > 0))
        bench_die("%s: %s is %g", series->name, series->against, reference);
    series->values[series->n] = value;
    series->references[series->n++] = reference;
}

static void print_numbers(const double *numbers, size_t n) {
    for (size_t i = 0; i < n; i++)
        printf("%s%.9g", i > 0 ? ", " : "", numbers[i]);
}

void series_print(const struct series *series) {
    printf("{\"name\": \"%s\", \"unit\": \"%s\", \"values\": [", series->name, series->unit);
    print_numbers(series->values, series->n);
    printf("]");
    if (series->against != NULL) {
        printf(", \"against\": \"%s\", \"references\": [", series->against);
        print_numbers(series->references, series->n);
        printf("]");
    }
    printf("}\n");
    fflush(stdout);
}

bool bench_wanted(const char *name, char *const *names, int n_names) {
    for (int i = 0; i < n_names; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return n_names == 0;
}
