/*
 * json: values from JSON text and back. A string's marks go with its bytes; what
 * JSON itself adds, and numbers, are never the template's.
 */
#include <stdio.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* ---- out ---- */

static void write_string(struct jinja *j, struct jbuf *b, const struct jstr *s, bool ascii)
{
    static const char plain[] = "\b\f\n\r\t\"\\", escaped[] = "bfnrt\"\\";
    char text[16];
    size_t from = 0;
    jbuf_c(j, b, "\"");
    for (size_t i = 0, k; i <= s->n; i += k) {
        unsigned char c = i < s->n ? (unsigned char)s->p[i] : 0;
        bool special = i == s->n || c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x7f);
        k = i < s->n && special && c >= 0x80 ? jstr_char(s, i) : 1;
        if (!special)
            continue;
        jbuf_str(j, b, jstring_part(j, s, from, i - from).s);
        from = i + k;
        const char *known = c && i < s->n ? strchr(plain, c) : NULL;
        if (i == s->n)
            break;
        uint32_t u = c < 0x80                         ? c
                     : utf8_sequence(s->p + i, k) > 0 ? utf8_decode(s->p + i, (int)k)
                                                      : 0xfffd;
        if (known)
            snprintf(text, sizeof text, "\\%c", escaped[known - plain]);
        else if (u < 0x10000)
            snprintf(text, sizeof text, "\\u%04x", u);
        else
            snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0 + (u >> 10), 0xdc00 + (u & 0x3ff));
        jbuf_c(j, b, text);
    }
    jbuf_c(j, b, "\"");
}

static void new_line(struct jinja *j, struct jbuf *b, const struct json_form *f, int level)
{
    if (!f->indent)
        return;
    jbuf_c(j, b, "\n");
    for (int64_t i = 0; i < (int64_t)f->indent * level; i++)
        jbuf_c(j, b, " ");
}

static int by_key(const void *a, const void *b)
{
    const struct jval *x = &((const struct jentry *)a)->key, *y = &((const struct jentry *)b)->key;
    if (x->type != J_STRING || y->type != J_STRING)
        return (x->type == J_STRING) - (y->type == J_STRING);
    size_t n = MIN(x->s->n, y->s->n);
    int order = n ? memcmp(x->s->p, y->s->p, n) : 0;
    return order ? order : (x->s->n > y->s->n) - (x->s->n < y->s->n);
}

static void write_at(struct jinja *j, struct jbuf *b, struct jval v, const struct json_form *f,
                     int level);

static void between(struct jinja *j, struct jbuf *b, const struct json_form *f, int level,
                    bool first)
{
    if (!first && f->between)
        jbuf_str(j, b, f->between);
    else if (!first)
        jbuf_c(j, b, f->indent ? "," : ", ");
    new_line(j, b, f, level + 1);
}

static void write_dict(struct jinja *j, struct jbuf *b, const struct jdict *d,
                       const struct json_form *f, int level)
{
    struct jentry *e = d->e;
    if (f->sort_keys && d->n) {
        e = jalloc(j, d->n * sizeof *e);
        memcpy(e, d->e, d->n * sizeof *e);
        for (size_t i = 0; i < d->n; i++) /* each key is compared some 20 times */
            jstep(j, 64 + (e[i].key.type == J_STRING ? e[i].key.s->n * 20 : 0));
        qsort(e, d->n, sizeof *e, by_key);
    }
    jbuf_c(j, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        between(j, b, f, level, i == 0);
        write_string(j, b, jto_string(j, e[i].key).s, f->ascii);
        if (f->colon)
            jbuf_str(j, b, f->colon);
        else
            jbuf_c(j, b, ": ");
        write_at(j, b, e[i].value, f, level + 1);
    }
    if (d->n)
        new_line(j, b, f, level);
    jbuf_c(j, b, "}");
}

/* The text that a list or dict was read from, if that is to be written; n = 0: it is not. */
static struct str kept(struct jval v, const struct json_form *f)
{
    bool usual = !f->ascii && !f->sort_keys && !f->indent && !f->between && !f->colon;
    if (usual && v.type == J_LIST)
        return v.list->json;
    return usual && v.type == J_DICT ? v.dict->json : (struct str){NULL, 0};
}

static void write_at(struct jinja *j, struct jbuf *b, struct jval v, const struct json_form *f,
                     int level)
{
    char text[40];
    struct str as_read = kept(v, f);
    if (as_read.n) {
        jbuf_add(j, b, as_read.p, as_read.n, false);
        return;
    }
    jdeeper(j);
    switch (v.type) {
    case J_UNDEFINED:
    case J_NONE:
        jbuf_c(j, b, v.type == J_UNDEFINED && f->undefined ? "undefined" : "null");
        break;
    case J_FLOAT:
        jprint_double(j, v.f, text, true);
        jbuf_c(j, b, text);
        break;
    case J_STRING:
        write_string(j, b, v.s, f->ascii);
        break;
    case J_LIST:
        jbuf_c(j, b, "[");
        for (size_t i = 0; i < v.list->n; i++) {
            between(j, b, f, level, i == 0);
            write_at(j, b, v.list->v[i], f, level + 1);
        }
        if (v.list->n)
            new_line(j, b, f, level);
        jbuf_c(j, b, "]");
        break;
    case J_DICT:
    case J_NAMESPACE:
        write_dict(j, b, v.dict, f, level);
        break;
    case J_BOOL:
    case J_INT:
        jprint(j, b, v);
        break;
    default:
        jfail(j, "%s cannot be written as JSON", jtype_name(v));
    }
    j->depth--;
}

void json_write(struct jinja *j, struct jbuf *b, struct jval v, const struct json_form *f)
{
    write_at(j, b, v, f, 0);
}

/* ---- in ---- */

struct reader {
    struct str text;
    size_t at;
    const char *what;
    bool keeps;
};

static _Noreturn void refuse(struct jinja *j, const struct reader *r, const char *why)
{
    int line = 1;
    for (size_t i = 0; i < r->at && i < r->text.n; i++)
        line += r->text.p[i] == '\n';
    j->status = E_ARG;
    err_set(j->e, E_ARG, "%s, line %d: %s", r->what, line, why);
    longjmp(j->failed, 1);
}

static char peek(const struct reader *r)
{
    return r->at < r->text.n ? r->text.p[r->at] : '\0';
}

static void skip_space(struct reader *r)
{
    while (r->at < r->text.n && strchr(" \t\r\n", r->text.p[r->at]) && r->text.p[r->at])
        r->at++;
}

static bool take(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    bool is = r->text.n - r->at >= n && !memcmp(r->text.p + r->at, word, n);
    r->at += is ? n : 0;
    return is;
}

/* A string whose first quote has been taken; as it stands unless it has escapes. */
static struct jval read_string(struct jinja *j, struct reader *r)
{
    size_t begin = r->at;
    bool escapes = false;
    while (peek(r) != '"') {
        if (r->at >= r->text.n)
            refuse(j, r, "a string has no end");
        int k = utf8_sequence(r->text.p + r->at, r->text.n - r->at);
        if (k <= 0 || (unsigned char)peek(r) < 0x20)
            refuse(j, r, k <= 0 ? "a string is not UTF-8" : "a string holds a control character");
        bool escape = peek(r) == '\\';
        escapes = escapes || escape;
        r->at += escape ? 1 : (size_t)k;
        if (escape && (!peek(r) || !strchr("\"\\/bfnrtu", peek(r))))
            refuse(j, r, "a string has an escape that JSON does not know");
        r->at += escape;
    }
    struct str raw = {r->text.p + begin, r->at - begin};
    jstep(j, raw.n);
    r->at++;
    if (!escapes)
        return jstring(j, raw.p, raw.n, false);
    /* An escaped slash is the only escape that a template's strings do not know. */
    char *p = jalloc(j, raw.n);
    size_t n = 0;
    for (size_t i = 0; i < raw.n; i++) {
        bool escape = raw.p[i] == '\\' && i + 1 < raw.n;
        if (escape && raw.p[i + 1] != '/')
            p[n++] = raw.p[i++];
        else if (escape)
            i++;
        p[n++] = raw.p[i];
    }
    const struct jstr *s = jlex_string(j, (struct str){p, n});
    return jstring(j, s->p, s->n, false);
}

static size_t digits(struct reader *r)
{
    size_t begin = r->at;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->at++;
    return r->at - begin;
}

/* As JavaScript's numbers are, one without a fraction is an integer however it is written. */
static struct jval read_number(struct jinja *j, struct reader *r)
{
    char text[64];
    size_t begin = r->at;
    bool whole = true, right;
    r->at += peek(r) == '-';
    bool zero = peek(r) == '0';
    size_t n = digits(r);
    right = n > 0 && !(zero && n > 1);
    if (right && peek(r) == '.') {
        r->at++;
        whole = false;
        right = digits(r) > 0;
    }
    if (right && (peek(r) == 'e' || peek(r) == 'E')) {
        r->at++;
        r->at += peek(r) == '-' || peek(r) == '+';
        whole = false;
        right = digits(r) > 0;
    }
    if (!right || r->at - begin >= sizeof text)
        refuse(j, r, right ? "a number has too many digits" : "a value is expected");
    memcpy(text, r->text.p + begin, r->at - begin);
    text[r->at - begin] = '\0';
    errno = 0;
    long long i = whole ? strtoll(text, NULL, 10) : 0;
    if (whole && errno)
        refuse(j, r, "an integer is larger than 64 bits hold");
    if (whole)
        return jint(i);
    double f = strtod(text, NULL);
    if (f > -9007199254740992.0 && f < 9007199254740992.0 && f == (double)(int64_t)f)
        return jint((int64_t)f);
    return jfloat(f);
}

static struct jval read_value(struct jinja *j, struct reader *r);

static struct jval read_list(struct jinja *j, struct reader *r)
{
    struct jval out = jlist_new(j, 0);
    skip_space(r);
    if (take(r, "]"))
        return out;
    for (;;) {
        jlist_add(j, out.list, read_value(j, r));
        skip_space(r);
        if (take(r, "]"))
            return out;
        if (!take(r, ","))
            refuse(j, r, "',' or ']' is expected");
    }
}

static struct jval read_dict(struct jinja *j, struct reader *r)
{
    struct jval out = jdict_new(j);
    skip_space(r);
    if (take(r, "}"))
        return out;
    for (;;) {
        skip_space(r);
        if (!take(r, "\""))
            refuse(j, r, "the name of a member is expected");
        struct jval key = read_string(j, r);
        skip_space(r);
        if (!take(r, ":"))
            refuse(j, r, "':' is expected");
        if (jdict_get(j, out.dict, key))
            refuse(j, r, "a member occurs twice");
        jdict_set(j, out.dict, key, read_value(j, r));
        skip_space(r);
        if (take(r, "}"))
            return out;
        if (!take(r, ","))
            refuse(j, r, "',' or '}' is expected");
    }
}

static struct jval read_value(struct jinja *j, struct reader *r)
{
    struct jval v;
    jdeeper(j);
    skip_space(r);
    size_t begin = r->at;
    if (take(r, "\""))
        v = read_string(j, r);
    else if (take(r, "{"))
        v = read_dict(j, r);
    else if (take(r, "["))
        v = read_list(j, r);
    else if (take(r, "true"))
        v = jbool(true);
    else if (take(r, "false"))
        v = jbool(false);
    else if (take(r, "null"))
        v = jnone();
    else
        v = read_number(j, r);
    j->depth--;
    struct str json = {r->text.p + begin, r->at - begin};
    if (r->keeps && v.type == J_LIST)
        v.list->json = json;
    else if (r->keeps && v.type == J_DICT)
        v.dict->json = json;
    return v;
}

static struct jval read_all(struct jinja *j, struct str text, const char *what, bool keeps)
{
    struct reader r = {text, 0, what, keeps};
    jstep(j, text.n * 4);
    struct jval v = read_value(j, &r);
    skip_space(&r);
    if (r.at < text.n)
        refuse(j, &r, "something follows the value");
    return v;
}

struct jval jjson_read(struct jinja *j, struct str text, const char *what)
{
    return read_all(j, text, what, false);
}

struct jval jjson_keep(struct jinja *j, struct str text, const char *what)
{
    return read_all(j, text, what, true);
}
