/*
 * sluice chat at a terminal: editing, history, and what Ctrl-C and Ctrl-D do.
 * The program runs on a pseudo-terminal; the test waits for what it expects to
 * read, so that a slow machine only takes longer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define QUESTION "What does serendipity mean?"
#define ANSWER "good luck in making unexpected and fortunate discoveries."
#define CTRL_C "\003"
#define CTRL_D "\004"
#define UP "\033[A"

enum { PATIENCE_MS = 60000 };

static char program[PATH_MAX], state_dir[] = "/tmp/sluice-chat-XXXXXX";

struct terminal {
    pid_t pid;
    int fd;
    char text[1 << 20]; /* everything read */
    size_t n, seen;     /* expectations are met from `seen` on */
};
static struct terminal term;

static void start(const char *const *options)
{
    const char *argv[16] = {program, "chat"};
    for (int i = 0; options[i] && i < 13; i++)
        argv[i + 2] = options[i];
    term.n = term.seen = 0;
    term.text[0] = '\0';
    term.pid = forkpty(&term.fd, NULL, NULL, NULL);
    assert_true(term.pid >= 0);
    if (term.pid == 0) {
        setenv("TERM", "xterm", 1);
        setenv("XDG_STATE_HOME", state_dir, 1);
        setenv("LC_ALL", "C.UTF-8", 1);
        execv(program, (char *const *)argv);
        _exit(127);
    }
}

static void type(const char *s)
{
    assert_int_equal(write(term.fd, s, strlen(s)), strlen(s));
}

/* Reads what there is, waiting at most ms; false: nothing came. */
static bool read_more(int ms)
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

static void expect(const char *s)
{
    for (int waited = 0;; waited += 100) {
        char *at = strstr(term.text + term.seen, s);
        if (at) {
            term.seen = (size_t)(at - term.text) + strlen(s);
            return;
        }
        if (!read_more(100) && waited > PATIENCE_MS)
            fail_msg("\"%s\" never came; since the last match: \"%s\"", s, term.text + term.seen);
    }
}

/* The line editor shows its prompt first and takes the terminal over right
 * after; until then the terminal would edit the line itself. */
static void expect_prompt(void)
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

/* Waits for the end; the exit status, or minus the signal. */
static int finish(void)
{
    int status;
    while (read_more(PATIENCE_MS))
        ;
    close(term.fd);
    assert_int_equal(waitpid(term.pid, &status, 0), term.pid);
    term.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int stop_if_running(void **state)
{
    (void)state;
    if (term.pid > 0) {
        kill(term.pid, SIGKILL);
        waitpid(term.pid, NULL, 0);
        term.pid = 0;
    }
    return 0;
}

static const char *const no_options[] = {NULL};

static void questions_are_answered_and_control_d_ends(void **state)
{
    (void)state;
    start(no_options);
    expect("/help lists commands.");
    expect_prompt();
    type(QUESTION "\n");
    expect(ANSWER);
    expect_prompt();
    type("/stats\n");
    expect("tok/s");
    expect("context: ");
    expect_prompt();
    type("/sytem\n");
    expect("did you mean /system");
    expect_prompt();
    type(CTRL_D);
    assert_int_equal(finish(), 0);
}

static void control_c_stops_the_answer_and_not_the_program(void **state)
{
    (void)state;
    /* at this temperature the answer is noise and practically never ends */
    static const char *const options[] = {"--temp", "100", "--seed", "1", NULL};
    start(options);
    expect_prompt();
    type("x\n");
    expect("\n"); /* the question's own line */
    while (term.n < term.seen + 40)
        assert_true(read_more(PATIENCE_MS));
    type(CTRL_C);
    expect("(stopped)");
    expect_prompt();
    type("/stats\n");
    expect("context: ");
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

static void control_c_at_the_prompt_gives_a_new_line(void **state)
{
    (void)state;
    start(no_options);
    expect_prompt();
    for (int i = 0; i < 3; i++) {
        type(CTRL_C);
        expect_prompt();
    }
    type("What does nonsense");
    expect("nonsense");
    type(CTRL_C);
    expect_prompt();
    type(QUESTION "\n"); /* what was typed before is gone */
    expect(ANSWER);
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

static void lines_are_edited_as_characters(void **state)
{
    (void)state;
    start(no_options);
    expect_prompt();
    type("/system \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x\177\177\177\n"); /* only the first is left */
    expect_prompt();
    type("/system\n");
    expect("\n\xc3\xa4\r\n");
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

static void history_outlives_the_program(void **state)
{
    (void)state;
    char path[PATH_MAX];
    struct stat st;
    start(no_options);
    expect_prompt();
    type("/system remember me\n");
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
    start(no_options);
    expect_prompt();
    type(UP UP "\n"); /* the line before /quit */
    expect("remember me");
    expect_prompt();
    type("/system\n");
    expect("\nremember me\r\n");
    type("/quit\n");
    assert_int_equal(finish(), 0);
    snprintf(path, sizeof(path), "%s/sluice/history", state_dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0); /* nobody else's business */
}

static int find_program(const char *self)
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

int main(int argc, char **argv)
{
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(questions_are_answered_and_control_d_ends, stop_if_running),
        cmocka_unit_test_teardown(control_c_stops_the_answer_and_not_the_program, stop_if_running),
        cmocka_unit_test_teardown(control_c_at_the_prompt_gives_a_new_line, stop_if_running),
        cmocka_unit_test_teardown(lines_are_edited_as_characters, stop_if_running),
        cmocka_unit_test_teardown(history_outlives_the_program, stop_if_running),
    };
    if (find_program(argv[0]) != 0) {
        printf("skipped: %s is not there\n", program);
        return 77;
    }
    if (!mkdtemp(state_dir)) {
        perror(state_dir);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/sluice/history", state_dir);
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
    rmdir(state_dir);
    return failed;
}
