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
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/terminal.h"

#define QUESTION "What does serendipity mean?"
#define ANSWER "good luck in making unexpected and fortunate discoveries."
#define CTRL_C "\003"
#define CTRL_D "\004"
#define UP "\033[A"

static char state_dir[] = "/tmp/sluice-chat-XXXXXX";

static void start(const char *const *options)
{
    const char *argv[16] = {program, "chat"};
    for (int i = 0; options[i] && i < 13; i++)
        argv[i + 2] = options[i];
    terminal_start(argv, state_dir);
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

/* Bytes behind the last erased line: a slow program tells its progress before it answers. */
static size_t bytes_of_answer(void)
{
    const char *from = term.text + term.seen;
    for (const char *at; (at = strstr(from, "\033[K")) != NULL;)
        from = at + 3;
    return strlen(from);
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
    while (bytes_of_answer() < 40)
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
    /* only the first is left */
    type("/system \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x\177\177\177\n");
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

/* What stands where the history should be, and what it holds, outlives a chat. */
static void assert_spared(const char *path, const char *bytes)
{
    char is[64] = "";
    start(no_options);
    expect("it is left alone, and none is kept");
    expect_prompt();
    type("/system forget me\n/quit\n");
    assert_int_equal(finish(), 0);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(is, 1, sizeof(is) - 1, f), strlen(bytes));
    fclose(f);
    assert_string_equal(is, bytes);
}

static void only_a_history_is_written_over(void **state)
{
    (void)state;
    static const char notes[] = "precious notes\n";
    char path[PATH_MAX], other[PATH_MAX], model[PATH_MAX];
    snprintf(path, sizeof(path), "%s/sluice/history", state_dir);
    snprintf(other, sizeof(other), "%s/notes", state_dir);
    for (int linked = 0; linked < 3; linked++) { /* the file itself, a link, a hard link */
        unlink(path);
        FILE *f = fopen(linked ? other : path, "wb");
        assert_non_null(f);
        fputs(notes, f);
        fclose(f);
        if (linked)
            assert_int_equal(linked == 1 ? symlink(other, path) : link(other, path), 0);
        assert_spared(linked ? other : path, notes);
    }
    /* An input of the program by another name: said before anything is read. */
    unlink(path);
    snprintf(model, sizeof(model), "%s/model.gguf", state_dir);
    assert_int_equal(rename(other, model), 0);
    assert_int_equal(symlink(model, path), 0);
    static const char *options[] = {"-m", NULL, NULL};
    options[1] = model;
    start(options);
    expect("chat's history");
    assert_int_not_equal(finish(), 0);
    unlink(path);
    unlink(model);
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
        cmocka_unit_test_teardown(only_a_history_is_written_over, stop_if_running),
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
