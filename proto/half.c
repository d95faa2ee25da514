#include "proto/half.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* clang knows no f16c to ask for; a processor with AVX2 has it. */
#ifdef __clang__
#define F16C "avx2"
#else
#define F16C "f16c"
#endif

enum { EIGHT = 8 };

#define LARGEST 65504.0f

uint16_t half_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00; /* NaN */
    if (bits >= 0x477fe000)
        return sign | 0x7bff; /* LARGEST */
    if (bits >= 0x38800000) { /* 2^-14 and up: 13 bits less, and another bias of the exponent */
        bits += 0xfff + (bits >> 13 & 1);
        return sign | (uint16_t)((bits - 0x38000000) >> 13);
    }
    /* Added to 1/2, the last bit of a float is 2^-24, as of a small half. */
    float small;
    memcpy(&small, &bits, sizeof small);
    small += 0.5f;
    memcpy(&bits, &small, sizeof bits);
    return sign | (uint16_t)(bits - 0x3f000000);
}

float half_value(uint16_t half) {
    const uint32_t exponent = half >> 10 & 31, fraction = half & 0x3ff;
    uint32_t bits = (uint32_t)(half & 0x8000) << 16;
    float x;
    if (exponent == 0) {
        x = (float)fraction * 0x1p-24f;
        return bits != 0 ? -x : x;
    }
    bits |= (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void encode_plain(const float *floats, size_t n, uint8_t *halves) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t half = half_of(floats[i]);
        memcpy(halves + i * sizeof half, &half, sizeof half);
    }
}

static void decode_plain(const uint8_t *halves, size_t n, float *floats) {
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, halves + i * sizeof half, sizeof half);
        floats[i] = half_value(half);
    }
}

#if defined(__x86_64__)
/* min and max give their second operand where the first is NaN: that way round it stays one. */
__attribute__((target("avx,f16c"))) static void encode_f16c(const float *floats, size_t n,
                                                            uint8_t *halves) {
    const __m256 most = _mm256_set1_ps(LARGEST), least = _mm256_set1_ps(-LARGEST);
    size_t i = 0;
    for (; i + EIGHT <= n; i += EIGHT) {
        __m256 x = _mm256_loadu_ps(floats + i);
        x = _mm256_max_ps(least, _mm256_min_ps(most, x));
        const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(void *)(halves + 2 * i), half);
    }
    encode_plain(floats + i, n - i, halves + 2 * i);
}

__attribute__((target("avx,f16c"))) static void decode_f16c(const uint8_t *halves, size_t n,
                                                            float *floats) {
    size_t i = 0;
    for (; i + EIGHT <= n; i += EIGHT) {
        const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(halves + 2 * i));
        _mm256_storeu_ps(floats + i, _mm256_cvtph_ps(half));
    }
    decode_plain(halves + 2 * i, n - i, floats + i);
}

static bool has_f16c(void) {
    return __builtin_cpu_supports("avx") && __builtin_cpu_supports(F16C);
}
#else
static bool has_f16c(void) {
    return false;
}
#define encode_f16c encode_plain
#define decode_f16c decode_plain
#endif

void half_encode(const float *floats, size_t n, uint8_t *halves) {
    (has_f16c() ? encode_f16c : encode_plain)(floats, n, halves);
}

void half_decode(const uint8_t *halves, size_t n, float *floats) {
    (has_f16c() ? decode_f16c : decode_plain)(halves, n, floats);
}
