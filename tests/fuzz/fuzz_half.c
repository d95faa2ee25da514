/* Halves decode to floats that encode to them again; floats come back within the stated error; the
 * machine's conversion has the specification's bits. */
#include "proto/half.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void from_halves(const uint8_t *bytes, size_t n) {
    float *const floats = malloc(n * sizeof *floats + 1);
    uint8_t *const back = malloc(n * 2 + 1);
    REQUIRE(floats != NULL && back != NULL);
    half_decode(bytes, n, floats);
    half_encode(floats, n, back);
    for (size_t i = 0; i < n; i++) {
        uint16_t half, again;
        memcpy(&half, bytes + 2 * i, sizeof half);
        memcpy(&again, back + 2 * i, sizeof again);
        REQUIRE(isnan(floats[i]) ? isnan(half_value(half))
                                 : bits_of(half_value(half)) == bits_of(floats[i]));
        REQUIRE(!isfinite(floats[i]) || again == half);
    }
    free(back);
    free(floats);
}

static void from_floats(const uint8_t *bytes, size_t n) {
    float *const floats = malloc(n * sizeof *floats + 1), *const back = malloc(n * sizeof *back +
                                                                               1);
    uint8_t *const halves = malloc(n * 2 + 1);
    REQUIRE(floats != NULL && back != NULL && halves != NULL);
    if (n > 0)
        memcpy(floats, bytes, n * sizeof *floats);
    half_encode(floats, n, halves);
    half_decode(halves, n, back);
    for (size_t i = 0; i < n; i++) {
        const float x = floats[i];
        uint16_t half;
        memcpy(&half, halves + 2 * i, sizeof half);
        if (isnan(x))
            continue;
        REQUIRE(half == half_of(x) && isfinite(back[i]));
        const double size = fabs((double)x), error = fabs((double)x - (double)back[i]);
        REQUIRE(size > 65504 ? fabsf(back[i]) == 65504 : error <= fmax(size * 0x1p-11, 0x1p-25));
    }
    free(halves);
    free(back);
    free(floats);
}

bool fuzz_one(const uint8_t *bytes, size_t len) {
    from_halves(bytes, len / 2);
    from_floats(bytes, len / sizeof(float));
    return true;
}

void fuzz_seeds(struct fuzz_sink *sink) {
    const float floats[] = {0,       -0.0f,    1,     -1.5f, 65504,    65519,
                            65520,   -1e30f,   6e-8f, 2e-8f, 1e-40f,   0.33333f,
                            6.1e-5f, 0x1p-14f, 0.1f,  1e-9f, INFINITY, 2049};
    fuzz_put(sink, floats, sizeof floats);
    uint16_t halves[64];
    for (size_t i = 0; i < ARRAY_LEN(halves); i++)
        halves[i] = (uint16_t)(i * 1021);
    fuzz_put(sink, halves, sizeof halves);
}
