/* neon: the table for ARMv8.0, which every 64-bit ARM has. */
#include "kern/kern_internal.h"

#if KERN_HAVE_ARM
#define NEON_DOTPROD 0
#define NEON_I8MM 0
#include "kern/simd_neon.h"
#include "kern/unpack_neon.h"

#include "kern/table_tmpl.h"

const struct kern kern_neon = KERN_TABLE("neon");
#endif
