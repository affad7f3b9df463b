/*
 * Fuzzing of the interpreter of chat templates. The first byte of the input picks what
 * is done with the rest:
 *   template  run on a fixed conversation, whose texts are all of one byte that the
 *             template does not hold: wherever that is written it is not the template's
 *   JSON      read, written, and read again: the same text
 * Whatever comes in, it ends within its limits, with a text or a sentence.
 */
#include "text/jinja/jinja.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct jinja_limits small = {
    .steps = 200000, .depth = 300, .bytes = (size_t)4 << 20, .output = (size_t)1 << 20};

static void check(bool held)
{
    if (!held)
        abort();
}

struct job {
    struct str text;
    struct jbuf out;
};

static void run_template(struct jinja *j, void *user)
{
    static const char context[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"\x7f\x7f\x7f\"}, {\"role\": "
        "\"assistant\", \"content\": \"\x7f \x7f\", \"reasoning_content\": \"\x7f\", "
        "\"tool_calls\": [{\"function\": {\"name\": \"\x7f\", \"arguments\": {\"\x7f\": [1, 2.5, "
        "null, true, \"\x7f\"]}}}]}], \"tools\": [{\"name\": \"\x7f\"}], \"a\": \"\x7f\", \"l\": "
        "[3, 1, 2], \"n\": 7, \"d\": {\"x\": \"\x7f\", \"y\": {\"z\": []}}}";
    struct job *b = user;
    struct jval globals = jjson_read(j, (struct str){context, sizeof context - 1}, "context");
    jglobals(j, globals.dict);
    jinja_render(j, b->text, globals.dict, &b->out);
}

static void run_json(struct jinja *j, void *user)
{
    static const struct json_form form = {0};
    struct job *b = user;
    struct jbuf again = {0};
    json_write(j, &b->out, jjson_read(j, b->text, "text"), &form);
    struct jval v = jjson_read(j, (struct str){b->out.p, b->out.n}, "what was written");
    json_write(j, &again, v, &form);
    check(again.n == b->out.n && !memcmp(again.p, b->out.p, again.n));
}

static void check_marks(const struct str *text, const struct jbuf *out)
{
    bool may_write = memchr(text->p, 0x7f, text->n) || memmem(text->p, text->n, "\\x", 2) ||
                     memmem(text->p, text->n, "\\u", 2) || memmem(text->p, text->n, "\\U", 2);
    for (size_t i = 0; i < out->n && !may_write; i++)
        check(out->p[i] != 0x7f || !out->own[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    bool json = data[0] == 'J';
    char *copy = malloc(size); /* its bounds are watched */
    check(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    struct job b = {.text = {copy, size - 1}};
    struct jinja j;
    struct err e = {0};
    int rc = jinja_run(&j, &small, 1786797296, json ? run_json : run_template, &b, &e);
    check(rc == OK ? !e.code : e.code == rc && e.text[0]);
    check(j.n_bytes <= small.bytes + (64 << 10) && j.n_steps <= small.steps + 1);
    if (rc == OK && !json)
        check_marks(&b.text, &b.out);
    jinja_end(&j);
    free(copy);
    return 0;
}
