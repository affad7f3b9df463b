/*
 * special: the tokens that merges must not build: which they are, which of them end a
 * generation, and where they stand in markup.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

/* Texts that end a generation in the models that have them. */
static const char *const eog_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
};

static bool built_by_merge(const struct text *t, int32_t id)
{
    for (int32_t rank = 0; rank < t->n_merges; rank++)
        if (t->merges[rank].result == id)
            return true;
    return false;
}

/*
 * Marks the end-of-generation set. A token with one of the texts ends a
 * generation and is a control token whatever its type in the file (some
 * converters forget), except where the merges build it: there it is an
 * ordinary word that a model may write, such as "</s>" in HTML.
 */
void special_mark_ends(struct text *t, const struct text_config *c)
{
    int32_t end = -1, strike = -1;
    bool has_return = false, has_call = false, has_flush = false, has_response = false;
    for (int32_t id = 0; id < t->n_tokens; id++) {
        struct str s = text_sym(t, id);
        if (s.n < 4 || !memchr("<[_", s.p[0], 3))
            continue;
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(eog_texts) && !found; i++)
            found = str_is(s, eog_texts[i]);
        if (!found || (!special_type(text_type(t, id)) && built_by_merge(t, id)))
            continue;
        t->kind[id] = TOKEN_CONTROL | KIND_OPAQUE | KIND_EOG;
        has_return |= str_is(s, "<|return|>");
        has_call |= str_is(s, "<|call|>") || str_is(s, "<|calls|>");
        has_flush |= str_is(s, "<|flush|>");
        has_response |= str_is(s, "<|tool_response>");
        if (str_is(s, "<|end|>"))
            end = id;
        if (str_is(s, "</s>"))
            strike = id;
    }
    const int64_t named[] = {c->eos, c->eot, c->eom};
    for (size_t i = 0; i < ARRAY_LEN(named); i++)
        if (named[i] >= 0)
            t->kind[named[i]] |= KIND_EOG;
    /* gpt-oss, solar-open: <|end|> closes a message, and more messages may follow. */
    if (end >= 0 && has_call && (has_return || has_flush))
        t->kind[end] &= (uint8_t)~KIND_EOG;
    /* gemma4: </s> is HTML. */
    if (strike >= 0 && has_response)
        t->kind[strike] = TOKEN_NORMAL | KIND_OPAQUE;
}

static int compare_special(const void *a, const void *b, void *arg)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    struct str s = text_sym(arg, x), r = text_sym(arg, y);
    int order = memcmp(s.p, r.p, MIN(s.n, r.n));
    if (order)
        return order;
    if (s.n != r.n)
        return s.n < r.n ? -1 : 1;
    return x < y ? -1 : x > y;
}

static bool is_blank_token(const struct text *t, int32_t id)
{
    return text_type(t, id) == TOKEN_USER && spell_is_blank(text_sym(t, id));
}

static int collect(struct text *t, bool (*wanted)(const struct text *, int32_t),
                   struct id_list *list, struct err *e)
{
    int32_t n = 0;
    for (int32_t id = 0; id < t->n_tokens; id++)
        n += wanted(t, id);
    list->id = malloc((size_t)MAX(n, 1) * sizeof *list->id);
    if (!list->id)
        return err_set(e, E_NOMEM, "no memory for the special tokens");
    for (int32_t id = 0; id < t->n_tokens; id++)
        if (wanted(t, id))
            list->id[list->n++] = id;
    qsort_r(list->id, (size_t)n, sizeof *list->id, compare_special, t);
    return OK;
}

static bool is_special_token(const struct text *t, int32_t id)
{
    return special_type(text_type(t, id));
}

/* GGUF has no place for what a tokeniser strips. Phi-3's does, which is known by a token that
 * it alone has: its chat template writes a line's end behind <|user|> that no id stands for. */
static bool is_of_phi3(const struct text *t)
{
    static const char mark[] = "<|placeholder1|>";
    return t->score_rank && vocab_special(t, mark, sizeof(mark) - 1) >= 0;
}

int special_collect(struct text *t, struct err *e)
{
    TRY(collect(t, is_special_token, &t->special, e));
    t->strips = is_of_phi3(t);
    return collect(t, is_blank_token, &t->blank, e);
}

bool special_strips(const struct text *t, int32_t id)
{
    static const char *const not[] = {"<unk>", "<s>", "<|endoftext|>"};
    const struct str s = text_sym(t, id);
    bool strips = t->strips;
    for (size_t i = 0; i < ARRAY_LEN(not); i++)
        strips &= !str_is(s, not[i]);
    return strips;
}

/* First of list[low, high) whose byte at `depth` is not below `byte`; all of them
 * agree in the bytes before and are longer than depth. */
static int32_t first_from(const struct text *t, const int32_t *list, int32_t low, int32_t high,
                          size_t depth, unsigned byte)
{
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if ((unsigned char)text_sym(t, list[mid]).p[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int32_t longest_of(const struct text *t, const struct id_list *list, const char *p,
                          size_t n)
{
    /* [low, high): those that begin with p[0 .. depth). The sorted order puts
     * a token before all that it is the beginning of. */
    const int32_t *id = list->id;
    int32_t low = 0, high = list->n, best = -1;
    for (size_t depth = 0; low < high; depth++) {
        if (depth && text_sym(t, id[low]).n == depth) {
            best = id[low];
            while (low < high && text_sym(t, id[low]).n == depth)
                low++;
        }
        if (depth == n)
            break;
        unsigned byte = (unsigned char)p[depth];
        low = first_from(t, id, low, high, depth, byte);
        high = first_from(t, id, low, high, depth, byte + 1);
    }
    return best;
}

int32_t vocab_special(const struct text *t, const char *p, size_t n)
{
    return longest_of(t, &t->special, p, n);
}

int32_t vocab_blank(const struct text *t, const char *p, size_t n)
{
    return longest_of(t, &t->blank, p, n);
}
