/*
 * vocab: opens the tokeniser's tables from the metadata of a model file.
 *
 * Token strings are stored as the bytes they stand for: the file spells
 * ordinary tokens and merges with one character for each byte (GPT-2's map),
 * special ones as plain text. All strings lie in one pool, all look-ups go
 * through open addressing tables of 32-bit entries, so that a vocabulary of
 * 248,000 costs about 10 MB with its merges.
 *
 * The metadata is untrusted. What cannot be meant (a merge without a space, an
 * id outside the vocabulary) is an error; what merely has no effect (a merge
 * that no text can reach, a token listed twice) is passed over: of equal
 * tokens the first counts, of equal merges too.
 */
#include <stdlib.h>
#include <string.h>

#include "text/text_internal.h"

enum { SLOT_NUMBER = (1 << 28) - 1, MAX_SYMBOLS = SLOT_NUMBER, MAP_END = 0x144 };

/* ---- GPT-2's map between bytes and characters ---- */

static bool maps_to_itself(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* byte_of[c]: the byte that character c stands for, -1: none. */
static void make_map(int16_t byte_of[MAP_END])
{
    unsigned next = 0x100;
    for (int c = 0; c < MAP_END; c++)
        byte_of[c] = -1;
    for (unsigned byte = 0; byte < 256; byte++)
        byte_of[maps_to_itself(byte) ? byte : next++] = (int16_t)byte;
}

/* Writes the bytes that the mapped text stands for to out (room s.n), returns
 * how many; -1 if some character is not in the map. */
static int64_t unmap(const int16_t *byte_of, struct str s, char *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < s.n;) {
        int length = utf8_sequence(s.p + i, s.n - i);
        uint32_t c = length > 0 ? utf8_decode(s.p + i, length) : MAP_END;
        if (c >= MAP_END || byte_of[c] < 0)
            return -1;
        out[n++] = (char)byte_of[c];
        i += (size_t)length;
    }
    return n;
}

/* ---- tables ---- */

static uint32_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(x >> 32);
}

static uint32_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return mix(h);
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    return mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

/* A slot holds 0 (empty), or a number + 1 and above it four bits of the hash, so
 * that most other entries are passed over without a look at what they stand for. */
static uint32_t slot_of(uint32_t hash, int32_t number)
{
    return (hash & ~(uint32_t)SLOT_NUMBER) | ((uint32_t)number + 1);
}

static int32_t slot_number(uint32_t slot)
{
    return (int32_t)(slot & SLOT_NUMBER) - 1;
}

static bool same_tag(uint32_t slot, uint32_t hash)
{
    return (slot ^ hash) <= SLOT_NUMBER;
}

/* The slot where these bytes are, or would go. */
static uint32_t *sym_slot(const struct text *t, const char *p, size_t n, uint32_t hash)
{
    uint32_t i = hash & t->sym_mask;
    for (; t->sym_slot[i]; i = (i + 1) & t->sym_mask) {
        if (!same_tag(t->sym_slot[i], hash))
            continue;
        struct str s = text_sym(t, slot_number(t->sym_slot[i]));
        if (s.n == n && !memcmp(s.p, p, n))
            break;
    }
    return &t->sym_slot[i];
}

int32_t vocab_find(const struct text *t, const char *p, size_t n)
{
    if (!n)
        return -1;
    return slot_number(*sym_slot(t, p, n, hash_bytes(p, n)));
}

static uint32_t *merge_slot(const struct text *t, int32_t left, int32_t right, uint32_t hash)
{
    uint32_t i = hash & t->merge_mask;
    for (; t->merge_slot[i]; i = (i + 1) & t->merge_mask) {
        if (!same_tag(t->merge_slot[i], hash))
            continue;
        const struct merge *m = &t->merges[slot_number(t->merge_slot[i])];
        if (m->left == left && m->right == right)
            break;
    }
    return &t->merge_slot[i];
}

int32_t vocab_merge(const struct text *t, int32_t left, int32_t right)
{
    return slot_number(*merge_slot(t, left, right, hash_pair(left, right)));
}

/* Slots for n entries: a power of two, at most two thirds full. */
static uint32_t slots_for(int64_t n)
{
    uint32_t slots = 1024;
    while ((int64_t)slots * 2 < n * 3)
        slots *= 2;
    return slots;
}

static int no_memory(struct err *e)
{
    return err_set(e, E_NOMEM, "no memory for the vocabulary");
}

/* Makes room in the pool for n more bytes. */
static int pool_room(struct text *t, size_t n, struct err *e)
{
    if (n <= t->pool_cap - t->pool_n)
        return OK;
    size_t cap = MAX(t->pool_n + n, t->pool_cap + t->pool_cap / 2);
    if (cap > UINT32_MAX)
        return err_set(e, E_FORMAT, "the vocabulary's strings are longer than 4 GiB together");
    char *pool = realloc(t->pool, cap);
    if (!pool)
        return no_memory(e);
    t->pool = pool;
    t->pool_cap = cap;
    return OK;
}

/* The n bytes at the pool's end become the next symbol. */
static int push_sym(struct text *t, size_t n, struct err *e)
{
    if (t->n_syms == t->cap_syms) {
        if (t->n_syms >= MAX_SYMBOLS)
            return err_set(e, E_FORMAT, "the vocabulary has more than %d strings", MAX_SYMBOLS);
        int32_t cap = t->cap_syms + t->cap_syms / 4 + 512;
        uint32_t *off = realloc(t->off, ((size_t)cap + 1) * sizeof *off);
        if (!off)
            return no_memory(e);
        t->off = off;
        t->cap_syms = cap;
    }
    t->off[t->n_syms] = (uint32_t)t->pool_n;
    t->pool_n += n;
    t->off[++t->n_syms] = (uint32_t)t->pool_n;
    return OK;
}

/* The index lies all over more memory than a cache holds: entries are looked up
 * in blocks, whose slots are asked for beforehand. */
enum { BLOCK = 64 };

static void want_sym(const struct text *t, uint32_t hash)
{
    __builtin_prefetch(&t->sym_slot[hash & t->sym_mask], 1);
}

/* Enters a symbol into the index unless its bytes are there already. */
static int index_sym(struct text *t, int32_t sym, uint32_t hash, struct err *e)
{
    if (((int64_t)t->n_indexed + 1) * 3 > ((int64_t)t->sym_mask + 1) * 2) {
        uint32_t slots = slots_for((int64_t)t->n_indexed * 2), *old = t->sym_slot;
        uint32_t n_old = old ? t->sym_mask + 1 : 0;
        t->sym_slot = calloc(slots, sizeof *t->sym_slot);
        if (!t->sym_slot) {
            t->sym_slot = old;
            return no_memory(e);
        }
        t->sym_mask = slots - 1;
        for (uint32_t i = 0; i < n_old; i++) {
            if (!old[i])
                continue;
            struct str s = text_sym(t, slot_number(old[i]));
            *sym_slot(t, s.p, s.n, hash_bytes(s.p, s.n)) = old[i];
        }
        free(old);
    }
    struct str s = text_sym(t, sym);
    uint32_t *slot = sym_slot(t, s.p, s.n, hash);
    if (!*slot) {
        *slot = slot_of(hash, sym);
        t->n_indexed++;
    }
    return OK;
}

/* The symbol with these bytes, made if it is new. */
static int intern(struct text *t, const char *p, size_t n, uint32_t hash, int32_t *sym, struct err *e)
{
    *sym = slot_number(*sym_slot(t, p, n, hash));
    if (*sym >= 0)
        return OK;
    TRY(pool_room(t, n, e));
    memcpy(t->pool + t->pool_n, p, n);
    *sym = t->n_syms;
    TRY(push_sym(t, n, e));
    return index_sym(t, *sym, hash, e);
}

/* ---- loading ---- */

static bool is_special_type(int type)
{
    return type == TOKEN_CONTROL || type == TOKEN_USER || type == TOKEN_UNKNOWN;
}

static int load_token(struct text *t, const struct text_config *c, const int16_t *byte_of,
                      int32_t id, struct err *e)
{
    char empty[24];
    struct str s = c->tokens[id];
    int type = c->types ? c->types[id] : TOKEN_NORMAL;
    if (type == 0)
        type = TOKEN_NORMAL; /* "undefined" */
    if (type < 0 || type > TOKEN_BYTE)
        return err_set(e, E_FORMAT,
                       "token %d has type %d in tokenizer.ggml.token_type: expected 1 to 6",
                       (int)id, type);
    if (!s.n) {
        /* "[EMPTY_" id "]", digits from the right. */
        char *p = empty + sizeof empty;
        *--p = ']';
        for (int32_t left = id; left || *p == ']'; left /= 10)
            *--p = (char)('0' + left % 10);
        p -= 7;
        memcpy(p, "[EMPTY_", 7);
        s = (struct str){p, (size_t)(empty + sizeof empty - p)};
    }
    TRY(pool_room(t, s.n, e));
    int64_t n = is_special_type(type) ? -1 : unmap(byte_of, s, t->pool + t->pool_n);
    t->kind[id] = (uint8_t)(type | (n < 0 ? KIND_OPAQUE : 0));
    if (n < 0) {
        memcpy(t->pool + t->pool_n, s.p, s.n);
        n = (int64_t)s.n;
    }
    TRY(push_sym(t, (size_t)n, e));
    return OK;
}

/* Tokens [first, end), a block at most. */
static int index_tokens(struct text *t, int32_t first, int32_t end, struct err *e)
{
    uint32_t hash[BLOCK];
    for (int32_t id = first; id < end; id++) {
        struct str s = text_sym(t, id);
        hash[id - first] = hash_bytes(s.p, s.n);
        want_sym(t, hash[id - first]);
    }
    for (int32_t id = first; id < end; id++)
        if (!(t->kind[id] & KIND_OPAQUE) && text_type(t, id) != TOKEN_UNUSED)
            TRY(index_sym(t, id, hash[id - first], e));
    return OK;
}

static int load_tokens(struct text *t, const struct text_config *c, const int16_t *byte_of,
                       struct err *e)
{
    size_t total = 0;
    for (int64_t i = 0; i < c->n_tokens; i++)
        total += c->tokens[i].n;
    TRY(pool_room(t, total, e));
    t->cap_syms = (int32_t)c->n_tokens + 256;
    t->off = malloc(((size_t)t->cap_syms + 1) * sizeof *t->off);
    t->kind = malloc((size_t)c->n_tokens);
    if (!t->off || !t->kind)
        return no_memory(e);
    t->n_tokens = (int32_t)c->n_tokens;
    for (int32_t id = 0; id < t->n_tokens; id++)
        TRY(load_token(t, c, byte_of, id, e));

    uint32_t slots = slots_for(c->n_tokens + 256);
    t->sym_slot = calloc(slots, sizeof *t->sym_slot);
    if (!t->sym_slot)
        return no_memory(e);
    t->sym_mask = slots - 1;
    for (int32_t id = 0; id < t->n_tokens; id += BLOCK)
        TRY(index_tokens(t, id, MIN(id + BLOCK, t->n_tokens), e));
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        TRY(intern(t, &byte, 1, hash_bytes(&byte, 1), &t->byte_sym[i], e));
    }
    return OK;
}

/* The merges of a block, whose halves' bytes lie one after the other. */
struct merge_block {
    char *bytes; /* grows */
    size_t n, cap;
    struct {
        size_t at, n_left, n; /* n: of both halves; 0: no text can reach it */
        uint32_t left, right, result; /* hashes */
    } m[BLOCK];
};

/* Reads merge `rank` from its line in the file into place i. */
static int read_merge(struct text *t, struct merge_block *b, int i, struct str s, const int16_t *byte_of,
                      int32_t rank, struct err *e)
{
    const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!space || space + 1 == s.p + s.n)
        return err_set(e, E_FORMAT,
                       "merge %d in tokenizer.ggml.merges is '%.*s': expected two strings with a "
                       "space between them; the file is damaged or badly converted",
                       (int)rank, (int)MIN(s.n, 64), s.p);
    if (b->cap - b->n < s.n) {
        char *bytes = realloc(b->bytes, 2 * b->cap + s.n);
        if (!bytes)
            return no_memory(e);
        b->bytes = bytes;
        b->cap = 2 * b->cap + s.n;
    }
    char *p = b->bytes + b->n;
    size_t left = (size_t)(space - s.p);
    int64_t n_left = unmap(byte_of, (struct str){s.p, left}, p);
    int64_t n_right = n_left < 0 ? -1 : unmap(byte_of, (struct str){space + 1, s.n - left - 1}, p + n_left);
    b->m[i].n = 0;
    if (n_right < 0)
        return OK;
    b->m[i].at = b->n;
    b->m[i].n_left = (size_t)n_left;
    b->m[i].n = (size_t)(n_left + n_right);
    want_sym(t, b->m[i].left = hash_bytes(p, (size_t)n_left));
    want_sym(t, b->m[i].right = hash_bytes(p + n_left, (size_t)n_right));
    want_sym(t, b->m[i].result = hash_bytes(p, b->m[i].n));
    b->n += b->m[i].n;
    return OK;
}

static int enter_merge(struct text *t, const struct merge_block *b, int i, struct merge *m, struct err *e)
{
    const char *p = b->bytes + b->m[i].at;
    size_t n_left = b->m[i].n_left, n = b->m[i].n;
    *m = (struct merge){-1, -1, -1};
    if (n == 0)
        return OK;
    TRY(intern(t, p, n_left, b->m[i].left, &m->left, e));
    TRY(intern(t, p + n_left, n - n_left, b->m[i].right, &m->right, e));
    return intern(t, p, n, b->m[i].result, &m->result, e);
}

/* Merges [first, end), a block at most. */
static int load_block(struct text *t, struct merge_block *b, const struct text_config *c, int32_t first,
                      int32_t end, const int16_t *byte_of, struct err *e)
{
    b->n = 0;
    for (int32_t rank = first; rank < end; rank++)
        TRY(read_merge(t, b, rank - first, c->merges[rank], byte_of, rank, e));
    for (int32_t rank = first; rank < end; rank++)
        TRY(enter_merge(t, b, rank - first, &t->merges[rank], e));
    return OK;
}

/* Of equal pairs the first counts: it has the better rank. */
static void index_merges(struct text *t, int32_t first, int32_t end)
{
    uint32_t hash[BLOCK];
    for (int32_t i = first; i < end; i++) {
        hash[i - first] = hash_pair(t->merges[i].left, t->merges[i].right);
        __builtin_prefetch(&t->merge_slot[hash[i - first] & t->merge_mask], 1);
    }
    for (int32_t i = first; i < end; i++) {
        struct merge *m = &t->merges[i];
        if (m->left < 0)
            continue;
        uint32_t *slot = merge_slot(t, m->left, m->right, hash[i - first]);
        if (*slot)
            *m = (struct merge){-1, -1, -1};
        else
            *slot = slot_of(hash[i - first], i);
    }
}

static int load_merges(struct text *t, const struct text_config *c, const int16_t *byte_of,
                       struct err *e)
{
    uint32_t slots = slots_for(c->n_merges);
    t->n_merges = (int32_t)c->n_merges;
    t->merges = malloc(MAX((size_t)c->n_merges, 1) * sizeof *t->merges);
    t->merge_slot = calloc(slots, sizeof *t->merge_slot);
    if (!t->merges || !t->merge_slot)
        return no_memory(e);
    t->merge_mask = slots - 1;
    struct merge_block b = {0};
    int rc = OK;
    for (int32_t rank = 0; rank < t->n_merges && rc == OK; rank += BLOCK) {
        int32_t end = MIN(rank + BLOCK, t->n_merges);
        rc = load_block(t, &b, c, rank, end, byte_of, e);
        if (rc == OK)
            index_merges(t, rank, end);
    }
    free(b.bytes);
    return rc;
}

/* ---- special tokens ---- */

/* Texts that end a generation in the models that have them. */
static const char *const eog_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
};

static bool str_is(struct str s, const char *text)
{
    return strlen(text) == s.n && !memcmp(s.p, text, s.n);
}

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
static void mark_eog(struct text *t, const struct text_config *c)
{
    int32_t end = -1;
    bool has_return = false, has_call = false;
    for (int32_t id = 0; id < t->n_tokens; id++) {
        struct str s = text_sym(t, id);
        if (s.n < 4 || !memchr("<[_", s.p[0], 3))
            continue;
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(eog_texts) && !found; i++)
            found = str_is(s, eog_texts[i]);
        if (!found || (!is_special_type(text_type(t, id)) && built_by_merge(t, id)))
            continue;
        t->kind[id] = TOKEN_CONTROL | KIND_OPAQUE | KIND_EOG;
        has_return |= str_is(s, "<|return|>");
        has_call |= str_is(s, "<|call|>");
        if (str_is(s, "<|end|>"))
            end = id;
    }
    const int64_t named[] = {c->eos, c->eot, c->eom};
    for (size_t i = 0; i < ARRAY_LEN(named); i++)
        if (named[i] >= 0)
            t->kind[named[i]] |= KIND_EOG;
    /* gpt-oss: <|end|> closes a message, and more messages may follow. */
    if (end >= 0 && has_return && has_call)
        t->kind[end] &= (uint8_t)~KIND_EOG;
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

static int collect_special(struct text *t, struct err *e)
{
    int32_t n = 0;
    for (int32_t id = 0; id < t->n_tokens; id++)
        n += is_special_type(text_type(t, id));
    t->special = malloc((size_t)MAX(n, 1) * sizeof *t->special);
    if (!t->special)
        return no_memory(e);
    for (int32_t id = 0; id < t->n_tokens; id++)
        if (is_special_type(text_type(t, id)))
            t->special[t->n_special++] = id;
    qsort_r(t->special, (size_t)n, sizeof *t->special, compare_special, t);
    return OK;
}

/* First special token in [low, high) whose byte at `depth` is not below
 * `byte`; all of them agree in the bytes before and are longer than depth. */
static int32_t first_from(const struct text *t, int32_t low, int32_t high, size_t depth,
                          unsigned byte)
{
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if ((unsigned char)text_sym(t, t->special[mid]).p[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int32_t vocab_special(const struct text *t, const char *p, size_t n)
{
    /* [low, high): those that begin with p[0 .. depth). The sorted order puts
     * a token before all that it is the beginning of. */
    int32_t low = 0, high = t->n_special, best = -1;
    for (size_t depth = 0; low < high; depth++) {
        if (depth && text_sym(t, t->special[low]).n == depth) {
            best = t->special[low];
            while (low < high && text_sym(t, t->special[low]).n == depth)
                low++;
        }
        if (depth == n)
            break;
        unsigned byte = (unsigned char)p[depth];
        low = first_from(t, low, high, depth, byte);
        high = first_from(t, low, high, depth, byte + 1);
    }
    return best;
}

/* ---- open ---- */

static int check_config(const struct text_config *c, struct err *e)
{
    if (!str_is(c->model, "gpt2"))
        return err_set(e, E_UNSUPPORTED,
                       "tokeniser '%.*s' (tokenizer.ggml.model) is not supported: only byte-level "
                       "BPE, called gpt2, is", (int)MIN(c->model.n, 64),
                       c->model.n ? c->model.p : "");
    if (c->n_tokens < 1 || c->n_tokens > MAX_SYMBOLS / 2 || !c->tokens)
        return err_set(e, E_FORMAT,
                       "tokenizer.ggml.tokens has %lld entries: expected 1 to %d",
                       (long long)c->n_tokens, MAX_SYMBOLS / 2);
    if (c->n_merges < 0 || c->n_merges > MAX_SYMBOLS || (c->n_merges && !c->merges))
        return err_set(e, E_FORMAT, "tokenizer.ggml.merges has %lld entries: expected 0 to %d",
                       (long long)c->n_merges, MAX_SYMBOLS);
    static const char *const names[] = {"bos", "eos", "eot", "eom"};
    const int64_t ids[] = {c->bos, c->eos, c->eot, c->eom};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        if (ids[i] < -1 || ids[i] >= c->n_tokens)
            return err_set(e, E_FORMAT,
                           "tokenizer.ggml.%s_token_id is %lld: expected 0 to %lld, the last id of "
                           "the vocabulary", names[i], (long long)ids[i],
                           (long long)c->n_tokens - 1);
    return OK;
}

/* Gives back what growing left over. */
static void trim_tables(struct text *t)
{
    char *pool = realloc(t->pool, MAX(t->pool_n, 1));
    uint32_t *off = realloc(t->off, ((size_t)t->n_syms + 1) * sizeof *off);
    if (pool) {
        t->pool = pool;
        t->pool_cap = MAX(t->pool_n, 1);
    }
    if (off) {
        t->off = off;
        t->cap_syms = t->n_syms;
    }
}

static int open_tables(struct text *t, const struct text_config *c, struct err *e)
{
    int16_t byte_of[MAP_END];
    make_map(byte_of);
    TRY(check_config(c, e));
    TRY(pretok_open(c->pre, &t->pretok, e));
    TRY(load_tokens(t, c, byte_of, e));
    TRY(load_merges(t, c, byte_of, e));
    mark_eog(t, c);
    TRY(collect_special(t, e));
    trim_tables(t);
    /* Ids that the file does not name stay unset; llama.cpp's 11 for GPT-2's
     * kind would make a comma the end of every generation. */
    t->bos = (int32_t)c->bos;
    t->eos = (int32_t)c->eos;
    t->add_bos = c->add_bos < 0 ? pretok_adds_bos(&t->pretok) : c->add_bos != 0;
    t->add_eos = c->add_eos > 0;
    TRY(chat_form_read(c->chat_template, &t->chat, e));
    static const char start[] = "<|im_start|>", end[] = "<|im_end|>";
    if (vocab_special(t, start, sizeof start - 1) < 0 || vocab_special(t, end, sizeof end - 1) < 0)
        t->chat.chatml = false;
    return OK;
}

int text_open(const struct text_config *c, struct text **out, struct err *e)
{
    *out = NULL;
    struct text *t = calloc(1, sizeof *t);
    if (!t)
        return no_memory(e);
    int rc = open_tables(t, c, e);
    if (rc < 0) {
        text_close(t);
        return rc;
    }
    *out = t;
    return OK;
}

void text_close(struct text *t)
{
    if (!t)
        return;
    pretok_close(&t->pretok);
    free(t->pool);
    free(t->off);
    free(t->kind);
    free(t->sym_slot);
    free(t->merges);
    free(t->merge_slot);
    free(t->special);
    chat_form_free(&t->chat);
    free(t);
}

int64_t text_n_tokens(const struct text *t)
{
    return t->n_tokens;
}

int64_t text_longest(const struct text *t)
{
    uint32_t most = 1;
    for (int32_t i = 0; i < t->n_tokens; i++)
        most = MAX(most, t->off[i + 1] - t->off[i]);
    return (int64_t)most;
}

int64_t text_bytes(const struct text *t)
{
    size_t n = sizeof *t + t->pool_cap + ((size_t)t->cap_syms + 1) * sizeof *t->off +
               (size_t)t->n_tokens + ((size_t)t->sym_mask + 1) * sizeof *t->sym_slot +
               (size_t)t->n_merges * sizeof *t->merges +
               ((size_t)t->merge_mask + 1) * sizeof *t->merge_slot +
               (size_t)t->n_special * sizeof *t->special + t->chat.n_system;
    return (int64_t)n + pretok_bytes(&t->pretok);
}
