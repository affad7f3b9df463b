/*
 * sluice pack: a copy of a model file in which an expert is one read.
 */
#include "cli.h"

#include <limits.h>
#include <string.h>

static int check_usage(const struct args *a)
{
    if (!a->word && !a->replace)
        complain("a file to write is missing, as in: sluice pack -m MODEL.gguf PACKED.gguf (or "
                 "--replace)");
    else if (a->word && a->replace)
        complain("--replace writes no other file, but \"%s\" is named", a->word);
    else if (a->word && strcmp(a->word, "-") == 0)
        complain("a packed file cannot be written to standard output; "
                 "a file that is called - is ./-");
    else if (a->word && !*a->word)
        complain("the name of the file to write is empty");
    else if (a->replace && !a->model)
        complain("--replace needs the model's name: -m MODEL");
    else if (a->replace && a->force)
        complain("--force is for a file that is named; --replace needs none");
    else
        return ST_OK;
    return ST_USAGE;
}

static int tell(const struct args *a, const char *path, const sluice_pack_result *r)
{
    const char *written = a->replace ? path : a->word;
    if (a->json)
        return json_print(json_pack("{so sb sI sI si sI}", "file", json_text(written), "was_packed",
                                    r->was_packed, "bytes_before", (json_int_t)r->bytes_before,
                                    "bytes_after", (json_int_t)r->bytes_after, "layers",
                                    r->n_layers, "expert_bytes", (json_int_t)r->expert_bytes));
    out_name(written, 0);
    if (r->was_packed)
        out_printf(" is packed already: there is nothing to do.\n");
    else
        out_printf(": %s (was %s), experts of %d layers packed, %s each at most\n",
                   show_size(r->bytes_after).s, show_size(r->bytes_before).s, r->n_layers,
                   show_size(r->expert_bytes).s);
    return ST_OK;
}

int cmd_pack(const struct args *a)
{
    char path[PATH_MAX];
    sluice_options o;
    sluice_pack_options p;
    sluice_pack_result r;
    sluice_error e = {0};
    int status = check_usage(a);
    if (status == ST_OK)
        status = model_options(a, path, &o);
    if (status != ST_OK)
        return status;
    sluice_pack_options_init(&p);
    p.out = a->replace ? NULL : a->word;
    p.force = a->force;
    int rc = sluice_pack(&o, &p, &r, &e);
    progress_end();
    return rc < 0 ? fail_asked(&e) : tell(a, path, &r);
}
