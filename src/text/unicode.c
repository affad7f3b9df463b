/*
 * unicode: what the tokeniser must know of Unicode itself (UTF-8's sequences are
 * in base). Canonical data and composition come from utf8proc; its utf8proc_map
 * would do all of NFC, but orders marks in quadratic time.
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/text_internal.h"

size_t utf8_valid_prefix(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, p + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        int length = utf8_sequence(p + i, n - i);
        if (length <= 0)
            break;
        i += (size_t)length;
    }
    return i;
}

size_t utf8_encode(uint32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

int utf8_space(const char *p, size_t n)
{
    int length = utf8_sequence(p, n);
    if (length <= 0)
        return 0;
    uint32_t c = utf8_decode(p, length);
    bool space = (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 ||
                 c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
                 c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
    return space ? length : 0;
}

/*
 * Ranges whose characters have combining class 0, NFC_Quick_Check = Yes, and
 * never combine with what stands before them: a text of these alone is in
 * NFC. Not all such characters: enough for the scripts that fill most pages.
 */
static const struct {
    uint32_t first, last;
} inert[] = {
    {0x0000, 0x02ff}, /* Latin with its extensions, phonetics */
    {0x0375, 0x037d}, {0x0388, 0x0482}, /* Greek, Cyrillic */
    {0x048a, 0x058f}, /* Cyrillic, Armenian */
    {0x0621, 0x064a}, /* Arabic letters */
    {0x0e01, 0x0e37}, /* Thai letters */
    {0x2002, 0x20cf}, /* punctuation, superscripts, currency */
    {0x2190, 0x2328}, {0x2400, 0x2adb}, /* arrows, operators, boxes, dingbats */
    {0x3000, 0x3029}, {0x3041, 0x3098}, {0x309b, 0x4dff}, /* kana, bopomofo, CJK A */
    {0x4e00, 0x9fff}, {0xac00, 0xd7a3}, /* CJK, Hangul */
    {0xff01, 0xffee}, /* full- and half-width forms */
    {0x1f300, 0x1faff}, /* emoji */
};

static bool is_inert(uint32_t c)
{
    size_t low = 0, high = ARRAY_LEN(inert);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > inert[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < ARRAY_LEN(inert) && c >= inert[low].first;
}

bool nfc_quick(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)p[i] < 0xcc) { /* up to U+02FF; continuations too */
            i++;
            continue;
        }
        int length = utf8_sequence(p + i, n - i);
        if (length <= 0 || !is_inert(utf8_decode(p + i, length)))
            return false;
        i += (size_t)length;
    }
    return true;
}

static const utf8proc_option_t nfc_options =
    (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/* Fully decomposed characters, not yet in canonical order. Returns how many,
 * or utf8proc's error; out may be NULL to count only. */
static utf8proc_ssize_t decompose(const char *p, size_t n, utf8proc_int32_t *out)
{
    utf8proc_ssize_t used = 0;
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t one[16]; /* no character decomposes into more than 4 */
        int length = utf8_sequence(p + i, n - i);
        utf8proc_int32_t c = (utf8proc_int32_t)utf8_decode(p + i, length);
        utf8proc_ssize_t k =
            utf8proc_decompose_char(c, one, ARRAY_LEN(one), nfc_options, NULL);
        if (k < 0 || k > (utf8proc_ssize_t)ARRAY_LEN(one))
            return UTF8PROC_ERROR_OVERFLOW;
        if (out)
            memcpy(out + used, one, (size_t)k * sizeof *one);
        used += k;
        i += (size_t)length;
    }
    return used;
}

static unsigned combining_class(utf8proc_int32_t c)
{
    return (unsigned)utf8proc_get_property(c)->combining_class;
}

/* Canonical order: each run of marks sorted by class, equal ones as they
 * stand. A counting sort, since a run may be as long as the whole text. */
static void order_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *scratch)
{
    for (size_t begin = 0; begin < n;) {
        if (!combining_class(c[begin])) {
            begin++;
            continue;
        }
        size_t end = begin, at[257] = {0};
        for (; end < n && combining_class(c[end]); end++)
            at[combining_class(c[end]) + 1]++;
        if (end - begin > 1) {
            for (int k = 1; k < 257; k++)
                at[k] += at[k - 1];
            for (size_t i = begin; i < end; i++)
                scratch[at[combining_class(c[i])]++] = c[i];
            memcpy(c + begin, scratch, (end - begin) * sizeof *c);
        }
        begin = end;
    }
}

/* Composes in place; returns how many characters are left, negative if utf8proc
 * fails. It takes U+11A7, one before the first trailing consonant of Hangul, for
 * one of them, and drops it (seen up to its version 2.9). That character composes
 * with nothing on either side, so the stretches between are composed alone. */
static utf8proc_ssize_t compose(utf8proc_int32_t *c, utf8proc_ssize_t n)
{
    enum { BEFORE_TRAILING = 0x11a7 };
    utf8proc_ssize_t used = 0;
    for (utf8proc_ssize_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && c[end] != BEFORE_TRAILING;)
            end++;
        memmove(c + used, c + begin, (size_t)(end - begin) * sizeof *c);
        utf8proc_ssize_t k = utf8proc_normalize_utf32(c + used, end - begin, nfc_options);
        if (k < 0)
            return k;
        used += k;
    }
    return used;
}

int nfc_make(const char *p, size_t n, char **out, size_t *out_n, struct err *e)
{
    utf8proc_int32_t *c = NULL;
    char *text = NULL;
    int rc = E_NOMEM;
    utf8proc_ssize_t count = decompose(p, n, NULL);
    if (count < 0 || (size_t)count > SIZE_MAX / 16) {
        rc = E_ARG;
        goto out;
    }
    c = malloc(2 * ((size_t)count + 1) * sizeof *c); /* second half: scratch */
    if (!c)
        goto out;
    decompose(p, n, c);
    order_marks(c, (size_t)count, c + count + 1);
    count = compose(c, count);
    text = count < 0 ? NULL : malloc((size_t)count * 4 + 1);
    if (!text)
        goto out;
    size_t used = 0;
    for (utf8proc_ssize_t i = 0; i < count; i++)
        used += (size_t)utf8proc_encode_char(c[i], (utf8proc_uint8_t *)text + used);
    *out = text;
    *out_n = used;
    rc = OK;
out:
    free(c);
    return rc == OK ? OK
                    : err_set(e, rc, "cannot bring %zu bytes of text to the form NFC: %s", n,
                              rc == E_NOMEM ? "no memory" : "too long, pass it in parts");
}
