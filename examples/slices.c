/*
 * The loop of a server: three answers at once, in steps that read each expert once for
 * all of them. While A is answered, the prompts of B and C are computed in slices, so
 * that A goes on meanwhile.
 *
 *   slices MODEL.gguf QUESTION_OF_A QUESTION_OF_B QUESTION_OF_C
 */
#include <sluice.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { N = 3, SLICE = 4 /* tokens of a prompt in one step */ };

struct answer {
    sluice_session *session;
    sluice_sampler *sampler;
    sluice_text_stream *stream;
    int32_t *prompt; /* (n), of which n_done are computed */
    int64_t n, n_done;
    int32_t id; /* drawn, and not computed yet */
    bool over;
    char text[2048];
    size_t n_bytes;
};

static int begin(sluice *model, struct answer *a, const char *question, sluice_error *err)
{
    sluice_message m = {.role = "user", .content = question};
    int64_t n_stable = 0;
    sluice_sampling greedy;
    sluice_sampling_init(&greedy);
    int rc = sluice_chat_ids(model, &m, 1, false, &a->prompt, &a->n, &n_stable, err);
    if (rc == SLUICE_OK)
        rc = sluice_session_new(model, &a->session, err);
    if (rc == SLUICE_OK)
        rc = sluice_sampler_new(model, &greedy, &a->sampler, err);
    return rc != SLUICE_OK ? rc : sluice_text_stream_new(model, &a->stream, err);
}

static void end(struct answer *a)
{
    sluice_text_stream_free(a->stream);
    sluice_sampler_free(a->sampler);
    sluice_session_free(a->session);
    sluice_free(a->prompt);
}

/* The next token, and what it says. */
static int draw(sluice *model, struct answer *a, sluice_error *err)
{
    const char *text = NULL;
    size_t n_bytes = 0;
    int rc = sluice_sampler_next(a->sampler, a->session, &a->id, err);
    if (rc != SLUICE_OK)
        return rc;
    a->over = sluice_is_end(model, a->id);
    if (a->over)
        sluice_text_stream_end(a->stream, &text, &n_bytes);
    else
        rc = sluice_text_stream_put(a->stream, a->id, &text, &n_bytes, err);
    if (n_bytes > sizeof(a->text) - a->n_bytes)
        n_bytes = sizeof(a->text) - a->n_bytes;
    if (n_bytes > 0)
        memcpy(a->text + a->n_bytes, text, n_bytes);
    a->n_bytes += n_bytes;
    return rc;
}

/* One step for all that are not over; *n_busy: how many of them are. */
static int turn(sluice *model, struct answer *all, int *n_busy, int *n_slices, sluice_error *err)
{
    sluice_span spans[N] = {{0}};
    struct answer *whose[N];
    int n = 0;
    bool speaks = false, reads = false;
    for (int i = 0; i < N; i++) {
        struct answer *a = &all[i];
        bool decodes = a->n_done == a->n;
        if (a->over)
            continue;
        speaks |= decodes;
        reads |= !decodes;
        spans[n].session = a->session;
        spans[n].ids = decodes ? &a->id : a->prompt + a->n_done;
        spans[n].n = decodes ? 1 : a->n - a->n_done;
        spans[n].most = i == 0 ? 0 : SLICE; /* nobody waits for A's prompt */
        whose[n++] = a;
    }
    *n_busy = n;
    *n_slices += speaks && reads;
    int rc = n > 0 ? sluice_step(model, spans, n, err) : SLUICE_OK;
    for (int k = 0; k < n && rc == SLUICE_OK; k++) {
        struct answer *a = whose[k];
        if (spans[k].status != SLUICE_OK) {
            *err = spans[k].error;
            return spans[k].status;
        }
        if (a->n_done < a->n)
            a->n_done += spans[k].done;
        if (spans[k].done == spans[k].n) /* through: its logits are there */
            rc = draw(model, a, err);
    }
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 2 + N) {
        fprintf(stderr, "usage: %s MODEL.gguf A B C (questions)\n", argv[0]);
        return 2;
    }
    static struct answer all[N];
    int n_busy = N, n_slices = 0;
    sluice *model = NULL;
    sluice_error err = {0};
    sluice_options o;
    sluice_options_init(&o);
    o.model = argv[1];

    int rc = sluice_open(&o, &model, &err);
    for (int i = 0; i < N && rc == SLUICE_OK; i++)
        rc = begin(model, &all[i], argv[2 + i], &err);
    /* A has begun to answer when the others come */
    all[1].over = all[2].over = true;
    while (rc == SLUICE_OK && all[0].n_done < all[0].n)
        rc = turn(model, all, &n_busy, &n_slices, &err);
    all[1].over = all[2].over = false;
    while (rc == SLUICE_OK && n_busy > 0)
        rc = turn(model, all, &n_busy, &n_slices, &err);
    for (int i = 0; i < N && rc == SLUICE_OK; i++)
        printf("%c: %.*s\n", 'A' + i, (int)all[i].n_bytes, all[i].text);
    if (rc == SLUICE_OK)
        printf("%d steps had both a token to say and a slice of a prompt\n", n_slices);
    else
        fprintf(stderr, "%s: %s\n", argv[0], err.text);

    for (int i = 0; i < N; i++)
        end(&all[i]);
    sluice_close(model);
    return rc != SLUICE_OK || fflush(stdout) != 0 || ferror(stdout);
}
