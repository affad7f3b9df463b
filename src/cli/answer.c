/*
 * One answer as it comes from sluice_generate: reasoning is told apart from
 * the answer at <think> and </think>, both are collected, and shown if wanted.
 *
 * Tags may arrive in pieces, so text that could begin one is held back in
 * `pending` until it is known. A tag may also be a control token, whose text
 * the engine does not pass on; it is then recognised by its id.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char tag_open[] = "<think>", tag_close[] = "</think>";
enum { LEN_OPEN = sizeof(tag_open) - 1, LEN_CLOSE = sizeof(tag_close) - 1 };

enum {
    START,   /* nothing but white space yet: reasoning or answer? */
    LEAD,    /* reasoning, its leading white space */
    REASON,  /* reasoning */
    GAP,     /* white space between reasoning and answer */
    CONTENT  /* the answer */
};

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* ---- showing ----------------------------------------------------------------- */

static void show(struct answer *w, const char *p, size_t n)
{
    if (!w->print || n == 0)
        return;
    out_write(p, n);
    w->last = p[n - 1];
}

static void show_reasoning_begin(struct answer *w)
{
    if (w->print && out_dims())
        out_style("\033[2m");
    else
        show(w, "<think>\n", 8);
}

static void show_reasoning_end(struct answer *w)
{
    if (w->last != '\n')
        show(w, "\n", 1);
    if (w->print && out_dims()) {
        out_style("\033[0m");
        out_write("\n", 1);
    } else
        show(w, "</think>\n\n", 10);
}

static void add(struct answer *w, struct text_buf *b, const char *p, size_t n)
{
    if (!buf_add(b, p, n))
        w->no_memory = true;
    show(w, p, n);
}

/* ---- telling apart -------------------------------------------------------------- */

static void drop(struct text_buf *b, size_t n)
{
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
    b->p[b->n] = '\0';
}

static bool drop_spaces(struct text_buf *b)
{
    size_t n = 0;
    while (n < b->n && is_space(b->p[n]))
        n++;
    drop(b, n);
    return b->n > 0;
}

/* How many of the last bytes could be the beginning of </think>. */
static size_t held_back(const struct text_buf *b)
{
    size_t k = b->n < LEN_CLOSE - 1 ? b->n : LEN_CLOSE - 1;
    for (; k > 0; k--)
        if (memcmp(b->p + b->n - k, tag_close, k) == 0)
            return k;
    return 0;
}

static bool step_start(struct answer *w)
{
    struct text_buf *b = &w->pending;
    size_t skip = 0;
    while (skip < b->n && is_space(b->p[skip]))
        skip++;
    size_t n = b->n - skip;
    if (n < LEN_OPEN && memcmp(b->p + skip, tag_open, n) == 0)
        return false; /* still open, also when there is nothing yet */
    if (n >= LEN_OPEN && memcmp(b->p + skip, tag_open, LEN_OPEN) == 0) {
        drop(b, skip + LEN_OPEN);
        w->state = LEAD;
    } else {
        w->state = CONTENT;
    }
    return true;
}

static bool step_reason(struct answer *w, bool last)
{
    struct text_buf *b = &w->pending;
    char *end = b->n ? memmem(b->p, b->n, tag_close, LEN_CLOSE) : NULL;
    size_t n = end ? (size_t)(end - b->p) : b->n - (last ? 0 : held_back(b));
    add(w, &w->reasoning, b->p, n);
    drop(b, end ? n + LEN_CLOSE : n);
    if (end) {
        show_reasoning_end(w);
        w->state = GAP;
    }
    return end != NULL;
}

/* Does what can be done with the pending text; false: more is needed. */
static bool step(struct answer *w, bool last)
{
    struct text_buf *b = &w->pending;
    switch (w->state) {
    case START:
        if (last)
            w->state = CONTENT;
        return last || step_start(w);
    case LEAD:
        if (!drop_spaces(b))
            return false;
        if (b->n < LEN_CLOSE && !last && memcmp(b->p, tag_close, b->n) == 0)
            return false;
        if (b->n < LEN_CLOSE || memcmp(b->p, tag_close, LEN_CLOSE) != 0) {
            show_reasoning_begin(w);
            w->state = REASON;
        } else { /* the model chose not to reason */
            drop(b, LEN_CLOSE);
            w->state = GAP;
        }
        return true;
    case REASON:
        return step_reason(w, last);
    case GAP:
        w->state = drop_spaces(b) ? CONTENT : GAP;
        return w->state == CONTENT;
    default:
        add(w, &w->content, b->p, b->n);
        b->n = 0;
        return false;
    }
}

static void take(struct answer *w, const char *p, size_t n)
{
    if (!buf_add(&w->pending, p, n)) {
        w->no_memory = true;
        return;
    }
    while (step(w, false))
        ;
}

/* The tag that a silent token stands for, or NULL. */
static const char *silent_tag(const struct answer *w, int32_t id)
{
    const char *p;
    size_t n;
    if (w->state == CONTENT || sluice_piece(w->s, id, true, &p, &n, NULL) < 0)
        return NULL;
    if (n == LEN_CLOSE && memcmp(p, tag_close, n) == 0)
        return tag_close;
    return n == LEN_OPEN && memcmp(p, tag_open, n) == 0 ? tag_open : NULL;
}

/* ---- the interface ------------------------------------------------------------------ */

/* Whether the prompt ends inside a reasoning part. The tags, if any, stand
 * among its last few tokens. */
static bool prompt_opens(const sluice *s, const int32_t *ids, int64_t n)
{
    struct text_buf tail = {0};
    bool open = false;
    for (int64_t i = n > 12 ? n - 12 : 0; i < n; i++) {
        const char *p;
        size_t len;
        if (sluice_piece(s, ids[i], true, &p, &len, NULL) == 0)
            (void)buf_add(&tail, p, len);
    }
    for (const char *p = tail.p; p && *p; p++) {
        if (strncmp(p, tag_open, LEN_OPEN) == 0)
            open = true;
        else if (strncmp(p, tag_close, LEN_CLOSE) == 0)
            open = false;
    }
    buf_free(&tail);
    return open;
}

int answer_begin(struct answer *w, const sluice *s, const int32_t *prompt, int64_t n_prompt,
                 bool split, bool print)
{
    *w = (struct answer){.s = s, .print = print, .state = CONTENT};
    if (split)
        w->state = prompt_opens(s, prompt, n_prompt) ? LEAD : START;
    if (!buf_add(&w->pending, "", 0) || !buf_add(&w->reasoning, "", 0) || !buf_add(&w->content, "", 0)) {
        answer_free(w);
        return no_memory();
    }
    return ST_OK;
}

static bool add_id(struct answer *w, int32_t id)
{
    if (w->n_ids == w->cap_ids) {
        int64_t cap = w->cap_ids * 2 + 64;
        int32_t *p = realloc(w->ids, (size_t)cap * sizeof(*p));
        if (!p)
            return false;
        w->ids = p;
        w->cap_ids = cap;
    }
    w->ids[w->n_ids++] = id;
    return true;
}

int answer_token(void *answer, int32_t id, const char *text, size_t n_bytes)
{
    struct answer *w = answer;
    if (interrupted())
        return -1; /* nothing more is shown */
    if (!add_id(w, id))
        w->no_memory = true;
    const char *tag = n_bytes ? NULL : silent_tag(w, id);
    if (tag)
        take(w, tag, strlen(tag));
    else
        take(w, text, n_bytes);
    if (w->print)
        out_flush();
    return interrupted() || out_failed() || w->no_memory;
}

int answer_end(struct answer *w)
{
    while (step(w, true))
        ;
    if (w->state == REASON)
        show_reasoning_end(w);
    else if (w->last != '\n')
        show(w, "\n", 1);
    while (w->reasoning.n && is_space(w->reasoning.p[w->reasoning.n - 1]))
        w->reasoning.p[--w->reasoning.n] = '\0';
    if (w->print)
        out_flush();
    return w->no_memory ? no_memory() : ST_OK;
}

void answer_free(struct answer *w)
{
    buf_free(&w->pending);
    buf_free(&w->reasoning);
    buf_free(&w->content);
    free(w->ids);
    *w = (struct answer){0};
}

const char *finish_name(sluice_finish f)
{
    switch (f) {
    case SLUICE_FINISH_END:
        return "end";
    case SLUICE_FINISH_LENGTH:
        return "length";
    default:
        return "stopped";
    }
}
