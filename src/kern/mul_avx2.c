/*
 * mul_avx2: products with AVX2, FMA and F16C. See mulq_x86.h and mulf_x86.h for
 * the loops; here is what only this instruction set has.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#include "kern/kern_internal.h"

#if KERN_SANITIZED /* checks in every inlined copy take minutes to compile */
#define INLINE static __attribute__((unused))
#else
#define INLINE static inline __attribute__((always_inline))
#endif

enum { ROWS = 2, TILE_ROWS = 2, TILE_TOKENS = 2 };

/*
 * The product instruction multiplies unsigned by signed bytes and adds two
 * neighbours in 16 bits with saturation: exact for weights up to 128, so that
 * 8-bit weights must give their sign to the activation (never -128) first.
 */
enum { SIGNED_128 = 1 };

INLINE __m256i and_or(__m256i x, __m256i mask, __m256i y)
{
    return _mm256_or_si256(_mm256_and_si256(x, mask), y);
}

INLINE __m256i add_16_where(__m256i q, uint32_t bits)
{
    const __m256i which = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);
    __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    x = _mm256_cmpeq_epi8(_mm256_and_si256(x, which), which);
    return and_or(x, _mm256_set1_epi8(16), q);
}

INLINE __m256i dot(__m256i init, __m256i q, __m256i a, bool eight)
{
    if (eight) {
        a = _mm256_sign_epi8(a, q);
        q = _mm256_sign_epi8(q, q);
    }
    __m256i sum = _mm256_madd_epi16(_mm256_maddubs_epi16(q, a), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sum, init);
}

INLINE __m256i negative_sums(__m256i a, int offset)
{
    if (offset == 0)
        return _mm256_setzero_si256();
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8((char)offset), a),
                             _mm256_set1_epi16(-1));
}

#include "kern/mulf_x86.h"

void kern_mul_init_avx2(struct kern *k)
{
    set_mul(k);
}

#else
typedef int kern_mul_avx2_unused; /* a file must not be empty */
#endif
