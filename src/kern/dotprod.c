/* dotprod: the table for ARM with dot products (FEAT_DotProd). */
#include "kern/kern_internal.h"

#if KERN_HAVE_ARM
#define NEON_DOTPROD 1
#define NEON_I8MM 0
#include "kern/simd_neon.h"
#include "kern/unpack_neon.h"

#include "kern/table_tmpl.h"

const struct kern kern_dotprod = KERN_TABLE("dotprod");
#endif
