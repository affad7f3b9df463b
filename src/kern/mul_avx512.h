/* mul_avx512: what mul_avx512.c and mulf_avx512.c share. */
#ifndef KERN_MUL_AVX512_H
#define KERN_MUL_AVX512_H

#include <immintrin.h>

#include "kern/kern.h"

/* Products with float activations, and quantize. */
void kern_mulf_init_avx512(struct kern *k);

/* The tree of kern.h. */
static inline float reduce16(__m512 acc)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

#endif
