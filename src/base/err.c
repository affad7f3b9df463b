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

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (is_free(e)) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_errno(struct err *e, int code, int errnum, const char *fmt, ...)
{
    if (is_free(e)) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
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
