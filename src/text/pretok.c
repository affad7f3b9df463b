/*
 * pretok: cuts text into the pieces that are merged on their own, as the patterns of
 * pretok_forms.c say, run by PCRE2.
 *
 * Invariants:
 *  1. no pattern matches the empty string, and what no match covers is a piece too,
 *     so the pieces of a text put together are the text;
 *  2. bytes that are not UTF-8 stand between the well-formed stretches: a run
 *     of them is one piece, and the look-ahead of a stretch ends before it.
 *     Thus any bytes survive encoding and decoding. Likewise a pass sees of the
 *     text no more than the piece that it cuts;
 *  3. where the model asks for NFC, or writes blanks in a way of its own, that is done
 *     to each stretch.
 *
 * Each pattern needs time linear in the length of the piece it finds and of what it
 * passes over, and the match limit bounds what a mistake there could cost.
 */
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/text_internal.h"

/* Steps a single match may take; a piece of n characters takes a small
 * multiple of n, so only pieces beyond some 50 MB come near it. */
enum { MATCH_STEPS = 200000000, MATCH_HEAP_KIB = 65536 };

static int unknown_name(struct str name, struct err *e)
{
    char known[400];
    size_t used = 0;
    known[0] = '\0';
    for (int i = 0; pretok_name(i); i++) {
        size_t n = strlen(pretok_name(i));
        if (used + n + 3 > sizeof known)
            break;
        memcpy(known + used, i ? ", " : "", i ? 2 : 0);
        used += i ? 2 : 0;
        memcpy(known + used, pretok_name(i), n + 1);
        used += n;
    }
    if (!name.n)
        return err_set(e, E_UNSUPPORTED,
                       "the file does not name its pre-tokeniser (tokenizer.ggml.pre): expected "
                       "one of %s; convert the model again with a newer converter", known);
    return err_set(e, E_UNSUPPORTED,
                   "pre-tokeniser '%.*s' (tokenizer.ggml.pre) is not supported; known are %s and "
                   "their other names", (int)MIN(name.n, 64), name.p, known);
}

static int compile(const struct pretok_form *form, int pass, void **out, struct err *e)
{
    int error;
    size_t where;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)form->pass[pass].pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &where, NULL);
    if (!code)
        return err_set(e, E_UNSUPPORTED,
                       "PCRE2 refuses pattern %d of pre-tokeniser %s (error %d at %zu): expected "
                       "a PCRE2 with Unicode support", pass + 1, form->names[0], error, where);
    /* Where the system forbids generated code, matching is merely slower. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *out = code;
    return OK;
}

int pretok_open_form(const struct pretok_form *form, struct pretok *p, struct err *e)
{
    *p = (struct pretok){0};
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (!limits)
        return err_set(e, E_NOMEM, "no memory for the pre-tokeniser");
    pcre2_set_match_limit(limits, MATCH_STEPS);
    pcre2_set_heap_limit(limits, MATCH_HEAP_KIB);
    p->limits = limits;
    for (int i = 0; i < PRETOK_PASSES && form->pass[i].pattern; i++, p->n_passes++) {
        int rc = compile(form, i, &p->code[i], e);
        if (rc < 0) {
            pretok_close(p);
            return rc;
        }
    }
    p->form = form;
    return OK;
}

int pretok_open(struct str name, struct pretok *p, struct err *e)
{
    *p = (struct pretok){0};
    const struct pretok_form *form = pretok_find(name);
    return form ? pretok_open_form(form, p, e) : unknown_name(name, e);
}

void pretok_close(struct pretok *p)
{
    for (int i = 0; i < p->n_passes; i++)
        pcre2_code_free(p->code[i]);
    pcre2_match_context_free(p->limits);
    *p = (struct pretok){0};
}

int64_t pretok_bytes(const struct pretok *p)
{
    size_t sum = 0;
    for (int i = 0; i < p->n_passes; i++) {
        size_t code = 0, jit = 0;
        pcre2_pattern_info(p->code[i], PCRE2_INFO_SIZE, &code);
        pcre2_pattern_info(p->code[i], PCRE2_INFO_JITSIZE, &jit);
        sum += code + jit;
    }
    return (int64_t)sum;
}

void pretok_begin(struct pretok_scan *s, struct str text)
{
    s->rest = text;
    s->part = (struct str){0};
    s->at = 0;
    s->begun = false;
    memset(s->level, 0, sizeof s->level);
}

void pretok_end(struct pretok_scan *s)
{
    free(s->made);
    pcre2_match_data_free(s->match);
    *s = (struct pretok_scan){0};
}

/* ---- stretches ---- */

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

static bool has_bar(struct str text)
{
    const char *p = text.p, *end = text.p + text.n;
    while ((p = memchr(p, 0xe2, (size_t)(end - p)))) {
        if (end - p >= 3 && !memcmp(p, "\xe2\x96\x81", 3))
            return true;
        p++;
    }
    return false;
}

/* The stretch with blanks as tokens hold them. */
static int make_blanks(struct pretok_scan *s, struct str in, bool begins, struct err *e)
{
    if (s->most_bytes && in.n >= s->most_bytes)
        return err_set(e, E_BUDGET, "a copy of %zu bytes of text takes too much memory", in.n);
    char *out = malloc(in.n + 1);
    if (!out)
        return err_set(e, E_NOMEM, "no memory for a copy of %zu bytes of text", in.n);
    free(s->made);
    s->made = out;
    s->part.p = out;
    s->part.n = spell_text(in, s->blank_first && begins, s->squeezes, begins, !s->rest.n, out);
    return OK;
}

/* Makes the next well-formed stretch the part to cut. */
static int next_part(const struct pretok *p, struct pretok_scan *s, struct err *e)
{
    size_t n = utf8_valid_prefix(s->rest.p, s->rest.n);
    bool begins = !s->begun;
    s->begun = true;
    s->part = (struct str){s->rest.p, n};
    s->at = 0;
    s->rest = (struct str){s->rest.p + n, s->rest.n - n};
    if (p->form->spelling == SPELT_WITH_BARS) {
        if ((s->blank_first && begins) || s->squeezes || has_bar(s->part))
            return make_blanks(s, s->part, begins, e);
    } else if (p->form->nfc && !nfc_quick(s->part.p, n)) {
        if (s->most_bytes && n > s->most_bytes / NFC_BYTES)
            return err_set(e, E_BUDGET,
                           "bringing %zu bytes of text to the form NFC takes too much memory", n);
        free(s->made);
        s->made = NULL;
        size_t nfc_n = 0;
        TRY(nfc_make(s->part.p, n, &s->made, &nfc_n, e));
        s->part = (struct str){s->made, nfc_n};
    }
    return OK;
}

/* ---- passes ---- */

/* Where k characters from `at` on end, at most `stop`. */
static size_t behind(const struct pretok_scan *s, size_t at, size_t stop, int k)
{
    for (; k > 0 && at < stop; k--)
        do
            at++;
        while (at < stop && ((unsigned char)s->part.p[at] & 0xc0) == 0x80);
    return at;
}

/* The first place to cut behind l->at that the last match asks for; 0: none. */
static size_t next_cut(const struct pretok_scan *s, const struct pretok_level *l, enum cut cut)
{
    if (l->at >= l->stop)
        return 0;
    size_t first = cut == CUT_INSIDE ? l->first : l->match;
    if (l->at < first)
        return cut == CUT_INSIDE && first == l->stop ? 0 : first;
    if (cut == CUT_MATCHES)
        return l->stop;
    if (l->at < l->first)
        return l->first;
    size_t third = behind(s, l->at, l->stop, 3);
    return cut == CUT_INSIDE && third == l->stop ? 0 : third;
}

/* Looks for the next match from `from` on: 1 found, 0 there is none. */
static int find_match(const struct pretok *p, struct pretok_scan *s, int k, size_t from,
                      struct err *e)
{
    struct pretok_level *l = &s->level[k];
    /* The text is known to be well-formed; checking it again for each piece
     * would take quadratic time. */
    uint32_t options = PCRE2_NO_UTF_CHECK;
    PCRE2_SPTR subject = (PCRE2_SPTR)s->part.p + l->begin;
    size_t n = l->end - l->begin, at = from - l->begin;
    int rc = pcre2_match(p->code[k], subject, n, at, options, s->match, p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code[k], subject, n, at, options | PCRE2_NO_JIT, s->match, p->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    const size_t *found = pcre2_get_ovector_pointer(s->match);
    if (rc <= 0 || found[1] <= found[0])
        return err_set(e, rc == PCRE2_ERROR_NOMEMORY ? E_NOMEM : E_ARG,
                       "pre-tokeniser %s found no piece at byte %zu of %zu (PCRE2 error %d); if "
                       "the text has a single word of many megabytes, break it up",
                       p->form->names[0], from, s->part.n, rc);
    l->match = l->begin + found[0];
    l->stop = l->begin + found[1];
    if (p->form->pass[k].cut != CUT_MATCHES) {
        int n_chars = 0;
        for (size_t i = l->match; i < l->stop; i++)
            n_chars += ((unsigned char)s->part.p[i] & 0xc0) != 0x80;
        l->first = behind(s, l->match, l->stop, n_chars % 3);
    }
    return 1;
}

/* The next piece of pass k, or of the part before any pass (k < 0): [*begin, *end) of
 * it. 1: there is one; 0: the part is used up. */
static int next_of_pass(const struct pretok *p, struct pretok_scan *s, int k, size_t *begin,
                        size_t *end, struct err *e)
{
    if (k < 0) {
        *begin = s->at;
        *end = s->at = s->part.n;
        return *begin < *end;
    }
    struct pretok_level *l = &s->level[k];
    if (l->at == l->end) {
        int rc = next_of_pass(p, s, k - 1, begin, end, e);
        if (rc <= 0)
            return rc;
        *l = (struct pretok_level){.begin = *begin, .end = *end, .at = *begin};
    }
    size_t cut;
    while (!(cut = next_cut(s, l, p->form->pass[k].cut))) {
        size_t from = MAX(l->at, l->stop);
        int rc = from < l->end ? find_match(p, s, k, from, e) : 0;
        if (rc < 0)
            return rc;
        if (rc == 0) { /* the rest is one piece */
            cut = l->end;
            break;
        }
    }
    *begin = l->at;
    *end = l->at = cut;
    return 1;
}

int pretok_next(const struct pretok *p, struct pretok_scan *s, struct str *piece,
                struct err *e)
{
    if (!s->match && !(s->match = pcre2_match_data_create(1, NULL)))
        return err_set(e, E_NOMEM, "no memory to cut text into pieces");
    for (;;) {
        size_t begin, end;
        int rc = next_of_pass(p, s, p->n_passes - 1, &begin, &end, e);
        if (rc < 0)
            return rc;
        if (rc > 0) {
            *piece = (struct str){s->part.p + begin, end - begin};
            return 1;
        }
        if (!s->rest.n)
            return 0;
        size_t n = s->blank_first && !s->begun ? 0 : invalid_prefix(s->rest);
        if (n) {
            s->begun = true;
            *piece = (struct str){s->rest.p, n};
            s->rest = (struct str){s->rest.p + n, s->rest.n - n};
            return 1;
        }
        TRY(next_part(p, s, e));
    }
}
