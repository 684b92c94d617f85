#include "runtime/emulation/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "runtime/emulation/exchange.hpp"
#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {
namespace {

/// All dies of the instance send each other equal shares: a bulk transfer by the copy engine at the link's write rate.
ModelTime collective(const Machine& machine, int dies, double bytes_sent) {
  if (dies < 2) return {};
  return link_time(machine, Access::write, Memory::die, dies > machine.dies_per_node() ? 2 : 1, bytes_sent);
}

/// What one microbatch does in one layer, in order, with the stream each part runs on.
struct LayerParts {
  Terms before_experts, experts, after_experts;  // compute stream
  ModelTime dispatch, combine;                   // exchange stream
  double skew = 1;
};

/// Attention of one layer. `fresh` tokens a die are computed; `all` have keys and values, the rest of them reused.
void add_attention(Terms& t, const Machine& machine, const ModelShape& model, double fresh, double all, double prompt,
                   int dies) {
  const double queries = model.heads * (model.nope + model.rope), values = model.heads * model.value;
  const double keys_values = model.heads * (model.nope + model.value);
  const auto vector = [&](const char* name, double elements) { t.add(name, vector_time(machine, 2 * elements)); };
  vector("norm, quantise", fresh * model.hidden * 2.5);
  const double down = (model.q_lora > 0 ? model.q_lora : 0) + model.latent();
  t.add("down projections", gemm_time(machine, {1, fresh, down, model.hidden, true}));
  vector("norm latents, rope", 2 * fresh * down);
  // Each die needs the latents of every token for its own heads; reused ones were loaded in shares too.
  const double latents = fresh * (model.q_lora > 0 ? model.q_lora : model.hidden) + all * model.latent();
  t.add("all-gather", collective(machine, dies, 2 * latents * (dies - 1)));
  t.add("q up", gemm_time(machine, {1, fresh, queries, model.q_lora > 0 ? model.q_lora : model.hidden, true}));
  t.add("kv up", gemm_time(machine, {1, all, keys_values, model.kv_lora, true}));
  vector("rope, join heads", fresh * queries * 2 + all * (keys_values * 2 + queries - model.heads * model.nope));
  // Causal: a fresh token sees the reused ones and half of the fresh ones of its prompt.
  const double seen = prompt * (all > 0 ? 1 - fresh / all / 2 : 0);
  t.add("attention",
        attention_time(machine, 2 * fresh * seen * (queries + values), 2 * all * (queries + values) / model.heads));
  vector("quantise, pack heads", fresh * values * (1 + 0.5 + 1 + 1));
  t.add("all-to-all", collective(machine, dies, 2 * fresh * values * (dies - 1) / dies));
  t.add("output", gemm_time(machine, {1, fresh, model.hidden, values, true}));
  vector("residual", fresh * model.hidden * 3);
  t.add("starts", start_time(machine, 12));
}

LayerParts layer_parts(const Machine& machine, const ModelShape& model, const PrefillSetup& setup, double fresh,
                       double all) {
  LayerParts parts;
  const MoeStage moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, fresh,
                                 all * setup.layout.dies / setup.prompt_tokens);
  parts.skew = moe.skew;
  add_attention(parts.before_experts, machine, model, fresh, all, setup.prompt_tokens, setup.layout.dies);
  const auto copy = [](Terms& to, const Terms& from) {
    for (const auto& [name, time] : from.parts()) to.add(name, time);
  };
  copy(parts.before_experts, moe.gate);
  // The vector cores sort rows for the copy engine, on either side of the wire.
  const double rows = fresh * model.topk;
  parts.before_experts.add("prepare dispatch", vector_time(machine, rows * 2 * model.hidden));
  parts.experts.add("sort by expert", vector_time(machine, moe.skew * rows * 2 * model.hidden));
  copy(parts.experts, moe.experts);
  parts.experts.add("prepare combine", vector_time(machine, moe.skew * rows * 4 * model.hidden));
  parts.after_experts.add("sum, residual", vector_time(machine, (rows + 2 * fresh) * 2 * model.hidden));
  parts.dispatch = moe.dispatch.total();
  parts.combine = moe.combine.total();
  return parts;
}

}  // namespace

PrefillResult prefill_batch(const Machine& machine, const ModelShape& model, const PrefillSetup& setup) {
  if (setup.microbatches < 1 || setup.microbatches > 2) throw std::invalid_argument("microbatches must be 1 or 2");
  if (!(setup.reuse >= 0 && setup.reuse < 1)) throw std::invalid_argument("reuse must be in [0, 1)");
  PrefillResult r;
  // Only whole blocks of a prefix can be reused.
  const double blocks = setup.pooled ? std::floor(setup.reuse * setup.prompt_tokens / setup.block_tokens + 1e-9) : 0;
  const double reuse = blocks * setup.block_tokens / setup.prompt_tokens;
  const double all = setup.tokens_per_die / setup.microbatches, fresh = all * (1 - reuse);
  const LayerParts parts = layer_parts(machine, model, setup, fresh, all);
  r.skew = parts.skew;

  Timeline& line = r.timeline;
  const double cached = setup.tokens_per_die * reuse * model.kv_bytes_per_token();
  r.pool = pool_read_time(machine, setup.network, cached, setup.block_tokens * model.kv_bytes_per_layer());
  const int loaded = line.add("pool", 0, r.pool);

  Terms dense;
  add_attention(dense, machine, model, fresh, all, setup.prompt_tokens, setup.layout.dies);
  const ModelTime dense_layer = dense.total() + dense_stage(machine, model, fresh).total();
  std::vector<int> ready(static_cast<std::size_t>(setup.microbatches), loaded);
  for (int layer = 0; layer < model.dense_layers; ++layer)
    for (int& last : ready) last = line.add("dense layer", 0, dense_layer, {last});

  // Microbatches take turns: while one's rows travel, the other computes. A microbatch goes on to its next attention
  // before the other's combine is awaited.
  std::vector<ModelTime> ends;
  const ModelTime attention = parts.before_experts.total(), experts = parts.experts.total(),
                  sum = parts.after_experts.total();
  for (int layer = model.dense_layers; layer < model.layers; ++layer) {
    for (int& last : ready) {
      if (layer > model.dense_layers) last = line.add("sum", 0, sum, {last});
      last = line.add("attention", 0, attention, {last});
    }
    for (int& last : ready) last = line.add("dispatch", 1, parts.dispatch, {last});
    for (int& last : ready) last = line.add("experts", 0, experts, {last});
    ends.push_back(line.end());
    for (int& last : ready) last = line.add("combine", 1, parts.combine, {last});
  }
  for (int& last : ready) last = line.add("sum", 0, sum, {last});
  const std::size_t middle = ends.size() / 2;
  if (ends.size() > 1) r.layer = ends[middle] - ends[middle - 1];
  // Only a prompt's last token needs logits.
  const double prompts = setup.prompt_tokens > 0 ? setup.tokens_per_die / setup.prompt_tokens : 0;
  line.add("head", 0, gemm_time(machine, {1, prompts, model.vocabulary, model.hidden, true}), ready);

  r.batch = line.end();
  r.compute = r.batch - r.pool;
  if (r.batch.value > 0) r.tokens_per_s_per_npu = setup.tokens_per_die * machine.dies_per_npu / r.batch.value;
  r.handover = {setup.prompt_tokens * model.kv_bytes_per_token() / (machine.slow.rdma_gbps * 1e9)};
  for (const Terms* terms : {&parts.before_experts, &parts.experts, &parts.after_experts})
    for (const auto& [name, time] : terms->parts()) r.computing.add(name, time);
  r.exchanging.add("dispatch", parts.dispatch);
  r.exchanging.add("combine", parts.combine);
  const int moe_layers = model.layers - model.dense_layers;
  r.memory_bytes = model.layers * model.attention_weights() + model.dense_layers * 3 * model.hidden * model.dense_ffn +
                   moe_layers * setup.layout.weight_bytes(model) + 3 * model.vocabulary * model.hidden +
                   setup.tokens_per_die * model.kv_bytes_per_token();
  const bool exchange_bound = r.exchanging.total() > r.computing.total();
  ModelTime most;
  for (const auto& [name, time] : (exchange_bound ? r.exchanging : r.computing).parts())
    if (most < time) most = time, r.limit = name;
  return r;
}

}  // namespace supernode::emulation
