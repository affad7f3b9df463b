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

/* Small loops over arrays of registers must vanish. Without inlining they cannot,
 * and clang would warn. */
#if KERN_SANITIZED
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

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

INLINE __m256i dot(__m256i sum, __m256i q, __m256i a, int top)
{
    if (top > 127) {
        a = _mm256_sign_epi8(a, q);
        q = _mm256_sign_epi8(q, q);
    }
    q = _mm256_madd_epi16(_mm256_maddubs_epi16(q, a), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sum, q);
}

/* ---- many tokens --------------------------------------------------------- */

enum { WIDE = 8, PACK_TOKENS = 4, BIAS = 64 };
#define PACK_TOKENS_IS_8 0

typedef __m256i wide;
typedef __m256 widef;

INLINE wide wide_zero(void) { return _mm256_setzero_si256(); }
INLINE wide wide_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void wide_store(void *p, wide x) { _mm256_storeu_si256(p, x); }
INLINE widef wide_to_float(wide x) { return _mm256_cvtepi32_ps(x); }
INLINE widef widef_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void widef_store(float *p, widef x) { _mm256_storeu_ps(p, x); }
INLINE widef widef_splat(const float *p) { return _mm256_set1_ps(*p); }
INLINE widef widef_add(widef a, widef b) { return _mm256_add_ps(a, b); }
INLINE widef widef_mul(widef a, widef b) { return _mm256_mul_ps(a, b); }
INLINE widef widef_fmadd(widef a, widef b, widef c) { return _mm256_fmadd_ps(a, b, c); }
INLINE widef widef_fnmadd(widef a, widef b, widef c) { return _mm256_fnmadd_ps(a, b, c); }

INLINE wide wide_splat(const void *p) /* 4 bytes */
{
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

INLINE wide wide_dot(wide acc, wide q, wide a, int top)
{
    return dot(acc, q, a, top);
}

/* to[k] = dword k of the 8 rows of 32 bytes, `stride` apart. */
INLINE void wide_transpose(wide to[8], const void *rows, size_t stride)
{
    const char *from = rows;
    wide a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = wide_load(from + (size_t)i * stride);
    for (int i = 0; i < 8; i += 4) { /* halves: dwords j and j + 4 of 4 rows */
        wide ab = _mm256_unpacklo_epi32(a[i], a[i + 1]), cd = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm256_unpacklo_epi64(ab, cd);
        b[i + 1] = _mm256_unpackhi_epi64(ab, cd);
        ab = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        cd = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i + 2] = _mm256_unpacklo_epi64(ab, cd);
        b[i + 3] = _mm256_unpackhi_epi64(ab, cd);
    }
    for (int i = 0; i < 4; i++) {
        to[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

#include "kern/mulf_x86.h"

void kern_mul_init_avx2(struct kern *k)
{
    set_mul(k);
}

#else
typedef int kern_mul_avx2_unused; /* a file must not be empty */
#endif
