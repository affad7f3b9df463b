/*
 * One answer as it comes from sluice_generate: sluice_answer tells text, reasoning and calls
 * of tools apart; all are collected, and shown if wanted: reasoning always between <think>
 * and </think>, a call as a line of JSON.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

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

/* Shown, or else kept: then it counts as what is read does. */
static void add(struct answer *w, struct text_buf *b, const char *p, size_t n)
{
    enum { GROWS = 2 };
    if (w->print) {
        show(w, p, n);
        return;
    }
    if (!input_take(GROWS * n)) {
        w->no_memory = true;
        return;
    }
    w->n_taken += GROWS * n;
    if (!buf_add(b, p, n))
        w->no_memory = true;
}

/* What every chat template takes: nine letters and digits. */
const char *answer_call_id(const sluice_tool_call *c, size_t i, char *room)
{
    if (c->id && c->id[0])
        return c->id;
    snprintf(room, 32, "call%05zu", i % 100000);
    return room;
}

/* A call as OpenAI's API has it. */
static json_t *call_json(const struct answer *w, const sluice_tool_call *c)
{
    char made[32];
    const char *id = answer_call_id(c, json_array_size(w->calls), made);
    return json_pack("{s:o, s:s, s:{s:o, s:o}}", "id", json_bytes(id, strlen(id)), "type",
                     "function", "function", "name", json_bytes(c->name, strlen(c->name)),
                     "arguments", json_bytes(c->arguments, strlen(c->arguments)));
}

static void show_call(struct answer *w, const sluice_tool_call *c)
{
    json_t *j = call_json(w, c);
    if (!j || json_array_append(w->calls, j) != 0) {
        json_decref(j);
        w->no_memory = true;
        return;
    }
    if (!w->print) {
        json_decref(j);
        return;
    }
    if (w->last && w->last != '\n')
        show(w, "\n", 1);
    if (json_print(j) != ST_OK)
        w->no_memory = true;
    w->last = '\n';
}

static void take_part(struct answer *w, const sluice_part *p)
{
    bool reasons = p->kind == SLUICE_PART_REASONING;
    if (reasons && !w->reasons)
        show_reasoning_begin(w);
    if (!reasons && w->reasons)
        show_reasoning_end(w);
    w->reasons = reasons;
    if (reasons)
        add(w, &w->reasoning, p->text, p->n_bytes);
    else if (p->kind == SLUICE_PART_TEXT)
        add(w, &w->content, p->text, p->n_bytes);
    else if (p->kind == SLUICE_PART_CALL)
        show_call(w, p->call);
}

static void take_parts(struct answer *w)
{
    sluice_part p;
    int rc;
    while ((rc = sluice_answer_next(w->parts, &p, NULL)) > 0)
        take_part(w, &p);
    w->no_memory = w->no_memory || rc < 0;
}

/* ---- the interface ------------------------------------------------------------------ */

int answer_begin(struct answer *w, const sluice *s, const sluice_answer_options *o, bool print)
{
    sluice_error e = {0};
    *w = (struct answer){.print = print, .calls = json_array()};
    if (sluice_answer_new(s, o, &w->parts, &e) < 0) {
        answer_free(w);
        return fail(&e);
    }
    if (!w->calls || !buf_add(&w->reasoning, "", 0) || !buf_add(&w->content, "", 0)) {
        answer_free(w);
        return no_memory();
    }
    return ST_OK;
}

int answer_token(void *answer, int32_t id, const char *text, size_t n_bytes)
{
    struct answer *w = answer;
    if (interrupted())
        return -1; /* nothing more is shown */
    if (sluice_answer_put(w->parts, id, text, n_bytes, &w->error) == 0) {
        w->n_ids += id >= 0;
        take_parts(w);
    }
    if (w->print)
        out_flush();
    return interrupted() || out_failed() || w->no_memory || w->error.code;
}

int answer_end(struct answer *w)
{
    sluice_answer_end(w->parts);
    take_parts(w);
    if (w->reasons)
        show_reasoning_end(w);
    else if (w->last != '\n')
        show(w, "\n", 1);
    if (w->print)
        out_flush();
    if (w->error.code)
        return fail(&w->error);
    if (w->no_memory)
        return input_refused() ? input_too_much("the answer") : no_memory();
    return ST_OK;
}

int answer_message(struct answer *w, sluice_message *m)
{
    sluice_error e = {0};
    return sluice_answer_message(w->parts, m, &e) < 0 ? fail(&e) : ST_OK;
}

void answer_free(struct answer *w)
{
    sluice_answer_free(w->parts);
    json_decref(w->calls);
    buf_free(&w->reasoning);
    buf_free(&w->content);
    input_give(w->n_taken);
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
