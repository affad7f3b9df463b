/*
 * eval: statements, scopes and macros. Loops and macros have scopes of their own;
 * as in Jinja2, what a loop's body sets is gone in its next round, and a macro sees
 * what its place of definition sees. A branch of `if` has no scope.
 */
#include "text/jinja/jinja.h"

const struct jval *jlookup(struct jinja *j, const struct jstr *name)
{
    const struct jval *v = NULL;
    for (const struct jscope *s = j->scope; s && !v; s = s->parent) {
        jstep(j, 0);
        v = jdict_get_s(j, &s->names, name);
    }
    return v;
}

static void set(struct jinja *j, struct jscope *s, const struct jstr *name, struct jval v)
{
    jdict_set(j, &s->names, (struct jval){.type = J_STRING, .s = name}, v);
}

static struct jscope *scope_new(struct jinja *j, struct jscope *parent)
{
    struct jscope *s = jalloc(j, sizeof *s);
    s->parent = parent;
    return s;
}

/* What a block writes, as a string. */
static struct jval captured(struct jinja *j, const struct jnode *body, struct jscope *scope)
{
    struct jbuf text = {0}, *out = j->out;
    struct jscope *before = j->scope;
    j->out = &text;
    j->scope = scope;
    jexec(j, body);
    j->out = out;
    j->scope = before;
    return jstring_of(j, &text);
}

/* The names of a `for` or `set` get v, or its elements. */
static void assign(struct jinja *j, const struct jnode *x, struct jscope *s, struct jval v)
{
    size_t n = 0, i = 0;
    if (!x->tuple) {
        set(j, s, x->list->name, v);
        return;
    }
    for (const struct jnode *t = x->list; t; t = t->next)
        n++;
    const struct jlist *items = jitems(j, v, "an assignment to several names");
    if (items->n != n)
        jfail(j, "%zu values cannot be assigned to %zu names", items->n, n);
    for (const struct jnode *t = x->list; t; t = t->next)
        set(j, s, t->name, items->v[i++]);
}

/* ---- loops ---- */

/* The items for which the condition holds. */
static struct jlist *selected(struct jinja *j, const struct jnode *x, const struct jlist *all)
{
    struct jval out = jlist_new(j, 0);
    struct jscope *outer = j->scope, *s = scope_new(j, outer);
    for (size_t i = 0; i < all->n; i++) {
        jdict_clear(j, &s->names);
        assign(j, x, s, all->v[i]);
        j->scope = s;
        if (!x->d || jtrue(jeval(j, x->d)))
            jlist_add(j, out.list, all->v[i]);
        j->scope = outer;
    }
    return out.list;
}

static void for_statement(struct jinja *j, const struct jnode *x)
{
    static const struct jstr loop_name = {.p = "loop", .n = 4};
    struct jval over = jeval(j, x->a);
    const struct jlist *items = selected(j, x, jitems(j, over, "'for'"));
    struct jscope *outer = j->scope, *s = scope_new(j, outer);
    struct jloop *loop = jalloc(j, sizeof *loop);
    *loop = (struct jloop){items, 0, ++j->loop_depth};
    for (size_t i = 0; i < items->n && j->flow != FLOW_BREAK; i++) {
        jdict_clear(j, &s->names);
        loop->i = i;
        set(j, s, &loop_name, (struct jval){.type = J_LOOP, .loop = loop});
        assign(j, x, s, items->v[i]);
        j->scope = s;
        j->flow = FLOW_ON;
        jexec(j, x->b);
        j->scope = outer;
    }
    j->flow = FLOW_ON;
    j->loop_depth--;
    if (!items->n)
        jexec(j, x->c);
}

/* ---- macros ---- */

static const struct jstr *parameter_name(const struct jnode *p)
{
    return p->name; /* of a NAME, or of a NAMED with a default in `a` */
}

static void bind_rest(struct jinja *j, const struct jnode *macro, struct jargs *a, size_t n_used,
                      struct jdict *unused, struct jscope *s)
{
    static const struct jstr varargs = {.p = "varargs", .n = 7}, kwargs = {.p = "kwargs", .n = 6};
    struct jval rest = jlist_new(j, 0), named = {.type = J_DICT, .dict = unused};
    for (size_t i = n_used; i < a->n; i++)
        jlist_add(j, rest.list, a->v[i]);
    if (rest.list->n && !macro->varargs)
        jfail(j, "a macro of %zu parameters is called with %zu arguments", n_used, a->n);
    if (unused->n && !macro->kwargs)
        jfail(j, "a macro has no parameter '%.*s'", (int)MIN(unused->e[0].key.s->n, (size_t)60),
              unused->e[0].key.s->p);
    if (macro->varargs)
        set(j, s, &varargs, rest);
    if (macro->kwargs)
        set(j, s, &kwargs, named);
}

static bool is_parameter(struct jinja *j, const struct jnode *macro, struct jval name)
{
    for (const struct jnode *p = macro->list; p; p = p->next)
        if (jstr_same(j, parameter_name(p), name.s))
            return true;
    return false;
}

/* Every parameter is bound before a default is evaluated, so that a default cannot
 * see an outer variable of a parameter's name. */
static void bind(struct jinja *j, const struct jnode *macro, struct jargs *a, struct jscope *s)
{
    size_t i = 0;
    struct jval unused = jdict_new(j);
    struct jscope *before = j->scope;
    for (const struct jnode *p = macro->list; p; p = p->next, i++) {
        const struct jval *named = jdict_get_s(j, &a->named, parameter_name(p));
        set(j, s, parameter_name(p), i < a->n ? a->v[i] : named ? *named : jundefined());
    }
    for (size_t k = 0; k < a->named.n; k++)
        if (!is_parameter(j, macro, a->named.e[k].key))
            jdict_set(j, unused.dict, a->named.e[k].key, a->named.e[k].value);
    bind_rest(j, macro, a, i, unused.dict, s);
    i = 0;
    j->scope = s;
    for (const struct jnode *p = macro->list; p; p = p->next, i++)
        if (p->kind == A_NAMED && i >= a->n && !jdict_get_s(j, &a->named, p->name))
            set(j, s, p->name, jeval(j, p->a));
    j->scope = before;
}

struct jval jcall_macro(struct jinja *j, const struct jfunction *f, struct jargs *a)
{
    static const struct jstr caller = {.p = "caller", .n = 6};
    struct jscope *s = scope_new(j, f->scope);
    struct jval out;
    int loops = j->loop_depth;
    const struct jval *with = jdict_get_s(j, &a->named, &caller);
    struct jargs rest = *a;
    jdeeper(j);
    if (with && !is_parameter(j, f->macro, (struct jval){.type = J_STRING, .s = &caller})) {
        set(j, s, &caller, *with);
        rest.named = (struct jdict){0};
        for (size_t i = 0; i < a->named.n; i++)
            if (!jstr_same(j, a->named.e[i].key.s, &caller))
                jdict_set(j, &rest.named, a->named.e[i].key, a->named.e[i].value);
    }
    bind(j, f->macro, &rest, s);
    j->loop_depth = 0;
    out = captured(j, f->macro->b, s);
    j->loop_depth = loops;
    j->flow = FLOW_ON;
    j->depth--;
    return out;
}

static struct jval macro_value(struct jinja *j, const struct jnode *x, const char *name)
{
    struct jfunction *f = jalloc(j, sizeof *f);
    *f = (struct jfunction){.name = name, .macro = x, .scope = j->scope};
    return (struct jval){.type = J_FUNCTION, .fn = f};
}

static void call_statement(struct jinja *j, const struct jnode *x)
{
    struct jval fn = jeval(j, x->a->a);
    struct jargs a;
    jeval_args(j, x->a->list, &a);
    jdict_set_c(j, &a.named, "caller", macro_value(j, x, "caller"));
    jprint(j, j->out, jcall(j, fn, &a, "the macro of 'call'"));
}

/* ---- statements ---- */

/* The filters of a block, the innermost first, which has no operand in the tree. */
static struct jval filtered(struct jinja *j, const struct jnode *x, struct jval v)
{
    struct jargs a;
    if (!x)
        return v;
    jdeeper(j);
    v = filtered(j, x->a, v);
    jeval_args(j, x->list, &a);
    j->line = x->line;
    j->depth--;
    return jfilter(j, x->name, v, &a);
}

static void set_statement(struct jinja *j, const struct jnode *x)
{
    struct jval v = x->a ? jeval(j, x->a)
                         : filtered(j, x->d, captured(j, x->b, scope_new(j, j->scope)));
    j->line = x->line;
    if (!x->c) {
        assign(j, x, j->scope, v);
        return;
    }
    const struct jval *object = jlookup(j, x->list->name);
    if (!object || object->type != J_NAMESPACE)
        jfail(j, "an attribute is set of '%.*s', which is no namespace",
              (int)MIN(x->list->name->n, (size_t)60), x->list->name->p);
    jdict_set(j, object->dict, (struct jval){.type = J_STRING, .s = x->c->name}, v);
}

static void execute(struct jinja *j, const struct jnode *x)
{
    struct jval v;
    bool holds;
    switch (x->kind) {
    case N_TEXT:
        jbuf_str(j, j->out, x->value.s);
        return;
    case N_PRINT:
        v = jeval(j, x->a);
        j->line = x->line;
        jprint(j, j->out, v);
        return;
    case N_IF:
        while (!(holds = jtrue(jeval(j, x->a))) && x->elif)
            x = x->c;
        jexec(j, holds ? x->b : x->c);
        return;
    case N_FOR:
        for_statement(j, x);
        return;
    case N_SET:
        set_statement(j, x);
        return;
    case N_MACRO:
        set(j, j->scope, x->name, macro_value(j, x, "macro"));
        return;
    case N_CALL:
        call_statement(j, x);
        return;
    case N_FILTER:
        v = filtered(j, x->a, captured(j, x->b, scope_new(j, j->scope)));
        jprint(j, j->out, v);
        return;
    case N_BREAK:
    case N_CONTINUE:
        if (!j->loop_depth)
            jfail(j, "'%s' stands outside of a loop", x->kind == N_BREAK ? "break" : "continue");
        j->flow = x->kind == N_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return;
    default:
        jfail(j, "a value stands where a statement is expected");
    }
}

void jexec(struct jinja *j, const struct jnode *list)
{
    jdeeper(j);
    for (const struct jnode *x = list; x && j->flow == FLOW_ON; x = x->next) {
        jstep(j, 0);
        j->line = x->line;
        execute(j, x);
    }
    j->depth--;
}
