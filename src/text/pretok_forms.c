/*
 * pretok_forms: how each value of tokenizer.ggml.pre cuts text, a row a form.
 *
 * The patterns are those of the models' tokenizer.json files. Where llama.cpp's
 * table is wider than these (it holds any letter beyond ASCII for upper and lower
 * case, say) the models' own count; where only llama.cpp's are known they do.
 * Its groups of names are kept: names that share a row there share one here.
 *
 * Spelt out because PCRE2 sees it otherwise:
 *  - \s: PCRE2 counts U+180E as white space, Unicode (since 6.3) and the models'
 *    own tokenisers do not, so the class WS names the property White_Space;
 *  - \p{Han}: of some versions the characters of that script, of others those that
 *    are used with it; HAN names the script's, as of Unicode 16;
 *  - "letters without Han" has no class of its own: it is what is left when all
 *    other categories and HAN are taken out.
 *
 * A pattern with several ways to match the same run of blanks or digits is bounded
 * by possessive quantifiers and (*SKIP), so that a long run is looked at once.
 */
#include <string.h>

#include "text/text_internal.h"

#define WS                                                                                 \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"     \
    "\\x{202f}\\x{205f}\\x{3000}"
#define WS_IN_LINE                                                                         \
    "\\x{9}\\x{b}\\x{c}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"
#define CASED \
    "\\x{41}-\\x{5a}\\x{61}-\\x{7a}\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}" \
    "\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}" \
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}" \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}" \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}" \
    "\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}" \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}" \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}" \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}" \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}" \
    "\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}" \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}" \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}" \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}" \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}" \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}" \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}" \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define HAN \
    "\\x{2e80}-\\x{2e99}\\x{2e9b}-\\x{2ef3}\\x{2f00}-\\x{2fd5}\\x{3005}\\x{3007}" \
    "\\x{3021}-\\x{3029}\\x{3038}-\\x{303b}\\x{3400}-\\x{4dbf}\\x{4e00}-\\x{9fff}" \
    "\\x{f900}-\\x{fa6d}\\x{fa70}-\\x{fad9}\\x{16fe2}\\x{16fe3}\\x{16ff0}\\x{16ff1}" \
    "\\x{20000}-\\x{2a6df}\\x{2a700}-\\x{2b739}\\x{2b740}-\\x{2b81d}\\x{2b820}-\\x{2cea1}" \
    "\\x{2ceb0}-\\x{2ebe0}\\x{2ebf0}-\\x{2ee5d}\\x{2f800}-\\x{2fa1d}\\x{30000}-\\x{3134a}" \
    "\\x{31350}-\\x{323af}"
#define ASIAN \
    "\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{8c48}-\\x{faff}\\x{3040}-\\x{309f}" \
    "\\x{30a0}-\\x{30ff}\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{e7f}" \
    "\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}" \
    "\\x{a9e0}-\\x{a9ff}\\x{1100}-\\x{11ff}"
#define CJK "\\x{4e00}-\\x{9fa5}"
#define KANA "\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}"
#define HANGUL_AND_MORE "\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define MARKS " ?[^" WS "\\p{L}\\p{N}]+"
#define LAST_SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"
#define SPACES "[" WS "]*[\\r\\n]+|" LAST_SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define UPPER_NO_HAN "[^\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
#define LOWER_NO_HAN "[^\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
/* Words that begin anew at a capital; `end` may follow each. */
#define CASED_WORDS(upper, lower, end)                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?" upper "*" lower "+" end "|[^\\r\\n\\p{L}\\p{N}]?" upper "+" lower    \
    "*" end

#define QWEN2 CONTRACTION "|" WORD "|\\p{N}|" MARKS "[\\r\\n]*|" SPACES
#define QWEN35                                                                             \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"                            \
                "| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES
#define LLAMA3 CONTRACTION "|" WORD "|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" SPACES
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" MARKS "|" LAST_SPACES
#define GPT4O                                                                              \
    CASED_WORDS(UPPER, LOWER, CONTRACTION "?") "|\\p{N}{1,3}|" MARKS "[\\r\\n/]*|" SPACES
#define TEKKEN CASED_WORDS(UPPER, LOWER, "") "|\\p{N}|" MARKS "[\\r\\n/]*|" SPACES
#define KIMI_K2                                                                            \
    "[" HAN "]+|" CASED_WORDS(UPPER_NO_HAN, LOWER_NO_HAN, CONTRACTION "?")                 \
    "|\\p{N}{1,3}|" MARKS "[\\r\\n]*|" SPACES
#define YOUTU CASED_WORDS(UPPER, LOWER, CONTRACTION "?") "|\\p{N}|" MARKS "[\\r\\n/]*|" SPACES
#define DEEPSEEK_V3                                                                        \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                 \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
#define SEED_CODER                                                                         \
    CONTRACTION "|" WORD "|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" SPACES
/* Words that one blank parts are one piece. */
#define EXAONE_MOE                                                                         \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*+(?: \\p{L}\\p{M}*+)*+)++|\\p{N}|" MARKS  \
                "[\\r\\n/]?|" SPACES
#define MINICPM5 CONTRACTION "|" WORD "|\\p{N}+|" MARKS "[\\r\\n]*|" SPACES
/* Long runs of blanks in lengths that are powers of two. Blanks up to a newline are
 * looked for only where a run begins: a run that has one ends there. */
#define JAIS2                                                                              \
    CONTRACTION "|" WORD "|\\p{N}{1,3}|" MARKS "[\\r\\n]*"                                 \
    "|(?<![" WS_IN_LINE "])(?:[" WS_IN_LINE "]*+[\\r\\n]++)++"                             \
    "|[" WS "]{512}(?![^" WS "])|[" WS "]{256}(?![^" WS "])|[" WS "]{128}(?![^" WS "])"    \
    "|[" WS "]{64}(?![^" WS "])|[" WS "]{32}(?![^" WS "])|[" WS "]{16}(?![^" WS "])"       \
    "|[" WS "]{8}(?![^" WS "])|[" WS "]{4}(?![^" WS "])|[" WS "]{1,2}(?![^" WS "])|[" WS "]"
/* Sentence marks and brackets stand apart with the blanks around them. */
#define BLOOM                                                                              \
    " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

/* ---- the table ---- */

static const struct pretok_form forms[] = {
    {.names = {"qwen35"}, .nfc = true, .pass = {{QWEN35, CUT_MATCHES}}},
    {.names = {"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "stablelm2"},
     .nfc = true,
     .pass = {{QWEN2, CUT_MATCHES}}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe", "solar-open", "grok-2"},
     .pass = {{QWEN2, CUT_MATCHES}}},
    {.names = {"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de",
               "a.x-4.0", "mellum", "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe",
               "exaone4", "mpt", "jais", "trillion", "granite-docling"},
     .pass = {{GPT2, CUT_MATCHES}}},
    {.names = {"olmo"}, .nfc = true, .pass = {{GPT2, CUT_MATCHES}}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
               "lfm2", "jina-v5-nano"},
     .whole_pieces = true,
     .adds_bos = true,
     .pass = {{LLAMA3, CUT_MATCHES}}},
    {.names = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, .pass = {{LLAMA3, CUT_MATCHES}}},
    {.names = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
     .pass = {{GPT4O, CUT_MATCHES}}},
    {.names = {"granite-embed-multi-97m"}, .whole_pieces = true, .pass = {{GPT4O, CUT_MATCHES}}},
    {.names = {"tekken"},
     .whole_pieces = true,
     .adds_bos = true,
     .pass = {{TEKKEN, CUT_MATCHES}}},
    {.names = {"kimi-k2"}, .pass = {{KIMI_K2, CUT_MATCHES}}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     .pass = {{"\\p{N}{1,3}", CUT_MATCHES},
              {"[" CJK KANA "]+", CUT_MATCHES},
              {DEEPSEEK_V3, CUT_MATCHES}}},
    {.names = {"deepseek-llm"},
     .pass = {{"[\\r\\n]", CUT_MATCHES},
              {"[" WS "]?[" CASED "]+", CUT_MATCHES},
              {"[" WS "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
               "\\x{3000}-\\x{3002}]+", CUT_MATCHES},
              {"[" WS "]++(*SKIP)\\z", CUT_MATCHES},
              {"[" CJK HANGUL_AND_MORE "]+", CUT_MATCHES},
              {"\\p{N}+", CUT_MATCHES}}},
    {.names = {"deepseek-coder"},
     .pass = {{"[\\r\\n]", CUT_MATCHES},
              {"[" WS "]?\\p{L}+", CUT_MATCHES},
              {"[" WS "]?\\p{P}+", CUT_MATCHES},
              {"[" CJK HANGUL_AND_MORE "]+", CUT_MATCHES},
              {"\\p{N}", CUT_MATCHES}}},
    {.names = {"seed-coder"}, .pass = {{SEED_CODER, CUT_MATCHES}}},
    {.names = {"exaone-moe"}, .pass = {{EXAONE_MOE, CUT_MATCHES}}},
    {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
               "mellum2"},
     .pass = {{"\\p{N}", CUT_MATCHES}, {GPT2, CUT_MATCHES}}},
    {.names = {"falcon"},
     .pass = {{"[\\p{P}$+<=>^~|`]+", CUT_MATCHES},
              {GPT2, CUT_MATCHES},
              {"[0-9][0-9][0-9]", CUT_MATCHES}}},
    {.names = {"afmoe"},
     .pass = {{"\\p{N}+", CUT_THIRDS}, {"[" ASIAN "]+", CUT_MATCHES}, {DEEPSEEK_V3, CUT_MATCHES}}},
    {.names = {"tiny_aya", "cohere2moe"},
     /* digits up to the end of a word */
     .pass = {{"\\d++(*SKIP)(?![\\p{L}\\p{M}\\p{Nl}\\p{Pc}])", CUT_THIRDS},
              {GPT4O, CUT_MATCHES}}},
    {.names = {"superbpe"}, .pass = {{"\\p{N}+", CUT_MATCHES}, {"\\d+", CUT_INSIDE}}},
    {.names = {"minicpm5"},
     .whole_pieces = true,
     .pass = {{"\\p{N}{1,3}", CUT_MATCHES}, {MINICPM5, CUT_MATCHES}}},
    {.names = {"laguna"}, .pass = {{"[^\\n]+|\\n+", CUT_MATCHES}, {QWEN2, CUT_MATCHES}}},
    {.names = {"jais-2"}, .pass = {{JAIS2, CUT_MATCHES}}},
    {.names = {"youtu"},
     .whole_pieces = true,
     .pass = {{"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+"
               "|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}"
               "\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+"
               "|[\\x{3105}-\\x{312f}]+|[" CJK KANA "]+", CUT_MATCHES},
              {YOUTU, CUT_MATCHES}}},
    {.names = {"poro-chat", "bloom", "gpt3-finnish"}, .pass = {{BLOOM, CUT_MATCHES}}},
    {.names = {"viking"}, .pass = {{BLOOM, CUT_MATCHES}, {"\\p{N}", CUT_MATCHES}}},
    {.names = {"chameleon"},
     .adds_bos = true,
     .pass = {{"<sentinel:[0-9]+>", CUT_MATCHES},
              {"IMGIMG[A-I]{1,4}Z", CUT_MATCHES},
              {"[\\t\\n]|    |  ", CUT_MATCHES},
              {"\\p{N}", CUT_MATCHES},
              {"[\\p{P}!-/:-@\\[-`{-~]", CUT_MATCHES},
              {GPT2, CUT_MATCHES}}},
    {.names = {"default"},
     .pass = {{"[\\p{P}$+<=>^~|]+", CUT_MATCHES},
              {GPT2, CUT_MATCHES},
              {"\\p{N}+", CUT_MATCHES},
              {"[0-9][0-9][0-9]", CUT_MATCHES}}},
    {.names = {"gemma4", "granite-embed-multi-311m"},
     .spelling = SPELT_WITH_BARS,
     .whole_newlines = true,
     .must_bos = true,
     .adds_bos = true,
     .pass = {{"[^\\n]+|\\n+", CUT_MATCHES}}},
    {.names = {"sarvam-moe"},
     .spelling = SPELT_WITH_BARS,
     .pass = {{"[^\\n]+|\\n+", CUT_MATCHES}}},
    {.names = {"whitespace"}, .spelling = SPELT_AS_TEXT, .pass = {{"[^" WS "]+", CUT_MATCHES}}},
};

/* No pattern: SentencePiece merges across the whole text. */
static const struct pretok_form sentence_pieces = {
    .names = {"SentencePiece"}, .spelling = SPELT_WITH_BARS, .adds_bos = true};

const struct pretok_form *pretok_sentence_pieces(void)
{
    return &sentence_pieces;
}

const char *pretok_name(int i)
{
    return pretok_other_name(i, 0);
}

const char *pretok_other_name(int i, int k)
{
    if (i < 0 || i >= (int)ARRAY_LEN(forms) || k < 0 || k >= (int)ARRAY_LEN(forms[i].names))
        return NULL;
    return forms[i].names[k];
}

const struct pretok_form *pretok_find(struct str name)
{
    const char *known;
    for (int i = 0; pretok_name(i); i++)
        for (int k = 0; (known = pretok_other_name(i, k)); k++)
            if (strlen(known) == name.n && !memcmp(known, name.p, name.n))
                return &forms[i];
    return NULL;
}
