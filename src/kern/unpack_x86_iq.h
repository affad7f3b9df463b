/*
 * unpack_x86_iq: the formats with codebooks, IQ1 to IQ3 (dequant_iq.c has their
 * layouts), in 256-bit registers. Included by unpack_x86.h.
 *
 * Lines of a codebook are loaded one by one: a gather has as many loads, and is many times
 * slower on processors whose gathers are mended by microcode. What the four pairs of a
 * group share (signs) each of them names again; the compiler computes it once.
 */
#ifndef KERN_UNPACK_X86_IQ_H
#define KERN_UNPACK_X86_IQ_H

/* Elements of codebooks need all 8 bits; those of IQ3_S and IQ1 do not. */
enum { GRID_KEPT = SIGNED_128 ? 0 : GRID_OFFSET, GRID_TOP = SIGNED_128 ? 255 : 127 };

/* ---- parts --------------------------------------------------------------- */

INLINE __m128i load64(const void *p)
{
    return _mm_loadl_epi64(p);
}

/* Four lines of 8 bytes. A broadcast from memory is a load and no more, and a blend runs
 * anywhere, while shuffles wait for one another. */
INLINE __m256i lines_8(const uint64_t *grid, unsigned a, unsigned b, unsigned c, unsigned d)
{
    __m256i x = _mm256_set1_epi64x((int64_t)grid[a]), y = _mm256_set1_epi64x((int64_t)grid[c]);
    x = _mm256_blend_epi32(x, _mm256_set1_epi64x((int64_t)grid[b]), 0x0c);
    y = _mm256_blend_epi32(y, _mm256_set1_epi64x((int64_t)grid[d]), 0xc0);
    return _mm256_blend_epi32(x, y, 0xf0);
}

/* Eight lines of 4 bytes. */
INLINE __m256i lines_4(const uint32_t *grid, const unsigned i[8])
{
    __m128i x = _mm_cvtsi32_si128((int)grid[i[0]]), y = _mm_cvtsi32_si128((int)grid[i[4]]);
    x = _mm_insert_epi32(x, (int)grid[i[1]], 1);
    y = _mm_insert_epi32(y, (int)grid[i[5]], 1);
    x = _mm_insert_epi32(x, (int)grid[i[2]], 2);
    y = _mm_insert_epi32(y, (int)grid[i[6]], 2);
    x = _mm_insert_epi32(x, (int)grid[i[3]], 3);
    y = _mm_insert_epi32(y, (int)grid[i[7]], 3);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(x), y, 1);
}

/* Magnitudes with GRID_OFFSET to elements with GRID_KEPT; a bit a sign. */
INLINE __m256i grid_signs(__m256i q, uint32_t bits)
{
    if (SIGNED_128)
        q = _mm256_sub_epi8(q, _mm256_set1_epi8(GRID_OFFSET));
    return minus_where(q, bits, 2 * GRID_KEPT);
}

/* To seven bits of every byte the eighth, which makes the number of ones even. */
INLINE __m256i with_parity(__m256i x)
{
    const __m256i odd = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    __m256i four = low_nibble(_mm256_xor_si256(x, _mm256_srli_epi16(x, 4)));
    return _mm256_or_si256(x, _mm256_shuffle_epi8(odd, four));
}

/* Four times seven bits of eight dwords, as 32 signs each. */
INLINE __m256i sevens_to_signs(__m256i x)
{
    __m256i r = _mm256_and_si256(x, _mm256_set1_epi32(0x7f));
    r = and_or(_mm256_slli_epi32(x, 1), _mm256_set1_epi32(0x7f00), r);
    r = and_or(_mm256_slli_epi32(x, 2), _mm256_set1_epi32(0x7f0000), r);
    return with_parity(and_or(_mm256_slli_epi32(x, 3), _mm256_set1_epi32(0x7f000000), r));
}

/* The signs of each two 32-blocks in the order of crossed pairs. */
INLINE __m256i cross_signs(__m256i x)
{
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order));
}

INLINE uint32_t dword(__m256i x, int i) /* i is a literal */
{
    uint32_t all[8];
    _mm256_storeu_si256((__m256i *)(void *)all, x);
    return all[i];
}

/* Indices go through memory: the compiler would take them out of the register by
 * shuffles, and the loops have enough of these. */
struct indices {
    uint32_t at[8];
};

INLINE struct indices to_memory(__m256i x)
{
    struct indices r;
    _mm256_storeu_si256((__m256i *)(void *)r.at, x);
    __asm__("" : "+m"(r));
    return r;
}

/* Eight fields of the four bytes at p, at these bits: at the low end of dwords, with what
 * is above them. */
INLINE __m256i fields(const uint8_t *p, __m256i bits)
{
    return _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(p)), bits);
}

/* The eight indices of a pair: a byte each, and of its dword of `high` the bits of
 * `mask`, which stand above the byte. */
INLINE struct indices wide_indices(const uint8_t *low, __m256i high, int mask)
{
    return to_memory(and_or(_mm256_slli_epi32(high, 8), _mm256_set1_epi32(mask << 8),
                            _mm256_cvtepu8_epi32(load64(low))));
}

/* Factors s of 2 s + 1, in bits 1 to 4 of every dword (other bits may be set), times d. */
INLINE __m256 odd_scales(__m256i twice_s, int mask, __m256 d)
{
    __m256i x = _mm256_and_si256(twice_s, _mm256_set1_epi32(2 * mask));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_or_si256(x, _mm256_set1_epi32(1))), d);
}

INLINE __m256 half_times(const uint8_t *half, float factor)
{
    return _mm256_mul_ps(half_everywhere(half), _mm256_set1_ps(factor));
}

/* Eight bytes: the scales of the first sixteens in the low, of the second in the high half. */
INLINE struct scales nibble_scales(const uint8_t *s, __m256 d)
{
    struct scales r = no_scales();
    __m256i x = _mm256_cvtepu8_epi32(load64(s));
    r.scale[0] = odd_scales(_mm256_slli_epi32(x, 1), 15, d);
    r.scale[1] = odd_scales(_mm256_srli_epi32(x, 3), 15, d);
    return r;
}

/* ---- IQ2 ----------------------------------------------------------------- */

UNPACKED(iq2_xxs, GRID_KEPT, GRID_TOP, true);

/* The second dwords of the eight parts: signs and scale. */
INLINE __m256i iq2_xxs_bits(const uint8_t *w)
{
    __m256 a = _mm256_castsi256_ps(load256(w + 2)), b = _mm256_castsi256_ps(load256(w + 34));
    __m256i x = _mm256_castps_si256(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm256_permute4x64_epi64(x, _MM_SHUFFLE(3, 1, 2, 0));
}

INLINE struct scales scales_iq2_xxs(const uint8_t *w)
{
    struct scales r = no_scales();
    r.scale[0] = odd_scales(_mm256_srli_epi32(iq2_xxs_bits(w), 27), 15, half_times(w, 0.125f));
    return r;
}

INLINE struct pair pair_iq2_xxs(const uint8_t *w, int p)
{
    const uint64_t *grid = kern_grid_iq2_xxs;
    const __m256i signs = cross_signs(sevens_to_signs(iq2_xxs_bits(w)));
    const uint8_t *a = w + 2 + 16 * p, *b = a + 8;
    return (struct pair){{grid_signs(lines_8(grid, a[0], a[1], b[0], b[1]),
                                     dword(signs, 2 * p)),
                          grid_signs(lines_8(grid, a[2], a[3], b[2], b[3]),
                                     dword(signs, 2 * p + 1))}};
}

UNPACKED(iq2_xs, GRID_KEPT, GRID_TOP, false);

INLINE struct scales scales_iq2_xs(const uint8_t *w)
{
    return nibble_scales(w + 66, half_times(w, 0.125f));
}

/* The upper 7 bits of 32 words. */
INLINE __m256i iq2_xs_signs(const uint8_t *w)
{
    __m256i x = _mm256_packus_epi16(_mm256_srli_epi16(load256(w + 2), 9),
                                    _mm256_srli_epi16(load256(w + 34), 9));
    return with_parity(_mm256_permute4x64_epi64(x, _MM_SHUFFLE(3, 1, 2, 0)));
}

INLINE __m256i iq2_xs_part(const uint8_t *w, int b)
{
    const uint8_t *at = w + 2 + 8 * b;
    return grid_signs(lines_8(kern_grid_iq2_xs, load_u16(at) & 511, load_u16(at + 2) & 511,
                              load_u16(at + 4) & 511, load_u16(at + 6) & 511),
                      dword(iq2_xs_signs(w), b));
}

INLINE struct pair pair_iq2_xs(const uint8_t *w, int p)
{
    return (struct pair){{iq2_xs_part(w, 2 * p), iq2_xs_part(w, 2 * p + 1)}};
}

UNPACKED(iq2_s, GRID_KEPT, GRID_TOP, false);

INLINE struct scales scales_iq2_s(const uint8_t *w)
{
    return nibble_scales(w + 74, half_times(w, 0.125f));
}

INLINE struct pair pair_iq2_s(const uint8_t *w, int p)
{
    const uint64_t *grid = kern_grid_iq2_s;
    const __m256i high = fields(w + 66 + 2 * p, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const struct indices i = wide_indices(w + 2 + 8 * p, high, 3);
    const uint8_t *signs = w + 34 + 8 * p;
    return (struct pair){
        {grid_signs(lines_8(grid, i.at[0], i.at[1], i.at[2], i.at[3]),
                    load_u32(signs)),
         grid_signs(lines_8(grid, i.at[4], i.at[5], i.at[6], i.at[7]),
                    load_u32(signs + 4))}};
}

/* ---- IQ3 ----------------------------------------------------------------- */

UNPACKED(iq3_xxs, GRID_KEPT, GRID_TOP, true);

INLINE struct scales scales_iq3_xxs(const uint8_t *w)
{
    struct scales r = no_scales();
    r.scale[0] = odd_scales(_mm256_srli_epi32(load256(w + 66), 27), 15, half_times(w, 0.25f));
    return r;
}

/* Four indices of each of two blocks. */
INLINE __m256i iq3_xxs_lines(const uint8_t *a, const uint8_t *b)
{
    const unsigned at[8] = {a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
    return lines_4(kern_grid_iq3_xxs, at);
}

INLINE struct pair pair_iq3_xxs(const uint8_t *w, int p)
{
    const uint8_t *a = w + 2 + 16 * p, *b = a + 8;
    const __m256i signs = cross_signs(sevens_to_signs(load256(w + 66)));
    return (struct pair){{grid_signs(iq3_xxs_lines(a, b), dword(signs, 2 * p)),
                          grid_signs(iq3_xxs_lines(a + 4, b + 4), dword(signs, 2 * p + 1))}};
}

UNPACKED(iq3_s, GRID_IQ3_S_OFFSET, GRID_IQ3_S_OFFSET + 15, true);

INLINE struct scales scales_iq3_s(const uint8_t *w)
{
    struct scales r = no_scales();
    __m256i s = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(w + 106)),
                                  _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    r.scale[0] = odd_scales(_mm256_slli_epi32(s, 1), 15, half_everywhere(w));
    return r;
}

/* 16 bytes to 16 words, 256 more where a bit is set. */
INLINE __m256i nine_bits(const uint8_t *low, uint32_t high)
{
    const __m256i which = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                            8192, 16384, INT16_MIN);
    __m256i x = _mm256_and_si256(_mm256_set1_epi16((short)high), which);
    x = _mm256_cmpeq_epi16(x, which);
    return and_or(x, _mm256_set1_epi16(256), _mm256_cvtepu8_epi16(load128(low)));
}

INLINE struct pair pair_iq3_s(const uint8_t *w, int p)
{
    const uint32_t *grid = kern_grid_iq3_s;
    const __m256i signs = cross_signs(load256(w + 74));
    const struct indices i = to_memory(nine_bits(w + 2 + 16 * p, load_u16(w + 66 + 2 * p)));
    struct pair r;
    uint16_t at[16];
    memcpy(at, i.at, sizeof at);
    for (int h = 0; h < 2; h++) {
        const uint16_t *a = at + 4 * h, *b = a + 8;
        const unsigned both[8] = {a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
        r.q[h] = minus_where(lines_4(grid, both), dword(signs, 2 * p + h), 2 * GRID_IQ3_S_OFFSET);
    }
    return r;
}

/* ---- IQ1 ----------------------------------------------------------------- */

UNPACKED(iq1_s, IQ1_OFFSET, 2 * IQ1_OFFSET, true);

INLINE __m256i iq1_s_bits(const uint8_t *w) /* upper bits, scale, delta of each block */
{
    return _mm256_cvtepu16_epi32(load128(w + 34));
}

INLINE struct scales scales_iq1_s(const uint8_t *w)
{
    struct scales r = no_scales();
    r.scale[0] = odd_scales(_mm256_srli_epi32(iq1_s_bits(w), 11), 7, half_times(w, 0.125f));
    return r;
}

INLINE struct pair pair_iq1_s(const uint8_t *w, int p)
{
    const uint64_t *grid = kern_grid_iq1;
    const int a = 2 * p, b = 2 * p + 1;
    const __m256i bits = iq1_s_bits(w);
    /* 2 in the bytes of blocks whose delta is -1 */
    __m256i minus = _mm256_srai_epi32(_mm256_slli_epi32(bits, 16), 31);
    minus = _mm256_permutevar8x32_epi32(_mm256_and_si256(minus, _mm256_set1_epi8(2)),
                                        _mm256_setr_epi32(a, a, a, a, b, b, b, b));
    const __m256i high = fields(w + 34 + 4 * p, _mm256_setr_epi32(0, 3, 6, 9, 16, 19, 22, 25));
    const struct indices i = wide_indices(w + 2 + 8 * p, high, 7);
    return (struct pair){
        {_mm256_sub_epi8(lines_8(grid, i.at[0], i.at[1], i.at[4], i.at[5]),
                         minus),
         _mm256_sub_epi8(lines_8(grid, i.at[2], i.at[3], i.at[6], i.at[7]),
                         minus)}};
}

UNPACKED(iq1_m, IQ1_OFFSET, 2 * IQ1_OFFSET, false);

INLINE struct scales scales_iq1_m(const uint8_t *w)
{
    struct scales r = no_scales();
    const __m128i words = load64(w + 48);
    const __m256 d = _mm256_mul_ps(_mm256_cvtph_ps(_mm_set1_epi16((short)iq1_m_half(w + 48))),
                                   _mm256_set1_ps(0.125f));
    __m256i x = _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(words, words)); /* a word for two blocks */
    x = _mm256_srlv_epi32(_mm256_slli_epi32(x, 1), _mm256_setr_epi32(0, 6, 0, 6, 0, 6, 0, 6));
    r.scale[0] = odd_scales(x, 7, d);
    r.scale[1] = odd_scales(_mm256_srli_epi32(x, 3), 7, d);
    return r;
}

INLINE struct pair pair_iq1_m(const uint8_t *w, int p)
{
    const uint64_t *grid = kern_grid_iq1;
    /* a nibble for each eight: 3 upper bits of its index, and its delta */
    const __m256i high = fields(w + 32 + 4 * p, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i eight = _mm256_set1_epi32(8);
    const __m256i minus = _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_and_si256(high, eight), eight),
                                           _mm256_set1_epi8(2));
    const struct indices i = wide_indices(w + 8 * p, high, 7);
    const __m256i first = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const __m256i second = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    return (struct pair){
        {_mm256_sub_epi8(lines_8(grid, i.at[0], i.at[1], i.at[2], i.at[3]),
                         _mm256_permutevar8x32_epi32(minus, first)),
         _mm256_sub_epi8(lines_8(grid, i.at[4], i.at[5], i.at[6], i.at[7]),
                         _mm256_permutevar8x32_epi32(minus, second))}};
}

#endif
