/*
 * chat: messages -> segments, in ChatML, the form of the Qwen family:
 *
 *   <|im_start|>user\n{content}<|im_end|>\n ... <|im_start|>assistant\n
 *
 * Templates are not executed. What differs between models of the family is
 * how the generation prompt treats thinking, and that is read off the text of
 * the template (chat_form_read).
 *
 * Segments are cut where the tokeniser's pieces end anyway, so that encoding
 * them one by one gives the ids of the whole rendered text: contents are
 * trimmed, and a newline that would join the punctuation before it belongs to
 * the segment of that punctuation.
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
 */
void chat_form_read(struct str chat_template, struct chat_form *f)
{
    *f = (struct chat_form){0};
    f->chatml = !chat_template.n || after(chat_template, "<|im_start|>").p;
    f->thinking = after(chat_template, "<think>").p != NULL;
    if (!f->thinking)
        return;
    struct str tail = after(chat_template, "add_generation_prompt"), next = tail;
    if (!tail.p) {
        f->opens = f->shuts = true;
        return;
    }
    while ((next = after(tail, "add_generation_prompt")).p)
        tail = next;
    while ((tail = after(tail, "<think>\n")).p) {
        if (word_at(tail.p, tail.n, "\n</think>"))
            f->shuts = true;
        else
            f->opens = true;
    }
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

static int add(struct chat_render *r, const char *p, size_t n, bool markup)
{
    if (!n)
        return OK;
    if (r->n_segs == r->cap_segs) {
        size_t cap = r->cap_segs * 2 + 16;
        struct text_segment *segs = realloc(r->segs, cap * sizeof *segs);
        if (!segs)
            return E_NOMEM;
        r->segs = segs;
        r->cap_segs = cap;
    }
    r->segs[r->n_segs++] = (struct text_segment){p, n, markup};
    return OK;
}

/* `text` is one of this file's literals and need not be copied. */
static int add_markup(struct chat_render *r, const char *text)
{
    return add(r, text, strlen(text), true);
}

static int add_content(struct chat_render *r, struct str s, const char *end)
{
    size_t n_end = strlen(end);
    char *copy = arena_alloc(&r->arena, s.n + n_end + 1);
    if (!copy)
        return E_NOMEM;
    if (s.n)
        memcpy(copy, s.p, s.n);
    memcpy(copy + s.n, end, n_end);
    return add(r, copy, s.n + n_end, false);
}

/* The parts of an assistant's turn. A caller that kept a raw answer has both
 * in `content`, divided by </think>. */
static void split_answer(const struct chat_message *m, bool thinking, struct str *reasoning,
                         struct str *answer)
{
    struct str content = {m->content, strlen(m->content)};
    struct str before = {m->reasoning, m->reasoning ? strlen(m->reasoning) : 0};
    struct str rest = thinking && !m->reasoning ? after(content, "</think>") : (struct str){0};
    if (rest.p) {
        static const size_t n_shut = sizeof "</think>" - 1;
        before = (struct str){content.p, content.n - rest.n - n_shut};
        struct str opened = after(before, "<think>");
        before = opened.p ? opened : before;
        content = rest;
    }
    *reasoning = trim(before);
    *answer = trim(content);
}

/* in_progress: no user has spoken since, so the reasoning still counts. */
static int add_turn(struct chat_render *r, const struct chat_message *m, bool thinking,
                    bool in_progress)
{
    static const char *const heads[] = {
        [CHAT_SYSTEM] = "<|im_start|>system\n",
        [CHAT_USER] = "<|im_start|>user\n",
        [CHAT_ASSISTANT] = "<|im_start|>assistant\n",
    };
    struct str content = trim((struct str){m->content, strlen(m->content)});
    TRY(add_markup(r, heads[m->role]));
    if (m->role == CHAT_ASSISTANT) {
        struct str reasoning;
        split_answer(m, thinking, &reasoning, &content);
        if (thinking && in_progress) {
            TRY(add_markup(r, "<think>\n"));
            TRY(add_content(r, reasoning, "\n"));
            TRY(add_markup(r, "</think>\n\n"));
        }
    }
    TRY(add_content(r, content, ""));
    return add_markup(r, "<|im_end|>\n");
}

static int add_all(const struct chat_form *f, const struct chat_message *m, size_t n,
                   bool think, struct chat_render *r)
{
    size_t last_user = 0;
    for (size_t i = 0; i < n; i++)
        if (m[i].role == CHAT_USER)
            last_user = i;
    for (size_t i = 0; i < n; i++) {
        /* The next user message takes the reasoning out of such a turn. */
        bool in_progress = m[i].role == CHAT_ASSISTANT && i > last_user;
        if (!(f->thinking && in_progress) && r->n_stable == r->n_segs) {
            TRY(add_turn(r, &m[i], f->thinking, false));
            r->n_stable = r->n_segs;
        } else {
            TRY(add_turn(r, &m[i], f->thinking, in_progress));
        }
    }
    TRY(add_markup(r, "<|im_start|>assistant\n"));
    if (think && f->opens)
        return add_markup(r, "<think>\n");
    if (!think && (f->opens || f->shuts))
        return add_markup(r, "<think>\n\n</think>\n\n");
    return OK;
}

int chat_render(const struct text *t, const struct chat_message *m, size_t n, bool think,
                struct chat_render *out, struct err *e)
{
    if (!t->chat.chatml)
        return err_set(e, E_UNSUPPORTED,
                       "the model's chat form is not known (its template or vocabulary lacks "
                       "<|im_start|>): write the whole prompt yourself and send it as raw text");
    if (!n)
        return err_set(e, E_ARG, "a conversation needs at least one message");
    for (size_t i = 0; i < n; i++) {
        if (!m[i].content || (int)m[i].role < CHAT_SYSTEM || m[i].role > CHAT_ASSISTANT)
            return err_set(e, E_ARG, "message %zu has %s", i,
                           m[i].content ? "an unknown role" : "no content");
        if (m[i].role == CHAT_SYSTEM && i)
            return err_set(e, E_ARG, "message %zu is a system message: only the first can be", i);
    }
    chat_render_free(out);
    int rc = add_all(&t->chat, m, n, think, out);
    if (rc < 0) {
        chat_render_free(out);
        return err_set(e, rc, "no memory to render %zu chat messages", n);
    }
    return OK;
}

void chat_render_free(struct chat_render *r)
{
    free(r->segs);
    arena_free(&r->arena);
    *r = (struct chat_render){0};
}
