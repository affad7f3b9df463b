/*
 * expr: what expressions are worth.
 */
#include <math.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* How a called or used expression is named in sentences. */
static const char *name_of(struct jinja *j, const struct jnode *x)
{
    char *text;
    const struct jstr *s = x->kind == X_NAME || x->kind == X_ATTR ? x->name : NULL;
    if (x->kind == X_INDEX && x->b->kind == X_CONST && x->b->value.type == J_STRING)
        s = x->b->value.s;
    if (!s)
        return "a value";
    size_t n = MIN(s->n, (size_t)60);
    text = jalloc(j, n + 3);
    text[0] = '\'';
    memcpy(text + 1, s->p, n);
    text[n + 1] = '\'';
    return text;
}

/* ---- arithmetic ---- */

static struct jval power(struct jinja *j, struct jval a, struct jval b)
{
    double f = pow(jnumber(a), jnumber(b));
    if (!isfinite(f))
        jfail(j, "a power is no finite number");
    bool whole = a.type != J_FLOAT && b.type != J_FLOAT && jnumber(b) >= 0;
    if (whole && fabs(f) < 9007199254740992.0)
        return jint((int64_t)f);
    return jfloat(f);
}

static struct jval integers(struct jinja *j, enum jop op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    if ((op == OP_FLOOR || op == OP_MOD) && b == 0)
        jfail(j, "a division by zero");
    if (op == OP_ADD)
        over = __builtin_add_overflow(a, b, &r);
    else if (op == OP_SUB)
        over = __builtin_sub_overflow(a, b, &r);
    else if (op == OP_MUL)
        over = __builtin_mul_overflow(a, b, &r);
    else if (b == -1) /* the one quotient that may not fit */
        over = op == OP_FLOOR && __builtin_sub_overflow((int64_t)0, a, &r);
    else if (op == OP_FLOOR)
        r = a / b - (a % b != 0 && (a < 0) != (b < 0));
    else
        r = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    if (over)
        jfail(j, "an integer becomes larger than 64 bits hold");
    return jint(r);
}

static struct jval arithmetic(struct jinja *j, enum jop op, struct jval a, struct jval b)
{
    double x = jnumber(a), y = jnumber(b);
    if (op == OP_POW)
        return power(j, a, b);
    if ((op == OP_DIV || op == OP_FLOOR || op == OP_MOD) && y == 0)
        jfail(j, "a division by zero");
    if (op == OP_DIV)
        return jfloat(x / y);
    if (a.type != J_FLOAT && b.type != J_FLOAT)
        return integers(j, op, a.type == J_BOOL ? a.b : a.i, b.type == J_BOOL ? b.b : b.i);
    if (op == OP_ADD)
        return jfloat(x + y);
    if (op == OP_SUB)
        return jfloat(x - y);
    if (op == OP_MUL)
        return jfloat(x * y);
    if (op == OP_FLOOR)
        return jfloat(floor(x / y));
    double r = fmod(x, y);
    return jfloat(r != 0 && (r < 0) != (y < 0) ? r + y : r);
}

/* Templates make long texts bit by bit, text = text ~ more. What was joined lately has room
 * behind it, and goes on there when it is the left side again: a text that is part of it
 * stays as it is. */
static struct jval joined(struct jinja *j, struct jval a, struct jval b)
{
    struct joined *to = &j->joined[0];
    bool goes_on = false;
    for (size_t i = 0; i < ARRAY_LEN(j->joined) && !goes_on; i++) {
        struct joined *x = &j->joined[i];
        goes_on = a.type == J_STRING && x->text.n && x->text.p == a.s->p && x->text.n == a.s->n;
        if (goes_on || x->when < to->when)
            to = x;
    }
    if (!goes_on) {
        to->text = (struct jbuf){0};
        jprint(j, &to->text, a);
    }
    to->when = ++j->n_joined;
    jprint(j, &to->text, b);
    return jstring_of(j, &to->text);
}

static struct jval repeated(struct jinja *j, struct jval s, int64_t times)
{
    struct jbuf out = {0};
    for (; times > 0; times--)
        jbuf_str(j, &out, s.s);
    return jstring_of(j, &out);
}

static struct jval both_lists(struct jinja *j, const struct jlist *a, const struct jlist *b)
{
    struct jval out = jlist_new(j, a->n + b->n);
    for (size_t i = 0; i < a->n + b->n; i++)
        jlist_add(j, out.list, i < a->n ? a->v[i] : b->v[i - a->n]);
    return out;
}

static bool joins(struct jval v) /* may be put into a text with + */
{
    return v.type == J_STRING || jis_number(v);
}

static struct jval operate(struct jinja *j, const struct jnode *x, struct jval a, struct jval b)
{
    static const char *const names[] = {"+",  "-",  "~", "*", "/",  "//", "%",  "**",
                                        "==", "!=", "<", ">", "<=", ">=", "in", "not in"};
    enum jop op = x->op;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        return jbool(jequal(j, a, b) == (op == OP_EQ));
    case OP_IN:
    case OP_NOT_IN:
        return jbool(jcontains(j, b, a) == (op == OP_IN));
    case OP_LT:
        return jbool(jcompare(j, a, b, true) < 0);
    case OP_GT:
        return jbool(jcompare(j, a, b, true) > 0);
    case OP_LE:
        return jbool(jcompare(j, a, b, true) <= 0);
    case OP_GE:
        return jbool(jcompare(j, a, b, true) >= 0);
    case OP_CONCAT:
        if (a.type == J_NONE || b.type == J_NONE)
            break;
        return joined(j, a, b);
    case OP_ADD:
        if (a.type == J_LIST && b.type == J_LIST)
            return both_lists(j, a.list, b.list);
        if ((a.type == J_STRING || b.type == J_STRING) && joins(a) && joins(b))
            return joined(j, a, b);
        break;
    case OP_MUL:
        if (a.type == J_STRING && b.type == J_INT)
            return repeated(j, a, b.i);
        break;
    default:
        break;
    }
    if (jis_number(a) && jis_number(b) && op != OP_CONCAT)
        return arithmetic(j, op, a, b);
    const struct jnode *odd =
        joins(a) || (a.type == J_LIST && b.type != J_LIST && !joins(b)) ? x->b : x->a;
    jfail(j, "%s %s %s is not possible (%s)", jtype_name(a), names[op], jtype_name(b),
          name_of(j, odd));
}

static struct jval signed_number(struct jinja *j, struct jval v, bool negate)
{
    if (!jis_number(v))
        jfail(j, "%s has no sign", jtype_name(v));
    if (v.type == J_FLOAT)
        return jfloat(negate ? -v.f : v.f);
    return negate ? integers(j, OP_SUB, 0, v.type == J_BOOL ? v.b : v.i)
                  : jint(v.type == J_BOOL ? v.b : v.i);
}

/* ---- slices ---- */

static bool bound(struct jinja *j, const struct jnode *x, int64_t *out)
{
    struct jval v = x ? jeval(j, x) : jnone();
    if (v.type == J_NONE || v.type == J_UNDEFINED)
        return false;
    if (v.type != J_INT)
        jfail(j, "%s stands where a slice needs an integer", jtype_name(v));
    *out = v.i;
    return true;
}

/* As Python clips them: into [0, n], or [-1, n - 1] going down. */
static int64_t clip(int64_t i, int64_t n, bool down)
{
    if (i < 0)
        i = i < -n ? -1 : i + n;
    if (i < 0)
        return down ? -1 : 0;
    return MIN(i, down ? n - 1 : n);
}

static struct jval slice(struct jinja *j, const struct jnode *x)
{
    struct jval v = jeval(j, x->a), out;
    int64_t start, stop, step = 1;
    if (v.type != J_LIST && v.type != J_STRING)
        jfail(j, "%s has no slices", jtype_name(v));
    int64_t n = (int64_t)(v.type == J_LIST ? v.list->n : jstr_chars(j, v.s));
    bool has_start = bound(j, x->b, &start), has_stop = bound(j, x->c, &stop);
    if (bound(j, x->d, &step) && step == 0)
        jfail(j, "the step of a slice is 0");
    bool down = step < 0;
    start = has_start ? clip(start, n, down) : down ? n - 1 : 0;
    stop = has_stop ? clip(stop, n, down) : down ? -1 : n;
    step = MAX(MIN(step, n + 1), -n - 1);
    if (v.type == J_STRING)
        return jstr_slice(j, v.s, start, stop, step);
    out = jlist_new(j, 0);
    for (int64_t i = start; down ? i > stop : i < stop; i += step)
        jlist_add(j, out.list, v.list->v[i]);
    return out;
}

/* ---- calls ---- */

void jeval_args(struct jinja *j, const struct jnode *list, struct jargs *a)
{
    struct jval positional = jlist_new(j, 0);
    *a = (struct jargs){0};
    for (const struct jnode *x = list; x; x = x->next) {
        if (x->kind == A_SPREAD) {
            struct jval v = jeval(j, x->a);
            const struct jlist *items = jitems(j, v, "*");
            for (size_t i = 0; i < items->n; i++)
                jlist_add(j, positional.list, items->v[i]);
        } else if (x->kind != A_NAMED && x->kind != A_SPREAD_NAMED) {
            jlist_add(j, positional.list, jeval(j, x));
        }
    }
    for (const struct jnode *x = list; x; x = x->next) {
        if (x->kind == A_NAMED) {
            jdict_set(j, &a->named, (struct jval){.type = J_STRING, .s = x->name}, jeval(j, x->a));
        } else if (x->kind == A_SPREAD_NAMED) {
            struct jval v = jeval(j, x->a);
            if (v.type != J_DICT)
                jfail(j, "** is given %s", jtype_name(v));
            for (size_t i = 0; i < v.dict->n; i++) {
                jarg_str(j, v.dict->e[i].key, "the name of an argument");
                jdict_set(j, &a->named, v.dict->e[i].key, v.dict->e[i].value);
            }
        }
    }
    a->v = positional.list->v;
    a->n = positional.list->n;
}

struct jval jcall(struct jinja *j, struct jval fn, struct jargs *a, const char *name)
{
    if (fn.type != J_FUNCTION)
        jfail(j, "%s is called, which is %s and no function", name, jtype_name(fn));
    if (fn.fn->macro)
        return jcall_macro(j, fn.fn, a);
    return fn.fn->call(j, fn.fn->self, a);
}

/* A dict may have a member of a method's name ("items" in a schema): what is called
 * is the method. */
static struct jval call(struct jinja *j, const struct jnode *x)
{
    struct jargs a;
    bool attribute = x->a->kind == X_ATTR;
    struct jval object = attribute ? jeval(j, x->a->a) : jundefined();
    struct jval fn = attribute ? jmethod(j, object, x->a->name) : jundefined();
    if (fn.type == J_UNDEFINED)
        fn = attribute ? jattr(j, object, x->a->name) : jeval(j, x->a);
    jeval_args(j, x->list, &a);
    j->line = x->line;
    if (fn.type != J_FUNCTION && attribute)
        jfail(j, "%s has no method %s here", jtype_name(object), name_of(j, x->a));
    return jcall(j, fn, &a, name_of(j, x->a));
}

/* ---- all of them ---- */

static struct jval literal(struct jinja *j, const struct jnode *x)
{
    struct jval out = x->kind == X_DICT ? jdict_new(j) : jlist_new(j, 0);
    for (const struct jnode *e = x->list; e; e = e->next) {
        if (x->kind == X_DICT) {
            struct jval key = jeval(j, e->a);
            jdict_set(j, out.dict, key, jeval(j, e->b));
        } else {
            jlist_add(j, out.list, jeval(j, e));
        }
    }
    out.tuple = x->kind == X_TUPLE;
    return out;
}

static struct jval evaluate(struct jinja *j, const struct jnode *x)
{
    struct jval v;
    struct jargs a;
    const struct jval *known;
    switch (x->kind) {
    case X_CONST:
        return x->value;
    case X_NAME:
        known = jlookup(j, x->name);
        return known ? *known : jundefined();
    case X_LIST:
    case X_TUPLE:
    case X_DICT:
        return literal(j, x);
    case X_NOT:
        return jbool(!jtrue(jeval(j, x->a)));
    case X_NEGATE:
    case X_PLUS:
        return signed_number(j, jeval(j, x->a), x->kind == X_NEGATE);
    case X_AND:
        v = jeval(j, x->a);
        return jtrue(v) ? jeval(j, x->b) : v;
    case X_OR:
        v = jeval(j, x->a);
        return jtrue(v) ? v : jeval(j, x->b);
    case X_IF:
        if (jtrue(jeval(j, x->b)))
            return jeval(j, x->a);
        return x->c ? jeval(j, x->c) : jundefined();
    case X_BINARY:
        v = jeval(j, x->a);
        struct jval right = jeval(j, x->b);
        j->line = x->line;
        return operate(j, x, v, right);
    case X_ATTR:
        v = jeval(j, x->a);
        j->line = x->line;
        return jattr(j, v, x->name);
    case X_INDEX:
        v = jeval(j, x->a);
        return jindex(j, v, jeval(j, x->b));
    case X_SLICE:
        return slice(j, x);
    case X_CALL:
        return call(j, x);
    case X_FILTER:
        v = jeval(j, x->a);
        jeval_args(j, x->list, &a);
        j->line = x->line;
        return jfilter(j, x->name, v, &a);
    case X_TEST:
        v = jeval(j, x->a);
        jeval_args(j, x->list, &a);
        j->line = x->line;
        return jbool(jtest(j, x->name, v, &a) != x->negated);
    default:
        jfail(j, "a statement stands where a value is expected");
    }
}

struct jval jeval(struct jinja *j, const struct jnode *x)
{
    jstep(j, 0);
    jdeeper(j);
    j->line = x->line;
    struct jval v = evaluate(j, x);
    j->depth--;
    return v;
}
