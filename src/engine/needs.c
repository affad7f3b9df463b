/*
 * Where a plan's inputs come from: options, process, tokeniser, and the model and
 * its device, which say what they need under a choice. This is the one place that
 * knows how the two of them are asked.
 */
#include "engine/engine.h"

enum {
    /* Of a token of a session: its id there, and twice in the caller's list. */
    TOKEN_BYTES = 3 * (int)sizeof(int32_t)
};

/* ---- the process --------------------------------------------------------- */

/* Stack and allocator of a thread, of which a few pages are touched here and there. */
static int64_t thread_reserve(void)
{
    return (112 << 10) + 4 * (int64_t)os_page_bytes();
}

int64_t needs_process(const struct sluice *s)
{
    int64_t held = MIN(s->o.held_bytes, INT64_MAX / 2); /* no budget is larger */
    int64_t bytes = s->program + held + PROCESS_RESERVE + model_description_bytes(s->model);
    if (s->text)
        bytes += text_bytes(s->text);
    if (s->o.timeline)
        bytes += TIMELINE_BYTES;
    return bytes + (s->dev ? (int64_t)s->dev->ops->threads(s->dev) * thread_reserve() : 0);
}

/* ---- model and device ---------------------------------------------------- */

struct model_options needs_options(const struct sluice *s, const struct plan_choice *c)
{
    return (struct model_options){.max_tokens = c->chunk,
                                  .context = c->context,
                                  .context_asked = s->o.context > 0 ? s->o.context
                                                                    : s->shape.n_context_train,
                                  .dense_bytes = c->dense_bytes,
                                  .kv_f16 = !s->o.exact && !s->o.kv_f32,
                                  .lookahead = s->o.lookahead};
}

/* *per_token: the device's scratch for each token of context. */
static void ask(const struct sluice *s, const struct plan_choice *c, struct plan_needs *out,
                int64_t *per_token)
{
    struct model_options mo = needs_options(s, c);
    struct model_needs n;
    model_needs(s->model, s->dev, &mo, &n);
    *per_token = n.device_per_position;
    *out = (struct plan_needs){.dense = n.dense,
                               .dense_full = n.dense_full,
                               .dense_no_embed = n.dense_no_embed,
                               .dense_read = n.dense_read,
                               .state = n.state,
                               .scratch = n.scratch + n.device_fixed,
                               .kv_per_token = n.kv_per_token,
                               .cache_min = n.cache_min,
                               .cache_full = n.cache_full};
}

static void of_model(const void *model, const struct plan_choice *c, struct plan_needs *out)
{
    int64_t per_token;
    ask(model, c, out, &per_token);
}

static int64_t kv_of_model(const void *model, int64_t n)
{
    const struct sluice *s = model;
    struct model_options mo = needs_options(s, &(struct plan_choice){.context = n});
    return model_kv_bytes(s->model, &mo, n);
}

/* ---- all of it ------------------------------------------------------------ */

void needs_inputs(const struct sluice *s, struct plan_inputs *in)
{
    const struct model_shape *m = &s->shape;
    *in = (struct plan_inputs){.context = s->o.context,
                               .chunk = s->o.chunk,
                               .tokenizer_only = s->o.tokenizer_only,
                               .process = needs_process(s),
                               .held_bytes = s->o.held_bytes,
                               .process_wavers = s->program_wavers,
                               .n_tokens = text_n_tokens(s->text),
                               .longest_token = text_longest(s->text),
                               .n_vocab = m->n_vocab,
                               .n_context_train = m->n_context_train,
                               .most_logits_rows = MODEL_LOGIT_ROWS,
                               .expert_bytes_per_token = m->expert_bytes_per_token,
                               .dense_bytes_per_token = m->dense_bytes_per_token,
                               .packed = m->packed,
                               .session_token_bytes = TOKEN_BYTES,
                               .model = s,
                               .needs = of_model,
                               .kv = kv_of_model};
    limits_find(s->o.memory_bytes, &in->limits);
    if (s->o.tokenizer_only)
        return;
    struct plan_needs n;
    int64_t per_token;
    ask(s, &(struct plan_choice){.chunk = 1, .context = 1}, &n, &per_token);
    in->session_token_bytes += per_token;
}
