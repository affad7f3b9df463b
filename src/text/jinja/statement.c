/*
 * statement: text and tags -> the tree of a template. A block is a chain of nodes.
 */
#include <string.h>

#include "text/jinja/jinja.h"

/* Where a chain grows. */
struct chain {
    struct jnode *first, **end;
};

static struct chain chain_new(struct chain *c)
{
    c->first = NULL;
    c->end = &c->first;
    return *c;
}

static void chain_add(struct chain *c, struct jnode *x)
{
    *c->end = x;
    c->end = &x->next;
}

static struct jnode *block(struct jinja *j, struct jparse *p, const char *const *until);

/* The rest of the tag that ends a statement. */
static void close_tag(struct jinja *j, struct jparse *p)
{
    if (p->x.word != W_END) {
        if (p->x.word == W_OP)
            jfail(j, "'%s' stands where the tag should end", p->x.op);
        jfail(j, "'%.*s' stands where the tag should end", (int)MIN(p->x.text.n, (size_t)60),
              p->x.text.p);
    }
    jlex_close(j, &p->x, true);
}

/* Up to the tag of that name, which is taken whole. */
static struct jnode *body(struct jinja *j, struct jparse *p, const char *end)
{
    const char *const until[] = {end, NULL};
    close_tag(j, p);
    struct jnode *x = block(j, p, until);
    jlex_next(j, &p->x);
    close_tag(j, p);
    return x;
}

static struct jnode *if_statement(struct jinja *j, struct jparse *p)
{
    static const char *const until[] = {"elif", "else", "endif", NULL};
    struct jnode *first = NULL, **end = &first;
    bool more = true;
    while (more) {
        struct jnode *x = jnode_new(j, p, N_IF);
        x->a = jparse_expression(j, p);
        close_tag(j, p);
        x->b = block(j, p, until);
        *end = x;
        end = &x->c;
        more = x->elif = jparse_take_name(j, p, "elif");
    }
    if (jlex_is_name(&p->x, "else")) {
        jlex_next(j, &p->x);
        *end = body(j, p, "endif");
    } else {
        jlex_next(j, &p->x);
        close_tag(j, p);
    }
    return first;
}

/* a, b or one name. */
static struct jnode *targets(struct jinja *j, struct jparse *p, bool *tuple)
{
    struct chain c;
    chain_new(&c);
    bool open = jparse_take_op(j, p, "(");
    *tuple = false;
    do {
        struct jnode *x = jnode_new(j, p, X_NAME);
        x->name = jparse_name(j, p, "the name of a variable");
        chain_add(&c, x);
        if (!jlex_is_op(&p->x, ","))
            break;
        *tuple = true;
    } while (jparse_take_op(j, p, ",") && !jlex_is_op(&p->x, ")"));
    if (open)
        jparse_need_op(j, p, ")");
    return c.first;
}

static struct jnode *for_statement(struct jinja *j, struct jparse *p)
{
    static const char *const until[] = {"else", "endfor", NULL};
    struct jnode *x = jnode_new(j, p, N_FOR);
    x->list = targets(j, p, &x->tuple);
    if (!jparse_take_name(j, p, "in"))
        jfail(j, "'in' is missing after the variable of 'for'");
    x->a = jparse_condition(j, p);
    if (jparse_take_name(j, p, "if"))
        x->d = jparse_expression(j, p);
    if (jlex_is_name(&p->x, "recursive"))
        jfail(j, "recursive loops are not known here");
    close_tag(j, p);
    x->b = block(j, p, until);
    if (jlex_is_name(&p->x, "else")) {
        jlex_next(j, &p->x);
        x->c = body(j, p, "endfor");
    } else {
        jlex_next(j, &p->x);
        close_tag(j, p);
    }
    return x;
}

static struct jnode *set_statement(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_SET);
    x->list = targets(j, p, &x->tuple);
    if (jparse_take_op(j, p, ".")) {
        x->c = jnode_new(j, p, X_NAME);
        x->c->name = jparse_name(j, p, "the name of an attribute");
    }
    if (jparse_take_op(j, p, "=")) {
        x->a = jparse_tuple(j, p);
        close_tag(j, p);
        return x;
    }
    if (x->tuple)
        jfail(j, "a block can be set to one name only");
    for (x->d = NULL; jparse_take_op(j, p, "|");)
        x->d = jparse_filter(j, p, x->d); /* of the block's text: what is innermost has none */
    x->b = body(j, p, "endset");
    return x;
}

/* Parameters and body of a macro or call block, and whether it takes any arguments. */
static void macro_body(struct jinja *j, struct jparse *p, struct jnode *x, const char *end)
{
    bool varargs = p->varargs, kwargs = p->kwargs;
    p->varargs = p->kwargs = false;
    x->b = body(j, p, end);
    x->varargs = p->varargs;
    x->kwargs = p->kwargs;
    p->varargs = varargs || x->varargs;
    p->kwargs = kwargs || x->kwargs;
}

static struct jnode *macro_statement(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_MACRO);
    x->name = jparse_name(j, p, "the name of a macro");
    x->list = jparse_arguments(j, p, true);
    macro_body(j, p, x, "endmacro");
    return x;
}

static struct jnode *call_statement(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_CALL);
    if (jlex_is_op(&p->x, "("))
        x->list = jparse_arguments(j, p, true);
    x->a = jparse_postfix(j, p);
    if (x->a->kind != X_CALL)
        jfail(j, "'call' is followed by what is no call");
    macro_body(j, p, x, "endcall");
    return x;
}

static struct jnode *filter_statement(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_FILTER);
    x->a = jparse_filter(j, p, NULL);
    while (jparse_take_op(j, p, "|"))
        x->a = jparse_filter(j, p, x->a);
    x->b = body(j, p, "endfilter");
    return x;
}

static struct jnode *plain(struct jinja *j, struct jparse *p, enum jkind kind)
{
    struct jnode *x = jnode_new(j, p, kind);
    close_tag(j, p);
    return x;
}

static struct jnode *raw(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_TEXT);
    close_tag(j, p);
    struct str text = jlex_raw(j, &p->x);
    x->value = jstring(j, text.p, text.n, true);
    return x;
}

/* The statement whose name is the current word; NULL: it writes nothing. */
static struct jnode *statement(struct jinja *j, struct jparse *p)
{
    if (p->x.word != W_NAME)
        jfail(j, "a statement begins with a name");
    struct str name = p->x.text;
    if (jparse_take_name(j, p, "if"))
        return if_statement(j, p);
    if (jparse_take_name(j, p, "for"))
        return for_statement(j, p);
    if (jparse_take_name(j, p, "set"))
        return set_statement(j, p);
    if (jparse_take_name(j, p, "macro"))
        return macro_statement(j, p);
    if (jparse_take_name(j, p, "call"))
        return call_statement(j, p);
    if (jparse_take_name(j, p, "filter"))
        return filter_statement(j, p);
    if (jparse_take_name(j, p, "break"))
        return plain(j, p, N_BREAK);
    if (jparse_take_name(j, p, "continue"))
        return plain(j, p, N_CONTINUE);
    if (jparse_take_name(j, p, "raw"))
        return raw(j, p);
    if (jparse_take_name(j, p, "generation") || jparse_take_name(j, p, "endgeneration")) {
        close_tag(j, p); /* marks answers for training; nothing to do */
        return NULL;
    }
    jfail(j, "there is no statement '%.*s' here", (int)MIN(name.n, (size_t)60), name.p);
}

static struct jnode *print(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, N_PRINT);
    jlex_next(j, &p->x);
    x->a = jparse_tuple(j, p);
    if (p->x.word != W_END)
        jfail(j, "'%s' stands where }} is expected", p->x.word == W_OP ? p->x.op : "a value");
    jlex_close(j, &p->x, false);
    return x;
}
/* What ends a statement stands behind what may stand in it. */
static const char *last_of(const char *const *until)
{
    while (until[1])
        until++;
    return *until;
}


/* Statements up to a tag of one of those names, which is the current word then;
 * `until` NULL: up to the end. */
static struct jnode *block(struct jinja *j, struct jparse *p, const char *const *until)
{
    struct chain c;
    struct str text;
    int kind, line = p->x.line;
    chain_new(&c);
    jdeeper(j);
    while ((kind = jlex_text(j, &p->x, &text)) != 0 || text.n) {
        if (text.n) {
            struct jnode *x = jnode_new(j, p, N_TEXT);
            x->value = jstring(j, text.p, text.n, true);
            chain_add(&c, x);
        }
        if (kind == '{') {
            chain_add(&c, print(j, p));
        } else if (kind == '%') {
            jlex_next(j, &p->x);
            for (size_t i = 0; until && until[i]; i++)
                if (jlex_is_name(&p->x, until[i])) {
                    j->depth--;
                    return c.first;
                }
            struct jnode *x = statement(j, p);
            if (x)
                chain_add(&c, x);
        } else if (kind == 0) {
            break;
        }
    }
    if (until) {
        j->line = line;
        jfail(j, "what begins here has no {%% %s %%}", last_of(until));
    }
    j->depth--;
    return c.first;
}

const struct jnode *jparse_template(struct jinja *j, struct str source)
{
    if (source.n && source.p[source.n - 1] == '\n')
        source.n--;
    struct jparse p = {.x = {.src = source, .line = 1}};
    return block(j, &p, NULL);
}
