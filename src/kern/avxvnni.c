/*
 * avxvnni: the table for AVX2, FMA, F16C and AVX-VNNI. Its words are those of simd_avx2.h,
 * where the flags that this file is compiled with (__AVXVNNI__) pick other products.
 */
#include "kern/kern_internal.h"

#if KERN_HAVE_X86
#include "kern/simd_avx2.h"
#include "kern/unpack_x86.h"

#include "kern/table_tmpl.h"

const struct kern kern_avxvnni = KERN_TABLE("avxvnni");
#endif
