/*
 * kern_internal: how the files of this folder fill one table together.
 *
 * A table is filled by two functions per instruction set: kern_mul_init_*
 * (mul_*.c: the products with weight rows, and quantize) and kern_vec_init_*
 * (vec_*.c: everything else). kern.c calls both. The functions for x86 exist
 * only where the compiler targets x86-64; calling them asks nothing of the
 * processor, calling what they put into the table does.
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

void kern_mul_init_portable(struct kern *k);
void kern_vec_init_portable(struct kern *k);

#if defined(__x86_64__)
#define KERN_HAVE_X86 1
void kern_mul_init_avx2(struct kern *k); /* AVX2, FMA, F16C */
void kern_vec_init_avx2(struct kern *k);
void kern_mul_init_avx512(struct kern *k); /* F, BW, DQ, VL, VNNI */
void kern_vec_init_avx512(struct kern *k);
#else
#define KERN_HAVE_X86 0
#endif

#endif
