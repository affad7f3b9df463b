/*
 * encode: text -> ids, ids -> bytes.
 *
 * The safety rule of text.h is kept by construction: merges build only
 * symbols from the index, which holds no special token (text_internal.h,
 * invariant 2), and vocab_special is asked for markup alone. User-defined
 * tokens (<think>, <tool_call>) are recognised in markup only too, unlike
 * elsewhere, where they match everywhere: a user's text must not be able to
 * open a think block or a tool call. Those of white space alone, which some
 * models have for indentation, open nothing and are recognised everywhere.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

/* ---- id lists ---- */

void text_ids_free(struct text_ids *ids)
{
    free(ids->id);
    *ids = (struct text_ids){0};
}

int push_id(struct text_ids *ids, int32_t id, struct err *e)
{
    if (ids->n == ids->cap) {
        int64_t cap = MAX(ids->cap + ids->cap / 2, 64);
        if (ids->most_bytes && (size_t)cap * sizeof(*ids->id) > ids->most_bytes)
            return err_set(e, E_BUDGET, "%lld token ids take too much memory", (long long)cap);
        int32_t *grown = realloc(ids->id, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(e, E_NOMEM, "no memory for %lld token ids", (long long)cap);
        ids->id = grown;
        ids->cap = cap;
    }
    ids->id[ids->n++] = id;
    return OK;
}

int push_bytes(const struct text *t, struct str s, struct text_ids *ids, struct err *e)
{
    for (size_t i = 0; i < s.n; i++) {
        int32_t byte = t->byte_sym[(unsigned char)s.p[i]];
        if (byte < t->n_tokens)
            TRY(push_id(ids, byte, e));
    }
    return OK;
}

/* ---- working memory ---- */

void heap_push(struct encoder *enc, uint64_t key)
{
    int64_t i = enc->n_heap++;
    while (i > 0 && enc->heap[(i - 1) / 2] > key) {
        enc->heap[i] = enc->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    enc->heap[i] = key;
}

uint64_t heap_pop(struct encoder *enc)
{
    uint64_t top = enc->heap[0], last = enc->heap[--enc->n_heap];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < enc->n_heap; i = child) {
        if (child + 1 < enc->n_heap && enc->heap[child + 1] < enc->heap[child])
            child++;
        if (enc->heap[child] >= last)
            break;
        enc->heap[i] = enc->heap[child];
    }
    enc->heap[i] = last;
    return top;
}

int encoder_reserve(struct encoder *enc, size_t n, struct err *e)
{
    enc->n_heap = 0;
    if (n <= enc->cap)
        return OK;
    if (n > INT32_MAX / 2)
        return err_set(e, E_ARG, "a word of %zu bytes is too long to encode: break it up", n);
    size_t cap = MAX(n, 256);
    if (enc->most_bytes && cap > enc->most_bytes / (sizeof *enc->node + 2 * sizeof *enc->heap))
        return err_set(e, E_BUDGET, "a word of %zu bytes takes too much memory to encode", n);
    free(enc->node);
    free(enc->heap);
    enc->cap = 0;
    enc->node = malloc(cap * sizeof *enc->node);
    /* n - 1 pairs at first; each of at most n - 1 merges takes one entry out
     * and puts at most two in. */
    enc->heap = malloc(2 * cap * sizeof *enc->heap);
    if (!enc->node || !enc->heap)
        return err_set(e, E_NOMEM, "no memory to encode a word of %zu bytes", n);
    enc->cap = cap;
    return OK;
}

/* ---- text -> ids ---- */

/* How many bytes of a piece are merged on their own: up to a blank behind something
 * else, where no symbol goes across. */
static size_t merged_alone(const struct text *t, struct str piece)
{
    size_t n = 0;
    if (!t->cuts_at_blanks)
        return piece.n;
    while (n < piece.n && piece.p[n] == ' ')
        n++;
    const char *blank = memchr(piece.p + n, ' ', piece.n - n);
    return blank ? (size_t)(blank - piece.p) : piece.n;
}

/* A token that is the whole piece, where such a one is taken as it is; else -1. */
static int32_t whole_piece(const struct text *t, struct str piece)
{
    const struct pretok_form *form = t->pretok.form;
    if (!form->whole_pieces && !(form->whole_newlines && piece.p[0] == '\n'))
        return -1;
    int32_t id = vocab_find(t, piece.p, piece.n);
    return id < t->n_tokens && id >= 0 && text_type(t, id) != TOKEN_CONTROL ? id : -1;
}

static int encode_piece(struct encoder *enc, struct str piece, struct text_ids *out,
                        struct err *e)
{
    const struct text *t = enc->t;
    int32_t id = piece.n > 1 ? whole_piece(t, piece) : -1;
    if (id >= 0)
        return push_id(out, id, e);
    if (t->pretok.form->spelling == SPELT_IN_BYTES)
        return bpe_encode(enc, piece, out, e);
    if (utf8_sequence(piece.p, piece.n) <= 0) /* a run of bytes that are no characters */
        return push_bytes(t, piece, out, e);
    while (piece.n) {
        struct str some = {piece.p, merged_alone(t, piece)};
        TRY(t->score_rank ? spm_encode(enc, some, out, e) : bpe_encode(enc, some, out, e));
        piece.p += some.n;
        piece.n -= some.n;
    }
    return OK;
}

/* Without white space that belongs to the special token before it. */
static struct str behind_special(struct encoder *enc, struct str text)
{
    while (enc->strips && text.n) {
        const size_t n = (size_t)utf8_space(text.p, text.n);
        enc->strips = n > 0;
        text = (struct str){text.p + n, text.n - n};
    }
    return text;
}

/* Text without special tokens in it. */
static int encode_words(struct encoder *enc, struct str text, struct text_ids *out,
                        struct err *e)
{
    struct str piece;
    int rc;
    text = behind_special(enc, text);
    enc->scan.blank_first = enc->t->blank_first && !enc->after_text;
    enc->scan.squeezes = enc->t->squeezes;
    if (text.n)
        enc->after_text = true;
    pretok_begin(&enc->scan, text);
    while ((rc = pretok_next(&enc->t->pretok, &enc->scan, &piece, e)) > 0)
        TRY(encode_piece(enc, piece, out, e));
    return rc;
}

/* Text with special tokens that `find` knows. At each place the longest, from left to
 * right. (Overlapping ones would come out otherwise in llama.cpp, which looks for the
 * longest in the whole text first; no known vocabulary has any.) */
static int encode_around(struct encoder *enc, struct str text,
                         int32_t (*find)(const struct text *, const char *, size_t),
                         struct text_ids *out, struct err *e)
{
    size_t begin = 0;
    for (size_t i = 0; i < text.n;) {
        int32_t id = find(enc->t, text.p + i, text.n - i);
        if (id < 0) {
            i++;
            continue;
        }
        TRY(encode_words(enc, (struct str){text.p + begin, i - begin}, out, e));
        TRY(push_id(out, id, e));
        enc->after_text = false;
        enc->strips = special_strips(enc->t, id);
        begin = i += text_sym(enc->t, id).n;
    }
    return encode_words(enc, (struct str){text.p + begin, text.n - begin}, out, e);
}

static int encode_segment(struct encoder *enc, const struct text_segment *seg,
                          struct text_ids *out, struct err *e)
{
    struct str text = {seg->p, seg->n};
    for (int64_t i = 0; seg->ids && i < seg->n_ids; i++) {
        TRY(push_id(out, seg->ids[i], e));
        enc->after_text = !special_type(text_type(enc->t, seg->ids[i]));
        enc->strips = special_strips(enc->t, seg->ids[i]) && !enc->after_text;
    }
    if (seg->ids)
        return OK;
    if (seg->markup)
        return encode_around(enc, text, vocab_special, out, e);
    return enc->t->blank.n ? encode_around(enc, text, vocab_blank, out, e)
                           : encode_words(enc, text, out, e);
}

int text_encode(const struct text *t, const struct text_segment *segs, size_t n_segs,
                bool bounds, struct text_ids *out, struct err *e)
{
    struct encoder enc = {.t = t};
    int64_t n_before = out->n;
    int rc = OK;
    /* Of what is allowed, a third each for the ids, a piece and its normal form. */
    size_t most = out->most_bytes;
    enc.most_bytes = enc.scan.most_bytes = most / 3;
    out->most_bytes = most / 3;
    if (bounds && t->add_bos && t->bos >= 0)
        rc = push_id(out, t->bos, e);
    for (size_t i = 0; i < n_segs && rc >= 0; i++)
        if (segs[i].n || segs[i].ids)
            rc = encode_segment(&enc, &segs[i], out, e);
    if (rc >= 0 && bounds && t->add_eos && t->eos >= 0)
        rc = push_id(out, t->eos, e);
    if (rc < 0)
        out->n = n_before;
    out->most_bytes = most;
    pretok_end(&enc.scan);
    free(enc.node);
    free(enc.heap);
    return rc;
}

/* ---- ids -> bytes ---- */

static bool in_vocabulary(const struct text *t, int32_t id)
{
    return id >= 0 && id < t->n_tokens;
}

int text_piece(const struct text *t, int32_t id, bool special, struct str *out)
{
    *out = (struct str){"", 0};
    if (!in_vocabulary(t, id))
        return E_ARG;
    int type = text_type(t, id);
    if (special || (type != TOKEN_CONTROL && type != TOKEN_UNKNOWN && type != TOKEN_UNUSED))
        *out = text_sym(t, id);
    return OK;
}

bool text_is_eog(const struct text *t, int32_t id)
{
    return in_vocabulary(t, id) && (t->kind[id] & KIND_EOG);
}

bool text_is_unused(const struct text *t, int32_t id)
{
    return in_vocabulary(t, id) && text_type(t, id) == TOKEN_UNUSED;
}

int64_t text_token_id(const struct text *t, const char *text)
{
    size_t n = strlen(text);
    int32_t id = vocab_special(t, text, n);
    if (id >= 0 && text_sym(t, id).n == n)
        return id;
    id = vocab_find(t, text, n);
    return id < t->n_tokens ? id : -1;
}

/* How many bytes at the end begin a UTF-8 sequence that more could finish. */
static size_t unfinished(const char *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = (unsigned char)p[n - k];
        if (c < 0x80)
            return 0;
        if (c >= 0xc0) /* a lead: unfinished, or nothing here is */
            return utf8_sequence(p + n - k, k) < 0 ? k : 0;
    }
    return 0;
}

void text_stream_begin(const struct text *t, struct text_stream *s)
{
    s->drops_blank = t->blank_first;
}

size_t text_stream_push(struct text_stream *s, struct str in, bool flush, char *out)
{
    if (s->drops_blank && in.n) {
        s->drops_blank = false;
        if (in.p[0] == ' ') {
            in.p++;
            in.n--;
        }
    }
    s->drops_blank &= !flush;
    size_t n = (size_t)s->n_held;
    memcpy(out, s->held, n);
    if (in.n)
        memcpy(out + n, in.p, in.n);
    n += in.n;
    size_t hold = flush ? 0 : unfinished(out, n);
    memcpy(s->held, out + n - hold, hold);
    s->n_held = (int)hold;
    return n - hold;
}
