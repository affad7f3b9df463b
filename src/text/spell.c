/*
 * spell: how a file writes the strings of its tokens, and how text has to look to be
 * compared with them. Inside the program a token is the bytes that it stands for.
 */
#include <string.h>

#include "text/text_internal.h"

static const char bar[] = "\xe2\x96\x81"; /* U+2581, a blank in SentencePiece's files */
enum { BAR = sizeof bar - 1 };

/* ---- GPT-2's map between bytes and characters ---- */

static bool maps_to_itself(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

void spell_make(enum spelling how, struct spelling_map *m)
{
    unsigned next = 0x100;
    m->how = how;
    for (size_t c = 0; c < ARRAY_LEN(m->byte_of); c++)
        m->byte_of[c] = -1;
    for (unsigned byte = 0; byte < 256; byte++)
        m->byte_of[maps_to_itself(byte) ? byte : next++] = (int16_t)byte;
}

static int64_t unmap(const struct spelling_map *m, struct str s, char *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < s.n;) {
        int length = utf8_sequence(s.p + i, s.n - i);
        uint32_t c = length > 0 ? utf8_decode(s.p + i, length) : ARRAY_LEN(m->byte_of);
        if (c >= ARRAY_LEN(m->byte_of) || m->byte_of[c] < 0)
            return -1;
        out[n++] = (char)m->byte_of[c];
        i += (size_t)length;
    }
    return n;
}

/* ---- text ---- */

static bool is_bar(struct str s, size_t i)
{
    return s.n - i >= BAR && !memcmp(s.p + i, bar, BAR);
}

size_t spell_text(struct str s, bool blank_first, bool squeezes, bool begins, bool ends, char *out)
{
    size_t n = 0;
    if (blank_first)
        out[n++] = ' ';
    size_t n_first = n;
    for (size_t i = 0; i < s.n;) {
        bool barred = is_bar(s, i);
        char c = barred ? ' ' : s.p[i];
        i += barred ? BAR : 1;
        if (squeezes && c == ' ' && (n > n_first ? out[n - 1] == ' ' : begins))
            continue;
        out[n++] = c;
    }
    if (squeezes && ends && n > n_first && out[n - 1] == ' ')
        n--;
    /* Nothing is left: there is no text for the blank to stand before. */
    return squeezes && begins && ends && n == n_first ? 0 : n;
}

int64_t spell_bytes(const struct spelling_map *m, struct str s, char *out)
{
    if (m->how == SPELT_IN_BYTES)
        return unmap(m, s, out);
    if (utf8_valid_prefix(s.p, s.n) != s.n)
        return -1;
    if (m->how == SPELT_WITH_BARS)
        return (int64_t)spell_text(s, false, false, true, true, out);
    memcpy(out, s.p, s.n);
    return (int64_t)s.n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int spell_byte_token(struct str s)
{
    if (s.n != 6 || memcmp(s.p, "<0x", 3) || s.p[5] != '>')
        return -1;
    int high = hex_digit(s.p[3]), low = hex_digit(s.p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

bool spell_is_blank(struct str s)
{
    for (size_t i = 0; i < s.n; i += is_bar(s, i) ? BAR : 1)
        if (!is_bar(s, i) && !memchr(" \t\n\v\f\r", s.p[i], 6))
            return false;
    return s.n > 0;
}
