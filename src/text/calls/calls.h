/*
 * calls: how models write reasoning and calls of tools in an answer.
 *
 *   rows.c     the syntaxes, as patterns
 *   scan.c     a pattern over bytes as they come: where a call ends, and its parts
 *   decode.c   parts -> name, id, and arguments as JSON
 *   loose.c    values that are written unlike JSON
 *   reader.c   an answer as it comes -> text, reasoning, calls
 *   harmony.c  the same of answers in channels
 *
 * An answer is untrusted: whatever a model writes, reading it ends, takes time in
 * proportion to its length, and no more memory than the limits below. Nothing is lost: what
 * is no call that can be understood is text, byte by byte as it was written.
 */
#ifndef CALLS_H
#define CALLS_H

#include "base/base.h"

enum {
    CALLS_MOST = 256 << 10, /* bytes of a call, or of a list of them; a longer one is text */
    CALLS_MEMORY = 8 << 20, /* to take it apart, for as long as that takes */
    CALLS_MARK = 64         /* bytes of a mark around reasoning, terminated */
};

/* ---- rows.c ---- */

/*
 * A syntax. A pattern is bytes as they stand, but for
 *
 *   ~       white space, any or none
 *   %n      the name: letters, digits, _ - . / and what is not ASCII
 *   %i      the id, %t the type of an argument: up to the byte that follows in the pattern
 *   %k %v   name of an argument, and its value: up to the bytes that follow
 *   %f      the name and more, up to the bytes that follow: functions.NAME:NUMBER, the id
 *   %j      the arguments, a JSON object
 *   %o      a JSON object that has the name and the arguments
 *   %l      a JSON list of those
 *   %g %p   arguments as Gemma writes them, a list of calls as Python has it: up to what
 *           follows
 *   %( %)   an argument, any number of times
 *   %[ %]   a call, once or more, with white space behind each or none
 *
 * A pattern begins with bytes as they stand or, of a syntax without a mark in front, with
 * what `starts` says. What follows a group or a part is bytes as they stand, too.
 */
struct call_row {
    const char *name;    /* as the public interface tells it */
    const char *pattern; /* NULL: answers come in channels (harmony) */
    /* Of calls that nothing announces: they are the whole answer, and one begins so (bytes
     * and ~). NULL: the pattern's own first bytes. */
    const char *starts;
    bool lines;     /* a value stands on lines of its own */
    bool keyed;     /* objects are {NAME: arguments} */
    bool by_string; /* %t is string="true" or "false", and not a type's name */
};
extern const struct call_row call_rows[];  /* the most telling first; name NULL: the end */
const struct call_row *call_row_at(int i); /* NULL: there are less */
const struct call_row *call_row_named(const char *name); /* NULL: there is none */
/* Whether a text (a prompt) ends with what calls begin with: n bytes at its end; 0: not. */
size_t call_row_opened(const struct call_row *row, struct str text);
/* Whether a token with this text is part of what the row looks for. */
bool call_row_has(const struct call_row *row, struct str token);

/* ---- scan.c ---- */

/* A part of a call: where it lies, from the beginning of what is scanned. */
struct call_part {
    char kind; /* the letter of the pattern */
    size_t at, n;
};

/* Zero-initialise but for `at`, where the pattern begins. */
struct call_scan {
    const char *at;
    size_t pos;  /* the bytes before have been taken */
    size_t seen; /* those before have been looked at for what ends a part */
    int depth;   /* of brackets in a JSON value */
    bool in_string, escaped;
    bool whole;             /* all that tells the call is there; only what ends it may be missing */
    struct call_part *part; /* of the call being read */
    size_t n_parts, cap_parts;
};

enum call_state {
    CALL_MORE,  /* all of it has been taken, and it may go on */
    CALL_NAMED, /* the name is known: call again */
    CALL_DONE,  /* a call is there: its parts, up to pos; call again for the next */
    CALL_END,   /* the pattern has ended at pos; no call is left */
    CALL_WRONG  /* it is none */
};
/* p: all bytes since the pattern's beginning, which must not change between calls. last: no
 * more will come. E_NOMEM is CALL_WRONG. */
enum call_state call_scan(struct call_scan *s, const char *p, size_t n, bool last);
/* Whether text begins as `starts` says: 1; 0: it does not; -1: as far as it goes. */
int call_starts(const char *starts, const char *p, size_t n);

/* ---- decode.c ---- */

/* A call that was understood: strings owned, terminated. */
struct call {
    char *name, *id; /* id: "" unless the model wrote one */
    char *arguments; /* JSON, an object; as the model wrote it where it writes JSON */
    bool quoted;     /* they were a JSON text in a string */
};
void call_free(struct call *c);

struct call_list { /* zero-initialise */
    struct call *v;
    size_t n, cap;
    size_t n_bytes; /* of the strings in it */
};
void call_list_free(struct call_list *l);

/* The name in a part of kind n or f. */
struct str call_part_name(const struct call_part *part, const char *p);
/* Appends the call, or calls, of these parts of p. tools: JSON, the list of tools, for the
 * types of arguments; n = 0: none. E_FORMAT: they are not what the row says; E_BUDGET,
 * E_NOMEM: no memory. Nothing is appended then. */
int call_decode(const struct call_row *row, const struct call_part *part, size_t n_parts,
                const char *p, struct str tools, struct call_list *out, struct err *e);
/* Whether two JSON texts say the same. */
bool call_same_json(struct str a, struct str b);

/* ---- loose.c ---- */

struct jinja;
struct jbuf;
/* {key: value, ...} as Gemma has it, strings between <|"|> -> JSON. False: it is not. */
bool loose_gemma(struct jinja *j, struct str text, struct jbuf *out);
/* NAME(key=value, ...) of Python at *at: the name, and the arguments as JSON. */
bool loose_python(struct jinja *j, struct str text, size_t *at, struct str *name, struct jbuf *out);

/* ---- reader.c ---- */

enum call_event_kind {
    CALL_EV_NONE, /* nothing until more comes */
    CALL_EV_TEXT,
    CALL_EV_REASONING,
    CALL_EV_BEGUN, /* a call of `name` is being written; if it turns out to be none, it comes
                      as text */
    CALL_EV_CALL   /* it is there: `call` */
};
struct call_event { /* borrowed until the next function on the reader */
    enum call_event_kind kind;
    struct str text; /* TEXT, REASONING: at least one byte, whole characters if what was put is;
                        BEGUN: the name */
    const struct call *call;
};

/* What an answer looks like. */
struct call_form {
    const struct call_row *row; /* NULL: no calls are looked for */
    const char *begins, *ends;  /* around reasoning; "": there is none. Copied */
    /* The end of the prompt, which may have opened the reasoning or a call. Only looked at */
    struct str prompt;
    struct str tools; /* JSON; copied */
};

struct call_reader;
struct call_reader *call_reader_new(const struct call_form *f); /* NULL: no memory */
void call_reader_free(struct call_reader *r);                   /* NULL is fine */
/* More of the answer. E_NOMEM: what is missing from then on is told by none. */
int call_reader_put(struct call_reader *r, const char *p, size_t n);
void call_reader_end(struct call_reader *r); /* nothing more comes */
/* What can be told now; until it is CALL_EV_NONE. E_NOMEM. */
int call_reader_next(struct call_reader *r, struct call_event *ev);
/* Memory held; *n_untold: bytes of the answer in it that may still be text. */
size_t call_reader_bytes(const struct call_reader *r, size_t *n_untold);
/* All calls so far. */
const struct call_list *call_reader_calls(const struct call_reader *r);
/* Whether the bytes of a control token with this text belong into the reader: it is part of
 * what is looked for. */
bool call_reader_wants(const struct call_reader *r, struct str token);

#endif
