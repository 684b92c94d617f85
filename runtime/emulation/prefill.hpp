#pragma once
// One prefill batch of an instance: attention in stages sequence parallel -> tensor parallel -> sequence parallel,
// experts expert parallel; one die as all.

#include "runtime/emulation/machine/storage.hpp"
#include "runtime/emulation/machine/streams.hpp"
#include "runtime/emulation/moe_stage.hpp"

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
  ModelTime pool;                   ///< loading the reused prefix, before the layers start
  ModelTime compute;                ///< the layers and the head
  ModelTime batch;                  ///< both
  ModelTime layer;                  ///< of a MoE layer, in the steady state
  ModelTime handover;               ///< of one prompt's cache to a decode die, after the batch
  double tokens_per_s_per_npu = 0;  ///< of prompt tokens, reused ones included
  double skew = 1;
  double memory_bytes = 0;
  Terms computing, exchanging;  ///< of one microbatch and MoE layer, by stream
  std::string limit;
  Timeline timeline{{"compute", "exchange"}};
};

/// @throws std::invalid_argument for a layout that does not fit the model, reuse outside [0, 1), microbatches not 1
/// or 2.
PrefillResult prefill_batch(const Machine& machine, const ModelShape& model, const PrefillSetup& setup);

}  // namespace supernode::emulation
