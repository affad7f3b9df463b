/*
 * bpe: pieces -> ids by merging, ids -> bytes.
 *
 * A piece starts as one symbol a byte; again and again the adjacent pair with
 * the smallest merge rank, the leftmost of equals, becomes one symbol. A heap
 * of candidate pairs makes this O(n log n), so a megabyte without a piece
 * boundary costs no more for each byte than ordinary text.
 *
 * The safety rule of text.h is kept by construction: merges build only
 * symbols from the index, which holds no special token (text_internal.h,
 * invariant 2), and vocab_special is asked for markup alone. User-defined
 * tokens (<think>, <tool_call>) are recognised in markup only too, unlike
 * elsewhere, where they match everywhere: a user's text must not be able to
 * open a think block or a tool call.
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

static int push_id(struct text_ids *ids, int32_t id, struct err *e)
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

/* ---- merging a piece ---- */

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
};

static void heap_push(struct encoder *enc, uint64_t key)
{
    int64_t i = enc->n_heap++;
    while (i > 0 && enc->heap[(i - 1) / 2] > key) {
        enc->heap[i] = enc->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    enc->heap[i] = key;
}

static uint64_t heap_pop(struct encoder *enc)
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

/* Enters the pair that begins at node i, if it merges. */
static void offer(struct encoder *enc, int32_t i)
{
    if (i < 0 || enc->node[i].next < 0)
        return;
    int32_t rank = vocab_merge(enc->t, enc->node[i].sym, enc->node[enc->node[i].next].sym);
    if (rank >= 0)
        heap_push(enc, (uint64_t)rank << 32 | (uint32_t)i);
}

static int reserve(struct encoder *enc, size_t n, struct err *e)
{
    if (n <= enc->cap)
        return OK;
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

static void merge_all(struct encoder *enc)
{
    while (enc->n_heap) {
        uint64_t key = heap_pop(enc);
        const struct merge *m = &enc->t->merges[key >> 32];
        struct node *left = &enc->node[(uint32_t)key];
        /* Entries are not taken out when their pair changes: stale ones show
         * here, as the symbols are no longer theirs. */
        if (left->sym != m->left || left->next < 0)
            continue;
        struct node *right = &enc->node[left->next];
        if (right->sym != m->right)
            continue;
        left->sym = m->result;
        left->next = right->next;
        right->sym = -1;
        if (left->next >= 0)
            enc->node[left->next].prev = (int32_t)(left - enc->node);
        offer(enc, left->prev);
        offer(enc, (int32_t)(left - enc->node));
    }
}

/* A symbol that is no token is written as its bytes, as far as these are. */
static int emit(const struct text *t, int32_t sym, struct text_ids *out, struct err *e)
{
    if (sym < t->n_tokens)
        return push_id(out, sym, e);
    struct str s = text_sym(t, sym);
    for (size_t i = 0; i < s.n; i++) {
        int32_t byte = t->byte_sym[(unsigned char)s.p[i]];
        if (byte < t->n_tokens)
            TRY(push_id(out, byte, e));
    }
    return OK;
}

static int encode_piece(struct encoder *enc, struct str piece, struct text_ids *out,
                        struct err *e)
{
    const struct text *t = enc->t;
    if (piece.n == 1)
        return emit(t, t->byte_sym[(unsigned char)piece.p[0]], out, e);
    if (pretok_whole_pieces(&t->pretok)) {
        int32_t id = vocab_find(t, piece.p, piece.n);
        if (id >= 0 && id < t->n_tokens && text_type(t, id) != TOKEN_CONTROL)
            return push_id(out, id, e);
    }
    if (piece.n > INT32_MAX / 2)
        return err_set(e, E_ARG, "a word of %zu bytes is too long to encode: break it up",
                       piece.n);
    TRY(reserve(enc, piece.n, e));
    int32_t n = (int32_t)piece.n;
    for (int32_t i = 0; i < n; i++)
        enc->node[i] = (struct node){t->byte_sym[(unsigned char)piece.p[i]], i - 1,
                                     i + 1 < n ? i + 1 : -1};
    enc->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        offer(enc, i);
    merge_all(enc);
    for (int32_t i = 0; i >= 0; i = enc->node[i].next)
        TRY(emit(t, enc->node[i].sym, out, e));
    return OK;
}

static int encode_plain(struct encoder *enc, struct str text, struct text_ids *out,
                        struct err *e)
{
    struct str piece;
    int rc;
    pretok_begin(&enc->scan, text);
    while ((rc = pretok_next(&enc->t->pretok, &enc->scan, &piece, e)) > 0)
        TRY(encode_piece(enc, piece, out, e));
    return rc;
}

/* At each place the longest special token, from left to right. (Overlapping
 * ones would come out otherwise in llama.cpp, which looks for the longest in
 * the whole text first; no known vocabulary has any.) */
static int encode_markup(struct encoder *enc, struct str text, struct text_ids *out,
                         struct err *e)
{
    size_t begin = 0;
    for (size_t i = 0; i < text.n;) {
        int32_t id = vocab_special(enc->t, text.p + i, text.n - i);
        if (id < 0) {
            i++;
            continue;
        }
        TRY(encode_plain(enc, (struct str){text.p + begin, i - begin}, out, e));
        TRY(push_id(out, id, e));
        begin = i += text_sym(enc->t, id).n;
    }
    return encode_plain(enc, (struct str){text.p + begin, text.n - begin}, out, e);
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
    for (size_t i = 0; i < n_segs && rc >= 0; i++) {
        struct str text = {segs[i].p, segs[i].n};
        if (text.n)
            rc = segs[i].markup ? encode_markup(&enc, text, out, e)
                                : encode_plain(&enc, text, out, e);
    }
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

size_t text_stream_push(struct text_stream *s, struct str in, bool flush, char *out)
{
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
