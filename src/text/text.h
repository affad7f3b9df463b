/*
 * text: bytes <-> token ids, and chat messages -> segments.
 *
 *   vocab.c    opens the vocabulary: strings, merges, special tokens
 *   unicode.c  white space, NFC (utf8proc)
 *   pretok.c   cuts text by patterns (PCRE2), those of pretok_forms.c
 *   encode.c   encoding, decoding; bpe.c and spm.c merge
 *   chat.c     conversations, by the model's chat template (jinja/)
 *   written.c  answers as a model wrote them, in what the template writes
 *   probe.c    what that template does, found by running it
 *   calls/     answers -> text, reasoning, calls of tools
 *
 * The one safety rule: control tokens come only from segments marked as
 * markup. Text of a user can never become a control token; nor a user-defined
 * one (<think>, <tool_call>), which other programs match everywhere. User-defined
 * tokens of nothing but white space are matched everywhere here too. An answer that
 * is put back by its ids has only the control tokens that the template writes itself.
 *
 * Bytes that are not UTF-8 survive encoding and decoding. Where the model was
 * trained on NFC (qwen2, qwen35, olmo) the rest of the text comes back in it.
 * Where tokens are written with U+2581 for a blank (llama, gemma4) that character
 * comes back as a blank, and models that put a blank before a text (llama) give it
 * back as well: text_stream knows how to leave it out.
 *
 * After text_open an object is read-only and may be used from several
 * threads; a text_stream belongs to one thread.
 */
#ifndef TEXT_H
#define TEXT_H

#include "base/base.h"
#include "text/calls/calls.h" /* what an answer is read with */

struct text;

enum { /* tokenizer.ggml.token_type */
    TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3,
    TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6
};

/* The tokeniser's metadata; borrowed only during text_open. Ids are -1 where
 * the file names none. */
struct text_config {
    struct str model; /* tokenizer.ggml.model */
    struct str pre;   /* tokenizer.ggml.pre */
    const struct str *tokens;
    const int32_t *types; /* NULL: all normal */
    int64_t n_tokens;
    const struct str *merges;
    int64_t n_merges;
    const float *scores; /* (n_tokens) NULL: none */
    int64_t bos, eos, eot, eom;
    /* 0 or 1; -1: absent, use the model's default */
    int add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
    struct str chat_template; /* n = 0: none */
};

int text_open(const struct text_config *c, struct text **out, struct err *e);
void text_close(struct text *t);
int64_t text_n_tokens(const struct text *t);
int64_t text_bytes(const struct text *t); /* memory held */
int64_t text_longest(const struct text *t); /* bytes of the longest token */

struct text_segment {
    const char *p;
    size_t n;
    bool markup; /* control and user-defined tokens are recognised here */
    const int32_t *ids; /* (n_ids) what the text is, token by token; NULL: that is found out */
    int64_t n_ids;
};

/* Growable list of ids; zero-initialise, free with text_ids_free. */
struct text_ids {
    int32_t *id;
    int64_t n, cap;
    size_t most_bytes; /* of the list and the working memory of text_encode; 0: no limit */
};
void text_ids_free(struct text_ids *ids);
int push_id(struct text_ids *ids, int32_t id, struct err *e);

/* Appends the ids of the segments, in order; bos and eos as the file asks when
 * `bounds`. Adjacent segments are tokenised separately. On failure *out is as
 * it was. E_BUDGET: it would take more than out->most_bytes. */
int text_encode(const struct text *t, const struct text_segment *segs, size_t n_segs,
                bool bounds, struct text_ids *out, struct err *e);

/* Bytes of one token. Control tokens give nothing unless `special`. Returns a
 * borrowed pointer (never NULL) and its length. E_ARG for ids outside. */
int text_piece(const struct text *t, int32_t id, bool special, struct str *out);
bool text_is_eog(const struct text *t, int32_t id); /* ends a generation */
bool text_is_unused(const struct text *t, int32_t id); /* padding: never sample */
int64_t text_token_id(const struct text *t, const char *text); /* -1: none */

/* Holds back the bytes of an incomplete UTF-8 sequence between tokens. */
struct text_stream {
    char held[8];
    int n_held;
    bool drops_blank; /* if the next byte is a blank it is left out */
};
/* For ids from a text's beginning: leaves out the blank that encoding put there. */
void text_stream_begin(const struct text *t, struct text_stream *s);
/* Appends `in` to what is held; writes complete bytes to out (room in.n + 8),
 * returns how many. Bytes that can never become valid UTF-8 are passed through.
 * flush: everything out. */
size_t text_stream_push(struct text_stream *s, struct str in, bool flush, char *out);

/* ---- chat.c ---- */
enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
struct chat_call {
    const char *name, *arguments; /* arguments: JSON, an object */
    const char *id;               /* NULL: none */
};
struct chat_message {
    enum chat_role role;
    const char *content;   /* terminated */
    const char *reasoning; /* assistant only; NULL: it stands in `content`, if anywhere,
                              before </think>; "": there is none */
    const struct chat_call *calls; /* assistant only: (n_calls) */
    size_t n_calls;
    const int32_t *ids; /* assistant only: (n_ids) what the model wrote; NULL: not known */
    int64_t n_ids;
    const char *name, *call_id; /* of a tool's result: which, of which call; NULL: unknown */
};

/* Segments of a rendered conversation; owns its text. Zero-initialise. A segment
 * is one special token (markup), or the text between two of them. */
struct chat_render {
    struct text_segment *segs;
    size_t n_segs, cap_segs;
    size_t n_stable; /* the first n_stable segments are the same in every later
                        turn of this conversation (all but the generation prompt) */
    char *text; /* of all segments, one after the other */
    size_t n_text;
};

/* What is rendered, and how. */
struct chat_request {
    struct str json; /* p not NULL: the conversation, a list of messages as OpenAI's API has
                        them, or {"messages": [...], "tools": [...], ...}; in place of: */
    const struct chat_message *messages;
    size_t n;
    struct str tools; /* beside `messages`: JSON, a list; n = 0: none */
    int think;      /* 1, 0: reasoning on, off; -1: as the template does by itself */
    bool no_prompt; /* ends behind the last message */
    int64_t now;    /* seconds since 1970, for templates that write a date */
    size_t most_bytes;  /* working memory; 0: no limit but the template's */
    int64_t most_steps; /* 0: the usual number */
};
/* E_ARG: the template refuses the conversation, in its own words. E_UNSUPPORTED: it has
 * something that is not known here, or goes on for ever. E_BUDGET: most_bytes. */
int chat_render_request(const struct text *t, const struct chat_request *q,
                        struct chat_render *out, struct err *e);
int chat_render(const struct text *t, const struct chat_message *m, size_t n,
                bool think, struct chat_render *out, struct err *e);
void chat_render_free(struct chat_render *r);
/* Whether the text begins with the token that text_encode would put in front. */
bool chat_begins_with_bos(const struct text *t, const struct chat_render *r);
bool chat_has_thinking(const struct text *t); /* the template has a place for reasoning */
/* What a model writes around it; "": it has none. Borrowed. */
void chat_thinking_marks(const struct text *t, const char **begins, const char **ends);
/* How the template writes calls of tools, found by letting it write one; NULL: it writes
 * none, or in a way that is not known here. */
const struct call_row *chat_calls(const struct text *t);

#endif
