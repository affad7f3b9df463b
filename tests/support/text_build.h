/*
 * Small vocabularies for tests and fuzzing: the 256 bytes as tokens 0..255,
 * then whatever is added. Aborts without memory.
 */
#ifndef TEXT_BUILD_H
#define TEXT_BUILD_H

#include "text/text_internal.h"

enum { TB_MAX = 4096 };

struct tb {
    struct str tokens[TB_MAX], merges[TB_MAX];
    int32_t types[TB_MAX];
    float scores[TB_MAX];
    struct text_config c; /* arrays filled in by tb_open */
    int n_tokens, n_merges;
    struct arena arena;
};

struct tb *tb_new(const char *pre); /* byte tokens only, bos and others unset */
/* Tokens spelt as text, for `llama` (scores) or `gemma4` (merges): unknown, bos, eos as
 * 0, 1, 2, then the bytes from TB_BYTE on. */
enum { TB_UNK, TB_BOS, TB_EOS, TB_BYTE };
struct tb *tb_new_text(const char *model);
void tb_free(struct tb *b);
/* Adds a token as it stands in a file; returns its id. */
int tb_token(struct tb *b, const char *text, int type);
/* Adds the merge of two byte strings, and its result as a token. */
int tb_merge(struct tb *b, const char *left, const char *right);
/* The same for tokens spelt as text, with a score or from a merge. */
int tb_scored(struct tb *b, const char *text, double score);
int tb_text_merge(struct tb *b, const char *left, const char *right);
/* Bytes in GPT-2's mapped form; lives as long as b. */
struct str tb_mapped(struct tb *b, const char *p, size_t n);
int tb_open(struct tb *b, struct text **t, struct err *e);

/* Special tokens of ChatML with thinking: ids in the order of the enum, from
 * the first free one on. */
enum { TB_ENDOFTEXT, TB_IM_START, TB_IM_END, TB_THINK, TB_END_THINK, TB_PAD, TB_N_CHATML };
int tb_chatml(struct tb *b); /* returns the first id */

#endif
