/* avx512: the table for AVX-512 F, BW, DQ, VL and VNNI. */
#include "kern/kern_internal.h"

#if KERN_HAVE_X86
#include "kern/simd_avx512.h"
#include "kern/unpack_x86.h"

#include "kern/table_tmpl.h"

const struct kern kern_avx512 = KERN_TABLE("avx512");
#endif
