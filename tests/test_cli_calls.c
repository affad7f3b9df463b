/*
 * sluice chat and a model that calls tools, though a chat has none: the model is the built-in
 * one with another chat template, and what it writes is ours.
 */
#include "cli/cli.h" /* first: cmocka.h makes `fail` a macro */

#define cmd_chat chat_of_this_test
#define sluice_generate write_ours
static int write_ours(sluice_session *x, const sluice_sampling *p, int64_t max_tokens,
                      sluice_token_fn *on_token, void *user, sluice_finish *finish,
                      sluice_error *err);
#include "cli/cmd_chat.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <unistd.h>

#define BUILT_IN "models/pocket-dictionary.gguf"

/* Of Qwen's kind; `refuses`: a call that no result follows. */
#define TEMPLATE(refuses)                                                                          \
    "{% for m in messages %}" refuses "<|im_start|>{{ m.role }}\n{{ m.content }}"                  \
    "{% for c in m.tool_calls %}\n<tool_call>\n{\"name\": \"{{ c.function.name }}\", "             \
    "\"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n"    \
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
#define REFUSES                                                                                    \
    "{% if m.role == 'user' and loop.previtem and loop.previtem.tool_calls %}"                     \
    "{{ raise_exception('no result') }}{% endif %}"

static struct chat chat;
static const char *ours;   /* what the model writes */
static int64_t n_computed; /* tokens of the prompt that were not held */
static int64_t n_prompt, n_held; /* tokens of the session when an answer began, and ended */

static int write_ours(sluice_session *x, const sluice_sampling *p, int64_t max_tokens,
                      sluice_token_fn *on_token, void *user, sluice_finish *finish,
                      sluice_error *err)
{
    sluice *s = chat.m.s;
    sluice_stats stats;
    (void)p;
    (void)max_tokens;
    sluice_get_stats(s, &stats);
    n_computed = stats.prompt_tokens;
    n_prompt = sluice_session_length(x);
    for (const char *c = ours; *c; c++) { /* not as the tokeniser would cut it */
        int32_t *ids;
        int64_t n;
        assert_int_equal(sluice_tokenize(s, c, 1, false, &ids, &n, err), 0);
        assert_int_equal(n, 1);
        assert_int_equal(on_token(user, ids[0], c, 1), 0);
        assert_int_equal(sluice_session_append(x, ids, 1, NULL, NULL, err), 0);
        sluice_free(ids);
    }
    n_held = sluice_session_length(x);
    *finish = SLUICE_FINISH_END;
    return 0;
}

static char folder[] = "/tmp/sluice-calls-XXXXXX";
static char path[64];

static void begin(const char *source)
{
    static struct args a;
    char *argv[] = {"-m", BUILT_IN, "--chat-template", path, NULL};
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(source, f);
    fclose(f);
    assert_int_equal(options_parse(&a, C_CHAT, "chat", 0, 4, argv), ST_OK);
    input_begin(&a, model_plan);
    chat = (struct chat){.a = &a};
    assert_int_equal(cli_model_open(&a, 0, &chat.m), ST_OK);
}

static void end(void)
{
    forget_from(&chat, 0);
    free(chat.messages);
    assert_int_equal(cli_model_close(&chat.m, ST_OK), ST_OK);
}

/* A turn in which the model writes `wrote`; what is on stdout. */
static const char *turn(const char *asked, const char *wrote)
{
    static char got[512];
    FILE *f = tmpfile();
    int saved = dup(STDOUT_FILENO);
    assert_true(f && saved >= 0);
    fflush(stdout);
    assert_true(dup2(fileno(f), STDOUT_FILENO) >= 0);
    ours = wrote;
    int status = answer(&chat, asked);
    fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    rewind(f);
    got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
    fclose(f);
    assert_int_equal(status, ST_OK);
    return got;
}

#define CALL "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}\n</tool_call>"
#define SHOWN                                                                                      \
    "{\"id\": \"call00000\", \"type\": \"function\", "                                             \
    "\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}}\n"

/* The call is one line, it is part of the conversation, and the next turn computes only what
 * is new. */
static void a_call_is_told_and_kept(void **state)
{
    (void)state;
    begin(TEMPLATE(""));
    assert_string_equal(turn("Hi", "I look.\n\n" CALL "\n"), "I look.\n" SHOWN);
    assert_int_equal(chat.n, 2);
    assert_string_equal(chat.messages[1].content, "I look.");
    assert_int_equal(chat.messages[1].n_calls, 1);
    assert_string_equal(chat.messages[1].calls[0].name, "f");
    assert_string_equal(chat.messages[1].calls[0].id, "call00000");
    for (int i = 0; i < 2; i++) {
        int64_t before = n_held;
        assert_string_equal(turn("And?", " Well. \n"), " Well. \n");
        assert_int_equal(n_computed, n_prompt - before);
    }
    end();
}

/* A template that wants a result gets the conversation without the call. */
static void a_template_may_want_a_result(void **state)
{
    (void)state;
    begin(TEMPLATE(REFUSES));
    assert_string_equal(turn("Hi", CALL), SHOWN);
    assert_string_equal(turn("And?", "Well."), "Well.\n");
    assert_int_equal(chat.n, 4);
    assert_int_equal(chat.messages[1].n_calls, 0);
    end();
}

/* An answer in JSON is none: that would be a call only of a tool that there is. */
static void what_looks_like_a_call_is_text(void **state)
{
    (void)state;
    static const char json[] = "{\"name\": \"f\", \"parameters\": {}}";
    begin("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
          "{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"parameters\": "
              "{{ c.function.arguments | tojson }}}{% endfor %}<|im_end|>\n{% endfor %}"
              "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
    assert_string_equal(chat.m.info.calls, "llama3");
    assert_memory_equal(turn("Hi", json), json, sizeof(json) - 1);
    assert_int_equal(chat.messages[1].n_calls, 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_is_told_and_kept),
        cmocka_unit_test(a_template_may_want_a_result),
        cmocka_unit_test(what_looks_like_a_call_is_text),
    };
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/form", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(folder);
    return failed;
}
