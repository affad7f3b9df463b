/*
 * The parts of the command line tool that need no model: sizes and numbers, the
 * options table, telling reasoning from the answer.
 */
#include "cli/cli.h" /* first: cmocka.h makes `fail` a macro */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- units.c ------------------------------------------------------------------- */

static void sizes_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"1", 1},
        {"123B", 123},
        {"900k", 900 * 1024},
        {"64M", 64 << 20},
        {"64MiB", 64 << 20},
        {"64 MiB", 64 << 20},
        {"5MB", 5000000},
        {"5kB", 5000},
        {"1.5G", 1536ull << 20},
        {".5G", 512 << 20},
        {".25MB", 250000},
        {"12GiB", 12ull << 30},
        {"0.5k", 512},
        {"2T", 2ull << 40},
        {"1.0000001G", 1ull << 30},
        {"8388606T", 8388606ull << 40},
        {"9223372036854775800", 9223372036854775800ull},
        {" 64M", 64 << 20},
        {"64M \t", 64 << 20},
        {"64  MiB", 64 << 20},
        {"12 ", 12},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t v = 77;
        if (!parse_size(good[i].s, &v))
            fail_msg("%s is refused", good[i].s);
        assert_int_equal(v, good[i].bytes);
    }
}

static void sizes_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", " ", "-1", "+1", "M", "1X", "1MM", "1MiBs", "1.", ".", ".G", "..5G", "1e9", "0x10",
        "nan", "inf", "1,5G", "9223372036854775808", "18446744073709551616",
        "8388608T", "99999999999999999999999T", "1.5.5G", "12 GiB x", "1bB",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t v;
        if (parse_size(bad[i], &v))
            fail_msg("\"%s\" is taken", bad[i]);
    }
}

static void numbers_keep_to_their_range(void **state)
{
    (void)state;
    int64_t i;
    uint64_t u;
    double d;
    assert_true(parse_int("-1", -1, 5, &i) && i == -1);
    assert_true(parse_int("5", -1, 5, &i) && i == 5);
    assert_false(parse_int("6", -1, 5, &i));
    assert_false(parse_int("", -1, 5, &i));
    assert_false(parse_int("-", -1, 5, &i));
    assert_false(parse_int("1x", -1, 5, &i));
    assert_false(parse_int(" 1", -1, 5, &i));
    assert_false(parse_int("99999999999999999999", INT64_MIN, INT64_MAX, &i));
    assert_true(parse_u64("18446744073709551615", &u) && u == UINT64_MAX);
    assert_false(parse_u64("18446744073709551616", &u));
    assert_false(parse_u64("-1", &u));
    assert_true(parse_real("0.25", 0, 1, &d) && d == 0.25);
    assert_false(parse_real("1.01", 0, 1, &d));
    assert_false(parse_real("nan", 0, 1, &d));
    assert_false(parse_real("inf", 0, 1e300, &d));
    assert_false(parse_real("1e999", 0, 1e300, &d));
    assert_false(parse_real("0x1", 0, 100, &d));
    assert_false(parse_real("", 0, 100, &d));
}

static void lists_of_ids_are_read(void **state)
{
    (void)state;
    int32_t *ids;
    int64_t n;
    const char *bad;
    assert_true(parse_ids("1,2, 3\n44 [5]", &ids, &n, &bad));
    assert_int_equal(n, 5);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[3], 44);
    assert_int_equal(ids[4], 5);
    free(ids);
    assert_false(parse_ids("", &ids, &n, &bad));
    assert_false(parse_ids(" , ", &ids, &n, &bad));
    assert_false(parse_ids("1,-2", &ids, &n, &bad));
    assert_string_equal(bad, "-2");
    assert_false(parse_ids("1,2x", &ids, &n, &bad));
    assert_false(parse_ids("2147483648", &ids, &n, &bad));
}

static void sizes_are_shown(void **state)
{
    (void)state;
    assert_string_equal(show_size(0).s, "0 B");
    assert_string_equal(show_size(1023).s, "1023 B");
    assert_string_equal(show_size(1024).s, "1.0 KiB");
    assert_string_equal(show_size(64 << 20).s, "64.0 MiB");
    assert_string_equal(show_size((1 << 20) - 1).s, "1.0 MiB");
    assert_string_equal(show_size(INT64_C(12) << 30).s, "12.0 GiB");
}

/* ---- options.c ------------------------------------------------------------------ */

static int parse(struct args *a, unsigned command, const char *name, int words, ...)
{
    char *argv[32];
    int argc = 0;
    va_list ap;
    va_start(ap, words);
    for (char *s; (s = va_arg(ap, char *)) != NULL;)
        argv[argc++] = s;
    va_end(ap);
    return options_parse(a, command, name, words, argc, argv);
}

static void every_row_is_well_formed(void **state)
{
    (void)state;
    size_t n;
    const struct option_row *t = options_table(&n);
    for (size_t i = 0; i < n; i++) {
        assert_non_null(t[i].help);
        assert_true(t[i].commands != 0);
        assert_true((t[i].name == NULL) == (t[i].kind == O_ENV));
        if (!t[i].name) {
            assert_non_null(t[i].env);
            continue;
        }
        assert_true((t[i].value == NULL) == (t[i].kind == O_FLAG));
        assert_true(t[i].choices == NULL || t[i].kind == O_CHOICE);
        assert_true((option_choices(&t[i]).s[0] != '\0') == (t[i].kind == O_CHOICE));
        assert_true(t[i].letter != 'h');
        for (size_t j = 0; j < i; j++) {
            if (!t[j].name || !(t[i].commands & t[j].commands))
                continue;
            assert_string_not_equal(t[i].name, t[j].name);
            assert_false(t[i].letter && t[i].letter == t[j].letter);
        }
    }
}

static void defaults_are_those_shown(void **state)
{
    (void)state;
    struct args a;
    assert_int_equal(parse(&a, C_RUN, "run", 1, NULL), ST_OK);
    assert_int_equal(a.n_predict, -1);
    assert_int_equal(a.think, -1);
    assert_int_equal(a.memory, 0);
    assert_true(a.temp == 0 && a.top_p == 1 && a.min_p == 0 && a.repeat_penalty == 1);
    assert_string_equal(a.cpu, "auto");
    assert_null(a.word);
    assert_int_equal(parse(&a, C_BENCH, "bench", 0, NULL), ST_OK);
    assert_int_equal(a.n_predict, 64);
    assert_int_equal(a.n_prompt, 256);
}

static void values_are_taken_in_every_form(void **state)
{
    (void)state;
    struct args a;
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--memory", "64M", "-n5", "--temp=0.5", "-t", "3",
                           "--no-think", "-m", "x.gguf", "--seed", "7", "hello", NULL),
                     ST_OK);
    assert_int_equal(a.memory, 64 << 20);
    assert_int_equal(a.n_predict, 5);
    assert_int_equal(a.threads, 3);
    assert_int_equal(a.think, 0);
    assert_int_equal(a.seed, 7);
    assert_true(a.temp == 0.5);
    assert_string_equal(a.model, "x.gguf");
    assert_string_equal(a.word, "hello");
    assert_true(options_given(&a, "seed"));
    assert_false(options_given(&a, "top-k"));
    assert_int_equal(parse(&a, C_RUN, "run", 1, "-sn", "-1", "--", "--raw", NULL), ST_OK);
    assert_int_equal(a.stats, 1);
    assert_int_equal(a.n_predict, -1);
    assert_int_equal(a.raw, 0);
    assert_string_equal(a.word, "--raw");
    assert_int_equal(parse(&a, C_RUN, "run", 1, "-", NULL), ST_OK);
    assert_string_equal(a.word, "-");
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    struct args a;
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--nope", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--tokens", "x", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "-q", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--memory", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--memory=", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--raw=1", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--cpu", "av", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--cpu", "", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--cpu", "avx2|avx512", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--top-p", "1.5", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "a", "b", NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_CHAT, "chat", 0, "a", NULL), ST_USAGE);
}

static void environment_gives_way_to_options(void **state)
{
    (void)state;
    struct args a;
    setenv("SLUICE_MEMORY", "32M", 1);
    assert_int_equal(parse(&a, C_RUN, "run", 1, NULL), ST_OK);
    assert_int_equal(a.memory, 32 << 20);
    assert_int_equal(parse(&a, C_RUN, "run", 1, "--memory", "64M", NULL), ST_OK);
    assert_int_equal(a.memory, 64 << 20);
    setenv("SLUICE_MEMORY", "much", 1);
    assert_int_equal(parse(&a, C_RUN, "run", 1, NULL), ST_USAGE);
    assert_int_equal(parse(&a, C_INSPECT, "inspect", 1, NULL), ST_OK);
    unsetenv("SLUICE_MEMORY");
    assert_null(options_env("PATH")); /* not of the table */
}

static void near_words_are_found(void **state)
{
    (void)state;
    static const char *const words[] = {"run", "chat", "plan", "inspect"};
    assert_string_equal(nearest_word("rnu", words, 4), "run");
    assert_string_equal(nearest_word("chatt", words, 4), "chat");
    assert_string_equal(nearest_word("inpsect", words, 4), "inspect");
    assert_null(nearest_word("serve", words, 4));
    assert_null(nearest_word("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", words, 4));
}

/* ---- answer.c -------------------------------------------------------------------- */

/* Feeds `text` in pieces of k bytes; the caller frees. */
static void feed(struct answer *w, const char *text, size_t k, bool split)
{
    size_t n = strlen(text);
    sluice_answer_options o;
    sluice_answer_options_init(&o);
    if (split) {
        o.thinking_begins = "<think>";
        o.thinking_ends = "</think>";
    }
    assert_int_equal(answer_begin(w, NULL, &o, false), ST_OK);
    for (size_t i = 0; i < n; i += k)
        assert_int_equal(answer_token(w, 5, text + i, i + k < n ? k : n - i), 0);
    assert_int_equal(answer_end(w), ST_OK);
}

static void reasoning_is_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *reasoning, *content;
    } cases[] = {
        {"plain answer", "", "plain answer"},
        {"", "", ""},
        {"<think>\nwhy\n</think>\n\nbecause", "why", "because"},
        {"\n<think>a</think>b", "a", "b"},
        {"<think>\n\n</think>\n\nat once", "", "at once"},
        {"<think>never closed </thi", "never closed </thi", ""},
        {"<think></thin</think>x", "</thin", "x"},
        {"<think>a</think>b</think>c", "a", "b</think>c"},
        {"<thin ice", "", "<thin ice"},
        {"<thi", "", "<thi"},
        {"1 < 2 <think>", "", "1 < 2 <think>"},
        {"<think>a << b </ c</think>\n\n", "a << b </ c", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t k = 1; k < 40; k++) {
            struct answer w;
            feed(&w, cases[i].text, k, true);
            assert_string_equal(w.reasoning.p, cases[i].reasoning);
            assert_string_equal(w.content.p, cases[i].content);
            assert_int_equal(w.n_ids, (strlen(cases[i].text) + k - 1) / k);
            answer_free(&w);
        }
}

/* Calls are lines of JSON on stdout, and kept; what is none is text. */
static void calls_are_lines_of_json(void **state)
{
    (void)state;
    static const struct {
        const char *text, *shown, *name, *id;
    } cases[] = {
        {"I look.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\":1}}</tool_call>",
         "I look.\n{\"id\": \"call00000\", \"type\": \"function\", \"function\": {\"name\": \"f\", "
         "\"arguments\": \"{\\\"a\\\":1}\"}}\n", "f", "call00000"},
        {"<tool_call>{\"name\": \"g\", \"id\": \"x\"}</tool_call>\n",
         "{\"id\": \"x\", \"type\": \"function\", \"function\": {\"name\": \"g\", \"arguments\": "
         "\"{}\"}}\n", "g", "x"},
        {"<tool_call>{\"name\": \"g\"", "<tool_call>{\"name\": \"g\"\n", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t k = 1; k < 20; k++) {
            char got[512] = "";
            struct answer w;
            sluice_answer_options o;
            FILE *f = tmpfile();
            int saved = dup(STDOUT_FILENO);
            assert_true(f && saved >= 0);
            fflush(stdout);
            assert_true(dup2(fileno(f), STDOUT_FILENO) >= 0);
            sluice_answer_options_init(&o);
            o.tools = "[]";
            o.n_tools_bytes = 2;
            o.calls = "hermes";
            int rc = answer_begin(&w, NULL, &o, true);
            for (size_t at = 0, n = strlen(cases[i].text); at < n && rc == ST_OK; at += k)
                rc = answer_token(&w, -1, cases[i].text + at, at + k < n ? k : n - at);
            rc = rc == ST_OK ? answer_end(&w) : rc;
            fflush(stdout);
            assert_true(dup2(saved, STDOUT_FILENO) >= 0);
            close(saved);
            assert_int_equal(rc, ST_OK);
            rewind(f);
            got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
            fclose(f);
            assert_string_equal(got, cases[i].shown);
            assert_int_equal(json_array_size(w.calls), cases[i].name ? 1 : 0);
            const json_t *call = json_array_get(w.calls, 0);
            if (cases[i].name) {
                assert_string_equal(
                    json_string_value(json_object_get(json_object_get(call, "function"), "name")),
                    cases[i].name);
                assert_string_equal(json_string_value(json_object_get(call, "id")), cases[i].id);
            }
            answer_free(&w);
        }
}

static void without_splitting_all_is_answer(void **state)
{
    (void)state;
    struct answer w;
    feed(&w, "<think>a</think>b", 3, false);
    assert_string_equal(w.content.p, "<think>a</think>b");
    assert_string_equal(w.reasoning.p, "");
    answer_free(&w);
}

/* ---- json.c ----------------------------------------------------------------------- */

static void any_bytes_become_a_json_text(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"h\xc3\xa4", "h\xc3\xa4"},
        {"a\xff" "b", "a\xef\xbf\xbd" "b"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98\x80\x80", "\xf0\x9f\x98\x80\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *j = json_bytes(cases[i].in, strlen(cases[i].in));
        assert_string_equal(json_string_value(j), cases[i].out);
        json_decref(j);
    }
    json_t *empty = json_bytes(NULL, 0);
    assert_string_equal(json_string_value(empty), "");
    json_decref(empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(sizes_that_make_no_sense_are_refused),
        cmocka_unit_test(numbers_keep_to_their_range),
        cmocka_unit_test(lists_of_ids_are_read),
        cmocka_unit_test(sizes_are_shown),
        cmocka_unit_test(every_row_is_well_formed),
        cmocka_unit_test(defaults_are_those_shown),
        cmocka_unit_test(values_are_taken_in_every_form),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(environment_gives_way_to_options),
        cmocka_unit_test(near_words_are_found),
        cmocka_unit_test(reasoning_is_told_apart),
        cmocka_unit_test(calls_are_lines_of_json),
        cmocka_unit_test(without_splitting_all_is_answer),
        cmocka_unit_test(any_bytes_become_a_json_text),
    };
    unsetenv("SLUICE_MODEL");
    unsetenv("SLUICE_MEMORY");
    unsetenv("SLUICE_THREADS");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
