/*
 * kern_internal: the tables, one for each instruction set, and what all of
 * their files say in the same way.
 *
 * A table is constant data: nothing of an instruction set's file runs before
 * kern.c has asked the processor. The same is why everything that such a file
 * shares with others is static: a function compiled for one processor can never
 * stand in for that of another.
 *
 * The loops are written over words that the simd_NAME.h of an instruction set
 * defines, all of them:
 *   described in     words
 *   simd_x86.h       f32x8 i32x8 i8x32 and what is done with these: f32x8_* i32x8_*
 *                    i8x32_*; dots_start dots_to_float cross quantize_block
 *   mulq_tmpl.h      ROWS SIGNED_128 dot add_up
 *   panel_tmpl.h     wide widef and wide_* widef_*; WIDE VECS PANEL_TOKENS
 *                    PANEL_TOKENS_IS_8 BIAS OWN_TILE, and with that tile_rows tile_token
 *                    tile_dot, without it wide_dot wide_steps wide_sums token_bias
 *   mulf_tmpl.h      TILE_ROWS TILE_TOKENS
 *   simd_portable.h  vf vi vm and v_* vi_*; SIMD_ACC, and V_INLINE, which stands before
 *                    functions over these
 * and those of the formats that its unpack_NAME.h defines (unpack.h). The types are C
 * types of a fixed size, registers or structs of registers, and so are the arrays that
 * the loops make of them: vectors whose length is known at run time only (SVE, RVV)
 * would need it fixed by the compiler's flags.
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
extern const struct kern kern_neon, kern_dotprod, kern_i8mm;   /* where KERN_HAVE_ARM */

#endif
