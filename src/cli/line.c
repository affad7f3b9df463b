/*
 * Chat's input: line editing and history at a terminal, plain lines elsewhere.
 *
 * libedit retries a read that a signal interrupts, so Ctrl-C is caught where it
 * reads a character: the reader below ends the line instead, and line_read
 * throws the line away. libedit takes whole characters from such a reader, so
 * it also puts UTF-8 sequences together.
 */
#include "cli.h"

#include <editline/readline.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

static struct {
    bool editing;
    int pushed_back; /* a byte read too far; 0: none */
    char history[4096]; /* empty: none is kept */
} line;

/* ---- history file ----------------------------------------------------------- */

/* Makes the folders that lead to the file; those that exist stay as they are. */
static void make_folders(char *path)
{
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            (void)mkdir(path, 0700); /* a failure shows when the file is written */
            *p = '/';
        }
}

bool line_history(char *path, size_t size)
{
    const char *state = options_env("XDG_STATE_HOME"), *home = options_env("HOME");
    int n = -1;
    if (state && state[0] == '/')
        n = snprintf(path, size, "%s/sluice/history", state);
    else if (home)
        n = snprintf(path, size, "%s/.local/state/sluice/history", home);
    return n >= 0 && (size_t)n < size;
}

/* Without a place to keep it there is no history file; nobody is bothered. */
static void history_begin(void)
{
    using_history();
    stifle_history(HISTORY_LINES);
    if (!line_history(line.history, sizeof(line.history))) {
        line.history[0] = '\0';
        return;
    }
    make_folders(line.history);
    read_history(line.history);
}

/* Written after every line, so that no way of ending loses it. What people ask
 * is nobody else's business: the file is its owner's alone. */
static void history_keep(const char *text)
{
    if (*text == '\0')
        return;
    add_history(text);
    if (!line.history[0])
        return;
    mode_t old = umask(077);
    (void)write_history(line.history);
    umask(old);
}

/* ---- reading ------------------------------------------------------------------- */

/* One byte; -1: end of input, -2: interrupted. */
static int read_byte(void)
{
    unsigned char c = (unsigned char)line.pushed_back;
    line.pushed_back = 0;
    if (c)
        return c;
    for (;;) {
        if (interrupted())
            return -2;
        ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n == 1)
            return c;
        if (n == 0 || errno != EINTR)
            return -1;
    }
}

/* What is not UTF-8 becomes U+FFFD; the byte that broke off a sequence counts
 * anew, it may be the end of the line. */
static int read_character(FILE *f)
{
    (void)f;
    int c = read_byte();
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : 0;
    if (more)
        c &= 0x3f >> more;
    else if (c >= 0x80)
        return 0xfffd;
    for (; more > 0; more--) {
        int next = read_byte();
        if (next < 0) {
            c = next;
            break;
        }
        if ((next & 0xc0) != 0x80) {
            line.pushed_back = next;
            return 0xfffd;
        }
        c = c << 6 | (next & 0x3f);
    }
    if (c == -2)
        return '\n';
    return c > 0x10ffff ? 0xfffd : c;
}

void line_init(void)
{
    line.editing = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (!line.editing)
        return;
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* models speak UTF-8, whatever the locale */
    rl_readline_name = "sluice";
    rl_catch_signals = 0;
    rl_getc_function = read_character;
    rl_initialize();
    history_begin();
}

bool line_editing(void)
{
    return line.editing;
}

static enum line_result read_plain(char **text)
{
    struct text_buf b = {0};
    *text = NULL;
    if (!read_stdin_line(&b)) {
        buf_free(&b);
        return interrupted() ? LINE_CANCELLED : LINE_END;
    }
    if (strlen(b.p) != b.n) {
        complain("a message holds a zero byte at %zu", strlen(b.p));
        buf_free(&b);
        return LINE_BAD;
    }
    if (b.n > 0 && b.p[b.n - 1] == '\r') /* as other systems end lines */
        b.p[b.n - 1] = '\0';
    *text = b.p;
    return LINE_OK;
}

enum line_result line_read(const char *prompt, char **text)
{
    if (!line.editing)
        return read_plain(text);
    *text = readline(prompt);
    if (interrupted()) {
        free(*text);
        *text = NULL;
        return LINE_CANCELLED;
    }
    if (!*text)
        return LINE_END;
    history_keep(*text);
    return LINE_OK;
}
