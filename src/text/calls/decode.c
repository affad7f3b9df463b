/*
 * decode: the parts of a call -> name, id, and arguments as JSON. All of it is done in the
 * arena of a run of jinja.h, whose reader of JSON is strict, with its limits.
 */
#include <stdlib.h>
#include <string.h>

#include "text/calls/calls.h"
#include "text/jinja/jinja.h"
#include "text/text_internal.h"

enum { STEPS = 20000000, DEPTH = 350, NAME_MOST = 256 };

static const struct jinja_limits limits = {
    .steps = STEPS, .depth = DEPTH, .bytes = CALLS_MEMORY, .output = CALLS_MEMORY};

struct made {
    struct str name, id, arguments;
    bool quoted;
};

struct job {
    const struct call_row *row;
    const struct call_part *part;
    size_t n_parts;
    const char *p;
    struct str tools;
    struct jval tool_list;
    struct made *made; /* in the arena */
    size_t n_made, cap;
};

static _Noreturn void wrong(struct jinja *j, const char *why)
{
    j->status = E_FORMAT;
    err_set(j->e, E_FORMAT, "a call of a tool %s", why);
    longjmp(j->failed, 1);
}

static struct str part_text(const struct job *b, const struct call_part *part)
{
    return (struct str){b->p + part->at, part->n};
}

struct str call_part_name(const struct call_part *part, const char *p)
{
    static const char before[] = "functions.";
    struct str s = {p + part->at, part->n};
    if (part->kind != 'f')
        return s;
    size_t n = s.n;
    while (n && s.p[n - 1] >= '0' && s.p[n - 1] <= '9')
        n--;
    if (n && n < s.n && s.p[n - 1] == ':')
        s.n = n - 1;
    size_t k = sizeof before - 1;
    if (s.n > k && !memcmp(s.p, before, k))
        s = (struct str){s.p + k, s.n - k};
    return s;
}

/* ---- JSON ---- */

struct check {
    struct str text, other;
    enum jtype type;
    bool same;
};

static void check_json(struct jinja *j, void *user)
{
    struct check *c = user;
    struct jval v = jjson_read(j, c->text, "a value");
    c->type = v.type;
    if (c->other.p)
        c->same = jequal(j, v, jjson_read(j, c->other, "a value"));
}

/* The type of a JSON text; J_UNDEFINED: it is none. */
static enum jtype json_type(struct str text)
{
    struct jinja j;
    struct err e;
    struct check c = {.text = text};
    int rc = jinja_run(&j, &limits, 0, check_json, &c, &e);
    jinja_end(&j);
    return rc == OK ? c.type : J_UNDEFINED;
}

bool call_same_json(struct str a, struct str b)
{
    struct jinja j;
    struct err e;
    struct check c = {.text = a, .other = b};
    int rc = jinja_run(&j, &limits, 0, check_json, &c, &e);
    jinja_end(&j);
    return rc == OK && c.same;
}

static struct jval member(struct jinja *j, struct jval v, const char *key)
{
    const struct jval *found = v.type == J_DICT ? jdict_get(j, v.dict, jstring_c(j, key)) : NULL;
    return found ? *found : jundefined();
}

static struct jval member_of(struct jinja *j, struct jval v, const char *const *keys, size_t n)
{
    struct jval found = jundefined();
    for (size_t i = 0; i < n && found.type == J_UNDEFINED; i++)
        found = member(j, v, keys[i]);
    return found;
}

/* ---- tools ---- */

/* The tool of that name, as what holds its name; undefined: there is none. */
static struct jval find_tool(struct jinja *j, const struct job *b, struct str name)
{
    struct jval list = b->tool_list;
    for (size_t i = 0; list.type == J_LIST && i < list.list->n; i++) {
        struct jval tool = list.list->v[i], function = member(j, tool, "function");
        if (function.type == J_DICT)
            tool = function;
        struct jval is = member(j, tool, "name");
        if (is.type == J_STRING && is.s->n == name.n && !memcmp(is.s->p, name.p, name.n))
            return tool;
    }
    return jundefined();
}

static void read_tools(struct jinja *j, struct job *b)
{
    if (b->tools.n)
        b->tool_list = jjson_read(j, b->tools, "the tools");
    struct jval inside = member(j, b->tool_list, "tools");
    if (inside.type == J_LIST)
        b->tool_list = inside;
}

/* Whether the tool's schema says that this argument is a string. */
static bool wants_string(struct jinja *j, struct jval tool, struct str key)
{
    static const char *const schemas[] = {"parameters", "input_schema"};
    struct jval all = member(j, member_of(j, tool, schemas, ARRAY_LEN(schemas)), "properties");
    const struct jval *one =
        all.type == J_DICT ? jdict_get(j, all.dict, jstring(j, key.p, key.n, false)) : NULL;
    struct jval type = one ? member(j, *one, "type") : jundefined();
    return type.type == J_STRING && jstr_is(type.s, "string");
}

/* ---- calls ---- */

static struct made *add(struct jinja *j, struct job *b, struct str name)
{
    if (!name.n || name.n > NAME_MOST || memchr(name.p, 0, name.n) ||
        utf8_valid_prefix(name.p, name.n) != name.n)
        wrong(j, "has no usable name");
    if (b->n_made == b->cap) {
        b->cap = b->cap * 2 + 4;
        struct made *more = jalloc(j, b->cap * sizeof *more);
        if (b->n_made)
            memcpy(more, b->made, b->n_made * sizeof *more);
        b->made = more;
    }
    struct made *m = &b->made[b->n_made++];
    *m = (struct made){.name = name, .id = {"", 0}, .arguments = {"{}", 2}};
    return m;
}

static void set_id(struct jinja *j, struct made *m, struct str id)
{
    if (id.n > NAME_MOST || (id.n && memchr(id.p, 0, id.n)) ||
        (id.n && utf8_valid_prefix(id.p, id.n) != id.n))
        wrong(j, "has no usable id");
    m->id = id;
}

static void set_arguments(struct jinja *j, struct made *m, struct jval v)
{
    if (v.type == J_STRING) { /* a JSON text in a string */
        m->quoted = true;
        v = jjson_keep(j, (struct str){v.s->p, v.s->n}, "the arguments of a call");
    }
    if (v.type != J_DICT)
        wrong(j, "has arguments that are no object");
    m->arguments = v.dict->json;
}

static void take_object(struct jinja *j, struct job *b, struct jval v)
{
    static const char *const names[] = {"name", "tool_name"};
    static const char *const arguments[] = {"arguments", "parameters"};
    static const char *const ids[] = {"id", "tool_call_id"};
    if (v.type != J_DICT)
        wrong(j, "is no object");
    if (b->row->keyed) {
        if (v.dict->n != 1 || v.dict->e[0].key.type != J_STRING)
            wrong(j, "has not one name");
        const struct jstr *key = v.dict->e[0].key.s;
        set_arguments(j, add(j, b, (struct str){key->p, key->n}), v.dict->e[0].value);
        return;
    }
    struct jval function = member(j, v, "function");
    if (function.type == J_DICT)
        v = function;
    struct jval name = member_of(j, v, names, ARRAY_LEN(names));
    struct jval values = member_of(j, v, arguments, ARRAY_LEN(arguments));
    struct jval id = member_of(j, v, ids, ARRAY_LEN(ids));
    if (name.type != J_STRING)
        wrong(j, "has no name");
    struct str is = {name.s->p, name.s->n};
    /* What nothing announces may be an answer in JSON. */
    if (b->row->starts && (values.type == J_UNDEFINED || (b->tool_list.type == J_LIST &&
                                                          find_tool(j, b, is).type == J_UNDEFINED)))
        wrong(j, "is of no tool");
    struct made *m = add(j, b, is);
    if (id.type == J_STRING)
        set_id(j, m, (struct str){id.s->p, id.s->n});
    if (values.type != J_UNDEFINED)
        set_arguments(j, m, values);
}

static struct str unwrap(const struct job *b, struct str value)
{
    if (b->row->lines && value.n && value.p[0] == '\n')
        value = (struct str){value.p + 1, value.n - 1};
    if (b->row->lines && value.n && value.p[value.n - 1] == '\n')
        value.n--;
    return value;
}

/* How a value that is written as text is meant: a string as it stands, or JSON. */
static bool is_string(struct jinja *j, const struct job *b, struct jval tool, struct str key,
                      struct str type, struct str value)
{
    if (type.p && b->row->by_string ? str_is(type, "true") : str_is(type, "string"))
        return true;
    if (!type.p && (wants_string(j, tool, key) || (value.n && value.p[0] == '"')))
        return true;
    return json_type(value) == J_UNDEFINED;
}

/* Arguments one by one: k, perhaps t, v. */
static struct str take_pairs(struct jinja *j, const struct job *b, struct str name)
{
    static const struct json_form form = {0};
    struct jval tool = find_tool(j, b, name), seen = jdict_new(j);
    struct jbuf out = {0};
    struct str key = {"", 0}, type = {NULL, 0};
    jbuf_c(j, &out, "{");
    for (size_t i = 0; i < b->n_parts; i++) {
        struct str text = part_text(b, &b->part[i]);
        if (b->part[i].kind == 'k') {
            key = text;
            type.p = NULL;
        } else if (b->part[i].kind == 't') {
            type = text;
        }
        if (b->part[i].kind != 'v')
            continue;
        struct str value = unwrap(b, text);
        struct jval k = jstring(j, key.p, key.n, false);
        if (utf8_valid_prefix(key.p, key.n) != key.n ||
            utf8_valid_prefix(value.p, value.n) != value.n || jdict_get(j, seen.dict, k))
            wrong(j, "has an argument twice, or one that is not UTF-8");
        jdict_set(j, seen.dict, k, jbool(true));
        jbuf_c(j, &out, out.n > 1 ? ", " : "");
        json_write(j, &out, k, &form);
        jbuf_c(j, &out, ": ");
        if (is_string(j, b, tool, key, type, value))
            json_write(j, &out, jstring(j, value.p, value.n, false), &form);
        else
            jbuf_add(j, &out, value.p, value.n, false);
    }
    jbuf_c(j, &out, "}");
    return (struct str){out.p, out.n};
}

static void take_python(struct jinja *j, struct job *b, struct str text)
{
    size_t at = 0;
    for (;;) {
        struct str name;
        struct jbuf out = {0};
        if (!loose_python(j, text, &at, &name, &out))
            wrong(j, "is not as Python writes it");
        add(j, b, name)->arguments = (struct str){out.p, out.n};
        if (at == text.n)
            return;
        if (text.p[at++] != ',')
            wrong(j, "is followed by something else");
    }
}

/* A call whose name, arguments and id stand apart. */
static void take_named(struct jinja *j, struct job *b, const struct call_part *name)
{
    struct str is = call_part_name(name, b->p);
    struct made *m = add(j, b, is);
    bool pairs = true;
    if (name->kind == 'f')
        set_id(j, m, part_text(b, name));
    for (size_t i = 0; i < b->n_parts; i++) {
        struct str text = part_text(b, &b->part[i]);
        struct jbuf out = {0};
        if (b->part[i].kind == 'i')
            set_id(j, m, text);
        if (b->part[i].kind == 'j')
            set_arguments(j, m, jjson_keep(j, text, "the arguments of a call"));
        if (b->part[i].kind == 'g') {
            if (!loose_gemma(j, text, &out))
                wrong(j, "is not as Gemma writes it");
            m->arguments = (struct str){out.p, out.n};
        }
        pairs = pairs && b->part[i].kind != 'j' && b->part[i].kind != 'g';
    }
    if (pairs)
        m->arguments = take_pairs(j, b, is);
}

static void work(struct jinja *j, void *user)
{
    struct job *b = user;
    const struct call_part *name = NULL;
    read_tools(j, b);
    for (size_t i = 0; i < b->n_parts; i++) {
        struct str text = part_text(b, &b->part[i]);
        char kind = b->part[i].kind;
        if (kind == 'n' || kind == 'f')
            name = &b->part[i];
        if (kind == 'p')
            take_python(j, b, text);
        if (kind == 'o')
            take_object(j, b, jjson_keep(j, text, "a call"));
        if (kind != 'l')
            continue;
        struct jval list = jjson_keep(j, text, "a list of calls");
        for (size_t k = 0; k < list.list->n; k++)
            take_object(j, b, list.list->v[k]);
    }
    if (name)
        take_named(j, b, name);
    if (!b->n_made)
        wrong(j, "is missing in a list of calls");
}

/* ---- out of the arena ---- */

void call_free(struct call *c)
{
    free(c->name);
    free(c->id);
    free(c->arguments);
    *c = (struct call){0};
}

void call_list_free(struct call_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        call_free(&l->v[i]);
    free(l->v);
    *l = (struct call_list){0};
}

static char *copy(struct str s)
{
    char *p = malloc(s.n + 1);
    if (!p)
        return NULL;
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return p;
}

static int append(struct call_list *l, const struct made *m)
{
    enum { BLOCK = 24 }; /* what a string takes beside its bytes */
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 4;
        struct call *v = realloc(l->v, cap * sizeof *v);
        if (!v)
            return E_NOMEM;
        l->v = v;
        l->cap = cap;
    }
    struct call c = {copy(m->name), copy(m->id), copy(m->arguments), m->quoted};
    l->v[l->n++] = c;
    l->n_bytes += m->name.n + m->id.n + m->arguments.n + 3 * BLOCK;
    return c.name && c.id && c.arguments ? OK : E_NOMEM;
}

int call_decode(const struct call_row *row, const struct call_part *part, size_t n_parts,
                const char *p, struct str tools, struct call_list *out, struct err *e)
{
    struct err why = {0};
    struct job b = {.row = row,
                    .part = part,
                    .n_parts = n_parts,
                    .p = p,
                    .tools = tools,
                    .tool_list = jundefined()};
    struct jinja j;
    size_t before = out->n, bytes_before = out->n_bytes;
    int rc = jinja_run(&j, &limits, 0, work, &b, &why);
    for (size_t i = 0; rc == OK && i < b.n_made; i++)
        rc = append(out, &b.made[i]);
    jinja_end(&j);
    if (rc == OK)
        return OK;
    while (out->n > before)
        call_free(&out->v[--out->n]);
    out->n_bytes = bytes_before;
    if (rc != E_NOMEM && rc != E_BUDGET)
        rc = E_FORMAT;
    return err_set(e, rc, "%s", why.text);
}
