/*
 * kern_internal: the tables, one for each instruction set, and what all of
 * their files say in the same way.
 *
 * A table is constant data: nothing of an instruction set's file runs before
 * kern.c has asked the processor. The same is why everything that such a file
 * shares with others is static: a function compiled for one processor can never
 * stand in for that of another.
 */
#ifndef KERN_INTERNAL_H
#define KERN_INTERNAL_H

#include "kern/kern.h"

#if defined(__has_feature)
#define KERN_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KERN_SANITIZED 1
#else
#define KERN_SANITIZED 0
#endif

#if KERN_SANITIZED /* checks in every inlined copy take minutes to compile */
#define INLINE static __attribute__((unused))
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Stands before small loops over arrays of registers, which must vanish for the
 * arrays to live in registers. Without inlining they cannot, and clang would warn. */
#if KERN_SANITIZED
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__x86_64__)
#define KERN_HAVE_X86 1
#else
#define KERN_HAVE_X86 0
#endif

#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#define KERN_HAVE_ARM 1
#else
#define KERN_HAVE_ARM 0
#endif

extern const struct kern kern_portable;
extern const struct kern kern_avx2, kern_avxvnni, kern_avx512; /* where KERN_HAVE_X86 */
extern const struct kern kern_neon, kern_dotprod, kern_i8mm;    /* where KERN_HAVE_ARM */

#endif
