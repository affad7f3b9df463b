#include "support/terminal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

char program[PATH_MAX];
struct terminal term;

int find_program(const char *self)
{
    const char *named = getenv("SLUICE");
    const char *slash = strrchr(self, '/');
    if (named)
        snprintf(program, sizeof(program), "%s", named);
    else
        snprintf(program, sizeof(program), "%.*s/../sluice", slash ? (int)(slash - self) : 1,
                 slash ? self : ".");
    return access(program, X_OK);
}

/* True in the child. */
static bool begin(void)
{
    struct winsize size = {.ws_col = 80, .ws_row = 24};
    term.n = term.seen = 0;
    term.text[0] = '\0';
    term.pid = forkpty(&term.fd, NULL, NULL, &size);
    assert_true(term.pid >= 0);
    if (term.pid > 0)
        return false;
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    return true;
}

void terminal_start(const char *const *argv, const char *state_dir)
{
    if (!begin())
        return;
    setenv("XDG_STATE_HOME", state_dir, 1);
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

void terminal_call(int (*run)(void))
{
    if (begin())
        _exit(run());
}

void terminal_size(int columns, int rows)
{
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    assert_int_equal(ioctl(term.fd, TIOCSWINSZ, &size), 0);
}

void type(const char *s)
{
    assert_int_equal(write(term.fd, s, strlen(s)), strlen(s));
}

bool read_more(int ms)
{
    struct pollfd p = {.fd = term.fd, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0 || term.n >= sizeof(term.text) - 1)
        return false;
    ssize_t n = read(term.fd, term.text + term.n, sizeof(term.text) - 1 - term.n);
    if (n <= 0)
        return false;
    for (ssize_t i = 0; i < n; i++) /* so that strstr sees all of it */
        if (term.text[term.n + (size_t)i] == '\0')
            term.text[term.n + (size_t)i] = ' ';
    term.n += (size_t)n;
    term.text[term.n] = '\0';
    return true;
}

void expect(const char *s)
{
    for (int silent_ms = 0;;) { /* while something comes there is hope */
        char *at = strstr(term.text + term.seen, s);
        if (at) {
            term.seen = (size_t)(at - term.text) + strlen(s);
            return;
        }
        silent_ms = read_more(100) ? 0 : silent_ms + 100;
        if (silent_ms > PATIENCE_MS)
            fail_msg("\"%s\" never came; since the last match: \"%s\"", s, term.text + term.seen);
    }
}

void expect_prompt(void)
{
    struct termios t;
    expect("> ");
    for (int waited = 0; waited < PATIENCE_MS; waited += 10) {
        assert_int_equal(tcgetattr(term.fd, &t), 0);
        if (!(t.c_lflag & ICANON))
            return;
        usleep(10000);
    }
    fail_msg("the line editor never took the terminal over");
}

int finish(void)
{
    int status;
    while (read_more(PATIENCE_MS))
        ;
    close(term.fd);
    assert_int_equal(waitpid(term.pid, &status, 0), term.pid);
    term.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int stop_if_running(void **state)
{
    (void)state;
    if (term.pid > 0) {
        kill(term.pid, SIGKILL);
        waitpid(term.pid, NULL, 0);
        term.pid = 0;
    }
    return 0;
}

