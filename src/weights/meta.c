/* Metadata as a person reads it. */
#include "weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void put_str(char *buf, size_t n, struct str s)
{
    size_t keep = MIN(s.n, n - 4);
    memcpy(buf, s.p, keep);
    strcpy(buf + keep, keep < s.n ? "..." : "");
}

static int put_number(char *buf, size_t n, const struct meta *v, uint64_t i)
{
    int64_t x;
    uint64_t u;
    double d;
    if (v->kind == META_BOOL && meta_u64(v, i, &u))
        return snprintf(buf, n, "%s", u ? "true" : "false");
    if (v->kind != META_REAL) {
        if (meta_i64(v, i, &x))
            return snprintf(buf, n, "%" PRId64, x);
        if (meta_u64(v, i, &u))
            return snprintf(buf, n, "%" PRIu64, u);
    }
    if (meta_f64(v, i, &d))
        return snprintf(buf, n, "%.9g", d);
    return snprintf(buf, n, "?");
}

void meta_key_text(char *buf, size_t n, const struct meta *v)
{
    put_str(buf, n, v->key);
}

void meta_text(char *buf, size_t n, const struct meta *v)
{
    enum { SHOWN = 8 };
    struct str s;
    if (!v->is_array && v->kind == META_TEXT && meta_str(v, &s)) {
        put_str(buf, n, s);
        return;
    }
    if (!v->is_array) {
        put_number(buf, n, v, 0);
        return;
    }
    if (v->kind == META_TEXT || v->kind == META_LIST) {
        snprintf(buf, n, "[%" PRIu64 " %s]", v->n, v->kind == META_TEXT ? "strings" : "arrays");
        return;
    }
    size_t at = (size_t)snprintf(buf, n, "[");
    for (uint64_t i = 0; i < MIN(v->n, (uint64_t)SHOWN); i++) {
        at += (size_t)snprintf(buf + at, n - at, i ? ", " : "");
        at += (size_t)put_number(buf + at, n - at, v, i);
    }
    if (v->n > SHOWN)
        snprintf(buf + at, n - at, ", ... %" PRIu64 " in all]", v->n);
    else
        snprintf(buf + at, n - at, "]");
}
