/*
 * Random weights with a wanted deviation, of every type that can be computed.
 */
#include "support/synth.h"

#include "kern/kern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- random numbers --------------------------------------------------- */

uint64_t synth_next(uint64_t *s) /* splitmix64 */
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double synth_uniform(uint64_t *s)
{
    return (double)(synth_next(s) >> 11) * 0x1p-53;
}

uint64_t synth_stream(uint64_t seed, const char *name)
{
    uint64_t s = synth_next(&seed); /* spread, or seed 1 of "b" is seed 2 of "a" */

    for (; *name; name++)
        s = (s ^ (uint8_t)*name) * 0x100000001b3u;
    return synth_next(&s);
}

/* Eight xorshift generators side by side, which the compiler can vectorise. */
static void random_bytes(uint8_t *p, size_t n, uint64_t *s)
{
    uint64_t lane[8];

    for (int k = 0; k < 8; k++)
        lane[k] = synth_next(s) | 1;
    while (n > 0) {
        size_t take = MIN(n, sizeof lane);

        for (int k = 0; k < 8; k++) {
            uint64_t x = lane[k];

            x ^= x << 13;
            x ^= x >> 7;
            lane[k] = x ^ x << 17;
        }
        memcpy(p, lane, take);
        p += take;
        n -= take;
    }
}

static uint16_t half(float x)
{
    const struct kern *tables[KERN_RUNGS_MAX];
    uint16_t h = 0;

    if (kern_available(tables) > 0)
        tables[0]->f32_to_f16(&h, &x, 1);
    return h;
}

/* ---- blocks ----------------------------------------------------------- */

/*
 * How to turn random bytes into a sane block: the places of the 16-bit scale d
 * and of the 16-bit minimum (m or dmin), which is `ratio` times d so that the
 * mean is 0; where the format has no minimum and its codes are not symmetric,
 * d changes its sign from block to block.
 */
static const struct layout {
    int16_t d_at, min_at;
    bool flip;
    float ratio;
} layouts[DT_COUNT] = {
    [DT_Q4_0] = {0, -1, true, 0},       [DT_Q4_1] = {0, 2, false, -7.5f},
    [DT_Q5_0] = {0, -1, true, 0},       [DT_Q5_1] = {0, 2, false, -15.5f},
    [DT_Q8_0] = {0, -1, true, 0},       [DT_Q2_K] = {80, 82, false, 1.5f},
    [DT_Q3_K] = {108, -1, true, 0},     [DT_Q4_K] = {0, 2, false, 7.5f},
    [DT_Q5_K] = {0, 2, false, 15.5f},   [DT_Q6_K] = {208, -1, true, 0},
    [DT_IQ4_NL] = {0, -1, true, 0},     [DT_IQ4_XS] = {0, -1, true, 0},
    [DT_IQ2_XXS] = {0, -1, true, 0},    [DT_IQ2_XS] = {0, -1, true, 0},
    [DT_IQ2_S] = {0, -1, true, 0},      [DT_IQ3_XXS] = {0, -1, true, 0},
    [DT_IQ3_S] = {0, -1, true, 0},      [DT_IQ1_S] = {0, -1, true, 0},
    [DT_IQ1_M] = {48, -1, true, 0},     [DT_TQ1_0] = {52, -1, true, 0},
    [DT_TQ2_0] = {64, -1, true, 0},     [DT_Q1_0] = {0, -1, true, 0},
    [DT_Q2_0] = {0, -1, true, 0},
};

/* Sixteen scales to choose from, about 30 % around the wanted one. */
struct scales {
    uint16_t d[16], min[16];
    uint8_t e[16]; /* MXFP4, NVFP4 */
};

static bool is_float(enum dtype t)
{
    return t == DT_F32 || t == DT_F16 || t == DT_BF16;
}

bool synth_writable(enum dtype t)
{
    return is_float(t) || t == DT_MXFP4 || t == DT_NVFP4 ||
           ((unsigned)t < DT_COUNT && (layouts[t].flip || layouts[t].min_at > 0));
}

/* The 6-bit scales and minimums of Q4_K and Q5_K: minimum = scale, 32..63,
 * from the random first four bytes. */
static void stamp_pairs(uint8_t *s)
{
    for (int j = 0; j < 4; j++) {
        unsigned a = 32 + (s[j] & 31u), b = 32 + (unsigned)(s[j] >> 3);

        s[j] = (uint8_t)(a | (b >> 4) << 6);
        s[j + 4] = s[j];
        s[j + 8] = (uint8_t)((b & 15) | (b & 15) << 4);
    }
}

/* IQ1_M's d is the upper nibbles of four words. */
static void stamp_nibbles(uint8_t *words, uint16_t d)
{
    for (int i = 0; i < 4; i++)
        words[2 * i + 1] = (uint8_t)((words[2 * i + 1] & 15) | (d >> 4 * i & 15) << 4);
}

/* Puts scales into n blocks of random bytes. */
static void stamp(enum dtype t, uint8_t *p, int64_t n, const struct scales *sc)
{
    const struct layout *l = &layouts[t];
    size_t block = dtype_info((uint32_t)t)->block_bytes;

    for (int64_t i = 0; i < n; i++, p += block) {
        int pick;

        if (t == DT_MXFP4) {
            p[0] = sc->e[p[0] & 15];
            continue;
        }
        if (t == DT_NVFP4) {
            for (int j = 0; j < 4; j++)
                p[j] = sc->e[p[j] & 15];
            continue;
        }
        pick = p[l->d_at] & 15;
        if (t == DT_IQ1_M) {
            stamp_nibbles(p + l->d_at, sc->d[pick]);
            continue;
        }
        memcpy(p + l->d_at, &sc->d[pick], 2);
        if (l->min_at >= 0)
            memcpy(p + l->min_at, &sc->min[pick], 2);
        if (t == DT_Q4_K || t == DT_Q5_K)
            stamp_pairs(p + 4);
        else if (t == DT_Q2_K)
            for (int j = 0; j < 16; j++)
                p[j] = (uint8_t)((8 | (p[j] & 7)) * 0x11);
        else if (t == DT_Q6_K)
            for (int j = 192; j < 208; j++) /* signed: -32..31 */
                p[j] = (uint8_t)((p[j] & 63) - 32);
    }
}

/* x as E4M3 without a sign: of 16 bytes `up` (0 to 15) the share that makes their mean x
 * is rounded up. At least the least, at most the largest number. */
static uint8_t e4m3(double x, int up)
{
    int exponent, code;

    frexp(x, &exponent); /* x is 0.5 to 1 times 2^exponent */
    exponent = MAX(exponent, -5);
    code = (int)floor(ldexp(x, 4 - exponent) + (up + 0.5) / 16); /* 8 to 16, below 2^-6 less */
    return (uint8_t)MAX(1, MIN(0x7e, code + 8 * (exponent + 5)));
}

static void make_scales(enum dtype t, double d, struct scales *sc)
{
    const struct layout *l = &layouts[t];

    for (int i = 0; i < 16; i++) {
        double x = d * (0.72 + 0.035 * i) * (l->flip && i % 2 ? -1 : 1);

        sc->d[i] = half((float)x);
        sc->min[i] = half((float)x * l->ratio);
    }
    if (t == DT_NVFP4)
        for (int i = 0; i < 16; i++)
            sc->e[i] = e4m3(2 * d, i);
    if (t == DT_MXFP4) {
        /* A mix of two powers of two with the wanted mean square. */
        int low = (int)floor(log2(d));
        double over = d / ldexp(1, low); /* 1..2 */
        int high = (int)lrint(16 * (over * over - 1) / 3);

        for (int i = 0; i < 16; i++)
            sc->e[i] = (uint8_t)MAX(0, MIN(254, 127 + low + (i < high)));
    }
}

/* Root mean square of decoded elements when d is 1. */
static double unit_rms(enum dtype t)
{
    enum { BLOCKS = 256 };
    const struct dtype_info *info = dtype_info((uint32_t)t);
    uint8_t *p = need(malloc(BLOCKS * (size_t)info->block_bytes));
    float *y = need(malloc(BLOCKS * (size_t)info->block * sizeof *y));
    uint64_t s = 1;
    struct scales sc;
    double sum = 0;

    make_scales(t, 1, &sc);
    random_bytes(p, BLOCKS * (size_t)info->block_bytes, &s);
    stamp(t, p, BLOCKS, &sc);
    if (kern_dequant_row(t, y, p, BLOCKS * (int64_t)info->block) < 0)
        abort(); /* synth_writable types have decoders */
    for (int i = 0; i < BLOCKS * info->block; i++)
        sum += (double)y[i] * (double)y[i];
    free(p);
    free(y);
    return sqrt(sum / (BLOCKS * info->block));
}

static void put_float(enum dtype t, uint8_t *p, float x)
{
    uint32_t bits;
    uint16_t h;

    memcpy(&bits, &x, 4);
    if (t == DT_F32)
        memcpy(p, &bits, 4);
    else if (t == DT_BF16)
        memcpy(p, (uint16_t[]){(uint16_t)(bits >> 16)}, 2);
    else
        memcpy(p, (h = half(x), &h), 2);
}

/* Evenly spread values: as good as random ones, faster than conversions. */
static void fill_floats(enum dtype t, double std, uint8_t *p, int64_t n, uint64_t *s)
{
    static uint8_t values[1024][4];
    static double made_std;
    static enum dtype made = DT_COUNT;
    size_t bytes = dtype_info((uint32_t)t)->block_bytes;

    if (made != t || made_std != std)
        for (int i = 0; i < 1024; i++)
            put_float(t, values[i], (float)(std * sqrt(3) * (i - 511.5) / 512));
    made = t;
    made_std = std;
    for (int64_t i = 0; i < n; i++)
        memcpy(p + (size_t)i * bytes, values[synth_next(s) >> 54], bytes);
}

void synth_fill(enum dtype t, double std, void *p, int64_t n, uint64_t *s)
{
    static struct scales sc;
    static enum dtype made = DT_COUNT;
    static double made_std;

    if (is_float(t)) {
        fill_floats(t, std, p, n, s);
        return;
    }
    if (t != made || std != made_std) {
        make_scales(t, std / unit_rms(t), &sc);
        made = t;
        made_std = std;
    }
    random_bytes(p, (size_t)n * dtype_info((uint32_t)t)->block_bytes, s);
    stamp(t, p, n, &sc);
}
