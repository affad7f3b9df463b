/*
 * mkmodel: writes a synthetic GGUF model, for tests and benchmarks.
 *
 *   mkmodel [OPTIONS] OUT.gguf        (mkmodel --help lists them)
 *
 * The weights are random and mean nothing, but a forward pass over them is
 * healthy: every matrix has elements of mean 0 and deviation 1/sqrt(n_in)
 * after decoding, norms are 1, the linear layers' states decay slowly. The same options
 * give the same bytes.
 *
 * Routers can be skewed (--router-skew X: the r-th most used expert of a layer
 * is picked about r^-X as often as the first). These families have no router
 * bias, so every row of token_embd starts with the same eighth: a direction
 * that all tokens share, on which router rows can put different weights.
 *
 * The vocabulary is a byte-level BPE with systematic merges; tensors are
 * contiguous and in order, as llama.cpp wants them.
 */
#include "mkmodel/mkmodel.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mk_fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "mkmodel: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return -1;
}

void *mk_need(void *p)
{
    if (!p) {
        mk_fail("no memory");
        exit(1);
    }
    return p;
}

/* ---- options ---------------------------------------------------------- */

static const struct config small = {
    .layers = 4, .hidden = 256, .heads = 4, .kv_heads = 2, .head_dim = 64, .experts = 16, .used = 4,
    .width = 256, .shared = 256, .vocab = 1024, .k_heads = 4, .v_heads = 8, .linear_dim = 64,
    .interval = 4, .context = 4096, .seed = 1, .rope_base = 1e7,
    .type = DT_Q4_K, .dense = DT_COUNT, .down = DT_COUNT, .output = DT_COUNT,
};

static const struct preset {
    const char *name;
    enum arch arch;
    /* layers, hidden, heads, kv, head_dim, experts, used, width, shared, vocab, Hk, Hv, d, context */
    int64_t n[14];
    double rope_base;
} presets[] = {
    {"qwen3-30b-a3b-28", QWEN3MOE, /* 10 GB in Q4_K; the real one has 48 layers */
     {28, 2048, 32, 4, 128, 128, 8, 768, 0, 151936, 0, 0, 0, 40960}, 1e6},
    {"qwen35-35b", QWEN35MOE, /* 10 GB in Q4_K; the real one has 40 layers */
     {20, 2048, 16, 2, 256, 256, 8, 512, 512, 248320, 16, 32, 128, 262144}, 1e7},
    {"qwen35-397b", QWEN35MOE, /* 30 GB in Q4_K; the real one has 60 layers */
     {8, 4096, 32, 2, 256, 512, 10, 1024, 1024, 248320, 16, 64, 128, 262144}, 1e7},
};

#define FIELD(f) offsetof(struct config, f)

/* Options that take a whole number. */
static const struct number {
    const char *name;
    size_t at;
    int64_t min, max;
    const char *help;
} numbers[] = {
    {"layers", FIELD(layers), 1, 1000, "layers, without the MTP block"},
    {"hidden", FIELD(hidden), 32, 65536, "embedding length"},
    {"heads", FIELD(heads), 1, 1024, "attention heads"},
    {"kv-heads", FIELD(kv_heads), 1, 1024, "key/value heads"},
    {"head-dim", FIELD(head_dim), 8, 1024, "elements of a head"},
    {"experts", FIELD(experts), 1, 4096, "experts of a layer"},
    {"used", FIELD(used), 1, 4096, "experts used for a token"},
    {"expert-width", FIELD(width), 32, 65536, "inner width of an expert"},
    {"shared-width", FIELD(shared), 32, 65536, "inner width of the shared expert (qwen35moe)"},
    {"vocab", FIELD(vocab), 256 + SYNTH_CONTROL, 400000, "tokens"},
    {"k-heads", FIELD(k_heads), 1, 1024, "key heads of linear layers (qwen35moe)"},
    {"v-heads", FIELD(v_heads), 1, 1024, "value heads of linear layers (qwen35moe)"},
    {"linear-dim", FIELD(linear_dim), 16, 1024, "elements of a head of linear layers (qwen35moe)"},
    {"interval", FIELD(interval), 1, 1000, "every n-th layer has full attention (qwen35moe)"},
    {"context", FIELD(context), 1, 1 << 30, "context length"},
    {"seed", FIELD(seed), 0, INT64_MAX, "of the weights"},
};

/* Options that take a weight type. */
static const struct type_option {
    const char *name;
    size_t at;
    const char *help;
} types[] = {
    {"type", FIELD(type), "of the experts, and of what is not said (Q4_K)"},
    {"dense-type", FIELD(dense), "of everything else"},
    {"down-type", FIELD(down), "of the experts' down matrices"},
    {"output-type", FIELD(output), "of the output matrix"},
};

static void usage(void)
{
    printf("usage: mkmodel [OPTIONS] OUT.gguf\n"
           "Writes a model with random weights.\n"
           "  --arch qwen35moe|qwen3moe\n  --preset ");
    for (size_t i = 0; i < ARRAY_LEN(presets); i++)
        printf("%s%s", i ? "|" : "", presets[i].name);
    printf("   (later options change it)\n");
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        printf("  --%-14s N  %s\n", numbers[i].name, numbers[i].help);
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        printf("  --%-11s TYPE  %s\n", types[i].name, types[i].help);
    printf("  --router-skew X      the r-th expert is used about r^-X as often as the first (0)\n"
           "  --mtp                adds a NextN block (qwen35moe)\n"
           "  --fused-gate-up      gate and up in one tensor\n"
           "  --tied               the embedding table is the output matrix too\n");
}

static int set_preset(struct config *c, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(presets); i++) {
        const struct preset *p = &presets[i];
        size_t at[] = {FIELD(layers), FIELD(hidden), FIELD(heads), FIELD(kv_heads), FIELD(head_dim),
                       FIELD(experts), FIELD(used), FIELD(width), FIELD(shared), FIELD(vocab),
                       FIELD(k_heads), FIELD(v_heads), FIELD(linear_dim), FIELD(context)};

        if (strcmp(p->name, name) != 0)
            continue;
        c->arch = p->arch;
        c->rope_base = p->rope_base;
        for (size_t k = 0; k < ARRAY_LEN(at); k++)
            memcpy((char *)c + at[k], &p->n[k], sizeof p->n[k]);
        return 0;
    }
    return mk_fail("no preset '%s'; --help lists them", name);
}

static int set_number(struct config *c, const struct number *o, const char *text)
{
    char *end;
    long long v;

    errno = 0;
    v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < o->min || v > o->max)
        return mk_fail("--%s %s: a number from %" PRId64 " to %" PRId64 " is expected", o->name, text,
                         o->min, o->max);
    memcpy((char *)c + o->at, &(int64_t){v}, sizeof(int64_t));
    return 0;
}

static int set_type(struct config *c, const struct type_option *o, const char *text)
{
    for (uint32_t id = 0; id < DT_COUNT; id++) {
        const struct dtype_info *info = dtype_info(id);

        if (!info || strcmp(info->name, text) != 0 || !synth_writable((enum dtype)id))
            continue;
        memcpy((char *)c + o->at, &(enum dtype){(enum dtype)id}, sizeof(enum dtype));
        return 0;
    }
    return mk_fail("--%s %s: not a type that can be written (try Q4_K, Q8_0, MXFP4, F16)", o->name,
                     text);
}

static int set_other(struct config *c, const char *name, const char *arg)
{
    char *end;

    if (strcmp(name, "preset") == 0)
        return set_preset(c, arg);
    if (strcmp(name, "mtp") == 0)
        return c->mtp = true, 0;
    if (strcmp(name, "fused-gate-up") == 0)
        return c->fused = true, 0;
    if (strcmp(name, "tied") == 0)
        return c->tied = true, 0;
    if (strcmp(name, "router-skew") == 0) {
        c->skew = strtod(arg, &end);
        return end != arg && !*end && c->skew >= 0 && c->skew <= 4
                   ? 0 : mk_fail("--router-skew %s: a number from 0 to 4 is expected", arg);
    }
    if (strcmp(arg, "qwen35moe") != 0 && strcmp(arg, "qwen3moe") != 0)
        return mk_fail("--arch %s: qwen35moe or qwen3moe is expected", arg);
    c->arch = strcmp(arg, "qwen3moe") == 0 ? QWEN3MOE : QWEN35MOE;
    return 0;
}

/* Fills in what was not said; -1 with a sentence if the whole makes no model. */
static int settle(struct config *c, bool said_base)
{
    if (c->dense == DT_COUNT)
        c->dense = c->type;
    if (c->down == DT_COUNT)
        c->down = c->type;
    if (c->output == DT_COUNT)
        c->output = c->dense;
    if (!said_base)
        c->rope_base = c->arch == QWEN3MOE ? 1e6 : 1e7;
    if (c->used > c->experts)
        return mk_fail("--used %" PRId64 " of --experts %" PRId64, c->used, c->experts);
    if (c->skew > 0 && c->hidden <= dtype_info((uint32_t)c->dense)->block)
        return mk_fail("--router-skew needs --hidden of more than one block of the dense type");
    if (c->heads % c->kv_heads)
        return mk_fail("--heads must be a multiple of --kv-heads");
    if (c->head_dim % 8)
        return mk_fail("--head-dim must be a multiple of 8");
    if (c->arch == QWEN35MOE && c->v_heads % c->k_heads)
        return mk_fail("--v-heads must be a multiple of --k-heads");
    if (c->arch == QWEN3MOE && c->mtp)
        return mk_fail("--mtp: qwen3moe has no such block");
    return 0;
}

/* 1: only help was wanted. */
static int parse(int argc, char **argv, struct config *c, const char **path)
{
    enum { MORE = ARRAY_LEN(numbers) + ARRAY_LEN(types) };
    static const struct option more[] = {
        {"arch", 1, NULL, MORE}, {"preset", 1, NULL, MORE}, {"router-skew", 1, NULL, MORE},
        {"mtp", 0, NULL, MORE}, {"fused-gate-up", 0, NULL, MORE}, {"tied", 0, NULL, MORE}, {"help", 0, NULL, 'h'}, {0},
    };
    struct option all[MORE + ARRAY_LEN(more)];
    bool preset = false;
    int o, index = 0, status = 0;

    for (size_t i = 0; i < MORE; i++) /* val = index into numbers, then types */
        all[i] = (struct option){i < ARRAY_LEN(numbers) ? numbers[i].name
                                                        : types[i - ARRAY_LEN(numbers)].name,
                                 1, NULL, (int)i};
    memcpy(all + MORE, more, sizeof more);
    while (status == 0 && (o = getopt_long(argc, argv, "h", all, &index)) != -1) {
        if (o == '?')
            return mk_fail("--help lists the options");
        if (o == 'h')
            return 1;
        if (o < (int)ARRAY_LEN(numbers))
            status = set_number(c, &numbers[o], optarg);
        else if (o < MORE)
            status = set_type(c, &types[o - (int)ARRAY_LEN(numbers)], optarg);
        else
            status = set_other(c, all[index].name, optarg);
        preset |= strcmp(all[index].name, "preset") == 0;
    }
    if (status < 0)
        return status;
    if (optind != argc - 1)
        return mk_fail("one file to write is expected; --help lists the options");
    *path = argv[optind];
    return settle(c, preset);
}

int main(int argc, char **argv)
{
    struct model m = {.c = small};
    const char *path = NULL;
    int status = parse(argc, argv, &m.c, &path);

    if (status != 0) {
        if (status == 1)
            usage();
        return status == 1 ? 0 : 2;
    }
    signal(SIGXFSZ, SIG_IGN); /* a size limit is then an error of write */
    mk_tensors(&m);
    status = mk_write(&m, path);
    free(m.t);
    free(m.common);
    free(m.common_bytes);
    return status == 0 ? 0 : 1;
}
