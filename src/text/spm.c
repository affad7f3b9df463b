/*
 * spm: merges a piece by the scores of tokens, as SentencePiece's BPE models do.
 *
 * A piece starts as its characters; again and again the adjacent pair that
 * together is the token with the best score, the leftmost of equals, becomes one.
 * A character that is no token in the end is written as its bytes. A heap of
 * candidates makes this O(n log n) look-ups, each of at most the longest token.
 */
#include <math.h>
#include <stdlib.h>

#include "text/text_internal.h"

static int compare_score(const void *a, const void *b, void *arg)
{
    const float *score = arg;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (score[x] > score[y] || score[x] < score[y])
        return score[x] > score[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

int spm_rank(struct text *t, const float *scores, struct err *e)
{
    size_t n = (size_t)t->n_tokens;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(scores[i]))
            return err_set(e, E_FORMAT,
                           "token %zu has the score %f in tokenizer.ggml.scores: expected a finite "
                           "number", i, (double)scores[i]);
    int32_t *order = malloc(n * sizeof *order);
    t->score_rank = malloc(n * sizeof *t->score_rank);
    if (!order || !t->score_rank) {
        free(order);
        return err_set(e, E_NOMEM, "no memory for the vocabulary");
    }
    for (size_t i = 0; i < n; i++)
        order[i] = (int32_t)i;
    qsort_r(order, n, sizeof *order, compare_score, (void *)(uintptr_t)scores);
    int32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && scores[order[i]] < scores[order[i - 1]])
            rank++;
        t->score_rank[order[i]] = rank;
    }
    free(order);
    return OK;
}

/* Here a node's `sym` is where its bytes begin in the piece; they reach to the next. */
static size_t end_of(const struct encoder *enc, struct str piece, int32_t i)
{
    int32_t next = enc->node[i].next;
    return next < 0 ? piece.n : (size_t)enc->node[next].sym;
}

/* The token that the bytes from node i to the end of node j make, -1: none. */
static int32_t token_of(const struct encoder *enc, struct str piece, int32_t i, int32_t j)
{
    const struct text *t = enc->t;
    size_t begin = (size_t)enc->node[i].sym, n = end_of(enc, piece, j) - begin;
    int32_t id = n <= (size_t)t->longest ? vocab_find(t, piece.p + begin, n) : -1;
    return id >= 0 && text_type(t, id) == TOKEN_NORMAL ? id : -1;
}

/* Of the pair that begins at node i, INT32_MAX: it is none. */
static int32_t rank_of(const struct encoder *enc, struct str piece, int32_t i)
{
    int32_t next = enc->node[i].next;
    int32_t id = next < 0 ? -1 : token_of(enc, piece, i, next);
    return id < 0 ? INT32_MAX : enc->t->score_rank[id];
}

static void offer(struct encoder *enc, struct str piece, int32_t i)
{
    int32_t rank = i < 0 ? INT32_MAX : rank_of(enc, piece, i);
    if (rank < INT32_MAX)
        heap_push(enc, (uint64_t)rank << 32 | (uint32_t)i);
}

static void merge_all(struct encoder *enc, struct str piece)
{
    while (enc->n_heap) {
        uint64_t key = heap_pop(enc);
        int32_t i = (int32_t)(uint32_t)key;
        struct node *left = &enc->node[i];
        /* Entries are not taken out when their pair changes. One whose pair became
         * another of the same rank does what that one's own entry would. */
        if (left->sym < 0 || left->next < 0 || rank_of(enc, piece, i) != (int32_t)(key >> 32))
            continue;
        struct node *right = &enc->node[left->next];
        left->next = right->next;
        right->sym = -1;
        if (left->next >= 0)
            enc->node[left->next].prev = i;
        offer(enc, piece, left->prev);
        offer(enc, piece, i);
    }
}

int spm_encode(struct encoder *enc, struct str piece, struct text_ids *out, struct err *e)
{
    TRY(encoder_reserve(enc, piece.n, e));
    int32_t n = 0;
    for (size_t i = 0; i < piece.n; n++) {
        enc->node[n] = (struct node){(int32_t)i, n - 1, n + 1};
        i += (size_t)utf8_sequence(piece.p + i, piece.n - i);
    }
    enc->node[n - 1].next = -1;
    for (int32_t i = 0; i + 1 < n; i++)
        offer(enc, piece, i);
    merge_all(enc, piece);
    for (int32_t i = 0; i >= 0; i = enc->node[i].next) {
        int32_t id = token_of(enc, piece, i, i);
        size_t begin = (size_t)enc->node[i].sym;
        if (id >= 0)
            TRY(push_id(out, id, e));
        else
            TRY(push_bytes(enc->t, (struct str){piece.p + begin, end_of(enc, piece, i) - begin},
                           out, e));
    }
    return OK;
}
