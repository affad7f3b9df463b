/*
 * timeline_svg FILE BEGIN LENGTH: draws a part of a file of --timeline as SVG
 * on standard output. BEGIN and LENGTH are milliseconds of the recording; a
 * BEGIN of @N is the Nth generated token.
 *
 *   build/tools/timeline_svg timeline.json @20 12 > timeline.svg
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum { WIDTH = 1000, LEFT = 120, TOP = 24, MAX_ROWS = 64 };
#define SHORTEST 0.4 /* pixels: shorter spans and gaps are joined */

struct kind {
    const char *name, *colour, *legend;
    bool used;
};

static struct kind kinds[] = {
    {"prompt", "#c8ccd4", NULL, false},         {"token", "#c8ccd4", NULL, false},
    {"attention layer", "#e3e6ee", NULL, false}, {"delta layer", "#e3e6ee", NULL, false},
    {"expert layer", "#d3dcf2", NULL, false},    {"load", "#c8ccd4", NULL, false},
    {"wait for read", "#d62f2f", "waiting for a read", false},
    {"projection", "#7aa6d8", "projection", false}, {"attention", "#2f5fa8", "attention", false},
    {"delta", "#1c8a8a", "delta net", false},    {"router", "#b07cc6", "router", false},
    {"shared expert", "#88bb66", "shared expert", false}, {"experts", "#3f8f3f", "experts", false},
    {"sum", "#5a5a5a", "sum", false},            {"guess", "#c79bd8", "guess", false},
    {"output", "#e0a030", "output", false},
    {"read", "#e8743b", "read, demanded", false}, {"read dense", "#a8763e", "read, dense", false},
    {"read ahead", "#f3c08f", "read, ahead", false},
};

struct span {
    double begin, end; /* ms */
    int kind, row;
    int64_t layer;
};

struct picture {
    struct span *span;
    size_t n;
    double begin, length;
    char name[MAX_ROWS][64];
    int64_t key[MAX_ROWS]; /* rows are sorted by it */
    int n_rows;
};

static int kind_of(const char *name)
{
    for (size_t i = 0; name && i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return (int)i;
    return -1;
}

static double ms_of(const json_t *x, const char *key)
{
    return json_number_value(json_object_get(x, key)) / 1000;
}

/* The driver's spans lie in one another: tokens, layers and waiting are rows
 * of their own. */
static int64_t row_key(int64_t tid, const char *category)
{
    if (tid != TRACE_DRIVER)
        return tid * 4;
    return strcmp(category, "layer") == 0 ? 5 : strcmp(category, "wait") == 0 ? 6 : 4;
}

static int find_row(struct picture *p, int64_t key)
{
    for (int i = 0; i < p->n_rows; i++)
        if (p->key[i] == key)
            return i;
    if (p->n_rows == MAX_ROWS)
        return -1;
    int at = p->n_rows++;
    for (; at > 0 && p->key[at - 1] > key; at--)
        p->key[at] = p->key[at - 1];
    p->key[at] = key;
    return at;
}

static void name_row(const json_t *events, int64_t key, char *name, size_t size)
{
    size_t i;
    json_t *x;
    static const char *const driver[] = {"tokens", "layers", "waiting", ""};
    snprintf(name, size, "%s", driver[key % 4]);
    if (key / 4 == TRACE_DRIVER)
        return;
    json_array_foreach(events, i, x) {
        const char *what = json_string_value(json_object_get(x, "name"));
        if (what && strcmp(what, "thread_name") == 0 &&
            json_integer_value(json_object_get(x, "tid")) == key / 4)
            snprintf(name, size, "%s",
                     json_string_value(json_object_get(json_object_get(x, "args"), "name")));
    }
}

/* False: the window holds nothing, or no memory. */
static bool collect(struct picture *p, const json_t *events)
{
    size_t i;
    json_t *x;
    p->span = calloc(json_array_size(events) + 1, sizeof(*p->span));
    if (!p->span)
        return false;
    for (int pass = 0; pass < 2; pass++) /* first the rows, whose numbers move */
        json_array_foreach(events, i, x) {
            double begin = ms_of(x, "ts") - p->begin, end = begin + ms_of(x, "dur");
            const char *category = json_string_value(json_object_get(x, "cat"));
            int kind = kind_of(json_string_value(json_object_get(x, "name")));
            const json_t *layer = json_object_get(json_object_get(x, "args"), "layer");
            if (!category || kind < 0 || end <= 0 || begin >= p->length)
                continue;
            int row = find_row(p, row_key(json_integer_value(json_object_get(x, "tid")), category));
            if (pass == 0 || row < 0)
                continue;
            kinds[kind].used = true;
            p->span[p->n++] = (struct span){.begin = MAX(begin, 0), .end = MIN(end, p->length),
                                            .kind = kind, .row = row,
                                            .layer = layer ? json_integer_value(layer) : -1};
        }
    for (int r = 0; r < p->n_rows; r++)
        name_row(events, p->key[r], p->name[r], sizeof(p->name[r]));
    return p->n > 0;
}

static int by_row(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->row != y->row)
        return x->row - y->row;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* ---- drawing --------------------------------------------------------------- */

static int row_height(const struct picture *p, int row)
{
    return p->key[row] / 4 >= TRACE_READS ? 9 : 16;
}

static int row_top(const struct picture *p, int row)
{
    int y = TOP;
    for (int i = 0; i < row; i++)
        y += row_height(p, i) + 2 +
             (p->key[i] / 4 < TRACE_READS && p->key[i + 1] / 4 >= TRACE_READS ? 8 : 0);
    return y;
}

static void draw_span(const struct picture *p, const struct span *s)
{
    const double scale = (WIDTH - LEFT) / p->length;
    double x = LEFT + s->begin * scale, w = MAX((s->end - s->begin) * scale, SHORTEST);
    int y = row_top(p, s->row), h = row_height(p, s->row);
    const struct kind *k = &kinds[s->kind];
    char text[64];
    printf("<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", x, y, w, h,
           k->colour);
    if (k->legend) /* those in the legend need no words */
        return;
    if (s->layer >= 0)
        snprintf(text, sizeof(text), "%.*s %lld", (int)strcspn(k->name, " "), k->name,
                 (long long)s->layer);
    else
        snprintf(text, sizeof(text), "%s", k->name);
    if (w > 6.0 * (double)strlen(text))
        printf("<text x=\"%.1f\" y=\"%d\">%s</text>\n", x + 3, y + h - 4, text);
}

static void draw_axis(const struct picture *p, int height)
{
    double step = 0.01;
    for (int i = 0; p->length / step > 12; i++)
        step *= i % 3 == 1 ? 2.5 : 2; /* 1, 2, 5 */
    for (double t = 0; t <= p->length * 1.0001; t += step) {
        double x = LEFT + t * (WIDTH - LEFT) / p->length;
        printf("<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#ccc\" "
               "stroke-width=\"0.5\"/>\n",
               x, TOP - 6, x, height);
        printf("<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%g ms</text>\n", x, TOP - 10,
               t > p->length * 0.97 ? "end" : t > 0 ? "middle" : "start", t);
    }
}

static void draw_legend(int y)
{
    int x = LEFT;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!kinds[i].used || !kinds[i].legend)
            continue;
        int w = 22 + 6 * (int)strlen(kinds[i].legend);
        if (x + w > WIDTH) {
            x = LEFT;
            y += 16;
        }
        printf("<rect x=\"%d\" y=\"%d\" width=\"10\" height=\"10\" fill=\"%s\"/><text x=\"%d\" "
               "y=\"%d\">%s</text>\n",
               x, y, kinds[i].colour, x + 14, y + 9, kinds[i].legend);
        x += w;
    }
}

static void draw(struct picture *p)
{
    const double pixel = p->length / (WIDTH - LEFT);
    int bottom = row_top(p, p->n_rows - 1) + row_height(p, p->n_rows - 1) + 6, height = bottom + 44;
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
           "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"10\">\n"
           "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
           WIDTH + 8, height, WIDTH + 8, height, WIDTH + 8, height);
    draw_axis(p, bottom);
    for (int r = 0; r < p->n_rows; r++)
        printf("<text x=\"4\" y=\"%d\">%s</text>\n", row_top(p, r) + row_height(p, r) - 1,
               p->name[r]);
    qsort(p->span, p->n, sizeof(*p->span), by_row);
    for (size_t i = 0; i < p->n; i++) {
        struct span s = p->span[i];
        while (i + 1 < p->n && kinds[s.kind].legend && p->span[i + 1].row == s.row &&
               p->span[i + 1].kind == s.kind && p->span[i + 1].begin - s.end < SHORTEST * pixel) {
            i++;
            s.end = MAX(s.end, p->span[i].end);
        }
        draw_span(p, &s);
    }
    draw_legend(bottom + 10);
    printf("</svg>\n");
}

/* ---- main -------------------------------------------------------------------- */

/* Milliseconds, or where the Nth generated token begins; < 0: there is none. */
static double begin_of(const json_t *events, const char *text)
{
    size_t i;
    json_t *x;
    long n = 0;
    if (text[0] != '@')
        return strtod(text, NULL);
    json_array_foreach(events, i, x) {
        const char *name = json_string_value(json_object_get(x, "name"));
        if (name && strcmp(name, "token") == 0 && ++n == strtol(text + 1, NULL, 10))
            return ms_of(x, "ts");
    }
    return -1;
}

int main(int argc, char **argv)
{
    json_error_t e;
    if (argc != 4) {
        fprintf(stderr, "usage: timeline_svg FILE BEGIN_MS|@TOKEN LENGTH_MS > FILE.svg\n");
        return 2;
    }
    json_t *j = json_load_file(argv[1], 0, &e);
    if (!j) {
        fprintf(stderr, "timeline_svg: %s, line %d: %s\n", argv[1], e.line, e.text);
        return 1;
    }
    const json_t *events = json_object_get(j, "traceEvents");
    struct picture *p = calloc(1, sizeof(*p));
    bool ok = false;
    if (p) {
        p->begin = begin_of(events, argv[2]);
        p->length = strtod(argv[3], NULL);
        ok = p->begin >= 0 && p->length > 0 && collect(p, events);
    }
    if (ok)
        draw(p);
    else
        fprintf(stderr, "timeline_svg: %s has nothing from %s on for %s ms\n", argv[1], argv[2],
                argv[3]);
    if (p)
        free(p->span);
    free(p);
    json_decref(j);
    return ok ? fflush(stdout) != 0 : 1;
}
