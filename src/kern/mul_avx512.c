/*
 * mul_avx512: products with AVX-512 VNNI, in 256-bit registers except for many
 * tokens. See mulq_x86.h, packed_x86.h and mulf_x86.h for the loops; here is
 * what only this instruction set has.
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

/* Small loops over arrays of registers must vanish. Without inlining they cannot,
 * and clang would warn. */
#if KERN_SANITIZED
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

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

INLINE __m256i dot(__m256i sum, __m256i q, __m256i a, int top)
{
    (void)top;
    return _mm256_dpbusd_epi32(sum, q, a);
}

/* ---- many tokens --------------------------------------------------------- */

enum { WIDE = 16, PACK_TOKENS = 8, BIAS = 128 };
#define PACK_TOKENS_IS_8 1

typedef __m512i wide;
typedef __m512 widef;

INLINE wide wide_zero(void) { return _mm512_setzero_si512(); }
INLINE wide wide_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void wide_store(void *p, wide x) { _mm512_storeu_si512(p, x); }
INLINE widef wide_to_float(wide x) { return _mm512_cvtepi32_ps(x); }
INLINE widef widef_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void widef_store(float *p, widef x) { _mm512_storeu_ps(p, x); }
INLINE widef widef_splat(const float *p) { return _mm512_set1_ps(*p); }
INLINE widef widef_add(widef a, widef b) { return _mm512_add_ps(a, b); }
INLINE widef widef_mul(widef a, widef b) { return _mm512_mul_ps(a, b); }
INLINE widef widef_fmadd(widef a, widef b, widef c) { return _mm512_fmadd_ps(a, b, c); }
INLINE widef widef_fnmadd(widef a, widef b, widef c) { return _mm512_fnmadd_ps(a, b, c); }

INLINE wide wide_splat(const void *p) /* 4 bytes */
{
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

INLINE wide wide_dot(wide acc, wide q, wide a, int top)
{
    (void)top;
    return _mm512_dpbusd_epi32(acc, q, a);
}

/* to[k] = dword k of the 16 rows of 32 bytes, `stride` apart. */
INLINE void wide_transpose(wide to[8], const void *rows, size_t stride)
{
    const char *from = rows;
    wide a[8], b[8];
    for (int i = 0; i < 8; i++) { /* 0-3 and 4-7, 8-11 and 12-15 share registers */
        const char *p = from + (size_t)(i % 4 + 8 * (i / 4)) * stride;
        __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(p + 4 * stride));
        a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    for (int i = 0; i < 8; i += 4) { /* quarters: dwords j and j + 4 of 4 rows */
        wide ab = _mm512_unpacklo_epi32(a[i], a[i + 1]), cd = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm512_unpacklo_epi64(ab, cd);
        b[i + 1] = _mm512_unpackhi_epi64(ab, cd);
        ab = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        cd = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i + 2] = _mm512_unpacklo_epi64(ab, cd);
        b[i + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    for (int i = 0; i < 4; i++) {
        to[i] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0x88);
        to[i + 4] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0xdd);
    }
}

#include "kern/mulf_x86.h"

void kern_mul_init_avx512(struct kern *k)
{
    set_mul(k);
}

#else
typedef int kern_mul_avx512_unused; /* a file must not be empty */
#endif
