/*
 * Embedding in a program's own loop: between the layers of every token the engine
 * calls turn(), in which the program does what else it has to do, and which says
 * whether to go on. Here the other work is to look at the keyboard: any input
 * stops the answer. The session then holds what was computed, and goes on after
 * sluice_session_sync, _keep or _reset.
 *
 *   loop MODEL.gguf QUESTION
 */
#include <poll.h>
#include <sluice.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

struct program {
    int input; /* -1: at its end */
    long turns;
    bool stop;
};

/* One turn of the program's loop: never waits. Non-zero cancels, also a prompt. */
static int turn(void *user, const char *what, int64_t done, int64_t total)
{
    struct program *p = user;
    struct pollfd in = {.fd = p->input, .events = POLLIN};
    char byte;
    (void)what, (void)done, (void)total; /* for a progress bar */
    p->turns++;
    if (poll(&in, 1, 0) > 0) {
        if (read(p->input, &byte, 1) > 0)
            p->stop = true;
        else
            p->input = -1;
    }
    return p->stop;
}

static int write_text(void *user, int32_t id, const char *text, size_t n_bytes)
{
    (void)user, (void)id;
    return fwrite(text, 1, n_bytes, stdout) < n_bytes || fflush(stdout) != 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.gguf QUESTION\n", argv[0]);
        return 2;
    }
    struct program program = {.input = STDIN_FILENO};
    sluice_message question = {.role = "user", .content = argv[2]};
    sluice_finish finish = SLUICE_FINISH_END;
    sluice *model = NULL;
    sluice_session *session = NULL;
    int32_t *ids = NULL;
    int64_t n = 0, n_stable = 0;
    sluice_error err = {0};
    sluice_sampling greedy;
    sluice_sampling_init(&greedy);
    sluice_options o;
    sluice_options_init(&o);
    o.model = argv[1];
    o.progress = turn; /* loading calls it, too */
    o.user = &program;

    int rc = sluice_open(&o, &model, &err);
    if (rc == SLUICE_OK)
        rc = sluice_chat_ids(model, &question, 1, false, &ids, &n, &n_stable, &err);
    if (rc == SLUICE_OK)
        rc = sluice_session_new(model, &session, &err);
    if (rc == SLUICE_OK)
        rc = sluice_session_sync(session, ids, n, n_stable, &err);
    if (rc == SLUICE_OK)
        rc = sluice_generate(session, &greedy, -1, write_text, NULL, &finish, &err);
    bool stopped = rc == SLUICE_E_CANCELLED || finish == SLUICE_FINISH_STOPPED;
    if (rc != SLUICE_OK && !stopped)
        fprintf(stderr, "%s: %s\n", argv[0], err.text);
    else
        printf("\n%s after %ld turns of the loop\n", stopped ? "stopped" : "done", program.turns);

    sluice_session_free(session);
    sluice_close(model);
    sluice_free(ids);
    return (rc != SLUICE_OK && !stopped) || fflush(stdout) != 0 || ferror(stdout);
}
