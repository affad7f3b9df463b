/*
 * A whole model file with the tokeniser `llama`, through the public interface: its
 * keys are read, what is wrong in them is refused, its first blank goes and comes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden.h"
#include "support/remake.h"

enum { N = 320, BYTE = 3, BAR = 259, H, I, HI, BAR_HI };

static char path[] = "/tmp/sluice-text-XXXXXX";
static char names[N][16];
static const char *tokens[N];
static double types[N], scores[N];

static void name_tokens(void)
{
    static const char *const text[] = {"\xe2\x96\x81", "h", "i", "hi", "\xe2\x96\x81hi"};
    for (int i = 0; i < N; i++) {
        types[i] = i < BYTE ? 3 : i < BAR ? 6 : i < BAR + 5 ? 1 : 5;
        scores[i] = -i;
        if (i < BYTE)
            strcpy(names[i], i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
        else if (i < BAR)
            snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)(i - BYTE));
        else if (i < BAR + 5)
            strcpy(names[i], text[i - BAR]);
        else
            snprintf(names[i], sizeof names[i], "[PAD%d]", i);
        tokens[i] = names[i];
    }
}

/* With one more key, if it has a name; which replaces one of that name, as does `without`. */
static int open_file(struct remake_key more, const char *without, sluice **s, sluice_error *e)
{
    static const struct remake_key all_keys[] = {
        {.key = "tokenizer.ggml.model", .type = GGUF_STRING, .text = "llama"},
        {.key = "tokenizer.ggml.pre", .type = GGUF_STRING, .text = "default"},
        {.key = "tokenizer.ggml.bos_token_id", .type = GGUF_U32, .number = {1}},
        {.key = "tokenizer.ggml.eos_token_id", .type = GGUF_U32, .number = {2}},
        {.key = "tokenizer.ggml.add_bos_token", .type = GGUF_BOOL, .number = {1}}};
    static const struct remake_list all_lists[] = {
        {.key = "tokenizer.ggml.tokens", .type = GGUF_STRING, .n = N, .texts = tokens},
        {.key = "tokenizer.ggml.token_type", .type = GGUF_I32, .n = N, .numbers = types},
        {.key = "tokenizer.ggml.scores", .type = GGUF_F32, .n = N, .numbers = scores}};
    struct remake_key keys[8];
    struct remake_list lists[4];
    struct remake r = {.from = DATA "mixtral-tiny.gguf",
                       .keys = keys,
                       .lists = lists,
                       .without = without ? without : "tokenizer.ggml.merges"};
    const char *gone = without ? without : more.key ? more.key : "";
    for (size_t i = 0; i < sizeof all_keys / sizeof *all_keys; i++)
        if (strcmp(all_keys[i].key, gone) != 0)
            keys[r.n_keys++] = all_keys[i];
    for (size_t i = 0; i < sizeof all_lists / sizeof *all_lists; i++)
        if (strcmp(all_lists[i].key, gone) != 0)
            lists[r.n_lists++] = all_lists[i];
    if (more.key)
        keys[r.n_keys++] = more;
    remake(&r, path);
    sluice_options o = golden_small(path, "pread");
    o.tokenizer_only = true;
    return sluice_open(&o, s, e);
}

static void assert_tokens(const sluice *s, const char *text, const int32_t *want, int64_t n)
{
    int32_t *ids;
    int64_t n_ids;
    sluice_error e;
    assert_int_equal(sluice_tokenize(s, text, strlen(text), false, &ids, &n_ids, &e), 0);
    assert_int_equal(n_ids, n);
    assert_memory_equal(ids, want, (size_t)n * sizeof *want);
    sluice_free(ids);
}

#define ASSERT_TOKENS(s, text, ...)                                                                \
    assert_tokens(s, text, (const int32_t[]){__VA_ARGS__},                                         \
                  (int64_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static void keys_are_read(void **state)
{
    (void)state;
    sluice *s;
    sluice_error e = {0};
    if (open_file((struct remake_key){0}, NULL, &s, &e) < 0)
        fail_msg("%s", e.text);
    ASSERT_TOKENS(s, "hi hi", 1, BAR_HI, BAR_HI);
    ASSERT_TOKENS(s, "  hi", 1, BAR, BAR, BAR_HI);
    ASSERT_TOKENS(s, "\xff", 1, BAR, BYTE + 0xff);
    assert_true(sluice_is_end(s, 2));
    sluice_close(s);

    struct remake_key key = {.key = "tokenizer.ggml.add_space_prefix", .type = GGUF_BOOL};
    assert_int_equal(open_file(key, NULL, &s, &e), 0);
    ASSERT_TOKENS(s, "hi hi", 1, HI, BAR_HI);
    sluice_close(s);

    key = (struct remake_key){
        .key = "tokenizer.ggml.remove_extra_whitespaces", .type = GGUF_BOOL, .number = {1}};
    assert_int_equal(open_file(key, NULL, &s, &e), 0);
    ASSERT_TOKENS(s, "  hi   hi ", 1, BAR_HI, BAR_HI);
    sluice_close(s);

    key = (struct remake_key){.key = "tokenizer.ggml.add_bos_token", .type = GGUF_BOOL};
    assert_int_equal(open_file(key, NULL, &s, &e), 0);
    ASSERT_TOKENS(s, "hi", BAR_HI);
    sluice_close(s);

    /* The token that begins a text is the second, unless the file names another. */
    assert_int_equal(open_file((struct remake_key){0}, "tokenizer.ggml.bos_token_id", &s, &e), 0);
    ASSERT_TOKENS(s, "hi", 1, BAR_HI);
    sluice_close(s);
}

static void assert_file_refused(struct remake_key more, const char *without, const char *says)
{
    sluice *s = NULL;
    sluice_error e = {0};
    assert_true(open_file(more, without, &s, &e) < 0);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void what_is_wrong_is_refused(void **state)
{
    (void)state;
    static const char scores_key[] = "tokenizer.ggml.scores";
    struct remake_key key = {.key = scores_key, .type = GGUF_F32, .is_array = true, .n = 8};
    assert_file_refused(key, NULL, "tokenizer.ggml.scores has 8 entries for 320 tokens");
    assert_file_refused((struct remake_key){0}, scores_key, "tokenizer.ggml.scores");
    key = (struct remake_key){
        .key = scores_key, .type = GGUF_STRING, .is_array = true, .n = N, .text = "1"};
    assert_file_refused(key, NULL, "expected a list of numbers");
    assert_file_refused((struct remake_key){0}, "tokenizer.ggml.token_type",
                        "'tokenizer.ggml.token_type' is missing");
    key = (struct remake_key){.key = "tokenizer.ggml.precompiled_charsmap",
                              .type = GGUF_I32,
                              .is_array = true,
                              .n = 2,
                              .number = {3, 4}};
    assert_file_refused(key, NULL, "tokenizer.ggml.precompiled_charsmap");
}

/* A key of another type is not one that is missing. Each key with every other type; a bool
 * is no number and a number with a fraction no whole one. */
static void other_types_are_refused(void **state)
{
    (void)state;
    enum { TEXT = 1, WHOLE = 2, REAL = 4, BOOL = 8, LIST = 16 };
    static const struct {
        const char *key;
        int is; /* what it may be */
        const char *says;
    } keys[] = {
        {"general.architecture", TEXT, "expected a text"},
        {"tokenizer.ggml.model", TEXT, "expected a text"},
        {"tokenizer.ggml.pre", TEXT, "expected a text"},
        {"tokenizer.chat_template", TEXT, "expected a text"},
        {"tokenizer.ggml.tokens", TEXT | LIST, "expected a list of texts"},
        {"tokenizer.ggml.merges", TEXT | LIST, "expected a list of texts"},
        {"tokenizer.ggml.token_type", WHOLE | LIST, "expected a list of whole numbers"},
        {"tokenizer.ggml.scores", WHOLE | REAL | LIST, "expected a list of numbers"},
        {"tokenizer.ggml.bos_token_id", WHOLE, "expected a whole number"},
        {"tokenizer.ggml.eos_token_id", WHOLE, "expected a whole number"},
        {"tokenizer.ggml.eot_token_id", WHOLE, "expected a whole number"},
        {"tokenizer.ggml.eom_token_id", WHOLE, "expected a whole number"},
        {"tokenizer.ggml.add_bos_token", BOOL | WHOLE, "expected true or false"},
        {"tokenizer.ggml.add_space_prefix", BOOL | WHOLE, "expected true or false"},
        {"tokenizer.ggml.remove_extra_whitespaces", BOOL | WHOLE, "expected true or false"},
    };
    static const struct {
        enum gguf_type type;
        int is;
    } wrong[] = {{GGUF_STRING, TEXT}, {GGUF_I32, WHOLE}, {GGUF_F32, REAL}, {GGUF_BOOL, BOOL}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        for (int k = 0; k < 8; k++) {
            const bool list = k >= 4, fits = (keys[i].is & wrong[k % 4].is) != 0;
            if (list == ((keys[i].is & LIST) != 0) && fits)
                continue;
            struct remake_key key = {.key = keys[i].key,
                                     .type = wrong[k % 4].type,
                                     .is_array = list,
                                     .n = list ? 2 : 1,
                                     .text = "1"};
            assert_file_refused(key, NULL, keys[i].says);
            assert_file_refused(key, NULL, keys[i].key);
        }
    struct remake_key two = {
        .key = "tokenizer.ggml.add_bos_token", .type = GGUF_I32, .number = {2}};
    assert_file_refused(two, NULL, "'tokenizer.ggml.add_bos_token' is 2 (i32), expected");
}

/* More memory or less text would not help it. */
static void a_template_without_end_is_named(void **state)
{
    (void)state;
    sluice *s;
    sluice_error e = {0};
    sluice_message m = {.role = "user", .content = "hi"};
    sluice_chat c;
    char *text;
    size_t n;
    sluice_options o = golden_small(BUILT_IN, "pread");
    o.memory_bytes = (uint64_t)256 << 20;
    o.chat_template = "{{ 'a' * 1000000000 }}";
    if (sluice_open(&o, &s, &e) < 0)
        fail_msg("%s", e.text);
    sluice_chat_init(&c);
    c.messages = &m;
    c.n_messages = 1;
    assert_true(sluice_chat_text(s, &c, &text, &n, &e) < 0);
    if (strncmp(e.text, "the chat template goes beyond a limit, line 1: ", 47) != 0 ||
        strstr(e.text, "--memory"))
        fail_msg("%s", e.text);
    sluice_close(s);
}

/* Ids from a text's beginning, and those of an answer. */
static void streams_begin(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, BAR_HI, BYTE + 0xc3, BYTE + 0xa9, BAR_HI};
    static const char *const want[] = {" hi\xc3\xa9 hi", "hi\xc3\xa9 hi"};
    sluice *s;
    sluice_error e = {0};
    sluice_text_stream *t;
    assert_int_equal(open_file((struct remake_key){0}, NULL, &s, &e), 0);
    assert_int_equal(sluice_text_stream_new(s, &t, &e), 0);
    for (int begins = 0; begins < 2; begins++) {
        char all[32] = "";
        const char *p;
        size_t n;
        if (begins)
            sluice_text_stream_begin(t);
        for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
            assert_int_equal(sluice_text_stream_put(t, ids[i], &p, &n, &e), 0);
            strncat(all, p, n);
        }
        sluice_text_stream_end(t, &p, &n);
        assert_int_equal(n, 0);
        assert_string_equal(all, want[begins]);
    }
    sluice_text_stream_free(t);
    sluice_close(s);
}

static int make_path(void **state)
{
    (void)state;
    name_tokens();
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_read),
        cmocka_unit_test(what_is_wrong_is_refused),
        cmocka_unit_test(other_types_are_refused),
        cmocka_unit_test(a_template_without_end_is_named),
        cmocka_unit_test(streams_begin),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
