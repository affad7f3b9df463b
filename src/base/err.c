/*
 * Status codes and the one error sentence.
 *
 * The first failure wins: what went wrong first is what the user must hear;
 * later failures are usually its consequences.
 */
#include "base/base.h"

#include <stdio.h>
#include <string.h>

static bool is_free(const struct err *e)
{
    return e && e->code == OK;
}

/* Sentences hold names and strings of files; what a terminal would obey in them
 * is escaped. A character cut in two at the end is left out. */
static void record(struct err *e, int code, const char *fmt, va_list ap)
{
    char raw[sizeof(e->text)];
    e->code = code;
    vsnprintf(raw, sizeof(raw), fmt, ap);
    size_t n = strlen(raw);
    for (size_t k = 1; k <= 3 && k <= n && n == sizeof(raw) - 1; k++)
        if (utf8_sequence(raw + n - k, k) < 0) {
            n -= k;
            break;
        }
    utf8_show_all(e->text, sizeof(e->text), raw, n, 0);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (is_free(e)) {
        va_list ap;
        va_start(ap, fmt);
        record(e, code, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_errno(struct err *e, int code, int errnum, const char *fmt, ...)
{
    if (is_free(e)) {
        va_list ap;
        va_start(ap, fmt);
        record(e, code, fmt, ap);
        va_end(ap);
        size_t n = strlen(e->text);
        snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerror(errnum));
    }
    return code;
}

void err_clear(struct err *e)
{
    e->code = OK;
    e->text[0] = '\0';
}
