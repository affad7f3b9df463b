/*
 * UTF-8, and untrusted text made fit to be shown.
 *
 * Well-formedness is that of the Unicode standard, table 3-7: no surrogates, no
 * overlong forms, nothing above U+10FFFF.
 *
 * What a terminal would obey is written as an escape: the control characters
 * (also U+0080 to U+009F, which some terminals obey), DEL, the characters that
 * turn the direction of text around, and bytes that are not UTF-8.
 */
#include "base/base.h"

#include <stdio.h>
#include <string.h>

int utf8_sequence(const char *p, size_t n)
{
    unsigned char c = (unsigned char)p[0];
    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4)
        return 0;
    int length = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    /* Only the second byte's range depends on the first. */
    unsigned low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n)
            return -i;
        unsigned char d = (unsigned char)p[i];
        if (d < low || d > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

uint32_t utf8_decode(const char *p, int length)
{
    static const unsigned char lead[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = (unsigned char)p[0] & lead[length];
    for (int i = 1; i < length; i++)
        c = c << 6 | ((unsigned char)p[i] & 0x3f);
    return c;
}

/* Whether the character is written as an escape. */
static bool is_unsafe(uint32_t c, unsigned how)
{
    if (c == '\n' || c == '\t')
        return !(how & SHOW_LINES);
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || ((c == 0x2028 || c == 0x2029) && !(how & SHOW_LINES));
}

size_t utf8_show(const char *p, size_t n, unsigned how, char out[SHOW_ROOM], size_t *n_out)
{
    int length = utf8_sequence(p, n);
    uint32_t c = length > 0 ? utf8_decode(p, length) : (unsigned char)p[0];
    if (length > 0 && !is_unsafe(c, how)) {
        memcpy(out, p, (size_t)length);
        *n_out = (size_t)length;
        return (size_t)length;
    }
    const char *form = "\\x%02x";
    if (length > 0 && (c >= 0x80 || (how & SHOW_JSON)))
        form = "\\u%04x";
    else if (c == '\n')
        form = "\\n";
    else if (c == '\r')
        form = "\\r";
    else if (c == '\t')
        form = "\\t";
    *n_out = (size_t)snprintf(out, SHOW_ROOM, form, (unsigned)c);
    return length > 0 ? (size_t)length : 1;
}

size_t utf8_show_all(char *out, size_t room, const char *p, size_t n, unsigned how)
{
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        char one[SHOW_ROOM];
        size_t k;
        i += utf8_show(p + i, n - i, how, one, &k);
        if (k >= room - used)
            break;
        memcpy(out + used, one, k);
        used += k;
    }
    out[used] = '\0';
    return used;
}
