/*
 * probe: what a chat template does, found by running it on conversations whose words are
 * known: whether and where it writes reasoning, and how it writes calls of tools. Nothing is
 * looked for in its source.
 */
#include <string.h>

#include "text/calls/calls.h"
#include "text/text_internal.h"

/* ---- reasoning ---- */

static bool same(const struct chat_render *a, const struct chat_render *b)
{
    return a->n_text == b->n_text && (!a->n_text || !memcmp(a->text, b->text, a->n_text));
}

/* What is said in the probes; no template has these words. */
#define ASKED "Asked-7"
#define THOUGHT "Thought-7"
#define SAID "Said-7"

enum { ON, OFF, APART, TOGETHER, PLAIN, PROMPT, N_PROBES };

/* Renders each probe that the template accepts. */
static void probe(const struct text *t, struct chat_render r[N_PROBES], bool is[N_PROBES])
{
    static const struct chat_message m[] = {
        {.role = CHAT_USER, .content = ASKED},
        {.role = CHAT_ASSISTANT, .content = SAID, .reasoning = THOUGHT},
        {.role = CHAT_USER, .content = ASKED},
        {.role = CHAT_ASSISTANT, .content = "<think>\n" THOUGHT "\n</think>\n\n" SAID},
        {.role = CHAT_USER, .content = ASKED},
        {.role = CHAT_ASSISTANT, .content = SAID},
    };
    static const struct {
        size_t first, n;
        int think;
        bool no_prompt;
    } probes[N_PROBES] = {
        [ON] = {0, 1, 1, false},       [OFF] = {0, 1, 0, false},   [APART] = {0, 2, -1, true},
        [TOGETHER] = {2, 3, -1, true}, [PLAIN] = {4, 2, -1, true}, [PROMPT] = {0, 1, -1, false},
    };
    for (size_t i = 0; i < N_PROBES; i++) {
        const struct chat_request q = {.messages = m + probes[i].first,
                                       .n = probes[i].n,
                                       .think = probes[i].think,
                                       .no_prompt = probes[i].no_prompt,
                                       .most_steps = 200000,
                                       .most_bytes = (size_t)4 << 20};
        is[i] = chat_render_as(t, &q, ARGUMENTS_AS_GIVEN, &r[i], NULL) == OK;
    }
}

/* Whether the prompt goes on behind what begins an answer: it opens the reasoning. */
static bool prompt_goes_on(const struct chat_render *plain, const struct chat_render *prompt)
{
    const char *said = strstr(plain->text, SAID);
    size_t n = said ? (size_t)(said - plain->text) : 0;
    return n && prompt->n_text > n && !memcmp(plain->text, prompt->text, n) &&
           prompt->text[n + strspn(prompt->text + n, " \t\n")];
}

/* The special token nearest before p, and the nearest behind it, that lie in r's text;
 * n = 0: there is none. */
static struct str token_near(const struct chat_render *r, const char *p, bool before)
{
    struct str found = {NULL, 0};
    for (size_t i = 0; i < r->n_segs; i++)
        if (r->segs[i].markup && (before ? r->segs[i].p < p : !found.p && r->segs[i].p > p))
            found = (struct str){r->segs[i].p, r->segs[i].n};
    return found;
}

/* Whether the answer of a rendering begins behind the first mark, with no second one
 * between: then the first is no reasoning's. */
static bool begins_answer(const struct chat_render *r, struct str begins, struct str ends)
{
    const char *said = strstr(r->text, SAID), *last = NULL, *p = r->text;
    while (said && (p = memmem(p, (size_t)(said - p), begins.p, begins.n)) != NULL)
        last = p++;
    return last && !memmem(last, (size_t)(said - last), ends.p, ends.n);
}

static void keep_mark(char *out, struct str mark)
{
    memcpy(out, mark.p, mark.n);
    out[mark.n] = '\0';
}

/* The tokens around a reasoning, if they are not those of every answer (an answer that
 * has none may have an empty block of them). */
static void find_marks(struct chat_form *f, const struct chat_render *apart,
                       const struct chat_render *plain)
{
    const char *thought = strstr(apart->text, THOUGHT),
               *said = thought ? strstr(thought, SAID) : NULL;
    if (!said || !plain->text)
        return;
    struct str begins = token_near(apart, thought, true), ends = token_near(apart, thought, false);
    const char *asked = strstr(apart->text, ASKED);
    bool apply = begins.n && ends.n && asked && begins.p > asked && ends.p < said &&
                 begins.n < sizeof f->begins && ends.n < sizeof f->ends;
    if (!apply || begins_answer(plain, begins, ends))
        return;
    keep_mark(f->begins, begins);
    keep_mark(f->ends, ends);
}

/* Reasoning is a part of the form if thinking on or off changes the prompt, if a
 * reasoning or what stands before </think> is treated apart from the answer, or if the
 * prompt goes on behind what begins an answer. */
static void find_thinking(const struct text *t, struct chat_form *f)
{
    struct chat_render r[N_PROBES] = {0};
    bool is[N_PROBES];
    probe(t, r, is);
    f->thinking =
        (is[ON] && is[OFF] && !same(&r[ON], &r[OFF])) ||
        (is[APART] && strstr(r[APART].text, THOUGHT)) ||
        (is[TOGETHER] && strstr(r[TOGETHER].text, SAID) && !strstr(r[TOGETHER].text, THOUGHT)) ||
        (is[PLAIN] && is[PROMPT] && prompt_goes_on(&r[PLAIN], &r[PROMPT]));
    if (f->thinking) {
        strcpy(f->begins, "<think>");
        strcpy(f->ends, "</think>");
    }
    if (f->thinking && is[APART] && is[PLAIN])
        find_marks(f, &r[APART], &r[PLAIN]);
    for (size_t i = 0; i < N_PROBES; i++)
        chat_render_free(&r[i]);
}

/* ---- calls of tools ---- */

#define TOOL "tool_seven"
#define ARGUMENTS "{\"alpha\": \"val one\", \"beta\": 42, \"gamma\": {\"k\": [\"x\", true]}}"
#define PARAMETER(name, type)                                                                      \
    "\"" name "\": {\"type\": \"" type "\", \"description\": \"A " type ".\"}"
#define TOOLS                                                                                      \
    "[{\"type\": \"function\", \"function\": {\"name\": \"" TOOL "\", \"description\": \"Does "    \
    "it.\", \"parameters\": {\"type\": \"object\", \"properties\": {" PARAMETER(                   \
        "alpha", "string") ", " PARAMETER("beta",                                                  \
                                          "integer") ", " PARAMETER("gamma",                       \
                                                                    "object") "}, \"required\": "  \
                                                                              "[\"alpha\"]}}}]"

/* Whether answers of this row's kind, read from p on, have exactly the calls of the probe. */
static bool reads_calls(const struct call_row *row, const char *p, size_t n, size_t n_calls)
{
    const struct call_form f = {.row = row, .tools = {TOOLS, sizeof TOOLS - 1}};
    static const struct str arguments = {ARGUMENTS, sizeof ARGUMENTS - 1};
    struct call_reader *r = call_reader_new(&f);
    struct call_event ev = {.kind = CALL_EV_TEXT};
    bool is = r && call_reader_put(r, p, n) == OK;
    if (is)
        call_reader_end(r);
    while (is && ev.kind != CALL_EV_NONE)
        is = call_reader_next(r, &ev) == OK;
    is = is && call_reader_calls(r)->n == n_calls;
    for (size_t i = 0; is && i < n_calls; i++) {
        const struct call *c = &call_reader_calls(r)->v[i];
        is = !strcmp(c->name, TOOL) && !c->quoted &&
             call_same_json((struct str){c->arguments, strlen(c->arguments)}, arguments);
    }
    call_reader_free(r);
    return is;
}

/* The row that finds the calls in what was written behind the question; NULL: none does. */
static const struct call_row *find_row(const struct chat_render *r, size_t n_calls)
{
    const char *p = strstr(r->text, ASKED);
    p = p ? p + sizeof ASKED - 1 : NULL;
    for (const struct call_row *row = call_rows; p && row->name; row++) {
        const char *from = p, *end = r->text + r->n_text;
        while (row->starts && from < end &&
               call_starts(row->starts, from, (size_t)(end - from)) < 1)
            from++;
        if (from < end && reads_calls(row, from, (size_t)(end - from), n_calls))
            return row;
    }
    return NULL;
}

/* Lets the template write n_calls calls with arguments of that kind. *wrote: they are there,
 * whether they are understood or not. */
static const struct call_row *probe_calls(const struct text *t, enum chat_arguments arguments,
                                          const char *id, size_t n_calls, bool *wrote)
{
    const struct chat_call call = {.name = TOOL, .arguments = ARGUMENTS, .id = id};
    const struct chat_call calls[] = {call, call};
    const struct chat_message m[] = {
        {.role = CHAT_USER, .content = ASKED},
        {.role = CHAT_ASSISTANT, .content = "", .calls = calls, .n_calls = n_calls}};
    const struct chat_request q = {.messages = m,
                                   .n = ARRAY_LEN(m),
                                   .think = -1,
                                   .no_prompt = true,
                                   .tools = {TOOLS, sizeof TOOLS - 1},
                                   .most_steps = 200000,
                                   .most_bytes = (size_t)4 << 20};
    const struct call_row *row = NULL;
    struct chat_render r = {0};
    if (chat_render_as(t, &q, arguments, &r, NULL) == OK && strstr(r.text, "val one")) {
        *wrote = true;
        row = find_row(&r, n_calls);
    }
    chat_render_free(&r);
    return row;
}

/* Text that is kept as the model wrote it comes first; some templates write one call only,
 * some want an id of their own kind. */
static void find_calls(const struct text *t, struct chat_form *f)
{
    static const char *const ids[] = {"abc123def", "functions." TOOL ":0"};
    const struct call_row *row[2] = {NULL, NULL};
    static const enum chat_arguments ways[] = {ARGUMENTS_TEXT, ARGUMENTS_OBJECT};
    for (size_t w = 0; w < ARRAY_LEN(ways); w++) {
        bool wrote = false;
        for (size_t i = 0; i < ARRAY_LEN(ids) && !row[w] && (i == 0 || wrote); i++)
            for (size_t n = 2; n > 0 && !row[w]; n--)
                row[w] = probe_calls(t, ways[w], ids[i], n, &wrote);
    }
    f->calls = row[0] ? row[0] : row[1];
    f->arguments = row[0] && row[0] == row[1] ? ARGUMENTS_AS_GIVEN
                   : row[0]                   ? ARGUMENTS_TEXT
                   : row[1]                   ? ARGUMENTS_OBJECT
                                              : ARGUMENTS_UNKNOWN;
}

void chat_probe(const struct text *t, struct chat_form *f)
{
    find_thinking(t, f);
    find_calls(t, f);
}
