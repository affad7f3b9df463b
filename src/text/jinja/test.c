/*
 * test: what stands behind `is` in templates, and the global functions.
 */
#include <stdio.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* ---- tests ---- */

static bool is_cased(struct jinja *j, struct jval v, enum jcase how)
{
    return v.type == J_STRING && jstr_same(j, jstr_case(j, v.s, how).s, v.s);
}

static bool is_multiple(struct jinja *j, struct jval v, int64_t of)
{
    if (v.type != J_INT || of == 0)
        jfail(j, "a test of divisibility is given %s, or 0", jtype_name(v));
    return of == -1 || v.i % of == 0;
}

/* Tests of the value alone; *known: there is one of that name. */
static bool test_alone(struct jinja *j, const struct jstr *name, struct jval v, bool *known)
{
    const struct {
        const char *name;
        bool is;
    } tests[] = {
        {"defined", v.type != J_UNDEFINED},
        {"undefined", v.type == J_UNDEFINED},
        {"none", v.type == J_NONE},
        {"boolean", v.type == J_BOOL},
        {"true", v.type == J_BOOL && v.b},
        {"false", v.type == J_BOOL && !v.b},
        {"string", v.type == J_STRING},
        {"number", v.type == J_INT || v.type == J_FLOAT},
        {"integer", v.type == J_INT},
        {"float", v.type == J_FLOAT},
        {"mapping", v.type == J_DICT},
        {"iterable", v.type == J_LIST || v.type == J_STRING},
        {"sequence", v.type == J_LIST || v.type == J_STRING || v.type == J_DICT},
        {"callable", v.type == J_FUNCTION},
    };
    *known = true;
    for (size_t i = 0; i < ARRAY_LEN(tests); i++)
        if (jstr_is(name, tests[i].name))
            return tests[i].is;
    if (jstr_is(name, "odd") || jstr_is(name, "even"))
        return is_multiple(j, v, 2) == jstr_is(name, "even");
    if (jstr_is(name, "upper") || jstr_is(name, "lower"))
        return is_cased(j, v, jstr_is(name, "upper") ? CASE_UPPER : CASE_LOWER);
    *known = false;
    return false;
}

static const struct {
    const char *name;
    enum jop op;
} comparisons[] = {
    {"equalto", OP_EQ},     {"eq", OP_EQ}, {"==", OP_EQ},       {"ne", OP_NE}, {"!=", OP_NE},
    {"sameas", OP_EQ},      {"lt", OP_LT}, {"lessthan", OP_LT}, {"<", OP_LT},  {"gt", OP_GT},
    {"greaterthan", OP_GT}, {">", OP_GT},  {"le", OP_LE},       {"<=", OP_LE}, {"ge", OP_GE},
    {">=", OP_GE},          {"in", OP_IN},
};

static bool compare(struct jinja *j, enum jop op, struct jval v, struct jval with)
{
    switch (op) {
    case OP_EQ:
        return jequal(j, v, with);
    case OP_NE:
        return !jequal(j, v, with);
    case OP_LT:
        return jcompare(j, v, with, true) < 0;
    case OP_GT:
        return jcompare(j, v, with, true) > 0;
    case OP_LE:
        return jcompare(j, v, with, true) <= 0;
    case OP_GE:
        return jcompare(j, v, with, true) >= 0;
    default:
        return jcontains(j, with, v);
    }
}

bool jtest(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a)
{
    bool known, is = test_alone(j, name, v, &known);
    jstep(j, 0);
    if (known)
        return is;
    struct jval with = jarg(j, a, 0, NULL, jundefined());
    if (jstr_is(name, "divisibleby"))
        return is_multiple(j, v, jarg_int(j, with, "what 'divisibleby' divides by"));
    for (size_t i = 0; i < ARRAY_LEN(comparisons); i++)
        if (jstr_is(name, comparisons[i].name)) {
            if (jstr_is(name, "sameas") && v.type != with.type)
                return false;
            return compare(j, comparisons[i].op, v, with);
        }
    jfail(j, "there is no test '%.*s' here", (int)MIN(name->n, (size_t)60), name->p);
}

/* ---- global functions ---- */

static struct jval g_raise(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval message = jto_string(j, jarg(j, a, 0, "message", jundefined()));
    (void)self;
    jraise(j, *message.s);
}

static void copy_into(struct jinja *j, struct jdict *d, struct jval from, const char *what)
{
    if (from.type == J_DICT) {
        for (size_t i = 0; i < from.dict->n; i++)
            jdict_set(j, d, from.dict->e[i].key, from.dict->e[i].value);
        return;
    }
    const struct jlist *pairs = jitems(j, from, what);
    for (size_t i = 0; i < pairs->n; i++) {
        const struct jlist *pair = jitems(j, pairs->v[i], what);
        if (pair->n != 2)
            jfail(j, "%s is given what are no pairs", what);
        jdict_set(j, d, pair->v[0], pair->v[1]);
    }
}

static struct jval g_dict(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval out = jdict_new(j);
    (void)self;
    if (a->n > 1)
        jfail(j, "a dict or namespace is made of one value, not of %zu", a->n);
    if (a->n)
        copy_into(j, out.dict, a->v[0], "a dict or namespace");
    for (size_t i = 0; i < a->named.n; i++)
        jdict_set(j, out.dict, a->named.e[i].key, a->named.e[i].value);
    return out;
}

static struct jval g_namespace(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval out = g_dict(j, self, a);
    out.type = J_NAMESPACE;
    return out;
}

static struct jval g_range(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval out = jlist_new(j, 0), first = jarg(j, a, 0, NULL, jundefined());
    int64_t start = jarg_int(j, first, "a bound of 'range'"), stop = start, step = 1;
    (void)self;
    if (a->n > 1)
        stop = jarg_int(j, a->v[1], "a bound of 'range'");
    else
        start = 0;
    if (a->n > 2)
        step = jarg_int(j, a->v[2], "the step of 'range'");
    if (step == 0)
        jfail(j, "the step of 'range' is 0");
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        jlist_add(j, out.list, jint(i));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return out;
}

/* The date of the context, in English whatever the locale. */
static size_t date_part(const struct tm *t, char kind, char out[32])
{
    static const char days[] = "Sunday   Monday   Tuesday  WednesdayThursday Friday   Saturday ";
    static const char months[] = "January  February March    April    May      June     "
                                 "July     August   SeptemberOctober  November December ";
    const char *day = days + 9 * (t->tm_wday % 7), *month = months + 9 * (t->tm_mon % 12);
    int hour = t->tm_hour % 12 ? t->tm_hour % 12 : 12;
    switch (kind) {
    case 'Y':
        return (size_t)snprintf(out, 32, "%d", t->tm_year + 1900);
    case 'y':
        return (size_t)snprintf(out, 32, "%02d", t->tm_year % 100);
    case 'm':
        return (size_t)snprintf(out, 32, "%02d", t->tm_mon + 1);
    case 'd':
        return (size_t)snprintf(out, 32, "%02d", t->tm_mday);
    case 'H':
        return (size_t)snprintf(out, 32, "%02d", t->tm_hour);
    case 'I':
        return (size_t)snprintf(out, 32, "%02d", hour);
    case 'M':
        return (size_t)snprintf(out, 32, "%02d", t->tm_min);
    case 'S':
        return (size_t)snprintf(out, 32, "%02d", t->tm_sec);
    case 'p':
        return (size_t)snprintf(out, 32, "%s", t->tm_hour < 12 ? "AM" : "PM");
    case 'j':
        return (size_t)snprintf(out, 32, "%03d", t->tm_yday + 1);
    case 'a':
    case 'b':
        return (size_t)snprintf(out, 32, "%.3s", kind == 'a' ? day : month);
    case 'A':
    case 'B':
        return (size_t)snprintf(out, 32, "%.*s",
                                (int)MIN(strcspn(kind == 'A' ? day : month, " "), (size_t)9),
                                kind == 'A' ? day : month);
    case '%':
        return (size_t)snprintf(out, 32, "%%");
    default:
        return 0;
    }
}

static struct jval g_strftime_now(struct jinja *j, struct jval self, const struct jargs *a)
{
    const struct jstr *form =
        jarg_str(j, jarg(j, a, 0, "format", jundefined()), "the form of a date");
    struct jbuf b = {0};
    char text[32];
    (void)self;
    for (size_t i = 0; i < form->n; i++) {
        if (form->p[i] != '%' || i + 1 == form->n) {
            jbuf_str(j, &b, jstring_part(j, form, i, 1).s);
            continue;
        }
        if (!date_part(&j->now, form->p[++i], text))
            jfail(j, "'%%%c' is no part of a date that is known here", form->p[i]);
        jbuf_c(j, &b, text);
    }
    return jstring_of(j, &b);
}

void jglobals(struct jinja *j, struct jdict *d)
{
    static const struct {
        const char *name;
        jinja_fn *call;
    } functions[] = {
        {"namespace", g_namespace},
        {"dict", g_dict},
        {"range", g_range},
        {"raise_exception", g_raise},
        {"strftime_now", g_strftime_now},
    };
    for (size_t i = 0; i < ARRAY_LEN(functions); i++)
        jdict_set_c(j, d, functions[i].name,
                    jfunction_new(j, functions[i].name, functions[i].call, jnone()));
}
