/*
 * The process's own surroundings: standard output and what became of it, the
 * sentences on stderr, the progress line.
 *
 * Invariants
 *  1. The first failed write to stdout is remembered; later ones are dropped.
 *  2. A progress line is never left behind: everything that prints erases it.
 *  3. Nothing here lets a terminal obey what came from a file, a name or a model:
 *     control characters and the like are escaped (base's utf8_show). The one
 *     way around it is out_write into a file or a pipe.
 */
#include "cli.h"

#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A buffer of our own: stdio gives up when a signal interrupts a write. */
static struct {
    int error; /* errno of the first failed write; 0: none */
    bool terminal, dims;
    int n_held;
    char held[4]; /* of out_write on a terminal: a character that is not complete yet */
    bool cut; /* a write was given up because of a signal */
    size_t n;
    char buf[8192];
} out;

static struct {
    bool terminal, shown;
    int64_t began_ns, drawn_ns;
} progress;

static bool can_colour(int fd)
{
    const char *term = options_env("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0 && !options_env("NO_COLOR");
}

/*
 * A descriptor that the caller closed would go to the next file that is opened,
 * which then receives what was meant for standard output or error. So they are
 * opened first thing, the wrong way round: reading from closed input and writing
 * to closed output fail as before. Sentences for a closed standard error go
 * nowhere; they are no result.
 */
static bool closed[3];

bool term_closed(int fd)
{
    return fd >= 0 && fd < 3 && closed[fd];
}

bool term_open_standard(void)
{
    static const int how[] = {O_WRONLY, O_RDONLY, O_RDWR};
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) != -1 || errno != EBADF)
            continue;
        closed[fd] = true;
        int got = open("/dev/null", how[fd]);
        if (got < 0) /* a root folder without /dev */
            got = open("/", O_RDONLY | O_DIRECTORY);
        if (got != fd)
            return false;
    }
    return true;
}

void term_init(void)
{
    out.terminal = isatty(STDOUT_FILENO);
    out.dims = can_colour(STDOUT_FILENO);
    progress.terminal = isatty(STDERR_FILENO);
}

/* ---- standard output --------------------------------------------------------- */

/* Whether what is written goes nowhere. */
static bool out_lost(void)
{
    return out.error || (out.cut && interrupted());
}

void out_flush(void)
{
    size_t done = 0;
    while (done < out.n && !out_lost()) {
        ssize_t k = write(STDOUT_FILENO, out.buf + done, out.n - done);
        if (k > 0)
            done += (size_t)k;
        else if (k == 0 || errno != EINTR)
            out.error = k < 0 ? errno : EIO;
        else if (interrupted()) /* nobody takes it: a pager, a stopped terminal */
            out.cut = true;
    }
    out.n = 0;
}

static void put_byte(char c)
{
    if (out.n == sizeof(out.buf))
        out_flush();
    out.buf[out.n++] = c;
}

static void put(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_byte(p[i]);
}

static void put_shown(const char *p, size_t n, unsigned how)
{
    for (size_t i = 0; i < n;) {
        char one[SHOW_ROOM];
        size_t k;
        i += utf8_show(p + i, n - i, how, one, &k);
        put(one, k);
    }
}

/* Whatever else is written, a character that was begun is not finished any more. */
static void put_held(void)
{
    put_shown(out.held, (size_t)out.n_held, SHOW_LINES);
    out.n_held = 0;
}

/* How many bytes at the end begin a character that more bytes could finish. */
static size_t unfinished(const char *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++)
        if (utf8_sequence(p + n - k, k) < 0)
            return k;
    return 0;
}

void out_write(const char *p, size_t n)
{
    if (out_lost() || n == 0)
        return;
    progress_end();
    if (!out.terminal) {
        put(p, n);
        return;
    }
    while (n && out.n_held) { /* byte by byte until it is a character, or can be none */
        char one[8];
        size_t k = (size_t)out.n_held;
        memcpy(one, out.held, k);
        one[k] = *p;
        if (utf8_sequence(one, k + 1) == 0) {
            put_held();
            break;
        }
        out.held[out.n_held++] = *p++;
        n--;
        if (utf8_sequence(one, k + 1) > 0)
            put_held();
    }
    size_t hold = unfinished(p, n);
    put_shown(p, n - hold, SHOW_LINES);
    if (hold) {
        memcpy(out.held, p + n - hold, hold);
        out.n_held = (int)hold;
    }
}

void out_printf(const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    if (out_lost())
        return;
    progress_end();
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) {
        out.error = ENOMEM;
        return;
    }
    put_held();
    put_shown(text, (size_t)n, SHOW_LINES);
    free(text);
}

void out_name(const char *s, int width)
{
    if (out.error)
        return;
    progress_end();
    put_held();
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        char one[SHOW_ROOM];
        size_t k, at = i;
        i += utf8_show(s + i, n - i, 0, one, &k);
        put(one, k);
        width -= one[0] == s[at] ? 1 : (int)k; /* a character, or an escape for one */
    }
    for (; width > 0; width--)
        put_byte(' ');
}

void out_json(const char *p, size_t n)
{
    if (out.error)
        return;
    progress_end();
    put_held();
    put_shown(p, n, SHOW_LINES | SHOW_JSON);
}

void out_style(const char *sequence)
{
    if (out.error || !out.dims)
        return;
    put_held();
    put(sequence, strlen(sequence));
}

bool out_failed(void)
{
    return out.error != 0;
}

int out_finish(int status)
{
    progress_end();
    put_held();
    out_flush();
    if (out.error == EPIPE)
        return ST_PIPE;
    if (out.error) {
        complain("writing to standard output failed: %s", strerror(out.error));
        return ST_FAIL;
    }
    return status == ST_OK && out.cut && interrupted() ? ST_INTERRUPTED : status;
}

bool out_is_terminal(void)
{
    return out.terminal;
}

bool out_dims(void)
{
    return out.dims;
}

/* ---- sentences ----------------------------------------------------------------- */

/* `before`, then the text with its escapes. */
static void say(const char *before, unsigned how, const char *fmt, va_list ap)
{
    char *text = NULL;
    int n = vasprintf(&text, fmt, ap);
    fputs(before, stderr);
    for (int i = 0; i < n;) {
        char one[SHOW_ROOM];
        size_t k;
        i += (int)utf8_show(text + i, (size_t)(n - i), how, one, &k);
        fwrite(one, 1, k, stderr);
    }
    if (n >= 0)
        free(text);
    else
        fputs("the system refused memory", stderr);
}

void complain(const char *fmt, ...)
{
    va_list ap;
    progress_end();
    put_held();
    out_flush();
    va_start(ap, fmt);
    say("sluice: ", 0, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void note(const char *fmt, ...)
{
    va_list ap;
    progress_end();
    put_held();
    out_flush();
    va_start(ap, fmt);
    say("", SHOW_LINES, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

int fail(const sluice_error *e)
{
    progress_end();
    if (e->code == SLUICE_E_CANCELLED && interrupted())
        return ST_INTERRUPTED;
    if (e->code == SLUICE_E_CANCELLED && out_failed())
        return ST_FAIL; /* out_finish has the sentence */
    complain("%s", e->text[0] ? e->text : "the engine failed without saying why");
    return ST_FAIL;
}

int fail_asked(const sluice_error *e)
{
    int status = fail(e);
    return e->code == SLUICE_E_ARG ? ST_USAGE : status;
}

int no_memory(void)
{
    complain("the system refused memory");
    return ST_FAIL;
}

/* ---- progress -------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether it is time to draw: not in the first third of a second (most things
 * are over by then), and at most ten times a second. */
static bool progress_due(void)
{
    int64_t now = now_ns();
    if (!progress.terminal)
        return false;
    if (!progress.began_ns)
        progress.began_ns = now;
    if (now - progress.began_ns < 333000000 || now - progress.drawn_ns < 100000000)
        return false;
    progress.drawn_ns = now;
    return true;
}

int progress_quiet(void *user, const char *what, int64_t done, int64_t total)
{
    (void)user, (void)what, (void)done, (void)total;
    return interrupted();
}

int progress_tell(void *user, const char *what, int64_t done, int64_t total)
{
    (void)user;
    if (strcmp(what, "token") == 0) /* the answer itself shows how far it is */
        return interrupted();
    if (strcmp(what, "probe") == 0)
        progress_line("measuring drive and memory");
    else if (done >= total)
        progress_end();
    else if (strcmp(what, "prompt") == 0)
        progress_line("prompt: %lld of %lld tokens", (long long)done, (long long)total);
    else
        progress_line("%s: %.0f %%", what, 100 * ratio((double)done, (double)total));
    return interrupted();
}

void progress_line(const char *fmt, ...)
{
    va_list ap;
    if (!progress_due())
        return;
    va_start(ap, fmt);
    say("\r\033[K", 0, fmt, ap);
    va_end(ap);
    fflush(stderr);
    progress.shown = true;
}

void progress_end(void)
{
    if (progress.shown)
        fputs("\r\033[K", stderr);
    progress.shown = false;
    progress.began_ns = 0;
}
