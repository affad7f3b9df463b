/*
 * reader: an answer as it comes -> text, reasoning, calls.
 *
 * Bytes that may still turn out to be part of a mark are held back, and so is white space,
 * which is left out where it stands beside a mark: templates put their own there. A call is
 * told when all of it is there. What is none becomes text: its first character at once,
 * whatever that begins, and the rest is looked at again. Looking again is limited, so that
 * the whole takes time in proportion to the answer; beyond the limit the rest of what is
 * held is text as it stands.
 */
#include <stdlib.h>
#include <string.h>

#include "text/calls/calls_internal.h"
#include "text/text_internal.h"

enum {
    SPACE_MOST = 4096, /* white space held back */
    AGAIN = 64 << 10,  /* bytes looked at again, and so many times what was put: */
    AGAIN_TIMES = 8
};

/* Whether a text ends inside of what the marks enclose. */
static bool opens(struct str text, const char *begins, const char *ends)
{
    size_t k = strlen(begins), l = strlen(ends);
    bool open = false;
    for (size_t i = 0; k && l && i < text.n; i++) {
        if (text.n - i >= k && !memcmp(text.p + i, begins, k))
            open = true;
        else if (text.n - i >= l && !memcmp(text.p + i, ends, l))
            open = false;
    }
    return open;
}

struct call_reader *call_reader_new(const struct call_form *f)
{
    struct call_reader *r = calloc(1, sizeof *r);
    char *tools = malloc(f->tools.n + 1);
    if (!r || !tools) {
        free(r);
        free(tools);
        return NULL;
    }
    if (f->tools.n)
        memcpy(tools, f->tools.p, f->tools.n);
    r->tools = tools;
    r->n_tools = f->tools.n;
    r->row = f->row;
    if (f->begins && f->ends && strlen(f->begins) < CALLS_MARK && strlen(f->ends) < CALLS_MARK) {
        strcpy(r->begins, f->begins);
        strcpy(r->ends, f->ends);
    }
    bool marked = r->begins[0] && r->ends[0];
    bool reasons = opens(f->prompt, r->begins, r->ends);
    r->again = AGAIN;
    r->state = r->row && !r->row->pattern ? READ_HEAD
               : reasons                  ? READ_LEAD
               : marked                   ? READ_START
                                          : READ_FRESH;
    size_t n = call_row_opened(r->row, f->prompt); /* of a call, that the prompt has written */
    if (n && call_reader_put(r, f->prompt.p + f->prompt.n - n, n) != OK) {
        call_reader_free(r);
        return NULL;
    }
    return r;
}

void call_reader_free(struct call_reader *r)
{
    if (!r)
        return;
    call_list_free(&r->calls);
    free(r->scan.part);
    free(r->tools);
    free(r->buf);
    free(r);
}

int call_reader_put(struct call_reader *r, const char *p, size_t n)
{
    if (r->at) {
        memmove(r->buf, r->buf + r->at, r->n - r->at);
        r->n -= r->at;
        r->at = 0;
    }
    if (n > r->cap - r->n) {
        size_t cap = (r->n + n) * 2 + 256;
        char *buf = realloc(r->buf, cap);
        if (!buf) {
            r->no_memory = true;
            return E_NOMEM;
        }
        r->buf = buf;
        r->cap = cap;
    }
    if (n)
        memcpy(r->buf + r->n, p, n);
    r->n += n;
    r->again += (int64_t)n * AGAIN_TIMES;
    return OK;
}

void call_reader_end(struct call_reader *r)
{
    r->last = true;
}

size_t call_reader_bytes(const struct call_reader *r, size_t *n_untold)
{
    *n_untold = r->n - r->at;
    size_t n = r->cap + r->n_tools + r->scan.cap_parts * sizeof *r->scan.part;
    return n + r->calls.n_bytes + r->calls.cap * sizeof *r->calls.v;
}

const struct call_list *call_reader_calls(const struct call_reader *r)
{
    return &r->calls;
}

bool call_reader_wants(const struct call_reader *r, struct str token)
{
    bool front = r->state <= READ_REASON; /* later marks around reasoning mean nothing */
    return call_row_has(r->row, token) ||
           (front && token.n && (str_is(token, r->begins) || str_is(token, r->ends)));
}

int call_reader_tell(struct call_reader *r, enum call_event_kind kind, size_t n,
                     struct call_event *ev)
{
    ev->kind = n ? kind : CALL_EV_NONE;
    ev->text = (struct str){r->buf + r->at, n};
    r->at += n;
    return OK;
}

/* ---- reasoning ---- */

/* How many of the n bytes at p, from their end, may be the beginning of a mark. */
static size_t held_back(const char *p, size_t n, const char *mark, size_t n_mark)
{
    size_t k = MIN(n, n_mark - 1);
    while (k && memcmp(p + n - k, mark, k) != 0)
        k--;
    return k;
}

static size_t without_space(const char *p, size_t n)
{
    while (n && call_is_space(p[n - 1]))
        n--;
    return n;
}

static size_t leading_space(const struct call_reader *r)
{
    size_t n = 0;
    while (r->at + n < r->n && call_is_space(r->buf[r->at + n]))
        n++;
    return n;
}

/* Whether a mark stands `skip` bytes on: 1, 0, or -1: it may yet. */
static int mark_at(const struct call_reader *r, size_t skip, const char *mark)
{
    size_t n = strlen(mark), left = r->n - r->at - skip, both = MIN(n, left);
    if (both && memcmp(r->buf + r->at + skip, mark, both) != 0)
        return 0;
    return left >= n ? 1 : r->last ? 0 : -1;
}

/* What stands in front of an answer: true: something has changed. */
static bool step_front(struct call_reader *r)
{
    size_t skip = leading_space(r);
    bool nothing = r->at + skip == r->n;
    int is;
    switch (r->state) {
    case READ_START:
        is = mark_at(r, skip, r->begins);
        if (is < 0)
            return false;
        r->at += is ? skip + strlen(r->begins) : 0;
        r->state = is ? READ_LEAD : READ_FRESH;
        return true;
    case READ_LEAD:
        r->at += skip;
        is = nothing ? -1 : mark_at(r, 0, r->ends);
        if (is < 0)
            return false;
        r->at += is ? strlen(r->ends) : 0;
        r->state = is ? READ_GAP : READ_REASON;
        return true;
    default: /* READ_GAP */
        r->at += skip;
        if (!nothing)
            r->state = READ_FRESH;
        return !nothing;
    }
}

static int step_reason(struct call_reader *r, struct call_event *ev, bool *on)
{
    size_t n = r->n - r->at, k = strlen(r->ends);
    *on = false;
    if (!n)
        return OK;
    const char *p = r->buf + r->at;
    const char *end = memmem(p, n, r->ends, k);
    size_t upto = end ? (size_t)(end - p) : r->last ? n : n - held_back(p, n, r->ends, k);
    size_t told = without_space(p, upto);
    if (!told && !end && upto > SPACE_MOST)
        told = upto;
    if (told)
        return call_reader_tell(r, CALL_EV_REASONING, told, ev);
    if (end) {
        r->at += upto + k;
        r->state = READ_GAP;
    }
    *on = end != NULL;
    return OK;
}

/* ---- the answer ---- */

/* lead: white space in front of it, which is text if it is none. */
static void begin_call(struct call_reader *r, size_t lead)
{
    struct call_part *part = r->scan.part;
    size_t cap = r->scan.cap_parts;
    r->scan = (struct call_scan){.at = r->row->pattern, .part = part, .cap_parts = cap};
    r->state = READ_CALL;
    r->begun = false;
    r->lead = lead;
}

/* The bytes that stand first in the row's calls. */
static struct str first_mark(const struct call_row *row)
{
    if (!row || row->starts)
        return (struct str){NULL, 0};
    return (struct str){row->pattern, strcspn(row->pattern, "%~")};
}

static bool step_fresh(struct call_reader *r)
{
    size_t skip = leading_space(r);
    int is = 0;
    if (r->row && r->row->starts)
        is = call_starts(r->row->starts, r->buf + r->at + skip, r->n - r->at - skip);
    if (is < 0 && !r->last && skip < SPACE_MOST)
        return false;
    r->state = READ_TEXT;
    if (is > 0)
        begin_call(r, skip);
    return true;
}

static int step_text(struct call_reader *r, struct call_event *ev, bool *on)
{
    struct str mark = first_mark(r->row);
    size_t n = r->n - r->at, plain = MIN(r->plain, n);
    *on = false;
    if (!n)
        return OK;
    const char *p = r->buf + r->at;
    const char *found = mark.n && n > plain ? memmem(p + plain, n - plain, mark.p, mark.n) : NULL;
    size_t upto = n;
    if (found)
        upto = (size_t)(found - p);
    else if (mark.n && !r->last)
        upto = n - held_back(p + plain, n - plain, mark.p, mark.n);
    size_t told = without_space(p, upto);
    bool held = found || (r->last ? r->after_call && !told : upto - told <= SPACE_MOST);
    told = mark.n && held ? told : upto;
    told = MAX(told, plain);
    if (told) {
        r->plain = 0;
        r->after_call = false;
        return call_reader_tell(r, CALL_EV_TEXT, told, ev);
    }
    if (found)
        begin_call(r, upto);
    *on = found != NULL;
    return OK;
}

/* What was held as a call is none. */
static void give_up(struct call_reader *r)
{
    size_t n = r->n - r->at - r->lead;
    int first = n ? utf8_sequence(r->buf + r->at + r->lead, n) : 0;
    size_t looked = MIN(MAX(r->scan.pos, r->scan.seen) + 1, n);
    r->again -= (int64_t)looked;
    r->plain = r->again < 0 ? looked : MIN((size_t)MAX(first, 1), n);
    if (n > CALLS_MOST) /* whatever is in it ends no better */
        r->plain = CALLS_MOST;
    r->plain += r->lead;
    r->lead = 0;
    r->state = READ_TEXT;
    r->begun = false;
}

static int step_call(struct call_reader *r, struct call_event *ev, bool *on)
{
    const char *p = r->buf + r->at + r->lead;
    size_t n = r->n - r->at - r->lead;
    enum call_state state = call_scan(&r->scan, p, n, r->last);
    *on = true;
    switch (state) {
    case CALL_NAMED:
        ev->kind = CALL_EV_BEGUN;
        ev->text = call_part_name(&r->scan.part[r->scan.n_parts - 1], p);
        r->begun = true;
        return OK;
    case CALL_DONE: {
        struct str tools = {r->tools, r->n_tools};
        int rc = E_BUDGET;
        if (r->scan.pos <= CALLS_MOST)
            rc = call_decode(r->row, r->scan.part, r->scan.n_parts, p, tools, &r->calls, NULL);
        if (rc < 0) {
            give_up(r);
            return rc == E_NOMEM ? rc : OK;
        }
        r->at += r->lead + r->scan.pos;
        r->lead = 0;
        r->scan.pos = r->scan.seen = r->scan.n_parts = 0;
        return OK;
    }
    case CALL_END:
        r->at += r->scan.pos; /* a call was told: nothing is in front */
        r->state = READ_TEXT;
        r->after_call = true;
        return OK;
    case CALL_MORE:
        *on = r->last || n > CALLS_MOST;
        if (*on)
            give_up(r);
        return OK;
    default:
        give_up(r);
        return OK;
    }
}

/* A call that was understood and not told yet. */
static void tell_call(struct call_reader *r, struct call_event *ev)
{
    const struct call *c = &r->calls.v[r->n_told];
    ev->kind = r->begun ? CALL_EV_CALL : CALL_EV_BEGUN;
    ev->text = (struct str){c->name, strlen(c->name)};
    ev->call = r->begun ? c : NULL;
    r->n_told += r->begun;
    r->begun = !r->begun;
}

int call_reader_next(struct call_reader *r, struct call_event *ev)
{
    int rc = r->no_memory ? E_NOMEM : OK;
    bool on = true;
    *ev = (struct call_event){0};
    while (rc == OK && on && ev->kind == CALL_EV_NONE) {
        if (r->n_told < r->calls.n) {
            tell_call(r, ev);
            break;
        }
        switch (r->state) {
        case READ_START:
        case READ_LEAD:
        case READ_GAP:
            on = step_front(r);
            break;
        case READ_FRESH:
            on = r->at < r->n && step_fresh(r);
            break;
        case READ_REASON:
            rc = step_reason(r, ev, &on);
            break;
        case READ_TEXT:
            rc = step_text(r, ev, &on);
            break;
        case READ_CALL:
            rc = step_call(r, ev, &on);
            break;
        default:
            rc = harmony_next(r, ev);
            on = ev->kind != CALL_EV_NONE || r->n_told < r->calls.n;
        }
    }
    return rc;
}
