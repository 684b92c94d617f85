#include "runtime/emulation/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "runtime/emulation/machine/links.hpp"

namespace supernode::emulation {
namespace {

/// All dies of the instance send each other equal shares: a bulk transfer by the copy engine at the link's write rate.
ModelTime collective(const Machine& machine, int dies, double bytes_sent) {
  if (dies < 2) return {};
  return link_time(machine, Access::write, Memory::die, dies > machine.dies_per_node() ? 2 : 1, bytes_sent).total();
}

/// Attention of one layer. `fresh` tokens a die are computed; `all` have keys and values, the rest of them reused.
Terms prefill_attention(const Machine& machine, const ModelShape& model, double fresh, double all, double prompt,
                        int dies) {
  const double queries = model.heads * (model.nope + model.rope), values = model.heads * model.value;
  const double keys_values = model.heads * (model.nope + model.value);
  const double q_input = model.q_lora > 0 ? model.q_lora : model.hidden;
  Terms t;
  const auto vector = [&](const char* name, double elements) { t.add(name, vector_time(machine, 2 * elements)); };
  const auto product = [&](const char* name, double rows, double n, double k) {
    t.add(name, gemm_time(machine, {.m = rows, .n = n, .k = k}));
  };
  vector("norm, quantise", fresh * model.hidden * 2.5);
  const double down = (model.q_lora > 0 ? model.q_lora : 0) + model.latent();
  product("down projections", fresh, down, model.hidden);
  vector("norm latents, rope", 2 * fresh * down);
  // Each die needs the latents of every token for its own heads; reused ones were loaded in shares too.
  const double latents = fresh * q_input + all * model.latent();
  t.add("all-gather", collective(machine, dies, 2 * latents * (dies - 1)));
  product("q up", fresh, queries, q_input);
  product("kv up", all, keys_values, model.kv_lora);
  vector("rope, join heads", fresh * queries * 2 + all * (keys_values * 2 + queries - model.heads * model.nope));
  // Causal: a fresh token sees the reused ones and half of the fresh ones of its prompt.
  const double seen = prompt * (all > 0 ? 1 - fresh / all / 2 : 0);
  t.add("attention",
        attention_time(machine, 2 * fresh * seen * (queries + values), 2 * all * (queries + values) / model.heads));
  vector("quantise, pack heads", fresh * values * (1 + 0.5 + 1 + 1));
  t.add("all-to-all", collective(machine, dies, 2 * fresh * values * (dies - 1) / dies));
  product("output", fresh, model.hidden, values);
  vector("residual", fresh * model.hidden * 3);
  t.add("starts", start_time(machine, 12));
  return t;
}

/// Tokens of a die in one microbatch: `all` of its prompts, of which `fresh` are computed and the rest reused.
struct Share {
  double all, fresh;
};

/// Only whole blocks of a prefix can be reused.
double reused_share(const PrefillSetup& setup) {
  const double blocks = setup.pooled ? std::floor(setup.reuse * setup.prompt_tokens / setup.block_tokens + 1e-9) : 0;
  return blocks * setup.block_tokens / setup.prompt_tokens;
}

/// Prices what one microbatch does in one MoE layer.
void price_layer(PrefillResult& r, const Machine& machine, const ModelShape& model, const PrefillSetup& setup,
                 const Share& share) {
  const MoeStage moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, share.fresh,
                                 share.all * setup.layout.dies / setup.prompt_tokens);
  r.skew = moe.skew;
  r.before_experts = prefill_attention(machine, model, share.fresh, share.all, setup.prompt_tokens, setup.layout.dies);
  r.before_experts.add(moe.gate);
  // The vector cores sort rows for the copy engine, on either side of the wire.
  const double rows = share.fresh * model.topk;
  r.before_experts.add("prepare dispatch", vector_time(machine, rows * 2 * model.hidden));
  r.experts.add("sort by expert", vector_time(machine, moe.skew * rows * 2 * model.hidden));
  r.experts.add(moe.experts);
  r.experts.add("prepare combine", vector_time(machine, moe.skew * rows * 4 * model.hidden));
  r.after_experts.add("sum, residual", vector_time(machine, (rows + 2 * share.fresh) * 2 * model.hidden));
  r.dispatch = moe.dispatch;
  r.combine = moe.combine;
}

/// Appends the MoE layers. Microbatches take turns: while one's rows travel, the other computes. A microbatch goes on
/// to its next attention before the other's combine is awaited.
/// @param ready for each microbatch the task that it waits for; then its last one. @returns when each layer was done
/// except for its combines.
std::vector<ModelTime> schedule_moe_layers(Timeline& line, const PrefillResult& r, int layers,
                                           std::vector<int>& ready) {
  const ModelTime attention = r.before_experts.total(), experts = r.experts.total(), sum = r.after_experts.total();
  const ModelTime dispatch = r.dispatch.total(), combine = r.combine.total();
  std::vector<ModelTime> ends;
  for (int layer = 0; layer < layers; ++layer) {
    for (int& last : ready) {
      if (layer > 0) last = line.add("sum", 0, sum, {last});
      last = line.add("attention", 0, attention, {last});
    }
    for (int& last : ready) last = line.add("dispatch", 1, dispatch, {last});
    for (int& last : ready) last = line.add("experts", 0, experts, {last});
    ends.push_back(line.end());
    for (int& last : ready) last = line.add("combine", 1, combine, {last});
  }
  for (int& last : ready) last = line.add("sum", 0, sum, {last});
  return ends;
}

/// Fills in the timeline and what is read from it. `r` holds the prices.
void schedule_batch(PrefillResult& r, const Machine& machine, const ModelShape& model, const PrefillSetup& setup,
                    const Share& share) {
  Timeline& line = r.timeline;
  std::vector<int> ready(static_cast<std::size_t>(setup.microbatches), line.add("pool", 0, r.pool));
  const ModelTime dense_layer =
      prefill_attention(machine, model, share.fresh, share.all, setup.prompt_tokens, setup.layout.dies).total() +
      dense_stage(machine, model, share.fresh).total();
  for (int layer = 0; layer < model.dense_layers; ++layer)
    for (int& last : ready) last = line.add("dense layer", 0, dense_layer, {last});
  const std::vector<ModelTime> ends = schedule_moe_layers(line, r, model.layers - model.dense_layers, ready);
  const std::size_t middle = ends.size() / 2;
  if (ends.size() > 1) r.layer = ends[middle] - ends[middle - 1];
  // Only a prompt's last token needs logits.
  const double prompts = setup.prompt_tokens > 0 ? setup.tokens_per_die / setup.prompt_tokens : 0;
  line.add("head", 0, gemm_time(machine, {.m = prompts, .n = model.vocabulary, .k = model.hidden}), ready);

  r.parts = line.critical_path();
  r.batch = r.parts.total();
}

double memory_of(const ModelShape& model, const PrefillSetup& setup) {
  const int moe_layers = model.layers - model.dense_layers;
  return model.layers * model.attention_weights() + model.dense_layers * 3 * model.hidden * model.dense_ffn +
         moe_layers * setup.layout.weight_bytes(model) + 3 * model.vocabulary * model.hidden +
         setup.tokens_per_die * model.kv_bytes_per_token();
}

/// The longest part of the longer stream of a layer.
std::string limit_of(const PrefillResult& r) {
  Terms computing, exchanging;
  for (const Terms* terms : {&r.before_experts, &r.experts, &r.after_experts}) computing.add(*terms);
  exchanging.add("dispatch", r.dispatch.total());
  exchanging.add("combine", r.combine.total());
  return (exchanging.total() > computing.total() ? exchanging : computing).longest().name;
}

}  // namespace

PrefillResult prefill_batch(const Machine& machine, const ModelShape& model, const PrefillSetup& setup) {
  if (setup.microbatches < 1 || setup.microbatches > 2) throw std::invalid_argument("microbatches must be 1 or 2");
  if (!(setup.reuse >= 0 && setup.reuse < 1)) throw std::invalid_argument("reuse must be in [0, 1)");
  const double reuse = reused_share(setup);
  const double all = setup.tokens_per_die / setup.microbatches;
  const Share share{.all = all, .fresh = all * (1 - reuse)};
  PrefillResult r;
  price_layer(r, machine, model, setup, share);
  const double cached = setup.tokens_per_die * reuse * model.kv_bytes_per_token();
  r.pool = pool_read_time(machine, setup.network, cached, setup.block_tokens * model.kv_bytes_per_layer()).total();
  schedule_batch(r, machine, model, setup, share);
  if (r.batch.value > 0) r.tokens_per_s_per_npu = setup.tokens_per_die * machine.dies_per_npu / r.batch.value;
  r.handover = {setup.prompt_tokens * model.kv_bytes_per_token() / (machine.host_path.rdma_gbps * 1e9)};
  r.memory_bytes = memory_of(model, setup);
  r.limit = limit_of(r);
  return r;
}

}  // namespace supernode::emulation
