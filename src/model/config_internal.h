/* Private to config*.c: keys of a file -> numbers of struct config. */
#ifndef CONFIG_INTERNAL_H
#define CONFIG_INTERNAL_H

#include "model/model_internal.h"

struct reader {
    const struct weights *w;
    const char *family;
    struct err *e;
    int rc;       /* first failure; later reads do nothing */
    int n_layers, n_blocks; /* 0: not read yet */
};

/* ---- config_reader.c ---------------------------------------------------- */

/* The value of "<family>.<key>", whose whole name goes to full (n); NULL: none. */
const struct meta *key_find(const struct reader *r, const char *key, char *full, size_t n);
bool key_there(const struct reader *r, const char *key);
/* For a number that has no usual value. */
void key_needed(struct reader *r, const char *key);
/* A count between lo and hi, of a layer or (-1) one that is the same in all; dflt < 0:
 * the key must be there. */
int64_t read_count_of(struct reader *r, const char *key, int layer, int64_t dflt, int64_t lo,
                      int64_t hi);
int64_t read_count(struct reader *r, const char *key, int64_t dflt, int64_t lo, int64_t hi);
double read_real_of(struct reader *r, const char *key, int layer, double dflt, double lo,
                    double hi);
double read_real(struct reader *r, const char *key, double dflt, double lo, double hi);
/* A weight of any layer; NULL: none has it. */
const struct tensor *weight_of(const struct reader *r, const char *name);

/* ---- the parts ------------------------------------------------------------ */

void read_attention(struct reader *r, struct config *c);
void read_compressed(struct reader *r, struct config *c);
void read_streams(struct reader *r, struct config *c);
void read_delta(struct reader *r, struct config *c);
void read_ffn(struct reader *r, struct config *c);
void read_rope(struct reader *r, struct config *c);
/* Whether the file has LongRoPE, or says so. */
bool says_long_factors(const struct reader *r);
void check_sections(struct reader *r, const struct config *c);

#endif
