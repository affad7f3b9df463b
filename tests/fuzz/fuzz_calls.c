/*
 * Fuzzing of what reads answers. The first byte of the input picks a syntax, the second how
 * the rest is cut. However it is cut, it says the same (but for where text is cut, and names
 * that were begun and are none); nothing is lost where there is no call; and each call is
 * one that JSON's reader takes.
 */
#include "text/calls/calls.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool held)
{
    if (!held)
        abort();
}

struct told {
    char *text; /* of text and reasoning */
    size_t n;
    size_t n_calls;
    uint64_t calls; /* a hash of them */
};

static uint64_t hash(uint64_t h, const char *s)
{
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h * 31;
}

static void drain(struct call_reader *r, struct told *t)
{
    struct call_event ev;
    for (;;) {
        check(call_reader_next(r, &ev) == OK);
        if (ev.kind == CALL_EV_NONE)
            return;
        if (ev.kind == CALL_EV_TEXT || ev.kind == CALL_EV_REASONING) {
            check(ev.text.n > 0);
            memcpy(t->text + t->n, ev.text.p, ev.text.n);
            t->n += ev.text.n;
        } else if (ev.kind == CALL_EV_CALL) {
            struct str a = {ev.call->arguments, strlen(ev.call->arguments)};
            check(ev.call->name[0] && call_same_json(a, a));
            t->calls = hash(hash(hash(t->calls, ev.call->name), ev.call->id), a.p);
            t->n_calls++;
        }
    }
}

static struct told read_in(const struct call_form *f, const char *p, size_t n, size_t step)
{
    struct told t = {.text = malloc(n + 1)};
    struct call_reader *r = call_reader_new(f);
    check(t.text && r);
    for (size_t i = 0; i < n; i += step) {
        check(call_reader_put(r, p + i, MIN(step, n - i)) == OK);
        drain(r, &t);
        check(t.n <= n);
    }
    call_reader_end(r);
    drain(r, &t);
    const struct call_list *all = call_reader_calls(r);
    check(all->n == t.n_calls);
    call_reader_free(r);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char tools[] = "[{\"name\": \"f\", \"parameters\": {\"properties\": {\"s\": "
                                "{\"type\": \"string\"}}}}]";
    int n_rows = 0;
    if (size < 2)
        return 0;
    while (call_row_at(n_rows))
        n_rows++;
    bool thinks = data[1] & 1;
    struct call_form f = {.row = call_row_at(data[0] % n_rows),
                          .begins = thinks ? "<think>" : "",
                          .ends = thinks ? "</think>" : "",
                          .prompt = {"<think>", data[1] & 2 ? 7 : 0}};
    if (data[1] & 4)
        f.tools = (struct str){tools, sizeof tools - 1};
    size_t n = size - 2;
    char *copy = malloc(n + 1); /* its bounds are watched */
    check(copy != NULL);
    memcpy(copy, data + 2, n);
    struct told whole = read_in(&f, copy, n, n + 1);
    struct told cut = read_in(&f, copy, n, 1 + (data[1] >> 3) % 16);
    check(whole.n_calls == cut.n_calls && whole.calls == cut.calls);
    check(whole.n == cut.n && !memcmp(whole.text, cut.text, whole.n));
    if (!whole.n_calls && !thinks && f.row->pattern)
        check(whole.n == n && !memcmp(whole.text, copy, n));
    free(whole.text);
    free(cut.text);
    free(copy);
    return 0;
}
