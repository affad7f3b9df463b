/*
 * run: one rendering from begin to end: memory, limits and failures.
 *
 * A failure is a longjmp to jinja_run. Nothing between there and here holds
 * anything but memory of the arena, so nothing is lost by it, and the hundreds of
 * places that may fail need not pass it on.
 */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja/jinja.h"

/* Steps: a conversation of a thousand messages takes some ten millions in templates
 * that look for the last question in every turn. Depth: real templates reach 60. */
const struct jinja_limits jinja_usual = {
    .steps = 200000000, .depth = 400, .bytes = (size_t)256 << 20, .output = (size_t)64 << 20};

int jinja_run(struct jinja *j, const struct jinja_limits *most, int64_t now,
              void (*work)(struct jinja *j, void *user), void *user, struct err *e)
{
    time_t t = (time_t)now;
    *j = (struct jinja){.most = *most, .e = e};
    if (!localtime_r(&t, &j->now))
        memset(&j->now, 0, sizeof j->now);
    /* Numbers are written and read with a point, whatever the host's locale. */
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    locale_t hosts = plain ? uselocale(plain) : (locale_t)0;
    if (setjmp(j->failed) == 0)
        work(j, user);
    if (plain) {
        uselocale(hosts);
        freelocale(plain);
    }
    return j->status;
}

void jinja_end(struct jinja *j)
{
    arena_free(&j->arena);
}

void jinja_render(struct jinja *j, struct str source, struct jdict *globals, struct jbuf *out)
{
    struct jscope top = {.names = *globals};
    const struct jnode *tree = jparse_template(j, source);
    j->out = out;
    j->scope = &top;
    jexec(j, tree);
}

void *jalloc(struct jinja *j, size_t n)
{
    enum { CHUNK = 32 << 10, ALIGN = 8 };
    if (n > j->most.bytes || j->n_bytes > j->most.bytes - n)
        jlimit(j, E_BUDGET, "it takes more than %zu bytes of memory", j->most.bytes);
    n = align_up(n, ALIGN);
    if (n > j->n_room) {
        size_t all = n > CHUNK / 4 ? n : CHUNK;
        char *p = arena_alloc(&j->arena, all);
        if (!p)
            jlimit(j, E_NOMEM, "there is no memory for it");
        j->n_bytes += all;
        if (all == n)
            return p;
        j->room = p;
        j->n_room = all;
    }
    char *p = j->room;
    j->room += n;
    j->n_room -= n;
    return p;
}

void jstep(struct jinja *j, size_t n_bytes)
{
    j->n_steps += 1 + (int64_t)(n_bytes / 64);
    if (j->n_steps > j->most.steps)
        jlimit(j, E_UNSUPPORTED, "it takes more than %lld steps", (long long)j->most.steps);
}

void jdeeper(struct jinja *j)
{
    if (++j->depth > j->most.depth)
        jlimit(j, E_UNSUPPORTED, "it is nested more than %d deep", j->most.depth);
}

static _Noreturn void stop(struct jinja *j, int code, const char *before, const char *sentence)
{
    j->status = code;
    if (j->line) /* 0: it has not begun */
        err_set(j->e, code, "the chat template%s, line %d: %s", before, j->line, sentence);
    else
        err_set(j->e, code, "the conversation%s: %s", before, sentence);
    longjmp(j->failed, 1);
}

void jfail(struct jinja *j, const char *fmt, ...)
{
    char text[400];
    va_list v;
    va_start(v, fmt);
    vsnprintf(text, sizeof text, fmt, v);
    va_end(v);
    stop(j, E_UNSUPPORTED, "", text);
}

void jlimit(struct jinja *j, int code, const char *fmt, ...)
{
    char text[200];
    va_list v;
    va_start(v, fmt);
    vsnprintf(text, sizeof text, fmt, v);
    va_end(v);
    stop(j, code, " goes beyond a limit", text);
}

void jraise(struct jinja *j, struct jstr message)
{
    j->status = E_ARG;
    err_set(j->e, E_ARG, "the chat template refuses this conversation: %.*s",
            (int)MIN(message.n, (size_t)480), message.p);
    longjmp(j->failed, 1);
}
