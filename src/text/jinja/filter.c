/*
 * filter: what stands behind a | in templates.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* ---- arguments ---- */

struct jval jarg(struct jinja *j, const struct jargs *a, size_t i, const char *name,
                 struct jval other)
{
    const struct jval *v = i < a->n ? &a->v[i] : NULL;
    struct jstr key = {.p = name, .n = name ? strlen(name) : 0};
    if (!v && name)
        v = jdict_get_s(j, &a->named, &key);
    return v ? *v : other;
}

const struct jstr *jarg_str(struct jinja *j, struct jval v, const char *what)
{
    if (v.type != J_STRING)
        jfail(j, "%s is %s and no string", what, jtype_name(v));
    return v.s;
}

int64_t jarg_int(struct jinja *j, struct jval v, const char *what)
{
    if (v.type != J_INT)
        jfail(j, "%s is %s and no integer", what, jtype_name(v));
    return v.i;
}

/* The text that a filter of strings works on. */
static const struct jstr *text(struct jinja *j, struct jval v, const char *filter)
{
    if (v.type != J_STRING && v.type != J_UNDEFINED && !jis_number(v))
        jfail(j, "the filter '%s' is given %s and no string", filter, jtype_name(v));
    return jto_string(j, v).s;
}

/* ---- filters of strings ---- */

static struct jval f_trim(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jval chars = jarg(j, a, 0, "chars", jnone());
    return jstr_strip(j, text(j, v, "trim"),
                      chars.type == J_NONE ? NULL : jarg_str(j, chars, "chars"), true, true);
}

static struct jval f_upper(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return jstr_case(j, text(j, v, "upper"), CASE_UPPER);
}

static struct jval f_lower(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return jstr_case(j, text(j, v, "lower"), CASE_LOWER);
}

static struct jval f_title(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return jstr_case(j, text(j, v, "title"), CASE_TITLE);
}

static struct jval f_capitalize(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return jstr_case(j, text(j, v, "capitalize"), CASE_CAPITAL);
}

static struct jval f_string(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return v.type == J_NONE ? jstring_c(j, "None") : jto_string(j, v);
}

static struct jval f_safe(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)j;
    (void)a;
    return v;
}

static struct jval f_replace(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jval count = jarg(j, a, 2, "count", jnone());
    return jstr_replace(j, text(j, v, "replace"),
                        jarg_str(j, jarg(j, a, 0, "old", jundefined()), "what 'replace' looks for"),
                        jarg_str(j, jarg(j, a, 1, "new", jundefined()), "what 'replace' puts in"),
                        count.type == J_NONE ? -1 : jarg_int(j, count, "count"));
}

static struct jval f_indent(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jval width = jarg(j, a, 0, "width", jint(4)), with = width;
    bool first = jtrue(jarg(j, a, 1, "first", jbool(false)));
    bool blank = jtrue(jarg(j, a, 2, "blank", jbool(false)));
    if (width.type != J_STRING) {
        struct jbuf b = {0};
        for (int64_t i = jarg_int(j, width, "width"); i > 0; i--)
            jbuf_c(j, &b, " ");
        with = jstring_of(j, &b);
    }
    return jstr_indent(j, text(j, v, "indent"), with.s, first, blank);
}

/* ---- numbers ---- */

static struct jval to_number(struct jinja *j, struct jval v, struct jval other, bool whole)
{
    char digits[64], *end;
    if (v.type == J_STRING) {
        const struct jstr *s = jstr_strip(j, v.s, NULL, true, true).s;
        size_t n = MIN(s->n, sizeof digits - 1);
        if (n)
            memcpy(digits, s->p, n);
        digits[n] = '\0';
        if (!n || strspn(digits, "+-.0123456789eE") != n)
            return other;
        double f = strtod(digits, &end);
        if (end == digits || *end)
            return other;
        v = jfloat(f);
        if (whole && n < 19 && !strpbrk(digits, ".eE"))
            return jint(strtoll(digits, NULL, 10));
    }
    if (!jis_number(v))
        return other;
    if (!whole)
        return jfloat(jnumber(v));
    if (v.type != J_FLOAT)
        return jint(v.type == J_BOOL ? v.b : v.i);
    return fabs(v.f) < 9e18 ? jint((int64_t)v.f) : other;
}

static struct jval f_int(struct jinja *j, struct jval v, struct jargs *a)
{
    return to_number(j, v, jarg(j, a, 0, "default", jint(0)), true);
}

static struct jval f_float(struct jinja *j, struct jval v, struct jargs *a)
{
    return to_number(j, v, jarg(j, a, 0, "default", jfloat(0)), false);
}

static struct jval f_abs(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    if (!jis_number(v) || (v.type == J_INT && v.i == INT64_MIN))
        jfail(j, "the filter 'abs' is given %s", jtype_name(v));
    return v.type == J_FLOAT ? jfloat(fabs(v.f)) : jint(v.type == J_BOOL ? v.b : llabs(v.i));
}

static struct jval f_round(struct jinja *j, struct jval v, struct jargs *a)
{
    int64_t places = jarg_int(j, jarg(j, a, 0, "precision", jint(0)), "precision");
    struct jval method = jarg(j, a, 1, "method", jstring_c(j, "common"));
    const struct jstr *how = jarg_str(j, method, "method");
    if (!jis_number(v) || places < 0 || places > 15)
        jfail(j, "the filter 'round' is given %s, or other places than 0 to 15", jtype_name(v));
    double scale = pow(10, (double)places), f = jnumber(v) * scale;
    f = jstr_is(how, "ceil") ? ceil(f) : jstr_is(how, "floor") ? floor(f) : nearbyint(f);
    return jfloat(f / scale);
}

/* ---- anything ---- */

static struct jval f_default(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jval other = jarg(j, a, 0, "default_value", jstring_c(j, ""));
    bool falsy = jtrue(jarg(j, a, 1, "boolean", jbool(false)));
    return v.type == J_UNDEFINED || (falsy && !jtrue(v)) ? other : v;
}

static struct jval f_length(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    switch (v.type) {
    case J_UNDEFINED:
        return jint(0);
    case J_STRING:
        return jint((int64_t)jstr_chars(j, v.s));
    case J_LIST:
        return jint((int64_t)v.list->n);
    case J_DICT:
        return jint((int64_t)v.dict->n);
    default:
        jfail(j, "the filter 'length' is given %s", jtype_name(v));
    }
}

static struct jval f_tojson(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jbuf b = {0};
    struct json_form f = {0};
    struct jval indent = jarg(j, a, SIZE_MAX, "indent", jnone());
    struct jval between = jarg(j, a, SIZE_MAX, "separators", jnone());
    f.ascii = jtrue(jarg(j, a, SIZE_MAX, "ensure_ascii", jbool(false)));
    f.sort_keys = jtrue(jarg(j, a, SIZE_MAX, "sort_keys", jbool(false)));
    if (indent.type != J_NONE) {
        int64_t n = jarg_int(j, indent, "indent");
        f.indent = (int)MAX(MIN(n, 64), 0);
    }
    if (between.type != J_NONE) {
        if (between.type != J_LIST || between.list->n != 2)
            jfail(j, "the separators of 'tojson' are no pair of strings");
        f.between = jarg_str(j, between.list->v[0], "a separator");
        f.colon = jarg_str(j, between.list->v[1], "a separator");
    }
    json_write(j, &b, v, &f);
    return jstring_of(j, &b);
}

static struct jval f_from_json(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    const struct jstr *s = jarg_str(j, v, "what 'from_json' reads");
    return jjson_read(j, (struct str){s->p, s->n}, "the text that the template reads as JSON");
}

/* ---- lists ---- */

static const struct jlist *elements(struct jinja *j, struct jval v, const char *filter)
{
    static const struct jlist none;
    return v.type == J_NONE ? &none : jitems(j, v, filter);
}

static struct jval f_list(struct jinja *j, struct jval v, struct jargs *a)
{
    struct jval out = jlist_new(j, 0);
    const struct jlist *l = elements(j, v, "the filter 'list'");
    (void)a;
    for (size_t i = 0; i < l->n; i++)
        jlist_add(j, out.list, l->v[i]);
    return out;
}

static struct jval f_first(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'first'");
    (void)a;
    return l->n ? l->v[0] : jundefined();
}

static struct jval f_last(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'last'");
    (void)a;
    return l->n ? l->v[l->n - 1] : jundefined();
}

static struct jval f_reverse(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'reverse'");
    struct jval out = jlist_new(j, l->n);
    struct jbuf b = {0};
    (void)a;
    for (size_t i = l->n; i-- > 0;)
        if (v.type == J_STRING)
            jbuf_str(j, &b, l->v[i].s);
        else
            jlist_add(j, out.list, l->v[i]);
    return v.type == J_STRING ? jstring_of(j, &b) : out;
}

static struct jval f_join(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'join'");
    const struct jstr *by =
        jarg_str(j, jarg(j, a, 0, "d", jstring_c(j, "")), "what 'join' puts between");
    struct jval attribute = jarg(j, a, 1, "attribute", jnone());
    const struct jval *other = jdict_get_s(j, &a->named, &(struct jstr){.p = "separator", .n = 9});
    struct jbuf b = {0};
    by = other ? jarg_str(j, *other, "separator") : by;
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            jbuf_str(j, &b, by);
        jprint(j, &b, attribute.type == J_NONE ? l->v[i] : jattr_path(j, l->v[i], attribute));
    }
    return jstring_of(j, &b);
}

/* Merge sort: stable, and a comparison that fails leaves nothing behind. */
static void sort(struct jinja *j, struct jval *v, struct jval *key, struct jval *spare, size_t n,
                 bool case_sensitive, bool down)
{
    size_t half = n / 2, a = 0, b = half, out = 0;
    if (n < 2)
        return;
    sort(j, v, key, spare, half, case_sensitive, down);
    sort(j, v + half, key + half, spare, n - half, case_sensitive, down);
    while (a < half || b < n) {
        bool right = a == half;
        if (a < half && b < n) {
            int order = jcompare(j, key[b], key[a], case_sensitive);
            right = down ? order > 0 : order < 0;
        }
        size_t from = right ? b++ : a++;
        spare[2 * out] = v[from];
        spare[2 * out++ + 1] = key[from];
    }
    for (size_t i = 0; i < n; i++) {
        v[i] = spare[2 * i];
        key[i] = spare[2 * i + 1];
    }
}

static struct jval sorted(struct jinja *j, const struct jlist *l, struct jval attribute,
                          bool case_sensitive, bool down)
{
    struct jval out = jlist_new(j, l->n), keys = jlist_new(j, l->n);
    struct jval *spare = jalloc(j, (2 * l->n + 1) * sizeof *spare);
    for (size_t i = 0; i < l->n; i++) {
        jlist_add(j, out.list, l->v[i]);
        jlist_add(j, keys.list,
                  attribute.type == J_NONE ? l->v[i] : jattr_path(j, l->v[i], attribute));
    }
    sort(j, out.list->v, keys.list->v, spare, l->n, case_sensitive, down);
    return out;
}

static struct jval f_sort(struct jinja *j, struct jval v, struct jargs *a)
{
    return sorted(j, elements(j, v, "the filter 'sort'"), jarg(j, a, 2, "attribute", jnone()),
                  jtrue(jarg(j, a, 1, "case_sensitive", jbool(false))),
                  jtrue(jarg(j, a, 0, "reverse", jbool(false))));
}

struct jval jdict_items(struct jinja *j, const struct jdict *d)
{
    struct jval out = jlist_new(j, d->n);
    for (size_t i = 0; i < d->n; i++) {
        struct jval pair = jlist_new(j, 2);
        jlist_add(j, pair.list, d->e[i].key);
        jlist_add(j, pair.list, d->e[i].value);
        jlist_add(j, out.list, pair);
    }
    return out;
}

struct jval jdict_sorted(struct jinja *j, const struct jdict *d, const struct jargs *a)
{
    const struct jstr *by = jarg_str(j, jarg(j, a, 1, "by", jstring_c(j, "key")), "by");
    if (!jstr_is(by, "key") && !jstr_is(by, "value"))
        jfail(j, "'dictsort' sorts by key or value");
    return sorted(j, jdict_items(j, d).list, jint(jstr_is(by, "value")),
                  jtrue(jarg(j, a, 0, "case_sensitive", jbool(false))),
                  jtrue(jarg(j, a, 2, "reverse", jbool(false))));
}

static const struct jdict *dict(struct jinja *j, struct jval v, const char *filter)
{
    static const struct jdict none;
    if (v.type == J_UNDEFINED)
        return &none;
    if (v.type != J_DICT)
        jfail(j, "the filter '%s' is given %s and no dict", filter, jtype_name(v));
    return v.dict;
}

static struct jval f_items(struct jinja *j, struct jval v, struct jargs *a)
{
    (void)a;
    return jdict_items(j, dict(j, v, "items"));
}

static struct jval f_dictsort(struct jinja *j, struct jval v, struct jargs *a)
{
    return jdict_sorted(j, dict(j, v, "dictsort"), a);
}

static struct jval f_unique(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'unique'");
    struct jval out = jlist_new(j, 0), seen = jlist_new(j, 0);
    bool exact = jtrue(jarg(j, a, 0, "case_sensitive", jbool(false)));
    struct jval attribute = jarg(j, a, 1, "attribute", jnone());
    for (size_t i = 0; i < l->n; i++) {
        struct jval key = attribute.type == J_NONE ? l->v[i] : jattr_path(j, l->v[i], attribute);
        key = key.type == J_STRING && !exact ? jstr_case(j, key.s, CASE_LOWER) : key;
        if (jcontains(j, seen, key))
            continue;
        jlist_add(j, seen.list, key);
        jlist_add(j, out.list, l->v[i]);
    }
    return out;
}

static struct jval extreme(struct jinja *j, struct jval v, struct jargs *a, int sign,
                           const char *what)
{
    const struct jlist *l = elements(j, v, what);
    struct jval best = jundefined();
    bool exact = jtrue(jarg(j, a, 0, "case_sensitive", jbool(false)));
    for (size_t i = 0; i < l->n; i++)
        if (i == 0 || jcompare(j, l->v[i], best, exact) * sign > 0)
            best = l->v[i];
    return best;
}

static struct jval f_min(struct jinja *j, struct jval v, struct jargs *a)
{
    return extreme(j, v, a, -1, "the filter 'min'");
}

static struct jval f_max(struct jinja *j, struct jval v, struct jargs *a)
{
    return extreme(j, v, a, 1, "the filter 'max'");
}

static struct jval f_sum(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'sum'");
    struct jval attribute = jarg(j, a, 0, "attribute", jnone());
    double f = 0;
    int64_t n = 0;
    bool whole = true;
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = attribute.type == J_NONE ? l->v[i] : jattr_path(j, l->v[i], attribute);
        jstep(j, 0);
        if (!jis_number(x))
            jfail(j, "the filter 'sum' is given %s", jtype_name(x));
        whole = whole && x.type == J_INT && !__builtin_add_overflow(n, x.i, &n);
        f += jnumber(x);
    }
    return whole ? jint(n) : jfloat(f);
}

/* ---- lists by a test or filter ---- */

/* The arguments behind the first `n`. */
static struct jargs rest(const struct jargs *a, size_t n)
{
    struct jargs r = *a;
    r.n = a->n > n ? a->n - n : 0;
    r.v = r.n ? a->v + n : NULL;
    return r;
}

static struct jval choose(struct jinja *j, struct jval v, struct jargs *a, bool attribute,
                          bool keep)
{
    const struct jlist *l = elements(j, v, "a filter that selects");
    struct jval out = jlist_new(j, 0);
    struct jval path = attribute ? jarg(j, a, 0, NULL, jundefined()) : jundefined();
    struct jargs more = rest(a, attribute), behind = rest(&more, 1);
    if (attribute && path.type != J_STRING && path.type != J_INT)
        jfail(j, "a filter that selects by an attribute is given none");
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = attribute ? jattr_path(j, l->v[i], path) : l->v[i];
        jstep(j, 0);
        bool is = more.n ? jtest(j, jarg_str(j, more.v[0], "the name of a test"), x, &behind)
                         : jtrue(x);
        if (is == keep)
            jlist_add(j, out.list, l->v[i]);
    }
    return out;
}

static struct jval f_select(struct jinja *j, struct jval v, struct jargs *a)
{
    return choose(j, v, a, false, true);
}

static struct jval f_reject(struct jinja *j, struct jval v, struct jargs *a)
{
    return choose(j, v, a, false, false);
}

static struct jval f_selectattr(struct jinja *j, struct jval v, struct jargs *a)
{
    return choose(j, v, a, true, true);
}

static struct jval f_rejectattr(struct jinja *j, struct jval v, struct jargs *a)
{
    return choose(j, v, a, true, false);
}

static struct jval f_map(struct jinja *j, struct jval v, struct jargs *a)
{
    const struct jlist *l = elements(j, v, "the filter 'map'");
    struct jval out = jlist_new(j, l->n), path = jarg(j, a, SIZE_MAX, "attribute", jundefined());
    struct jval other = jarg(j, a, SIZE_MAX, "default", jundefined());
    struct jargs more = rest(a, 1);
    if (path.type == J_UNDEFINED && !a->n)
        jfail(j, "the filter 'map' is given neither an attribute nor a filter");
    for (size_t i = 0; i < l->n; i++) {
        struct jval x =
            path.type != J_UNDEFINED
                ? jattr_path(j, l->v[i], path)
                : jfilter(j, jarg_str(j, a->v[0], "the name of a filter"), l->v[i], &more);
        jlist_add(j, out.list, x.type == J_UNDEFINED ? other : x);
    }
    return out;
}

/* ---- by name ---- */

static const struct {
    const char *name;
    struct jval (*apply)(struct jinja *j, struct jval v, struct jargs *a);
} filters[] = {
    {"tojson", f_tojson},
    {"length", f_length},
    {"count", f_length},
    {"trim", f_trim},
    {"string", f_string},
    {"default", f_default},
    {"d", f_default},
    {"join", f_join},
    {"items", f_items},
    {"list", f_list},
    {"lower", f_lower},
    {"upper", f_upper},
    {"title", f_title},
    {"capitalize", f_capitalize},
    {"safe", f_safe},
    {"replace", f_replace},
    {"indent", f_indent},
    {"int", f_int},
    {"float", f_float},
    {"abs", f_abs},
    {"round", f_round},
    {"from_json", f_from_json},
    {"first", f_first},
    {"last", f_last},
    {"reverse", f_reverse},
    {"sort", f_sort},
    {"dictsort", f_dictsort},
    {"unique", f_unique},
    {"min", f_min},
    {"max", f_max},
    {"sum", f_sum},
    {"select", f_select},
    {"reject", f_reject},
    {"selectattr", f_selectattr},
    {"rejectattr", f_rejectattr},
    {"map", f_map},
};

struct jval jfilter(struct jinja *j, const struct jstr *name, struct jval v, struct jargs *a)
{
    jstep(j, 0);
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        if (jstr_is(name, filters[i].name)) {
            jdeeper(j);
            v = filters[i].apply(j, v, a);
            j->depth--;
            return v;
        }
    jfail(j, "there is no filter '%.*s' here", (int)MIN(name->n, (size_t)60), name->p);
}
