/*
 * value: lists and dicts, truth, equality, order, and how values print.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* ---- lists ---- */

struct jval jlist_new(struct jinja *j, size_t cap)
{
    struct jlist *l = jalloc(j, sizeof *l);
    l->cap = cap;
    l->v = cap ? jalloc(j, cap * sizeof *l->v) : NULL;
    return (struct jval){.type = J_LIST, .list = l};
}

void jlist_add(struct jinja *j, struct jlist *l, struct jval v)
{
    jstep(j, 0);
    l->json.n = 0;
    if (l->n == l->cap) {
        l->cap = l->cap * 2 + 4;
        struct jval *more = jalloc(j, l->cap * sizeof *more);
        if (l->n)
            memcpy(more, l->v, l->n * sizeof *more);
        l->v = more;
    }
    l->v[l->n++] = v;
}

/* ---- dicts ---- */

static uint32_t hash_of(struct jinja *j, struct jval key)
{
    uint32_t h = 2166136261u;
    jstep(j, key.type == J_STRING ? key.s->n * 16 : 0); /* a byte at a time */
    if (key.type == J_INT)
        return (uint32_t)key.i * 2654435761u;
    for (size_t i = 0; i < key.s->n; i++)
        h = (h ^ (unsigned char)key.s->p[i]) * 16777619u;
    return h;
}

static bool same_key(struct jinja *j, struct jval a, struct jval b)
{
    return a.type == b.type && (a.type == J_INT ? a.i == b.i : jstr_same(j, a.s, b.s));
}

struct jval jdict_new(struct jinja *j)
{
    return (struct jval){.type = J_DICT, .dict = jalloc(j, sizeof(struct jdict))};
}

/* The entry of that key; NULL: none. Each look is a step: keys may be made to collide. */
static struct jentry *find(struct jinja *j, const struct jdict *d, struct jval key, uint32_t hash)
{
    if (!d->slot) {
        for (size_t i = 0; i < d->n; i++)
            if (d->e[i].hash == hash && same_key(j, d->e[i].key, key))
                return &d->e[i];
        return NULL;
    }
    for (size_t i = hash & (d->n_slots - 1); d->slot[i]; i = (i + 1) & (d->n_slots - 1)) {
        jstep(j, 0);
        struct jentry *e = &d->e[d->slot[i] - 1];
        if (e->hash == hash && same_key(j, e->key, key))
            return e;
    }
    return NULL;
}

static void put_slot(struct jdict *d, size_t entry)
{
    size_t i = d->e[entry].hash & (d->n_slots - 1);
    while (d->slot[i])
        i = (i + 1) & (d->n_slots - 1);
    d->slot[i] = (uint32_t)entry + 1;
}

static void grow(struct jinja *j, struct jdict *d)
{
    enum { FEW = 16 };
    d->cap = d->cap ? d->cap * 2 : 4;
    struct jentry *more = jalloc(j, d->cap * sizeof *more);
    if (d->n)
        memcpy(more, d->e, d->n * sizeof *more);
    d->e = more;
    if (d->cap <= FEW)
        return;
    jstep(j, d->cap * 8);
    d->n_slots = d->cap * 2;
    d->slot = jalloc(j, d->n_slots * sizeof *d->slot);
    for (size_t i = 0; i < d->n; i++)
        put_slot(d, i);
}

void jdict_set(struct jinja *j, struct jdict *d, struct jval key, struct jval v)
{
    if (key.type != J_STRING && key.type != J_INT)
        jfail(j, "%s cannot be the key of a dict", jtype_name(key));
    uint32_t hash = hash_of(j, key);
    struct jentry *e = find(j, d, key, hash);
    d->json.n = 0;
    if (e) {
        e->value = v;
        return;
    }
    if (d->n == d->cap)
        grow(j, d);
    d->e[d->n++] = (struct jentry){key, v, hash};
    if (d->slot)
        put_slot(d, d->n - 1);
}

void jdict_set_c(struct jinja *j, struct jdict *d, const char *key, struct jval v)
{
    jdict_set(j, d, jstring_c(j, key), v);
}

const struct jval *jdict_get(struct jinja *j, const struct jdict *d, struct jval key)
{
    if (key.type != J_STRING && key.type != J_INT)
        return NULL;
    struct jentry *e = d->n ? find(j, d, key, hash_of(j, key)) : NULL;
    return e ? &e->value : NULL;
}

const struct jval *jdict_get_s(struct jinja *j, const struct jdict *d, const struct jstr *key)
{
    return jdict_get(j, d, (struct jval){.type = J_STRING, .s = key});
}

void jdict_clear(struct jinja *j, struct jdict *d)
{
    jstep(j, d->n_slots * sizeof *d->slot);
    d->n = 0;
    if (d->slot)
        memset(d->slot, 0, d->n_slots * sizeof *d->slot);
}

struct jval jfunction_new(struct jinja *j, const char *name, jinja_fn *call, struct jval self)
{
    struct jfunction *f = jalloc(j, sizeof *f);
    *f = (struct jfunction){.name = name, .call = call, .self = self};
    return (struct jval){.type = J_FUNCTION, .fn = f};
}

/* ---- what values are ---- */

const char *jtype_name(struct jval v)
{
    static const char *const names[] = {
        [J_UNDEFINED] = "an undefined value",
        [J_NONE] = "none",
        [J_BOOL] = "a boolean",
        [J_INT] = "an integer",
        [J_FLOAT] = "a float",
        [J_STRING] = "a string",
        [J_LIST] = "a list",
        [J_DICT] = "a dict",
        [J_NAMESPACE] = "a namespace",
        [J_LOOP] = "a loop",
        [J_FUNCTION] = "a function",
    };
    return names[v.type];
}

bool jtrue(struct jval v)
{
    switch (v.type) {
    case J_UNDEFINED:
    case J_NONE:
        return false;
    case J_BOOL:
        return v.b;
    case J_INT:
        return v.i != 0;
    case J_FLOAT:
        return v.f != 0;
    case J_STRING:
        return v.s->n > 0;
    case J_LIST:
        return v.list->n > 0;
    case J_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

bool jis_number(struct jval v)
{
    return v.type == J_INT || v.type == J_FLOAT || v.type == J_BOOL;
}

double jnumber(struct jval v)
{
    return v.type == J_INT ? (double)v.i : v.type == J_FLOAT ? v.f : v.b;
}

static bool equal_dicts(struct jinja *j, const struct jdict *a, const struct jdict *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++) {
        const struct jval *v = jdict_get(j, b, a->e[i].key);
        same = v && jequal(j, a->e[i].value, *v);
    }
    return same;
}

static bool equal_lists(struct jinja *j, const struct jlist *a, const struct jlist *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = jequal(j, a->v[i], b->v[i]);
    return same;
}

/* As in the reference, undefined equals none and "" equals false: templates that
 * begin with `set system_message = false` rely on neither, but show it. */
bool jequal(struct jinja *j, struct jval a, struct jval b)
{
    bool same = false;
    jstep(j, 0);
    if (a.type <= J_NONE || b.type <= J_NONE)
        return a.type <= J_NONE && b.type <= J_NONE;
    if (a.type == J_INT && b.type == J_INT)
        return a.i == b.i;
    if (jis_number(a) && jis_number(b))
        return jnumber(a) == jnumber(b);
    if ((a.type == J_BOOL && b.type == J_STRING) || (a.type == J_STRING && b.type == J_BOOL))
        return a.type == J_BOOL ? !a.b && !b.s->n : !b.b && !a.s->n;
    if (a.type != b.type)
        return false;
    jdeeper(j);
    if (a.type == J_STRING)
        same = jstr_same(j, a.s, b.s);
    else if (a.type == J_LIST)
        same = a.list == b.list || equal_lists(j, a.list, b.list);
    else if (a.type == J_DICT)
        same = a.dict == b.dict || equal_dicts(j, a.dict, b.dict);
    else
        same = a.fn == b.fn; /* the same object, whichever it is */
    j->depth--;
    return same;
}

static int sign_of(double a, double b)
{
    return a < b ? -1 : a > b;
}

int jcompare(struct jinja *j, struct jval a, struct jval b, bool case_sensitive)
{
    jstep(j, 0);
    if (a.type == J_INT && b.type == J_INT)
        return a.i < b.i ? -1 : a.i > b.i;
    if (jis_number(a) && jis_number(b))
        return sign_of(jnumber(a), jnumber(b));
    if (a.type == J_LIST && b.type == J_LIST) {
        jdeeper(j);
        for (size_t i = 0; i < MIN(a.list->n, b.list->n); i++)
            if (!jequal(j, a.list->v[i], b.list->v[i])) {
                int order = jcompare(j, a.list->v[i], b.list->v[i], case_sensitive);
                j->depth--;
                return order;
            }
        j->depth--;
        return sign_of((double)a.list->n, (double)b.list->n);
    }
    if (a.type != J_STRING || b.type != J_STRING)
        jfail(j, "%s and %s have no order", jtype_name(a), jtype_name(b));
    if (!case_sensitive) {
        a = jstr_case(j, a.s, CASE_LOWER);
        b = jstr_case(j, b.s, CASE_LOWER);
    }
    size_t n = MIN(a.s->n, b.s->n);
    int order = n ? memcmp(a.s->p, b.s->p, n) : 0;
    jstep(j, n);
    return order ? order : sign_of((double)a.s->n, (double)b.s->n);
}

bool jcontains(struct jinja *j, struct jval c, struct jval item)
{
    switch (c.type) {
    case J_UNDEFINED:
        return false;
    case J_STRING:
        if (item.type != J_STRING)
            break;
        return jstr_find(j, c.s, 0, item.s) != SIZE_MAX;
    case J_LIST:
        for (size_t i = 0; i < c.list->n; i++)
            if (jequal(j, c.list->v[i], item))
                return true;
        return false;
    case J_DICT:
    case J_NAMESPACE:
        return jdict_get(j, c.dict, item) != NULL;
    default:
        break;
    }
    jfail(j, "%s cannot be in %s", jtype_name(item), jtype_name(c));
}

const struct jlist *jitems(struct jinja *j, struct jval v, const char *what)
{
    struct jval out;
    if (v.type == J_LIST)
        return v.list;
    if (v.type != J_UNDEFINED && v.type != J_STRING && v.type != J_DICT)
        jfail(j, "%s is given %s, which has no elements", what, jtype_name(v));
    out = jlist_new(j, 4);
    if (v.type == J_STRING)
        for (size_t i = 0, n; i < v.s->n; i += n) {
            n = jstr_char(v.s, i);
            jlist_add(j, out.list, jstring_part(j, v.s, i, n));
        }
    for (size_t i = 0; v.type == J_DICT && i < v.dict->n; i++)
        jlist_add(j, out.list, v.dict->e[i].key);
    return out.list;
}

/* ---- printing ---- */

/* As JavaScript prints it; `json`: 1 and not 1.0. */
size_t jprint_double(struct jinja *j, double f, char out[40], bool json)
{
    enum { COST = 32 << 10 }; /* up to 17 numbers are written and read */
    char digits[32];
    int precision = 0, exponent;
    jstep(j, COST);
    if (isnan(f) || isinf(f))
        return (size_t)snprintf(out, 40, "%s",
                                json       ? "null"
                                : isnan(f) ? "NaN"
                                : f > 0    ? "Infinity"
                                           : "-Infinity");
    if (f == 0)
        return (size_t)snprintf(out, 40, "%s", json ? "0" : signbit(f) ? "-0.0" : "0.0");
    do
        snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= 21 || exponent < -6) {
        digits[strcspn(digits, "e")] = '\0';
        return (size_t)snprintf(out, 40, "%se%+d", digits, exponent);
    }
    int places = precision > exponent ? precision - exponent : 0;
    if (places == 0)
        return (size_t)snprintf(out, 40, "%.*f", json ? 0 : 1, f);
    return (size_t)snprintf(out, 40, "%.*f", places, f);
}

void jprint(struct jinja *j, struct jbuf *b, struct jval v)
{
    static const struct json_form form = {.undefined = true};
    char text[40];
    switch (v.type) {
    case J_UNDEFINED:
    case J_NONE:
        return;
    case J_STRING:
        jbuf_str(j, b, v.s);
        return;
    case J_BOOL:
        jbuf_c(j, b, v.b ? "true" : "false");
        return;
    case J_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.i);
        jbuf_c(j, b, text);
        return;
    case J_FLOAT:
        jprint_double(j, v.f, text, false);
        jbuf_c(j, b, text);
        return;
    case J_LIST:
    case J_DICT:
    case J_NAMESPACE:
        json_write(j, b, v, &form);
        return;
    default:
        jfail(j, "%s cannot be printed", jtype_name(v));
    }
}

struct jval jto_string(struct jinja *j, struct jval v)
{
    struct jbuf b = {0};
    if (v.type == J_STRING)
        return v;
    jprint(j, &b, v);
    return jstring_of(j, &b);
}
