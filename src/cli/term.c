/*
 * The process's own surroundings: standard output and what became of it, the
 * sentences on stderr, the progress line, signals.
 *
 * Invariants
 *  1. The first failed write to stdout is remembered; later ones are dropped.
 *  2. A progress line is never left behind: everything that prints erases it.
 */
#include "cli.h"

#include <errno.h>
#include <signal.h>
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
    size_t n;
    char buf[8192];
} out;

static struct {
    bool terminal, shown;
    int64_t began_ns, drawn_ns;
} progress;

static volatile sig_atomic_t interrupt_flag;

/* ---- signals --------------------------------------------------------------- */

static void on_interrupt(int sig)
{
    if (interrupt_flag) { /* asked twice and still here */
        signal(sig, SIG_DFL);
        raise(sig);
    }
    interrupt_flag = 1;
}

bool interrupted(void)
{
    return interrupt_flag != 0;
}

void interrupt_clear(void)
{
    interrupt_flag = 0;
}

static bool can_colour(int fd)
{
    const char *term = options_env("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0 && !options_env("NO_COLOR");
}

void term_init(void)
{
    struct sigaction old;
    struct sigaction sa = {.sa_handler = on_interrupt}; /* no SA_RESTART: a wait for input ends */
    sigemptyset(&sa.sa_mask);
    /* a shell starts background jobs with interrupts ignored; keep it so */
    if (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN); /* seen as failed writes instead */
    signal(SIGXFSZ, SIG_IGN);
    out.terminal = isatty(STDOUT_FILENO);
    out.dims = can_colour(STDOUT_FILENO);
    progress.terminal = isatty(STDERR_FILENO);
}

/* ---- standard output --------------------------------------------------------- */

void out_flush(void)
{
    size_t done = 0;
    while (done < out.n && !out.error) {
        ssize_t k = write(STDOUT_FILENO, out.buf + done, out.n - done);
        if (k > 0)
            done += (size_t)k;
        else if (k == 0 || errno != EINTR) /* a second Ctrl-C ends the process */
            out.error = k < 0 ? errno : EIO;
    }
    out.n = 0;
}

static void put_byte(char c)
{
    if (out.n == sizeof(out.buf))
        out_flush();
    out.buf[out.n++] = c;
}

/* Control characters could reprogram the terminal; a model's answer or a file's
 * metadata may hold any. */
static char shown(char c)
{
    unsigned char u = (unsigned char)c;
    return (u >= 0x20 && u != 0x7f) || u == '\n' || u == '\t' ? c : '?';
}

void out_write(const char *p, size_t n)
{
    if (out.error || n == 0)
        return;
    progress_end();
    for (size_t i = 0; i < n; i++)
        put_byte(out.terminal ? shown(p[i]) : p[i]);
}

void out_printf(const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    if (out.error)
        return;
    progress_end();
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) {
        out.error = ENOMEM;
        return;
    }
    for (int i = 0; i < n; i++)
        put_byte(text[i]);
    free(text);
}

bool out_failed(void)
{
    return out.error != 0;
}

int out_finish(int status)
{
    progress_end();
    out_flush();
    if (out.error == EPIPE)
        return ST_PIPE;
    if (out.error) {
        complain("writing to standard output failed: %s", strerror(out.error));
        return ST_FAIL;
    }
    return status;
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

void complain(const char *fmt, ...)
{
    va_list ap;
    progress_end();
    out_flush();
    fputs("sluice: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void note(const char *fmt, ...)
{
    va_list ap;
    progress_end();
    out_flush();
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
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
    if (done >= total)
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
    fputs("\r\033[K", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
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
