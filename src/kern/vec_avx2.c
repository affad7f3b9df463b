/* vec_avx2: the vector operations of the avx2 table. */
#if defined(__x86_64__)
#include "kern/kern_internal.h"
#include "kern/simd_avx2.h"
#include "kern/vec_tmpl.h"

void kern_vec_init_avx2(struct kern *k)
{
    vec_init(k);
}
#else
typedef int vec_avx2_is_empty; /* a translation unit needs a declaration */
#endif
