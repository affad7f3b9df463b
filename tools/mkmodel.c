/*
 * mkmodel: writes a synthetic GGUF model, for tests and benchmarks.
 *
 *   mkmodel [OPTIONS] OUT.gguf        (mkmodel --help lists them)
 *   mkmodel --list                    families and types, for scripts
 *
 * The weights are random and mean nothing, but a forward pass over them is
 * healthy: every matrix has elements of mean 0 and deviation 1/sqrt(n_in)
 * after decoding, norms are 1 (or from 0.5 to 1.5), the linear layers' states decay
 * slowly. The same options give the same bytes.
 *
 * Routers can be skewed (--router-skew X: the r-th most used expert of a layer
 * is picked about r^-X as often as the first). Families with experts have no router
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
    .layers = 4,
    .hidden = 256,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 64,
    .experts = 16,
    .used = 4,
    .ffn = 512,
    .width = 256,
    .shared = 256,
    .vocab = 1024,
    .k_heads = 4,
    .v_heads = 8,
    .linear_dim = 64,
    .interval = 4,
    .block = 2,
    .context = 4096,
    .window = 16,
    .top = 2048,
    .moe_step = 1,
    .q_lora = 64,
    .kv_lora = 64,
    .nope = 32,
    .rope_dim = 16,
    .value_dim = 32,
    .weights_scale = 1,
    .seed = 1,
    .rope_base = 1e7,
    .type = DT_Q4_K,
    .dense = DT_COUNT,
    .down = DT_COUNT,
    .output = DT_COUNT,
};

static const struct preset {
    const char *name;
    const char *arch;
    /* layers, hidden, heads, kv, head_dim, experts, used, width, shared, vocab, Hk, Hv, d,
     * context */
    int64_t n[14];
    double rope_base;
} presets[] = {
    {"qwen3-30b-a3b-28", "qwen3moe", /* 10 GB in Q4_K; the real one has 48 layers */
     {28, 2048, 32, 4, 128, 128, 8, 768, 0, 151936, 0, 0, 0, 40960}, 1e6},
    {"qwen35-35b", "qwen35moe", /* 10 GB in Q4_K; the real one has 40 layers */
     {20, 2048, 16, 2, 256, 256, 8, 512, 512, 248320, 16, 32, 128, 262144}, 1e7},
    {"qwen35-397b", "qwen35moe", /* 30 GB in Q4_K; the real one has 60 layers */
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
    {"expert-embd", FIELD(expert_embd), 32, 65536, "elements that experts read (kimi-k3; half)"},
    {"block", FIELD(block), 1, 1000, "layers of a piece of the residual stream (kimi-k3)"},
    {"ffn-width", FIELD(ffn), 32, 1 << 20, "inner width of a layer without experts"},
    {"dense-layers", FIELD(dense_layers), 0, 1000, "first layers without experts (glm4moe)"},
    {"q-lora", FIELD(q_lora), 0, 65536, "short vector of queries, 0: none (deepseek2)"},
    {"kv-lora", FIELD(kv_lora), 32, 4096, "short vector of keys and values (deepseek2)"},
    {"nope", FIELD(nope), 16, 1024, "part of a key without position (deepseek2)"},
    {"rope-dim", FIELD(rope_dim), 2, 1024, "part of a key with position (deepseek2)"},
    {"value-dim", FIELD(value_dim), 16, 1024, "elements of a value (deepseek2)"},
    {"moe-step", FIELD(moe_step), 1, 1000, "of so many layers the last has experts (llama4)"},
    {"near-heads", FIELD(near_heads), 0, 1024, "attention heads of layers with a window (step35)"},
    {"near-head-dim", FIELD(near_head_dim), 0, 1024, "their elements of a head (gemma4)"},
    {"near-kv-heads", FIELD(near_kv_heads), 0, 1024, "their key/value heads (step35, mimo2)"},
    {"top", FIELD(top), 1, 1 << 20, "tokens that an indexer picks (deepseek32, glm-dsa)"},
    {"window", FIELD(window), 1, 1 << 20, "tokens that near layers see (gpt-oss)"},
    {"groups", FIELD(groups), 0, 256, "groups of experts (glm4moe)"},
    {"groups-used", FIELD(groups_used), 0, 256, "groups that a token's experts come from"},
    {"gating", FIELD(gating), 1, 4, "1 softmax, 2 sigmoid, 3 softmax of the picked (glm4moe)"},
    {"shared-width", FIELD(shared), 32, 65536, "inner width of the shared expert (qwen35moe)"},
    {"vocab", FIELD(vocab), 256 + SYNTH_CONTROL, 400000, "tokens"},
    {"k-heads", FIELD(k_heads), 1, 1024, "key heads of linear layers (qwen35moe)"},
    {"v-heads", FIELD(v_heads), 1, 1024, "value heads of linear layers (qwen35moe)"},
    {"linear-dim", FIELD(linear_dim), 16, 1024, "elements of a head of linear layers (qwen35moe)"},
    {"interval", FIELD(interval), 1, 1000, "every n-th layer has full attention (qwen35moe)"},
    {"context", FIELD(context), 1, 1 << 30, "context length"},
    {"original", FIELD(original), 0, 1 << 30, "context before stretching (a quarter)"},
    {"seed", FIELD(seed), 0, INT64_MAX, "of the weights"},
};

/* Options that take a weight type. */
static const struct type_option {
    const char *name;
    size_t at;
    const char *help;
} types[] = {
    {"type", FIELD(type), "of experts, or of the ffn without; and of what is not said (Q4_K)"},
    {"dense-type", FIELD(dense), "of everything else"},
    {"down-type", FIELD(down), "of the down matrices of these"},
    {"output-type", FIELD(output), "of the output matrix"},
};

static void usage(void)
{
    printf("usage: mkmodel [OPTIONS] OUT.gguf\n"
           "Writes a model with random weights.\n"
           "  --arch ");
    for (const struct family *f = mk_families; f->name; f++)
        printf("%s%s", f != mk_families ? "|" : "", f->name);
    printf("\n  --preset ");
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
           "  --tied               the embedding table is the output matrix too\n"
           "  --vary-norms         norms have weights from 0.5 to 1.5 (1)\n"
           "  --factors            matrices have factors in tensors of their own (NAME.scale)\n"
           "  --yarn F             positions stretched F times the YaRN way\n"
           "  --linear-rope F      the same, all alike\n"
           "  --rope-factors       rotary frequencies have divisors\n"
           "  --long-rope          the same, others in contexts longer than --original (phi3)\n"
           "  --weights-scale X    factor of the experts' weights (glm4moe)\n"
           "  --old-form           tensors as older files have them (deepseek2, qwen3next, llama)\n"
           "  --with-correction    with a correction of the router's scores (deepseek2)\n"
           "  --with-experts       llama with experts\n"
           "  --with-qkv-bias      with biases of queries, keys and values (glm4moe)\n"
           "  --with-qk-norm       with norms of queries and keys (glm4moe)\n"
           "  --key K=TYPE:V,V..   ARCH.K with these values, of TYPE u32, f32, bool or str\n"
           "  --hollow             of the right size, but without weights, for plan and inspect\n"
           "  --list               families and types, one a line; nothing is written\n");
}

static void list(void)
{
    for (const struct family *f = mk_families; f->name; f++)
        printf("arch %s%s%s\n", f->name, f->has & EXPERTS ? " experts" : "",
               f->has & LINEAR ? " linear" : "");
    for (uint32_t id = 0; id < DT_COUNT; id++)
        if (synth_writable((enum dtype)id))
            printf("type %s\n", dtype_info(id)->name);
}

static int set_arch(struct config *c, const char *name)
{
    for (const struct family *f = mk_families; f->name; f++)
        if (strcmp(name, f->name) == 0) {
            c->family = f;
            return 0;
        }
    return mk_fail("--arch %s: no such family; --help lists them", name);
}

static int set_real(const char *name, const char *text, double *v)
{
    char *end;
    *v = strtod(text, &end);
    return end != text && !*end && *v > 0 && *v <= 1e6
               ? 0 : mk_fail("--%s %s: a number above 0 is expected", name, text);
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
        set_arch(c, p->arch);
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
        return mk_fail("--%s %s: a number from %" PRId64 " to %" PRId64 " is expected", o->name,
                       text, o->min, o->max);
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
    if (strcmp(name, "hollow") == 0)
        return c->hollow = true, 0;
    if (strcmp(name, "vary-norms") == 0)
        return c->vary_norms = true, 0;
    if (strcmp(name, "factors") == 0)
        return c->factors = true, 0;
    if (strcmp(name, "router-skew") == 0) {
        c->skew = strtod(arg, &end);
        return end != arg && !*end && c->skew >= 0 && c->skew <= 4
                   ? 0 : mk_fail("--router-skew %s: a number from 0 to 4 is expected", arg);
    }
    if (strcmp(name, "rope-factors") == 0)
        return c->rope_factors = true, 0;
    if (strcmp(name, "long-rope") == 0)
        return c->long_rope = true, 0;
    if (strcmp(name, "yarn") == 0)
        return set_real(name, arg, &c->yarn);
    if (strcmp(name, "linear-rope") == 0)
        return set_real(name, arg, &c->linear_rope);
    if (strcmp(name, "weights-scale") == 0)
        return set_real(name, arg, &c->weights_scale);
    if (strcmp(name, "key") == 0) {
        if (c->n_keys == MK_KEYS || !strchr(arg, '=') || !strchr(strchr(arg, '='), ':'))
            return mk_fail("--key %s: NAME=TYPE:VALUE is expected, at most %d times", arg, MK_KEYS);
        return c->key[c->n_keys++] = arg, 0;
    }
    if (strcmp(name, "old-form") == 0)
        return c->old_form = true, 0;
    if (strcmp(name, "with-correction") == 0)
        return c->has |= CORRECTION, 0;
    if (strcmp(name, "with-experts") == 0)
        return c->has |= EXPERTS, 0;
    if (strcmp(name, "with-qkv-bias") == 0)
        return c->has |= QKV_BIAS, 0;
    if (strcmp(name, "with-qk-norm") == 0)
        return c->has |= QK_NORM, 0;
    return set_arch(c, arg);
}

/* Fills in what was not said; -1 with a sentence if the whole makes no model. */
static int settle(struct config *c, bool said_base)
{
    const struct family *f = c->family;

    if (c->has & ~f->may)
        return mk_fail("%s cannot be written with that", f->name);
    c->has |= f->has;
    if (!c->gating)
        c->gating = f->gating;
    if (f->no_q_lora)
        c->q_lora = 0;
    if (!c->expert_embd)
        c->expert_embd = MAX(c->hidden / 2, (int64_t)32);
    if (c->has & ENTRIES) /* one vector is key and value of all heads */
        c->kv_heads = 1;
    if (f->key && c->n_keys == 0)
        c->key[c->n_keys++] = f->key;
    if (c->dense == DT_COUNT)
        c->dense = c->type;
    if (c->down == DT_COUNT)
        c->down = c->type;
    if (c->output == DT_COUNT)
        c->output = c->dense;
    if (!said_base)
        c->rope_base = f->rope_base;
    if (c->has & INTERLEAVED)
        c->used = 1;
    if (f->layer_norms) /* routers that are defined for two */
        c->used = 2;
    if (c->has & EXPERTS && c->used > c->experts)
        return mk_fail("--used %" PRId64 " of --experts %" PRId64, c->used, c->experts);
    if (!(c->has & EXPERTS) && (c->skew > 0 || c->fused || c->dense_layers))
        return mk_fail("--%s: %s has no experts",
                       c->fused ? "fused-gate-up" : c->skew > 0 ? "router-skew" : "dense-layers",
                       f->name);
    if (c->skew > 0 && c->hidden <= dtype_info((uint32_t)c->dense)->block)
        return mk_fail("--router-skew needs --hidden of more than one block of the dense type");
    if (!c->original)
        c->original = c->context / 4;
    if (!c->near_head_dim)
        c->near_head_dim = c->has & NEAR_HEADS ? c->head_dim / 2 : c->head_dim;
    if (!c->near_heads)
        c->near_heads = c->heads;
    if (!c->near_kv_heads)
        c->near_kv_heads = c->kv_heads;
    if (c->heads % c->kv_heads || c->near_heads % c->near_kv_heads)
        return mk_fail("--heads must be a multiple of --kv-heads");
    if (c->head_dim % 8 || c->near_head_dim % 8)
        return mk_fail("--head-dim must be a multiple of 8");
    if (c->has & LINEAR && c->v_heads % c->k_heads)
        return mk_fail("--v-heads must be a multiple of --k-heads");
    if (!(c->has & LINEAR) && c->mtp)
        return mk_fail("--mtp: %s has no such block", f->name);
    return 0;
}

/* The letter of an option that only prints: 'h' or 'l'. */
static int parse(int argc, char **argv, struct config *c, const char **path)
{
    enum { MORE = ARRAY_LEN(numbers) + ARRAY_LEN(types) };
    static const struct option more[] = {
        {"arch", 1, NULL, MORE},          {"preset", 1, NULL, MORE},
        {"router-skew", 1, NULL, MORE},   {"mtp", 0, NULL, MORE},
        {"fused-gate-up", 0, NULL, MORE}, {"tied", 0, NULL, MORE},
        {"vary-norms", 0, NULL, MORE},    {"rope-factors", 0, NULL, MORE},
        {"hollow", 0, NULL, MORE},        {"long-rope", 0, NULL, MORE},
        {"factors", 0, NULL, MORE},
        {"yarn", 1, NULL, MORE},          {"linear-rope", 1, NULL, MORE},
        {"weights-scale", 1, NULL, MORE}, {"with-experts", 0, NULL, MORE},
        {"with-qkv-bias", 0, NULL, MORE}, {"with-qk-norm", 0, NULL, MORE},
        {"old-form", 0, NULL, MORE},      {"with-correction", 0, NULL, MORE},
        {"key", 1, NULL, MORE},
        {"help", 0, NULL, 'h'},           {"list", 0, NULL, 'l'},
        {0},
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
        if (o == 'h' || o == 'l')
            return o;
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
    m.c.family = mk_families;
    const char *path = NULL;
    int status = parse(argc, argv, &m.c, &path);

    if (status != 0) {
        if (status == 'h')
            usage();
        if (status == 'l')
            list();
        return status > 0 ? 0 : 2;
    }
    signal(SIGXFSZ, SIG_IGN); /* a size limit is then an error of write */
    mk_tensors(&m);
    status = mk_write(&m, path);
    free(m.t);
    free(m.common);
    free(m.common_bytes);
    return status == 0 ? 0 : 1;
}
