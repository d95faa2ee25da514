/*
 * The instruction sets that some sources are compiled for, each once, and which of them the machine
 * runs.
 *
 * Such a source calls what it defines by the name in VARIANT, which the build sets beside the
 * compiler's flags. All variants of a thing are listed narrowest first, as VARIANTS() has them, and
 * the machine runs the first variants_run() of the list. No resolver has a part in this: one would
 * run before the sanitizers are there. Pure; any thread, from the constructors on.
 */
#ifndef SERVER_VARIANTS_H
#define SERVER_VARIANTS_H

#include "proto/base.h"

#ifdef __x86_64__
#define VARIANTS(X) X(baseline) X(avx2) X(avx512)
#else
#define VARIANTS(X) X(baseline) /* whatever the compiler takes for granted */
#endif

#define VARIANT_TEXT_OF(name)        #name
#define VARIANT_TEXT(name)           VARIANT_TEXT_OF(name)
#define VARIANT_NAME_OF(thing, name) thing##_##name
#define VARIANT_NAME(thing, name)    VARIANT_NAME_OF(thing, name)

static inline size_t variants_run(void) {
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi2"))
        return 1;
    return __builtin_cpu_supports("avx512f") ? 3 : 2;
#else
    return 1;
#endif
}

#endif
