/* Looking into a file: any valid GGUF, also of families that cannot be run. */
#include "engine/engine.h"

#include <stdio.h>

/* Why running it would be refused, as a note. */
static void note_refusal(struct model *m, const sluice_visitor *v)
{
    struct sluice s = {.model = m};
    struct err why = {0};
    char text[sizeof(why.text) + 32];
    if (open_runnable(&s, &why) < 0) {
        snprintf(text, sizeof(text), "cannot be run: %s", why.text);
        v->on_note(v->user, text);
    }
    open_close_devices(&s);
    text_close(s.text);
}

static int check_path(const char *path, struct err *e)
{
    return path && path[0] ? OK : err_set(e, E_ARG, "no model was named");
}

static int check_progress(void *user, int64_t done, int64_t total)
{
    const sluice_verifier *c = user;
    return c->progress ? c->progress(c->user, "check", done, total) : 0;
}

static void check_file(void *user, const char *path, int64_t bytes, const char *sha256)
{
    const sluice_verifier *c = user;
    if (c->on_file)
        c->on_file(c->user, path, bytes, sha256);
}

static void check_finding(void *user, const char *text)
{
    const sluice_verifier *c = user;
    if (c->on_finding)
        c->on_finding(c->user, text);
}

int sluice_verify_sized(const char *path, const sluice_verifier *c, size_t size,
                        int64_t *n_findings, sluice_error *err)
{
    struct model *m = NULL;
    sluice_verifier mine;
    TRY(sized_take(SIZED_sluice_verifier, c, size, &mine, err_of(err)));
    struct model_check mc = {.on_file = check_file,
                             .on_finding = check_finding,
                             .progress = check_progress,
                             .user = &mine};
    TRY(check_path(path, err_of(err)));
    TRY(model_describe(path, true, &m, err_of(err)));
    int rc = model_check_files(m, &mc, n_findings, err_of(err));
    model_close(m);
    return rc;
}

int sluice_inspect_sized(const char *path, const sluice_visitor *v, size_t size, sluice_error *err)
{
    struct model *m = NULL;
    sluice_visitor mine;
    TRY(sized_take(SIZED_sluice_visitor, v, size, &mine, err_of(err)));
    struct model_visitor mv = {.on_meta = mine.on_meta,
                               .on_tensor = mine.on_tensor, .on_packed = mine.on_packed,
                               .on_note = mine.on_note, .user = mine.user};
    TRY(check_path(path, err_of(err)));
    TRY(model_describe(path, true, &m, err_of(err)));
    model_visit(m, &mv);
    if (mine.on_note && !model_is_part(m)) /* that it is a part says all */
        note_refusal(m, &mine);
    model_close(m);
    return OK;
}
