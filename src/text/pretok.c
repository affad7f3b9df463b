/*
 * pretok: cuts text into the pieces that are merged on their own.
 *
 * The patterns are those of the models' tokenizer.json files, run by PCRE2,
 * with one thing spelt out: \s. PCRE2 counts U+180E as white space, Unicode
 * (since 6.3) and the models' own tokenisers do not, so the class WS names
 * the characters of the property White_Space.
 *
 * Invariants:
 *  1. every pattern matches at every character, and never the empty string,
 *     so the pieces of a text put together are the text;
 *  2. bytes that are not UTF-8 stand between the well-formed stretches: a run
 *     of them is one piece, and the look-ahead of a stretch ends before it.
 *     Thus any bytes survive encoding and decoding;
 *  3. where the model asks for NFC it is applied to each stretch.
 *
 * Each pattern needs time linear in the length of the piece it finds, and the
 * match limit bounds what a mistake here could cost.
 */
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/text_internal.h"

#define WS                                                                                 \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"     \
    "\\x{202f}\\x{205f}\\x{3000}"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

static const char qwen2_pattern[] =
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" SPACES;
static const char qwen35_pattern[] =
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"
                "| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES;
static const char llama_pattern[] =
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" SPACES;
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+"
    "|[" WS "]+(?![^" WS "])|[" WS "]+";
static const char gpt4o_pattern[] =
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTION "?"
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" CONTRACTION "?"
    "|\\p{N}{1,3}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;

/* One row a value of tokenizer.ggml.pre. */
static const struct pretok_form {
    const char *name, *pattern;
    bool nfc, whole_pieces, adds_bos;
} forms[] = {
    {"qwen35", qwen35_pattern, true, false, false},
    {"qwen2", qwen2_pattern, true, false, false},
    {"gpt-2", gpt2_pattern, false, false, false},
    {"olmo", gpt2_pattern, true, false, false},
    {"llama-bpe", llama_pattern, false, true, true},
    {"dbrx", llama_pattern, false, false, false},
    {"glm4", llama_pattern, false, false, false},
    {"chatglm-bpe", llama_pattern, false, false, false},
    {"gpt-4o", gpt4o_pattern, false, false, false},
    {"llama4", gpt4o_pattern, false, false, false},
    {"minimax-m2", gpt4o_pattern, false, false, false},
};

/* Steps a single match may take; a piece of n characters takes a small
 * multiple of n, so only pieces beyond some 50 MB come near it. */
enum { MATCH_STEPS = 200000000, MATCH_HEAP_KIB = 65536 };

static int unknown_name(struct str name, struct err *e)
{
    char known[256];
    size_t used = 0;
    known[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        size_t n = strlen(forms[i].name);
        if (used + n + 3 > sizeof known)
            break;
        memcpy(known + used, i ? ", " : "", i ? 2 : 0);
        used += i ? 2 : 0;
        memcpy(known + used, forms[i].name, n + 1);
        used += n;
    }
    if (!name.n)
        return err_set(e, E_UNSUPPORTED,
                       "the file does not name its pre-tokeniser (tokenizer.ggml.pre): expected "
                       "one of %s; convert the model again with a newer converter", known);
    return err_set(e, E_UNSUPPORTED,
                   "pre-tokeniser '%.*s' (tokenizer.ggml.pre) is not supported; known are %s",
                   (int)MIN(name.n, 64), name.p, known);
}

int pretok_open(struct str name, struct pretok *p, struct err *e)
{
    *p = (struct pretok){0};
    const struct pretok_form *form = NULL;
    for (size_t i = 0; i < ARRAY_LEN(forms) && !form; i++)
        if (strlen(forms[i].name) == name.n && !memcmp(forms[i].name, name.p, name.n))
            form = &forms[i];
    if (!form)
        return unknown_name(name, e);

    int error;
    size_t where;
    /* Anchored: a match must begin where the last one ended. */
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)form->pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &where, NULL);
    if (!code)
        return err_set(e, E_UNSUPPORTED,
                       "PCRE2 refuses the pattern of pre-tokeniser %s (error %d at %zu): expected "
                       "a PCRE2 with Unicode support", form->name, error, where);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (!limits) {
        pcre2_code_free(code);
        return err_set(e, E_NOMEM, "no memory for the pre-tokeniser");
    }
    pcre2_set_match_limit(limits, MATCH_STEPS);
    pcre2_set_heap_limit(limits, MATCH_HEAP_KIB);
    /* Where the system forbids generated code, matching is merely slower. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *p = (struct pretok){.form = form, .code = code, .limits = limits};
    return OK;
}

void pretok_close(struct pretok *p)
{
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limits);
    *p = (struct pretok){0};
}

int64_t pretok_bytes(const struct pretok *p)
{
    size_t code = 0, jit = 0;
    pcre2_pattern_info(p->code, PCRE2_INFO_SIZE, &code);
    pcre2_pattern_info(p->code, PCRE2_INFO_JITSIZE, &jit);
    return (int64_t)(code + jit);
}

bool pretok_whole_pieces(const struct pretok *p)
{
    return p->form->whole_pieces;
}

bool pretok_adds_bos(const struct pretok *p)
{
    return p->form->adds_bos;
}

void pretok_begin(struct pretok_scan *s, struct str text)
{
    s->rest = text;
    s->part = (struct str){0};
    s->at = 0;
}

void pretok_end(struct pretok_scan *s)
{
    free(s->nfc);
    pcre2_match_data_free(s->match);
    *s = (struct pretok_scan){0};
}

/* Working memory of nfc_make for a byte of text: at most one and a half code points,
 * each twice as a number and once as UTF-8. */
enum { NFC_BYTES = 18 };

static size_t invalid_prefix(struct str text)
{
    size_t n = 0;
    while (n < text.n && utf8_sequence(text.p + n, text.n - n) <= 0)
        n++;
    return n;
}

/* Makes the next well-formed stretch the part to cut. */
static int next_part(const struct pretok *p, struct pretok_scan *s, struct err *e)
{
    size_t n = utf8_valid_prefix(s->rest.p, s->rest.n);
    s->part = (struct str){s->rest.p, n};
    s->at = 0;
    s->rest = (struct str){s->rest.p + n, s->rest.n - n};
    if (p->form->nfc && !nfc_quick(s->part.p, n)) {
        if (s->most_bytes && n > s->most_bytes / NFC_BYTES)
            return err_set(e, E_BUDGET, "bringing %zu bytes of text to the form NFC takes too much memory", n);
        free(s->nfc);
        s->nfc = NULL;
        size_t nfc_n = 0;
        TRY(nfc_make(s->part.p, n, &s->nfc, &nfc_n, e));
        s->part = (struct str){s->nfc, nfc_n};
    }
    return OK;
}

int pretok_next(const struct pretok *p, struct pretok_scan *s, struct str *piece,
                struct err *e)
{
    if (!s->match && !(s->match = pcre2_match_data_create(1, NULL)))
        return err_set(e, E_NOMEM, "no memory to cut text into pieces");
    if (s->at == s->part.n) {
        if (!s->rest.n)
            return 0;
        size_t n = invalid_prefix(s->rest);
        if (n) {
            *piece = (struct str){s->rest.p, n};
            s->rest = (struct str){s->rest.p + n, s->rest.n - n};
            return 1;
        }
        TRY(next_part(p, s, e));
    }
    /* The text is known to be well-formed; checking it again for each piece
     * would take quadratic time. */
    uint32_t options = PCRE2_NO_UTF_CHECK;
    PCRE2_SPTR subject = (PCRE2_SPTR)s->part.p;
    int rc = pcre2_match(p->code, subject, s->part.n, s->at, options, s->match, p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, subject, s->part.n, s->at, options | PCRE2_NO_JIT, s->match,
                         p->limits);
    size_t end = rc > 0 ? pcre2_get_ovector_pointer(s->match)[1] : 0;
    if (end <= s->at)
        return err_set(e, rc == PCRE2_ERROR_NOMEMORY ? E_NOMEM : E_ARG,
                       "pre-tokeniser %s found no piece at byte %zu of %zu (PCRE2 error %d); if "
                       "the text has a single word of many megabytes, break it up",
                       p->form->name, s->at, s->part.n, rc);
    *piece = (struct str){s->part.p + s->at, end - s->at};
    s->at = end;
    return 1;
}
