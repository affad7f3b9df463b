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

static uint64_t n_cases_of[64]; /* hand-made ones, by pre-tokeniser */

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

/* Cases of one pre-tokeniser, or of all (`any`): those say nothing about its pattern. */
static void check_cases(const char *name, bool any, const struct piece_case *c, size_t n)
{
    for (int f = 0; !any && pretok_name(f); f++)
        if (strcmp(pretok_name(f), name) == 0)
            n_cases_of[f] += n;
    for (size_t i = 0; i < n; i++) {
        char out[256];
        cut(name, c[i].text, strlen(c[i].text), out, sizeof out);
        if (strcmp(out, c[i].pieces))
            fail_msg("%s cuts \"%s\" into \"%s\", not \"%s\"", name, c[i].text, out, c[i].pieces);
    }
}

#define CHECK(name, cases) check_cases(name, false, cases, ARRAY_LEN(cases))

/* What the patterns with (?i:'s...), words with a prefix, digits and newlines
 * have in common. */
static const struct piece_case common[] = {
    {"", ""},
    {"Hello world", "Hello| world"},
    {"it's IT'S they'LL", "it|'s| IT|'S| they|'LL"},
    {"I'd've", "I|'d|'ve"},
    {"'sun", "'s|un"},
    {"'xyz", "'xyz"},              /* any mark may lead a word */
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
    {"\v\v.", "\v|\v|."},                            /* the vertical tab too */
    {".\xe1\xa0\x8e.", ".\xe1\xa0\x8e."},            /* U+180E is not */
    {" \xe4\xb8\xad\xe6\x96\x87\xef\xbc\x8c\xe5\xa5\xbd",
     " \xe4\xb8\xad\xe6\x96\x87|\xef\xbc\x8c\xe5\xa5\xbd"},
    {"\xd9\x85\xd8\xb1 \xd8\xad", "\xd9\x85\xd8\xb1| \xd8\xad"},
    {"hi \xf0\x9f\x98\x80\xf0\x9f\x98\x80!", "hi| \xf0\x9f\x98\x80\xf0\x9f\x98\x80!"},
    {"\xe2\x85\xa0x", "\xe2\x85\xa0|x"}, /* Roman numeral one is a number */
};

static void test_what_most_patterns_share(void **state)
{
    (void)state;
    static const char *const with[] = {"qwen35", "qwen2", "bailingmoe", "llama-bpe", "dbrx"};
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
    CHECK("granite-embed-multi-97m", cases);
    static const struct piece_case tekken[] = {
        {"it's IT'S", "it|'s| IT|'S"}, /* no contractions: ' leads a word like any mark */
        {"fooBAR", "foo|BAR"}, {"1234", "1|2|3|4"}, {"a/b//\nc", "a|/b|//\n|c"},
        {"x\xcc\x81y", "x\xcc\x81y"}};
    CHECK("tekken", tekken);
}

/* Several passes: each sees only the pieces of the one before. */
static void test_passes(void **state)
{
    (void)state;
    static const struct piece_case deepseek[] = {
        {"a12345 6", "a|123|45| |6"},
        {"  12", "  |12"},   /* no look-ahead at the digits: both blanks go together */
        {"  ab", " | ab"},
        {"\xe4\xb8\xad\xe3\x81\x82" "ab", "\xe4\xb8\xad\xe3\x81\x82|ab"}, /* Han and kana apart */
        {" \xe4\xb8\xad", " |\xe4\xb8\xad"},
        {"(ab)(c", "(ab|)(|c"},
        {"it's 'x", "it|'s| '|x"},
        {"x\xcc\x81y", "x\xcc\x81y"},
        {"a.\n\nb", "a|.\n\n|b"},
        {"a\tb", "a|\tb"},
        {"$+\xe2\x82\xac x", "$+\xe2\x82\xac| x"},
    };
    CHECK("deepseek-v3", deepseek);
    static const struct piece_case llm[] = {
        {"a\r\nb", "a|\r|\n|b"}, {"ab cd.ef", "ab| cd|.|ef"}, {"a12345", "a|12345"},
        {"a  b", "a| | b"}, {"a   ", "a|   "}, {" \xe4\xb8\xad", " |\xe4\xb8\xad"}};
    CHECK("deepseek-llm", llm);
    static const struct piece_case coder[] = {
        {"ab cd.ef", "ab| cd|.|ef"}, {"a12", "a|1|2"}, {"x +=1", "x| +=|1"},
        {"\xe4\xb8\xad" "a", "\xe4\xb8\xad|a"},
        {"a\n\nb", "a|\n|\n|b"}};
    CHECK("deepseek-coder", coder);
    static const struct piece_case starcoder[] = {
        {"a12 3", "a|1|2| |3"}, {"it's a.b", "it|'s| a|.|b"}, {"a  1", "a|  |1"}};
    CHECK("starcoder", starcoder);
    static const struct piece_case falcon[] = {
        {"a12345", "a|123|45"}, {"x.y!?z", "x|.|y|!?|z"}, {"it's", "it|'|s"}, {" `+", " |`+"}};
    CHECK("falcon", falcon);
    static const struct piece_case plain[] = {
        {"a1234567", "a|123|456|7"}, {"x.y!?z", "x|.|y|!?|z"}, {" `+", " `|+"}};
    CHECK("default", plain);
    static const struct piece_case minicpm[] = {
        {"a1234 5", "a|123|4| |5"}, {"I'LL", "I|'LL"}, {"  12", "  |12"}};
    CHECK("minicpm5", minicpm);
    static const struct piece_case laguna[] = {
        {"a  \nb", "a|  |\n|b"}, {"a\n\n\nb", "a|\n\n\n|b"}};
    CHECK("laguna", laguna);
    static const struct piece_case youtu[] = {
        {"\xea\xb0\x80" "a", "\xea\xb0\x80|a"}, {"a\xe2\x80\x94" "b", "a|\xe2\x80\x94|b"},
        {"\xe4\xb8\xad\xe3\x81\x82 fooBAR 12", "\xe4\xb8\xad\xe3\x81\x82| foo|BAR| |1|2"}};
    CHECK("youtu", youtu);
    static const struct piece_case bloom[] = {
        {"ab cd, ef", "ab| cd|,| ef"}, {"a...\n b", "a|...\n| b"}, {"a12", "a12"}};
    CHECK("poro-chat", bloom);
    static const struct piece_case viking[] = {{"ab12 3", "ab|1|2| |3"}, {"a, b", "a|,| b"}};
    CHECK("viking", viking);
    static const struct piece_case chameleon[] = {
        {"<sentinel:12>x", "<|sentinel|:|1|2|>|x"}, {"IMGIMGABZ", "IMGIMGABZ"},
        {"a    b", "a|    |b"}, {"a   b", "a|  | b"}, {"a\t\nb", "a|\t|\n|b"}, {"a12", "a|1|2"}};
    CHECK("chameleon", chameleon);
}

/* Digits in threes from the right. */
static void test_thirds(void **state)
{
    (void)state;
    static const struct piece_case afmoe[] = {
        {"1234567", "1|234|567"}, {"a12b123c1234", "a|12|b|123|c|1|234"},
        {"\xe4\xb8\xad" "a\xe0\xba\x81", "\xe4\xb8\xad|a|\xe0\xba\x81"},
        {"\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4", "\xd9\xa1|\xd9\xa2\xd9\xa3\xd9\xa4"}};
    CHECK("afmoe", afmoe);
    static const struct piece_case aya[] = {
        {"1234567", "1|234|567"}, {"x 1234.", "x| |1|234|."}, {"a1234", "a|1|234"},
        {"1234567a", "123|456|7|a"}, /* no end of a word behind the digits */
        {"1234\xcc\x81", "123|4|\xcc\x81"}, {"1234\xc2\xbd", "1|234|\xc2\xbd"},
        {"fooBAR", "foo|BAR"}};
    CHECK("tiny_aya", aya);
    static const struct piece_case super[] = {
        {"ab cd  ef\n", "ab cd  ef\n"}, {"a1234567 b", "a|1|234|567| b"}, {"123", "123"},
        {"12\xc2\xbd" "345", "12\xc2\xbd|345"}, {"12345\xc2\xbd", "12|345\xc2\xbd"},
        {"123\xc2\xbd" "1234", "123\xc2\xbd" "1|234"}};
    CHECK("superbpe", super);
}

static void test_words_of_several_scripts(void **state)
{
    (void)state;
    static const struct piece_case kimi[] = {
        {"\xe4\xb8\xad\xe6\x96\x87" "ab", "\xe4\xb8\xad\xe6\x96\x87|ab"},
        {"ab\xe4\xb8\xad", "ab|\xe4\xb8\xad"},
        {"  \xe4\xb8\xad", " | |\xe4\xb8\xad"}, /* the run is looked at up to its end */
        /* Han, one of them a letter, one a number */
        {"\xe3\x80\x85\xe3\x80\x87" "1", "\xe3\x80\x85\xe3\x80\x87|1"},
        {"\xe3\x81\x82\xe4\xb8\xad", "\xe3\x81\x82|\xe4\xb8\xad"},
        {"\xe3\x80\x81" "a", "\xe3\x80\x81" "a"}, /* used with Han, but not of its script */
        {"HelloWorld it's", "Hello|World| it's"}, {"12345", "123|45"}, {"a/b/\nc", "a|/b|/\n|c"},
        {"...\n/x", "...\n|/x"}, {"x\xcc\x81y", "x\xcc\x81y"}};
    CHECK("kimi-k2", kimi);
    static const struct piece_case exaone[] = {
        {"Hello big world  x", "Hello big world| | x"}, {"ab.cd ef", "ab|.cd ef"},
        {"a1 b", "a|1| b"}, {"a.\n\nb", "a|.\n|\n|b"}, {"it's", "it|'s"},
        {"x\xcc\x81 y", "x\xcc\x81 y"}};
    CHECK("exaone-moe", exaone);
    static const struct piece_case seed[] = {
        {"a.\n\nb", "a|.|\n\n|b"}, {"a12", "a|1|2"}, {"I'M", "I|'M"}};
    CHECK("seed-coder", seed);
    static const struct piece_case jais[] = {
        {"a  \n  b", "a|  \n| | b"}, {"a     ", "a|    | "}, {"a       b", "a|    |  | b"},
        {"a  \n \n\r b", "a|  \n \n\r| b"}};
    CHECK("jais-2", jais);
}

static void test_text_cut_at_newlines_only(void **state)
{
    (void)state;
    static const struct piece_case lines[] = {
        {"a b  c\n\nd", "a b  c|\n\n|d"}, {"a\xe2\x96\x81" "b", "a b"}, {"\n", "\n"}};
    CHECK("gemma4", lines);
    CHECK("sarvam-moe", lines);
    static const struct piece_case words[] = {
        {"a b  c\n", "a| |b|  |c|\n"}, {"\xe2\x96\x81", "\xe2\x96\x81"}};
    CHECK("whitespace", words);
}

/* A name belongs to one form, by which all its names are cut. */
static void test_other_names(void **state)
{
    (void)state;
    const char *name, *other;
    int n = 0;
    for (int f = 0; (name = pretok_name(f)); f++) {
        for (int k = 0; (other = pretok_other_name(f, k)); k++, n++) {
            static const char text[] =
                "It's 12345 fooBAR \xe4\xb8\xad\xe6\x96\x87" "e\xcc\x81  x\n\n ...";
            char want[256], got[256];
            cut(name, text, sizeof text - 1, want, sizeof want);
            cut(other, text, sizeof text - 1, got, sizeof got);
            assert_string_equal(got, want);
            for (int g = 0; pretok_name(g); g++)
                for (int j = 0; pretok_other_name(g, j); j++)
                    if ((g != f || j != k) && strcmp(pretok_other_name(g, j), other) == 0)
                        fail_msg("%s stands twice in the table", other);
        }
    }
    static const char *const pairs[][2] = {
        {"llama3", "llama-bpe"}, {"falcon3", "llama-bpe"}, {"pixtral", "llama-bpe"},
        {"smaug-bpe", "dbrx"}, {"glm4", "dbrx"}, {"chatglm-bpe", "dbrx"},
        {"deepseek-r1-qwen", "qwen2"}, {"megrez", "qwen2"}, {"hunyuan", "qwen2"},
        {"kanana2", "gpt-4o"}, {"llama4", "gpt-4o"}, {"minimax-m2", "gpt-4o"}, {"phi-2", "gpt-2"},
        {"bailingmoe2", "bailingmoe"}, {"hunyuan-dense", "deepseek-v3"}, {"smollm", "starcoder"}};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        assert_ptr_equal(pretok_find((struct str){pairs[i][0], strlen(pairs[i][0])}),
                         pretok_find((struct str){pairs[i][1], strlen(pairs[i][1])}));
    assert_in_range(n, 87, 200);
}

static size_t encode_utf8(uint32_t c, char *out)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

/* Each pattern covers each character, alone and between others. */
static void test_every_code_point_is_cut(void **state)
{
    (void)state;
    for (int f = 0; pretok_name(f); f++) {
        struct pretok p;
        struct pretok_scan scan = {0};
        struct err e = {0};
        open_form(pretok_name(f), &p);
        for (uint32_t c = 0; c < 0x110000; c++) {
            char text[16] = "a";
            struct str piece;
            size_t n = 1 + encode_utf8(c, text + 1), sum = 0;
            int rc;
            if ((c >= 0xd800 && c < 0xe000) ||
                (c == 0x2581 && p.form->spelling == SPELT_WITH_BARS))
                continue;
            text[n++] = ' ';
            pretok_begin(&scan, (struct str){text, n});
            while ((rc = pretok_next(&p, &scan, &piece, &e)) > 0)
                sum += piece.n;
            if (rc < 0)
                fail_msg("%s, U+%04X: %s", pretok_name(f), (unsigned)c, e.text);
            if (sum != n && nfc_quick(text, n))
                fail_msg("%s loses bytes at U+%04X", pretok_name(f), (unsigned)c);
        }
        pretok_end(&scan);
        pretok_close(&p);
    }
}

/* What is and what is not UTF-8 is cut as if the other were not there. */
static void test_bytes_that_are_not_utf8_stand_apart(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "\xff\xfe", " b"},
        {"a ", "\xe4\xb8", ""}, /* cut short */
        {"", "\xed\xa0\x80", "x"}, /* a surrogate */
        {"", "\xc0\x80", "a"},
        {"a1234", "\xf5", "1234"},
        {"", "\xf0\x9f\x98", " ."},
        {"", "\x80", ""},
    };
    for (int f = 0; pretok_name(f); f++) {
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            char text[64] = "", want[256] = "", got[256], part[64];
            for (int k = 0; k < 3; k++) {
                strcat(text, cases[i][k]);
                if (k == 1)
                    strcpy(part, cases[i][k]);
                else
                    cut(pretok_name(f), cases[i][k], strlen(cases[i][k]), part, sizeof part);
                snprintf(want + strlen(want), sizeof want - strlen(want), "%s%s",
                         want[0] && part[0] ? "|" : "", part);
            }
            cut(pretok_name(f), text, strlen(text), got, sizeof got);
            if (strcmp(got, want))
                fail_msg("%s cuts \"%s\" into \"%s\", not \"%s\"", pretok_name(f), text, got,
                         want);
        }
    }
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
    static const unsigned char ends[] = {0x00, 0x7f, 0x80, 0x8f, 0x90,
                                         0x9f, 0xa0, 0xbf, 0xc0, 0xff};
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
        {"\xe2\x84\xab", "\xc3\x85"},                             /* Angstrom sign -> A with ring */
        {"a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"},            /* marks change places */
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"}, /* Hangul */
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},             /* excluded from composition */
        {"\xcd\x84", "\xcc\x88\xcc\x81"},
        {"plain", "plain"},
        {"", ""},
        /* the borders of Hangul: the last before the trailing consonants is none of them */
        {"\xea\xb0\x80\xe1\x86\xa7", "\xea\xb0\x80\xe1\x86\xa7"},
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa7\xe1\x86\xa8",
         "\xea\xb0\x80\xe1\x86\xa7\xe1\x86\xa8"},
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
    static const struct piece_case yes[] = {
        {"e\xcc\x81\xff" "e\xcc\x81", "\xc3\xa9|\xff|\xc3\xa9"}};
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
        utf8proc_ssize_t k =
            utf8proc_map((utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &full,
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
    for (int f = 0; pretok_name(f); f++) /* all that can be named */
        assert_non_null(strstr(e.text, pretok_name(f)));
    err_clear(&e);
    assert_int_equal(pretok_open((struct str){NULL, 0}, &p, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "tokenizer.ggml.pre"));
    pretok_close(&p); /* safe after a failure */
}

/* A row of the table without cases here would be a pattern that nobody has looked at. */
static void test_every_name_has_cases(void **state)
{
    (void)state;
    for (int f = 0; pretok_name(f); f++)
        if (n_cases_of[f] == 0)
            fail_msg("no case says how %s cuts", pretok_name(f));
}

/* A hang guard, not a measurement: quadratic time would take hours. */
static void test_long_runs_end(void **state)
{
    (void)state;
    static const char *const units[] = {"a", "A", "Ab", " ", "\n ", "1", "'", "<",
                                        "\xcc\x81\xcc\x96", "\xe0\xbd\xb3", "\xe4\xb8\xad", "\xff",
                                        "\xf0\x9f\x98"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    alarm(300);
    for (size_t u = 0; u < ARRAY_LEN(units); u++) {
        size_t k = strlen(units[u]);
        for (size_t i = 0; i < n; i++)
            text[i] = units[u][i % k];
        text[n - 1] = 'x';
        for (int f = 0; pretok_name(f); f++) {
            struct pretok p;
            struct pretok_scan scan = {0};
            struct str piece;
            struct err e = {0};
            int rc;
            open_form(pretok_name(f), &p);
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
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_thirds),
        cmocka_unit_test(test_words_of_several_scripts),
        cmocka_unit_test(test_text_cut_at_newlines_only),
        cmocka_unit_test(test_other_names),
        cmocka_unit_test(test_every_code_point_is_cut),
        cmocka_unit_test(test_bytes_that_are_not_utf8_stand_apart),
        cmocka_unit_test(test_utf8_sequences),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_nfc_quick_is_never_wrong),
        cmocka_unit_test(test_python_white_space),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_every_name_has_cases),
        cmocka_unit_test(test_long_runs_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
