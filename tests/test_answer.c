/*
 * Answers told apart through the public interface, over vocabularies whose marks are control
 * tokens; and messages with calls and results.
 */
#include "support/text_check.h"

#include "engine/engine.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char hermes[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ "
    "m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for c in m.tool_calls %}{{ "
    "'\n' if m.content or not loop.first }}<tool_call>\n{\"name\": \"{{ c.function.name }}\", "
    "\"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>\n' if "
    "enable_thinking }}{% endif %}";

static const char channels[] =
    "{% for m in messages %}{% if m.tool_calls %}<|start|>assistant to=functions.{{ "
    "m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>{{ "
    "m.tool_calls[0].function.arguments }}<|call|>{% else %}<|start|>{{ m.role }}<|message|>{{ "
    "m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant"
    "{% endif %}";

/* A model that has words only; freed by close_words. */
static sluice *words(const char *source, bool control)
{
    static const char *const marks[] = {"<|im_start|>", "<|im_end|>",   "<think>",   "</think>",
                                        "<tool_call>",  "</tool_call>", "<|start|>", "<|channel|>",
                                        "<|message|>",  "<|end|>",      "<|call|>",  "<|other|>"};
    sluice *s = calloc(1, sizeof *s);
    struct tb *b = tb_new("qwen2");
    assert_non_null(s);
    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        tb_token(b, marks[i], control ? TOKEN_CONTROL : TOKEN_USER);
    b->c.chat_template = (struct str){source, strlen(source)};
    s->text = open_built(b);
    tb_free(b);
    return s;
}

static void close_words(sluice *s)
{
    text_close(s->text);
    free(s);
}

/* ---- what is told, as one text ---- */

struct told {
    char text[2048];
    size_t n;
    int last; /* texts of one kind that follow each other are one */
};

static void tell(struct told *t, const char *what, const char *p, size_t n)
{
    int k = snprintf(t->text + t->n, sizeof t->text - t->n, "%s(%.*s)", what, (int)n, p);
    assert_true(k > 0 && t->n + (size_t)k < sizeof t->text);
    t->n += (size_t)k;
}

/* In place of the bracket that was taken back. */
static void tell_more(struct told *t, const char *p, size_t n)
{
    int k = snprintf(t->text + t->n, sizeof t->text - t->n, "%.*s)", (int)n, p);
    assert_true(k > 0 && t->n + (size_t)k < sizeof t->text);
    t->n += (size_t)k;
}

static void drain(sluice_answer *a, struct told *t)
{
    static const char *const kinds[] = {"", "T", "R", "B", "C"};
    sluice_part p;
    sluice_error e;
    int kind;
    while ((kind = sluice_answer_next(a, &p, &e)) > 0) {
        assert_int_equal(kind, p.kind);
        if (kind == SLUICE_PART_CALL)
            tell(t, p.call->name, p.call->arguments, strlen(p.call->arguments));
        else if (kind == t->last && kind != SLUICE_PART_CALL_BEGUN && t->n--)
            tell_more(t, p.text, p.n_bytes);
        else
            tell(t, kinds[kind], p.text, p.n_bytes);
        t->last = kind;
    }
    assert_int_equal(kind, SLUICE_PART_NONE);
}

/* The ids of a text with marks, token by token, as sluice_generate would pass them. */
static sluice_answer *answered(const sluice *s, const sluice_answer_options *o, const char *text,
                               struct told *t)
{
    struct text_ids ids = {0};
    sluice_answer *a = NULL;
    sluice_error e;
    *t = (struct told){.n = 0};
    encode(s->text, text, strlen(text), true, &ids);
    assert_int_equal(sluice_answer_new(s, o, &a, &e), 0);
    for (int64_t i = 0; i < ids.n; i++) {
        struct str piece;
        assert_int_equal(text_piece(s->text, ids.id[i], false, &piece), OK);
        assert_int_equal(sluice_answer_put(a, ids.id[i], piece.p, piece.n, &e), 0);
        drain(a, t);
    }
    sluice_answer_end(a);
    drain(a, t);
    text_ids_free(&ids);
    return a;
}

static sluice_answer_options with_tools(void)
{
    sluice_answer_options o;
    sluice_answer_options_init(&o);
    o.tools = "[]";
    o.n_tools_bytes = 2;
    return o;
}

static void marks_may_be_control_tokens(void **state)
{
    (void)state;
    static const char text[] = "<think>\nhm\n</think>\n\nI<|other|> look.\n<tool_call>\n{\"name\": "
                               "\"f\", \"arguments\": {\"a\":1}}\n</tool_call>";
    for (int control = 0; control < 2; control++) {
        sluice *s = words(hermes, control);
        sluice_answer_options o = with_tools();
        struct told t;
        sluice_answer *a = answered(s, &o, text, &t);
        assert_string_equal(t.text, control ? "R(hm)T(I look.)B(f)f({\"a\":1})"
                                            : "R(hm)T(I<|other|> look.)B(f)f({\"a\":1})");
        sluice_answer_free(a);
        close_words(s);
    }
}

static void channels_are_told_apart(void **state)
{
    (void)state;
    sluice *s = words(channels, true);
    sluice_answer_options o;
    struct told t;
    sluice_answer_options_init(&o); /* channels are more than calls */
    sluice_answer *a =
        answered(s, &o,
                 "<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.f"
                 "<|channel|>commentary json<|message|>{\"a\": 1}",
                 &t);
    assert_string_equal(t.text, "R(hm)B(f)f({\"a\": 1})");
    sluice_answer_free(a);
    close_words(s);
}

/* Without tools nothing is looked for, but reasoning. */
static void without_tools_calls_are_text(void **state)
{
    (void)state;
    static const char call[] = "<tool_call>{\"name\": \"f\"}</tool_call>";
    sluice *s = words(hermes, false);
    sluice_answer_options o;
    struct told t;
    sluice_answer_options_init(&o);
    sluice_answer *a = answered(s, &o, call, &t);
    assert_string_equal(t.text, "T(<tool_call>{\"name\": \"f\"}</tool_call>)");
    sluice_answer_free(a);
    close_words(s);
}

/* The prompt says whether reasoning is open. */
static void the_prompt_opens_reasoning(void **state)
{
    (void)state;
    sluice *s = words(hermes, true);
    for (int open = 0; open < 2; open++) {
        struct text_ids ids = {0};
        sluice_answer_options o = with_tools();
        struct told t;
        const char *prompt = open ? "<|im_start|>assistant\n<think>\n"
                                  : "<|im_start|>assistant\n<think>\n\n</think>\n\n";
        encode(s->text, prompt, strlen(prompt), true, &ids);
        o.prompt = ids.id;
        o.n_prompt = ids.n;
        sluice_answer *a = answered(s, &o, "so</think>it", &t);
        assert_string_equal(t.text, open ? "R(so)T(it)" : "T(soit)");
        sluice_answer_free(a);
        text_ids_free(&ids);
    }
    close_words(s);
}

/* What the model wrote, put back into the conversation, is what it wrote. */
static void an_answer_put_back_is_the_same_text(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1.0,  \"b\": \"\\u00e9\"}}\n"
        "</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
        "<think>\nhm\n</think>\n\nIt is so.",
        "<tool_call>\n{\"name\": \"f\", \"arguments\": { }}\n</tool_call>",
        /* as the template would not write it */
        "I look.\n\n <tool_call>{\"arguments\":{\"a\":1},\"name\":\"f\"}</tool_call><tool_call> "
        "{\"name\": \"g\"}\n\n</tool_call>",
        "<tool_call>{\"name\":\"f\", \"arguments\": {}}</tool_call>",
    };
    sluice *s = words(hermes, true);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        sluice_answer_options o = with_tools();
        sluice_message m[2] = {{.role = "user", .content = "Hi"}};
        sluice_error e;
        sluice_chat c;
        struct told t;
        char *text, want[600];
        size_t n;
        sluice_answer *a = answered(s, &o, texts[i], &t);
        assert_int_equal(sluice_answer_message(a, &m[1], &e), 0);
        sluice_chat_init(&c);
        c.messages = m;
        c.n_messages = 2;
        c.no_prompt = true;
        if (sluice_chat_text(s, &c, &text, &n, &e) < 0)
            fail_msg("%s", e.text);
        snprintf(want, sizeof want,
                 "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n", texts[i]);
        assert_string_equal(text, want);
        sluice_free(text);
        sluice_answer_free(a);
    }
    close_words(s);
}

static void wrong_messages_are_refused(void **state)
{
    (void)state;
    sluice *s = words(hermes, true);
    static const sluice_tool_call good = {"f", "{}", "id"}, no_name = {NULL, "{}", NULL},
                                  no_arguments = {"f", NULL, NULL}, no_json = {"f", "{", NULL};
    static const struct {
        const char *role, *content;
        const sluice_tool_call *calls;
        size_t n;
        const char *says; /* NULL: nothing is wrong */
    } rows[] = {
        {"assistant", NULL, &good, 1, NULL},
        {"tool", "x", NULL, 0, NULL},
        {"tool", NULL, NULL, 0, "no content"},
        {"assistant", NULL, NULL, 0, "no content"},
        {"user", "x", &good, 1, "only an assistant's"},
        {"assistant", "x", NULL, 1, "no list of 1 calls"},
        {"assistant", "x", &good, SIZE_MAX, "no list of"},
        {"assistant", "x", &no_name, 1, "has no name"},
        {"assistant", "x", &no_arguments, 1, "has no arguments"},
        {"assistant", "x", &no_json, 1, "the arguments of a call, line 1"},
        {"function", "x", NULL, 0, "expected system, user, assistant or tool"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const sluice_message m = {.role = rows[i].role,
                                  .content = rows[i].content,
                                  .calls = rows[i].calls,
                                  .n_calls = rows[i].n};
        sluice_chat c;
        sluice_error e;
        char *text = NULL;
        size_t n;
        sluice_chat_init(&c);
        c.messages = &m;
        c.n_messages = 1;
        int rc = sluice_chat_text(s, &c, &text, &n, &e);
        if ((rc < 0) != (rows[i].says != NULL) || (rc < 0 && !strstr(e.text, rows[i].says)))
            fail_msg("row %zu: %d, \"%s\"", i, rc, e.text);
        sluice_free(text);
    }
    close_words(s);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    sluice *s = words(hermes, true);
    static const int32_t wrong = 1 << 20;
    sluice_answer *a = NULL;
    sluice_answer_options o = with_tools();
    sluice_error e;
    assert_int_equal(sluice_answer_new(s, NULL, &a, &e), SLUICE_E_ARG);
    o.calls = "nonsense";
    assert_int_equal(sluice_answer_new(s, &o, &a, &e), SLUICE_E_ARG);
    assert_non_null(strstr(e.text, "'nonsense'"));
    o = with_tools();
    o.n_prompt = 1;
    assert_int_equal(sluice_answer_new(s, &o, &a, &e), SLUICE_E_ARG);
    o.prompt = &wrong;
    assert_int_equal(sluice_answer_new(s, &o, &a, &e), SLUICE_E_ARG);
    o = with_tools();
    o.thinking_begins = o.thinking_ends =
        "a mark that has more bytes than any mark around reasoning has had so far, or will";
    assert_int_equal(sluice_answer_new(s, &o, &a, &e), SLUICE_E_ARG);
    o = with_tools();
    for (int i = 0; sluice_choice("calls", i); i++) {
        o.calls = sluice_choice("calls", i);
        assert_int_equal(sluice_answer_new(NULL, &o, &a, &e), 0);
        sluice_answer_free(a);
    }
    o.calls = NULL;
    assert_int_equal(sluice_answer_new(s, &o, &a, &e), 0);
    assert_int_equal(sluice_answer_put(a, wrong, "", 0, &e), SLUICE_E_ARG);
    assert_int_equal(sluice_answer_put(a, 1, NULL, 1, &e), SLUICE_E_ARG);
    sluice_answer_free(a);
    sluice_answer_free(NULL);
    close_words(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_may_be_control_tokens),
        cmocka_unit_test(channels_are_told_apart),
        cmocka_unit_test(without_tools_calls_are_text),
        cmocka_unit_test(the_prompt_opens_reasoning),
        cmocka_unit_test(an_answer_put_back_is_the_same_text),
        cmocka_unit_test(wrong_messages_are_refused),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
