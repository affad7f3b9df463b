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
    device_close(s.dev);
    text_close(s.text);
}

static int check_progress(void *user, int64_t done, int64_t total)
{
    const sluice_verifier *c = user;
    return c->progress ? c->progress(c->user, "check", done, total) : 0;
}

static void check_file(void *user, const char *path, int64_t bytes, const char *sha256)
{
    const sluice_verifier *c = user;
    c->on_file(c->user, path, bytes, sha256);
}

static void check_finding(void *user, const char *text)
{
    const sluice_verifier *c = user;
    c->on_finding(c->user, text);
}

int sluice_verify(const char *path, const sluice_verifier *c, int64_t *n_findings, sluice_error *err)
{
    struct model *m = NULL;
    sluice_verifier mine = *c;
    struct model_check mc = {.on_file = check_file, .on_finding = check_finding, .progress = check_progress,
                             .user = &mine};
    TRY(model_describe(path, true, &m, err_of(err)));
    int rc = model_check_files(m, &mc, n_findings, err_of(err));
    model_close(m);
    return rc;
}

int sluice_inspect(const char *path, const sluice_visitor *v, sluice_error *err)
{
    struct model *m = NULL;
    struct model_visitor mv = {.on_meta = v->on_meta,
                               .on_tensor = v->on_tensor, .on_packed = v->on_packed,
                               .on_note = v->on_note, .user = v->user};
    TRY(model_describe(path, true, &m, err_of(err)));
    model_visit(m, &mv);
    if (v->on_note)
        note_refusal(m, v);
    model_close(m);
    return OK;
}
