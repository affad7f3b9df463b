/*
 * What is refused before anything is read, loaded or written: the list of the
 * files that a command reads and writes beside the model, and its options.
 */
#include "cli.h"

#include "base/base.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct list {
    sluice_file f[16];
    int n;
};

static void add(struct list *l, const char *what, const char *path, bool written)
{
    if (path)
        l->f[l->n++] = (sluice_file){what, path, written};
}

/* Standard input and output, where they are files: a loop may be reading its
 * list from one of them. */
static void add_streams(struct list *l)
{
    static const sluice_file streams[] = {{"standard input", "/dev/stdin", false},
                                          {"standard output", "/dev/stdout", true},
                                          {"standard error", "/dev/stderr", true}};
    struct stat st;
    for (int fd = 0; fd < 3; fd++)
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
            l->f[l->n++] = streams[fd];
}

/* What the caller closed is open by now, on nothing: nobody would get what is written. */
static int check_closed(const struct list *l, const struct args *a)
{
    struct list all = *l;
    add(&all, "--timeline", a->timeline, true);
    add(&all, "the packed file", a->command == C_PACK ? a->word : NULL, true);
    for (int i = 0; i < all.n; i++)
        if (term_closed(os_path_fd(all.f[i].path))) {
            complain("%s: '%s' is closed", all.f[i].what, all.f[i].path);
            return ST_FAIL;
        }
    return ST_OK;
}

int check_request(const struct args *a)
{
    char path[PATH_MAX], history[PATH_MAX];
    sluice_options o;
    sluice_error e = {0};
    struct list l = {.n = 0};
    int status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    add(&l, "--tokens", a->tokens, false);
    add(&l, "--qa", a->qa, false);
    add(&l, "--routing", a->routing, false);
    add(&l, "--messages", a->messages, false);
    add(&l, "--chat-template", a->chat_template, false);
    add(&l, "the program", "/proc/self/exe", false);
    if (a->command == C_CHAT && line_history(history, sizeof(history)))
        add(&l, "chat's history", history, true);
    add(&l, "--out", is_stdout(a->out) ? NULL : a->out, true);
    add(&l, "--record-routing", a->record_routing, true);
    status = check_closed(&l, a);
    if (status != ST_OK)
        return status;
    add_streams(&l);
    return sluice_check(&o, l.f, l.n, &e) < 0 ? fail_asked(&e) : ST_OK;
}
