/*
 * jinja: runs the chat template of a model file, in the subset of Jinja that such
 * templates use.
 *
 *   lex.c      bytes of the template -> words of its expressions; white space control
 *   parse.c    words -> expressions            statement.c  text and tags -> statements
 *   eval.c     statements, scopes, macros      expr.c       expressions
 *   value.c    values: truth, equality, order, how they print
 *   string.c   strings that know which of their bytes the template wrote
 *   json.c     JSON in and out
 *   filter.c   filters                         test.c       tests, functions
 *   method.c   methods and attributes of values
 *   run.c      memory, limits, failures, one rendering from begin to end
 *
 * What is written is what @huggingface/jinja 0.5.11 writes where that and Jinja2
 * agree or only that one renders. Where they differ, string methods are Python's
 * (strip with its argument, capitalize), and values print as the former prints them
 * (true, JSON for lists and dicts, nothing for none). An operation that would put a
 * list or dict into a text with + is refused, as Jinja2 does.
 *
 * A template is as untrusted as the file that it came in. It runs in one arena,
 * with limits on steps, depth, memory and output; every failure jumps to jinja_run,
 * so that nothing but the arena is ever held. What is not understood is refused by
 * name and line.
 *
 * Provenance: each byte of a string is either the template's own or not. The
 * template's are the text and literals of its source, and the bos and eos tokens.
 * Everything else (messages, tools, numbers, what tojson adds) is not. Operations
 * copy the marks with the bytes; none makes a byte the template's.
 */
#ifndef JINJA_H
#define JINJA_H

#include <setjmp.h>
#include <time.h>

#include "base/base.h"

/* ---- values ---- */

enum jtype {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STRING,
    J_LIST,
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_FUNCTION
};

/* Never changed once made, so that parts share bytes. own: a mark for each byte,
 * 1 where it is the template's; NULL: all are alike, as `all_own` says. */
struct jstr {
    const char *p;
    const uint8_t *own;
    size_t n;
    bool all_own;
};

struct jval {
    enum jtype type;
    bool tuple; /* of a list: written as one; only `is sequence` and the like see it */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstr *s;
        struct jlist *list;
        struct jdict *dict; /* also of a namespace */
        struct jloop *loop;
        const struct jfunction *fn;
    };
};

struct jlist {
    struct jval *v;
    size_t n, cap;
    struct str json; /* what it was read from, as it stands (jjson_keep); n = 0: not kept */
};

/* In order of insertion. Keys are strings or ints. slot: index + 1 of entries by
 * hash, open addressing; NULL while there are few. */
struct jdict {
    struct jentry {
        struct jval key, value;
        uint32_t hash;
    } * e;
    size_t n, cap;
    uint32_t *slot;
    size_t n_slots;
    struct str json; /* as of a list */
};

struct jloop {
    const struct jlist *items;
    size_t i;
    int depth; /* 1: not in another loop */
};

struct jscope {
    struct jdict names;
    struct jscope *parent;
};

struct jargs {
    struct jval *v;
    size_t n;
    struct jdict named;
};

struct jinja;
typedef struct jval jinja_fn(struct jinja *j, struct jval self, const struct jargs *a);

/* A function of the language (call), or a macro. */
struct jfunction {
    const char *name;
    jinja_fn *call;
    struct jval self;
    const struct jnode *macro;
    struct jscope *scope; /* the macro's: where it was defined */
};

/* ---- the tree ---- */

enum jkind {
    /* statements */
    N_TEXT,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_MACRO,
    N_CALL,
    N_FILTER,
    N_BREAK,
    N_CONTINUE,
    /* expressions */
    X_CONST,
    X_NAME,
    X_LIST,
    X_TUPLE,
    X_DICT,
    X_NOT,
    X_NEGATE,
    X_PLUS,
    X_BINARY,
    X_AND,
    X_OR,
    X_IF,
    X_ATTR,
    X_INDEX,
    X_SLICE,
    X_CALL,
    X_FILTER,
    X_TEST,
    /* arguments */
    A_NAMED,
    A_SPREAD,
    A_SPREAD_NAMED
};

enum jop {
    OP_ADD,
    OP_SUB,
    OP_CONCAT,
    OP_MUL,
    OP_DIV,
    OP_FLOOR,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_GT,
    OP_LE,
    OP_GE,
    OP_IN,
    OP_NOT_IN
};

/*
 *              a            b            c          list                 name
 * PRINT        what
 * IF           condition    then         else       (elif: an IF in c)
 * FOR          iterable     body         else       target names         d: condition
 * SET          value        body (block)            target names         or a: value, c: attr
 * MACRO                     body                    parameters           name
 * CALL         the call     body                    parameters
 * FILTER       the filter   body
 * NOT ..       operand
 * BINARY       left         right
 * IF           then         condition    else (NULL: none)
 * ATTR         object                                                    attribute
 * INDEX        object       index
 * SLICE        object       start        stop       d: step
 * CALL         callee                               arguments
 * FILTER TEST  operand                              arguments            its name
 * NAMED        value                                                     its name
 */
struct jnode {
    enum jkind kind;
    uint8_t op;
    bool negated;         /* TEST: is not */
    bool tuple;           /* FOR, SET: several targets */
    bool elif;            /* IF: `c` is the next branch */
    bool varargs, kwargs; /* MACRO, CALL: the body mentions them */
    int line;
    struct jnode *a, *b, *c, *d, *list, *next;
    const struct jstr *name;
    struct jval value; /* CONST, TEXT */
};

/* ---- run.c ---- */

struct jinja_limits {
    int64_t steps;
    int depth;
    size_t bytes, output; /* of memory, of text */
};
extern const struct jinja_limits jinja_usual;

/* Where text is written to. */
struct jbuf {
    char *p;
    uint8_t *own;
    size_t n, cap;
};

struct jinja {
    struct arena arena;
    char *room;
    size_t n_room;
    struct jinja_limits most;
    int64_t n_steps;
    size_t n_bytes;
    int depth, line, loop_depth;
    struct jbuf *out;
    struct joined { /* texts that were joined lately, by ~ */
        struct jbuf text;
        int64_t when;
    } joined[4];
    int64_t n_joined;
    struct jscope *scope;
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
    struct tm now; /* for strftime_now */
    struct err *e;
    int status;
    jmp_buf failed;
};

/* Calls `work` with a fresh context; whatever fails in there ends it. Returns the
 * status; the arena stays, with what `work` made, until jinja_end. */
int jinja_run(struct jinja *j, const struct jinja_limits *most, int64_t now,
              void (*work)(struct jinja *j, void *user), void *user, struct err *e);
void jinja_end(struct jinja *j);
/* Inside `work`: renders, with the variables of `globals`, to `out`. */
void jinja_render(struct jinja *j, struct str source, struct jdict *globals, struct jbuf *out);

void *jalloc(struct jinja *j, size_t n);     /* zeroed */
void jstep(struct jinja *j, size_t n_bytes); /* one step, and one for each 64 bytes */
void jdeeper(struct jinja *j);               /* to be undone with j->depth-- */
/* Never return. The sentence begins with the line of the template. */
_Noreturn void jfail(struct jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void jraise(struct jinja *j, struct jstr message); /* the template's own words */
_Noreturn void jlimit(struct jinja *j, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- lex.c ---- */

enum jword {
    W_END, /* of the tag */
    W_NAME,
    W_STRING,
    W_INT,
    W_FLOAT,
    W_OP /* punctuation; its characters are in `op` */
};

struct jlex {
    struct str src;
    size_t at; /* behind the current word */
    int line, n_braces;
    bool trimmed; /* a newline behind a tag has been taken away */
    enum jword word;
    struct str text; /* NAME, number: as written; STRING: without its quotes, not unescaped */
    char op[3];
};

void jlex_next(struct jinja *j, struct jlex *x);
bool jlex_is_op(const struct jlex *x, const char *op);
bool jlex_is_name(const struct jlex *x, const char *name);
const struct jstr *jlex_string(struct jinja *j, struct str raw); /* unescaped */
/* Text up to the next tag that is no comment, white space removed as both tags ask.
 * Returns '%', '{' or, at the end, 0; x stands behind the tag's opening then. */
int jlex_text(struct jinja *j, struct jlex *x, struct str *text);
void jlex_close(struct jinja *j, struct jlex *x, bool block); /* x->word is W_END */
struct str jlex_raw(struct jinja *j, struct jlex *x);         /* up to {% endraw %}, behind it */

/* ---- parse.c, statement.c ---- */

struct jparse {
    struct jlex x;
    bool varargs, kwargs; /* mentioned */
};
struct jnode *jnode_new(struct jinja *j, const struct jparse *p, enum jkind kind);
struct jnode *jparse_expression(struct jinja *j, struct jparse *p);
struct jnode *jparse_tuple(struct jinja *j, struct jparse *p);     /* a, b or one expression */
struct jnode *jparse_condition(struct jinja *j, struct jparse *p); /* without `if` in it */
struct jnode *jparse_postfix(struct jinja *j, struct jparse *p);
struct jnode *jparse_arguments(struct jinja *j, struct jparse *p, bool parameters);
struct jnode *jparse_filter(struct jinja *j, struct jparse *p, struct jnode *operand);
const struct jstr *jparse_name(struct jinja *j, struct jparse *p, const char *what);
bool jparse_take_op(struct jinja *j, struct jparse *p, const char *op);
bool jparse_take_name(struct jinja *j, struct jparse *p, const char *name);
void jparse_need_op(struct jinja *j, struct jparse *p, const char *op);
const struct jnode *jparse_template(struct jinja *j, struct str source);

/* ---- string.c ---- */

struct jval jstring(struct jinja *j, const char *p, size_t n, bool own); /* borrows p */
struct jval jstring_c(struct jinja *j, const char *s);                   /* not the template's */
struct jval jstring_part(struct jinja *j, const struct jstr *s, size_t at, size_t n);
struct jval jstring_of(struct jinja *j, const struct jbuf *b);
static inline bool jstr_is(const struct jstr *s, const char *c)
{
    return s->n == __builtin_strlen(c) && !__builtin_memcmp(s->p, c, s->n);
}
bool jstr_same(struct jinja *j, const struct jstr *a, const struct jstr *b);
bool jstr_begins(struct jinja *j, const struct jstr *s, size_t at, const struct jstr *with);
/* From `at` on; SIZE_MAX: it is not there. */
size_t jstr_find(struct jinja *j, const struct jstr *s, size_t at, const struct jstr *what);
size_t jstr_chars(struct jinja *j, const struct jstr *s); /* code points */
size_t jstr_char(const struct jstr *s, size_t at);        /* bytes of the character there */
struct jval jstr_strip(struct jinja *j, const struct jstr *s, const struct jstr *what, bool left,
                       bool right); /* what: characters; NULL: white space */
struct jval jstr_split(struct jinja *j, const struct jstr *s, const struct jstr *at, int64_t most,
                       bool from_right);
struct jval jstr_replace(struct jinja *j, const struct jstr *s, const struct jstr *old,
                         const struct jstr *new, int64_t most);
enum jcase { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL };
struct jval jstr_case(struct jinja *j, const struct jstr *s, enum jcase how);
struct jval jstr_indent(struct jinja *j, const struct jstr *s, const struct jstr *with, bool first,
                        bool blank);
struct jval jstr_slice(struct jinja *j, const struct jstr *s, int64_t start, int64_t stop,
                       int64_t step); /* of characters, bounds as Python's after clipping */

void jbuf_add(struct jinja *j, struct jbuf *b, const char *p, size_t n, bool own);
void jbuf_str(struct jinja *j, struct jbuf *b, const struct jstr *s);
void jbuf_c(struct jinja *j, struct jbuf *b, const char *s); /* not the template's */

/* ---- value.c ---- */

static inline struct jval jundefined(void)
{
    return (struct jval){.type = J_UNDEFINED};
}
static inline struct jval jnone(void)
{
    return (struct jval){.type = J_NONE};
}
static inline struct jval jbool(bool b)
{
    return (struct jval){.type = J_BOOL, .b = b};
}
static inline struct jval jint(int64_t i)
{
    return (struct jval){.type = J_INT, .i = i};
}
static inline struct jval jfloat(double f)
{
    return (struct jval){.type = J_FLOAT, .f = f};
}
struct jval jlist_new(struct jinja *j, size_t cap);
void jlist_add(struct jinja *j, struct jlist *l, struct jval v);
struct jval jdict_new(struct jinja *j);
void jdict_set(struct jinja *j, struct jdict *d, struct jval key, struct jval v);
void jdict_set_c(struct jinja *j, struct jdict *d, const char *key, struct jval v);
/* NULL: not there. */
const struct jval *jdict_get(struct jinja *j, const struct jdict *d, struct jval key);
const struct jval *jdict_get_s(struct jinja *j, const struct jdict *d, const struct jstr *key);
void jdict_clear(struct jinja *j, struct jdict *d);
struct jval jfunction_new(struct jinja *j, const char *name, jinja_fn *call, struct jval self);

const char *jtype_name(struct jval v);
bool jtrue(struct jval v);
bool jequal(struct jinja *j, struct jval a, struct jval b);
int jcompare(struct jinja *j, struct jval a, struct jval b, bool case_sensitive);
bool jcontains(struct jinja *j, struct jval container, struct jval item);
bool jis_number(struct jval v); /* int, float or bool */
double jnumber(struct jval v);
/* As printed; appended. */
void jprint(struct jinja *j, struct jbuf *b, struct jval v);
struct jval jto_string(struct jinja *j, struct jval v);
size_t jprint_double(struct jinja *j, double f, char out[40], bool json);
/* A list of what iterating over it gives: items, keys, characters; none of undefined. */
const struct jlist *jitems(struct jinja *j, struct jval v, const char *what);

/* ---- json.c ---- */

struct json_form {
    bool ascii, sort_keys, undefined;   /* undefined: prints as such and not as null */
    int indent;                         /* 0: one line */
    const struct jstr *between, *colon; /* NULL: usual */
};
void json_write(struct jinja *j, struct jbuf *b, struct jval v, const struct json_form *f);
/* Strict JSON; what: names the text in sentences. */
struct jval jjson_read(struct jinja *j, struct str text, const char *what);
/* The same; lists and dicts keep the text that they were read from, and json_write writes
 * that, unless it is asked for another form. `text` outlives them. */
struct jval jjson_keep(struct jinja *j, struct str text, const char *what);

/* ---- expr.c, eval.c ---- */

struct jval jeval(struct jinja *j, const struct jnode *x);
void jeval_args(struct jinja *j, const struct jnode *list, struct jargs *a);
void jexec(struct jinja *j, const struct jnode *list);
struct jval jcall(struct jinja *j, struct jval fn, struct jargs *a, const char *name);
struct jval jcall_macro(struct jinja *j, const struct jfunction *f, struct jargs *a);
const struct jval *jlookup(struct jinja *j, const struct jstr *name); /* NULL: undefined */

/* ---- filter.c, test.c, method.c ---- */

struct jval jfilter(struct jinja *j, const struct jstr *name, struct jval v, struct jargs *a);
bool jtest(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a);
void jglobals(struct jinja *j, struct jdict *d);
struct jval jattr(struct jinja *j, struct jval object, const struct jstr *name);
/* Undefined: it has none of that name. */
struct jval jmethod(struct jinja *j, struct jval object, const struct jstr *name);
struct jval jindex(struct jinja *j, struct jval object, struct jval index);
struct jval jattr_path(struct jinja *j, struct jval v, struct jval path); /* "a.b.0" */
struct jval jdict_items(struct jinja *j, const struct jdict *d);
struct jval jdict_sorted(struct jinja *j, const struct jdict *d, const struct jargs *a);

/* The i-th argument or the one of that name; `other` where there is none. */
struct jval jarg(struct jinja *j, const struct jargs *a, size_t i, const char *name,
                 struct jval other);
const struct jstr *jarg_str(struct jinja *j, struct jval v, const char *what);
int64_t jarg_int(struct jinja *j, struct jval v, const char *what);

#endif
