/*
 * The pre-tokeniser and the Unicode it stands on: hand-made cases that follow
 * from each pattern, every code point, NFC against utf8proc's data, bytes
 * that are not UTF-8, and inputs made to be slow.
 */
#include "text/text_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include <cmocka.h>

static const char *const names[] = {"qwen35", "qwen2", "gpt-2", "olmo", "llama-bpe", "dbrx",
                                    "glm4", "chatglm-bpe", "gpt-4o", "llama4", "minimax-m2"};

static void open_form(const char *name, struct pretok *p)
{
    struct err e = {0};
    if (pretok_open((struct str){name, strlen(name)}, p, &e) != OK)
        fail_msg("%s", e.text);
}

/* Pieces joined by '|' ('|' does not occur in the cases). */
static void cut(const char *name, const char *text, size_t n, char *out, size_t room)
{
    struct pretok p;
    struct pretok_scan scan = {0};
    struct str piece;
    struct err e = {0};
    size_t used = 0;
    int rc;
    open_form(name, &p);
    pretok_begin(&scan, (struct str){text, n});
    while ((rc = pretok_next(&p, &scan, &piece, &e)) > 0) {
        assert_true(used + piece.n + 2 < room);
        assert_true(piece.n > 0);
        if (used)
            out[used++] = '|';
        memcpy(out + used, piece.p, piece.n);
        used += piece.n;
    }
    out[used] = '\0';
    pretok_end(&scan);
    pretok_close(&p);
    if (rc < 0)
        fail_msg("%s", e.text);
}

struct piece_case {
    const char *text, *pieces;
};

static void check_cases(const char *name, const struct piece_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char out[256];
        cut(name, c[i].text, strlen(c[i].text), out, sizeof out);
        if (strcmp(out, c[i].pieces))
            fail_msg("%s cuts \"%s\" into \"%s\", not \"%s\"", name, c[i].text, out, c[i].pieces);
    }
}

#define CHECK(name, cases) check_cases(name, cases, ARRAY_LEN(cases))

/* What the patterns with (?i:'s...), words with a prefix, digits and newlines
 * have in common. */
static const struct piece_case common[] = {
    {"", ""},
    {"Hello world", "Hello| world"},
    {"it's IT'S they'LL", "it|'s| IT|'S| they|'LL"},
    {"I'd've", "I|'d|'ve"},
    {"'sun", "'s|un"},
    {"'xyz", "'xyz"}, /* any mark may lead a word */
    {"'\xc5\xbfx", "'\xc5\xbf|x"}, /* long s folds to s */
    {"a.b(c", "a|.b|(c"},
    {"...abc", "...|abc"},
    {" ...\n\nx", " ...\n\n|x"},
    {"a  b", "a| | b"},
    {"a   ", "a|   "},
    {"a\n  b", "a|\n| | b"},
    {"a \n\n b", "a| \n\n| b"},
    {"a\r\nb", "a|\r\n|b"},
    {"\tx", "\tx"},
    {"\t\tx", "\t|\tx"},
    {"a\xc2\xa0\xc2\xa0" "b", "a|\xc2\xa0|\xc2\xa0" "b"}, /* no-break spaces */
    {"a\xc2\x85\xc2\x85.", "a|\xc2\x85|\xc2\x85|."}, /* U+0085 is white space */
    {"\v\v.", "\v|\v|."}, /* the vertical tab too */
    {".\xe1\xa0\x8e.", ".\xe1\xa0\x8e."}, /* U+180E is not */
    {" \xe4\xb8\xad\xe6\x96\x87\xef\xbc\x8c\xe5\xa5\xbd", " \xe4\xb8\xad\xe6\x96\x87|\xef\xbc\x8c\xe5\xa5\xbd"},
    {"\xd9\x85\xd8\xb1 \xd8\xad", "\xd9\x85\xd8\xb1| \xd8\xad"},
    {"hi \xf0\x9f\x98\x80\xf0\x9f\x98\x80!", "hi| \xf0\x9f\x98\x80\xf0\x9f\x98\x80!"},
    {"\xe2\x85\xa0x", "\xe2\x85\xa0|x"}, /* Roman numeral one is a number */
};

static void test_what_most_patterns_share(void **state)
{
    (void)state;
    static const char *const with[] = {"qwen35", "qwen2", "llama-bpe", "dbrx", "glm4",
                                       "chatglm-bpe"};
    for (size_t i = 0; i < ARRAY_LEN(with); i++)
        CHECK(with[i], common);
}

static void test_digits(void **state)
{
    (void)state;
    static const struct piece_case one[] = {
        {"a12345 6", "a|1|2|3|4|5| |6"}, {" 1", " |1"}, {"\xd9\xa1\xd9\xa2", "\xd9\xa1|\xd9\xa2"}};
    static const struct piece_case three[] = {
        {"a12345 6", "a|123|45| |6"}, {"1234567", "123|456|7"},
        {"\xd9\xa1\xd9\xa2", "\xd9\xa1\xd9\xa2"}};
    static const struct piece_case any[] = {{"a12345 6", "a|12345| 6"}};
    CHECK("qwen35", one);
    CHECK("qwen2", one);
    CHECK("llama-bpe", three);
    CHECK("dbrx", three);
    CHECK("gpt-4o", three);
    CHECK("gpt-2", any);
    CHECK("olmo", any);
}

/* qwen35 keeps marks with the letters; qwen2 and the Llama pattern do not. */
static void test_combining_marks(void **state)
{
    (void)state;
    static const struct piece_case joined[] = {
        {"x\xcc\x81y", "x\xcc\x81y"}, {" \xcc\x81x", " \xcc\x81x"},
        {"\xe0\xa4\x95\xe0\xa4\xbf\xe0\xa4\xa4", "\xe0\xa4\x95\xe0\xa4\xbf\xe0\xa4\xa4"}};
    static const struct piece_case apart[] = {
        {"x\xcc\x81y", "x|\xcc\x81y"}, {" \xcc\x81.", " \xcc\x81."},
        {"\xe0\xa4\x95\xe0\xa4\xbf\xe0\xa4\xa4", "\xe0\xa4\x95|\xe0\xa4\xbf\xe0\xa4\xa4"}};
    CHECK("qwen35", joined);
    CHECK("qwen2", apart);
    CHECK("llama-bpe", apart);
}

static void test_gpt2(void **state)
{
    (void)state;
    static const struct piece_case cases[] = {
        {"it's IT'S", "it|'s| IT|'|S"}, /* contractions in small letters only */
        {"we'll've", "we|'ll|'ve"},
        {"a.b", "a|.|b"},
        {"\tx", "\t|x"}, /* only a space leads a word */
        {"a\n\n\nb", "a|\n\n|\n|b"}, /* newlines are spaces like others */
        {"a  \n b", "a|  \n| b"},
        {" ...\n", " ...|\n"},
        {"x\xcc\x81y", "x|\xcc\x81|y"},
        {"   ", "   "},
    };
    CHECK("gpt-2", cases);
    static const struct piece_case olmo[] = {{"it's IT'S", "it|'s| IT|'|S"}};
    CHECK("olmo", olmo);
}

static void test_gpt4o_case_classes(void **state)
{
    (void)state;
    static const struct piece_case cases[] = {
        {"HelloWorld", "Hello|World"},
        {"HTTPServer", "HTTPServer"}, /* capitals go with the small letters behind them */
        {"fooBAR bazQUX", "foo|BAR| baz|QUX"},
        {"it's IT'S we'LL", "it's| IT'S| we'LL"}, /* contractions stay on the word */
        {"'s", "'s"},
        {"x'dog", "x'd|og"},
        {"x\xcc\x81y", "x\xcc\x81y"},
        {"\xc7\x85" "a\xc7\x85", "\xc7\x85" "a|\xc7\x85"}, /* U+01C5 is a title letter */
        {"\xe4\xb8\xad" "Abc\xe4\xb8\xad", "\xe4\xb8\xad" "Abc\xe4\xb8\xad"},
        {"a/b//\nc", "a|/b|//\n|c"},
        {"...///\n", "...///\n"},
        {"...\n/\n/x", "...\n/\n/|x"}, /* slashes behind newlines, too */
        {" \n/", " \n|/"},
        {"a  b", "a| | b"},
        {"1234", "123|4"},
    };
    CHECK("gpt-4o", cases);
    CHECK("llama4", cases);
    CHECK("minimax-m2", cases);
}

static size_t encode_utf8(uint32_t c, char *out)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

/* Each pattern covers each character, alone and between others. */
static void test_every_code_point_is_cut(void **state)
{
    (void)state;
    for (size_t f = 0; f < ARRAY_LEN(names); f++) {
        struct pretok p;
        struct pretok_scan scan = {0};
        struct err e = {0};
        open_form(names[f], &p);
        for (uint32_t c = 0; c < 0x110000; c++) {
            char text[16] = "a";
            struct str piece;
            size_t n = 1 + encode_utf8(c, text + 1), sum = 0;
            int rc;
            if (c >= 0xd800 && c < 0xe000)
                continue;
            text[n++] = ' ';
            pretok_begin(&scan, (struct str){text, n});
            while ((rc = pretok_next(&p, &scan, &piece, &e)) > 0)
                sum += piece.n;
            if (rc < 0)
                fail_msg("%s, U+%04X: %s", names[f], (unsigned)c, e.text);
            if (sum != n && nfc_quick(text, n))
                fail_msg("%s loses bytes at U+%04X", names[f], (unsigned)c);
        }
        pretok_end(&scan);
        pretok_close(&p);
    }
}

static void test_bytes_that_are_not_utf8_stand_apart(void **state)
{
    (void)state;
    static const struct piece_case cases[] = {
        {"a\xff\xfe b", "a|\xff\xfe| b"},
        {"a \xe4\xb8", "a| |\xe4\xb8"}, /* cut short; the text ends before it */
        {"\xed\xa0\x80x", "\xed\xa0\x80|x"}, /* a surrogate */
        {"\xc0\x80" "a\xf5", "\xc0\x80|a|\xf5"},
        {"\xf0\x9f\x98 .", "\xf0\x9f\x98| ."},
        {"\x80", "\x80"},
    };
    for (size_t f = 0; f < ARRAY_LEN(names); f++)
        CHECK(names[f], cases);
}

/* Well-formedness against a decoder that asks what the bytes encode. */
static bool well_formed(const unsigned char *p, size_t n)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c = p[0];
    size_t length = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
    if (length != n)
        return false;
    if (n > 1)
        c &= 0x7fu >> n;
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return false;
        c = c << 6 | (p[i] & 0x3f);
    }
    return c >= smallest[n] && c < 0x110000 && !(c >= 0xd800 && c < 0xe000);
}

static void test_utf8_sequences(void **state)
{
    (void)state;
    static const unsigned char ends[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned second = 0; second < 256; second++) {
            for (size_t k = 0; k < ARRAY_LEN(ends) * ARRAY_LEN(ends); k++) {
                unsigned char p[4] = {(unsigned char)first, (unsigned char)second,
                                      ends[k % ARRAY_LEN(ends)], ends[k / ARRAY_LEN(ends)]};
                int want = 0;
                for (size_t n = 1; n <= 4 && !want; n++)
                    want = well_formed(p, n) ? (int)n : 0;
                int got = utf8_sequence((const char *)p, 4);
                if (got != want)
                    fail_msg("%02x %02x %02x %02x: %d, not %d", p[0], p[1], p[2], p[3], got, want);
                /* Truncated, it is the beginning of something or nothing. */
                for (size_t n = 1; (int)n < want; n++)
                    assert_int_equal(utf8_sequence((const char *)p, n), -(int)n);
            }
        }
    }
    assert_int_equal(utf8_sequence("\xe0\x80", 2), 0);
    assert_int_equal(utf8_sequence("\xf4\x90", 2), 0);
    assert_int_equal(utf8_sequence("\xf4\x8f\xbf", 3), -3);
    assert_int_equal(utf8_valid_prefix("12345678\xe4\xb8\xad" "12345\xff", 17), 16);
    assert_int_equal(utf8_valid_prefix("1234567\xff" "12345678", 16), 7);
}

static void test_nfc(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"e\xcc\x81", "\xc3\xa9"},
        {"\xe2\x84\xab", "\xc3\x85"}, /* Angstrom sign -> A with ring */
        {"a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"}, /* marks change places */
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"}, /* Hangul */
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"}, /* excluded from composition */
        {"\xcd\x84", "\xcc\x88\xcc\x81"},
        {"plain", "plain"},
        {"", ""},
        /* the borders of Hangul: the last before the trailing consonants is none of them */
        {"\xea\xb0\x80\xe1\x86\xa7", "\xea\xb0\x80\xe1\x86\xa7"},
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa7\xe1\x86\xa8", "\xea\xb0\x80\xe1\x86\xa7\xe1\x86\xa8"},
        {"\xed\x9e\x88\xe1\x86\xa7" "e\xcc\x81", "\xed\x9e\x88\xe1\x86\xa7\xc3\xa9"},
        {"\xe1\x86\xa7\xcc\x81\xe1\x86\xa7", "\xe1\x86\xa7\xcc\x81\xe1\x86\xa7"},
        {"\xed\x9e\x88\xe1\x87\x82", "\xed\x9e\xa3"},
        {"\xed\x9e\x88\xe1\x87\x83", "\xed\x9e\x88\xe1\x87\x83"},
        {"\xea\xb0\x81\xe1\x86\xa8", "\xea\xb0\x81\xe1\x86\xa8"},
        {"\xe1\x84\x92\xe1\x85\xb5", "\xed\x9e\x88"},
        {"\xe1\x84\x93\xe1\x85\xa1", "\xe1\x84\x93\xe1\x85\xa1"},
        {"\xe1\x84\x80\xe1\x85\xb6", "\xe1\x84\x80\xe1\x85\xb6"},
        {"\xe1\x84\x80\xe1\x85\xa0", "\xe1\x84\x80\xe1\x85\xa0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *out = NULL;
        size_t n = 0;
        struct err e = {0};
        assert_int_equal(nfc_make(cases[i].from, strlen(cases[i].from), &out, &n, &e), OK);
        assert_int_equal(n, strlen(cases[i].to));
        assert_memory_equal(out, cases[i].to, n);
        free(out);
    }
    /* Only where the model wants it, and around bytes that are not UTF-8. */
    static const struct piece_case yes[] = {{"e\xcc\x81\xff" "e\xcc\x81", "\xc3\xa9|\xff|\xc3\xa9"}};
    static const struct piece_case no[] = {{"\xe2\x84\xab\xff", "\xe2\x84\xab|\xff"}};
    CHECK("qwen35", yes);
    CHECK("qwen2", yes);
    CHECK("olmo", yes);
    CHECK("gpt-2", no);
    CHECK("llama-bpe", no);
    CHECK("gpt-4o", no);
}

/* The quick test's ranges against utf8proc's data: none of its characters is
 * a mark, changes alone, or ends the decomposition of a composed one. */
static void test_nfc_quick_is_never_wrong(void **state)
{
    (void)state;
    int n_quick = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char text[8];
        size_t n = encode_utf8(c, text);
        if (c >= 0xd800 && c < 0xe000)
            continue;
        utf8proc_uint8_t *full = NULL;
        utf8proc_ssize_t k = utf8proc_map((utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &full,
                                          (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE));
        assert_true(k > 0);
        size_t last = (size_t)k;
        while ((full[--last] & 0xc0) == 0x80)
            ;
        if (last && nfc_quick((char *)full + last, (size_t)k - last))
            fail_msg("U+%04X ends in a character held to be inert", (unsigned)c);
        free(full);
        if (!nfc_quick(text, n))
            continue;
        n_quick++;
        char *out = NULL;
        size_t out_n = 0;
        assert_int_equal(nfc_make(text, n, &out, &out_n, NULL), OK);
        if (out_n != n || memcmp(out, text, n) ||
            utf8proc_get_property((utf8proc_int32_t)c)->combining_class)
            fail_msg("U+%04X is not inert", (unsigned)c);
        free(out);
    }
    assert_true(n_quick > 40000); /* the quick way is taken for most scripts */
    assert_false(nfc_quick("\xe1\x85\xa1", 3)); /* Hangul vowels join what is before */
    assert_false(nfc_quick("\xe1\x86\xa8", 3));
}

static void test_python_white_space(void **state)
{
    (void)state;
    int n = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        char text[8];
        if (!(c >= 0xd800 && c < 0xe000))
            n += utf8_space(text, encode_utf8(c, text)) > 0;
    }
    assert_int_equal(n, 29); /* str.isspace counts so many */
    assert_int_equal(utf8_space("\x1f", 1), 1);
    assert_int_equal(utf8_space("\xe3\x80\x80x", 4), 3);
    assert_int_equal(utf8_space("\xe1\xa0\x8e", 3), 0);
    assert_int_equal(utf8_space("\xff", 1), 0);
}

static void test_names(void **state)
{
    (void)state;
    struct pretok p;
    struct err e = {0};
    assert_int_equal(pretok_open((struct str){"qwen", 4}, &p, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "'qwen'"));
    assert_non_null(strstr(e.text, "minimax-m2"));
    err_clear(&e);
    assert_int_equal(pretok_open((struct str){NULL, 0}, &p, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "tokenizer.ggml.pre"));
    pretok_close(&p); /* safe after a failure */
}

/* A hang guard, not a measurement: quadratic time would take hours. */
static void test_long_runs_end(void **state)
{
    (void)state;
    static const char *const units[] = {"a", "A", "Ab", " ", "\n ", "1", "'", "<", "\xcc\x81\xcc\x96",
                                        "\xe0\xbd\xb3", "\xe4\xb8\xad", "\xff", "\xf0\x9f\x98"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    alarm(300);
    for (size_t u = 0; u < ARRAY_LEN(units); u++) {
        size_t k = strlen(units[u]);
        for (size_t i = 0; i < n; i++)
            text[i] = units[u][i % k];
        text[n - 1] = 'x';
        for (size_t f = 0; f < ARRAY_LEN(names); f += 2) {
            struct pretok p;
            struct pretok_scan scan = {0};
            struct str piece;
            struct err e = {0};
            int rc;
            open_form(names[f], &p);
            pretok_begin(&scan, (struct str){text, n});
            while ((rc = pretok_next(&p, &scan, &piece, &e)) > 0)
                ;
            if (rc < 0)
                fail_msg("%s", e.text);
            pretok_end(&scan);
            pretok_close(&p);
        }
    }
    alarm(0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_most_patterns_share),
        cmocka_unit_test(test_digits),
        cmocka_unit_test(test_combining_marks),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_gpt4o_case_classes),
        cmocka_unit_test(test_every_code_point_is_cut),
        cmocka_unit_test(test_bytes_that_are_not_utf8_stand_apart),
        cmocka_unit_test(test_utf8_sequences),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_nfc_quick_is_never_wrong),
        cmocka_unit_test(test_python_white_space),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_long_runs_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
