/*
 * parse: words -> the tree of an expression. Precedence, lowest first: a if b else c,
 * or, and, not, comparisons and `in`, + - ~, * / // %, **, filters and tests, signs,
 * calls and attributes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

struct jnode *jnode_new(struct jinja *j, const struct jparse *p, enum jkind kind)
{
    struct jnode *x = jalloc(j, sizeof *x);
    x->kind = kind;
    x->line = p->x.line;
    return x;
}

static _Noreturn void unexpected(struct jinja *j, const struct jparse *p, const char *wanted)
{
    const struct jlex *x = &p->x;
    if (x->word == W_END)
        jfail(j, "the tag ends where %s is expected", wanted);
    if (x->word == W_OP)
        jfail(j, "'%s' stands where %s is expected", x->op, wanted);
    jfail(j, "'%.*s' stands where %s is expected", (int)MIN(x->text.n, (size_t)60), x->text.p,
          wanted);
}

bool jparse_take_op(struct jinja *j, struct jparse *p, const char *op)
{
    bool is = jlex_is_op(&p->x, op);
    if (is)
        jlex_next(j, &p->x);
    return is;
}

bool jparse_take_name(struct jinja *j, struct jparse *p, const char *name)
{
    bool is = jlex_is_name(&p->x, name);
    if (is)
        jlex_next(j, &p->x);
    return is;
}

void jparse_need_op(struct jinja *j, struct jparse *p, const char *op)
{
    char wanted[8] = "'";
    strncat(strncat(wanted, op, 3), "'", 2);
    if (!jparse_take_op(j, p, op))
        unexpected(j, p, wanted);
}

const struct jstr *jparse_name(struct jinja *j, struct jparse *p, const char *what)
{
    if (p->x.word != W_NAME)
        unexpected(j, p, what);
    const struct jstr *s = jstring(j, p->x.text.p, p->x.text.n, true).s;
    jlex_next(j, &p->x);
    return s;
}

/* ---- what stands alone ---- */

static struct jnode *constant(struct jinja *j, const struct jparse *p, struct jval v)
{
    struct jnode *x = jnode_new(j, p, X_CONST);
    x->value = v;
    return x;
}

static int64_t whole_number(struct jinja *j, const char *text)
{
    errno = 0;
    long long v = strtoll(text, NULL, 10);
    if (errno)
        jfail(j, "the number %s is larger than 64 bits hold", text);
    return v;
}

static struct jnode *number(struct jinja *j, struct jparse *p)
{
    char text[64];
    size_t n = 0;
    struct jnode *x;
    for (size_t i = 0; i < p->x.text.n; i++)
        if (p->x.text.p[i] != '_' && n < sizeof text - 1)
            text[n++] = p->x.text.p[i];
    text[n] = '\0';
    if (p->x.word == W_FLOAT)
        x = constant(j, p, jfloat(strtod(text, NULL)));
    else
        x = constant(j, p, jint(whole_number(j, text)));
    jlex_next(j, &p->x);
    return x;
}

static struct jnode *strings(struct jinja *j, struct jparse *p)
{
    struct jbuf b = {0};
    struct jnode *x = jnode_new(j, p, X_CONST);
    const struct jstr *first = jlex_string(j, p->x.text);
    x->value = (struct jval){.type = J_STRING, .s = first};
    jlex_next(j, &p->x);
    if (p->x.word != W_STRING)
        return x;
    jbuf_str(j, &b, first);
    while (p->x.word == W_STRING) {
        jbuf_str(j, &b, jlex_string(j, p->x.text));
        jlex_next(j, &p->x);
    }
    x->value = jstring_of(j, &b);
    return x;
}

/* Elements up to the closing bracket, which is taken. */
static struct jnode *elements(struct jinja *j, struct jparse *p, const char *closing)
{
    struct jnode *first = NULL, **end = &first;
    while (!jparse_take_op(j, p, closing)) {
        *end = jparse_expression(j, p);
        end = &(*end)->next;
        if (!jparse_take_op(j, p, ",") && !jlex_is_op(&p->x, closing))
            unexpected(j, p, "',' or the closing bracket");
    }
    return first;
}

static struct jnode *dict(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jnode_new(j, p, X_DICT), *first = NULL, **end = &first;
    while (!jparse_take_op(j, p, "}")) {
        struct jnode *one = jnode_new(j, p, A_NAMED);
        one->a = jparse_expression(j, p);
        jparse_need_op(j, p, ":");
        one->b = jparse_expression(j, p);
        *end = one;
        end = &one->next;
        if (!jparse_take_op(j, p, ",") && !jlex_is_op(&p->x, "}"))
            unexpected(j, p, "',' or '}'");
    }
    x->list = first;
    return x;
}

static struct jnode *parenthesis(struct jinja *j, struct jparse *p)
{
    struct jnode *x;
    if (jparse_take_op(j, p, ")"))
        return jnode_new(j, p, X_TUPLE);
    x = jparse_tuple(j, p);
    jparse_need_op(j, p, ")");
    return x;
}

static struct jnode *name(struct jinja *j, struct jparse *p)
{
    static const struct {
        const char *name;
        struct jval v;
    } words[] = {
        {"true", {.type = J_BOOL, .b = true}},
        {"True", {.type = J_BOOL, .b = true}},
        {"false", {.type = J_BOOL, .b = false}},
        {"False", {.type = J_BOOL, .b = false}},
        {"none", {.type = J_NONE}},
        {"None", {.type = J_NONE}},
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (jparse_take_name(j, p, words[i].name))
            return constant(j, p, words[i].v);
    struct jnode *x = jnode_new(j, p, X_NAME);
    x->name = jparse_name(j, p, "a value");
    p->varargs = p->varargs || jstr_is(x->name, "varargs");
    p->kwargs = p->kwargs || jstr_is(x->name, "kwargs");
    return x;
}

static struct jnode *primary(struct jinja *j, struct jparse *p)
{
    if (p->x.word == W_INT || p->x.word == W_FLOAT)
        return number(j, p);
    if (p->x.word == W_STRING)
        return strings(j, p);
    if (p->x.word == W_NAME)
        return name(j, p);
    if (jparse_take_op(j, p, "("))
        return parenthesis(j, p);
    if (jparse_take_op(j, p, "[")) {
        struct jnode *x = jnode_new(j, p, X_LIST);
        x->list = elements(j, p, "]");
        return x;
    }
    if (jparse_take_op(j, p, "{"))
        return dict(j, p);
    unexpected(j, p, "a value");
}

/* ---- what follows a value ---- */

static struct jnode *argument(struct jinja *j, struct jparse *p, bool parameters)
{
    struct jnode *x = jnode_new(j, p, A_NAMED);
    bool all_named = !parameters && jparse_take_op(j, p, "**");
    if (all_named || (!parameters && jparse_take_op(j, p, "*"))) {
        x->kind = all_named ? A_SPREAD_NAMED : A_SPREAD;
        x->a = jparse_expression(j, p);
        return x;
    }
    struct jnode *v = jparse_expression(j, p);
    if (!jparse_take_op(j, p, "=")) {
        if (parameters && v->kind != X_NAME)
            jfail(j, "a parameter of a macro is a name");
        return v;
    }
    if (v->kind != X_NAME)
        jfail(j, "'=' follows what is no name");
    x->name = v->name;
    x->a = jparse_expression(j, p);
    return x;
}

struct jnode *jparse_arguments(struct jinja *j, struct jparse *p, bool parameters)
{
    struct jnode *first = NULL, **end = &first;
    jparse_need_op(j, p, "(");
    while (!jparse_take_op(j, p, ")")) {
        *end = argument(j, p, parameters);
        end = &(*end)->next;
        if (!jparse_take_op(j, p, ",") && !jlex_is_op(&p->x, ")"))
            unexpected(j, p, "',' or ')'");
    }
    return first;
}

/* [index] or [start:stop:step]; the bracket is taken. */
static struct jnode *subscript(struct jinja *j, struct jparse *p, struct jnode *object)
{
    struct jnode *x = jnode_new(j, p, X_INDEX), *part[3] = {NULL};
    int n = 0;
    for (bool more = true; more; n++) {
        if (n == 3)
            jfail(j, "a slice has more than three parts");
        if (!jlex_is_op(&p->x, ":") && !jlex_is_op(&p->x, "]"))
            part[n] = jparse_expression(j, p);
        more = jparse_take_op(j, p, ":");
    }
    jparse_need_op(j, p, "]");
    x->kind = n > 1 ? X_SLICE : X_INDEX;
    x->a = object;
    x->b = part[0];
    x->c = part[1];
    x->d = part[2];
    if (n == 1 && !part[0])
        jfail(j, "an index is missing between [ and ]");
    return x;
}

static struct jnode *attribute(struct jinja *j, struct jparse *p, struct jnode *object)
{
    struct jnode *x = jnode_new(j, p, X_ATTR);
    x->a = object;
    if (p->x.word == W_INT) {
        x->kind = X_INDEX;
        x->b = number(j, p);
    } else {
        x->name = jparse_name(j, p, "the name of an attribute");
    }
    return x;
}

struct jnode *jparse_postfix(struct jinja *j, struct jparse *p)
{
    struct jnode *x = primary(j, p);
    for (;;) {
        if (jparse_take_op(j, p, ".")) {
            x = attribute(j, p, x);
        } else if (jparse_take_op(j, p, "[")) {
            x = subscript(j, p, x);
        } else if (jlex_is_op(&p->x, "(")) {
            struct jnode *call = jnode_new(j, p, X_CALL);
            call->a = x;
            call->list = jparse_arguments(j, p, false);
            x = call;
        } else {
            return x;
        }
    }
}

struct jnode *jparse_filter(struct jinja *j, struct jparse *p, struct jnode *operand)
{
    struct jnode *x = jnode_new(j, p, X_FILTER);
    x->a = operand;
    x->name = jparse_name(j, p, "the name of a filter");
    if (jlex_is_op(&p->x, "("))
        x->list = jparse_arguments(j, p, false);
    return x;
}

/* Whether a value begins here that is the argument of a test: `is divisibleby 3`. */
static bool begins_argument(const struct jparse *p)
{
    static const char *const others[] = {"and", "or", "not", "if", "else", "is", "in"};
    if (p->x.word != W_NAME)
        return p->x.word == W_STRING || p->x.word == W_INT || p->x.word == W_FLOAT ||
               jlex_is_op(&p->x, "[") || jlex_is_op(&p->x, "{");
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (jlex_is_name(&p->x, others[i]))
            return false;
    return true;
}

static struct jnode *test(struct jinja *j, struct jparse *p, struct jnode *operand)
{
    struct jnode *x = jnode_new(j, p, X_TEST);
    x->a = operand;
    x->negated = jparse_take_name(j, p, "not");
    x->name = jparse_name(j, p, "the name of a test");
    if (jlex_is_op(&p->x, "("))
        x->list = jparse_arguments(j, p, false);
    else if (begins_argument(p))
        x->list = jparse_postfix(j, p);
    return x;
}

static struct jnode *unary(struct jinja *j, struct jparse *p)
{
    bool negate = jlex_is_op(&p->x, "-");
    if (negate || jlex_is_op(&p->x, "+")) {
        jlex_next(j, &p->x);
        struct jnode *x = jnode_new(j, p, negate ? X_NEGATE : X_PLUS);
        jdeeper(j);
        x->a = unary(j, p);
        j->depth--;
        return x;
    }
    return jparse_postfix(j, p);
}

static struct jnode *filtered(struct jinja *j, struct jparse *p)
{
    struct jnode *x = unary(j, p);
    for (;;) {
        if (jparse_take_op(j, p, "|"))
            x = jparse_filter(j, p, x);
        else if (jparse_take_name(j, p, "is"))
            x = test(j, p, x);
        else
            return x;
    }
}

/* ---- operators ---- */

enum { LEVEL_OR, LEVEL_AND, LEVEL_NOT, LEVEL_COMPARE, LEVEL_ADD, LEVEL_MUL, LEVEL_POW, LEVEL_NONE };

static const struct {
    const char *op;
    int level;
    enum jop what;
} operators[] = {
    {"==", LEVEL_COMPARE, OP_EQ}, {"!=", LEVEL_COMPARE, OP_NE}, {"<", LEVEL_COMPARE, OP_LT},
    {">", LEVEL_COMPARE, OP_GT},  {"<=", LEVEL_COMPARE, OP_LE}, {">=", LEVEL_COMPARE, OP_GE},
    {"+", LEVEL_ADD, OP_ADD},     {"-", LEVEL_ADD, OP_SUB},     {"~", LEVEL_ADD, OP_CONCAT},
    {"*", LEVEL_MUL, OP_MUL},     {"/", LEVEL_MUL, OP_DIV},     {"//", LEVEL_MUL, OP_FLOOR},
    {"%", LEVEL_MUL, OP_MOD},     {"**", LEVEL_POW, OP_POW},
};

/* The operator that stands here and is at least of `level`; taken. -1: none. */
static int take_operator(struct jinja *j, struct jparse *p, int level, enum jkind *kind,
                         enum jop *op)
{
    *kind = X_BINARY;
    for (size_t i = 0; p->x.word == W_OP && i < ARRAY_LEN(operators); i++)
        if (operators[i].level >= level && jparse_take_op(j, p, operators[i].op)) {
            *op = operators[i].what;
            return operators[i].level;
        }
    if (p->x.word != W_NAME)
        return -1;
    if (level <= LEVEL_OR && jparse_take_name(j, p, "or")) {
        *kind = X_OR;
        return LEVEL_OR;
    }
    if (level <= LEVEL_AND && jparse_take_name(j, p, "and")) {
        *kind = X_AND;
        return LEVEL_AND;
    }
    struct jparse ahead = *p;
    bool not = level <= LEVEL_COMPARE && jparse_take_name(j, &ahead, "not");
    if (level <= LEVEL_COMPARE && jparse_take_name(j, &ahead, "in")) {
        *p = ahead;
        *op = not ? OP_NOT_IN : OP_IN;
        return LEVEL_COMPARE;
    }
    return -1;
}

static struct jnode *binary(struct jinja *j, struct jparse *p, int level)
{
    struct jnode *x;
    enum jkind kind;
    enum jop op = OP_ADD;
    int found;
    jdeeper(j);
    if (level <= LEVEL_NOT && jparse_take_name(j, p, "not")) {
        x = jnode_new(j, p, X_NOT);
        x->a = binary(j, p, LEVEL_NOT);
    } else {
        x = filtered(j, p);
    }
    while ((found = take_operator(j, p, level, &kind, &op)) >= 0) {
        struct jnode *both = jnode_new(j, p, kind);
        both->op = (uint8_t)op;
        both->a = x;
        both->b = binary(j, p, found + 1);
        x = both;
    }
    j->depth--;
    return x;
}

struct jnode *jparse_condition(struct jinja *j, struct jparse *p)
{
    return binary(j, p, LEVEL_OR);
}

struct jnode *jparse_expression(struct jinja *j, struct jparse *p)
{
    struct jnode *first = NULL, **end = &first;
    jdeeper(j);
    for (;;) {
        struct jnode *x = binary(j, p, LEVEL_OR);
        *end = x;
        if (!jparse_take_name(j, p, "if"))
            break;
        struct jnode *choice = jnode_new(j, p, X_IF);
        choice->a = x;
        choice->b = binary(j, p, LEVEL_OR);
        *end = choice;
        if (!jparse_take_name(j, p, "else"))
            break;
        end = &choice->c;
    }
    j->depth--;
    return first;
}

struct jnode *jparse_tuple(struct jinja *j, struct jparse *p)
{
    struct jnode *x = jparse_expression(j, p), **end = &x->next;
    if (!jlex_is_op(&p->x, ","))
        return x;
    struct jnode *tuple = jnode_new(j, p, X_TUPLE);
    tuple->list = x;
    while (jparse_take_op(j, p, ",")) {
        if (p->x.word == W_END || jlex_is_op(&p->x, ")"))
            break;
        *end = jparse_expression(j, p);
        end = &(*end)->next;
    }
    return tuple;
}
