/*
 * sluice eval and sluice logits: what the model computes, as numbers.
 */
#include "base/base.h"
#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- perplexity -------------------------------------------------------------------- */

struct token_file {
    json_t *json;
    const json_t *tokens; /* inside json */
    int context;          /* 0: the file names none */
    json_t *reference;    /* perplexity_f32, inside json; NULL: none */
};

static int token_file_read(const char *path, struct token_file *f)
{
    f->json = json_read(path);
    if (!f->json)
        return ST_FAIL;
    f->tokens = json_is_array(f->json) ? f->json : json_object_get(f->json, "tokens");
    f->reference = json_object_get(f->json, "perplexity_f32");
    const json_t *context = json_object_get(f->json, "context");
    if (!json_is_array(f->tokens) || json_array_size(f->tokens) < 2) {
        complain("%s: expected {\"context\": N, \"tokens\": [at least two ids]} or a list of ids",
                 path);
        return ST_FAIL;
    }
    json_int_t n = json_integer_value(context);
    if (context && (!json_is_integer(context) || n < 1 || n > INT32_MAX)) {
        complain("%s: \"context\" is not a whole number from 1 on", path);
        return ST_FAIL;
    }
    f->context = (int)n;
    return ST_OK;
}

static int print_perplexity(const struct args *a, const struct token_file *f, double perplexity,
                            int64_t n_predicted, int context)
{
    if (a->json)
        return json_print(json_pack("{so sI si sO*}", "perplexity", json_number(perplexity),
                                    "n_predicted", (json_int_t)n_predicted, "context", context,
                                    "reference", f->reference));
    out_printf("perplexity %.6f over %lld tokens in windows of %d\n", perplexity,
               (long long)n_predicted, context);
    if (json_is_number(f->reference))
        out_printf("reference  %.6f (%+.3f %%)\n", json_number_value(f->reference),
                   100 * (perplexity / json_number_value(f->reference) - 1));
    return ST_OK;
}

static int eval_tokens(const struct args *a, const struct token_file *f, struct cli_model *m,
                       const int32_t *ids, int64_t n, int context)
{
    int64_t n_predicted = 0;
    double perplexity = 0;
    sluice_error e = {0};
    if (sluice_eval_perplexity(m->session, ids, n, context, &perplexity, &n_predicted, &e) < 0)
        return fail(&e);
    return print_perplexity(a, f, perplexity, n_predicted, context);
}

/* ---- recall -------------------------------------------------------------------------- */

/* The text of key in question i, or NULL after a complaint. */
static const char *question_text(const struct args *a, const json_t *list, size_t i,
                                 const char *key)
{
    const char *s = json_string_value(json_object_get(json_array_get(list, i), key));
    if (!s)
        complain("%s: entry %zu has no text \"%s\"", a->qa, i, key);
    return s;
}

static int print_recall(const struct args *a, size_t n, size_t recalled, size_t n_reference,
                        size_t reference)
{
    double share = ratio((double)recalled, (double)n);
    double expected = ratio((double)reference, (double)n_reference);
    if (a->json)
        return json_print(json_pack("{sf sI sI so}", "recall", share, "recalled",
                                    (json_int_t)recalled, "questions", (json_int_t)n, "reference",
                                    n_reference ? json_real(expected) : json_null()));
    out_printf("recall %.1f %%: %zu of %zu answered word for word\n", 100 * share, recalled, n);
    if (n_reference)
        out_printf("reference %.1f %%\n", 100 * expected);
    return ST_OK;
}

/* How many of them are asked. */
static size_t n_questions(const struct args *a, const json_t *list)
{
    size_t n = json_array_size(list);
    return a->limit && (size_t)a->limit < n ? (size_t)a->limit : n;
}

static int check_questions(const struct args *a, const json_t *list)
{
    if (!json_is_array(list) || json_array_size(list) == 0) {
        complain("%s: expected [{\"question\": TEXT, \"answer\": TEXT}, ...]", a->qa);
        return ST_FAIL;
    }
    for (size_t i = 0; i < n_questions(a, list); i++)
        if (!question_text(a, list, i, "question") || !question_text(a, list, i, "answer"))
            return ST_FAIL;
    return ST_OK;
}

static int eval_questions(const struct args *a, const json_t *list, struct cli_model *m)
{
    size_t n = n_questions(a, list), recalled = 0, n_reference = 0, reference = 0;
    sluice_set_progress(m->s, progress_quiet, NULL);
    for (size_t i = 0; i < n; i++) {
        bool hit = false;
        sluice_error e = {0};
        const char *question = question_text(a, list, i, "question");
        const char *wanted = question_text(a, list, i, "answer");
        if (interrupted())
            return ST_INTERRUPTED;
        if (sluice_eval_recall(m->session, question, wanted, &hit, &e) < 0)
            return fail(&e);
        const json_t *said = json_object_get(json_array_get(list, i), "recalled");
        n_reference += json_is_boolean(said);
        reference += json_is_true(said);
        recalled += hit;
        progress_line("question %zu of %zu, %.1f %% recalled", i + 1, n,
                      100 * (double)recalled / (double)(i + 1));
    }
    return print_recall(a, n, recalled, n_reference, reference);
}

/* ---- eval ------------------------------------------------------------------------------ */

static int eval_tokens_file(const struct args *a)
{
    struct token_file f = {0};
    struct cli_model m = {0};
    int32_t *ids = NULL;
    int64_t n = 0;
    int n_vocab, status = token_file_read(a->tokens, &f);
    int context = a->context ? a->context : f.context ? f.context : 1024;
    if (status == ST_OK && a->ctx && a->ctx < context) {
        complain("windows of %d tokens do not fit --ctx %d; choose a smaller --context", context,
                 a->ctx);
        status = ST_USAGE;
    }
    if (status == ST_OK)
        status = model_vocabulary(a, context, &n_vocab);
    if (status == ST_OK && !input_take(json_array_size(f.tokens) * sizeof(*ids)))
        status = input_too_much(a->tokens);
    if (status == ST_OK)
        status = json_to_ids(f.tokens, a->tokens, n_vocab, &ids, &n);
    if (status == ST_OK)
        status = cli_model_open(a, context, &m);
    if (status == ST_OK)
        status = eval_tokens(a, &f, &m, ids, n, context);
    json_decref(f.json);
    free(ids);
    return cli_model_close(&m, status);
}

static int eval_questions_file(const struct args *a)
{
    struct cli_model m = {0};
    json_t *list = json_read(a->qa);
    int status = list ? check_questions(a, list) : ST_FAIL;
    if (status == ST_OK)
        status = cli_model_open(a, 0, &m);
    if (status == ST_OK)
        status = eval_questions(a, list, &m);
    json_decref(list);
    return cli_model_close(&m, status);
}

int cmd_eval(const struct args *a)
{
    if (!a->tokens == !a->qa) {
        complain("eval needs one of --tokens FILE and --qa FILE");
        return ST_USAGE;
    }
    if (a->tokens ? a->limit != 0 : a->context != 0) {
        complain(a->tokens ? "--limit belongs to --qa" : "--context belongs to --tokens");
        return ST_USAGE;
    }
    return a->tokens ? eval_tokens_file(a) : eval_questions_file(a);
}

/* ---- logits ------------------------------------------------------------------------------ */

struct sink {
    struct os_out out;
    bool is_stdout; /* through out_*, and `out` is not used */
    int rc;         /* the first failure to write, and its sentence: */
    struct err e;
};

static int sink_failed(const struct sink *s)
{
    sluice_error e = {.code = s->e.code};
    snprintf(e.text, sizeof(e.text), "--out: %.500s", s->e.text);
    return fail(&e);
}

/* path: NULL where no file is wanted. */
static int sink_open(struct sink *s, const char *path)
{
    *s = (struct sink){.out = {.fd = -1}, .is_stdout = is_stdout(path)};
    if (path && !s->is_stdout)
        s->rc = os_out_stream(&s->out, path, &s->e);
    return s->rc < 0 ? sink_failed(s) : ST_OK;
}

static int sink_write(struct sink *s, const float *v, int n)
{
    size_t bytes = (size_t)n * sizeof(*v);
    if (s->is_stdout)
        out_write((const char *)v, bytes);
    else if (s->rc == OK)
        s->rc = os_out_put(&s->out, v, bytes, &s->e);
    return s->rc < 0 || out_failed();
}

/* A file that is not whole is removed. */
static int sink_close(struct sink *s, int status)
{
    bool wanted = s->out.fd >= 0 && status == ST_OK;
    if (wanted && s->rc == OK)
        s->rc = os_out_sync(&s->out, &s->e);
    if (wanted && s->rc == OK)
        s->rc = os_out_commit(&s->out, true, &s->e);
    os_out_close(&s->out);
    return wanted && s->rc < 0 ? sink_failed(s) : status;
}

static int on_logits(void *user, int64_t position, const float *logits, int n_vocab)
{
    (void)position;
    return interrupted() || sink_write(user, logits, n_vocab);
}

/* The k largest logits, falling; equal ones in order of id. */
static int largest(const float *logits, int n, int32_t *ids, int k)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        int at = found < k ? found++ : k - 1;
        if (at == k - 1 && found == k && ids[at] >= 0 && logits[ids[at]] >= logits[i])
            continue;
        for (; at > 0 && logits[ids[at - 1]] < logits[i]; at--)
            ids[at] = ids[at - 1];
        ids[at] = i;
    }
    return found;
}

enum { TOP = 10 };

static double log_sum_exp(const float *logits, int n, float top)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    return top + log(sum);
}

/* The summary: what was computed and the likeliest next tokens. */
static int print_logits(const struct args *a, const struct cli_model *m, int64_t n_ids)
{
    const float *logits = sluice_session_logits(m->session);
    int32_t top[TOP];
    memset(top, -1, sizeof(top));
    int k = largest(logits, m->info.n_vocab, top, TOP);
    double total = log_sum_exp(logits, m->info.n_vocab, logits[top[0]]);
    json_t *list = json_array();
    for (int i = 0; i < k; i++) {
        const char *p = "";
        size_t n = 0;
        double chance = exp((double)logits[top[i]] - total);
        (void)sluice_piece(m->s, top[i], true, &p, &n, NULL);
        json_t *piece = json_bytes(p, n);
        if (a->json) {
            json_array_append_new(list, json_pack("{si so so so}", "id", top[i], "piece", piece,
                                                  "logit", json_number(logits[top[i]]),
                                                  "probability", json_number(chance)));
            continue;
        }
        char *quoted = json_dumps(piece, JSON_ENCODE_ANY);
        out_printf("%7d  %10.4f  %7.3f %%  %s\n", top[i], (double)logits[top[i]], 100 * chance,
                   quoted ? quoted : "");
        free(quoted);
        json_decref(piece);
    }
    if (!a->json) {
        json_decref(list);
        return ST_OK;
    }
    return json_print(json_pack("{sI sI si so* so}", "positions", (json_int_t)n_ids,
                                "positions_written",
                                (json_int_t)(a->out ? (a->all ? n_ids : 1) : 0), "vocabulary",
                                m->info.n_vocab, "out", a->out ? json_text(a->out) : NULL, "top",
                                list));
}

static int compute(const struct args *a, struct cli_model *m, struct sink *s, const int32_t *ids,
                   int64_t n)
{
    sluice_error e = {0};
    bool each = a->out && a->all;
    int rc = sluice_session_append(m->session, ids, n, each ? on_logits : NULL, s, &e);
    if (rc == 0 && a->out && !a->all)
        (void)sink_write(s, sluice_session_logits(m->session), m->info.n_vocab);
    if (s->rc < 0) /* the engine says only that it was stopped */
        return sink_failed(s);
    return rc < 0 ? fail(&e) : ST_OK;
}

/* The ids of --ids, or of standard input where that is "-". */
static int ids_wanted(const struct args *a, int32_t **ids, int64_t *n)
{
    char *text = NULL;
    size_t n_bytes;
    if (strcmp(a->ids, "-") == 0 && !(text = read_all_stdin(false, &n_bytes)))
        return interrupted() ? ST_INTERRUPTED : ST_FAIL;
    /* An id and its separator take two bytes of text, and four as a number. */
    if (text && !input_take(n_bytes * 2)) {
        free(text);
        return input_too_much("--ids");
    }
    int status = ids_of_text("--ids: ", text ? text : a->ids, text ? n_bytes : strlen(a->ids),
                             ids, n);
    free(text);
    return status;
}

static int check_ids(const struct args *a, const int32_t *ids, int64_t n)
{
    int n_vocab, status = model_vocabulary(a, 0, &n_vocab);
    for (int64_t i = 0; i < n && status == ST_OK; i++)
        if (ids[i] >= n_vocab) {
            complain("--ids: %d is no token of this model, whose ids end at %d", ids[i],
                     n_vocab - 1);
            status = ST_USAGE;
        }
    return status;
}

int cmd_logits(const struct args *a)
{
    struct cli_model m = {0};
    struct sink s = {.out = {.fd = -1}};
    int32_t *ids = NULL;
    int64_t n = 0;
    if (!a->ids) {
        complain("logits needs --ids LIST");
        return ST_USAGE;
    }
    if (a->all && !a->out) {
        complain("--all needs --out FILE");
        return ST_USAGE;
    }
    if (a->json && is_stdout(a->out)) {
        complain("--json and --out - both want standard output");
        return ST_USAGE;
    }
    int status = ids_wanted(a, &ids, &n);
    if (status == ST_OK)
        status = check_ids(a, ids, n);
    if (status == ST_OK)
        status = sink_open(&s, a->out);
    if (status == ST_OK)
        status = cli_model_open(a, 0, &m);
    if (status == ST_OK)
        status = compute(a, &m, &s, ids, n);
    status = sink_close(&s, status);
    if (status == ST_OK && (!a->out || a->json))
        status = print_logits(a, &m, n);
    free(ids);
    return cli_model_close(&m, status);
}
