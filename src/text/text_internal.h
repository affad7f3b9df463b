/*
 * text_internal: the insides of struct text, for the files of this folder and
 * their tests.
 *
 *   unicode.c  white space, NFC
 *   pretok.c   cuts text into pieces, as pretok_forms.c says
 *   spell.c    how a file writes tokens
 *   vocab.c    opens: strings, merges
 *   special.c  special tokens, end-of-generation set
 *   encode.c   text -> pieces -> ids, ids -> bytes
 *   bpe.c      merging a piece by the ranks of pairs
 *   spm.c      merging a piece by the scores of tokens
 *   chat.c     messages -> segments
 *   written.c  answers as a model wrote them
 *   probe.c    what a chat template does
 *
 * Vocabulary: a symbol is a byte string with a number. Symbols below n_tokens
 * are the model's tokens. Merges may also build strings that are no tokens;
 * these are symbols from n_tokens on, never handed out as ids.
 * Invariants after text_open:
 *  1. every symbol's bytes lie in `pool`, off[i] .. off[i + 1];
 *  2. the symbol index holds no control, user-defined, unknown or unused
 *     token, so the merges cannot build one from any text;
 *  3. merges[r] has rank r; its three members are symbols, or all are -1 for a
 *     merge that no text can reach;
 *  4. each byte has a symbol; where tokens are spelt as text these are byte tokens
 *     (<0x41>), which the index does not hold.
 */
#ifndef TEXT_INTERNAL_H
#define TEXT_INTERNAL_H

#include <string.h>

#include "text/text.h"

/* ---- unicode.c ---- */

/* How many bytes from the start are well-formed sequences. */
size_t utf8_valid_prefix(const char *p, size_t n);
/* Writes a character, returns how many bytes. */
size_t utf8_encode(uint32_t c, char out[4]);
/* Length of the white-space character at p (as Python's str.strip counts
 * them), 0 if there is none. n >= 1. */
int utf8_space(const char *p, size_t n);

/* True when the text is surely in form NFC already (a quick, one-sided test). */
bool nfc_quick(const char *p, size_t n);
/* NFC of well-formed text; *out is malloc'ed. Time is linear whatever the
 * text, also for endless runs of combining marks. */
int nfc_make(const char *p, size_t n, char **out, size_t *out_n, struct err *e);

/* ---- pretok.c ---- */

/* How a file writes ordinary tokens. */
enum spelling {
    SPELT_IN_BYTES,  /* a character for each byte: GPT-2's map */
    SPELT_AS_TEXT,   /* as they are; bytes that are no character: <0x00> to <0xFF> */
    SPELT_WITH_BARS, /* the same, with U+2581 for each blank */
};

/* What a pass does with the matches of its pattern. What lies between them is
 * always a piece of its own. */
enum cut {
    CUT_MATCHES, /* each is a piece */
    CUT_THIRDS,  /* cut into three characters each, counted from the right */
    CUT_INSIDE,  /* the same, but their ends stay with what is around them */
};

enum { PRETOK_PASSES = 6, PRETOK_NAMES = 20 };

/* A way to cut text: passes one after the other, each over the pieces of the one
 * before; and what else belongs to it. */
struct pretok_form {
    const char *names[PRETOK_NAMES]; /* values of tokenizer.ggml.pre, the best known first */
    struct {
        const char *pattern; /* NULL: the passes end */
        enum cut cut;
    } pass[PRETOK_PASSES];
    enum spelling spelling;
    bool nfc;            /* text is brought to NFC first */
    bool whole_pieces;   /* a piece that is a token is taken whole */
    bool whole_newlines; /* if it is one of newlines only */
    bool adds_bos;       /* when the file does not say */
    bool must_bos;       /* whatever the file says */
};

/* ---- pretok_forms.c ---- */

/* The i-th form's k-th name; NULL after the last. pretok_name(i): its first. */
const char *pretok_other_name(int i, int k);
const char *pretok_name(int i);
const struct pretok_form *pretok_find(struct str name); /* NULL: none */
const struct pretok_form *pretok_sentence_pieces(void); /* of SentencePiece's models */

/* ---- pretok.c ---- */

struct pretok {
    const struct pretok_form *form; /* NULL: not open */
    void *code[PRETOK_PASSES];      /* PCRE2's compiled patterns */
    void *limits;                   /* and match context */
    int n_passes;
};

int pretok_open(struct str name, struct pretok *p, struct err *e);
int pretok_open_form(const struct pretok_form *form, struct pretok *p, struct err *e);
void pretok_close(struct pretok *p);
int64_t pretok_bytes(const struct pretok *p);

/* Where a pass stands: places in the part, begin <= at <= end. */
struct pretok_level {
    size_t begin, end; /* the piece being cut */
    size_t at;         /* cut up to here */
    size_t match, stop; /* of the last match; stop <= at: cut already */
    size_t first;      /* the first place to cut in that match, if it is cut in threes */
};

/* A walk over one text. Zero-initialise, or reuse after the last one ended;
 * pieces stay valid until the next call. One thread. */
struct pretok_scan {
    struct str rest; /* not looked at yet */
    struct str part; /* well-formed stretch being cut, as it is to be encoded */
    size_t at;       /* next byte of part that no pass has */
    struct pretok_level level[PRETOK_PASSES];
    char *made;      /* owns part when it is not the text as it came */
    void *match;     /* PCRE2's match data */
    size_t most_bytes; /* for `made` while it is made; 0: no limit */
    /* For texts spelt with bars; set before pretok_begin. */
    bool blank_first; /* a blank goes before the text */
    bool squeezes;    /* blanks at its ends go, and all but one of a run */
    bool begun;       /* something of the text was looked at */
};
void pretok_begin(struct pretok_scan *s, struct str text);
/* 1: *piece holds the next piece; 0: no more; negative: failed. */
int pretok_next(const struct pretok *p, struct pretok_scan *s, struct str *piece,
                struct err *e);
void pretok_end(struct pretok_scan *s);

/* ---- spell.c ---- */

struct spelling_map {
    enum spelling how;
    int16_t byte_of[0x144]; /* SPELT_IN_BYTES: of each character, -1: none */
};
void spell_make(enum spelling how, struct spelling_map *m);
/* Writes the bytes that a token's text in a file stands for to out (room s.n), returns
 * how many; -1 if it is not written in this way. */
int64_t spell_bytes(const struct spelling_map *m, struct str s, char *out);
/* The byte that a token such as <0x41> stands for, -1: it is none. */
int spell_byte_token(struct str s);
bool spell_is_blank(struct str s); /* blanks, tabs, newlines, U+2581 only; not empty */
/* Text as tokens spelt with bars hold it: blanks for U+2581, perhaps one in front;
 * squeezed: none at the given ends, and one for each run. out: room n + 1; returns
 * how many bytes. */
size_t spell_text(struct str s, bool blank_first, bool squeezes, bool begins, bool ends, char *out);

/* ---- chat.c ---- */

/* What a template wants the arguments of a call to be. */
enum chat_arguments {
    ARGUMENTS_UNKNOWN,  /* as they are given; an object, or a text, if that fails */
    ARGUMENTS_AS_GIVEN, /* a JSON text or an object: most ways; the same if that fails */
    ARGUMENTS_TEXT,
    ARGUMENTS_OBJECT
};

struct chat_form {
    struct str source; /* the template, owned; n = 0: the form is not known */
    bool thinking;     /* reasoning is a part of it */
    char begins[32], ends[32]; /* what stands around it; "": there is none */
    const struct call_row *calls; /* NULL: none that is known */
    enum chat_arguments arguments;
};
/* A template that cannot be run is no failure here: it is when it is used. */
int chat_form_open(struct text *t, struct str chat_template, struct err *e);
void chat_form_close(struct text *t);
/* Renders once; what stays is not looked for. */
int chat_render_as(const struct text *t, const struct chat_request *q,
                   enum chat_arguments arguments, struct chat_render *out, struct err *e);

/* ---- written.c ---- */

struct jbuf;
/* Where in a rendered text an answer stands that a message has the ids of. */
struct written {
    size_t begin, end;
    const int32_t *ids;
    int64_t n_ids;
    size_t n_text; /* bytes of them all */
};
/* The answer of m, whose prompt is the first `begin` bytes of b: 1: it stands there, and says
 * what m's ids say; 0: it does not. E_NOMEM. */
int written_find(const struct text *t, const struct jbuf *b, size_t begin,
                 const struct chat_message *m, struct written *out);

/* ---- probe.c ---- */

/* What the template of t does, to *f, whose source is there. */
void chat_probe(const struct text *t, struct chat_form *f);

/* ---- vocab.c ---- */

enum {
    KIND_TYPE = 0x0f,   /* TOKEN_*, after corrections */
    KIND_EOG = 0x10,
    KIND_OPAQUE = 0x20  /* not in mapped form: decodes as it stands, never built by merges */
};

struct merge {
    int32_t left, right, result;
};

struct id_list { /* by text, then by id */
    int32_t *id;
    int32_t n;
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
    int32_t *score_rank;   /* (n_tokens) 0: the best score, equal for equal ones; NULL: a
                              model that merges pairs by rank */
    int32_t longest;       /* bytes of the longest symbol in the index */
    bool cuts_at_blanks;   /* no symbol has a blank behind something else: text spelt with
                              bars is merged in parts that begin with their blanks */

    struct id_list special; /* recognised in markup */
    struct id_list blank;   /* of these, runs of white space that are recognised in any text */
    int32_t bos, eos; /* -1: none */
    bool add_bos, add_eos;
    bool blank_first, squeezes; /* see struct pretok_scan */
    bool strips;                /* special tokens take the white space behind them along */
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
static inline bool str_is(struct str s, const char *text)
{
    return strlen(text) == s.n && !memcmp(s.p, text, s.n);
}

/* ---- special.c ---- */

static inline bool special_type(int type)
{
    return type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN;
}

/* Marks the end-of-generation set; needs the merges. */
void special_mark_ends(struct text *t, const struct text_config *c);
/* Fills the lists of special tokens. */
int special_collect(struct text *t, struct err *e);
/* Whether white space behind it is no text. */
bool special_strips(const struct text *t, int32_t id);
/* The longest special token at the start of p, -1: none. */
int32_t vocab_special(const struct text *t, const char *p, size_t n);
/* The same, of those that any text may have. */
int32_t vocab_blank(const struct text *t, const char *p, size_t n);

/* ---- encode.c, bpe.c, spm.c ---- */

struct node {
    int32_t sym;        /* -1: merged into the one before */
    int32_t prev, next; /* -1: none */
};

/* One encode call's working memory; grows to its longest piece. */
struct encoder {
    const struct text *t;
    struct pretok_scan scan;
    struct node *node;
    uint64_t *heap; /* smallest first: rank << 32 | index of the left symbol */
    int64_t n_heap;
    size_t cap; /* symbols that node and heap have room for */
    size_t most_bytes; /* for them; 0: no limit */
    bool strips;     /* a special token was, whose white space is no text */
    bool after_text; /* text was encoded since the beginning or the last special token */
};

/* Makes room for a piece of n symbols, and empties the heap. */
int encoder_reserve(struct encoder *enc, size_t n, struct err *e);
void heap_push(struct encoder *enc, uint64_t key);
uint64_t heap_pop(struct encoder *enc);
/* The bytes one by one, as far as these are tokens. */
int push_bytes(const struct text *t, struct str s, struct text_ids *ids, struct err *e);

/* Append a piece's ids. */
int bpe_encode(struct encoder *enc, struct str piece, struct text_ids *out, struct err *e);
int spm_encode(struct encoder *enc, struct str piece, struct text_ids *out, struct err *e);
/* Sets score_rank; scores: n_tokens of them. */
int spm_rank(struct text *t, const float *scores, struct err *e);

#endif
