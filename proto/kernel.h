/*
 * KERNEL marks a function that is nothing but loops over numbers: one clone an instruction set is
 * compiled, and the machine's best chosen when the program starts.
 *
 * Such a file also asks for O3: the build's -O2 leaves loops of unknown length scalar. Not under
 * the sanitizers, since a resolver runs before their runtime is there, and by gcc alone: clang
 * names the function that is called otherwise.
 */
#ifndef PROTO_KERNEL_H
#define PROTO_KERNEL_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) &&                        \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KERNEL
#endif

#endif
