/*
 * method: attributes and methods of values.
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* ---- strings ---- */

static const struct jstr *characters(struct jinja *j, const struct jargs *a)
{
    struct jval v = jarg(j, a, 0, "chars", jnone());
    return v.type == J_NONE ? NULL : jarg_str(j, v, "what a strip method takes away");
}

static struct jval m_strip(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jstr_strip(j, self.s, characters(j, a), true, true);
}

static struct jval m_lstrip(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jstr_strip(j, self.s, characters(j, a), true, false);
}

static struct jval m_rstrip(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jstr_strip(j, self.s, characters(j, a), false, true);
}

static struct jval split(struct jinja *j, struct jval self, const struct jargs *a, bool from_right)
{
    struct jval at = jarg(j, a, 0, "sep", jnone()), most = jarg(j, a, 1, "maxsplit", jint(-1));
    return jstr_split(j, self.s,
                      at.type == J_NONE ? NULL : jarg_str(j, at, "the separator of 'split'"),
                      jarg_int(j, most, "the number of splits"), from_right);
}

static struct jval m_split(struct jinja *j, struct jval self, const struct jargs *a)
{
    return split(j, self, a, false);
}

static struct jval m_rsplit(struct jinja *j, struct jval self, const struct jargs *a)
{
    return split(j, self, a, true);
}

static struct jval m_splitlines(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval lines = jstr_split(j, self.s, &(struct jstr){.p = "\n", .n = 1}, -1, false);
    struct jlist *l = lines.list;
    if (a->n || a->named.n)
        jfail(j, "'splitlines' takes no argument here");
    l->n -= l->v[l->n - 1].s->n == 0;
    return lines;
}

/* Whether the string begins or ends with v, or with one of them. */
static bool affix(struct jinja *j, const struct jstr *s, struct jval v, bool end)
{
    if (v.type == J_LIST) {
        for (size_t i = 0; i < v.list->n; i++) {
            jstep(j, 0);
            if (v.list->v[i].type != J_LIST && affix(j, s, v.list->v[i], end))
                return true;
        }
        return false;
    }
    const struct jstr *with = jarg_str(j, v, "what a string should begin or end with");
    return with->n <= s->n && jstr_begins(j, s, end ? s->n - with->n : 0, with);
}

static struct jval m_startswith(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jbool(affix(j, self.s, jarg(j, a, 0, "prefix", jundefined()), false));
}

static struct jval m_endswith(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jbool(affix(j, self.s, jarg(j, a, 0, "suffix", jundefined()), true));
}

static struct jval m_replace(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval count = jarg(j, a, 2, "count", jnone());
    return jstr_replace(j, self.s,
                        jarg_str(j, jarg(j, a, 0, "old", jundefined()), "what 'replace' looks for"),
                        jarg_str(j, jarg(j, a, 1, "new", jundefined()), "what 'replace' puts in"),
                        count.type == J_NONE ? -1 : jarg_int(j, count, "count"));
}

static struct jval m_upper(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)a;
    return jstr_case(j, self.s, CASE_UPPER);
}

static struct jval m_lower(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)a;
    return jstr_case(j, self.s, CASE_LOWER);
}

static struct jval m_title(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)a;
    return jstr_case(j, self.s, CASE_TITLE);
}

static struct jval m_capitalize(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)a;
    return jstr_case(j, self.s, CASE_CAPITAL);
}

static struct jval m_join(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval over = jarg(j, a, 0, NULL, jundefined());
    const struct jlist *l = jitems(j, over, "'join'");
    struct jbuf b = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            jbuf_str(j, &b, self.s);
        jbuf_str(j, &b, jarg_str(j, l->v[i], "an element that 'join' puts together"));
    }
    return jstring_of(j, &b);
}

static struct jval found(struct jinja *j, struct jval self, const struct jargs *a)
{
    const struct jstr *what = jarg_str(j, jarg(j, a, 0, NULL, jundefined()), "what is looked for");
    size_t at = jstr_find(j, self.s, 0, what);
    return jint(at == SIZE_MAX ? -1 : (int64_t)jstr_chars(j, jstring_part(j, self.s, 0, at).s));
}

static struct jval m_count(struct jinja *j, struct jval self, const struct jargs *a)
{
    const struct jstr *what = jarg_str(j, jarg(j, a, 0, NULL, jundefined()), "what is counted");
    int64_t n = 0;
    if (!what->n)
        jfail(j, "an empty string cannot be counted");
    for (size_t i = 0; (i = jstr_find(j, self.s, i, what)) != SIZE_MAX; i += what->n)
        n++;
    return jint(n);
}

/* {}, {0} and {name}, without a form behind a colon. */
static struct jval m_format(struct jinja *j, struct jval self, const struct jargs *a)
{
    const struct jstr *s = self.s;
    struct jbuf b = {0};
    size_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool twice = i + 1 < s->n && s->p[i + 1] == s->p[i];
        if (s->p[i] == '{' && !twice) {
            const char *end = memchr(s->p + i, '}', s->n - i);
            size_t n = end ? (size_t)(end - s->p) - i - 1 : 0;
            struct jval v, name = jstring_part(j, s, i + 1, n);
            if (!end || memchr(name.s->p, ':', n) || memchr(name.s->p, '!', n))
                jfail(j, "'format' knows {}, {0} and {name} here");
            bool digits = n > 0 && n < 4 && name.s->p[0] >= '0' && name.s->p[0] <= '9';
            v = n && !digits
                    ? jundefined()
                    : jarg(j, a, digits ? (size_t)atoi(name.s->p) : next++, NULL, jundefined());
            const struct jval *named = n && !digits ? jdict_get(j, &a->named, name) : NULL;
            v = named ? *named : v;
            if (v.type == J_UNDEFINED)
                jfail(j, "'format' is given no value for {%.*s}", (int)MIN(n, (size_t)60),
                      name.s->p);
            jprint(j, &b, v);
            i += n + 1;
            continue;
        }
        jbuf_str(j, &b, jstring_part(j, s, i, 1).s);
        i += twice && (s->p[i] == '{' || s->p[i] == '}');
    }
    return jstring_of(j, &b);
}

/* ---- dicts ---- */

static struct jval m_get(struct jinja *j, struct jval self, const struct jargs *a)
{
    const struct jval *v = jdict_get(j, self.dict, jarg(j, a, 0, "key", jundefined()));
    return v ? *v : jarg(j, a, 1, "default", jnone());
}

static struct jval m_items(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)a;
    return jdict_items(j, self.dict);
}

static struct jval m_keys(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval out = jlist_new(j, self.dict->n);
    (void)a;
    for (size_t i = 0; i < self.dict->n; i++)
        jlist_add(j, out.list, self.dict->e[i].key);
    return out;
}

static struct jval m_values(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval out = jlist_new(j, self.dict->n);
    (void)a;
    for (size_t i = 0; i < self.dict->n; i++)
        jlist_add(j, out.list, self.dict->e[i].value);
    return out;
}

static struct jval m_dictsort(struct jinja *j, struct jval self, const struct jargs *a)
{
    return jdict_sorted(j, self.dict, a);
}

/* ---- loops ---- */

static struct jval m_cycle(struct jinja *j, struct jval self, const struct jargs *a)
{
    if (!a->n)
        jfail(j, "'loop.cycle' is given nothing");
    return a->v[self.loop->i % a->n];
}

static struct jval loop_attr(struct jinja *j, struct jval v, const struct jstr *name)
{
    const struct jloop *l = v.loop;
    int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        struct jval v;
    } attributes[] = {
        {"index", jint(i + 1)},
        {"index0", jint(i)},
        {"revindex", jint(n - i)},
        {"revindex0", jint(n - i - 1)},
        {"first", jbool(i == 0)},
        {"last", jbool(i == n - 1)},
        {"length", jint(n)},
        {"depth", jint(l->depth)},
        {"depth0", jint(l->depth - 1)},
        {"previtem", i > 0 ? l->items->v[i - 1] : jundefined()},
        {"nextitem", i < n - 1 ? l->items->v[i + 1] : jundefined()},
    };
    for (size_t k = 0; k < ARRAY_LEN(attributes); k++)
        if (jstr_is(name, attributes[k].name))
            return attributes[k].v;
    if (jstr_is(name, "cycle"))
        return jfunction_new(j, "cycle", m_cycle, v);
    jfail(j, "a loop has no '%.*s' here", (int)MIN(name->n, (size_t)60), name->p);
}

/* ---- by name ---- */

static const struct method {
    enum jtype type;
    const char *name;
    jinja_fn *call;
} methods[] = {
    {J_STRING, "strip", m_strip},
    {J_STRING, "lstrip", m_lstrip},
    {J_STRING, "rstrip", m_rstrip},
    {J_STRING, "split", m_split},
    {J_STRING, "rsplit", m_rsplit},
    {J_STRING, "splitlines", m_splitlines},
    {J_STRING, "startswith", m_startswith},
    {J_STRING, "endswith", m_endswith},
    {J_STRING, "replace", m_replace},
    {J_STRING, "upper", m_upper},
    {J_STRING, "lower", m_lower},
    {J_STRING, "title", m_title},
    {J_STRING, "capitalize", m_capitalize},
    {J_STRING, "join", m_join},
    {J_STRING, "find", found},
    {J_STRING, "count", m_count},
    {J_STRING, "format", m_format},
    {J_DICT, "get", m_get},
    {J_DICT, "items", m_items},
    {J_DICT, "keys", m_keys},
    {J_DICT, "values", m_values},
    {J_DICT, "dictsort", m_dictsort},
};

struct jval jmethod(struct jinja *j, struct jval object, const struct jstr *name)
{
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (methods[i].type == object.type && jstr_is(name, methods[i].name))
            return jfunction_new(j, methods[i].name, methods[i].call, object);
    return jundefined();
}

struct jval jattr(struct jinja *j, struct jval object, const struct jstr *name)
{
    const struct jval *v;
    jstep(j, 0);
    if (object.type == J_LOOP)
        return loop_attr(j, object, name);
    if (object.type == J_DICT || object.type == J_NAMESPACE) {
        v = jdict_get_s(j, object.dict, name);
        if (v)
            return *v;
    }
    if (jstr_is(name, "length") && (object.type == J_STRING || object.type == J_LIST))
        return jint((int64_t)(object.type == J_LIST ? object.list->n : jstr_chars(j, object.s)));
    return jmethod(j, object, name);
}

struct jval jindex(struct jinja *j, struct jval object, struct jval index)
{
    jstep(j, 0);
    if (index.type == J_STRING)
        return jattr(j, object, index.s);
    if (object.type == J_DICT) {
        const struct jval *v = jdict_get(j, object.dict, index);
        return v ? *v : jundefined();
    }
    if (object.type <= J_FLOAT || index.type == J_UNDEFINED)
        return jundefined();
    if ((object.type != J_LIST && object.type != J_STRING) || index.type != J_INT)
        jfail(j, "%s is no index of %s", jtype_name(index), jtype_name(object));
    int64_t n = (int64_t)(object.type == J_LIST ? object.list->n : jstr_chars(j, object.s));
    int64_t i = index.i < 0 && index.i >= -n ? index.i + n : index.i;
    if (i < 0 || i >= n)
        return jundefined();
    return object.type == J_LIST ? object.list->v[i] : jstr_slice(j, object.s, i, i + 1, 1);
}

struct jval jattr_path(struct jinja *j, struct jval v, struct jval path)
{
    if (path.type == J_INT)
        return jindex(j, v, path);
    const struct jstr *s = jarg_str(j, path, "an attribute");
    struct jval parts = jstr_split(j, s, &(struct jstr){.p = ".", .n = 1}, -1, false);
    for (size_t i = 0; i < parts.list->n; i++) {
        const struct jstr *one = parts.list->v[i].s;
        bool digits = one->n > 0 && one->n < 10;
        int64_t number = 0;
        for (size_t k = 0; k < one->n; k++) {
            digits = digits && one->p[k] >= '0' && one->p[k] <= '9';
            number = digits ? number * 10 + (one->p[k] - '0') : 0;
        }
        v = digits && v.type == J_LIST ? jindex(j, v, jint(number)) : jattr(j, v, one);
    }
    return v;
}
