/*
 * Two conversations with one model. They share its weights and its expert cache;
 * each has a session of its own, which computes only what is new in its messages.
 * Both are used from one thread, in turn.
 *
 *   two MODEL.gguf QUESTION_OF_A QUESTION_OF_B NEXT_OF_A NEXT_OF_B
 */
#include <sluice.h>
#include <stdio.h>
#include <string.h>

struct answer {
    char text[2048];
    size_t n_bytes;
};

struct conversation {
    sluice_session *session;
    sluice_message messages[4]; /* user and assistant in turn */
    size_t n_messages;
    struct answer answers[2]; /* the assistant's messages point here */
};

static int keep_text(void *user, int32_t id, const char *text, size_t n_bytes)
{
    struct answer *a = user;
    (void)id;
    if (n_bytes >= sizeof(a->text) - a->n_bytes)
        return -1; /* below 0: ends the answer before this token */
    memcpy(a->text + a->n_bytes, text, n_bytes);
    a->n_bytes += n_bytes;
    return 0;
}

/* Puts a question; *answer is the conversation's own and stays where it is. */
static int ask(sluice *model, struct conversation *c, const char *question, const char **answer,
               sluice_error *err)
{
    struct answer *a = &c->answers[c->n_messages / 2];
    int32_t *ids = NULL;
    int64_t n = 0, n_stable = 0;
    sluice_sampling greedy;
    sluice_sampling_init(&greedy);
    c->messages[c->n_messages++] = (sluice_message){.role = "user", .content = question};
    int rc = sluice_chat_ids(model, c->messages, c->n_messages, false, &ids, &n, &n_stable, err);
    if (rc == SLUICE_OK)
        rc = sluice_session_sync(c->session, ids, n, n_stable, err);
    if (rc == SLUICE_OK)
        rc = sluice_generate(c->session, &greedy, -1, keep_text, a, NULL, err);
    c->messages[c->n_messages++] = (sluice_message){.role = "assistant", .content = a->text};
    *answer = a->text;
    sluice_free(ids);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL.gguf A1 B1 A2 B2 (questions of A and B)\n", argv[0]);
        return 2;
    }
    struct conversation both[2] = {0};
    const char *answer = NULL;
    sluice *model = NULL;
    sluice_error err = {0};
    sluice_options o;
    sluice_options_init(&o);
    o.model = argv[1];

    int rc = sluice_open(&o, &model, &err);
    for (int i = 0; i < 2 && rc == SLUICE_OK; i++)
        rc = sluice_session_new(model, &both[i].session, &err);
    for (int i = 0; i < 4 && rc == SLUICE_OK; i++) {
        int64_t held = sluice_session_length(both[i % 2].session);
        rc = ask(model, &both[i % 2], argv[2 + i], &answer, &err);
        if (rc == SLUICE_OK)
            printf("%c (held %lld tokens): %s\n", 'A' + i % 2, (long long)held, answer);
    }
    if (rc != SLUICE_OK)
        fprintf(stderr, "%s: %s\n", argv[0], err.text);

    sluice_session_free(both[0].session);
    sluice_session_free(both[1].session);
    sluice_close(model);
    return rc != SLUICE_OK || fflush(stdout) != 0 || ferror(stdout);
}
