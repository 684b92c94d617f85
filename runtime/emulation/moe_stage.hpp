#pragma once
// The expert half of a layer, as one die sees it when all dies of its instance do the same: gate, dispatch, experts,
// combine. The slowest die sets the pace, since everybody waits in combine for the busiest experts.

#include "runtime/emulation/expert_load.hpp"
#include "runtime/emulation/machine/machine.hpp"
#include "runtime/emulation/machine/terms.hpp"
#include "runtime/emulation/model_shape.hpp"
#include "runtime/emulation/operators.hpp"

namespace supernode::emulation {

/// Which experts the dies of an instance hold.
struct ExpertLayout {
  int dies = 1;  ///< of the instance; tokens come from all of them
  /// Dies that hold nothing but a copy of the shared experts; 0: every die has one beside its routed ones.
  int shared_dies = 0;
  int redundant = 0;  ///< extra copies of routed experts

  int routed_dies() const { return dies - shared_dies; }
  int slots(const ModelShape& model) const { return model.experts + redundant; }
  double slots_per_die(const ModelShape& model) const { return 1.0 * slots(model) / routed_dies(); }
  /// Routed experts on a die, copies included; at least one.
  int whole_slots_per_die(const ModelShape& model) const;
  /// Bytes of expert weights in int8 on the fullest die.
  double weight_bytes(const ModelShape& model) const;
  /// @throws std::invalid_argument unless slots are a positive multiple of the dies that take them
  void check(const ModelShape& model) const;
};

/// What the exchange and its messages are like.
struct ExchangeChoices {
  bool early_quantisation = true;  ///< dispatch int8 with a scale, padded; else bf16, quantised by the receiver
  bool direct_writes = true;
};

/// Bytes of a dispatched row on the wire: int8 values, a scale, padded to 512; or bf16.
double dispatch_message_bytes(double hidden, const ExchangeChoices& choices);
double combine_message_bytes(double hidden);

/// Receive slots of one phase that a die of the emulated machine allocates before serving: ranks x max_tokens x
/// message, max_tokens = tokens x min(topk, experts on a die). What this program allocates is another matter
/// (collectives).
double modelled_buffer_bytes(int ranks, double tokens, int topk, int experts_per_die, double message_bytes);

/// The expert half of a layer, in this order; the time is the sum of all.
struct MoeStage {
  Terms gate, dispatch, experts, combine;
  double skew = 1;  ///< busiest routed die over the mean

  ModelTime total() const { return gate.total() + dispatch.total() + experts.total() + combine.total(); }
};

/// One microbatch of `tokens` tokens a die through one MoE layer. @param requests of the whole instance that they
/// belong to
MoeStage moe_stage(const Machine& machine, const ModelShape& model, const ExpertLayout& layout, const ExpertLoad& load,
                   const ExchangeChoices& choices, double tokens, double requests, CoreShare share = {});

/// Norm, quantisation and gate of `tokens` tokens.
Terms gate_stage(const Machine& machine, const ModelShape& model, double tokens, CoreShare share = {});

/// Products of `groups` routed or shared experts with `rows` rows each.
Terms routed_experts(const Machine& machine, const ModelShape& model, double groups, double rows, CoreShare share = {});
Terms shared_experts(const Machine& machine, const ModelShape& model, double rows, CoreShare share = {});

/// The dense FFN of the first layers.
Terms dense_stage(const Machine& machine, const ModelShape& model, double tokens, CoreShare share = {});

}  // namespace supernode::emulation
