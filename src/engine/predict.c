/*
 * What to expect before a token was computed: how many of its experts the cache
 * will have, and how long it takes.
 */
#include "engine/engine.h"

#include <math.h>

/* Fitted to the five recorded traces of real models (docs/eviction.md), replayed
 * with the default policy at 1.2 to 8 times a token's experts: within 0.04 for four of
 * them; the fifth picks 8 of only 64 and has 0.17 fewer. */
double predict_typical_hits(double f)
{
    return 1.0 - pow(1.0 - sqrt(f), 2.2);
}

int predict_recorded_hits(struct sluice *s, struct err *e)
{
    const sluice_routing *r = s->o.routing;
    if (!r)
        return OK;
    if (!r->experts || r->n_tokens < 1)
        return err_set(e, E_ARG, "the recorded routing has no tokens");
    if (r->n_layers != s->shape.n_layers || r->n_used != s->shape.n_used)
        return err_set(
            e, E_ARG,
            "the recorded routing has %d layers with %d picks, the model %d with %d; was it "
            "recorded with another model?",
            r->n_layers, r->n_used, s->shape.n_layers, s->shape.n_used);
    return model_replay(s->model, s->plan.memory.cache, s->o.policy, r->experts, r->n_tokens,
                        &s->plan.traffic.recorded_hit_rate, e);
}

double predict_tps(const sluice_probe_result *probe, double read_bytes)
{
    /* what was not measured is 0, which is no speed and no time: nothing follows from it */
    if (!(probe->drive_gbs > 0) || !(probe->token_s > 0) || !(read_bytes >= 0))
        return 0.0;
    /* While the output matrix is computed nothing can be read: it says which
     * token comes next. Otherwise reads and computing overlap, but a layer's
     * reads are known for sure only when its router has spoken: layers with many
     * misses wait for the drive, those with none leave it idle. Where one of the
     * two is much longer it alone counts; where they are equal it takes about one
     * and a half times as long. So does the long side of a right angle. Computing
     * takes about a fifth longer beside reads than alone (docs/performance.md). */
    const double beside = 0.2;
    double drive = read_bytes / (probe->drive_gbs * 1e9), layers = probe->token_s - probe->output_s;
    return 1.0 / (probe->output_s + hypot(drive, layers + beside * MIN(drive, layers)));
}

double sluice_predict_sized(const sluice_probe_result *probe, size_t size, double read_bytes)
{
    sluice_probe_result known;
    return sized_take(SIZED_sluice_probe_result, probe, size, &known, NULL) < 0
               ? 0.0 : predict_tps(&known, read_bytes);
}

/* Bytes of a token that come from the drive: experts that the cache does not have, and
 * dense weights that do not stay. */
static double read_bytes(const sluice_traffic *t, double hit_rate)
{
    return (1.0 - hit_rate) * (double)t->expert_bytes_per_token + (double)t->dense_read_per_token;
}

/* Packed, the experts' bytes come at another rate; dense weights do not change. */
static double pack_gain(const sluice_probe_result *r, const sluice_traffic *t, double decode_tps)
{
    double experts = (1.0 - t->hit_rate) * (double)t->expert_bytes_per_token;
    if (t->packed || r->drive_gbs_packed <= 0 || decode_tps <= 0)
        return 1.0;
    experts *= r->drive_gbs / r->drive_gbs_packed;
    return MAX(1.0, predict_tps(r, experts + (double)t->dense_read_per_token) / decode_tps);
}

void predict_speed(const sluice_probe_result *probe, const sluice_traffic *t, sluice_speed *out)
{
    sluice_probe_result r = *probe;
    *out = (sluice_speed){.drive_gbs = r.drive_gbs, .memory_gbs = r.memory_gbs};
    if (r.drive_gbs <= 0 || (r.token_s <= 0 && r.dot_gbs <= 0))
        return; /* the budget had no room to measure */
    if (r.token_s <= 0)
        r.token_s =
            (double)(t->expert_bytes_per_token + t->dense_bytes_per_token) / (r.dot_gbs * 1e9);
    out->compute_s = r.token_s;
    out->decode_tps = predict_tps(&r, read_bytes(t, t->hit_rate));
    out->typical_tps = predict_tps(&r, read_bytes(t, t->typical_hit_rate));
    if (t->recorded_hit_rate >= 0)
        out->recorded_tps = predict_tps(&r, read_bytes(t, t->recorded_hit_rate));
    out->limited_by_drive = read_bytes(t, t->hit_rate) / (r.drive_gbs * 1e9) > r.token_s;
    out->pack_gain = pack_gain(&r, t, out->decode_tps);
}
