#include "runtime/emulation/moe_stage.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include <fmt/format.h>

#include "runtime/emulation/exchange.hpp"

namespace supernode::emulation {
namespace {

/// Gate and up projection, down projection, for `groups` experts of `rows` rows each. SwiGLU and quantisation run on
/// the vector cores while the product's tiles come out, and hide behind it.
struct FfnNames {
  const char *gate_up, *down;
};
Terms ffn_stage(const Machine& machine, const FfnNames& names, double groups, double rows, double hidden, double ffn,
                CoreShare share) {
  Terms terms;
  terms.add(names.gate_up, gemm_time(machine, {.groups = groups, .m = rows, .n = 2 * ffn, .k = hidden}, share));
  terms.add(names.down, gemm_time(machine, {.groups = groups, .m = rows, .n = hidden, .k = ffn}, share));
  return terms;
}

}  // namespace

int ExpertLayout::whole_slots_per_die(const ModelShape& model) const {
  return static_cast<int>(std::max(1.0, slots_per_die(model)));
}

double ExpertLayout::weight_bytes(const ModelShape& model) const {
  const double routed = std::ceil(slots_per_die(model)) * model.expert_weights();
  return shared_dies > 0 ? std::max(routed, model.shared_experts * model.expert_weights())
                         : routed + model.shared_experts * model.expert_weights();
}

void ExpertLayout::check(const ModelShape& model) const {
  if (dies < 1 || shared_dies < 0 || redundant < 0 || routed_dies() < 1)
    throw std::invalid_argument(fmt::format("{} dies cannot give {} to shared experts", dies, shared_dies));
  if (slots(model) % routed_dies() != 0)
    throw std::invalid_argument(fmt::format("{} routed experts and {} redundant ones do not divide over {} dies",
                                            model.experts, redundant, routed_dies()));
}

double dispatch_message_bytes(double hidden, const ExchangeChoices& choices) {
  return choices.early_quantisation ? std::ceil((hidden + 4) / 512) * 512 : 2 * hidden;
}

double combine_message_bytes(double hidden) { return 2 * hidden; }

double modelled_buffer_bytes(int ranks, double tokens, int topk, int experts_per_die, double message_bytes) {
  return ranks * tokens * std::min(topk, experts_per_die) * message_bytes;
}

MoeStage moe_stage(const Machine& machine, const ModelShape& model, const ExpertLayout& layout, const ExpertLoad& load,
                   const ExchangeChoices& choices, double tokens, double requests, CoreShare share) {
  layout.check(model);
  MoeStage stage;
  const double per_die = layout.slots_per_die(model);
  const double rows_per_slot = tokens * layout.dies * model.topk / layout.slots(model);
  if (tokens > 0) stage.skew = expert_skew(load, layout.slots(model), layout.routed_dies(), rows_per_slot, requests);

  const double hidden = model.hidden;
  stage.gate = gate_stage(machine, model, tokens, share);

  // Copies that leave a die: one a chosen expert, and one to the shared expert where that lives elsewhere.
  const bool remote_shared = layout.shared_dies > 0 && model.shared_experts > 0;
  const double copies = model.topk + (remote_shared ? model.shared_experts : 0);
  const double hot_rows = stage.skew * rows_per_slot * per_die;  // of the busiest routed die
  const double shared_rows = remote_shared ? tokens * layout.dies / layout.shared_dies : tokens;
  const double busiest = remote_shared ? std::max(hot_rows, shared_rows) : hot_rows;
  const double hot = tokens > 0 ? busiest / (tokens * copies) : 1;

  const double row = dispatch_message_bytes(hidden, choices);
  const ExchangeStyle out{.phase = Phase::dispatch,
                          .ranks = layout.dies,
                          .vector_share = share.vector,
                          .direct_writes = choices.direct_writes};
  stage.dispatch = exchange_time(machine, out, tokens * copies * row, 1, hot);

  if (!choices.early_quantisation)
    stage.experts.add("quantise", vector_time(machine, busiest * hidden * (2 + 1), share));
  const Terms routed = routed_experts(machine, model, per_die, hot_rows / per_die, share);
  const Terms shared = shared_experts(machine, model, shared_rows, share);
  // Where the shared experts have dies of their own, the slower kind of die sets the pace.
  if (!remote_shared || !(routed.total() < shared.total())) stage.experts.add(routed);
  if (!remote_shared || routed.total() < shared.total()) stage.experts.add(shared);
  stage.experts.add("starts", start_time(machine, 2));

  ExchangeStyle back = out;
  back.phase = Phase::combine;
  stage.combine = exchange_time(machine, back, tokens * copies * combine_message_bytes(hidden), hot, 1);
  return stage;
}

Terms gate_stage(const Machine& machine, const ModelShape& model, double tokens, CoreShare share) {
  Terms terms;
  terms.add("norm, quantise", vector_time(machine, tokens * model.hidden * (2 + 2 + 1), share));
  const Gemm gate{.m = tokens, .n = 1.0 * model.experts, .k = model.hidden, .operands = ElementType::bf16};
  terms.add("gate", gemm_time(machine, gate, share));
  terms.add("starts", start_time(machine, 2));
  return terms;
}

Terms routed_experts(const Machine& machine, const ModelShape& model, double groups, double rows, CoreShare share) {
  return ffn_stage(machine, {"routed gate_up", "routed down"}, groups, rows, model.hidden, model.expert_ffn, share);
}

Terms shared_experts(const Machine& machine, const ModelShape& model, double rows, CoreShare share) {
  if (model.shared_experts == 0) return {};
  return ffn_stage(machine, {"shared gate_up", "shared down"}, model.shared_experts, rows, model.hidden,
                   model.expert_ffn, share);
}

Terms dense_stage(const Machine& machine, const ModelShape& model, double tokens, CoreShare share) {
  Terms terms;
  terms.add("norm, quantise", vector_time(machine, tokens * model.hidden * (2 + 2 + 1), share));
  terms.add(ffn_stage(machine, {"dense gate_up", "dense down"}, 1, tokens, model.hidden, model.dense_ffn, share));
  terms.add("starts", start_time(machine, 3));
  return terms;
}

}  // namespace supernode::emulation
