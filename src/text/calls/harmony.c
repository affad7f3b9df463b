/*
 * harmony: answers in channels. An answer is one message or several,
 *
 *   <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>
 *   <|start|>assistant<|channel|>analysis<|message|>reasoning<|end|>
 *   <|start|>assistant<|channel|>final<|message|>text<|return|>
 *
 * of which the prompt has written the first <|start|>assistant. Who a message is for stands
 * on either side of the channel. A message to someone is a call; "functions." is no part of
 * the name. Text without a message around it is text.
 */
#include <string.h>

#include "text/calls/calls_internal.h"
#include "text/text_internal.h"

#define START "<|start|>"
#define CHANNEL "<|channel|>"
#define MESSAGE "<|message|>"

enum { HEAD_MOST = 512 };

/* Whether the text begins so: 1, 0, or -1: as far as it goes. */
static int begins(const char *p, size_t n, const char *with)
{
    size_t k = strlen(with), both = MIN(k, n);
    return both && memcmp(p, with, both) != 0 ? 0 : n >= k ? 1 : -1;
}

/* What may stand in front of a message. */
static int begins_head(const char *p, size_t n)
{
    static const char *const ways[] = {START "assistant", CHANNEL, " to=", "to=", MESSAGE};
    int best = 0;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        int is = begins(p, n, ways[i]);
        if (is == 1)
            return 1;
        best = is ? is : best;
    }
    return best;
}

/* The word behind `mark` in a head. */
static struct str word_behind(struct str head, const char *mark)
{
    size_t k = strlen(mark), n = 0;
    const char *p = head.n ? memmem(head.p, head.n, mark, k) : NULL;
    if (!p)
        return (struct str){NULL, 0};
    p += k;
    size_t left = head.n - (size_t)(p - head.p);
    while (n < left && !call_is_space(p[n]) && p[n] != '<')
        n++;
    return (struct str){p, n};
}

static void begin_body(struct call_reader *r, size_t n_head, struct call_event *ev)
{
    static const char functions[] = "functions.";
    const char *p = r->buf + r->at;
    struct str head = {p, n_head};
    struct str name = word_behind(head, "to="), channel = word_behind(head, CHANNEL);
    size_t k = sizeof functions - 1;
    if (name.n > k && !memcmp(name.p, functions, k))
        name = (struct str){name.p + k, name.n - k};
    r->state = READ_BODY;
    r->seen = 0;
    if (name.n) {
        r->body = CALL_EV_CALL;
        r->name_at = (size_t)(name.p - p);
        r->name_n = name.n;
        r->body_at = n_head + sizeof MESSAGE - 1;
        r->seen = r->body_at;
        *ev = (struct call_event){.kind = CALL_EV_BEGUN, .text = name};
        r->begun = true;
        return;
    }
    r->body = str_is(channel, "analysis") ? CALL_EV_REASONING : CALL_EV_TEXT;
    r->at += n_head + sizeof MESSAGE - 1;
}

/* Bytes of the first character. */
static size_t first_char(const char *p, size_t n)
{
    int k = utf8_sequence(p, n);
    return k > 0 ? (size_t)k : 1;
}

static int step_head(struct call_reader *r, struct call_event *ev, bool *on)
{
    size_t n = r->n - r->at;
    *on = false;
    if (!n)
        return OK;
    const char *p = r->buf + r->at;
    int is = begins_head(p, n);
    const char *message = is > 0 ? memmem(p, MIN(n, (size_t)HEAD_MOST), MESSAGE, sizeof MESSAGE - 1)
                                 : NULL;
    if (message) {
        *on = true;
        begin_body(r, (size_t)(message - p), ev);
    } else if (is == 0 || r->last || n >= HEAD_MOST) {
        *on = true;
        r->state = READ_BODY;
        r->body = CALL_EV_TEXT;
        r->seen = 0;
        bool all = is && n < HEAD_MOST; /* the answer has ended */
        return call_reader_tell(r, CALL_EV_TEXT, all ? n : first_char(p, n), ev);
    }
    return OK;
}

/* Where the message ends, at or behind `from`; *n_mark: the bytes of what ends it, 0: it is
 * not there yet, and what is behind the place may be its beginning. */
static size_t find_end(const struct call_reader *r, size_t from, size_t *n_mark)
{
    static const char *const marks[] = {"<|end|>", "<|call|>", "<|return|>", START};
    const char *p = r->buf + r->at;
    size_t n = r->n - r->at;
    *n_mark = 0;
    for (size_t i = from; i < n; i++) {
        const char *next = memchr(p + i, '<', n - i);
        if (!next)
            return n;
        i = (size_t)(next - p);
        for (size_t k = 0; k < ARRAY_LEN(marks); k++) {
            int is = begins(next, n - i, marks[k]);
            if (is < 0 && !r->last)
                return i;
            if (is > 0) {
                *n_mark = strcmp(marks[k], START) ? strlen(marks[k]) : SIZE_MAX;
                return i;
            }
        }
    }
    return n;
}

static int finish_call(struct call_reader *r, size_t end, size_t n_mark, struct call_event *ev)
{
    static const struct call_row row = {.name = "harmony", .pattern = "%n%j"};
    const struct call_part part[] = {{'n', r->name_at, r->name_n},
                                     {'j', r->body_at, end - r->body_at}};
    struct str tools = {r->tools, r->n_tools};
    int rc = call_decode(&row, part, ARRAY_LEN(part), r->buf + r->at, tools, &r->calls, NULL);
    r->state = READ_HEAD;
    if (rc == OK) {
        r->at += end + (n_mark == SIZE_MAX ? 0 : n_mark);
        return OK;
    }
    r->begun = false;
    if (rc == E_NOMEM)
        return rc;
    return call_reader_tell(r, CALL_EV_TEXT, end + (n_mark == SIZE_MAX ? 0 : n_mark), ev);
}

static int step_body(struct call_reader *r, struct call_event *ev, bool *on)
{
    size_t n = r->n - r->at, n_mark, end;
    *on = false;
    if (!n)
        return OK;
    end = find_end(r, r->seen, &n_mark);
    if (r->body == CALL_EV_CALL) {
        r->seen = end;
        *on = n_mark || r->last || n > CALLS_MOST;
        return *on ? finish_call(r, n_mark ? end : n, n_mark, ev) : OK;
    }
    if (end)
        return call_reader_tell(r, r->body, end, ev);
    if (n_mark) {
        r->at += n_mark == SIZE_MAX ? 0 : n_mark;
        r->state = READ_HEAD;
        *on = true;
    }
    return OK;
}

int harmony_next(struct call_reader *r, struct call_event *ev)
{
    bool on = true;
    int rc = OK;
    while (rc == OK && on && ev->kind == CALL_EV_NONE && r->n_told == r->calls.n)
        rc = r->state == READ_HEAD ? step_head(r, ev, &on) : step_body(r, ev, &on);
    return rc;
}
