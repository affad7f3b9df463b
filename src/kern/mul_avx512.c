/*
 * mul_avx512: products with AVX-512 VNNI in 256-bit registers. See mulq_x86.h
 * and mulf_x86.h for the loops; here is what only this instruction set has.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#include "kern/kern_internal.h"

#if KERN_SANITIZED /* checks in every inlined copy take minutes to compile */
#define INLINE static __attribute__((unused))
#else
#define INLINE static inline __attribute__((always_inline))
#endif

enum { ROWS = 4, TILE_ROWS = 4, TILE_TOKENS = 3 };

/* The product instruction wants unsigned times signed. */
enum { SIGNED_128 = 0 };

INLINE __m256i and_or(__m256i x, __m256i mask, __m256i y)
{
    return _mm256_ternarylogic_epi32(x, mask, y, 0xea);
}

INLINE __m256i add_16_where(__m256i q, uint32_t bits)
{
    return _mm256_mask_add_epi8(q, bits, q, _mm256_set1_epi8(16));
}

INLINE __m256i dot(__m256i init, __m256i q, __m256i a, bool eight)
{
    (void)eight;
    return _mm256_dpbusd_epi32(init, q, a);
}

INLINE __m256i negative_sums(__m256i a, int offset)
{
    const __m256i zero = _mm256_setzero_si256();
    if (offset == 0)
        return zero;
    return _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, _mm256_set1_epi8((char)offset), a));
}

#include "kern/mulf_x86.h"

void kern_mul_init_avx512(struct kern *k)
{
    set_mul(k);
}

#else
typedef int kern_mul_avx512_unused; /* a file must not be empty */
#endif
