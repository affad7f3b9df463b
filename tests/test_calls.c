/*
 * Answers of models -> text, reasoning and calls: each syntax, cut at every byte and at every
 * two bytes; what is no call comes out as it went in; hostile answers end.
 */
#include "text/calls/calls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- what was told, as text ---- */

struct told {
    char *p;
    size_t n, cap;
    char last;
};

static void add(struct told *t, const char *p, size_t n)
{
    if (t->n + n + 1 > t->cap) {
        t->cap = (t->n + n + 1) * 2;
        t->p = realloc(t->p, t->cap);
        assert_non_null(t->p);
    }
    memcpy(t->p + t->n, p, n);
    t->n += n;
    t->p[t->n] = '\0';
}

/* [T text] [R reasoning] [B name] [C id name arguments], texts that follow each other as one. */
static void add_event(struct told *t, const struct call_event *ev)
{
    static const char kinds[] = "?TRBC";
    char kind = kinds[ev->kind];
    bool joins = kind == t->last && (kind == 'T' || kind == 'R');
    char head[3] = {'[', kind, ' '};
    assert_true(kind != '?' && (kind == 'C' || ev->text.n > 0));
    if (joins)
        t->p[--t->n] = '\0';
    else
        add(t, head, 3);
    if (kind == 'C') {
        add(t, ev->call->id, strlen(ev->call->id));
        add(t, " ", 1);
        add(t, ev->call->name, strlen(ev->call->name));
        add(t, " ", 1);
        add(t, ev->call->arguments, strlen(ev->call->arguments));
    } else {
        add(t, ev->text.p, ev->text.n);
    }
    add(t, "]", 1);
    t->last = kind;
}

static void drain(struct call_reader *r, struct told *t)
{
    struct call_event ev;
    for (;;) {
        assert_int_equal(call_reader_next(r, &ev), OK);
        if (ev.kind == CALL_EV_NONE)
            return;
        add_event(t, &ev);
    }
}

/* What is told of n bytes put in pieces that end at a, at b and at the end. */
static char *told(const struct call_form *f, const char *p, size_t n, size_t a, size_t b)
{
    struct told t = {0};
    const size_t cut[] = {0, a, b, n};
    struct call_reader *r = call_reader_new(f);
    assert_non_null(r);
    add(&t, "", 0);
    for (int i = 0; i < 3; i++)
        if (cut[i + 1] > cut[i]) {
            assert_int_equal(call_reader_put(r, p + cut[i], cut[i + 1] - cut[i]), OK);
            drain(r, &t);
        }
    call_reader_end(r);
    drain(r, &t);
    call_reader_free(r);
    return t.p;
}

/* Byte by byte. */
static char *told_by_byte(const struct call_form *f, const char *p, size_t n)
{
    struct told t = {0};
    struct call_reader *r = call_reader_new(f);
    assert_non_null(r);
    add(&t, "", 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(call_reader_put(r, p + i, 1), OK);
        drain(r, &t);
    }
    call_reader_end(r);
    drain(r, &t);
    call_reader_free(r);
    return t.p;
}

/* Checked builds, which are much slower, try a second cut behind fewer of the first. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FEWER = 12 };
#else
enum { FEWER = 1 };
#endif

static void check(const struct call_form *f, const char *text, const char *want)
{
    size_t n = strlen(text), step = FEWER * (n < 220 ? 1 : n / 100);
    const char *name = f->row ? f->row->name : "(no calls)";
    char *got = told(f, text, n, n, n);
    if (strcmp(got, want))
        fail_msg("%s, \"%s\":\n  expected %s\n  got      %s", name, text, want, got);
    free(got);
    got = told_by_byte(f, text, n);
    if (strcmp(got, want))
        fail_msg("%s, \"%s\", byte by byte:\n  expected %s\n  got      %s", name, text, want, got);
    free(got);
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b += a % step == 0 ? 1 : n) {
            got = told(f, text, n, a, b);
            if (strcmp(got, want))
                fail_msg("%s, \"%s\" cut at %zu and %zu:\n  expected %s\n  got      %s", name, text,
                         a, b, want, got);
            free(got);
        }
}

/* ---- the syntaxes ---- */

#define TOOLS                                                                                      \
    "[{\"type\": \"function\", \"function\": {\"name\": \"get\", \"parameters\": {\"type\": "      \
    "\"object\", \"properties\": {\"s\": {\"type\": \"string\"}, \"n\": {\"type\": "               \
    "\"integer\"}}}}}]"
#define B "\uff5c"
#define L "\u2581"
#define DSML "\uff5cDSML\uff5c"

static const struct {
    const char *row, *text, *want;
} cases[] = {
    /* Hermes */
    {"hermes", "Hi", "[T Hi]"},
    {"hermes", "", ""},
    {"hermes", " \n ", "[T  \n ]"},
    {"hermes", "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": 1}}\n</tool_call>",
     "[B get][C  get {\"a\": 1}]"},
    {"hermes", "Yes.\n<tool_call>{\"arguments\":{ \"a\" : 1.0 },\"name\":\"get\"}</tool_call>\n",
     "[T Yes.][B get][C  get { \"a\" : 1.0 }]"},
    {"hermes",
     "<tool_call>\n{\"name\": \"get\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": "
     "\"put\", \"arguments\": {\"t\": \"</tool_call> \\\" } \"}}\n</tool_call> done ",
     "[B get][C  get {}][B put][C  put {\"t\": \"</tool_call> \\\" } \"}][T  done ]"},
    {"hermes", "<tool_call>{\"name\": \"get\"}</tool_call>", "[B get][C  get {}]"},
    {"hermes", "<tool_call>{\"name\": \"get\", \"arguments\": {}}", "[B get][C  get {}]"},
    {"hermes", "<tool_call>{\"name\": \"get\", \"arguments\": {}}</tool_c", "[B get][C  get {}]"},
    {"hermes", "<tool_call>{\"name\": \"get\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
     "[B get][C  get {\"a\": 1}]"},
    {"hermes",
     "<tool_call>{\"function\": {\"name\": \"get\", \"arguments\": {}}, \"id\": 3}</tool_call>",
     "[B get][C  get {}]"},
    /* what is none */
    {"hermes", "a <tool_call> b", "[T a <tool_call> b]"},
    {"hermes", "<tool_call>\n{\"name\": \"get\", \"arg",
     "[T <tool_call>\n{\"name\": \"get\", \"arg]"},
    {"hermes", "<tool_call>{\"name\": get}</tool_call>",
     "[T <tool_call>{\"name\": get}</tool_call>]"},
    {"hermes", "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
     "[T <tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>]"},
    {"hermes", "<tool_call>{\"name\": \"get\", \"arguments\": [1]}</tool_call>",
     "[T <tool_call>{\"name\": \"get\", \"arguments\": [1]}</tool_call>]"},
    {"hermes", "<tool_call>{\"name\": \"g\", \"arguments\": {\"a\": 1, \"a\": 2}}</tool_call>",
     "[T <tool_call>{\"name\": \"g\", \"arguments\": {\"a\": 1, \"a\": 2}}</tool_call>]"},
    {"hermes", "<tool_call>{\"name\": \"g\", \"arguments\": {}} x</tool_call>",
     "[T <tool_call>{\"name\": \"g\", \"arguments\": {}} x</tool_call>]"},
    {"hermes", "<tool_call><tool_call>{\"name\": \"get\", \"arguments\": {}}</tool_call>",
     "[T <tool_call>][B get][C  get {}]"},
    {"hermes", "<tool_<tool_call", "[T <tool_<tool_call]"},
    {"hermes", "a  \n", "[T a  \n]"},
    {"hermes", "<tool_call>{\"name\": \"\\u0000\", \"arguments\": {}}</tool_call>",
     "[T <tool_call>{\"name\": \"\\u0000\", \"arguments\": {}}</tool_call>]"},
    /* Qwen */
    {"qwen-xml",
     "I look.\n\n<tool_call>\n<function=get>\n<parameter=s>\n42\n</parameter>\n<parameter=n>\n42\n"
     "</parameter>\n<parameter=o>\n{\"a\":  [1]}\n</parameter>\n</function>\n</tool_call>",
     "[T I look.][B get][C  get {\"s\": \"42\", \"n\": 42, \"o\": {\"a\":  [1]}}]"},
    {"qwen-xml",
     "<tool_call>\n<function=get>\n<parameter=x>\nline \"one\"\n\n two <b>\n\n</parameter>\n"
     "</function>\n</tool_call>",
     "[B get][C  get {\"x\": \"line \\\"one\\\"\\n\\n two <b>\\n\"}]"},
    {"qwen-xml", "<tool_call><function=get></function></tool_call>", "[B get][C  get {}]"},
    {"qwen-xml", "<tool_call><function=get></function>", "[B get][C  get {}]"},
    {"qwen-xml", "<tool_call>\n<function=get>\n<parameter=x>\n1\n</parameter>\n",
     "[B get][T <tool_call>\n<function=get>\n<parameter=x>\n1\n</parameter>\n]"},
    {"qwen-xml", "<tool_call>\n<function=get>\n<param",
     "[B get][T <tool_call>\n<function=get>\n<param]"},
    {"qwen-xml",
     "<tool_call><function=get><parameter=x>1</parameter><parameter=x>2</parameter></function>"
     "</tool_call>",
     "[B get][T <tool_call><function=get><parameter=x>1</parameter><parameter=x>2</parameter>"
     "</function></tool_call>]"},
    {"seed-xml",
     "<seed:tool_call>\n<function=get>\n<parameter=s>a\n</parameter>\n</function>\n"
     "</seed:tool_call>",
     "[B get][C  get {\"s\": \"a\\n\"}]"},
    /* GLM, Hunyuan */
    {"glm",
     "<tool_call>get\n<arg_key>s</arg_key>\n<arg_value>7</arg_value>\n<arg_key>b</arg_key>\n"
     "<arg_value>true</arg_value>\n</tool_call>\n<tool_call>put</tool_call>",
     "[B get][C  get {\"s\": \"7\", \"b\": true}][B put][C  put {}]"},
    {"glm", "<tool_call>get<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>",
     "[B get][C  get {\"k\": \"v\"}]"},
    {"glm", "<tool_call>\n{\"name\": \"get\"}</tool_call>",
     "[T <tool_call>\n{\"name\": \"get\"}</tool_call>]"},
    {"hunyuan",
     "<tool_calls:opensource>\n<tool_call:opensource>get<tool_sep:opensource>\n"
     "<arg_key:opensource>s</arg_key:opensource>\n<arg_value:opensource>v</arg_value:opensource>\n"
     "</tool_call:opensource>\n</tool_calls:opensource>",
     "[B get][C  get {\"s\": \"v\"}]"},
    /* MiniMax, Muse, MiniCPM, DeepSeek V3.2 and V4 */
    {"minimax",
     "ok\n<minimax:tool_call>\n<invoke name=\"get\">\n<parameter name=\"s\">a b</parameter>\n"
     "<parameter name=\"n\">3</parameter>\n</invoke>\n<invoke name=\"put\">\n</invoke>\n"
     "</minimax:tool_call>",
     "[T ok][B get][C  get {\"s\": \"a b\", \"n\": 3}][B put][C  put {}]"},
    {"minimax", "<minimax:tool_call>\n<invoke name=\"get\">\n</invoke>\n<inv",
     "[B get][C  get {}][T <inv]"},
    {"minimax", "<minimax:tool_call>\n<invoke name=\"get\">\n</invoke>\n x",
     "[B get][C  get {}][T \n x]"},
    {"muse",
     "<atem:function_calls>\n<atem:invoke name=\"get\">\n<atem:parameter name=\"s\">x"
     "</atem:parameter>\n</atem:invoke>\n</atem:function_calls>",
     "[B get][C  get {\"s\": \"x\"}]"},
    {"minicpm", "<function name=\"get\"><param name=\"s\">x</param></function>",
     "[B get][C  get {\"s\": \"x\"}]"},
    {"deepseek-v3.2",
     "\n\n<" DSML "function_calls>\n<" DSML "invoke name=\"get\">\n<" DSML
     "parameter name=\"a\" string=\"true\">42</" DSML "parameter>\n<" DSML
     "parameter name=\"b\" string=\"false\">42</" DSML "parameter>\n</" DSML "invoke>\n</" DSML
     "function_calls>",
     "[B get][C  get {\"a\": \"42\", \"b\": 42}]"},
    {"deepseek-v4",
     "<" DSML "tool_calls>\n<" DSML "invoke name=\"get\">\n<" DSML
     "parameter name=\"s\" string=\"false\">[1]</" DSML "parameter>\n</" DSML "invoke>\n</" DSML
     "tool_calls>",
     "[B get][C  get {\"s\": [1]}]"},
    /* DeepSeek V3, V3.1 */
    {"deepseek-v3.1",
     "A<" B "tool" L "calls" L "begin" B "><" B "tool" L "call" L "begin" B ">get<" B "tool" L
     "sep" B ">{\"a\": 1}<" B "tool" L "call" L "end" B "><" B "tool" L "call" L "begin" B ">put<" B
     "tool" L "sep" B ">{}<" B "tool" L "call" L "end" B "><" B "tool" L "calls" L "end" B ">",
     "[T A][B get][C  get {\"a\": 1}][B put][C  put {}]"},
    {"deepseek-v3",
     "<" B "tool" L "calls" L "begin" B "><" B "tool" L "call" L "begin" B ">function<" B "tool" L
     "sep" B ">get\n```json\n{\"a\": 1}\n```<" B "tool" L "call" L "end" B ">\n<" B "tool" L
     "calls" L "end" B ">",
     "[B get][C  get {\"a\": 1}]"},
    /* Kimi */
    {"kimi",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>"
     "{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.a.b-c:1<|tool_call_argument_begin|>{}"
     "<|tool_call_end|><|tool_calls_section_end|>",
     "[B get][C functions.get:0 get {\"a\": 1}][B a.b-c][C functions.a.b-c:1 a.b-c {}]"},
    {"kimi-k3",
     "<|open|>tools<|sep|><|open|>call tool=\"get\" index=\"1\"<|sep|><|open|>argument key=\"a\" "
     "type=\"string\"<|sep|>1<|close|>argument<|sep|><|open|>argument key=\"b\" type=\"number\""
     "<|sep|>1<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
     "[B get][C 1 get {\"a\": \"1\", \"b\": 1}]"},
    /* Mistral */
    {"mistral", "[TOOL_CALLS]get[ARGS]{\"a\": 1}[TOOL_CALLS]put[ARGS]{}",
     "[B get][C  get {\"a\": 1}][B put][C  put {}]"},
    {"mistral-id", "[TOOL_CALLS]get[CALL_ID]abc123def[ARGS]{\"a\": 1}",
     "[B get][C abc123def get {\"a\": 1}]"},
    {"mistral-list",
     "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {\"a\": 1}, \"id\": \"abc123def\"}, "
     "{\"name\": "
     "\"put\", \"arguments\": {}}]",
     "[B get][C abc123def get {\"a\": 1}][B put][C  put {}]"},
    {"mistral-list", "[TOOL_CALLS][]", "[T [TOOL_CALLS][]]"},
    /* Llama, lists */
    {"llama3", "{\"name\": \"get\", \"parameters\": {\"a\": 1}}", "[B get][C  get {\"a\": 1}]"},
    {"llama3", " \n{ \"name\" : \"get\", \"parameters\": {}}; {\"name\"",
     "[B get][C  get {}][T ; {\"name\"]"},
    {"llama3", "{\"name\": \"Ann\", \"parameters\": {}}",
     "[T {\"name\": \"Ann\", \"parameters\": {}}]"},
    {"llama3", "{\"name\": \"get\"}", "[T {\"name\": \"get\"}]"},
    {"llama3", "{\"title\": 1}", "[T {\"title\": 1}]"},
    {"llama3", "So: {\"name\": \"get\", \"parameters\": {}}",
     "[T So: {\"name\": \"get\", \"parameters\": {}}]"},
    {"llama4",
     "<|python_start|><|python_end|>{\"name\": \"get\", \"parameters\": {}}{\"name\": "
     "\"put\", \"parameters\": {}}",
     "[B get][C  get {}][B put][C  put {}]"},
    {"json-list", "[{\"name\": \"get\", \"arguments\": {}, \"id\": \"x\"}]", "[B get][C x get {}]"},
    {"json-list", "[1, 2]", "[T [1, 2]]"},
    /* Gemma */
    {"gemma",
     "<|tool_call>call:get{a:<|\"|>x, {y}<|\"|>,b:42,c:{k:[<|\"|><|\"|>,true,]},d:}<tool_call|>",
     "[B get][C  get {\"a\": \"x, {y}\", \"b\": 42, \"c\": {\"k\": [\"\", true, null]}, \"d\": "
     "null}]"},
    {"gemma", "<|tool_call>call:get{}<tool_call|>", "[B get][C  get {}]"},
    {"gemma", "<|tool_call>call:get{a:01}<tool_call|>",
     "[B get][T <|tool_call>call:get{a:01}<tool_call|>]"},
    /* Lists in marks */
    {"cohere",
     "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"get\", \"parameters\": "
     "{\"a\": 1}}\n]<|END_ACTION|>",
     "[B get][C 0 get {\"a\": 1}]"},
    {"apertus", "<|tools_prefix|>[{\"get\": {\"a\": 1}}, {\"put\": {}}]<|tools_suffix|>",
     "[B get][C  get {\"a\": 1}][B put][C  put {}]"},
    {"apriel", "<tool_calls>[{\"name\": \"get\", \"arguments\": {}}]</tool_calls>",
     "[B get][C  get {}]"},
    {"nemotron", "<TOOLCALL>[{\"name\": \"get\", \"arguments\": {}}]</TOOLCALL>",
     "[B get][C  get {}]"},
    {"minimax-m1",
     "<tool_calls>\n{\"name\": \"get\", \"arguments\": {}}\n{\"name\": \"put\", \"arguments\": "
     "{}}\n"
     "</tool_calls>",
     "[B get][C  get {}][B put][C  put {}]"},
    /* Others */
    {"solar",
     "<|tool_calls|><|tool_call:begin|>id1<|tool_call:name|>get<|tool_call:args|>{}"
     "<|tool_call:end|><|calls|>",
     "[B get][C id1 get {}]"},
    {"lfm2",
     "<|tool_call_start|>[get(a='it\\'s', b=42, c={\"k\": [True, None, -1.5e3]}), "
     "put()]<|tool_call_end|>",
     "[B get][C  get {\"a\": \"it's\", \"b\": 42, \"c\": {\"k\": [true, null, -1.5e3]}}][B put][C  "
     "put "
     "{}]"},
    {"lfm2", "<|tool_call_start|>[get(a=b)]<|tool_call_end|>",
     "[T <|tool_call_start|>[get(a=b)]<|tool_call_end|>]"},
    {"functionary", "<function=get>{\"a\": 1}</function>", "[B get][C  get {\"a\": 1}]"},
    {"functionary-v3.2", ">>>all\nHi>>>get\n{\"a\": 1}",
     "[B all][T >>>all\nHi][B get][C  get {\"a\": 1}]"},
    {"gigachat", "<|function_call|>{\"name\": \"get\", \"arguments\": {}}", "[B get][C  get {}]"},
    {"gigachat-role", "function call<|role_sep|>\n{\"name\": \"get\", \"arguments\": {}}",
     "[B get][C  get {}]"},
    /* Harmony */
    {"harmony",
     "<|channel|>analysis<|message|>Hmm.<|end|><|start|>assistant<|channel|>final<|message|>Hi"
     "<|return|>",
     "[R Hmm.][T Hi]"},
    {"harmony",
     "<|channel|>analysis<|message|>a < b<|end|><|start|>assistant to=functions.get<|channel|>"
     "commentary json<|message|>{\"a\": 1}<|call|>",
     "[R a < b][B get][C  get {\"a\": 1}]"},
    {"harmony", "<|channel|>commentary to=functions.get <|constrain|>json<|message|>{\"a\": 1}",
     "[B get][C  get {\"a\": 1}]"},
    {"harmony", "<|channel|>commentary to=get<|message|>{\"a\": ",
     "[B get][T <|channel|>commentary to=get<|message|>{\"a\": ]"},
    {"harmony", "<|channel|>final<|message|>Hi <|en", "[T Hi <|en]"},
    {"harmony", "Hello", "[T Hello]"},
    {"harmony", "<|chan", "[T <|chan]"},
};

static void test_every_syntax(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct call_form f = {.row = call_row_named(cases[i].row),
                              .tools = {TOOLS, sizeof TOOLS - 1}};
        assert_non_null(f.row);
        if (!strcmp(f.row->name, "llama4") || !strcmp(f.row->name, "json-list"))
            f.tools.n = 0;
        check(&f, cases[i].text, cases[i].want);
    }
    for (const struct call_row *row = call_rows; row->name; row++) {
        size_t n = 0;
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
            n += strcmp(cases[i].row, row->name) == 0 && strstr(cases[i].want, "[C") != NULL;
        if (!n)
            fail_msg("no call of %s is read", row->name);
    }
}

static void test_reasoning(void **state)
{
    (void)state;
    static const struct {
        bool reasons;
        const char *text, *want;
    } rows[] = {
        {false, "<think>\nHmm.\n</think>\n\nHi", "[R Hmm.][T Hi]"},
        {false, " \n<think></think>Hi", "[T Hi]"},
        {false, "Hi <think>x</think>", "[T Hi <think>x</think>]"},
        {false, "  Hi", "[T   Hi]"},
        {false, "<thin", "[T <thin]"},
        {true, "Hmm.\n\nSo.\n</think>\n\nHi\n", "[R Hmm.\n\nSo.][T Hi\n]"},
        {true, "\n</think>\n\nHi", "[T Hi]"},
        {true, "Hmm </thin", "[R Hmm </thin]"},
        {true, "Hmm\n ", "[R Hmm]"},
        {true, "<tool_call>\n</think>\n<tool_call>{\"name\": \"get\"}</tool_call>",
         "[R <tool_call>][B get][C  get {}]"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct call_form f = {.row = call_row_named("hermes"),
                                    .begins = "<think>",
                                    .ends = "</think>",
                                    .prompt = {"<think>", rows[i].reasons ? 7 : 0}};
        check(&f, rows[i].text, rows[i].want);
    }
    const struct call_form none = {.begins = "", .ends = ""};
    check(&none, "<think>a</think> <tool_call> ", "[T <think>a</think> <tool_call> ]");
}

/* ---- hostile answers ---- */

/* Puts `text` again and again; the time is in proportion, or this never ends. */
static char *repeated(const char *row, const char *text, size_t n_bytes)
{
    const struct call_form f = {.row = call_row_named(row)};
    struct call_reader *r = call_reader_new(&f);
    struct told t = {0};
    add(&t, "", 0);
    for (size_t i = 0; i < n_bytes / strlen(text); i++) {
        assert_int_equal(call_reader_put(r, text, strlen(text)), OK);
        drain(r, &t);
    }
    call_reader_end(r);
    drain(r, &t);
    call_reader_free(r);
    return t.p;
}

static void test_hostile_answers_end(void **state)
{
    (void)state;
    static const char *const texts[][2] = {
        {"hermes", "<tool_call>{\"\\\"}"},
        {"hermes", "<tool_call>{\""},
        {"hermes", "<tool_call>{"},
        {"hermes", "<tool_call>"},
        {"hermes", " "},
        {"hermes", "{"},
        {"qwen-xml", "<tool_call><function=a><parameter=b>"},
        {"glm", "<tool_call>a<arg_key>"},
        {"mistral", "[TOOL_CALLS]"},
        {"lfm2", "<|tool_call_start|>["},
        {"harmony", "<|channel|>"},
        {"harmony", "<|start|>assistant to=a<|message|>"},
        {"deepseek-v3.1", "<\uff5c"},
        {"gemma", "<|tool_call>call:a{"},
        {"minimax", "<minimax:tool_call><invoke name=\"a\">"},
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char *got = repeated(texts[i][0], texts[i][1], 1 << 20);
        size_t n = 0, k = strlen(texts[i][1]);
        const char *end = got + strlen(got);
        for (const char *p = got + 3; p + k <= end;) {
            bool is = memcmp(p, texts[i][1], k) == 0;
            n += is;
            p += is ? k : 1;
        }
        /* Nothing is lost; harmony's marks between messages are no text. */
        if (strcmp(texts[i][0], "harmony") && n != (1 << 20) / k)
            if (!strstr(got, "[B "))
                fail_msg("%s: %zu of \"%s\"", texts[i][0], n, texts[i][1]);
        free(got);
    }
}

/* A call beyond the limit is text; the next one is a call. */
static void test_a_call_too_long_is_text(void **state)
{
    (void)state;
    static const char head[] = "<tool_call>{\"name\": \"get\", \"arguments\": {\"a\": \"",
                      tail[] = "\"}}</tool_call>",
                      next[] = "<tool_call>{\"name\": \"put\"}</tool_call>";
    const struct call_form f = {.row = call_row_named("hermes")};
    for (int over = 0; over < 2; over++) {
        size_t n_body = over ? CALLS_MOST : CALLS_MOST - sizeof head - sizeof tail;
        size_t n = sizeof head - 1 + n_body + sizeof tail - 1 + sizeof next - 1;
        char *text = malloc(n + 1);
        assert_non_null(text);
        strcpy(text, head);
        memset(text + sizeof head - 1, 'x', n_body);
        strcpy(text + sizeof head - 1 + n_body, tail);
        strcat(text, next);
        struct told t = {0};
        struct call_reader *r = call_reader_new(&f);
        for (size_t i = 0; i < n; i += 1000) {
            assert_int_equal(call_reader_put(r, text + i, MIN(n - i, (size_t)1000)), OK);
            drain(r, &t);
        }
        call_reader_end(r);
        drain(r, &t);
        assert_int_equal(call_reader_calls(r)->n, over ? 1 : 2);
        assert_true(over ? strncmp(t.p, "[T <tool_call>{\"name", 20) == 0
                         : strncmp(t.p, "[B get][C  get {\"a\"", 18) == 0);
        assert_non_null(strstr(t.p, "[B put][C  put {}]"));
        call_reader_free(r);
        free(t.p);
        free(text);
    }
}

/* Bytes that are no UTF-8 are text as they stand, and make a call none. */
static void test_bytes_that_are_no_text(void **state)
{
    (void)state;
    const struct call_form h = {.row = call_row_named("hermes")},
                           q = {.row = call_row_named("qwen-xml")};
    check(&h, "\xff\xc3<tool_call>{\"name\": \"g\xff\"}</tool_call>\xf0",
          "[T \xff\xc3<tool_call>{\"name\": \"g\xff\"}</tool_call>\xf0]");
    check(&q, "<tool_call><function=g><parameter=a>\xff</parameter></function></tool_call>",
          "[B g][T <tool_call><function=g><parameter=a>\xff</parameter></function></tool_call>]");
    struct told t = {0};
    struct call_reader *r = call_reader_new(&h);
    assert_int_equal(call_reader_put(r, "a\0<tool_call>\0b", 15), OK);
    call_reader_end(r);
    drain(r, &t);
    assert_int_equal(t.n, 15 + 4);
    assert_memory_equal(t.p, "[T a\0<tool_call>\0b]", 19);
    call_reader_free(r);
    free(t.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_syntax),
        cmocka_unit_test(test_reasoning),
        cmocka_unit_test(test_hostile_answers_end),
        cmocka_unit_test(test_a_call_too_long_is_text),
        cmocka_unit_test(test_bytes_that_are_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
