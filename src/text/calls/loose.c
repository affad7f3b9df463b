/*
 * loose: values that are written unlike JSON, as JSON. Two dialects: Gemma's, whose strings
 * stand between <|"|> and whose keys are bare, and Python's literals. A value that neither
 * knows makes the whole no call.
 */
#include <stdlib.h>
#include <string.h>

#include "text/calls/calls.h"
#include "text/jinja/jinja.h"
#include "text/text_internal.h"

#define QUOTE "<|\"|>"

struct loose {
    struct jinja *j;
    struct str text;
    size_t at;
    struct jbuf *out;
    bool python;
};

static const struct json_form form = {0};

static void skip_space(struct loose *l)
{
    while (l->at < l->text.n && l->text.p[l->at] && strchr(" \t\r\n", l->text.p[l->at]))
        l->at++;
}

static bool take(struct loose *l, const char *word)
{
    size_t n = strlen(word);
    bool is = l->text.n - l->at >= n && !memcmp(l->text.p + l->at, word, n);
    l->at += is ? n : 0;
    return is;
}

/* As a JSON string. */
static bool put_string(struct loose *l, const char *p, size_t n)
{
    if (utf8_valid_prefix(p, n) != n)
        return false;
    json_write(l->j, l->out, jstring(l->j, p, n, false), &form);
    return true;
}

static bool gemma_string(struct loose *l)
{
    const char *p = l->text.p + l->at, *end = memmem(p, l->text.n - l->at, QUOTE, sizeof QUOTE - 1);
    if (!end)
        return false;
    l->at += (size_t)(end - p) + sizeof QUOTE - 1;
    return put_string(l, p, (size_t)(end - p));
}

/* A string of Python whose quote has been taken. Its escapes, but for those of characters by
 * number, are those of JSON, and a quote. */
static bool python_string(struct loose *l, char quote)
{
    static const char letters[] = "ntrbfv0\\'\"", means[] = "\n\t\r\b\f\v\0\\'\"";
    size_t n = 0, end = l->at;
    while (end < l->text.n && l->text.p[end] != quote)
        end += l->text.p[end] == '\\' ? 2 : 1;
    if (end >= l->text.n)
        return false;
    char *s = jalloc(l->j, end - l->at + 1);
    while (l->at < end) {
        char c = l->text.p[l->at++];
        if (c == '\\') {
            c = l->text.p[l->at++];
            const char *known = c ? strchr(letters, c) : NULL;
            if (!known)
                return false;
            c = means[known - letters];
        }
        s[n++] = c;
    }
    l->at = end + 1;
    return put_string(l, s, n);
}

static size_t digits(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] >= '0' && p[i] <= '9')
        i++;
    return i;
}

/* Whether it is a number of JSON. */
static bool is_number(const char *p, size_t n)
{
    size_t i = n && p[0] == '-', k = digits(p + i, n - i);
    if (!k || (k > 1 && p[i] == '0'))
        return false;
    i += k;
    if (i < n && p[i] == '.') {
        k = digits(p + i + 1, n - i - 1);
        if (!k)
            return false;
        i += 1 + k;
    }
    if (i < n && (p[i] == 'e' || p[i] == 'E')) {
        i++;
        i += i < n && (p[i] == '-' || p[i] == '+');
        k = digits(p + i, n - i);
        if (!k)
            return false;
        i += k;
    }
    return i == n;
}

/* A number, or a word; JSON's own stand for themselves. */
static bool word(struct loose *l)
{
    static const char *const words[][2] = {{"true", "true"}, {"false", "false"}, {"null", "null"},
                                           {"True", "true"}, {"False", "false"}, {"None", "null"}};
    size_t begin = l->at, n;
    while (l->at < l->text.n && l->text.p[l->at] && !strchr(",:{}[]() \t\r\n", l->text.p[l->at]))
        l->at++;
    n = l->at - begin;
    const char *p = l->text.p + begin;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_is((struct str){p, n}, words[i][0])) {
            jbuf_c(l->j, l->out, words[i][1]);
            return true;
        }
    if (!n && !l->python) { /* Gemma's template writes nothing for null */
        jbuf_c(l->j, l->out, "null");
        return true;
    }
    if (!is_number(p, n))
        return false;
    jbuf_add(l->j, l->out, p, n, false);
    return true;
}

static bool value(struct loose *l, bool top);

/* Of an object or of arguments: bare, or a string. */
static bool key(struct loose *l, bool bare, const char *ends)
{
    skip_space(l);
    if (!l->python && take(l, QUOTE))
        return gemma_string(l);
    if (!bare)
        return take(l, "'") ? python_string(l, '\'') : take(l, "\"") && python_string(l, '"');
    const char *p = l->text.p + l->at;
    size_t begin = l->at;
    while (l->at < l->text.n && l->text.p[l->at] && !strchr(ends, l->text.p[l->at]))
        l->at++;
    return l->at > begin && put_string(l, p, l->at - begin);
}

/* key: value, ... up to `close`, which is taken; "": up to the end of the text. */
static bool members(struct loose *l, bool bare, const char *colon, const char *close)
{
    struct jval seen = jdict_new(l->j);
    jbuf_c(l->j, l->out, "{");
    skip_space(l);
    bool first = true, ended = *close ? take(l, close) : l->at == l->text.n;
    for (; !ended; first = false) {
        jbuf_c(l->j, l->out, first ? "" : ", ");
        size_t from = l->out->n;
        if (!key(l, bare, *colon == ':' ? ": \n" : "= \n"))
            return false;
        struct jval k = jstring(l->j, l->out->p + from, l->out->n - from, false);
        if (jdict_get(l->j, seen.dict, k))
            return false;
        jdict_set(l->j, seen.dict, k, jbool(true));
        skip_space(l);
        if (!take(l, colon))
            return false;
        jbuf_c(l->j, l->out, ": ");
        if (!value(l, *colon == '='))
            return false;
        skip_space(l);
        ended = *close ? take(l, close) : l->at == l->text.n;
        if (!ended && !take(l, ","))
            return false;
    }
    jbuf_c(l->j, l->out, "}");
    return true;
}

static bool items(struct loose *l)
{
    jbuf_c(l->j, l->out, "[");
    skip_space(l);
    bool first = true, ended = take(l, "]");
    for (; !ended; first = false) {
        jbuf_c(l->j, l->out, first ? "" : ", ");
        if (!value(l, false))
            return false;
        skip_space(l);
        ended = take(l, "]");
        if (!ended && !take(l, ","))
            return false;
    }
    jbuf_c(l->j, l->out, "]");
    return true;
}

/* A list or object of an argument that is JSON as it stands: so it stays. */
static bool json_as_written(struct loose *l)
{
    struct call_scan s = {.at = l->text.p[l->at] == '[' ? "%l" : "%j"};
    const char *p = l->text.p + l->at;
    enum call_state state = call_scan(&s, p, l->text.n - l->at, true);
    free(s.part);
    struct str json = {p, s.pos};
    if (state != CALL_DONE || !call_same_json(json, json))
        return false;
    jbuf_add(l->j, l->out, json.p, json.n, false);
    l->at += json.n;
    return true;
}

/* top: of an argument itself. */
static bool value(struct loose *l, bool top)
{
    bool is;
    jdeeper(l->j);
    skip_space(l);
    jstep(l->j, 0);
    if (!l->python && take(l, QUOTE))
        is = gemma_string(l);
    else if (l->python && take(l, "'"))
        is = python_string(l, '\'');
    else if (l->python && take(l, "\""))
        is = python_string(l, '"');
    else if (top && l->python && l->at < l->text.n && strchr("{[", l->text.p[l->at]) &&
             l->text.p[l->at] && json_as_written(l))
        is = true;
    else if (take(l, "{"))
        is = members(l, !l->python, ":", "}");
    else if (take(l, "["))
        is = items(l);
    else
        is = word(l);
    l->j->depth--;
    return is;
}

bool loose_gemma(struct jinja *j, struct str text, struct jbuf *out)
{
    struct loose l = {.j = j, .text = text, .out = out};
    return members(&l, true, ":", "");
}

bool loose_python(struct jinja *j, struct str text, size_t *at, struct str *name, struct jbuf *out)
{
    struct loose l = {.j = j, .text = text, .at = *at, .out = out, .python = true};
    skip_space(&l);
    size_t begin = l.at;
    while (l.at < text.n && text.p[l.at] != '(')
        l.at++;
    *name = (struct str){text.p + begin, l.at - begin};
    if (!take(&l, "(") || !members(&l, true, "=", ")"))
        return false;
    skip_space(&l);
    *at = l.at;
    return true;
}
