/* vec_portable: the vector operations of the portable table. */
#include "kern/kern_internal.h"
#include "kern/simd_portable.h"
#include "kern/vec_tmpl.h"

void kern_vec_init_portable(struct kern *k)
{
    vec_init(k);
}
