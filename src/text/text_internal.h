/*
 * text_internal: the insides of struct text, for the files of this folder and
 * their tests.
 *
 *   unicode.c  white space, NFC
 *   pretok.c   cuts text into pieces
 *   vocab.c    opens: strings, merges, special tokens, end-of-generation set
 *   bpe.c      pieces -> ids, ids -> bytes
 *   chat.c     messages -> segments
 *
 * Vocabulary: a symbol is a byte string with a number. Symbols below n_tokens
 * are the model's tokens. Merges may also build strings that are no tokens;
 * these are symbols from n_tokens on, never handed out as ids.
 * Invariants after text_open:
 *  1. every symbol's bytes lie in `pool`, off[i] .. off[i + 1];
 *  2. the symbol index holds no control, user-defined, unknown or unused
 *     token, so the merges cannot build one from any text;
 *  3. merges[r] has rank r; its three members are symbols, or all are -1 for a
 *     merge that no text can reach.
 */
#ifndef TEXT_INTERNAL_H
#define TEXT_INTERNAL_H

#include "text/text.h"

/* ---- unicode.c ---- */

/* How many bytes from the start are well-formed sequences. */
size_t utf8_valid_prefix(const char *p, size_t n);
/* Length of the white-space character at p (as Python's str.strip counts
 * them), 0 if there is none. n >= 1. */
int utf8_space(const char *p, size_t n);

/* True when the text is surely in form NFC already (a quick, one-sided test). */
bool nfc_quick(const char *p, size_t n);
/* NFC of well-formed text; *out is malloc'ed. Time is linear whatever the
 * text, also for endless runs of combining marks. */
int nfc_make(const char *p, size_t n, char **out, size_t *out_n, struct err *e);

/* ---- pretok.c ---- */

struct pretok {
    const struct pretok_form *form; /* NULL: not open */
    void *code, *limits; /* PCRE2's compiled pattern and match context */
};

/* What belongs to a pre-tokeniser besides its pattern. */
bool pretok_whole_pieces(const struct pretok *p); /* a piece that is a token is taken whole */
bool pretok_adds_bos(const struct pretok *p);     /* when the file does not say */

int pretok_open(struct str name, struct pretok *p, struct err *e);
void pretok_close(struct pretok *p);
int64_t pretok_bytes(const struct pretok *p);

/* A walk over one text. Zero-initialise, or reuse after the last one ended;
 * pieces stay valid until the next call. One thread. */
struct pretok_scan {
    struct str rest; /* not looked at yet */
    struct str part; /* well-formed stretch being cut, normalised */
    size_t at;       /* next byte of part */
    char *nfc;       /* owns part when it had to be normalised */
    void *match;     /* PCRE2's match data */
    size_t most_bytes; /* for nfc while it is made; 0: no limit */
};
void pretok_begin(struct pretok_scan *s, struct str text);
/* 1: *piece holds the next piece; 0: no more; negative: failed. */
int pretok_next(const struct pretok *p, struct pretok_scan *s, struct str *piece,
                struct err *e);
void pretok_end(struct pretok_scan *s);

/* ---- chat.c ---- */

struct chat_form {
    bool chatml;   /* turns are <|im_start|>role ... <|im_end|> */
    bool thinking; /* the template mentions <think> */
    bool opens;    /* thinking on: the prompt ends by opening a think block */
    bool shuts;    /* thinking off: the prompt ends with an empty one */
    bool trims;    /* contents lose white space at both ends */
    bool splits;   /* a content with </think> in it holds reasoning and answer */
    bool keeps;    /* answers after the last question get a think block ... */
    bool sparing;  /* ... if they have reasoning or are the last message */
    bool system_first; /* a system message elsewhere is refused */
    bool needs_user;   /* a conversation without a question is refused */
    char *system;      /* stands first where no system message does; NULL: none */
    size_t n_system;
};
int chat_form_read(struct str chat_template, struct chat_form *f, struct err *e);
void chat_form_free(struct chat_form *f);

/* ---- vocab.c ---- */

enum {
    KIND_TYPE = 0x0f,   /* TOKEN_*, after corrections */
    KIND_EOG = 0x10,
    KIND_OPAQUE = 0x20  /* not in mapped form: decodes as it stands, never built by merges */
};

struct merge {
    int32_t left, right, result;
};

struct text {
    char *pool;
    size_t pool_n, pool_cap;
    uint32_t *off; /* (n_syms + 1) */
    int32_t n_syms, cap_syms, n_tokens;
    uint8_t *kind; /* (n_tokens) */

    uint32_t *sym_slot; /* open addressing, see slot_of */
    uint32_t sym_mask, n_indexed;
    struct merge *merges; /* by rank */
    uint32_t *merge_slot; /* the same, of ranks */
    uint32_t merge_mask;
    int32_t n_merges;
    int32_t byte_sym[256]; /* the symbol of each byte */

    int32_t *special; /* ids recognised in markup, by text, then by id */
    int32_t n_special;
    int32_t bos, eos; /* -1: none */
    bool add_bos, add_eos;
    struct pretok pretok;
    struct chat_form chat;
};

static inline struct str text_sym(const struct text *t, int32_t sym)
{
    return (struct str){t->pool + t->off[sym], t->off[sym + 1] - t->off[sym]};
}

static inline int text_type(const struct text *t, int32_t id)
{
    return t->kind[id] & KIND_TYPE;
}

/* The symbol with these bytes, -1: none. */
int32_t vocab_find(const struct text *t, const char *p, size_t n);
/* The rank of a pair, -1: the pair does not merge. */
int32_t vocab_merge(const struct text *t, int32_t left, int32_t right);
/* The longest special token at the start of p, -1: none. */
int32_t vocab_special(const struct text *t, const char *p, size_t n);

#endif
