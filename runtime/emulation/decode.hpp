#pragma once
// One decode iteration of an instance: attention data parallel, experts expert parallel, one die as all.

#include <string>

#include "runtime/emulation/stage_costs.hpp"
#include "runtime/emulation/step_time.hpp"

namespace supernode::emulation {

struct DecodeSetup {
  ExpertLayout layout;
  ExpertLoad load;
  ExchangeChoices exchange;
  double requests_per_die = 1;
  double kv_tokens = 1;              ///< mean context of a request, cached
  bool mtp = true;                   ///< one speculative token a request and iteration
  double acceptance = 0.7;           ///< of the speculative token
  int microbatches = 0;              ///< 1, 2, or 0 for the faster of both
  bool prepared_graphs = true;       ///< all graphs of a step prepared at once, sampling on the die
  double attention_share = 2.0 / 3;  ///< of the cores while two microbatches overlap; the MoE stream has the rest
};

struct DecodeResult {
  int microbatches = 1;
  // One MoE layer.
  Terms attention;                         ///< of a microbatch
  MoeStage moe;                            ///< of a microbatch
  ModelTime attention_stream, moe_stream;  ///< sums of both
  ModelTime layer;                         ///< all microbatches, in the steady state
  // The whole iteration.
  Terms parts;                              ///< tasks on the critical path through both streams, by name
  ModelTime iteration;                      ///< sum of `parts`
  Timeline timeline{{"attention", "moe"}};  ///< task by task; it ends at `iteration`

  ModelTime tpot;  ///< iteration / (tokens it yields for a request)
  double tokens_per_s_per_npu = 0;
  double skew = 1;
  double memory_bytes = 0;  ///< of a die: weights, cache, exchange buffers
  std::string limit;        ///< what a faster machine should improve first
};

/// A call of uniform_step_time() (step_time.hpp).
/// @throws std::invalid_argument for a layout that does not fit the model, or microbatches other than 0, 1, 2.
DecodeResult decode_iteration(const Machine& machine, const ModelShape& model, const DecodeSetup& setup);

}  // namespace supernode::emulation
