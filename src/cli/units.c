/*
 * Text to values and back. Parsers accept the whole string or nothing: no
 * trailing rubbish, no silent overflow, and white space around sizes only.
 */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Unit after a number, NULL-safe at the terminator; 0: not a unit. */
static uint64_t unit_bytes(const char *s)
{
    static const char letters[] = "kmgt";
    size_t n = strcspn(s, " \t");
    if (s[n + strspn(s + n, " \t")] != '\0')
        return 0;
    if (n == 0 || (n == 1 && *s == 'B'))
        return 1;
    const char *at = strchr(letters, tolower((unsigned char)*s));
    if (!at)
        return 0;
    bool decimal = n == 2 && s[1] == 'B';
    if (!decimal && n != 1 && (n != 3 || memcmp(s + 1, "iB", 2) != 0) && (n != 2 || s[1] != 'i'))
        return 0;
    uint64_t unit = 1;
    for (const char *p = letters; p <= at; p++)
        unit *= decimal ? 1000 : 1024;
    return unit;
}

bool parse_size(const char *s, uint64_t *bytes)
{
    uint64_t whole = 0, part = 0, scale = 1;
    s += strspn(s, " \t"); /* as scripts leave them */
    if (!isdigit((unsigned char)*s) && (*s != '.' || !isdigit((unsigned char)s[1])))
        return false;
    for (; isdigit((unsigned char)*s); s++) {
        uint64_t digit = (uint64_t)(*s - '0');
        if (whole > (INT64_MAX - digit) / 10)
            return false;
        whole = whole * 10 + digit;
    }
    if (*s == '.') {
        if (!isdigit((unsigned char)*++s))
            return false;
        for (; isdigit((unsigned char)*s); s++)
            if (scale < 1000000) { /* digits beyond a millionth are dropped */
                part = part * 10 + (uint64_t)(*s - '0');
                scale *= 10;
            }
    }
    s += strspn(s, " \t");
    uint64_t unit = unit_bytes(s);
    /* part < 10^6 and unit <= 2^40, so the product below stays under 2^60 */
    if (unit == 0 || whole > (uint64_t)INT64_MAX / unit - 1)
        return false;
    *bytes = whole * unit + part * unit / scale;
    return true;
}

bool parse_int(const char *s, int64_t low, int64_t high, int64_t *v)
{
    char *end;
    if (!isdigit((unsigned char)*s) && *s != '-')
        return false;
    errno = 0;
    long long x = strtoll(s, &end, 10);
    if (errno || end == s || *end || x < low || x > high)
        return false;
    *v = x;
    return true;
}

bool parse_u64(const char *s, uint64_t *v)
{
    char *end;
    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    unsigned long long x = strtoull(s, &end, 10);
    if (errno || *end)
        return false;
    *v = x;
    return true;
}

bool parse_real(const char *s, double low, double high, double *v)
{
    /* strtod would also take "inf", "nan" and hexadecimal */
    if (strspn(s, "+-.0123456789eE") != strlen(s) || *s == '\0')
        return false;
    char *end;
    errno = 0;
    double x = strtod(s, &end);
    if (end == s || *end || !isfinite(x) || x < low || x > high)
        return false;
    *v = x;
    return true;
}

/* Brackets may stand around a list; inside they separate like a space. */
static bool is_space(char c)
{
    return isspace((unsigned char)c) || c == '[' || c == ']';
}

bool parse_ids(const char *s, int32_t **ids, int64_t *n, const char **bad)
{
    size_t cap = strlen(s) / 2 + 1, k = 0; /* an id and its separator take two bytes */
    int32_t *v = malloc(cap * sizeof(*v));
    const char *comma = NULL; /* the last, while no id followed */
    *bad = "";
    if (!v)
        return false;
    for (;;) {
        for (; is_space(*s) || (*s == ',' && k > 0 && !comma); s++)
            comma = *s == ',' ? s : comma;
        if (*s == '\0')
            break;
        char *end = (char *)s;
        errno = 0;
        long x = isdigit((unsigned char)*s) ? strtol(s, &end, 10) : -1;
        if (errno || x < 0 || x > INT32_MAX || (*end && *end != ',' && !is_space(*end))) {
            *bad = *s == ',' && comma ? comma : s;
            free(v);
            return false;
        }
        v[k++] = (int32_t)x;
        s = end;
        comma = NULL;
    }
    if (k == 0 || comma) {
        *bad = comma ? comma : "";
        free(v);
        return false;
    }
    *ids = v;
    *n = (int64_t)k;
    return true;
}

int ids_of_text(const char *where, const char *s, size_t n_bytes, int32_t **ids, int64_t *n)
{
    const char *bad;
    if (strlen(s) != n_bytes)
        complain("%sthe list of token ids holds a zero byte at %zu", where, strlen(s));
    else if (parse_ids(s, ids, n, &bad))
        return ST_OK;
    else
        complain("%s\"%.20s\" is not a list of token ids such as 1,2,3", where, bad);
    return ST_USAGE;
}

bool buf_add(struct text_buf *b, const char *p, size_t n)
{
    if (b->n + n + 1 > b->cap) {
        size_t cap = (b->n + n + 1) * 2 + 64;
        char *q = realloc(b->p, cap);
        if (!q)
            return false;
        b->p = q;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
    return true;
}

void buf_free(struct text_buf *b)
{
    free(b->p);
    *b = (struct text_buf){0};
}

struct size_text show_size(int64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    struct size_text t;
    double v = (double)bytes / 1024;
    size_t u = 0;
    for (; u + 1 < ARRAY_LEN(units) && fabs(v) >= 1023.95; u++)
        v /= 1024;
    if (bytes > -1024 && bytes < 1024)
        snprintf(t.s, sizeof(t.s), "%d B", (int)bytes);
    else
        snprintf(t.s, sizeof(t.s), "%.1f %s", v, units[u]);
    return t;
}

struct size_text show_size_up(int64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    struct size_text t;
    double v = (double)bytes / 1024;
    size_t u = 0;
    for (; u + 1 < ARRAY_LEN(units) && ceil(v * 10) >= 10240; u++)
        v /= 1024;
    snprintf(t.s, sizeof(t.s), "%.1f %s", ceil(v * 10) / 10, units[u]);
    return t;
}

double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}
