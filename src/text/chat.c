/*
 * chat: messages -> segments, in ChatML, the form of the Qwen family:
 *
 *   <|im_start|>user\n{content}<|im_end|>\n ... <|im_start|>assistant\n
 *
 * Templates are not executed. What differs between models of the family is
 * read off the text of the template (chat_form_read): what is trimmed, what
 * becomes of the reasoning of earlier answers, and how the generation prompt
 * treats thinking.
 *
 * A segment is either one special token, or all the text up to the next one:
 * the template's own words and the contents between two tokens are tokenised
 * together, as they are where the rendered text is tokenised as a whole.
 * Contents stay text all the same: what spells a token in them is none.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

/* ---- reading the template ---- */

/* Length of `word` at p, 0 if it is not there. A newline in `word` matches a
 * newline and also the two characters \n, as template strings spell it. */
static size_t word_at(const char *p, size_t n, const char *word)
{
    size_t i = 0;
    for (; *word; word++) {
        if (i < n && p[i] == *word)
            i++;
        else if (*word == '\n' && i + 1 < n && p[i] == '\\' && p[i + 1] == 'n')
            i += 2;
        else
            return 0;
    }
    return i;
}

/* The text after the first `word`, or {NULL, 0}. */
static struct str after(struct str s, const char *word)
{
    for (size_t i = 0; i < s.n; i++) {
        size_t k = word_at(s.p + i, s.n - i, word);
        if (k)
            return (struct str){s.p + i + k, s.n - i - k};
    }
    return (struct str){NULL, 0};
}

/* The text after the last `word`, or {NULL, 0}. */
static struct str after_last(struct str s, const char *word)
{
    struct str last = {NULL, 0};
    for (struct str next = s; (next = after(next, word)).p;)
        last = next;
    return last;
}

static bool mentions(struct str s, const char *word)
{
    return after(s, word).p != NULL;
}

/* Whether contents are trimmed: a statement that sets `content`, or one that
 * writes a turn from it, applies the filter. (Trimming only inside tool calls,
 * as Qwen3-Coder's template does, is none.) */
static bool reads_trim(struct str s)
{
    static const char *const trims[] = {"|trim", "| trim", ".strip()"};
    for (size_t i = 0; i + 1 < s.n; i++) {
        if (s.p[i] != '{' || (s.p[i + 1] != '%' && s.p[i + 1] != '{'))
            continue;
        char closing = s.p[i + 1] == '%' ? '%' : '}';
        size_t begin = i + 2;
        for (i = begin; i + 1 < s.n && !(s.p[i] == closing && s.p[i + 1] == '}');)
            i++;
        struct str one = {s.p + begin, i - begin};
        bool turn = mentions(one, "<|im_start|>") && mentions(one, "content");
        for (size_t k = 0; k < ARRAY_LEN(trims); k++)
            if ((turn || mentions(one, "set content =")) && mentions(one, trims[k]))
                return true;
    }
    return false;
}

/* The system message that a template writes where a conversation has none: the
 * text of a string literal with the whole turn in it. *n bytes of `s`, with
 * newlines spelt \n; NULL: there is none. */
static const char *default_system(struct str s, size_t *n)
{
    while ((s = after(s, "<|im_start|>system\n")).p) {
        size_t i = 0;
        while (i < s.n && !strchr("'\"{", s.p[i]) && !word_at(s.p + i, s.n - i, "<|im_end|>\n"))
            i++;
        if (i > 0 && i < s.n && s.p[i] == '<') {
            *n = i;
            return s.p;
        }
    }
    return NULL;
}

static int keep_system(struct str s, struct chat_form *f, struct err *e)
{
    size_t n = 0;
    const char *p = default_system(s, &n);
    if (!p)
        return OK;
    f->system = malloc(n + 1);
    if (!f->system)
        return err_set(e, E_NOMEM, "no memory for the chat template's system message");
    for (size_t i = 0; i < n;) {
        size_t k = word_at(p + i, n - i, "\n");
        f->system[f->n_system++] = k ? '\n' : p[i];
        i += k ? k : 1;
    }
    f->system[f->n_system] = '\0';
    return OK;
}

/*
 * The part of a template behind its last mention of add_generation_prompt
 * writes the generation prompt. Seen in the wild:
 *   Qwen3.5            "<think>\n" or, thinking off, "<think>\n\n</think>\n\n"
 *   Qwen3 (2504)       nothing, or, thinking off, "<think>\n\n</think>\n\n":
 *                      the model writes <think> itself
 *   Qwen3-2507 Thinking  "<think>\n" only; thinking off is then forced with
 *                      the empty block, since nothing else stops it
 *   Qwen2, plain ChatML  nothing
 * A template that never mentions add_generation_prompt is taken for the first.
 *
 * The part before it writes the messages. Answers after the last question get
 * their reasoning back in a think block: Qwen3.5 each of them, Qwen3 the last
 * message and those that have reasoning, QwQ none.
 */
int chat_form_read(struct str chat_template, struct chat_form *f, struct err *e)
{
    *f = (struct chat_form){0};
    f->chatml = !chat_template.n || mentions(chat_template, "<|im_start|>");
    f->thinking = mentions(chat_template, "<think>");
    f->trims = reads_trim(chat_template);
    f->system_first = mentions(chat_template, "System message must be at the beginning");
    f->needs_user = mentions(chat_template, "No user query found");
    TRY(keep_system(chat_template, f, e));
    if (!f->thinking)
        return OK;
    struct str tail = after_last(chat_template, "add_generation_prompt");
    struct str head = {chat_template.p, chat_template.n - tail.n};
    f->splits = mentions(head, "split('</think>')") || mentions(head, "split(\"</think>\")");
    f->keeps = mentions(head, "<think>\n");
    f->sparing = mentions(head, "not loop.last and reasoning_content");
    if (!tail.p)
        f->opens = f->shuts = true;
    while ((tail = after(tail, "<think>\n")).p) {
        if (word_at(tail.p, tail.n, "\n</think>"))
            f->shuts = true;
        else
            f->opens = true;
    }
    return OK;
}

void chat_form_free(struct chat_form *f)
{
    free(f->system);
    *f = (struct chat_form){0};
}

bool chat_has_thinking(const struct text *t)
{
    return t->chat.thinking;
}

/* ---- rendering ---- */

static struct str trim(struct str s)
{
    for (int k; s.n && (k = utf8_space(s.p, s.n)) > 0; s.n -= (size_t)k)
        s.p += k;
    while (s.n) {
        size_t k = 1; /* to the start of the last character */
        while (k < 4 && k < s.n && ((unsigned char)s.p[s.n - k] & 0xc0) == 0x80)
            k++;
        if (utf8_space(s.p + s.n - k, k) != (int)k)
            break;
        s.n -= k;
    }
    return s;
}

static struct str strip_newlines(struct str s, bool left, bool right)
{
    for (; left && s.n && s.p[0] == '\n'; s.n--)
        s.p++;
    while (right && s.n && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

/* Adds n bytes to the last segment, or as a new one. All segments' bytes lie one
 * after the other in r->text; p is set when the text no longer moves. */
static int add(struct chat_render *r, const char *p, size_t n, bool markup)
{
    bool joins = r->n_segs && !markup && !r->segs[r->n_segs - 1].markup;
    if (!n)
        return OK;
    if (n > r->cap_text - r->n_text) {
        size_t cap = r->cap_text + r->cap_text / 2 + n + 256;
        char *text = realloc(r->text, cap);
        if (!text)
            return E_NOMEM;
        r->text = text;
        r->cap_text = cap;
    }
    if (!joins && r->n_segs == r->cap_segs) {
        size_t cap = r->cap_segs * 2 + 16;
        struct text_segment *segs = realloc(r->segs, cap * sizeof *segs);
        if (!segs)
            return E_NOMEM;
        r->segs = segs;
        r->cap_segs = cap;
    }
    if (!joins)
        r->segs[r->n_segs++] = (struct text_segment){NULL, 0, markup};
    memcpy(r->text + r->n_text, p, n);
    r->n_text += n;
    r->segs[r->n_segs - 1].n += n;
    return OK;
}

static int add_content(struct chat_render *r, struct str s)
{
    return add(r, s.p, s.n, false);
}

/* Words of the template; a '<' begins a tag, which is one token if the
 * vocabulary has it, and else text. */
static int add_words(const struct text *t, struct chat_render *r, const char *words)
{
    while (*words) {
        size_t n = *words == '<' ? strcspn(words, ">") + 1 : strcspn(words, "<");
        int32_t id = vocab_special(t, words, n);
        TRY(add(r, words, n, id >= 0 && text_sym(t, id).n == n));
        words += n;
    }
    return OK;
}

/* The parts of an assistant's turn. A caller that kept a raw answer has both
 * in `content`: the answer stands behind the last </think>, the reasoning
 * before the first. */
static void split_answer(const struct chat_form *f, const struct chat_message *m,
                         struct str *reasoning, struct str *answer)
{
    struct str content = {m->content, strlen(m->content)};
    struct str before = {m->reasoning, m->reasoning ? strlen(m->reasoning) : 0};
    content = f->trims ? trim(content) : content;
    struct str rest = f->splits && !m->reasoning ? after(content, "</think>") : (struct str){0};
    if (rest.p) {
        before = (struct str){content.p, content.n - rest.n - (sizeof "</think>" - 1)};
        before = strip_newlines(before, false, true);
        struct str opened = after_last(before, "<think>");
        before = strip_newlines(opened.p ? opened : before, true, false);
        content = strip_newlines(after_last(content, "</think>"), true, false);
    }
    *reasoning = f->trims ? trim(before) : before;
    *answer = content;
}

/* in_progress: no user has spoken since, so the reasoning still counts. */
static int add_answer(const struct text *t, struct chat_render *r, const struct chat_message *m,
                      bool in_progress, bool last)
{
    const struct chat_form *f = &t->chat;
    struct str reasoning, content;
    split_answer(f, m, &reasoning, &content);
    if (in_progress && f->keeps && (!f->sparing || last || reasoning.n)) {
        TRY(add_words(t, r, "<think>\n"));
        TRY(add_content(r, f->trims ? reasoning : strip_newlines(reasoning, true, true)));
        TRY(add_words(t, r, "\n</think>\n\n"));
        content = f->trims ? content : strip_newlines(content, true, false);
    }
    return add_content(r, content);
}

static int add_turn(const struct text *t, struct chat_render *r, const struct chat_message *m,
                    bool in_progress, bool last)
{
    static const char *const heads[] = {
        [CHAT_SYSTEM] = "<|im_start|>system\n",
        [CHAT_USER] = "<|im_start|>user\n",
        [CHAT_ASSISTANT] = "<|im_start|>assistant\n",
    };
    struct str content = {m->content, strlen(m->content)};
    TRY(add_words(t, r, heads[m->role]));
    if (m->role == CHAT_ASSISTANT)
        TRY(add_answer(t, r, m, in_progress, last));
    else
        TRY(add_content(r, t->chat.trims ? trim(content) : content));
    return add_words(t, r, "<|im_end|>\n");
}

/* A user's message that asks something: templates count those that merely hand
 * in a tool's result to the answer in progress. */
static bool is_query(const struct chat_form *f, const struct chat_message *m)
{
    static const char begin[] = "<tool_response>", end[] = "</tool_response>";
    struct str s = {m->content, strlen(m->content)};
    s = f->trims ? trim(s) : s;
    return m->role == CHAT_USER &&
           !(word_at(s.p, s.n, begin) && s.n >= sizeof end - 1 &&
             !memcmp(s.p + s.n - (sizeof end - 1), end, sizeof end - 1));
}

static int add_all(const struct text *t, const struct chat_message *m, size_t n, bool think,
                   struct chat_render *r)
{
    const struct chat_form *f = &t->chat;
    size_t last_query = n - 1;
    for (size_t i = 0; i < n; i++)
        if (is_query(f, &m[i]))
            last_query = i;
    if (f->system && m[0].role != CHAT_SYSTEM) {
        const struct chat_message system = {CHAT_SYSTEM, f->system, NULL};
        TRY(add_turn(t, r, &system, false, false));
        r->n_stable = r->n_segs;
    }
    for (size_t i = 0; i < n; i++) {
        bool in_progress = m[i].role == CHAT_ASSISTANT && i > last_query;
        bool stable = r->n_stable == r->n_segs;
        TRY(add_turn(t, r, &m[i], in_progress, i == n - 1));
        /* The next question takes the reasoning out of a turn in progress. */
        if (stable && !(in_progress && f->keeps))
            r->n_stable = r->n_segs;
    }
    TRY(add_words(t, r, "<|im_start|>assistant\n"));
    if (think && f->opens)
        return add_words(t, r, "<think>\n");
    if (!think && (f->opens || f->shuts))
        return add_words(t, r, "<think>\n\n</think>\n\n");
    return OK;
}

static int check_messages(const struct chat_form *f, const struct chat_message *m, size_t n,
                          struct err *e)
{
    size_t n_queries = 0;
    if (!n)
        return err_set(e, E_ARG, "a conversation needs at least one message");
    for (size_t i = 0; i < n; i++) {
        if (!m[i].content || (int)m[i].role < CHAT_SYSTEM || m[i].role > CHAT_ASSISTANT)
            return err_set(e, E_ARG, "message %zu has %s", i,
                           m[i].content ? "an unknown role" : "no content");
        if (m[i].role == CHAT_SYSTEM && i && f->system_first)
            return err_set(e, E_ARG,
                           "message %zu is a system message: in this model's chat form only the "
                           "first can be", i);
        n_queries += is_query(f, &m[i]);
    }
    if (!n_queries && f->needs_user)
        return err_set(e, E_ARG,
                       "none of the %zu messages is a user's question: this model's chat form "
                       "needs one", n);
    return OK;
}

int chat_render(const struct text *t, const struct chat_message *m, size_t n, bool think,
                struct chat_render *out, struct err *e)
{
    if (!t->chat.chatml)
        return err_set(e, E_UNSUPPORTED,
                       "the model's chat form is not known (its template or vocabulary lacks "
                       "<|im_start|>): write the whole prompt yourself and send it as raw text");
    TRY(check_messages(&t->chat, m, n, e));
    chat_render_free(out);
    int rc = add_all(t, m, n, think, out);
    if (rc < 0) {
        chat_render_free(out);
        return err_set(e, rc, "no memory to render %zu chat messages", n);
    }
    const char *p = out->text;
    for (size_t i = 0; i < out->n_segs; p += out->segs[i++].n)
        out->segs[i].p = p;
    return OK;
}

void chat_render_free(struct chat_render *r)
{
    free(r->segs);
    free(r->text);
    *r = (struct chat_render){0};
}
