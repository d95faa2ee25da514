#include "proto/pack.h"

#include <lz4.h>

enum { EXPANSION = 255, EXPANSION_MORE = 16 };

size_t pack_bound(size_t len) {
    return len < PACK_LEAST || len > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_compressBound((int)len);
}

static bool pays(size_t packed, size_t len) {
    return packed > 0 && packed <= len - len / 8;
}

static bool sample_pays(const uint8_t *body, size_t len) {
    char packed[LZ4_COMPRESSBOUND(PACK_SAMPLE)];
    if (len <= PACK_SAMPLE)
        return true; /* the sample is the whole */
    const char *const sample = (const char *)body + (len - PACK_SAMPLE) / 2;
    return pays((size_t)LZ4_compress_default(sample, packed, PACK_SAMPLE, sizeof packed),
                PACK_SAMPLE);
}

size_t pack(const void *body, size_t len, void *out) {
    const size_t bound = pack_bound(len);
    if (bound == 0 || !sample_pays(body, len))
        return 0;
    const size_t packed = (size_t)LZ4_compress_default(body, out, (int)len, (int)bound);
    return pays(packed, len) ? packed : 0;
}

dimfit_err unpack_check(size_t len, uint64_t plain, uint64_t most, struct err_detail *detail) {
    if (plain > most)
        return err_set(detail, DIMFIT_ERR_PROTOCOL,
                       "a packed body says it is %llu bytes, at most %llu are taken",
                       (unsigned long long)plain, (unsigned long long)most);
    if (plain > LZ4_MAX_INPUT_SIZE || plain > (uint64_t)len * EXPANSION + EXPANSION_MORE)
        return err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu packed bytes can't be %llu bytes", len,
                       (unsigned long long)plain);
    return DIMFIT_OK;
}

dimfit_err unpack(const void *bytes, size_t len, void *out, size_t plain,
                  struct err_detail *detail) {
    if (len <= LZ4_MAX_INPUT_SIZE && plain <= LZ4_MAX_INPUT_SIZE &&
        LZ4_decompress_safe(bytes, out, (int)len, (int)plain) == (int)plain)
        return DIMFIT_OK;
    return err_set(detail, DIMFIT_ERR_PROTOCOL, "%zu packed bytes do not unpack to %zu", len,
                   plain);
}
