#pragma once
// One prefill batch of an instance: attention in stages sequence parallel -> tensor parallel -> sequence parallel,
// experts expert parallel; one die as all.

#include "runtime/emulation/step_time.hpp"

namespace supernode::emulation {

struct PrefillSetup {
  ExpertLayout layout;
  ExpertLoad load;
  ExchangeChoices exchange;
  double tokens_per_die = 1;  ///< of prompts, in the batch; cached ones included
  double prompt_tokens = 1;
  double reuse = 0;    ///< share of each prompt that comes from the pool, in [0, 1)
  bool pooled = true;  ///< false: nothing is looked up, reuse is ignored
  PoolNetwork network = PoolNetwork::fabric;
  double block_tokens = 128;  ///< of a pooled block; each layer of a block is one piece
  int microbatches = 2;       ///< 1 or 2
};

struct PrefillResult {
  // One microbatch in one MoE layer.
  Terms before_experts, experts, after_experts;  ///< on the compute stream
  Terms dispatch, combine;                       ///< on the exchange stream
  ModelTime layer;                               ///< all microbatches, in the steady state
  // The whole batch.
  Timeline timeline{{"compute", "exchange"}};
  /// What the batch is made of: the tasks of the timeline's critical path, by name. An exchange that computing hides is
  /// not in it, nor computing that an exchange hides.
  Terms parts;
  ModelTime batch;  ///< sum of `parts`; the timeline ends then

  ModelTime pool;                   ///< loading the reused prefix, before the layers start; in the batch
  ModelTime handover;               ///< of one prompt's cache to a decode die, after the batch
  double tokens_per_s_per_npu = 0;  ///< of prompt tokens, reused ones included
  double skew = 1;
  double memory_bytes = 0;
  std::string limit;  ///< what a faster machine should improve first
};

/// A call of uniform_step_time() (step_time.hpp).
/// @throws std::invalid_argument for a layout that does not fit the model, reuse outside [0, 1), microbatches not 1
/// or 2.
PrefillResult prefill_batch(const Machine& machine, const ModelShape& model, const PrefillSetup& setup);

}  // namespace supernode::emulation
