/* Looking into a file: any valid GGUF, also of families that cannot be run. */
#include "engine/engine.h"

int sluice_inspect(const char *path, const sluice_visitor *v, sluice_error *err)
{
    struct model *m = NULL;
    struct model_visitor mv = {.on_meta = v->on_meta,
                               .on_tensor = v->on_tensor, .on_packed = v->on_packed, .user = v->user};
    TRY(model_describe(path, true, &m, err_of(err)));
    model_visit(m, &mv);
    model_close(m);
    return OK;
}
