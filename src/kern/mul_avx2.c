#if defined(__x86_64__)
#include "kern/kern_internal.h"
void kern_mul_init_avx2(struct kern *k)
{
    kern_mul_init_portable(k);
}
#else
typedef int kern_mul_avx2_unused;
#endif
