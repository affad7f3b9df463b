/*
 * lex: the bytes of a template -> text between tags, and the words inside of them.
 *
 * White space is taken away as with Jinja's trim_blocks and lstrip_blocks: a block
 * or comment that begins a line takes the blanks before it, and its newline behind
 * it; a minus sign at either end of a tag takes all white space on that side.
 */
#include <string.h>

#include "text/jinja/jinja.h"
#include "text/text_internal.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_space(char c)
{
    return is_blank(c) || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

/* The byte `ahead` of the current place, 0 behind the end. */
static char peek(const struct jlex *x, size_t ahead)
{
    return x->src.n - x->at > ahead ? x->src.p[x->at + ahead] : '\0';
}

static void go(struct jlex *x, size_t n)
{
    for (; n && x->at < x->src.n; n--)
        x->line += x->src.p[x->at++] == '\n';
}

static void skip_space(struct jlex *x)
{
    int k;
    while (x->at < x->src.n && (k = utf8_space(x->src.p + x->at, x->src.n - x->at)) > 0)
        go(x, (size_t)k);
}

/* ---- between tags ---- */

static size_t end_without_space(const struct jlex *x, size_t begin, size_t end)
{
    while (end > begin) {
        size_t k = 1;
        while (k < 4 && end - k > begin && ((unsigned char)x->src.p[end - k] & 0xc0) == 0x80)
            k++;
        if (utf8_space(x->src.p + end - k, k) != (int)k)
            break;
        end -= k;
    }
    return end;
}

/* Without the blanks before a block, where nothing else stands on its line. */
static size_t end_without_indent(const struct jlex *x, size_t begin, size_t end)
{
    size_t i = end;
    while (i > begin && is_blank(x->src.p[i - 1]))
        i--;
    return i == 0 || x->src.p[i - 1] == '\n' ? i : end;
}

static void comment(struct jinja *j, struct jlex *x)
{
    const char *p = x->src.p + x->at;
    const char *end = memmem(p, x->src.n - x->at, "#}", 2);
    if (!end)
        jfail(j, "a comment has no end");
    bool strips = end > p && end[-1] == '-';
    go(x, (size_t)(end - p) + 2);
    if (strips)
        skip_space(x);
    else if (peek(x, 0) == '\n')
        go(x, 1);
}

int jlex_text(struct jinja *j, struct jlex *x, struct str *text)
{
    size_t begin = x->at;
    char c, kind;
    jstep(j, 0);
    while ((c = peek(x, 0)) != '\0' || x->at < x->src.n) {
        kind = c == '{' ? peek(x, 1) : '\0';
        if (kind == '%' || kind == '{' || kind == '#')
            break;
        go(x, 1);
    }
    size_t end = x->at;
    j->line = x->line;
    if (x->at >= x->src.n) {
        *text = (struct str){x->src.p + begin, end - begin};
        return 0;
    }
    kind = peek(x, 1);
    go(x, 2);
    if (peek(x, 0) == '-') {
        go(x, 1);
        end = end_without_space(x, begin, end);
    } else if (peek(x, 0) == '+' && kind != '{') {
        go(x, 1);
    } else if (kind != '{') {
        end = end_without_indent(x, begin, end);
    }
    *text = (struct str){x->src.p + begin, end - begin};
    x->n_braces = 0;
    if (kind == '#')
        comment(j, x);
    return kind;
}

void jlex_close(struct jinja *j, struct jlex *x, bool block)
{
    const char *end = block ? "%}" : "}}";
    bool strips = peek(x, 0) == '-', keeps = peek(x, 0) == '+';
    go(x, strips || keeps);
    if (peek(x, 0) != end[0] || peek(x, 1) != end[1])
        jfail(j, "a tag that began with %s ends with '%.*s'", block ? "{%" : "{{",
              (int)MIN(x->src.n - x->at, (size_t)2), x->src.p + x->at);
    go(x, 2);
    if (strips)
        skip_space(x);
    else if (block && !keeps && peek(x, 0) == '\n')
        go(x, 1);
}

struct str jlex_raw(struct jinja *j, struct jlex *x)
{
    size_t begin = x->at;
    while (x->at < x->src.n) {
        struct jlex y = *x;
        struct str none;
        if (peek(x, 0) != '{' || peek(x, 1) != '%') {
            go(x, 1);
            continue;
        }
        size_t end = x->at;
        bool strips = peek(x, 2) == '-';
        jlex_text(j, &y, &none);
        skip_space(&y);
        if (y.src.n - y.at > 6 && !memcmp(y.src.p + y.at, "endraw", 6)) {
            go(&y, 6);
            skip_space(&y);
            jlex_close(j, &y, true);
            end = strips ? end_without_space(x, begin, end) : end_without_indent(x, begin, end);
            *x = y;
            return (struct str){x->src.p + begin, end - begin};
        }
        go(x, 2);
    }
    jfail(j, "{%% raw %%} has no {%% endraw %%}");
}

/* ---- inside of tags ---- */

static void string(struct jinja *j, struct jlex *x, char quote)
{
    size_t begin = x->at + 1;
    go(x, 1);
    while (peek(x, 0) != quote) {
        if (x->at >= x->src.n)
            jfail(j, "a string has no end");
        go(x, peek(x, 0) == '\\' ? 2 : 1);
    }
    x->word = W_STRING;
    x->text = (struct str){x->src.p + begin, x->at - begin};
    go(x, 1);
}

static void number(struct jlex *x)
{
    size_t begin = x->at;
    x->word = W_INT;
    while (is_digit(peek(x, 0)) || (peek(x, 0) == '_' && is_digit(peek(x, 1))))
        go(x, 1);
    if (peek(x, 0) == '.' && is_digit(peek(x, 1))) {
        x->word = W_FLOAT;
        go(x, 1);
        while (is_digit(peek(x, 0)))
            go(x, 1);
    }
    size_t sign = peek(x, 1) == '-' || peek(x, 1) == '+';
    if ((peek(x, 0) | 32) == 'e' && is_digit(peek(x, 1 + sign))) {
        x->word = W_FLOAT;
        go(x, 1 + sign);
        while (is_digit(peek(x, 0)))
            go(x, 1);
    }
    x->text = (struct str){x->src.p + begin, x->at - begin};
}

static bool at_end(const struct jlex *x)
{
    size_t sign = peek(x, 0) == '-' || peek(x, 0) == '+';
    char c = peek(x, sign);
    if (c == '%')
        return peek(x, sign + 1) == '}';
    return c == '}' && peek(x, sign + 1) == '}' && x->n_braces == 0;
}

void jlex_next(struct jinja *j, struct jlex *x)
{
    static const char *const pairs[] = {"**", "//", "==", "!=", "<=", ">="};
    jstep(j, 0);
    while (x->at < x->src.n && is_space(peek(x, 0)))
        go(x, 1);
    j->line = x->line;
    char c = peek(x, 0);
    if (x->at >= x->src.n)
        jfail(j, "a tag has no end");
    if (at_end(x)) {
        x->word = W_END;
        return;
    }
    if (c == '\'' || c == '"') {
        string(j, x, c);
        return;
    }
    if (is_digit(c)) {
        number(x);
        return;
    }
    if (is_letter(c)) {
        size_t begin = x->at;
        while (is_letter(peek(x, 0)) || is_digit(peek(x, 0)))
            go(x, 1);
        x->word = W_NAME;
        x->text = (struct str){x->src.p + begin, x->at - begin};
        return;
    }
    x->word = W_OP;
    x->op[0] = c;
    x->op[1] = x->op[2] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        if (c == pairs[i][0] && peek(x, 1) == pairs[i][1])
            x->op[1] = pairs[i][1];
    if (!strchr("()[]{},.:|+-~*/%<>=!", c) || (c == '!' && !x->op[1]))
        jfail(j, "the character '%c' has no meaning here", c);
    x->n_braces += c == '{' ? 1 : c == '}' && x->n_braces ? -1 : 0;
    go(x, x->op[1] ? 2 : 1);
}

bool jlex_is_op(const struct jlex *x, const char *op)
{
    return x->word == W_OP && !strcmp(x->op, op);
}

bool jlex_is_name(const struct jlex *x, const char *name)
{
    return x->word == W_NAME && x->text.n == strlen(name) && !memcmp(x->text.p, name, x->text.n);
}

/* ---- strings ---- */

/* The character of an escape \xAB, \uABCD or \UABCDEFGH; *at moves behind it. */
static uint32_t hex_escape(struct jinja *j, struct str raw, size_t *at, size_t n_digits)
{
    uint32_t c = 0;
    for (size_t i = 0; i < n_digits; i++, ++*at) {
        char d = *at < raw.n ? raw.p[*at] : '\0';
        int v = is_digit(d)                          ? d - '0'
                : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10
                                                     : -1;
        if (v < 0)
            jfail(j, "an escape of a string lacks hexadecimal digits");
        c = c << 4 | (uint32_t)v;
    }
    return c;
}

static uint32_t character_escape(struct jinja *j, struct str raw, size_t *at, char kind)
{
    uint32_t c = hex_escape(j, raw, at, kind == 'x' ? 2 : kind == 'u' ? 4 : 8);
    bool pair = c >= 0xd800 && c < 0xdc00 && *at + 1 < raw.n && raw.p[*at] == '\\' &&
                raw.p[*at + 1] == 'u';
    if (pair) {
        *at += 2;
        uint32_t low = hex_escape(j, raw, at, 4);
        c = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00)
                                          : 0x110000;
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        jfail(j, "an escape of a string is no character");
    return c;
}

const struct jstr *jlex_string(struct jinja *j, struct str raw)
{
    static const char from[] = "ntrbfav'\"\\", to[] = "\n\t\r\b\f\a\v'\"\\";
    char *p = jalloc(j, raw.n + 1);
    size_t n = 0;
    jstep(j, raw.n);
    for (size_t i = 0; i < raw.n;) {
        char c = raw.p[i++];
        if (c != '\\' || i == raw.n) {
            p[n++] = c;
            continue;
        }
        c = raw.p[i++];
        const char *known = strchr(from, c);
        if (c && known)
            p[n++] = to[known - from];
        else if (c == 'x' || c == 'u' || c == 'U')
            n += utf8_encode(character_escape(j, raw, &i, c), p + n);
        else if (c != '\n') { /* as in Python, what is no escape stays */
            p[n++] = '\\';
            p[n++] = c;
        }
    }
    return jstring(j, p, n, true).s;
}
