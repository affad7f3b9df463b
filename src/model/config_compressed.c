/* The numbers of compressed attention, and of a residual stream that is several. */
#include "model/config_internal.h"

#include <math.h>
#include <stdio.h>

/* Positions of an entry, of each block, and maybe of more blocks than the file has. With
 * 4 an indexer picks, as weights for it are there. */
static void read_ratios(struct reader *r, struct config *c)
{
    char full[128], value[256];
    const struct meta *v = key_find(r, "attention.compress_ratios", full, sizeof(full));
    key_needed(r, "attention.compress_ratios");
    if (r->rc == OK && (!v->is_array || v->n < (uint64_t)c->n_blocks))
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s' is no list with one number for each of %d layers",
                        weights_path(r->w, 0), full, c->n_blocks);
    for (int i = 0; i < c->n_layers && r->rc == OK; i++) {
        struct layer_config *l = &c->layer[i];
        uint64_t ratio = 1;
        if (!meta_u64(v, (uint64_t)i, &ratio) || (ratio != 0 && ratio != 4 && ratio != 128)) {
            meta_text(value, sizeof(value), v);
            r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s' is %.80s, expected 0, 4 or 128 for each "
                            "layer", weights_path(r->w, 0), full, value);
        }
        l->ratio = (int64_t)ratio;
        l->indexes = ratio == 4;
        l->rope = ratio ? FAR : NEAR;
    }
}

static void check_compressed(struct reader *r, const struct config *c)
{
    const struct layer_config *l = &c->layer[0];
    if (r->rc == OK && (l->key_dim % 32 || l->n_rot % 16 || l->n_rot > l->key_dim ||
                        l->n_rot > c->index_dim || c->index_dim % 32 || c->q_lora % 32 ||
                        c->out_lora % 32))
        r->rc = err_set(r->e, E_UNSUPPORTED,
                        "%s: compressed attention with key length %lld and an indexer's of %lld "
                        "of which %lld are rotated, ranks %lld and %lld; expected multiples of "
                        "32, 32, 16, 32 and 32, and no more rotated than there are",
                        weights_path(r->w, 0), (long long)l->key_dim, (long long)c->index_dim,
                        (long long)l->n_rot, (long long)c->q_lora, (long long)c->out_lora);
    if (r->rc == OK && l->n_head % c->out_groups)
        r->rc = err_set(r->e, E_FORMAT, "%s: '%s.attention.output_group_count': %lld heads are not "
                        "%lld groups of as many each", weights_path(r->w, 0), r->family,
                        (long long)l->n_head, (long long)c->out_groups);
}

void read_compressed(struct reader *r, struct config *c)
{
    const int64_t n_head = read_count(r, "attention.head_count", -1, 1, 1024);
    const int64_t dim = read_count(r, "attention.key_length", -1, 32, 1024);
    const int64_t n_rot = read_count(r, "rope.dimension_count", -1, 2, 1024);
    const int64_t window = read_count(r, "attention.sliding_window", -1, 1, 1 << 20);
    read_count(r, "attention.head_count_kv", 1, 1, 1);
    read_count(r, "attention.value_length", dim, dim, dim);
    c->q_lora = read_count(r, "attention.q_lora_rank", -1, 32, 1 << 16);
    c->out_groups = read_count(r, "attention.output_group_count", -1, 1, n_head);
    c->out_lora = read_count(r, "attention.output_lora_rank", -1, 32, 1 << 16);
    c->n_seen = read_count(r, "attention.indexer.top_k", -1, 1, 1 << 20);
    c->index_heads = read_count(r, "attention.indexer.head_count", -1, 1, 1024);
    c->index_dim = read_count(r, "attention.indexer.key_length", -1, 32, 1024);
    c->most_rot = c->rope[FAR].n_rot = c->rope[NEAR].n_rot = n_rot;
    c->attn_scale = 1.0f / sqrtf((float)dim);
    for (int i = 0; i < c->n_layers; i++)
        c->layer[i] = (struct layer_config){.n_head = n_head, .n_kv = 1, .n_rot = n_rot,
                                            .key_dim = dim, .value_dim = dim, .window = window};
    read_ratios(r, c);
    check_compressed(r, c);
}

void read_streams(struct reader *r, struct config *c)
{
    if (config_has(c, HAS_PIECES)) {
        c->piece_layers = read_count(r, "attn_res.block_size", -1, 1, MAX_LAYERS);
        if (r->rc == OK && config_pieces(c) > DEV_PIECES)
            r->rc = err_set(r->e, E_UNSUPPORTED, "%s: '%s.attn_res.block_size' is %lld, which "
                            "makes %lld pieces of the residual stream; at most %d are expected",
                            weights_path(r->w, 0), r->family, (long long)c->piece_layers,
                            (long long)config_pieces(c), DEV_PIECES);
    }
    if (!config_has(c, HAS_STREAMS))
        return;
    read_count(r, "hyper_connection.count", -1, DEV_STREAMS, DEV_STREAMS);
    c->mix_rounds = read_count(r, "hyper_connection.sinkhorn_iterations", -1, 1, 1000);
    c->mix_eps = (float)read_real(r, "hyper_connection.epsilon", 0.0, 0.0, 1.0);
    key_needed(r, "hyper_connection.epsilon");
}
