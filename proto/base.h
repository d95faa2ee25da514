/*
 * Small things every module uses: checked errors with a detail text, unaligned access,
 * overflow-safe sizes. Nothing here allocates or blocks; all of it may be called from any thread.
 */
#ifndef PROTO_BASE_H
#define PROTO_BASE_H

#include "proto/dimfit_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MUST_CHECK             __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a)           (sizeof(a) / sizeof((a)[0]))

/* The text beside an error: the place and the next step. Empty when there is nothing to add. */
struct err_detail {
    char text[384];
};

/* Name of an error ("STALE_EPOCH") and its general text. A number from the wire is safe to pass:
 * an unknown one gives "UNKNOWN" and a text that says so. */
const char *err_name(dimfit_err err);
const char *err_text(dimfit_err err);

/* Write the detail text and return err, so that a refusal is one statement. detail may be NULL. */
dimfit_err err_set(struct err_detail *detail, dimfit_err err, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* Magic numbers: every object that crosses a thread, a callback or a void * starts with one. */
#define CHECK_OBJ_NOTNULL(obj, magic_value)                                                        \
    base_assert((obj) != NULL && (obj)->magic == (magic_value))

/* An assertion that stays on in release builds: prints the place and aborts. For internal contracts
 * only, never for bytes from the wire, files, options or plugins. */
#define base_assert(cond) ((cond) ? (void)0 : base_assert_failed(#cond, __FILE__, __LINE__))
__attribute__((noreturn)) void base_assert_failed(const char *cond, const char *file, int line);

/* Wire integers are little-endian and unaligned; so are the hosts dimfit builds on (configure
 * checks). memcpy compiles to one load. */
static inline void store_u64(void *p, uint64_t v) {
    memcpy(p, &v, sizeof v);
}

static inline void store_u32(void *p, uint32_t v) {
    memcpy(p, &v, sizeof v);
}

static inline uint64_t load_u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float load_f32(const void *p) {
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline double load_f64(const void *p) {
    double v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Begin to load a cache line, as far as the second level: a core can wait for twice as many lines
 * there as in the first, and batches of random rows are bound by how many it waits for. */
static inline void base_prefetch(const void *p) {
    __builtin_prefetch(p, 0, 2);
}

/* *out = a * b; false when it does not fit a size_t. */
static inline MUST_CHECK bool size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

#endif
