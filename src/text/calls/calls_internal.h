/*
 * calls_internal: the insides of a reader, for reader.c and harmony.c.
 *
 * Bytes [at, n) of buf were put and are not told yet. What `next` hands out lies before `at`
 * and stays until the reader is used again.
 */
#ifndef CALLS_INTERNAL_H
#define CALLS_INTERNAL_H

#include "text/calls/calls.h"

enum call_reader_state {
    READ_START,  /* white space at most: reasoning or answer? */
    READ_LEAD,   /* reasoning, its leading white space */
    READ_REASON, /* reasoning */
    READ_GAP,    /* white space behind reasoning */
    READ_FRESH,  /* the answer's first byte */
    READ_TEXT,   /* the answer */
    READ_CALL,   /* what may be a call */
    READ_HEAD,   /* channels: in front of a message */
    READ_BODY    /* channels: in it */
};

struct call_reader {
    const struct call_row *row;
    char begins[CALLS_MARK], ends[CALLS_MARK];
    char *tools;
    size_t n_tools;
    char *buf;
    size_t n, cap, at;
    bool last, no_memory;
    enum call_reader_state state;
    bool after_call; /* nothing was told since a call ended */
    size_t lead;     /* white space in front of what may be a call */
    size_t plain;    /* so many bytes from `at` on are text, whatever they begin */
    int64_t again;   /* bytes that may be looked at once more, after what was no call */
    struct call_scan scan;
    struct call_list calls;
    size_t n_told;
    bool begun; /* the name of the next call has been told */
    /* channels: of the message being read */
    enum call_event_kind body;
    size_t name_at, name_n, body_at, seen; /* from `at` on */
};

/* Tells the first n of the untold bytes. */
int call_reader_tell(struct call_reader *r, enum call_event_kind kind, size_t n,
                     struct call_event *ev);
int harmony_next(struct call_reader *r, struct call_event *ev);
static inline bool call_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

#endif
