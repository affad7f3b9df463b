/*
 * bpe: merges a piece by the ranks of pairs.
 *
 * A piece starts as one symbol a byte, or a character where tokens are spelt as
 * text; again and again the adjacent pair with the smallest merge rank, the
 * leftmost of equals, becomes one symbol. A heap of candidate pairs makes this
 * O(n log n), so a megabyte without a piece boundary costs no more for each
 * byte than ordinary text.
 */
#include "text/text_internal.h"

/* Enters the pair that begins at node i, if it merges. */
static void offer(struct encoder *enc, int32_t i)
{
    if (i < 0 || enc->node[i].next < 0)
        return;
    int32_t rank = vocab_merge(enc->t, enc->node[i].sym, enc->node[enc->node[i].next].sym);
    if (rank >= 0)
        heap_push(enc, (uint64_t)rank << 32 | (uint32_t)i);
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

/* A character that is no symbol merges with nothing. It is kept as this minus its
 * code point, so below -1. */
enum { NO_SYMBOL = -2 };

/* The symbols that a piece starts as; returns how many. */
static int32_t split(struct encoder *enc, struct str piece)
{
    const struct text *t = enc->t;
    int32_t n = 0;
    for (size_t i = 0; i < piece.n; n++) {
        int length = 1;
        int32_t sym = t->byte_sym[(unsigned char)piece.p[i]];
        if (t->pretok.form->spelling != SPELT_IN_BYTES) {
            length = utf8_sequence(piece.p + i, piece.n - i);
            sym = vocab_find(t, piece.p + i, (size_t)length);
            if (sym < 0)
                sym = NO_SYMBOL - (int32_t)utf8_decode(piece.p + i, length);
        }
        enc->node[n] = (struct node){sym, n - 1, n + 1};
        i += (size_t)length;
    }
    enc->node[n - 1].next = -1;
    return n;
}

/* A symbol that is no token is written as its bytes, as far as these are. */
static int emit(const struct text *t, int32_t sym, struct text_ids *out, struct err *e)
{
    char c[4];
    if (sym <= NO_SYMBOL)
        return push_bytes(t, (struct str){c, utf8_encode((uint32_t)(NO_SYMBOL - sym), c)}, out, e);
    return sym < t->n_tokens ? push_id(out, sym, e) : push_bytes(t, text_sym(t, sym), out, e);
}

int bpe_encode(struct encoder *enc, struct str piece, struct text_ids *out, struct err *e)
{
    TRY(encoder_reserve(enc, piece.n, e));
    int32_t n = split(enc, piece);
    for (int32_t i = 0; i + 1 < n; i++)
        offer(enc, i);
    merge_all(enc);
    for (int32_t i = 0; i >= 0; i = enc->node[i].next)
        TRY(emit(enc->t, enc->node[i].sym, out, e));
    return OK;
}
