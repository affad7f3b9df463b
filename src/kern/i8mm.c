/* i8mm: the table for ARM with dot and matrix products of bytes (FEAT_I8MM). */
#include "kern/kern_internal.h"

#if KERN_HAVE_ARM
#define NEON_DOTPROD 1
#define NEON_I8MM 1
#include "kern/simd_neon.h"
#include "kern/unpack_neon.h"

#include "kern/table_tmpl.h"

const struct kern kern_i8mm = KERN_TABLE("i8mm");
#endif
