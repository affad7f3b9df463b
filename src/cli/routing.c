/*
 * Routing: which experts were picked, a file with one JSON object a token,
 *
 *     {"tok": 1, "layers": [[expert, ...], ...]}
 *
 * experts in router order. Recorded are passes of one token: in a prompt, many
 * tokens share a read of an expert, so that its picks say nothing about decoding.
 */
#include "base/base.h"
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- recording ------------------------------------------------------------ */

struct routing {
    struct os_out out;
    int n_layers, n_used, next; /* next: the layer that the token under way goes on with */
    int64_t n_tokens;
    int rc; /* the first failure to write, and its sentence: */
    struct err e;
    int32_t *picks; /* (n_layers, n_used) of the token under way */
};

__attribute__((format(printf, 2, 3))) static void put(struct routing *r, const char *fmt, ...)
{
    char text[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (r->rc == OK)
        r->rc = os_out_printf(&r->out, &r->e, "%s", text);
}

static int32_t *row_of(struct routing *r, int layer)
{
    return r->picks + (size_t)layer * (size_t)r->n_used;
}

/* A layer without experts is an empty list. */
static void write_token(struct routing *r)
{
    put(r, "{\"tok\": %lld, \"layers\": [", (long long)++r->n_tokens);
    for (int l = 0; l < r->n_layers; l++) {
        const int32_t *picks = row_of(r, l);
        put(r, l ? ", [" : "[");
        for (int i = 0; i < r->n_used && picks[i] >= 0; i++)
            put(r, i ? ", %d" : "%d", picks[i]);
        put(r, "]");
    }
    put(r, "]}\n");
}


static void on_route(void *user, int layer, int64_t first_position, int64_t n_tokens, int n_used,
                     const int32_t *experts)
{
    struct routing *r = user;
    (void)first_position;
    if (layer < r->next) /* another token; that before may have been stopped */
        r->next = 0;
    if (n_tokens != 1 || n_used != r->n_used)
        return;
    for (; r->next < layer; r->next++) /* without experts */
        row_of(r, r->next)[0] = -1;
    memcpy(row_of(r, layer), experts, (size_t)n_used * sizeof(*experts));
    if (++r->next == r->n_layers)
        write_token(r);
}

int routing_begin(struct cli_model *m, const char *path)
{
    sluice_error e = {0};
    struct routing *r = calloc(1, sizeof(*r));
    if (!r)
        return no_memory();
    m->routing = r;
    if (os_out_stream(&r->out, path, &r->e) == OK)
        return ST_OK;
    e.code = r->e.code;
    snprintf(e.text, sizeof(e.text), "cannot write the routing: %.500s", r->e.text);
    return fail(&e);
}

int routing_record(struct cli_model *m)
{
    struct routing *r = m->routing;
    r->n_layers = m->info.n_layers;
    r->n_used = m->info.n_experts_used;
    if (r->n_used < 1) {
        complain("--record-routing: the model has no experts, so there is nothing to record");
        return ST_FAIL;
    }
    r->picks = calloc((size_t)r->n_layers * (size_t)r->n_used, sizeof(*r->picks));
    if (!r->picks)
        return no_memory();
    sluice_set_route_callback(m->s, on_route, r);
    return ST_OK;
}

static int finish(struct routing *r)
{
    if (r->rc == OK)
        r->rc = os_out_sync(&r->out, &r->e);
    if (r->rc == OK)
        r->rc = os_out_commit(&r->out, true, &r->e);
    if (r->rc < 0)
        complain("cannot write the routing: %s", r->e.text);
    return r->rc < 0 ? ST_FAIL : ST_OK;
}

int routing_end(struct cli_model *m)
{
    struct routing *r = m->routing;
    if (!r)
        return ST_OK;
    if (m->s)
        sluice_set_route_callback(m->s, NULL, NULL);
    int status = r->picks ? finish(r) : ST_OK;
    os_out_close(&r->out);
    free(r->picks);
    free(r);
    m->routing = NULL;
    return status;
}

/* ---- reading -------------------------------------------------------------- */

/* More tokens say no more about a cache; these take a second to replay. */
enum { MOST_TOKENS = 1 << 14 };
enum { LONGEST_LINE = 1 << 20, LARGEST_ID = 1 << 20 };

/* One layer's picks into a row; false: not a list of at most n_used ids. */
static bool read_layer(const json_t *list, int32_t *row, int n_used)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > (size_t)n_used)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, i);
        if (!json_is_integer(x) || json_integer_value(x) < 0 || json_integer_value(x) > LARGEST_ID)
            return false;
        row[i] = (int32_t)json_integer_value(x);
    }
    for (int i = (int)n; i < n_used; i++)
        row[i] = -1;
    return true;
}

/* The first token says how many layers there are, and how many picks each has. */
static bool measure(const json_t *layers, struct picks *p)
{
    p->r.n_layers = (int)json_array_size(layers);
    for (int l = 0; l < p->r.n_layers; l++) {
        int n = (int)json_array_size(json_array_get(layers, (size_t)l));
        p->r.n_used = n > p->r.n_used ? n : p->r.n_used;
    }
    return p->r.n_layers > 0 && p->r.n_used > 0;
}

/* Room for one more token of `row` ids. */
static bool make_room(struct picks *p, size_t row, size_t *room)
{
    size_t at = (size_t)p->r.n_tokens * row, more = 2 * (at + row);
    if (at + row <= *room)
        return true;
    if (!input_take((more - *room) * sizeof(*p->ids)))
        return false;
    int32_t *ids = realloc(p->ids, more * sizeof(*ids));
    if (!ids)
        return false;
    p->ids = ids;
    *room = more;
    return true;
}

static bool add_token(const json_t *layers, struct picks *p)
{
    size_t at = (size_t)p->r.n_tokens * (size_t)p->r.n_layers * (size_t)p->r.n_used;
    if (json_array_size(layers) != (size_t)p->r.n_layers)
        return false;
    for (int l = 0; l < p->r.n_layers; l++)
        if (!read_layer(json_array_get(layers, (size_t)l),
                        p->ids + at + (size_t)l * (size_t)p->r.n_used, p->r.n_used))
            return false;
    p->r.n_tokens++;
    return true;
}

/* One line with its newline, terminated; its bytes, 0 at the end. */
static size_t read_line(FILE *f, char *line)
{
    size_t n = 0;
    int c = 0;
    while (n < LONGEST_LINE - 1 && c != '\n' && (c = getc_unlocked(f)) != EOF)
        line[n++] = (char)c;
    line[n] = '\0';
    return n;
}

static int read_lines(FILE *f, const char *path, char *line, struct picks *p)
{
    size_t room = 0, bytes;
    for (int64_t n = 1; p->r.n_tokens < MOST_TOKENS && (bytes = read_line(f, line)) > 0; n++) {
        json_t *j = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
        const json_t *layers = json_object_get(j, "layers");
        bool measured = p->r.n_tokens > 0 || measure(layers, p);
        bool room_made = make_room(p, (size_t)p->r.n_layers * (size_t)p->r.n_used, &room);
        bool ok = measured && room_made && add_token(layers, p);
        json_decref(j);
        if (!room_made || input_refused())
            return input_refused() ? input_too_much(path) : no_memory();
        if (!ok) {
            complain("%s: line %lld: expected {\"layers\": [[expert, ...], ...]}, as many layers "
                     "and at most as many experts as in the first line; was it written with "
                     "--record-routing?",
                     path, (long long)n);
            return ST_FAIL;
        }
    }
    if (interrupted())
        return ST_INTERRUPTED;
    if (ferror(f)) {
        complain("reading %s failed: %s", path, strerror(errno));
        return ST_FAIL;
    }
    if (p->r.n_tokens < 2) {
        complain("%s: expected the routing of at least 2 tokens, got %d", path, (int)p->r.n_tokens);
        return ST_FAIL;
    }
    p->r.experts = p->ids;
    return ST_OK;
}

int routing_read(const char *path, struct picks *p)
{
    *p = (struct picks){.ids = NULL};
    FILE *f = fopen(path, "re");
    if (!f) {
        if (!interrupted()) /* a pipe waits for its writer */
            complain("cannot read the routing in %s: %s", path, strerror(errno));
        return ST_FAIL;
    }
    char *line = malloc(LONGEST_LINE);
    int status = line ? read_lines(f, path, line, p) : no_memory();
    free(line);
    fclose(f);
    return status;
}

void routing_free(struct picks *p)
{
    free(p->ids);
    *p = (struct picks){.ids = NULL};
}
