/* vec_avx512: the vector operations of the avx512 table. */
#if defined(__x86_64__)
#include "kern/kern_internal.h"
#include "kern/simd_avx512.h"
#include "kern/vec_tmpl.h"

void kern_vec_init_avx512(struct kern *k)
{
    vec_init(k);
}
#else
typedef int vec_avx512_is_empty; /* a translation unit needs a declaration */
#endif
