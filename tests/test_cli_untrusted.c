/*
 * What a file, a name or a model says is shown so that no terminal obeys it; and
 * chat's line stays whole when the terminal changes its size.
 */
#include "base/base.h"
#include "cli/cli.h" /* before cmocka, whose fail is a macro */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/terminal.h"

#define QUESTION "What does serendipity mean?"
#define NAME "Pocket Dictionary 69M-A23M"
#define BAD_NAME "\033]0;own\a\n\xc2\x9b" "31m\xe2\x80\xae\xff\x7f<names>"
#define SHOWN_NAME "\\x1b]0;own\\x07\\n\\u009b31m\\u202e\\xff\\x7f<names>"

static char folder[] = "/tmp/sluice-untrusted-XXXXXX", model[64];

/* ---- a hostile model ------------------------------------------------------------ */

static void replace(char *file, size_t n, const char *from, const char *to, size_t len)
{
    char *at = memmem(file, n, from, len);
    assert_non_null(at);
    memcpy(at, to, len);
}

static void replace_token(char *file, size_t n, const char *from, const char *to)
{
    char old[64] = {0}, new[64] = {0}; /* the length, 8 bytes, and the string */
    size_t len = strlen(from);
    assert_int_equal(strlen(to), len);
    old[0] = new[0] = (char)len;
    memcpy(old + 8, from, len);
    memcpy(new + 8, to, len);
    replace(file, n, old, new, 8 + len);
}

/* The built-in model with another name, an odd key, and tokens of its answer that
 * stand for control characters. */
static int make_model(void **state)
{
    (void)state;
    FILE *f = fopen("models/pocket-dictionary.gguf", "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    char *file = malloc(n);
    rewind(f);
    assert_int_equal(fread(file, 1, n, f), n);
    fclose(f);
    assert_int_equal(strlen(NAME), strlen(BAD_NAME));
    replace(file, n, NAME, BAD_NAME, strlen(NAME));
    replace(file, n, "general.license", "general.\033[2J\nse", strlen("general.license"));
    replace_token(file, n, "\xc4\xa0luck", "\xc4\x9b\xc4\x87\xc4\x8d");          /* ESC BEL CR */
    replace_token(file, n, "\xc4\xa0unexpected", "\xc3\x82\xc4\xbd" "31munexp"); /* U+009B */
    snprintf(model, sizeof(model), "%s/m.gguf", folder);
    f = fopen(model, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(file);
    return 0;
}

/* ---- helpers ----------------------------------------------------------------------- */

/* What a shell command writes; the program is $0, the model $1. malloc'ed. */
static char *output(const char *command, size_t *n)
{
    struct text_buf all = {0};
    char part[4096];
    char line[1024];
    snprintf(line, sizeof(line), "set -- %s; sluice() { %s \"$@\"; }; %s", model, program, command);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    for (size_t k; (k = fread(part, 1, sizeof(part), f)) > 0;)
        assert_true(buf_add(&all, part, k));
    pclose(f);
    assert_true(buf_add(&all, "", 0));
    if (n)
        *n = all.n;
    return all.p;
}

static void assert_tame(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        char shown[SHOW_ROOM];
        size_t k, used = utf8_show(s + i, n - i, SHOW_LINES, shown, &k);
        if (s[i] != '\r' && (k != used || memcmp(shown, s + i, k) != 0))
            fail_msg("byte %zu is %02x in \"%s\"", i, (unsigned char)s[i], s);
        i += used;
    }
}

static void assert_has(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("\"%s\" is not in \"%s\"", what, text);
}

static size_t count(const char *text, char c)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == c;
    return n;
}

static void start(const char *const *argv)
{
    terminal_start(argv, folder);
}

/* ---- what is escaped ------------------------------------------------------------------ */

static void characters_are_shown_or_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *from, *one_line, *lines, *json;
    } cases[] = {
        {"plain \\ \xc3\xa4\xe4\xb8\xad\xf0\x9f\x98\x80",
         "plain \\ \xc3\xa4\xe4\xb8\xad\xf0\x9f\x98\x80", NULL, NULL},
        {"\x1b[31m\a\b", "\\x1b[31m\\x07\\x08", NULL, "\\u001b[31m\\u0007\\u0008"},
        {"a\tb\nc\rd", "a\\tb\\nc\\rd", "a\tb\nc\\rd", NULL},
        {"\x7f\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0", "\\x7f\\u0080\\u009b\\u009f\xc2\xa0", NULL,
         "\\u007f\\u0080\\u009b\\u009f\xc2\xa0"},
        {"\xe2\x80\xaa\xe2\x80\xae\xe2\x80\xaf\xe2\x81\xa6\xe2\x81\xa9\xe2\x81\xaa",
         "\\u202a\\u202e\xe2\x80\xaf\\u2066\\u2069\xe2\x81\xaa", NULL, NULL},
        {"\xe2\x80\xa8x", "\\u2028x", "\xe2\x80\xa8x", NULL},
        {"\x9b" "31m\xff\xc3\xe2\x82", "\\x9b31m\\xff\\xc3\\xe2\\x82", NULL, NULL},
        {"", "", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[256];
        size_t n = strlen(cases[i].from);
        size_t used = utf8_show_all(out, sizeof(out), cases[i].from, n, 0);
        assert_string_equal(out, cases[i].one_line);
        assert_int_equal(used, strlen(out));
        utf8_show_all(out, sizeof(out), cases[i].from, n, SHOW_LINES);
        assert_string_equal(out, cases[i].lines ? cases[i].lines : cases[i].one_line);
        if (cases[i].json) {
            utf8_show_all(out, sizeof(out), cases[i].from, n, SHOW_JSON);
            assert_string_equal(out, cases[i].json);
        }
        for (size_t room = 1; room < 24; room++) { /* whole characters and escapes only */
            size_t k = utf8_show_all(out, room, cases[i].from, n, 0);
            assert_true(k < room);
            assert_memory_equal(out, cases[i].one_line, k);
        }
    }
}

static void error_sentences_of_the_library_are_tame(void **state)
{
    (void)state;
    struct err e = {0};
    char longest[2000];
    err_set(&e, E_FORMAT, "key '%s'", BAD_NAME);
    assert_string_equal(e.text, "key '" SHOWN_NAME "'");
    err_clear(&e);
    err_errno(&e, E_IO, 2, "'a\033\n'");
    assert_string_equal(e.text, "'a\\x1b\\n': No such file or directory");
    for (size_t n = 590; n < 606; n++) { /* cut, but not inside of a character */
        err_clear(&e);
        memset(longest, 'x', n);
        strcpy(longest + n, "\xe4\xb8\xad\xe4\xb8\xad");
        err_set(&e, E_IO, "%s", longest);
        assert_int_equal(utf8_sequence(e.text + strlen(e.text) - (n < 597 ? 3 : 1), 3) > 0, true);
        assert_tame(e.text, strlen(e.text));
    }
}

static void tables_and_sentences_are_tame(void **state)
{
    (void)state;
    size_t n;
    char *meta = output("sluice inspect $1", &n),
         *plain = output("sluice inspect models/pocket-dictionary.gguf", NULL);
    assert_tame(meta, n);
    /* \xff became U+FFFD */
    assert_has(meta, " \\x1b]0;own\\x07\\n\\u009b31m\\u202e\xef\xbf\xbd\\x7f<names>\n");
    assert_has(meta, " general.\\x1b[2J\\nse ");
    assert_int_equal(count(meta, '\n'), count(plain, '\n'));
    free(plain);
    free(meta);

    char *json = output("sluice inspect --json $1", &n);
    assert_tame(json, n);
    assert_has(json, "\\u009b31m");
    json_t *j = json_loads(json, 0, NULL);
    assert_non_null(j);
    json_decref(j);
    free(json);

    char *said = output("{ sluice run -m \"$(printf '/no\\033]0;x\\a\\nfile')\" x;"
                        "  sluice run \"$(printf -- '--x\\033[2J\\n')\";"
                        "  sluice run --io \"$(printf 'a\\033[2J\\302\\233')\" x;"
                        "  sluice \"$(printf 'a\\033[2J')\";"
                        "  sluice tokenize --decode \"$(printf '1,\\033[2J')\"; } 2>&1", &n);
    assert_tame(said, n);
    assert_int_equal(count(said, '\n'), 5);
    assert_has(said, "/no\\x1b]0;x\\x07\\nfile");
    assert_has(said, "--x\\x1b[2J");
    free(said);
}

static void answers_are_tame_on_a_terminal_and_whole_in_a_pipe(void **state)
{
    (void)state;
    static const char answer[] = "serendipity (noun): good\033\a\r in making\xc2\x9b"
                                 "31munexp and fortunate discoveries.\n";
    size_t n;
    char *piped = output("sluice run -m $1 '" QUESTION "'", &n);
    assert_int_equal(n, strlen(answer));
    assert_string_equal(piped, answer);
    free(piped);
    char command[256];
    snprintf(command, sizeof(command), "exec %s run -m %s '" QUESTION "' 2>/dev/null", program,
             model);
    start((const char *const[]){"/bin/sh", "-c", command, NULL});
    expect("good\\x1b\\x07\\r in making\\u009b31munexp and fortunate discoveries.\r\n");
    assert_int_equal(finish(), 0);
    assert_tame(term.text, term.n);
}

static void chat_greets_with_a_tame_name(void **state)
{
    (void)state;
    start((const char *const[]){program, "chat", "-m", model, NULL});
    expect(SHOWN_NAME ", 32 experts");
    assert_null(strstr(term.text, "\033]0;"));
    assert_null(strchr(term.text, '\a'));
    expect_prompt();
    type("/x\002\033[A" "\003"); /* keys, not text */
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

static int write_in_parts(void)
{
    term_init();
    out_write("a\xc3", 2);
    out_write("\xa4", 1); /* a character in two parts */
    out_write("\xe2\x80", 2);
    out_flush();
    out_write("\xae|", 2);
    out_write("\xc2", 1);
    out_write("\x9b", 1);
    out_write("|\xf0\x9f", 3);
    out_write("\x98", 1);
    out_write("\x80|\xf0\x9f", 4);
    out_write("\n", 1); /* never finished */
    out_write("\x1b", 1);
    out_write("[31m\r\n\xe4\xb8", 8);
    out_printf("%s", "p\x1b\n");
    out_write("\xe4", 1);
    return out_finish(7);
}

static void characters_in_parts_stay_whole(void **state)
{
    (void)state;
    terminal_call(write_in_parts);
    assert_int_equal(finish(), 7);
    assert_string_equal(term.text, "a\xc3\xa4\\u202e|\\u009b|\xf0\x9f\x98\x80|\\xf0\\x9f\r\n"
                                   "\\x1b[31m\\r\r\n\\xe4\\xb8p\\x1b\r\n\\xe4");
}

/* ---- a terminal that changes its size -------------------------------------------------- */

/* What the bytes read so far look like on an xterm, which does not wrap anew when
 * its width changes. */
static struct {
    char cell[64][160];
    int row, column, columns;
    bool full; /* the cursor stands behind the last column */
    size_t read;
} screen;

static void screen_put(char c)
{
    if (screen.full) {
        screen.row++;
        screen.column = 0;
    }
    assert_in_range(screen.row, 0, 63);
    screen.cell[screen.row][screen.column] = c;
    screen.full = screen.column + 1 == screen.columns;
    screen.column += !screen.full;
}

static void screen_control(char c, int n)
{
    char *row = screen.cell[screen.row];
    int k = n > 0 ? n : 1, rest = screen.columns - screen.column;
    screen.full = false;
    if (c == 'A')
        screen.row -= k;
    else if (c == 'C')
        screen.column += k;
    else if (c == 'D')
        screen.column -= k;
    else if (c == 'G')
        screen.column = k - 1;
    else if (c == 'K' || c == 'J')
        memset(row + screen.column, 0, sizeof(screen.cell[0]) - (size_t)screen.column);
    else if (c == 'P' && k < rest)
        memmove(row + screen.column, row + screen.column + k, (size_t)(rest - k));
    else if (c == '@' && k < rest)
        memmove(row + screen.column + k, row + screen.column, (size_t)(rest - k));
    if (c == 'J')
        for (int r = screen.row + 1; r < 64; r++)
            memset(screen.cell[r], 0, sizeof(screen.cell[r]));
    assert_in_range(screen.row, 0, 63);
    assert_in_range(screen.column, 0, screen.columns - 1);
}

/* Shows what was read since the last call, up to byte `end`. */
static void screen_read(size_t to)
{
    const char *p = term.text + screen.read, *end = term.text + to;
    while (p < end) {
        if (p[0] == '\033' && p[1] == '[') {
            char *letter;
            long n = strtol(p + 2, &letter, 10);
            screen_control(*letter, (int)n);
            p = letter + 1;
            continue;
        }
        if (*p == '\r' || *p == '\b') {
            screen.column = *p == '\r' ? 0 : screen.column - 1;
            screen.full = false;
        } else if (*p == '\n') {
            screen.row++;
            screen.full = false;
        } else {
            screen_put(*p);
        }
        p++;
    }
    screen.read = to;
}

/* The prompt's row; its line must be `text`, wrapped at the width, and end before a new prompt. */
static void assert_line(const char *text)
{
    char want[512];
    int first = screen.row;
    int n = snprintf(want, sizeof(want), "> %s", text);
    int rows = (n + screen.columns - 1) / screen.columns;
    first -= rows;
    assert_true(first >= 0);
    for (int i = 0; i < n; i++) {
        char got = screen.cell[first + i / screen.columns][i % screen.columns];
        if (got != want[i])
            fail_msg("character %d is '%c', expected '%c' (rows from %d, %d columns)", i, got,
                     want[i], first, screen.columns);
    }
    assert_memory_equal(screen.cell[screen.row], "> ", 3);
}

/* Everything up to the redrawing was drawn at the old width. */
static void resize(int columns, const char *last)
{
    terminal_size(columns, 24);
    expect("\033[J");
    screen_read(term.seen);
    screen.columns = columns;
    screen.full = false;
    expect(last);
}

static void write_and_resize(const int *widths, int n_widths, bool from_start)
{
    char text[512] = "/system ", part[80];
    memset(&screen, 0, sizeof(screen));
    screen.columns = 80;
    start((const char *const[]){program, "chat", NULL});
    expect_prompt();
    screen_read((size_t)(strstr(term.text, "commands.") - term.text) + 9);
    memset(part, 'a', sizeof(part));
    for (int i = 0; i < n_widths; i++) {
        char last[2] = {(char)('A' + i), '\0'}; /* ends the part, and stands nowhere else */
        snprintf(part + 75, 5, "%s", last);
        memset(part, 'a' + i, 75);
        if (i == 0) {
            type("/system ");
            expect("system ");
        }
        type(part);
        strcat(text, part);
        expect(last);
        if (from_start)
            type("\001"); /* the cursor goes to the first column */
        if (from_start)
            expect("A"); /* some rows up */
        resize(widths[i], last);
        if (from_start)
            type("\005");
    }
    type("!\n");
    strcat(text, "!");
    expect("!");
    expect_prompt();
    screen_read(term.seen);
    assert_line(text);
    type("/system\n");
    expect(text + 8);
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

static void a_long_line_survives_new_sizes(void **state)
{
    (void)state;
    write_and_resize((const int[]){40, 100, 33}, 3, false);
    write_and_resize((const int[]){120, 20, 79}, 3, false);
}

static void also_when_the_cursor_stands_elsewhere(void **state)
{
    (void)state;
    write_and_resize((const int[]){40, 100, 33}, 3, true);
}

/* A window that is all but closed, and opened again. */
static void a_line_survives_one_column(void **state)
{
    (void)state;
    char text[128] = "/system ";
    memset(text + 8, 'm', 100);
    strcpy(text + 108, "Z");
    start((const char *const[]){program, "chat", NULL});
    expect_prompt();
    type(text);
    expect("Z");
    for (int again = 0; again < 2; again++) {
        terminal_size(1, 24);
        expect("\033[J");
        expect("> /system m");
        expect("Z");
        terminal_size(80, 24);
        expect("\033[J");
        expect("> /system m");
        expect("Z");
    }
    type("!\n");
    expect_prompt();
    type("/system\n");
    expect("mmmmZ!\r\n");
    expect_prompt();
    type("/quit\n");
    assert_int_equal(finish(), 0);
}

/* The height alone: nothing is drawn, nothing breaks. */
static void the_height_changes_nothing(void **state)
{
    (void)state;
    start((const char *const[]){program, "chat", NULL});
    expect_prompt();
    type("/system one");
    expect("one");
    terminal_size(80, 50);
    type("two\n");
    expect_prompt();
    type("/system\n");
    expect("\nonetwo\r\n");
    type("/quit\n");
    assert_int_equal(finish(), 0);
    assert_null(strstr(term.text, "\033[J"));
}

int main(int argc, char **argv)
{
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_are_shown_or_escaped),
        cmocka_unit_test(error_sentences_of_the_library_are_tame),
        cmocka_unit_test(tables_and_sentences_are_tame),
        cmocka_unit_test_teardown(answers_are_tame_on_a_terminal_and_whole_in_a_pipe,
                                  stop_if_running),
        cmocka_unit_test_teardown(chat_greets_with_a_tame_name, stop_if_running),
        cmocka_unit_test_teardown(characters_in_parts_stay_whole, stop_if_running),
        cmocka_unit_test_teardown(a_long_line_survives_new_sizes, stop_if_running),
        cmocka_unit_test_teardown(also_when_the_cursor_stands_elsewhere, stop_if_running),
        cmocka_unit_test_teardown(a_line_survives_one_column, stop_if_running),
        cmocka_unit_test_teardown(the_height_changes_nothing, stop_if_running),
    };
    if (find_program(argv[0]) != 0) {
        printf("skipped: %s is not there\n", program);
        return 77;
    }
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, make_model, NULL);
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command) != 0 || failed;
}
