#include "runtime/emulation/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "runtime/emulation/stage_costs.hpp"

namespace supernode::emulation {
namespace {

/// Tokens of a die in one microbatch: `all` of its prompts, of which `fresh` are computed and the rest reused.
struct Share {
  double all, fresh;
};

/// Only whole blocks of a prefix can be reused.
double reused_share(const PrefillSetup& setup) {
  const double blocks = setup.pooled ? std::floor(setup.reuse * setup.prompt_tokens / setup.block_tokens + 1e-9) : 0;
  return blocks * setup.block_tokens / setup.prompt_tokens;
}

AttentionWork work_of(const PrefillSetup& setup, const Share& share) {
  // Causal: a fresh token sees the reused ones and half of the fresh ones of its prompt.
  const double seen = setup.prompt_tokens * (share.all > 0 ? 1 - share.fresh / share.all / 2 : 0);
  return {.sequences = setup.prompt_tokens > 0 ? share.all / setup.prompt_tokens : 0,
          .tokens = share.fresh,
          .context = share.all,
          .attended = share.fresh * seen};
}

/// What one microbatch does in one MoE layer, for the reader.
void price_layer(PrefillResult& r, const Machine& machine, const ModelShape& model, const PrefillSetup& setup,
                 const AttentionWork& work) {
  const MoeStage moe = moe_stage(machine, model, setup.layout, setup.load, setup.exchange, work.tokens,
                                 work.context * setup.layout.dies / setup.prompt_tokens);
  r.skew = moe.skew;
  const PrefillAttention attention = prefill_attention(machine, model, setup.layout.dies, work, work, work);
  for (const Terms* terms : {&attention.before, &attention.between, &attention.after, &moe.gate})
    r.before_experts.add(*terms);
  const double rows = work.tokens * model.topk;
  r.before_experts.add("prepare dispatch", prepare_rows(machine, model, rows));
  r.experts.add("sort by expert, prepare combine", arrange_rows(machine, model, moe.skew * rows));
  r.experts.add(moe.experts);
  r.after_experts.add("sum, residual", sum_rows(machine, model, work.tokens));
  r.dispatch = moe.dispatch;
  r.combine = moe.combine;
}

/// From the end of a layer's experts to those of the next one, in the middle of the batch.
ModelTime steady_layer(const Timeline& line, int microbatches) {
  std::vector<ModelTime> ends;
  int of_layer = 0;
  for (const Task& task : line.tasks())
    if (std::string_view(task.name) == "experts" && ++of_layer % microbatches == 0) ends.push_back(task.end);
  const std::size_t middle = ends.size() / 2;
  return ends.size() > 1 ? ends[middle] - ends[middle - 1] : ModelTime{};
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
  const AttentionWork work = work_of(setup, share);
  const StepSetup step_setup{.stage = Stage::prefill,
                             .layout = setup.layout,
                             .exchange = setup.exchange,
                             .network = setup.network,
                             .block_tokens = setup.block_tokens};
  DieStep step;
  step.microbatches.assign(static_cast<std::size_t>(setup.microbatches), MicrobatchStep{.work = work});
  step.loads = {{.bytes = setup.tokens_per_die * reuse * model.kv_bytes_per_token()}};
  PrefillResult r;
  price_layer(r, machine, model, setup, work);
  const StepTiming timing = uniform_step_time(machine, model, step_setup, setup.load, step, &r.timeline);
  r.pool = timing.terms.of("pool");
  r.parts = timing.terms;
  r.batch = timing.end();
  r.layer = steady_layer(r.timeline, setup.microbatches);
  if (r.batch.value > 0) r.tokens_per_s_per_npu = setup.tokens_per_die * machine.dies_per_npu / r.batch.value;
  r.handover = {setup.prompt_tokens * model.kv_bytes_per_token() / (machine.host_path.rdma_gbps * 1e9)};
  r.memory_bytes = memory_of(model, setup);
  r.limit = limit_of(r);
  return r;
}

}  // namespace supernode::emulation
