/*
 * An answer in thirty lines: opens a model, asks it one question, writes the
 * answer as it comes.
 *
 *   answer MODEL.gguf QUESTION
 */
#include <sluice.h>
#include <stdio.h>

/* Called for each token with the text that became complete; above 0 stops. */
static int write_text(void *user, int32_t id, const char *text, size_t n_bytes)
{
    (void)id;
    return fwrite(text, 1, n_bytes, user) < n_bytes || fflush(user) != 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.gguf QUESTION\n", argv[0]);
        return 2;
    }
    sluice_message question = {.role = "user", .content = argv[2]};
    sluice *model = NULL;
    sluice_session *session = NULL;
    int32_t *ids = NULL;
    int64_t n = 0, n_stable = 0;
    sluice_error err = {0};

    sluice_options o;
    sluice_options_init(&o);
    o.model = argv[1]; /* o.memory_bytes = 12LL << 30 would be the budget of the whole process */
    sluice_sampling greedy;
    sluice_sampling_init(&greedy);

    int rc = sluice_open(&o, &model, &err);
    if (rc == SLUICE_OK)
        rc = sluice_chat_ids(model, &question, 1, false, &ids, &n, &n_stable, &err);
    if (rc == SLUICE_OK)
        rc = sluice_session_new(model, &session, &err);
    if (rc == SLUICE_OK)
        rc = sluice_session_sync(session, ids, n, n_stable, &err);
    if (rc == SLUICE_OK)
        rc = sluice_generate(session, &greedy, -1, write_text, stdout, NULL, &err);
    if (rc != SLUICE_OK)
        fprintf(stderr, "%s: %s\n", argv[0], err.text);
    else
        putchar('\n');

    sluice_session_free(session); /* sessions go before their model; NULL is fine */
    sluice_close(model);
    sluice_free(ids);
    return rc != SLUICE_OK || fflush(stdout) != 0 || ferror(stdout);
}
