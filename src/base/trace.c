/*
 * The timeline recorder: spans into memory that was taken at the start, and
 * written at the end as Chrome trace events (JSON), which any trace viewer
 * shows. Any thread may add a span: it claims a place of its own by one atomic
 * addition. When all places are taken later spans are only counted.
 */
#include "base/base.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct span {
    const struct trace_kind *kind;
    int64_t begin_ns, end_ns;
    int track;
    int n_args;
    int64_t arg[TRACE_MAX_ARGS];
};

struct trace {
    struct os_out out;
    bool open; /* `out` is */
    char *path; /* as the user named it */
    int64_t zero_ns;
    struct span *spans;
    size_t map_bytes;
    int64_t cap;
    atomic_int_fast64_t n; /* asked for; those above cap are lost */
};

struct trace *trace_new(size_t bytes)
{
    struct trace *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->map_bytes = os_whole_pages(bytes);
    t->spans = os_map(t->map_bytes, false);
    if (!t->spans) {
        free(t);
        return NULL;
    }
    memset(t->spans, 0, t->map_bytes); /* physical now: the plan that follows counts it */
    t->cap = (int64_t)(t->map_bytes / sizeof(struct span));
    t->zero_ns = os_clock_ns();
    atomic_init(&t->n, 0);
    return t;
}

int trace_open(struct trace *t, const char *path, struct err *e)
{
    struct err why = {0};
    t->path = strdup(path);
    if (!t->path)
        return err_set(e, E_NOMEM, "timeline: no memory for its path");
    t->open = true;
    int rc = os_out_stream(&t->out, path, &why);
    return rc < 0 ? err_set(e, rc == E_CANCELLED ? rc : E_ARG, "timeline: %s", why.text) : OK;
}

void trace_add(struct trace *t, const struct trace_kind *k, int track, int64_t begin_ns,
               int64_t end_ns, const int64_t *args, int n_args)
{
    int64_t i = atomic_fetch_add_explicit(&t->n, 1, memory_order_relaxed);
    if (i >= t->cap)
        return;
    struct span *s = &t->spans[i];
    *s = (struct span){.kind = k, .begin_ns = begin_ns, .end_ns = end_ns, .track = track,
                       .n_args = n_args};
    for (int a = 0; a < n_args; a++)
        s->arg[a] = args[a];
}

/* ---- writing ---------------------------------------------------------- */

struct writer {
    struct trace *t;
    struct err *e;
    int rc; /* the first failure; nothing is written after it */
};

#define PUT(w, ...)                                                            \
    do {                                                                       \
        if ((w)->rc == OK)                                                     \
            (w)->rc = os_out_printf(&(w)->t->out, (w)->e, __VA_ARGS__);        \
    } while (0)

/* Nanoseconds as microseconds with three places: exact. */
static void put_time(struct writer *w, const char *key, int64_t ns)
{
    PUT(w, ",\"%s\":%" PRId64 ".%03d", key, ns / 1000, (int)(ns % 1000));
}

static void put_span(struct writer *w, const struct span *s)
{
    int64_t zero = w->t->zero_ns;
    const char *comma = "";
    PUT(w, ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"name\":\"%s\",\"cat\":\"%s\"", s->track,
        s->kind->name, s->kind->category);
    put_time(w, "ts", MAX(s->begin_ns - zero, (int64_t)0));
    put_time(w, "dur", MAX(s->end_ns - s->begin_ns, (int64_t)0));
    PUT(w, ",\"args\":{");
    for (int a = 0; a < s->n_args; a++)
        if (s->kind->arg[a] && s->arg[a] != TRACE_NO_ARG) {
            PUT(w, "%s\"%s\":%" PRId64, comma, s->kind->arg[a], s->arg[a]);
            comma = ",";
        }
    PUT(w, "}}");
}

static void put_track(struct writer *w, int track)
{
    char name[64];
    if (track == TRACE_DRIVER)
        snprintf(name, sizeof(name), "driver");
    else if (track < TRACE_READS)
        snprintf(name, sizeof(name), "compute thread %d", track - TRACE_THREADS);
    else
        snprintf(name, sizeof(name), "drive %d slot %d", (track - TRACE_READS) / TRACE_SLOTS,
                 (track - TRACE_READS) % TRACE_SLOTS);
    PUT(w,
        ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}"
        ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_sort_index\","
        "\"args\":{\"sort_index\":%d}}",
        track, name, track, track);
}

/* Names of the tracks that have spans. */
static void put_tracks(struct writer *w, int64_t n)
{
    uint8_t *seen = calloc(TRACE_MAX_TRACK, 1);
    for (int64_t i = 0; seen && i < n; i++) { /* without memory: no names */
        int track = w->t->spans[i].track;
        if (track < 0 || track >= TRACE_MAX_TRACK || seen[track])
            continue;
        seen[track] = 1;
        put_track(w, track);
    }
    free(seen);
}

static int write_all(struct trace *t, int64_t n, int64_t lost, struct err *e)
{
    struct err why = {0};
    struct writer w = {.t = t, .e = &why};
    PUT(&w,
        "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"spans\":%" PRId64 ",\"lost_spans\":%" PRId64
        ",\"complete\":%s},\n\"traceEvents\":[\n"
        "{\"ph\":\"M\",\"pid\":1,\"tid\":0,\"name\":\"process_name\","
        "\"args\":{\"name\":\"sluice\"}}",
        n, lost, lost ? "false" : "true");
    put_tracks(&w, n);
    for (int64_t i = 0; i < n && w.rc == OK; i++)
        put_span(&w, &t->spans[i]);
    PUT(&w, "\n]}\n");
    if (w.rc == OK)
        w.rc = os_out_sync(&t->out, &why);
    if (w.rc == OK)
        w.rc = os_out_commit(&t->out, true, &why);
    return w.rc < 0 ? err_set(e, E_IO, "timeline: %s", why.text) : OK;
}

void trace_drop(struct trace *t)
{
    if (!t)
        return;
    if (t->open)
        os_out_close(&t->out);
    os_unmap(t->spans, t->map_bytes);
    free(t->path);
    free(t);
}

int trace_close(struct trace *t, struct err *e)
{
    if (!t)
        return OK;
    int64_t asked = atomic_load(&t->n), n = MIN(asked, t->cap);
    int rc = t->open && t->out.fd >= 0 ? write_all(t, n, asked - n, e) : OK;
    if (rc == OK && asked > n && t->path)
        rc = err_set(e, E_STATE,
                     "timeline: '%s' ends early, its %" PRId64 " places were full (%" PRId64
                     " later spans are missing); record a shorter run",
                     t->path, n, asked - n);
    trace_drop(t);
    return rc;
}
