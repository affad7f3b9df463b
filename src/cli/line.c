/*
 * Chat's input: line editing and history at a terminal, plain lines elsewhere.
 *
 * libedit retries a read that a signal interrupts, so Ctrl-C is caught where it
 * reads a character: the reader below ends the line instead, and line_read
 * throws the line away. libedit takes whole characters from such a reader, so
 * it also puts UTF-8 sequences together.
 *
 * A new size of the terminal is dealt with in the same place. SIGWINCH is blocked
 * but while the reader waits, so that none gets lost between looking and waiting.
 */
#include "cli.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_LINES = 1000, HISTORY_BYTES = 1 << 20 };

static struct {
    bool editing;
    EditLine *el;
    History *past;
    const char *prompt;
    int columns;     /* of the terminal; libedit takes it for 80 where there is only one */
    int pushed_back; /* a byte read too far; 0: none */
    int64_t n_read; /* characters of the line */
    bool too_long;
    char history[4096]; /* empty: none is kept */
} line;

static volatile sig_atomic_t resized_flag;

static void on_resize(int sig)
{
    (void)sig;
    resized_flag = 1;
}

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

/* Whether the file is one that libedit wrote, or empty: any other is somebody's data,
 * which the first line would replace. */
static bool is_history(const char *path)
{
    static const char begins[] = "_HiStOrY_V2_\n";
    char head[sizeof(begins)] = "";
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, sizeof(begins) - 1, f) : 1;
    if (f)
        fclose(f);
    return n == 0 || memcmp(head, begins, sizeof(begins) - 1) == 0;
}

/* Without a place to keep it there is no history file; nobody is bothered. */
static void history_begin(void)
{
    struct stat st;
    HistEvent ev;
    history(line.past, &ev, H_SETSIZE, HISTORY_LINES);
    if (!line_history(line.history, sizeof(line.history))) {
        line.history[0] = '\0';
        return;
    }
    make_folders(line.history);
    if (stat(line.history, &st) == 0 &&
        (!S_ISREG(st.st_mode) || st.st_size > HISTORY_BYTES || !is_history(line.history))) {
        complain("warning: %s is no history of at most %d bytes: it is left alone, and none is "
                 "kept",
                 line.history, HISTORY_BYTES);
        line.history[0] = '\0';
        return;
    }
    history(line.past, &ev, H_LOAD, line.history);
}

/* A file beside it takes its place when it is whole, so that a full disk loses nothing.
 * What people ask is nobody else's business: the file is its owner's alone. */
static void history_save(void)
{
    char part[sizeof(line.history) + 8], *real = realpath(line.history, NULL);
    const char *to = real ? real : line.history;
    HistEvent ev;
    const int n = snprintf(part, sizeof(part), "%s.XXXXXX", to);
    const bool fits = n > 0 && (size_t)n < sizeof(part) && (!real || is_history(to));
    const int fd = fits ? mkstemp(part) : -1;
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    bool whole = f && history(line.past, &ev, H_SAVE_FP, f) >= 0 && fflush(f) == 0 && !ferror(f);
    if (f)
        whole = fclose(f) == 0 && whole;
    if (fd >= 0 && (!whole || rename(part, to) != 0))
        unlink(part);
    free(real);
}

/* Written after every line, so that no way of ending loses it. */
static void history_keep(const char *text)
{
    HistEvent ev;
    if (*text == '\0')
        return;
    history(line.past, &ev, H_ENTER, text);
    if (!line.history[0])
        return;
    history_save();
}

/* ---- reading ------------------------------------------------------------------- */

static int terminal_columns(void)
{
    struct winsize w;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* Rows between the prompt and the cursor on a terminal of so many columns. */
static int rows_above(int columns)
{
    const LineInfoW *l = el_wline(line.el);
    int at = (int)strlen(line.prompt);
    for (const wchar_t *c = l->buffer; c < l->cursor; c++) {
        int width = wcwidth(*c);
        if (*c == L'\t')
            at = (at / 8 + 1) * 8;
        else
            at += width < 0 ? 2 : width; /* as libedit shows control characters: ^X */
    }
    return at / columns;
}

/*
 * Draws the line anew for the new width. Some terminals wrap what stands on them
 * anew, some do not; so the cursor is taken up by as many rows as are the line's
 * either way, which may leave a row of the old line above but takes nothing
 * away from what was said before. Then it goes down to the row, counted from the
 * prompt, where libedit believes it to be.
 */
static void redraw(void)
{
    int before = rows_above(line.columns), columns = terminal_columns();
    int after = rows_above(columns), up = before < after ? before : after;
    int believed = line.columns > 1 ? before : rows_above(80);
    el_resize(line.el);
    if (columns == line.columns)
        return;
    line.columns = columns;
    printf("\r");
    if (up > 0)
        printf("\033[%dA", up);
    printf("\033[J");
    for (int i = 0; i < believed; i++)
        printf("\n");
    fflush(stdout);
    el_set(line.el, EL_REFRESH);
}

/* Waits until there is something to read. */
static void await_input(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    sigdelset(&mask, SIGWINCH);
    while (!interrupted()) {
        int n = ppoll(&p, 1, NULL, &mask);
        if (resized_flag) {
            resized_flag = 0;
            redraw();
        }
        if (n > 0 || (n < 0 && errno != EINTR))
            return;
    }
}

/* One byte; -1: end of input, -2: interrupted. */
static int read_byte(void)
{
    unsigned char c = (unsigned char)line.pushed_back;
    line.pushed_back = 0;
    if (c)
        return c;
    for (;;) {
        await_input();
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
static int read_any(void)
{
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

/* As much of a line as fits: the rest is thrown away, and the line is refused. */
static int read_character(void)
{
    int c = read_any();
    if (line.n_read++ < input_text_most(0) / 4 || c == '\n' || c < 0) /* bytes of a character */
        return c;
    line.too_long = true;
    while (c != '\n' && c != '\r' && c >= 0)
        c = read_any();
    return c < 0 ? c : '\n';
}

static int give_character(EditLine *el, wchar_t *out)
{
    (void)el;
    int c = read_character();
    *out = (wchar_t)c;
    return c < 0 ? 0 : 1;
}

static char *give_prompt(EditLine *el)
{
    (void)el;
    return (char *)line.prompt;
}

/* What keys do that libedit has no binding for. */
static void bind_keys(void)
{
    static const char *const keys[][2] = {
        {"^I", "ed-insert"},          {"^R", "em-inc-search-prev"},
        {"\\e[1~", "ed-move-to-beg"}, {"\\e[4~", "ed-move-to-end"},
        {"\\e[7~", "ed-move-to-beg"}, {"\\e[8~", "ed-move-to-end"},
        {"\\e[H", "ed-move-to-beg"},  {"\\e[F", "ed-move-to-end"},
        {"\\e[3~", "ed-delete-next-char"},
        {"\\e[1;5C", "em-next-word"}, {"\\e[1;5D", "ed-prev-word"},
        {"\\e[5C", "em-next-word"},   {"\\e[5D", "ed-prev-word"},
        {"\\e\\e[C", "em-next-word"}, {"\\e\\e[D", "ed-prev-word"},
    };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        el_set(line.el, EL_BIND, keys[i][0], keys[i][1], NULL);
}

void line_init(void)
{
    struct sigaction sa = {.sa_handler = on_resize};
    sigset_t resize;
    line.editing = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (!line.editing)
        return;
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* models speak UTF-8, whatever the locale */
    sigemptyset(&resize);
    sigaddset(&resize, SIGWINCH);
    sigprocmask(SIG_BLOCK, &resize, NULL);
    sigemptyset(&sa.sa_mask);
    sigaction(SIGWINCH, &sa, NULL);
    line.el = el_init("sluice", stdin, stdout, stderr);
    line.past = line.el ? history_init() : NULL;
    if (!line.past) { /* a terminal that cannot be driven edits the lines itself */
        line.editing = false;
        return;
    }
    el_set(line.el, EL_SIGNAL, 0);
    el_set(line.el, EL_EDITOR, "emacs");
    el_set(line.el, EL_PROMPT, give_prompt);
    el_set(line.el, EL_HIST, history, line.past);
    el_wset(line.el, EL_GETCFN, give_character);
    bind_keys();
    el_source(line.el, NULL); /* the user's ~/.editrc */
    line.columns = terminal_columns();
    history_begin();
}

bool line_editing(void)
{
    return line.editing;
}

static enum line_result read_plain(char **text)
{
    struct text_buf b = {0};
    bool refused;
    *text = NULL;
    if (!read_stdin_line(&b, &refused)) {
        buf_free(&b);
        return refused ? LINE_REFUSED : interrupted() ? LINE_CANCELLED : LINE_END;
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
    int n = 0;
    line.n_read = 0;
    line.too_long = false;
    line.prompt = prompt;
    const char *typed = el_gets(line.el, &n);
    *text = NULL;
    if (interrupted())
        return LINE_CANCELLED;
    if (!typed || n <= 0)
        return LINE_END;
    if (line.too_long) {
        input_text_too_long("the line");
        return LINE_REFUSED;
    }
    n -= typed[n - 1] == '\n';
    *text = strndup(typed, (size_t)n);
    if (!*text) {
        no_memory();
        return LINE_END;
    }
    history_keep(*text);
    return LINE_OK;
}
