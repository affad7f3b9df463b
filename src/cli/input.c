/*
 * What is read from standard input and files counts in the memory budget: texts,
 * lists of ids, JSON. Reading stops where what was read cannot fit.
 *
 * Until a model is open its plan says how much that is, which is looked at only
 * when the input is large; later the expert cache makes room (sluice_hold).
 */
#include "cli.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FREE = 1 << 20, STEP = 256 << 10 }; /* every plan has room for FREE */

static struct {
    const struct args *a;
    input_plan_fn *plan;
    sluice *s;    /* NULL: not open yet */
    int64_t used; /* bytes in our hands */
    bool planned, refused;
    int64_t room; /* for them, when planned */
    int64_t text_most, budget;
    int n_context;
    sluice_error error; /* why there is no plan; code 0: there is one */
} in = {.text_most = SLUICE_TEXT_FREE};

/* ---- how much ---------------------------------------------------------- */

static void take_plan(const sluice_plan *p)
{
    /* plan holds no model, whatever it plans for */
    int64_t others = in.a->command == C_PLAN ? p->memory.process : p->memory.floor;
    in.planned = true;
    in.room = p->memory.budget > others ? p->memory.budget - others : 0;
    in.text_most = p->memory.text_most;
    in.budget = p->memory.budget;
    in.n_context = p->memory.n_context;
}

static void make_plan(void)
{
    sluice_plan p = {0};
    if (in.planned || !in.a)
        return;
    in.planned = true;
    int rc = in.plan(in.a, &p, &in.error);
    if (rc == 0 || (rc == SLUICE_E_BUDGET && in.a->command == C_PLAN))
        take_plan(&p);
    in.error.code = rc;
    if (rc == 0 || in.a->command == C_PLAN)
        in.error.code = 0;
}

void input_begin(const struct args *a, input_plan_fn *plan)
{
    in.a = a;
    in.plan = plan;
    json_set_alloc_funcs(input_alloc, input_free);
}

void input_opened(sluice *s)
{
    sluice_plan p;
    in.s = s;
    if (!s)
        return;
    sluice_get_plan(s, &p);
    take_plan(&p);
}

int64_t input_held(void)
{
    return in.used > FREE ? (in.used - FREE + STEP - 1) / STEP * STEP : 0;
}

bool input_take(size_t n_bytes)
{
    int64_t before = input_held();
    if (n_bytes > INT64_MAX / 4)
        return false;
    in.used += (int64_t)n_bytes;
    int64_t now = input_held();
    if (now <= before || !in.a)
        return true;
    if (!in.s)
        make_plan();
    if (in.s ? sluice_hold(in.s, now, NULL) == 0 : now <= in.room)
        return true;
    in.used -= (int64_t)n_bytes;
    in.refused = true;
    return false;
}

void input_give(size_t n_bytes)
{
    int64_t before = input_held();
    in.used -= (int64_t)n_bytes < in.used ? (int64_t)n_bytes : in.used;
    if (in.s && input_held() < before)
        (void)sluice_hold(in.s, input_held(), NULL);
}

bool input_refused(void)
{
    return in.refused;
}

int input_too_much(const char *what)
{
    if (in.error.code)
        return fail_asked(&in.error);
    complain("%s: more than fits the memory budget of %s beside the model; raise --memory or give "
             "less at once",
             what, show_size(in.budget).s);
    return ST_FAIL;
}

/* With what malloc keeps beside it. */
static size_t block_bytes(void *p)
{
    return malloc_usable_size(p) + 2 * sizeof(size_t);
}

void *input_alloc(size_t n_bytes)
{
    void *p = malloc(n_bytes);
    if (p && !input_take(block_bytes(p))) {
        free(p);
        p = NULL;
    }
    return p;
}

void input_free(void *p)
{
    if (p)
        input_give(block_bytes(p));
    free(p);
}

int64_t input_file_most(int64_t n_so_far)
{
    if (n_so_far <= FREE)
        return FREE;
    if (!in.s)
        make_plan();
    return FREE + in.room;
}

/* ---- text -------------------------------------------------------------- */

int64_t input_text_most(size_t n_so_far)
{
    if (n_so_far >= SLUICE_TEXT_FREE && !in.s)
        make_plan();
    return in.text_most;
}

int input_text_too_long(const char *what)
{
    if (in.error.code)
        return fail_asked(&in.error);
    if (in.n_context)
        complain("%s: text beyond %lld bytes does not fit the context of %d tokens and the memory "
                 "budget of %s; give a "
                 "shorter text, or raise --memory or --ctx",
                 what, (long long)in.text_most, in.n_context, show_size(in.budget).s);
    else
        complain("%s: text beyond %lld bytes cannot be tokenised at once in the memory budget of "
                 "%s; give it in parts or "
                 "raise --memory",
                 what, (long long)in.text_most, show_size(in.budget).s);
    return ST_FAIL;
}

/* Room for n more bytes of text that is being read; false: complained. */
static bool room_for(struct text_buf *b, const char *chunk, size_t n, bool zeros)
{
    const char *zero = zeros ? NULL : memchr(chunk, 0, n);
    if (zero)
        complain("standard input holds a zero byte at %zu, where text is expected",
                 b->n + (size_t)(zero - chunk));
    else if ((int64_t)(b->n + n) > SLUICE_TEXT_FREE &&
             (int64_t)(b->n + n) > input_text_most(b->n + n))
        input_text_too_long("standard input");
    else if (!input_take(n))
        input_too_much("standard input");
    else if (buf_add(b, chunk, n))
        return true;
    else
        no_memory();
    return false;
}

char *read_all_stdin(bool zeros, size_t *n_bytes)
{
    struct text_buf b = {0};
    char chunk[16384];
    for (;;) {
        ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));
        if (interrupted()) /* also while input keeps coming */
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            complain("reading standard input failed: %s", strerror(errno));
        if (n < 0 || (n > 0 && !room_for(&b, chunk, (size_t)n, zeros)))
            break;
        if (n > 0)
            continue;
        if (buf_add(&b, "", 0)) {
            *n_bytes = b.n;
            return b.p;
        }
        no_memory();
        break;
    }
    buf_free(&b);
    return NULL;
}

/* ---- lines, where standard input is no terminal -------------------------- */

/* stdio would read on through an endless line whatever signal came. */
static struct {
    char buf[16384];
    size_t at, n;
    size_t line_bytes; /* of the last line, which count until the next is read */
} lines;

/* More bytes in `lines`; false: the end, a signal, or *failed (complained). */
static bool refill(bool *failed)
{
    ssize_t n = -1;
    errno = EINTR;
    while (n < 0 && errno == EINTR && !interrupted())
        n = read(STDIN_FILENO, lines.buf, sizeof(lines.buf));
    *failed = n < 0 && !interrupted();
    if (*failed)
        complain("reading standard input failed: %s", strerror(errno));
    lines.at = 0;
    lines.n = n > 0 && !interrupted() ? (size_t)n : 0;
    return lines.n > 0;
}

bool read_stdin_line(struct text_buf *b, bool *refused)
{
    const char *end = NULL;
    *refused = false;
    input_give(lines.line_bytes);
    lines.line_bytes = 0;
    while (!end && (lines.at < lines.n || refill(refused))) {
        end = memchr(lines.buf + lines.at, '\n', lines.n - lines.at);
        size_t n = end ? (size_t)(end - lines.buf) - lines.at : lines.n - lines.at;
        if (!room_for(b, lines.buf + lines.at, n, false)) {
            *refused = true;
            return false;
        }
        lines.line_bytes += n;
        lines.at += n + (end != NULL);
    }
    return b->p != NULL && !*refused && !interrupted();
}
