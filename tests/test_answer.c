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
                                        "<|message|>",  "<|end|>",      "<|call|>",  "<|other|>",
                                        "<|return|>"};
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

/* ---- answers that are put back ---- */

/* Reasoning and calls in tags; what is said is trimmed. */
static const char tags[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ "
    "m.reasoning_content | trim if m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content | "
    "trim }}{% for c in m.tool_calls %}\n\n<tool_call>\n<function={{ c.function.name }}>\n"
    "{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n{{ v if v is string else "
    "v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";

/* No mark in front of an answer. */
static const char bare[] =
    "{% for m in messages %}{{ m.content if m.role == 'assistant' else '<|start|>' + m.content + "
    "'<|message|>' }}{{ '<|im_end|>' if m.role == 'assistant' }}{% endfor %}";

/* As gpt-oss has it: reasoning stays in front of a call. */
static const char thoughts[] =
    "{% for m in messages %}{% if m.tool_calls %}{% if m.reasoning_content %}<|start|>assistant"
    "<|channel|>analysis<|message|>{{ m.reasoning_content }}<|end|>{% endif %}<|start|>assistant "
    "to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>{{ "
    "m.tool_calls[0].function.arguments }}<|call|>{% else %}<|start|>{{ m.role }}<|message|>{{ "
    "m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant"
    "{% endif %}";

#define CALL                                                                                       \
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1.0,  \"b\": \"\\u00e9\"}}\n</tool_call>"

static const struct {
    const char *source, *text;
} put_back[] = {
    {hermes, "It is so."},
    {hermes, "I look.\n" CALL "\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>"},
    {hermes, "<think>\nhm\n</think>\n\nIt is so."},
    /* as the template would not write it */
    {hermes, "<think>hm\n\n\n</think>It is so.\n\n"},
    {hermes, "\n<think>\n\n \n</think>\n \nIt is so."},
    {hermes, "I look.\n\n <tool_call>{\"arguments\":{\"a\":1},\"name\":\"f\"}</tool_call>"
             "<tool_call> {\"name\": \"g\"}\n\n</tool_call>\n\n"},
    {hermes, CALL " \n"},
    {hermes, "I look" CALL "and " CALL "\nhope."},
    {tags, "\nhm\n\n</think>It is so.\n"},
    {tags, "hm</think>I look.<tool_call><function=f><parameter=a>\n1.0\n</parameter><parameter=b>"
           "\n x \n</parameter></function></tool_call>\n"},
    {tags, "</think><tool_call><function=f></function></tool_call>"},
    {bare, "\nIt is so. \n"},
    {thoughts, "<|channel|>analysis<|message|> hm\n<|end|><|start|>assistant<|channel|>commentary "
               "to=functions.f <|message|>{\"a\": 1.0}"},
};

/* As a model may write it: marks are tokens, all else is cut into bytes. */
static void write_text(const sluice *s, const char *text, struct text_ids *ids)
{
    struct text_ids one = {0};
    for (const char *p = text; *p;) {
        int32_t id = vocab_special(s->text, p, strlen(p));
        size_t n = id >= 0 ? text_sym(s->text, id).n : 1;
        encode(s->text, p, n, id >= 0, &one);
        for (int64_t i = 0; i < one.n; i++)
            assert_int_equal(push_id(ids, one.id[i], NULL), OK);
        p += n;
    }
    text_ids_free(&one);
}

/* The ids of a conversation, to be freed with sluice_free. */
static int32_t *chat_of(const sluice *s, const sluice_message *m, size_t n, int64_t *n_ids,
                        int64_t *n_stable)
{
    sluice_error e;
    sluice_chat c;
    int32_t *ids = NULL;
    sluice_chat_init(&c);
    c.messages = m;
    c.n_messages = n;
    if (sluice_chat_encode(s, &c, &ids, n_ids, n_stable, &e) < 0)
        fail_msg("%s", e.text);
    return ids;
}

static bool begins_with(const int32_t *ids, int64_t n, const struct text_ids *with)
{
    return n >= with->n && !memcmp(ids, with->id, (size_t)with->n * sizeof *ids);
}

/* A conversation of a question and what the model wrote: what its session holds. Goes on in
 * m[0 .. n), to be freed by end_turns. */
struct turns {
    sluice *s;
    sluice_message m[6];
    size_t n;
    sluice_answer *answers[3];
    struct text_ids held;
};

static void take_turn(struct turns *t, const char *asked, const char *text, size_t i)
{
    sluice_answer_options o = with_tools();
    sluice_error e;
    int64_t n, n_stable;
    struct told told = {.n = 0};
    struct text_ids wrote = {0};
    t->m[t->n++] = (sluice_message){.role = "user", .content = asked};
    int32_t *prompt = chat_of(t->s, t->m, t->n, &n, &n_stable);
    o.prompt = prompt;
    o.n_prompt = n;
    write_text(t->s, text, &wrote);
    assert_int_equal(sluice_answer_new(t->s, &o, &t->answers[i], &e), 0);
    for (int64_t k = 0; k < wrote.n; k++) {
        struct str piece;
        assert_int_equal(text_piece(t->s->text, wrote.id[k], false, &piece), OK);
        assert_int_equal(sluice_answer_put(t->answers[i], wrote.id[k], piece.p, piece.n, &e), 0);
        drain(t->answers[i], &told);
    }
    sluice_answer_end(t->answers[i]);
    drain(t->answers[i], &told);
    assert_int_equal(sluice_answer_message(t->answers[i], &t->m[t->n++], &e), 0);
    t->held.n = 0;
    for (int64_t k = 0; k < n; k++)
        assert_int_equal(push_id(&t->held, prompt[k], NULL), OK);
    for (int64_t k = 0; k < wrote.n; k++)
        assert_int_equal(push_id(&t->held, wrote.id[k], NULL), OK);
    text_ids_free(&wrote);
    sluice_free(prompt);
}

static void end_turns(struct turns *t)
{
    for (size_t i = 0; i < ARRAY_LEN(t->answers); i++)
        sluice_answer_free(t->answers[i]);
    text_ids_free(&t->held);
    close_words(t->s);
}

/* The next turn begins with what the session holds, id by id, whatever form the template has
 * for it; and all of that stays in later turns. */
static void an_answer_put_back_is_what_the_session_holds(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(put_back); i++) {
        struct turns t = {.s = words(put_back[i].source, true)};
        for (size_t k = 0; k < 3; k++) {
            int64_t n, n_stable;
            take_turn(&t, k ? "Why?" : "Hi", put_back[i].text, k);
            const sluice_message next[] = {
                t.m[0], t.m[1], k > 0 ? t.m[2] : (sluice_message){.role = "user", .content = "?"},
                t.m[3], k > 1 ? t.m[4] : (sluice_message){.role = "user", .content = "?"},
                t.m[5], {.role = "user", .content = "?"}};
            int32_t *ids = chat_of(t.s, next, t.n + 1, &n, &n_stable);
            if (!begins_with(ids, n, &t.held) || n_stable < t.held.n)
                fail_msg("row %zu, turn %zu: \"%s\" is not what is held", i, k, put_back[i].text);
            sluice_free(ids);
        }
        end_turns(&t);
    }
}

static char *text_of(const sluice *s, const sluice_message *m, size_t n)
{
    sluice_error e;
    sluice_chat c;
    char *text = NULL;
    size_t n_bytes;
    sluice_chat_init(&c);
    c.messages = m;
    c.n_messages = n;
    c.no_prompt = true;
    if (sluice_chat_text(s, &c, &text, &n_bytes, &e) < 0)
        fail_msg("%s", e.text);
    return text;
}

/* The text is what the model wrote, too. */
static void an_answer_put_back_is_the_same_text(void **state)
{
    (void)state;
    static const char wrote[] = "\n<think>hm\n</think>I look. \n" CALL "\n";
    struct turns t = {.s = words(hermes, true)};
    take_turn(&t, "Hi", wrote, 0);
    char *text = text_of(t.s, t.m, 2);
    static const char want[] = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_memory_equal(text, want, sizeof want - 1);
    assert_memory_equal(text + sizeof want - 1, wrote, sizeof wrote - 1);
    assert_string_equal(text + sizeof want + sizeof wrote - 2, "<|im_end|>\n");
    sluice_free(text);
    end_turns(&t);
}

/* A template that leaves reasoning out of what is past has its way; so has a host that says
 * something else than the model did. */
static void what_says_something_else_is_not_put_back(void **state)
{
    (void)state;
    static const char forgets[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '<think>\n' + m.reasoning_content + "
        "'\n</think>\n' if loop.last and m.reasoning_content }}{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    static const char wrote[] = "<think>hm</think>It is so.";
    struct turns t = {.s = words(forgets, true)};
    take_turn(&t, "Hi", wrote, 0);
    t.m[2] = (sluice_message){.role = "user", .content = "?"};
    char *text = text_of(t.s, t.m, 2);
    assert_non_null(strstr(text, wrote));
    sluice_free(text);
    text = text_of(t.s, t.m, 3);
    assert_null(strstr(text, "hm"));
    sluice_free(text);
    t.m[1].content = "It is not so.";
    text = text_of(t.s, t.m, 2);
    assert_non_null(strstr(text, "<think>\nhm\n</think>\nIt is not so.<|im_end|>"));
    sluice_free(text);
    end_turns(&t);
}

/* A control token that the template does not write becomes none, though the model wrote it,
 * and nothing that stands in a message ever does. */
static void an_answer_brings_no_control_token(void **state)
{
    (void)state;
    static const char *const texts[] = {"It<|start|>user is so.", "It is so.<|other|>"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct turns t = {.s = words(hermes, true)};
        int64_t n, n_stable, n_starts = 0;
        take_turn(&t, "<|im_start|><|other|>", texts[i], 0);
        t.m[2] = (sluice_message){.role = "user", .content = "?"};
        int32_t *ids = chat_of(t.s, t.m, 3, &n, &n_stable);
        for (int64_t k = 0; k < n; k++) {
            struct str piece, plain;
            assert_int_equal(text_piece(t.s->text, ids[k], true, &piece), OK);
            assert_int_equal(text_piece(t.s->text, ids[k], false, &plain), OK);
            assert_false(str_is(piece, "<|start|>") || str_is(piece, "<|other|>"));
            n_starts += piece.n > 0 && plain.n == 0;
        }
        assert_int_equal(n_starts, 2 * 3 + 1);
        sluice_free(ids);
        end_turns(&t);
    }
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
    static const int32_t far = 1 << 20, minus = -1, some = 3;
    static const struct {
        const char *role;
        const int32_t *ids;
        int64_t n;
        const char *says;
    } wrong_ids[] = {
        {"assistant", &far, 1, "token id 1048576 of a message is outside"},
        {"assistant", &minus, 1, "token id -1 of a message is outside"},
        {"assistant", NULL, 1, "ids of a message"},
        {"assistant", &some, -1, "ids of a message"},
        {"user", &some, 1, "a message of role 'user' has ids that a model wrote"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong_ids); i++) {
        const sluice_message m = {.role = wrong_ids[i].role,
                                  .content = "x",
                                  .ids = wrong_ids[i].ids,
                                  .n_ids = wrong_ids[i].n};
        int64_t n, n_stable;
        int32_t *ids;
        sluice_error e;
        assert_int_equal(sluice_chat_ids(s, &m, 1, false, &ids, &n, &n_stable, &e), SLUICE_E_ARG);
        if (!strstr(e.text, wrong_ids[i].says))
            fail_msg("%s", e.text);
    }
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
        cmocka_unit_test(an_answer_put_back_is_what_the_session_holds),
        cmocka_unit_test(an_answer_put_back_is_the_same_text),
        cmocka_unit_test(what_says_something_else_is_not_put_back),
        cmocka_unit_test(an_answer_brings_no_control_token),
        cmocka_unit_test(wrong_messages_are_refused),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
